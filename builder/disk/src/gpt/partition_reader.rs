//! One partition of a disk as a reader of its own.

use std::io::{self, Read, Seek, SeekFrom};

use super::Partition;

/// Reads a range of `inner` as if it were all there is.
#[derive(Debug)]
pub struct PartitionReader<R> {
    inner: R,
    start: u64,
    len: u64,
    pos: u64,
}

impl<R: Read + Seek> PartitionReader<R> {
    /// A reader of `partition` of the disk `inner`, at its first byte.
    pub fn new(inner: R, partition: &Partition) -> Self {
        Self {
            inner,
            start: partition.start,
            len: partition.len,
            pos: 0,
        }
    }
}

impl<R: Read + Seek> Read for PartitionReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.len.saturating_sub(self.pos);
        let want = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let at = self.start.checked_add(self.pos).ok_or_else(out_of_range)?;
        self.inner.seek(SeekFrom::Start(at))?;
        let read = self.inner.read(&mut buf[..want])?;
        self.pos += read as u64;
        Ok(read)
    }
}

impl<R: Read + Seek> Seek for PartitionReader<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let pos = match to {
            SeekFrom::Start(pos) => Some(pos),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.pos.checked_add_signed(by),
        };
        self.pos = pos.ok_or_else(out_of_range)?;
        Ok(self.pos)
    }
}

fn out_of_range() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "offset out of range")
}
