//! Bytes that go into the guest's memory: held already, or a range of a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::memory;

/// Bytes to be copied into a guest.
#[derive(Debug, Clone)]
pub enum Blob {
    /// They are here.
    Bytes(Arc<[u8]>),
    /// They are all that a file holds.
    File(Arc<File>),
    /// They are a part of a file.
    Range {
        /// The file.
        file: Arc<File>,
        /// Where in it they start.
        offset: u64,
        /// How many they are.
        len: u64,
        /// Whether nobody writes to the file or cuts it off while the guest
        /// runs, so that its pages can be the guest's until it writes to them.
        fixed: bool,
    },
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
            Self::Range { len, .. } => Ok(*len),
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
            Self::Range {
                file,
                offset: base,
                len,
                ..
            } => {
                let wanted = buffer.len() as u64;
                let at = within(offset, wanted, *len).and_then(|at| base.checked_add(at));
                file.read_exact_at(buffer, at.ok_or(io::ErrorKind::UnexpectedEof)?)
            }
            Self::Bytes(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(buffer.len());
                let source = bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(source);
                Ok(())
            }
        }
    }

    /// Puts a range into the guest: where a file stays as it is, by mapping its
    /// pages, which takes no time and no memory until the guest writes to them;
    /// else by copying it.
    ///
    /// # Errors
    /// If the range or the memory ends early.
    pub fn put_range(
        &self,
        range: std::ops::Range<u64>,
        memory: &GuestMemoryMmap,
        at: GuestAddress,
    ) -> io::Result<()> {
        let len = range.end.saturating_sub(range.start);
        let copy = |file, offset, at, len| {
            let len = usize::try_from(len).map_err(io::Error::other)?;
            memory
                .read_exact_volatile_from(at, &mut At { file, offset }, len)
                .map_err(io::Error::other)
        };
        match self {
            Self::File(file) => copy(file, range.start, at, len),
            Self::Range {
                file,
                offset,
                len: most,
                fixed,
            } => {
                let start = within(range.start, len, *most).and_then(|at| offset.checked_add(at));
                let start = start.ok_or(io::ErrorKind::UnexpectedEof)?;
                let (mut done, mut end) = (0, 0);
                if *fixed && file.metadata()?.len() >= start.saturating_add(len) {
                    let mapped = memory::map_file(memory, at, file, start, len)?;
                    (done, end) = (mapped.start, mapped.end);
                }
                // What is no whole page at either end, or all of it.
                copy(file, start, at, done)?;
                copy(file, start + end, GuestAddress(at.0 + end), len - end)
            }
            Self::Bytes(bytes) => {
                let len = usize::try_from(len).map_err(io::Error::other)?;
                let start = usize::try_from(range.start).unwrap_or(usize::MAX);
                let end = start.saturating_add(len);
                let source = bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
                memory.write_slice(source, at).map_err(io::Error::other)
            }
        }
    }

    /// Puts all into the guest, as [`put_range`](Self::put_range) does; returns how
    /// much that was.
    ///
    /// # Errors
    /// If the file cannot be read or the memory ends early.
    pub fn put(&self, memory: &GuestMemoryMmap, at: GuestAddress) -> io::Result<u64> {
        let len = self.len()?;
        self.put_range(0..len, memory, at)?;
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

/// `offset`, if `len` bytes from there on lie in `size`.
fn within(offset: u64, len: u64, size: u64) -> Option<u64> {
    let end = offset.checked_add(len)?;
    (end <= size).then_some(offset)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_file_is_all_there_is() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"0123456789").unwrap();
        let blob = Blob::Range {
            file: Arc::new(file),
            offset: 2,
            len: 4,
            fixed: false,
        };
        assert_eq!(blob.len().unwrap(), 4);
        let mut bytes = [0; 3];
        blob.read_exact_at(&mut bytes, 1).unwrap();
        assert_eq!(&bytes, b"345");
        assert!(blob.read_exact_at(&mut bytes, 2).is_err());
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4096)]).unwrap();
        assert_eq!(blob.put(&memory, GuestAddress(8)).unwrap(), 4);
        let mut bytes = [0; 5];
        memory.read_slice(&mut bytes, GuestAddress(8)).unwrap();
        assert_eq!(&bytes, b"2345\0");
        assert!(blob.put_range(1..5, &memory, GuestAddress(0)).is_err());
    }

    #[test]
    fn a_fixed_file_is_there_whether_its_pages_fit_or_not() {
        const SIZE: usize = 20_000;
        let content: Vec<u8> = (0..SIZE).map(|n| (n * 7 + n / 256) as u8 | 1).collect();
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &content).unwrap();
        let file = Arc::new(file);
        // Where in the file, where in the guest, and how much.
        for (offset, at, len) in [
            (0, 0, SIZE),
            (0, 4096, 4096),
            (0, 8192, 5000),
            (100, 4196, 12_000),
            (100, 4096, 12_000),
            (4000, 4000, 200),
            (4000, 8096, 96),
            (4096, 0, 15_904),
            (3, 3, 0),
        ] {
            let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 32_768)]).unwrap();
            let blob = Blob::Range {
                file: Arc::clone(&file),
                offset: offset as u64,
                len: len as u64,
                fixed: true,
            };
            let case = format!("{offset} {at} {len}");
            blob.put(&memory, GuestAddress(at as u64)).unwrap();
            let mut all = vec![0; 32_768];
            memory.read_slice(&mut all, GuestAddress(0)).unwrap();
            assert_eq!(all[at..at + len], content[offset..offset + len], "{case}");
            // Nothing of the file is beside it.
            assert!(all[..at].iter().all(|b| *b == 0), "{case}");
            assert!(all[at + len..].iter().all(|b| *b == 0), "{case}");
            // What the guest writes stays the guest's.
            memory.write_slice(&[0; 8192], GuestAddress(4096)).unwrap();
            let mut kept = vec![0; SIZE];
            file.read_exact_at(&mut kept, 0).unwrap();
            assert!(kept == content, "{case}");
        }
    }

    #[test]
    fn a_fixed_file_that_is_too_short_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(5000).unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 32_768)]).unwrap();
        let blob = Blob::Range {
            file: Arc::new(file),
            offset: 0,
            len: 8192,
            fixed: true,
        };
        assert!(blob.put(&memory, GuestAddress(0)).is_err());
    }
}
