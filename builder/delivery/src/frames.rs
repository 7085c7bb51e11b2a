//! Compressing a stream as independent frames.
//!
//! The stream is cut every [`FRAME`] bytes and each piece becomes a zstd frame
//! (RFC 8878) or a gzip member (RFC 1952) of its own. Any decompressor reads
//! the whole, pieces can be read alone, and the bytes are the same on any
//! number of threads. A seek table of zstd's seekable format ends what is
//! compressed with zstd.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use bootwright_image::Digest;
use bootwright_image::digest::{Algorithm, Hasher};
use flate2::GzBuilder;
use sha2::Digest as _;
use zstd::zstd_safe::CParameter;

use crate::error::DeliveryError;

/// Bytes of the stream in a frame; the last has what is left.
pub const FRAME: usize = 1 << 20;

/// The level at which layers are compressed unless the user says otherwise.
/// Another one makes other blobs of the same layers.
pub const ZSTD_LEVEL: i32 = 3;

/// Most threads that compress; each holds a few frames.
const MAX_THREADS: usize = 8;

/// How many frames each thread has before it and behind it.
const AHEAD: usize = 2;

/// Of a skippable frame that holds a seek table (zstd's seekable format).
const SEEK_TABLE: u32 = 0x184d_2a5e;
const SEEK_TABLE_END: u32 = 0x8f92_eab1;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// zstd at this level, 1 to 19.
    Zstd(i32),
    /// gzip at this level, 1 to 9.
    Gzip(u32),
}

impl Default for Codec {
    fn default() -> Self {
        Self::Zstd(ZSTD_LEVEL)
    }
}

/// What a job may use, whom it tells, and what stops it.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// On how many threads to compress; at most 8 are used. Changes no byte.
    pub threads: usize,
    /// Told how many more bytes, uncompressed, are done.
    pub progress: &'a (dyn Fn(u64) + Sync),
    /// Ends the job soon after it becomes true.
    pub cancel: &'a AtomicBool,
}

impl Work<'_> {
    pub(crate) fn check(&self) -> Result<(), DeliveryError> {
        match self.cancel.load(Ordering::Relaxed) {
            true => Err(DeliveryError::Cancelled),
            false => Ok(()),
        }
    }
}

impl fmt::Debug for Work<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

/// A frame of a blob. Frames follow each other from the blob's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Length in the blob.
    pub len: u32,
    /// SHA-256 of those bytes.
    pub sha256: [u8; 32],
}

/// A blob that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's length in bytes.
    pub size: u64,
    /// Digest of what was compressed; a layer's diff id.
    pub plain_digest: Digest,
    /// Length of what was compressed, in bytes.
    pub plain_len: u64,
    /// The frames, each of [`FRAME`] bytes uncompressed but the last. None
    /// for a blob that is not compressed.
    pub frames: Vec<Frame>,
}

/// Compresses all of `plain` into `out`.
///
/// # Errors
/// `plain` cannot be read or `out` not be written; `what` names them.
pub fn compress(
    what: &str,
    plain: &mut dyn Read,
    out: &mut dyn Write,
    codec: Codec,
    work: &Work<'_>,
) -> Result<Written, DeliveryError> {
    let mut blob = Blob {
        out,
        hasher: Hasher::new(Algorithm::Sha256),
        size: 0,
        frames: Vec::new(),
    };
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut plain_len = 0;
    in_order(
        work.threads.clamp(1, MAX_THREADS),
        || Compressor::new(codec),
        &mut |mut buffer| {
            work.check()?;
            fill(plain, &mut buffer).map_err(DeliveryError::io(what))?;
            if buffer.is_empty() {
                return Ok(None);
            }
            hasher.update(&buffer);
            plain_len += buffer.len() as u64;
            Ok(Some(buffer))
        },
        &mut |piece: Piece| {
            blob.frame(&piece).map_err(DeliveryError::io(what))?;
            (work.progress)(piece.plain.len() as u64);
            Ok(piece.plain)
        },
    )?;
    if let Codec::Zstd(_) = codec {
        blob.seek_table(plain_len)
            .map_err(DeliveryError::io(what))?;
    } else if plain_len == 0 {
        // No member at all would be no gzip file.
        let empty = Compressor::new(codec).and_then(|mut c| c.compress(Vec::new()));
        empty
            .and_then(|piece| blob.frame(&piece))
            .map_err(DeliveryError::io(what))?;
    }
    blob.out.flush().map_err(DeliveryError::io(what))?;
    Ok(Written {
        digest: blob.hasher.finish(),
        size: blob.size,
        plain_digest: hasher.finish(),
        plain_len,
        frames: blob.frames,
    })
}

/// Writes bytes as a blob of their own, uncompressed.
///
/// # Errors
/// `out` cannot be written.
pub fn plain(what: &str, bytes: &[u8], out: &mut dyn Write) -> Result<Written, DeliveryError> {
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(DeliveryError::io(what))?;
    let digest = Digest::sha256(bytes);
    Ok(Written {
        plain_digest: digest.clone(),
        digest,
        size: bytes.len() as u64,
        plain_len: bytes.len() as u64,
        frames: Vec::new(),
    })
}

/// Reads a frame back. `len` is how many bytes it must give.
///
/// # Errors
/// It is no frame, or gives another number of bytes.
pub fn decompress(frame: &[u8], len: usize) -> io::Result<Vec<u8>> {
    let plain = zstd::bulk::Decompressor::new()?.decompress(frame, len)?;
    if plain.len() != len {
        let message = format!("a frame holds {} bytes instead of {len}", plain.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(plain)
}

/// Reads until the buffer holds a whole frame's bytes or the stream ends.
fn fill(plain: &mut dyn Read, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    buffer.reserve_exact(FRAME);
    plain.take(FRAME as u64).read_to_end(buffer).map(|_| ())
}

/// The blob as it grows.
struct Blob<'a> {
    out: &'a mut dyn Write,
    hasher: Hasher,
    size: u64,
    frames: Vec<Frame>,
}

impl Blob<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn frame(&mut self, piece: &Piece) -> io::Result<()> {
        self.frames.push(Frame {
            len: u32::try_from(piece.bytes.len()).map_err(io::Error::other)?,
            sha256: piece.sha256,
        });
        self.write(&piece.bytes)
    }

    /// Nothing for decompressors, which skip it; for readers of zstd's
    /// seekable format it says where the frames are.
    fn seek_table(&mut self, plain_len: u64) -> io::Result<()> {
        let count = u32::try_from(self.frames.len()).map_err(io::Error::other)?;
        let mut table = Vec::with_capacity(self.frames.len() * 8 + 9);
        let mut left = plain_len;
        for frame in &self.frames {
            let plain = left.min(FRAME as u64);
            left -= plain;
            table.extend(frame.len.to_le_bytes());
            table.extend((plain as u32).to_le_bytes());
        }
        table.extend(count.to_le_bytes());
        table.push(0); // no checksums: the frames have their own
        table.extend(SEEK_TABLE_END.to_le_bytes());
        let len = u32::try_from(table.len()).map_err(io::Error::other)?;
        self.write(&SEEK_TABLE.to_le_bytes())?;
        self.write(&len.to_le_bytes())?;
        self.write(&table)
    }
}

/// A compressed piece, and the buffer of what it was.
struct Piece {
    plain: Vec<u8>,
    bytes: Vec<u8>,
    sha256: [u8; 32],
}

/// One thread's compressor.
enum Compressor {
    Zstd(Box<zstd::bulk::Compressor<'static>>),
    Gzip(flate2::Compression),
}

impl Compressor {
    fn new(codec: Codec) -> io::Result<Self> {
        Ok(match codec {
            Codec::Zstd(level) => {
                let mut compressor = zstd::bulk::Compressor::new(level)?;
                compressor.set_parameter(CParameter::ChecksumFlag(true))?;
                compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
                Self::Zstd(Box::new(compressor))
            }
            Codec::Gzip(level) => Self::Gzip(flate2::Compression::new(level)),
        })
    }

    fn compress(&mut self, plain: Vec<u8>) -> io::Result<Piece> {
        let bytes = match self {
            Self::Zstd(compressor) => compressor.compress(&plain)?,
            Self::Gzip(level) => {
                // No time, no name, and 255 for the system: none of them known.
                let mut gzip = GzBuilder::new()
                    .operating_system(255)
                    .write(Vec::with_capacity(plain.len() / 2 + 64), *level);
                gzip.write_all(&plain)?;
                gzip.finish()?
            }
        };
        let sha256 = sha2::Sha256::digest(&bytes).into();
        Ok(Piece {
            plain,
            bytes,
            sha256,
        })
    }
}

/// Compresses what `next` reads on `threads` threads and gives it to `take`
/// in order. `next` gets a used buffer to fill, which `take` gives back.
fn in_order(
    threads: usize,
    start: impl Fn() -> io::Result<Compressor> + Sync,
    next: &mut dyn FnMut(Vec<u8>) -> Result<Option<Vec<u8>>, DeliveryError>,
    take: &mut dyn FnMut(Piece) -> Result<Vec<u8>, DeliveryError>,
) -> Result<(), DeliveryError> {
    type Ends = (SyncSender<Vec<u8>>, Receiver<io::Result<Piece>>);
    thread::scope(|scope| {
        let workers: Vec<Ends> = (0..threads)
            .map(|_| {
                let (to_worker, inbox) = sync_channel::<Vec<u8>>(AHEAD);
                let (outbox, from_worker) = sync_channel(AHEAD);
                let start = &start;
                scope.spawn(move || {
                    let mut compressor = match start() {
                        Ok(compressor) => compressor,
                        Err(error) => {
                            let _ = outbox.send(Err(error));
                            return;
                        }
                    };
                    for plain in inbox {
                        // Nobody takes it: an error ended the whole.
                        if outbox.send(compressor.compress(plain)).is_err() {
                            return;
                        }
                    }
                });
                (to_worker, from_worker)
            })
            .collect();
        let (mut sent, mut taken, mut more) = (0usize, 0usize, true);
        let mut spare = Vec::new();
        while more || taken < sent {
            if more && sent - taken < workers.len() * AHEAD {
                match next(std::mem::take(&mut spare))? {
                    None => more = false,
                    Some(plain) => {
                        if let Some((to_worker, _)) = workers.get(sent % workers.len()) {
                            // One that stopped has said why: seen below.
                            let _ = to_worker.send(plain);
                        }
                        sent += 1;
                    }
                }
            } else if let Some((_, from_worker)) = workers.get(taken % workers.len()) {
                match from_worker.recv() {
                    Ok(piece) => spare = take(piece.map_err(DeliveryError::io("compressor"))?)?,
                    // It panicked; the scope passes that on.
                    Err(_) => return Ok(()),
                }
                taken += 1;
            }
        }
        Ok(())
    })
}
