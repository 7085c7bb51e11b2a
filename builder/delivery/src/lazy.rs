//! Reading a disk image where it is, part by part.
//!
//! A [`LazyDisk`] has the metadata of a disk image and reads what is asked of
//! the disk by ranges of the layers' blobs. Each frame is verified by its
//! SHA-256 before a byte of it is used, and frames that follow each other
//! come by one request, so any MiB of a disk mostly takes one or two.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bootwright_disk::reader::ReadAt;
use bootwright_disk::{Content, Plan};
use bootwright_image::source::{ImageSource, Observer};
use sha2::Digest as _;

use crate::error::DeliveryError;
use crate::frames::{FRAME, decompress};
use crate::metadata::{DiskInfo, Metadata};
use crate::oci::{Descriptor, LAYER_ZSTD};
use crate::table::LayerTable;

/// Bytes of frames that are kept unless told otherwise.
pub const CACHE: usize = 16 << 20;

/// Frames that lie no further apart come by one request with what is between
/// them: another request takes longer than to read so much.
const GAP: usize = 1;

/// Most bytes that are asked for at once.
const MAX_REQUEST: usize = 16 << 20;

/// Reads ranges of blobs, as a registry does for HTTP's `Range`.
pub trait RangeRead: fmt::Debug + Send + Sync {
    /// The bytes in `range` of a blob, exactly as many.
    ///
    /// # Errors
    /// They cannot be read.
    fn read_range(&self, blob: &Descriptor, range: Range<u64>) -> io::Result<Vec<u8>>;
}

impl<T: RangeRead + ?Sized> RangeRead for Arc<T> {
    fn read_range(&self, blob: &Descriptor, range: Range<u64>) -> io::Result<Vec<u8>> {
        (**self).read_range(blob, range)
    }
}

/// The blobs of an image where the image is.
pub struct SourceBlobs<O> {
    source: Box<dyn ImageSource>,
    observer: O,
}

impl<O> SourceBlobs<O> {
    /// The blobs of `source`; `observer` is told what takes longer.
    pub fn new(source: Box<dyn ImageSource>, observer: O) -> Self {
        Self { source, observer }
    }
}

impl<O> fmt::Debug for SourceBlobs<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SourceBlobs").field(&self.source).finish()
    }
}

impl<O: Observer + Send> RangeRead for SourceBlobs<O> {
    fn read_range(&self, blob: &Descriptor, range: Range<u64>) -> io::Result<Vec<u8>> {
        let blob = bootwright_image::manifest::Descriptor {
            media_type: blob.media_type.clone(),
            digest: blob.digest.clone(),
            size: blob.size,
            platform: None,
            annotations: BTreeMap::new(),
        };
        self.source
            .read_range(&blob, range, &self.observer)
            .map_err(io::Error::other)
    }
}

/// A disk that is read out of blobs as it is needed.
#[derive(Debug)]
pub struct LazyDisk<R> {
    info: DiskInfo,
    plan: Plan,
    layers: Vec<LazyLayer>,
    blobs: R,
    cache: Mutex<Cache>,
}

#[derive(Debug)]
struct LazyLayer {
    blob: Descriptor,
    table: LayerTable,
}

/// A frame: which layer, and which of its frames.
type Key = (usize, usize);

/// Frames, the least recently used leaving first.
#[derive(Debug)]
struct Cache {
    limit: usize,
    clock: u64,
    frames: BTreeMap<Key, (u64, Arc<[u8]>)>,
}

impl Cache {
    fn get(&mut self, key: Key) -> Option<Arc<[u8]>> {
        self.clock += 1;
        let (used, frame) = self.frames.get_mut(&key)?;
        *used = self.clock;
        Some(Arc::clone(frame))
    }

    fn put(&mut self, key: Key, frame: Arc<[u8]>) {
        while self.frames.len() * FRAME >= self.limit.max(FRAME) {
            let oldest = self.frames.iter().min_by_key(|(_, (used, _))| *used);
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                break;
            };
            self.frames.remove(&oldest);
        }
        self.clock += 1;
        self.frames.insert(key, (self.clock, frame));
    }
}

/// Bytes that are wanted from a layer's tar.
struct Piece {
    layer: usize,
    tar_offset: u64,
    /// Where in the caller's buffer they go.
    at: usize,
    len: usize,
}

impl<R: RangeRead> LazyDisk<R> {
    /// A disk of which `metadata` tells everything; about `cache` bytes of
    /// frames are kept.
    ///
    /// # Errors
    /// None for what [`Metadata::read`] gave.
    pub fn new(metadata: Metadata, blobs: R, cache: usize) -> Result<Self, DeliveryError> {
        let Metadata { info, plan, tables } = metadata;
        let plan = plan
            .locate(|pack| PathBuf::from(&pack.diff_id))
            .map_err(|e| DeliveryError::Plan(e.into()))?;
        let layers = info.layers.iter().zip(tables);
        let layers = layers
            .map(|(layer, table)| LazyLayer {
                blob: Descriptor::new(LAYER_ZSTD, layer.digest.clone(), layer.size),
                table,
            })
            .collect();
        Ok(Self {
            info,
            plan,
            layers,
            blobs,
            cache: Mutex::new(Cache {
                limit: cache,
                clock: 0,
                frames: BTreeMap::new(),
            }),
        })
    }

    /// The disk's description.
    pub fn info(&self) -> &DiskInfo {
        &self.info
    }

    /// Which bytes of which tars `range` of the disk is; literals are copied
    /// to `buf`, which is that range and all zeros before.
    fn pieces(&self, range: Range<u64>, buf: &mut [u8]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let extents = self.plan.extents_in(range.clone()).iter();
        for extent in extents.filter_map(|extent| extent.slice(range.clone())) {
            let at = (extent.start - range.start) as usize;
            match &extent.content {
                Content::Literal(bytes) => {
                    if let Some(to) = buf.get_mut(at..at + bytes.len()) {
                        to.copy_from_slice(bytes);
                    }
                }
                Content::Source { id, offset } => {
                    let layer = id.0 as usize;
                    let Some(found) = self.layers.get(layer) else {
                        continue;
                    };
                    let runs = found.table.runs_in(*offset..offset + extent.len);
                    pieces.extend(runs.map(|run| Piece {
                        layer,
                        tar_offset: run.tar_offset,
                        at: at + (run.pack_offset - offset) as usize,
                        len: run.len as usize,
                    }));
                }
            }
        }
        pieces
    }

    /// Reads and verifies frames `first` to `end` of a layer.
    fn fetch(&self, layer: usize, frames: Range<usize>) -> io::Result<Vec<Arc<[u8]>>> {
        let bad = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
        let LazyLayer { blob, table } = self
            .layers
            .get(layer)
            .ok_or_else(|| bad(format!("no layer {layer}")))?;
        let range = table
            .blob_range(frames.clone())
            .ok_or_else(|| bad(format!("{} has no frames {frames:?}", blob.digest)))?;
        let bytes = self.blobs.read_range(blob, range.clone())?;
        if bytes.len() as u64 != range.end - range.start {
            let len = bytes.len();
            return Err(bad(format!(
                "{}: {len} bytes came for {range:?}",
                blob.digest
            )));
        }
        let mut rest = &bytes[..];
        let mut done = Vec::new();
        for number in frames {
            let frame = table.frames().get(number);
            let parts = frame.and_then(|f| Some((f, rest.split_at_checked(f.len as usize)?)));
            let Some((frame, (bytes, tail))) = parts else {
                return Err(bad(format!("{}: frame {number} is cut short", blob.digest)));
            };
            let sha256: [u8; 32] = sha2::Sha256::digest(bytes).into();
            if sha256 != frame.sha256 {
                return Err(bad(format!(
                    "{} is corrupt: frame {number} has another digest than the disk's metadata says",
                    blob.digest
                )));
            }
            done.push(decompress(bytes, table.frame_len(number))?.into());
            rest = tail;
        }
        Ok(done)
    }

    /// The frames of all pieces, from the cache or by as few requests as that
    /// takes.
    fn frames(&self, pieces: &[Piece]) -> io::Result<BTreeMap<Key, Arc<[u8]>>> {
        let mut have = BTreeMap::new();
        let mut missing: Vec<Key> = Vec::new();
        {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            for piece in pieces {
                for number in frames_of(piece) {
                    let key = (piece.layer, number);
                    if have.contains_key(&key) {
                        continue;
                    }
                    match cache.get(key) {
                        Some(frame) => {
                            have.insert(key, frame);
                        }
                        None => missing.push(key),
                    }
                }
            }
        }
        missing.sort_unstable();
        missing.dedup();
        let near = |a: &Key, b: &Key| a.0 == b.0 && b.1 - a.1 <= GAP + 1;
        for run in missing.chunk_by(near) {
            let (Some((layer, first)), Some((_, last))) = (run.first(), run.last()) else {
                continue;
            };
            let mut start = *first;
            while start <= *last {
                let end = (last + 1).min(start + MAX_REQUEST / FRAME);
                let frames = self.fetch(*layer, start..end)?;
                let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
                for (number, frame) in (start..end).zip(frames) {
                    cache.put((*layer, number), Arc::clone(&frame));
                    have.insert((*layer, number), frame);
                }
                start = end;
            }
        }
        Ok(have)
    }
}

/// The frames that a piece lies in.
fn frames_of(piece: &Piece) -> Range<usize> {
    let end = piece.tar_offset + piece.len as u64;
    (piece.tar_offset / FRAME as u64) as usize..end.div_ceil(FRAME as u64) as usize
}

impl<R: RangeRead> ReadAt for LazyDisk<R> {
    fn size(&self) -> u64 {
        self.plan.size()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        let end = end.filter(|&end| end <= self.plan.size()).ok_or_else(|| {
            let message = format!("{} bytes at {offset} reach past the disk", buf.len());
            io::Error::new(io::ErrorKind::UnexpectedEof, message)
        })?;
        buf.fill(0);
        // So much at once that the frames of it need not all be kept.
        let mut start = offset;
        let mut rest = buf;
        while start < end {
            let len = rest.len().min(MAX_REQUEST);
            let (part, tail) = rest.split_at_mut(len);
            self.read_part(start, part)?;
            start += len as u64;
            rest = tail;
        }
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let next = self.plan.extents_in(from..self.plan.size()).first();
        Ok(next.map(|extent| extent.start.max(from)..extent.end()))
    }

    fn is_known_zero(&self, range: Range<u64>) -> bool {
        self.plan.extents_in(range).is_empty()
    }
}

impl<R: RangeRead> LazyDisk<R> {
    fn read_part(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let pieces = self.pieces(offset..offset + buf.len() as u64, buf);
        let frames = self.frames(&pieces)?;
        for piece in &pieces {
            let (mut tar, mut at, mut left) = (piece.tar_offset, piece.at, piece.len);
            while left > 0 {
                let number = (tar / FRAME as u64) as usize;
                let skip = (tar % FRAME as u64) as usize;
                let frame = frames.get(&(piece.layer, number));
                let bytes = frame.and_then(|f| f.get(skip..)).unwrap_or_default();
                let len = left.min(bytes.len());
                let (Some(from), Some(to)) = (bytes.get(..len), buf.get_mut(at..at + len)) else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
                if len == 0 {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                to.copy_from_slice(from);
                (tar, at, left) = (tar + len as u64, at + len, left - len);
            }
        }
        Ok(())
    }
}
