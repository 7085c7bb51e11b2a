//! A disk that no image is behind, as a disk image.
//!
//! The disk is cut into windows of a fixed size. What is not zeros in a window
//! becomes the one file of a layer, so that of a changed disk only the changed
//! windows have other blobs; the plan says where the blocks go. Reading it
//! back is [`disk_image::open`](crate::disk_image::open), as for all disk
//! images.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use bootwright_disk::reader::ReadAt;
use bootwright_disk::{Extent, PlanBuilder, Source, SourceId, SourceKind};
use bootwright_image::config::ImageConfig;
use bootwright_image::store::TarRun;

use crate::disk_image::{Parts, Pushed, PushedLayer, finish};
use crate::error::DeliveryError;
use crate::frames::{Codec, Work, Written, compress};
use crate::layer;
use crate::metadata::{self, DiskInfo, LayerInfo};
use crate::sink::BlobSink;
use crate::table::LayerTable;
use crate::tarball;

/// Smallest window, in bytes.
pub const WINDOW: u64 = 64 << 20;

/// Most windows of a disk: container runtimes end at 127 layers.
const MAX_WINDOWS: u64 = 100;

/// What is told apart from zeros; a pack's block.
pub(crate) const BLOCK: u64 = 4096;

/// The file of a window's layer.
pub(crate) const FILE: &str = "bootwright/window";

/// The size of the windows that a disk is cut into: 64 MiB, doubled until
/// there are no more than 100.
pub fn window(disk_size: u64) -> u64 {
    let mut window = WINDOW;
    while disk_size.div_ceil(window) > MAX_WINDOWS {
        window *= 2;
    }
    window
}

/// Hands all blobs of a disk image of `disk` to `sink`. `config` has the
/// platform; its layers are filled in. `top` as for
/// [`disk_image::push`](crate::disk_image::push).
///
/// # Errors
/// The disk cannot be read, or the sink fails.
pub fn push(
    disk: &dyn ReadAt,
    info: &DiskInfo,
    config: &ImageConfig,
    level: i32,
    sink: &dyn BlobSink,
    top: bool,
    work: &Work<'_>,
) -> Result<Pushed, DeliveryError> {
    let codec = Codec::Zstd(level);
    let window = window(disk.size());
    let mut info = info.clone();
    info.version = metadata::VERSION;
    info.size = disk.size();
    info.layers.clear();
    let mut config = config.clone();
    config.diff_ids.clear();
    let mut layers = Vec::new();
    let mut tables: Vec<LayerTable> = Vec::new();
    let mut sources: Vec<Source> = Vec::new();
    let mut by_diff_id: BTreeMap<String, SourceId> = BTreeMap::new();
    let mut extents = Vec::new();
    let mut start = 0;
    // Holes are stepped over, however large.
    while let Some(data) = disk.next_data(start).map_err(DeliveryError::io("disk"))? {
        let first = data.start / window * window;
        start = first.saturating_add(window).min(disk.size());
        let blocks = blocks(disk, first..start, work)?;
        if blocks.is_empty() {
            continue;
        }
        let done = sink.put(None, &mut |out| write(disk, &blocks, out, codec, work))?;
        let diff_id = done.plain_digest.to_string();
        let pack_len = blocks.iter().map(|b| b.len).sum::<u64>();
        let id = match by_diff_id.get(&diff_id) {
            Some(id) => *id,
            None => {
                let id = SourceId(u32::try_from(sources.len()).unwrap_or(u32::MAX));
                by_diff_id.insert(diff_id.clone(), id);
                sources.push(Source {
                    kind: SourceKind::Pack { diff_id },
                    path: FILE.into(),
                    len: pack_len,
                });
                tables.push(table(&done, pack_len)?);
                info.layers.push(LayerInfo {
                    diff_id: done.plain_digest.clone(),
                    digest: done.digest.clone(),
                    size: done.size,
                });
                config.diff_ids.push(done.plain_digest.clone());
                layers.push(PushedLayer {
                    descriptor: layer::descriptor(&done, codec),
                    plain_len: done.plain_len,
                });
                id
            }
        };
        let mut offset = 0;
        for run in &blocks {
            let len = run.len.min(disk.size() - run.start);
            extents.push(Extent::source(run.start, len, id, offset));
            offset += run.len;
        }
    }
    let mut builder = PlanBuilder::new(sources);
    extents.into_iter().for_each(|extent| builder.put(extent));
    let plan = builder
        .finish(disk.size())
        .map_err(|e| DeliveryError::Plan(e.into()))?;
    let tar = metadata::tar(&info, &plan, &tables)?;
    finish(Parts { layers, info, tar }, config, codec, sink, top, work)
}

/// Blocks of a disk that follow each other; the last may reach past the end
/// of the disk, where it is zeros.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// The blocks of a window that are not zeros.
fn blocks(
    disk: &dyn ReadAt,
    window: std::ops::Range<u64>,
    work: &Work<'_>,
) -> Result<Vec<Run>, DeliveryError> {
    const PIECE: u64 = 1 << 20;
    let mut runs: Vec<Run> = Vec::new();
    let mut buffer = vec![0; PIECE as usize];
    let mut at = window.start;
    while at < window.end {
        work.check()?;
        let end = at.saturating_add(PIECE).min(window.end);
        if !disk.is_known_zero(at..end) {
            let (bytes, _) = buffer.split_at_mut((end - at) as usize);
            disk.read_exact_at(at, bytes)
                .map_err(DeliveryError::io("disk"))?;
            for (n, block) in bytes.chunks(BLOCK as usize).enumerate() {
                if block.iter().all(|&b| b == 0) {
                    continue;
                }
                let start = at + n as u64 * BLOCK;
                match runs.last_mut() {
                    Some(last) if last.start + last.len == start => last.len += BLOCK,
                    _ => runs.push(Run { start, len: BLOCK }),
                }
            }
        }
        at = end;
    }
    Ok(runs)
}

pub(crate) fn write(
    disk: &dyn ReadAt,
    blocks: &[Run],
    out: &mut dyn Write,
    codec: Codec,
    work: &Work<'_>,
) -> Result<Written, DeliveryError> {
    let len = blocks.iter().map(|b| b.len).sum();
    let header =
        tarball::file_header(FILE, len, tarball::ROOT).map_err(DeliveryError::io("window"))?;
    let content = Blocks {
        disk,
        blocks: blocks.iter(),
        left: Run { start: 0, len: 0 },
    };
    let mut tar = tarball::around(header, content, len);
    compress("disk", &mut tar, out, codec, work)
}

/// The file is the tar's first member, so its pack begins with it.
pub(crate) fn table(written: &Written, pack_len: u64) -> Result<LayerTable, DeliveryError> {
    let run = TarRun {
        tar_offset: 512,
        pack_offset: 0,
        len: pack_len,
    };
    LayerTable::new(written, pack_len, vec![run]).map_err(|error| DeliveryError::Table {
        diff_id: written.plain_digest.clone(),
        error,
    })
}

/// The bytes of blocks, one run after the other.
struct Blocks<'a> {
    disk: &'a dyn ReadAt,
    blocks: std::slice::Iter<'a, Run>,
    left: Run,
}

impl Read for Blocks<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left.len == 0 {
            match self.blocks.next() {
                None => return Ok(0),
                Some(run) => self.left = *run,
            }
        }
        let len = (buf.len() as u64).min(self.left.len);
        let (buf, _) = buf.split_at_mut(len as usize);
        let on_disk = self.disk.size().saturating_sub(self.left.start).min(len);
        let (data, rest) = buf.split_at_mut(on_disk as usize);
        self.disk.read_exact_at(self.left.start, data)?;
        rest.fill(0);
        self.left.start += len;
        self.left.len -= len;
        Ok(len as usize)
    }
}
