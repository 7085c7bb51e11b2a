//! Compressing the units of a disk on several threads.

use std::io;
use std::ops::Range;

use flate2::{Compress, FlushCompress, Status};

use super::{Monitor, SinkError};
use crate::reader::ReadAt;
use crate::zero::is_zero;

/// How much of the disk a thread takes at once, in bytes.
pub(super) const BATCH: u64 = 1 << 20;

/// Both at their usual level: what lower ones save in time is little once
/// several threads work, and higher ones gain little in 64 KiB.
const ZLIB_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// One thread's compressor.
pub(super) enum Compressor {
    Deflate(Box<Compress>),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Compressor {
    /// deflate (RFC 1951) with a window of `2^window_bits` bytes.
    pub(super) fn deflate(window_bits: u8) -> Self {
        let level = flate2::Compression::new(ZLIB_LEVEL);
        let compress = Compress::new_with_window_bits(level, false, window_bits);
        Self::Deflate(Box::new(compress))
    }

    /// deflate in zlib's wrapping (RFC 1950).
    pub(super) fn zlib() -> Self {
        Self::Deflate(Box::new(Compress::new(
            flate2::Compression::new(ZLIB_LEVEL),
            true,
        )))
    }

    /// zstd (RFC 8878).
    pub(super) fn zstd() -> Result<Self, SinkError> {
        let compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(SinkError::Compress)?;
        Ok(Self::Zstd(compressor))
    }

    /// The compressed form of `plain`, complete in itself.
    pub(super) fn compress(&mut self, plain: &[u8]) -> Result<Vec<u8>, SinkError> {
        match self {
            Self::Deflate(_) => self.deflated(plain, FlushCompress::Finish),
            Self::Zstd(compressor) => compressor.compress(plain).map_err(SinkError::Compress),
        }
    }

    /// A part of a deflate stream that ends on a byte and refers to nothing
    /// outside itself, so that others can come before and after it.
    pub(super) fn compress_part(&mut self, plain: &[u8]) -> Result<Vec<u8>, SinkError> {
        self.deflated(plain, FlushCompress::Sync)
    }

    fn deflated(&mut self, plain: &[u8], flush: FlushCompress) -> Result<Vec<u8>, SinkError> {
        let Self::Deflate(compress) = self else {
            let error = "zstd has no parts like those of deflate";
            return Err(SinkError::Compress(io::Error::other(error)));
        };
        compress.reset();
        // Always room for the end of the stream: zlib-rs 0.6 panics when
        // data that does not compress meets a full buffer.
        let mut bytes = Vec::with_capacity(plain.len() + plain.len() / 8 + 1024);
        let status = compress
            .compress_vec(plain, &mut bytes, flush)
            .map_err(|e| SinkError::Compress(e.into()))?;
        let ended = matches!(
            (flush, status),
            (FlushCompress::Finish, Status::StreamEnd) | (FlushCompress::Sync, Status::Ok)
        );
        if !ended || compress.total_in() != plain.len() as u64 {
            let error = "deflate came to no end";
            return Err(SinkError::Compress(io::Error::other(error)));
        }
        Ok(bytes)
    }
}

/// A unit of the disk that is not all zeros, ready for the file.
#[derive(Debug)]
pub(super) struct Unit {
    /// Its number on the disk.
    pub(super) number: u64,
    /// Its bytes, compressed.
    pub(super) bytes: Vec<u8>,
}

/// Reads the units numbered `units`, each of `len` bytes, and compresses each
/// that is not zeros. The last unit of the disk is filled up with zeros.
pub(super) fn compress_units(
    disk: &dyn ReadAt,
    len: u64,
    units: Range<u64>,
    monitor: Monitor<'_>,
    mut compress: impl FnMut(&[u8]) -> Result<Vec<u8>, SinkError>,
) -> Result<Vec<Unit>, SinkError> {
    monitor.check()?;
    let start = units.start * len;
    let on_disk = (units.end * len).min(disk.size()) - start;
    let mut bytes = vec![0; ((units.end - units.start) * len) as usize];
    let (read, _) = bytes.split_at_mut(on_disk as usize);
    disk.read_exact_at(start, read).map_err(SinkError::Read)?;
    let mut done = Vec::new();
    for (number, plain) in units.zip(bytes.chunks_exact(len as usize)) {
        if !is_zero(plain) {
            let bytes = compress(plain)?;
            done.push(Unit { number, bytes });
        }
    }
    monitor.done(on_disk);
    Ok(done)
}
