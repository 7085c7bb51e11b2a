//! Bytes that go into the guest's memory: held already, or a range of a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Bytes to be copied into a guest.
#[derive(Debug, Clone)]
pub enum Blob {
    /// They are here.
    Bytes(Arc<[u8]>),
    /// They are all that a file holds.
    File(Arc<File>),
}

impl From<&[u8]> for Blob {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<File> for Blob {
    fn from(file: File) -> Self {
        Self::File(Arc::new(file))
    }
}

impl Blob {
    /// How many there are.
    ///
    /// # Errors
    /// If the file cannot be asked.
    pub fn len(&self) -> io::Result<u64> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
            Self::File(file) => Ok(file.metadata()?.len()),
        }
    }

    /// Whether there are none.
    ///
    /// # Errors
    /// If the file cannot be asked.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads all of `buffer` from `offset` on.
    ///
    /// # Errors
    /// If there are not that many.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(buffer, offset),
            Self::Bytes(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(buffer.len());
                let source = bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(source);
                Ok(())
            }
        }
    }

    /// Copies a range into the guest, without a detour for files.
    ///
    /// # Errors
    /// If the range or the memory ends early.
    pub fn copy_range_to(
        &self,
        range: std::ops::Range<u64>,
        memory: &GuestMemoryMmap,
        at: GuestAddress,
    ) -> io::Result<()> {
        let len = range.end.saturating_sub(range.start);
        let len = usize::try_from(len).map_err(io::Error::other)?;
        match self {
            Self::File(file) => {
                let mut file = At {
                    file,
                    offset: range.start,
                };
                memory
                    .read_exact_volatile_from(at, &mut file, len)
                    .map_err(io::Error::other)
            }
            Self::Bytes(bytes) => {
                let start = usize::try_from(range.start).unwrap_or(usize::MAX);
                let end = start.saturating_add(len);
                let source = bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
                memory.write_slice(source, at).map_err(io::Error::other)
            }
        }
    }

    /// Copies all into the guest; returns how much that was.
    ///
    /// # Errors
    /// If the file cannot be read or the memory ends early.
    pub fn copy_to(&self, memory: &GuestMemoryMmap, at: GuestAddress) -> io::Result<u64> {
        let len = self.len()?;
        self.copy_range_to(0..len, memory, at)?;
        Ok(len)
    }

    /// A reader of a range.
    pub fn reader(&self, range: std::ops::Range<u64>) -> BlobReader<'_> {
        BlobReader {
            blob: self,
            offset: range.start,
            end: range.end,
        }
    }
}

/// Reads a [`Blob`] in order.
#[derive(Debug)]
pub struct BlobReader<'a> {
    blob: &'a Blob,
    offset: u64,
    end: u64,
}

impl io::Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        self.blob.read_exact_at(&mut buffer[..count], self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// A file read from an offset on that is ours alone: the descriptor's own is
/// shared with whoever else holds it.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl vm_memory::ReadVolatile for At<'_> {
    fn read_volatile<B: vm_memory::bitmap::BitmapSlice>(
        &mut self,
        buffer: &mut vm_memory::VolatileSlice<'_, B>,
    ) -> Result<usize, vm_memory::VolatileMemoryError> {
        use std::os::fd::AsRawFd;
        let guard = buffer.ptr_guard_mut();
        let offset = i64::try_from(self.offset)
            .map_err(|e| vm_memory::VolatileMemoryError::IOError(io::Error::other(e)))?;
        // SAFETY: the guard keeps `len` bytes at this address mapped, and they
        // are memory that others may change at any time: no reference to them
        // exists. The kernel checks the rest.
        let count = unsafe {
            libc::pread(
                self.file.as_raw_fd(),
                guard.as_ptr().cast(),
                buffer.len(),
                offset,
            )
        };
        let count = usize::try_from(count)
            .map_err(|_| vm_memory::VolatileMemoryError::IOError(io::Error::last_os_error()))?;
        self.offset += count as u64;
        Ok(count)
    }
}
