//! A disk as a stream with a position.

use std::io::{self, Read, Seek, SeekFrom};

use super::ReadAt;

/// Reads a disk, or a part of one such as a partition, as a file is read.
#[derive(Debug, Clone)]
pub struct DiskCursor<R> {
    disk: R,
    start: u64,
    len: u64,
    position: u64,
}

impl<R: ReadAt> DiskCursor<R> {
    /// A cursor over the whole disk, at its start.
    pub fn new(disk: R) -> Self {
        let len = disk.size();
        Self::part(disk, 0, len)
    }

    /// A cursor over the `len` bytes at `start`, cut to the disk; positions
    /// count from `start`.
    pub fn part(disk: R, start: u64, len: u64) -> Self {
        let len = len.min(disk.size().saturating_sub(start));
        Self {
            disk,
            start,
            len,
            position: 0,
        }
    }
}

impl<R: ReadAt> Read for DiskCursor<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.len.saturating_sub(self.position);
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        if let Some(buf) = buf.get_mut(..n).filter(|b| !b.is_empty()) {
            self.disk.read_exact_at(self.start + self.position, buf)?;
            self.position += n as u64;
        }
        Ok(n)
    }
}

impl<R: ReadAt> Seek for DiskCursor<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(n) => Some(n),
            SeekFrom::End(n) => self.len.checked_add_signed(n),
            SeekFrom::Current(n) => self.position.checked_add_signed(n),
        };
        self.position = target
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek before the start"))?;
        Ok(self.position)
    }
}
