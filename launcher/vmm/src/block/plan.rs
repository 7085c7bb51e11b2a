//! A plan as a disk, read-only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bootwright_disk::plan::{Content, Extent, Plan, SourceId, SourceKind};
use bootwright_disk::source::SourceReader;

use super::{Backend, BaseId, FileRun, HostFile, Limits, Run, SECTOR, checked, read_only};

/// Extents of one file that lie closer together than this, on the disk as in
/// the file, are one run with gaps: a file's last block is cheaper to read in
/// passing than to leave out.
const MAX_GAP: u64 = 4096;

/// How many packs are kept open beside the files that come and go; an image
/// has at most 127 layers.
const MAX_PACKS: usize = 512;

/// How many files that only a capability opens are kept open.
const MAX_PRIVATE: usize = 4096;

/// How many folders are told apart by [`PlanDisk::folders`].
const MAX_FOLDERS: usize = 64;

/// A [`Plan`] over packs and host files.
///
/// Packs are opened once, by [`PlanDisk::new`]; host files (a plan of a
/// directory may have 100,000) when they are read, the least recently used
/// one leaving when there are too many. Host files that this process may read
/// only by a capability are opened at once, too: who serves the disk has none.
#[derive(Debug)]
pub struct PlanDisk {
    plan: Arc<Plan>,
    sources: SourceReader,
    /// Sources that stay open.
    held: Vec<Option<Arc<HostFile>>>,
    /// The host file that was read last: most reads continue it.
    last: Mutex<Option<(SourceId, Arc<HostFile>)>>,
}

/// Those that are in no other one; what is in a folder sorts after it.
fn outermost(folders: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let mut kept: Vec<PathBuf> = Vec::new();
    for folder in folders {
        if kept.last().is_none_or(|last| !folder.starts_with(last)) {
            kept.push(folder.clone());
        }
    }
    kept
}

/// What this process may read without a capability, by the modes of files.
#[derive(Debug, Default)]
struct Access {
    folders: BTreeMap<PathBuf, bool>,
}

impl Access {
    fn reads(&mut self, path: &Path) -> bool {
        let readable = fs::symlink_metadata(path).is_ok_and(|m| allowed(&m, 4));
        readable && path.parent().is_none_or(|folder| self.reaches(folder))
    }

    fn reaches(&mut self, folder: &Path) -> bool {
        if let Some(known) = self.folders.get(folder) {
            return *known;
        }
        let searchable = fs::metadata(folder).is_ok_and(|m| allowed(&m, 1));
        let reachable = searchable && folder.parent().is_none_or(|above| self.reaches(above));
        self.folders.insert(folder.to_owned(), reachable);
        reachable
    }
}

/// Whether the mode gives this process a right: 4 to read, 1 to search. Groups
/// are left out of account: that is on the safe side.
fn allowed(metadata: &Metadata, right: u32) -> bool {
    let own = metadata.uid() == rustix::process::geteuid().as_raw();
    metadata.mode() & (right << if own { 6 } else { 0 }) != 0
}

impl PlanDisk {
    /// The disk that `plan` describes. Opens its packs, and files that only a
    /// capability opens.
    ///
    /// # Errors
    /// A pack is missing or has the wrong length; the message names it. There
    /// are too many files that only a capability opens.
    pub fn new(plan: impl Into<Arc<Plan>>) -> io::Result<Self> {
        let plan = plan.into();
        let sources = SourceReader::new(plan.shared_sources());
        let hold = |id, path: &Path| -> io::Result<_> {
            let file = sources.file(SourceId(id as u32))?.try_clone()?;
            Ok(Some(Arc::new(HostFile::new(file, path))))
        };
        let (mut packs, mut private) = (0, 0);
        let mut access = Access::default();
        let mut held = Vec::with_capacity(plan.sources().len());
        for (id, source) in plan.sources().iter().enumerate() {
            let file = match source.kind {
                SourceKind::Pack { .. } if packs < MAX_PACKS => {
                    packs += 1;
                    hold(id, &source.path)?
                }
                SourceKind::HostFile { .. } if !access.reads(&source.path) => {
                    // What cannot be opened now cannot be read later, which is
                    // for who reads it to be told.
                    let file = hold(id, &source.path).unwrap_or(None);
                    private += usize::from(file.is_some());
                    file
                }
                _ => None,
            };
            held.push(file);
        }
        if private > MAX_PRIVATE {
            return Err(io::Error::other(format!(
                "{private} files in the directory can be read only by a capability, and at most \
                 {MAX_PRIVATE} are kept open"
            )));
        }
        Ok(Self {
            plan,
            sources,
            held,
            last: Mutex::new(None),
        })
    }

    /// The plan that is served.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// What an overlay over this disk remembers of it.
    pub fn identity(&self) -> BaseId {
        BaseId::of_plan(&self.plan)
    }

    /// Folders of the files that are opened only when they are read: a few,
    /// with all below them.
    pub fn folders(&self) -> Vec<PathBuf> {
        let late = self.plan.sources().iter().zip(&self.held);
        let late = late.filter(|(_, pack)| pack.is_none());
        let parents = late.filter_map(|(source, _)| source.path.parent());
        let mut folders: BTreeSet<PathBuf> = parents.map(Path::to_owned).collect();
        loop {
            let outermost = outermost(&folders);
            if outermost.len() <= MAX_FOLDERS {
                return outermost;
            }
            let up = |folder: &PathBuf| folder.parent().unwrap_or(folder).to_owned();
            folders = outermost.iter().map(up).collect();
        }
    }

    fn file(&self, id: SourceId) -> io::Result<Arc<HostFile>> {
        if let Some(Some(file)) = self.held.get(id.0 as usize) {
            return Ok(Arc::clone(file));
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((open, file)) = &*last
            && *open == id
        {
            return Ok(Arc::clone(file));
        }
        let path = self.plan.sources().get(id.0 as usize).map(|s| &s.path);
        let file = self.sources.file(id)?.try_clone()?;
        let file = Arc::new(HostFile::new(file, path.cloned().unwrap_or_default()));
        *last = Some((id, Arc::clone(&file)));
        Ok(file)
    }

    fn file_run(&self, part: &Extent, rest: &[Extent], end: u64) -> io::Result<Option<FileRun>> {
        let Content::Source { id, offset } = part.content else {
            return Ok(None);
        };
        let mut run = FileRun::new(&self.file(id)?, offset, part.len);
        run.source = Some(id);
        for next in rest {
            let Some(next) = next.slice(part.start..end) else {
                break;
            };
            let Content::Source {
                id: next_id,
                offset: next_offset,
            } = next.content
            else {
                break;
            };
            let at = next.start - part.start;
            let gap = at.saturating_sub(run.len);
            if next_id != id || gap >= MAX_GAP || offset.checked_add(at) != Some(next_offset) {
                break;
            }
            if gap > 0 {
                run.gaps.push(run.len..at);
            }
            run.len = at + next.len;
        }
        Ok(Some(run))
    }
}

impl Backend for PlanDisk {
    fn size(&self) -> u64 {
        self.plan.size() / SECTOR * SECTOR
    }

    fn limits(&self) -> Limits {
        Limits::READ_ONLY
    }

    fn read(&self, range: Range<u64>) -> io::Result<Run> {
        checked(&range, self.size())?;
        let extents = self.plan.extents_in(range.clone());
        let Some((first, rest)) = extents.split_first() else {
            return Ok(Run::Zeros(range.end - range.start));
        };
        if first.start > range.start {
            return Ok(Run::Zeros(first.start - range.start));
        }
        let Some(part) = first.slice(range.clone()) else {
            return Ok(Run::Zeros(range.end - range.start));
        };
        if let Some(run) = self.file_run(&part, rest, range.end)? {
            return Ok(Run::File(run));
        }
        match part.content {
            Content::Literal(bytes) => Ok(Run::Literal(bytes)),
            Content::Source { .. } => Err(super::overlong()),
        }
    }

    fn check(&self, run: &FileRun) -> io::Result<()> {
        match run.source {
            Some(id) => self.sources.check(id, run.file.file()),
            None => Ok(()),
        }
    }

    fn prepare_write(&self, _range: Range<u64>) -> io::Result<FileRun> {
        Err(read_only())
    }

    fn write_zeroes(&self, _range: Range<u64>, _unmap: bool) -> io::Result<()> {
        Err(read_only())
    }

    fn discard(&self, _range: Range<u64>) -> io::Result<()> {
        Err(read_only())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use bootwright_disk::plan::{PlanBuilder, Source};
    use proptest::prelude::*;

    use super::*;
    use crate::block::read_at;

    const PACK: usize = 40_000;

    fn pack() -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..PACK).map(|i| (i % 251) as u8 + 1).collect();
        file.write_all(&bytes).unwrap();
        file
    }

    /// Gap before an extent, its length, and whether it is a literal or where
    /// in the pack it is: close behind the last, or anywhere.
    type Piece = (u64, u64, Option<(bool, usize)>);

    fn pieces() -> impl Strategy<Value = Vec<Piece>> {
        let gap = prop_oneof![Just(0), 1..600u64, 4090..4100u64, 1..10_000u64];
        let len = prop_oneof![1..600u64, 4090..4100u64, 1..5_000u64];
        let place = prop_oneof![Just(None), (any::<bool>(), 0..PACK).prop_map(Some),];
        prop::collection::vec((gap, len, place), 0..12)
    }

    /// The plan of `pieces` and its bytes.
    fn build(pack: &tempfile::NamedTempFile, pieces: &[Piece]) -> (PlanDisk, Vec<u8>) {
        let source = Source {
            kind: SourceKind::Pack {
                diff_id: "sha256:test".into(),
            },
            path: pack.path().into(),
            len: PACK as u64,
        };
        let mut builder = PlanBuilder::new(vec![source]);
        let mut bytes: Vec<u8> = Vec::new();
        // What the disk and the pack are apart in the last extent.
        let mut last: Option<u64> = None;
        for (gap, len, place) in pieces {
            bytes.resize(bytes.len() + *gap as usize, 0);
            let start = bytes.len() as u64;
            match place {
                None => {
                    let literal: Vec<u8> = (0..*len).map(|i| (i % 7) as u8 + 100).collect();
                    bytes.extend(&literal);
                    builder.put(Extent::literal(start, literal));
                }
                Some((follows, at)) => {
                    let close = last.and_then(|apart| start.checked_sub(apart));
                    let close = close.filter(|at| *follows && at + len <= PACK as u64);
                    let offset = close.unwrap_or((*at as u64).min(PACK as u64 - len));
                    last = start.checked_sub(offset);
                    let from = offset as usize;
                    bytes.extend((from..from + *len as usize).map(|i| (i % 251) as u8 + 1));
                    builder.put(Extent::source(start, *len, SourceId(0), offset));
                }
            }
        }
        bytes.resize((bytes.len() + 1).next_multiple_of(512), 0);
        let plan = builder.finish(bytes.len() as u64).unwrap();
        (PlanDisk::new(plan).unwrap(), bytes)
    }

    proptest! {
        #[test]
        fn any_range_of_a_plan_is_found(
            pieces in pieces(),
            ranges in prop::collection::vec((any::<prop::sample::Index>(), 1..40usize), 1..20),
        ) {
            let pack = pack();
            let (disk, bytes) = build(&pack, &pieces);
            prop_assert_eq!(disk.size(), bytes.len() as u64);
            for (at, sectors) in ranges {
                let start = at.index(bytes.len() / 512) * 512;
                let end = (start + sectors * 512).min(bytes.len());
                let run = disk.read(start as u64..end as u64).unwrap();
                prop_assert!((1..=(end - start) as u64).contains(&run.len()));
                if let Run::File(run) = &run {
                    // Gaps lie in order inside the run, which ends in data.
                    let mut last = 0;
                    for gap in &run.gaps {
                        prop_assert!(last < gap.start && gap.start < gap.end && gap.end < run.len);
                        last = gap.end;
                    }
                }
                let mut got = vec![0xff; end - start];
                read_at(&disk, start as u64, &mut got).unwrap();
                prop_assert!(got == bytes[start..end]);
            }
            let size = disk.size();
            prop_assert!(disk.read(size..size + 512).is_err());
            prop_assert!(disk.read(0..size + 1).is_err());
        }
    }
}
