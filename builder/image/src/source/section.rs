//! A part of a file, read in place.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::SourceError;

/// A run of bytes of a file. Readers of the same file do not disturb each
/// other, since none moves the file's offset.
#[derive(Debug, Clone)]
pub struct Section {
    file: Arc<File>,
    offset: u64,
    len: u64,
}

impl Section {
    /// The part of `file` that starts at `offset` and has `len` bytes.
    pub fn new(file: Arc<File>, offset: u64, len: u64) -> Self {
        Self { file, offset, len }
    }

    /// A whole file.
    ///
    /// # Errors
    /// It cannot be opened or is no regular file.
    pub fn whole(path: &Path) -> Result<Self, SourceError> {
        let io_error = |error| SourceError::Io {
            path: path.to_owned(),
            error,
        };
        let file = File::options()
            .read(true)
            // A named pipe must not hang the open.
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
            .map_err(io_error)?;
        let metadata = file.metadata().map_err(io_error)?;
        if !metadata.is_file() {
            return Err(SourceError::Place {
                path: path.to_owned(),
                reason: "it is no regular file".to_owned(),
            });
        }
        Ok(Self::new(Arc::new(file), 0, metadata.len()))
    }

    /// Bytes left.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part of this section from `offset`; shorter where the section ends.
    pub fn part(&self, offset: u64, len: u64) -> Self {
        let offset = offset.min(self.len);
        Self {
            file: Arc::clone(&self.file),
            offset: self.offset.saturating_add(offset),
            len: len.min(self.len - offset),
        }
    }

    /// The first bytes, up to `N`, and how many there are.
    pub(crate) fn peek<const N: usize>(&self) -> io::Result<([u8; N], usize)> {
        let mut bytes = [0; N];
        let mut filled = 0;
        let mut reader = self.clone();
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match reader.read(rest)? {
                0 => break,
                n => filled += n,
            }
        }
        Ok((bytes, filled))
    }
}

impl Read for Section {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = buf
            .len()
            .min(usize::try_from(self.len).unwrap_or(usize::MAX));
        let Some(buf) = buf.get_mut(..want).filter(|b| !b.is_empty()) else {
            return Ok(0);
        };
        let read = self.file.read_at(buf, self.offset)?;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the file ends {} bytes early", self.len),
            ));
        }
        self.offset += read as u64;
        self.len -= read as u64;
        Ok(read)
    }
}
