//! Reading a plan.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::{FileRun, ReadAt, Run, checked_range};
use crate::plan::{Content, Extent, Plan, SourceId};
use crate::source::SourceReader;
use crate::zero::is_zero;

/// Ranges of one file that lie closer together than this, on the disk as in
/// the file, are read at once and the gaps cleared afterwards: a file's last
/// block is mostly cheaper to read in passing than to leave out.
const MAX_GAP: u64 = 4096;

/// Extents from this length on are worth a copy of their own in the kernel;
/// shorter ones are cheaper when several are written at once.
const MIN_FILE_RUN: u64 = 64 << 10;

/// The blocks that the kernel copies or shares whole.
const BLOCK: u64 = 4096;

/// A plan as a disk.
#[derive(Debug)]
pub struct PlanReader {
    plan: Arc<Plan>,
    sources: SourceReader,
}

impl PlanReader {
    /// A reader of `plan`; files are opened when they are needed.
    pub fn new(plan: impl Into<Arc<Plan>>) -> Self {
        let plan = plan.into();
        let sources = SourceReader::new(plan.shared_sources());
        Self { plan, sources }
    }

    /// The plan that is read.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The plan's source files.
    pub fn sources(&self) -> &SourceReader {
        &self.sources
    }

    /// Reads `extents`, which all continue one range of one file with gaps,
    /// into `buf`, which starts at `base`.
    fn read_file(&self, group: &Group, buf: &mut [u8], base: u64) -> io::Result<()> {
        let target = slice(buf, base, group.range.clone());
        self.sources.read_exact_at(group.id, group.offset, target)
    }
}

/// Extents that one read of one file covers.
struct Group {
    id: SourceId,
    offset: u64,
    range: Range<u64>,
}

impl Group {
    /// Takes `next` in, if it lies where it would if the file continued.
    fn extend(&mut self, next: &Extent) -> bool {
        let Content::Source { id, offset } = next.content else {
            return false;
        };
        let gap = next.start - self.range.end;
        let continues = id == self.id
            && gap < MAX_GAP
            && self.offset + (next.start - self.range.start) == offset;
        if continues {
            self.range.end = next.end();
        }
        continues
    }
}

fn slice(buf: &mut [u8], base: u64, range: Range<u64>) -> &mut [u8] {
    &mut buf[(range.start - base) as usize..(range.end - base) as usize]
}

impl ReadAt for PlanReader {
    fn size(&self) -> u64 {
        self.plan.size()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let range = checked_range(offset, buf.len(), self.plan.size())?;
        let extents = self.plan.extents_in(range.clone());
        let mut group: Option<Group> = None;
        for extent in extents.iter().filter_map(|e| e.slice(range.clone())) {
            if group.as_mut().is_some_and(|g| g.extend(&extent)) {
                continue;
            }
            if let Some(group) = group.take() {
                self.read_file(&group, buf, offset)?;
            }
            match extent.content {
                Content::Literal(ref bytes) => {
                    slice(buf, offset, extent.start..extent.end()).copy_from_slice(bytes);
                }
                Content::Source {
                    id,
                    offset: in_file,
                } => {
                    group = Some(Group {
                        id,
                        offset: in_file,
                        range: extent.start..extent.end(),
                    });
                }
            }
        }
        if let Some(group) = group {
            self.read_file(&group, buf, offset)?;
        }
        // Last, because the reads above may have run through gaps.
        let mut end = range.start;
        for extent in extents {
            slice(buf, offset, end..extent.start.max(end)).fill(0);
            end = extent.end().min(range.end);
        }
        slice(buf, offset, end..range.end).fill(0);
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let mut extents = self.plan.extents_in(from..self.plan.size()).iter();
        let Some(first) = extents.next() else {
            return Ok(None);
        };
        let mut end = first.end();
        for extent in extents {
            // Smaller gaps are no holes in anything that is written.
            if extent.start - end >= MAX_GAP {
                break;
            }
            end = extent.end();
        }
        Ok(Some(first.start.max(from)..end))
    }

    fn is_known_zero(&self, range: Range<u64>) -> bool {
        let extents = self.plan.extents_in(range.clone());
        extents.iter().all(|extent| match &extent.content {
            Content::Literal(_) => match extent.slice(range.clone()).map(|e| e.content) {
                Some(Content::Literal(bytes)) => is_zero(&bytes),
                _ => true,
            },
            Content::Source { .. } => false,
        })
    }

    fn next_run(&self, range: Range<u64>) -> io::Result<Run> {
        for extent in self.plan.extents_in(range.clone()) {
            let Some(part) = extent.slice(range.clone()) else {
                continue;
            };
            // Only whole blocks that start on one: those the kernel shares
            // or moves; the rest comes with what follows.
            let len = part.len & !(BLOCK - 1);
            let Content::Source { id, offset } = part.content else {
                continue;
            };
            if len < MIN_FILE_RUN || part.start % BLOCK != 0 || offset % BLOCK != 0 {
                continue;
            }
            if part.start > range.start {
                return Ok(Run::Read(part.start - range.start));
            }
            return Ok(Run::File(FileRun {
                file: self.sources.file(id)?,
                offset,
                len,
                source: Some(id),
            }));
        }
        Ok(Run::Read(range.end - range.start))
    }

    fn check_run(&self, run: &FileRun) -> io::Result<()> {
        match run.source {
            Some(id) => self.sources.check(id, &run.file),
            None => Ok(()),
        }
    }
}
