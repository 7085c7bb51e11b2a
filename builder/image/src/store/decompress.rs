//! Reading a layer's blob: hashing it on the way, and decompressing it.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

use crate::digest::{Digest, Hasher};

/// Bytes read from the source at once.
const BUFFER: usize = 128 << 10;

/// A blob that is hashed and counted while it is read.
pub(super) struct BlobReader<'a, R> {
    reader: R,
    hasher: Hasher,
    expected_len: Option<u64>,
    len: u64,
    progress: &'a (dyn Fn(u64) + Sync),
    interrupted: &'a (dyn Fn() -> bool + Sync),
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Set when the reader failed, rather than what is made of its bytes.
    failure: Option<Failure>,
}

/// Why a blob cannot be read to its end.
#[derive(Debug)]
pub(super) enum Failure {
    Read(io::Error),
    TooLong,
    Interrupted,
}

impl<'a, R: Read> BlobReader<'a, R> {
    pub(super) fn new(
        reader: R,
        hasher: Hasher,
        expected_len: Option<u64>,
        progress: &'a (dyn Fn(u64) + Sync),
        interrupted: &'a (dyn Fn() -> bool + Sync),
    ) -> Self {
        Self {
            reader,
            hasher,
            expected_len,
            len: 0,
            progress,
            interrupted,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            failure: None,
        }
    }

    /// Reads what is left, and says why it cannot be read.
    pub(super) fn drain(&mut self) {
        self.consume(usize::MAX);
        while self.failure.is_none() && self.fill_buf().is_ok_and(|buffer| !buffer.is_empty()) {
            self.consume(usize::MAX);
        }
    }

    /// Why reading failed, if it did.
    pub(super) fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    /// Bytes read and their digest.
    pub(super) fn finish(self) -> (u64, Digest) {
        (self.len, self.hasher.finish())
    }

    fn fail(&mut self, failure: Failure) -> io::Error {
        self.failure = Some(failure);
        io::Error::other("the blob cannot be read")
    }
}

impl<R: Read> BufRead for BlobReader<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            if (self.interrupted)() {
                return Err(self.fail(Failure::Interrupted));
            }
            let read = loop {
                match self.reader.read(&mut self.buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(self.fail(Failure::Read(error))),
                    Ok(read) => break read.min(self.buffer.len()),
                }
            };
            let bytes = self.buffer.get(..read).unwrap_or_default();
            self.hasher.update(bytes);
            self.len = self.len.saturating_add(read as u64);
            (self.start, self.end) = (0, read);
            if self
                .expected_len
                .is_some_and(|expected| self.len > expected)
            {
                return Err(self.fail(Failure::TooLong));
            }
            (self.progress)(read as u64);
        }
        Ok(self.buffer.get(self.start..self.end).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.start = self.start.saturating_add(amount).min(self.end);
    }
}

impl<R: Read> Read for BlobReader<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

/// How a blob is compressed, by its first bytes. Media types are not always
/// right about it, and container runtimes do not rely on them either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// # Errors
    /// The name of a compression that layers do not have.
    pub(super) fn of(start: &[u8]) -> Result<Self, &'static str> {
        Ok(match start {
            // RFC 1952, 2.3.1.
            [0x1f, 0x8b, ..] => Self::Gzip,
            // RFC 8878, 3.1.1 and 3.1.2; a skippable frame may come first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return Err("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, ..] => return Err("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => return Err("lz4"),
            _ => Self::None,
        })
    }
}

/// A blob's content.
pub(super) enum Decoder<'a, B: BufRead> {
    None(&'a mut B),
    Gzip(Box<MultiGzDecoder<&'a mut B>>),
    Zstd(zstd::stream::read::Decoder<'static, &'a mut B>),
}

impl<'a, B: BufRead> Decoder<'a, B> {
    pub(super) fn new(
        blob: &'a mut B,
        compression: Compression,
        max_window_log: u32,
    ) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(blob),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(blob))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(blob)?;
                decoder.window_log_max(max_window_log.clamp(10, 31))?;
                Self::Zstd(decoder)
            }
        })
    }

    /// Fills the buffer as far as there is content; says how far.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let read = match self {
                Self::None(blob) => blob.read(rest),
                Self::Gzip(decoder) => decoder.read(rest),
                Self::Zstd(decoder) => decoder.read(rest),
            }?;
            if read == 0 {
                break;
            }
            filled += read;
        }
        Ok(filled)
    }
}
