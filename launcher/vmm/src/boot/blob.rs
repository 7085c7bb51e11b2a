//! Bytes that go into the guest's memory: held already, or a range of a file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

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
        /// Whether nobody writes to the file or cuts it off as long as there
        /// are machines, so that what was read of it once holds.
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

    /// Copies a range into memory that is all zeros, as that of a new guest is:
    /// holes of a file are left out. To map its pages would be faster at first,
    /// but a kernel writes to each page of its code (call sites of ftrace), and
    /// huge pages are of more use to it.
    ///
    /// # Errors
    /// If the range or the memory ends early.
    pub fn put_range(
        &self,
        range: Range<u64>,
        memory: &GuestMemoryMmap,
        at: GuestAddress,
    ) -> io::Result<()> {
        let len = range.end.saturating_sub(range.start);
        match self {
            Self::File(file) => copy(file, range.start, len, memory, at),
            Self::Range {
                file,
                offset,
                len: most,
                ..
            } => {
                let start = within(range.start, len, *most).and_then(|at| offset.checked_add(at));
                let start = start.ok_or(io::ErrorKind::UnexpectedEof)?;
                copy(file, start, len, memory, at)
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
    pub fn reader(&self, range: Range<u64>) -> BlobReader<'_> {
        BlobReader {
            blob: self,
            offset: range.start,
            end: range.end,
        }
    }
}

/// What is worth another thread, in bytes: most of the time goes into clearing
/// the host's memory.
const SHARE: u64 = 8 << 20;

/// Copies `len` bytes at `offset` of a file, without its holes; many by two
/// threads.
fn copy(
    file: &File,
    offset: u64,
    len: u64,
    memory: &GuestMemoryMmap,
    at: GuestAddress,
) -> io::Result<()> {
    let size = usize::try_from(len).map_err(io::Error::other)?;
    if !memory.check_range(at, size) {
        return Err(io::Error::other("it does not fit into the memory"));
    }
    let end = offset.checked_add(len);
    let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
    let part = |range: Range<u64>| {
        let to = GuestAddress(at.0 + (range.start - offset));
        copy_part(file, range, memory, to)
    };
    if len < 2 * SHARE {
        return part(offset..end);
    }
    // Apart where huge pages are.
    let middle = offset + ((at.0 + len / 2).next_multiple_of(2 << 20) - at.0);
    thread::scope(|scope| {
        let helper = thread::Builder::new().spawn_scoped(scope, || part(middle..end));
        let first = part(offset..middle);
        let rest = match helper {
            Ok(helper) => {
                (helper.join()).unwrap_or_else(|_| Err(io::Error::other("a thread died")))
            }
            // There may be as many threads as there can be.
            Err(_) => part(middle..end),
        };
        first.and(rest)
    })
}

/// Copies a range of a file to where there is room for it.
fn copy_part(
    file: &File,
    range: Range<u64>,
    memory: &GuestMemoryMmap,
    at: GuestAddress,
) -> io::Result<()> {
    let mut done = range.start;
    while done < range.end {
        let data = next_data(file, done, range.end)?;
        let len = usize::try_from(data.end - data.start).map_err(io::Error::other)?;
        let to = GuestAddress(at.0 + (data.start - range.start));
        let mut from = At {
            file,
            offset: data.start,
        };
        memory
            .read_exact_volatile_from(to, &mut from, len)
            .map_err(io::Error::other)?;
        done = data.end;
    }
    Ok(())
}

/// The first range from `start` on that is no hole, up to `end`; empty if there
/// is none. What tells of no holes has none, as a device.
fn next_data(file: &File, start: u64, end: u64) -> io::Result<Range<u64>> {
    let seek = |at: u64, whence| -> io::Result<u64> {
        let at = i64::try_from(at).map_err(io::Error::other)?;
        // SAFETY: takes plain numbers; nothing here goes by the file's position.
        match unsafe { libc::lseek(file.as_raw_fd(), at, whence) } {
            -1 => Err(io::Error::last_os_error()),
            found => u64::try_from(found).map_err(io::Error::other),
        }
    };
    match seek(start, libc::SEEK_DATA) {
        Ok(data) if data >= end => Ok(end..end),
        Ok(data) => {
            let hole = seek(data, libc::SEEK_HOLE).unwrap_or(end);
            Ok(data..hole.clamp(data + 1, end))
        }
        // From there on it is a hole, if it is there at all.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            match file.metadata()?.len() < end {
                true => Err(io::ErrorKind::UnexpectedEof.into()),
                false => Ok(end..end),
            }
        }
        Err(_) => Ok(start..end),
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
    fn a_file_with_holes_is_copied_whole_and_no_further() {
        const BLOCK: u64 = 64 << 10;
        let mut content = vec![0; 6 * BLOCK as usize];
        let file = tempfile::tempfile().unwrap();
        for (start, len) in [(BLOCK, 3), (2 * BLOCK - 1, 2), (4 * BLOCK, BLOCK)] {
            let data = vec![0x5a; len as usize];
            file.write_all_at(&data, start).unwrap();
            content[start as usize..][..data.len()].copy_from_slice(&data);
        }
        file.set_len(6 * BLOCK).unwrap();
        let file = Arc::new(file);
        for (offset, len) in [
            (0, 6 * BLOCK),
            (0, BLOCK),
            (BLOCK + 1, 4 * BLOCK),
            (4 * BLOCK + 5, 7),
            (5 * BLOCK, BLOCK),
            (3, 0),
        ] {
            let size = 8 * BLOCK as usize;
            let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).unwrap();
            let blob = Blob::Range {
                file: Arc::clone(&file),
                offset,
                len,
                fixed: true,
            };
            blob.put(&memory, GuestAddress(100)).unwrap();
            let mut all = vec![0; size];
            memory.read_slice(&mut all, GuestAddress(0)).unwrap();
            let (offset, len) = (offset as usize, len as usize);
            assert!(
                all[100..][..len] == content[offset..][..len],
                "{offset} {len}"
            );
            assert!(all[..100].iter().chain(&all[100 + len..]).all(|b| *b == 0));
        }
    }

    #[test]
    fn a_large_file_is_copied_whole() {
        let size = 2 * SHARE + 12_345;
        let file = tempfile::tempfile().unwrap();
        for at in (0..size).step_by(100_000) {
            file.write_all_at(&at.to_le_bytes(), at).unwrap();
        }
        file.set_len(size).unwrap();
        let blob = Blob::from(file);
        let room = size as usize + 8192;
        for at in [0, 4097] {
            let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), room)]).unwrap();
            assert_eq!(blob.put(&memory, GuestAddress(at)).unwrap(), size);
            for offset in (0..size).step_by(100_000) {
                let read: u64 = memory.read_obj(GuestAddress(at + offset)).unwrap();
                assert_eq!(read, offset);
            }
        }
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), room)]).unwrap();
        assert!(blob.put(&memory, GuestAddress(8193)).is_err());
        assert!(
            blob.put_range(1..size + 1, &memory, GuestAddress(0))
                .is_err()
        );
    }

    #[test]
    fn a_file_that_is_too_short_is_an_error() {
        // Its end is data, or a hole.
        for written in [5000, 4000] {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&vec![1; written], 0).unwrap();
            file.set_len(5000).unwrap();
            let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 32_768)]).unwrap();
            let blob = Blob::Range {
                file: Arc::new(file),
                offset: 0,
                len: 8192,
                fixed: true,
            };
            assert!(blob.put(&memory, GuestAddress(0)).is_err(), "{written}");
        }
    }
}
