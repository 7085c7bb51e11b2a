//! A descriptor chain that has been read and checked.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

use super::error::QueueError;

/// A piece of guest memory that belongs to a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Guest address.
    pub address: GuestAddress,
    /// Length in bytes, at least 1.
    pub len: u32,
}

/// The buffers of a request: first those that the device reads, then those
/// that it writes. All of them were in guest memory when the chain was taken.
///
/// What they hold may change at any time; read what counts once, into memory
/// of the host.
#[derive(Debug, PartialEq, Eq)]
pub struct Chain {
    head: u16,
    buffers: Vec<Buffer>,
    /// How many of `buffers` are readable.
    readable: usize,
    readable_len: u32,
    writable_len: u32,
}

impl Chain {
    pub(super) fn new(head: u16, buffers: Vec<Buffer>) -> Self {
        Self {
            head,
            buffers,
            readable: 0,
            readable_len: 0,
            writable_len: 0,
        }
    }

    pub(super) fn push(&mut self, buffer: Buffer, writable: bool) -> Result<(), QueueError> {
        // 2.7.5.2: in total no more than 2^32 bytes; ours is one less.
        self.readable_len
            .checked_add(self.writable_len)
            .and_then(|len| len.checked_add(buffer.len))
            .ok_or(QueueError::TooManyBytes)?;
        if writable {
            self.writable_len += buffer.len;
        } else if self.readable < self.buffers.len() {
            // 2.7.4.2: device-writable elements come last.
            return Err(QueueError::Order);
        } else {
            self.readable_len += buffer.len;
            self.readable += 1;
        }
        self.buffers.push(buffer);
        Ok(())
    }

    pub(super) fn into_buffers(self) -> Vec<Buffer> {
        self.buffers
    }

    /// The index of its first descriptor, by which the driver knows it.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Bytes that the device may read.
    pub fn readable_len(&self) -> u32 {
        self.readable_len
    }

    /// Bytes that the device may write.
    pub fn writable_len(&self) -> u32 {
        self.writable_len
    }

    /// The buffers that the device may read.
    pub fn readable(&self) -> &[Buffer] {
        self.buffers.get(..self.readable).unwrap_or_default()
    }

    /// The buffers that the device may write.
    pub fn writable(&self) -> &[Buffer] {
        self.buffers.get(self.readable..).unwrap_or_default()
    }

    /// Fills `data` with what is `offset` bytes into the readable part.
    ///
    /// # Errors
    /// The part is too short, or no longer in memory.
    pub fn read_at(
        &self,
        memory: &GuestMemoryMmap,
        offset: u32,
        data: &mut [u8],
    ) -> Result<(), QueueError> {
        let range = range(offset, data.len(), self.readable_len, "readable")?;
        let mut rest = data;
        each(memory, self.readable(), range, Permissions::Read, |slice| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(slice.len());
            slice.copy_to(now);
            rest = later;
        })
    }

    /// Writes `data` at `offset` bytes into the writable part.
    ///
    /// # Errors
    /// The part is too short, or no longer in memory.
    pub fn write_at(
        &self,
        memory: &GuestMemoryMmap,
        offset: u32,
        data: &[u8],
    ) -> Result<(), QueueError> {
        let range = range(offset, data.len(), self.writable_len, "writable")?;
        let mut rest = data;
        each(
            memory,
            self.writable(),
            range,
            Permissions::Write,
            |slice| {
                let (now, later) = rest.split_at(slice.len());
                slice.copy_from(now);
                rest = later;
            },
        )
    }

    /// The readable part from `offset`, at most `len` bytes, for a system call.
    ///
    /// # Errors
    /// It is no longer in memory.
    pub fn readable_slices<'m>(
        &self,
        memory: &'m GuestMemoryMmap,
        offset: u32,
        len: u32,
    ) -> Result<Slices<'m>, QueueError> {
        let end = offset.saturating_add(len).min(self.readable_len);
        slices(
            memory,
            self.readable(),
            offset.min(end)..end,
            Permissions::Read,
        )
    }

    /// The writable part from `offset`, at most `len` bytes, for a system call.
    ///
    /// # Errors
    /// It is no longer in memory.
    pub fn writable_slices<'m>(
        &self,
        memory: &'m GuestMemoryMmap,
        offset: u32,
        len: u32,
    ) -> Result<Slices<'m>, QueueError> {
        let end = offset.saturating_add(len).min(self.writable_len);
        slices(
            memory,
            self.writable(),
            offset.min(end)..end,
            Permissions::Write,
        )
    }
}

/// The range of `len` bytes at `offset`, if a part of `have` bytes has it.
fn range(offset: u32, len: usize, have: u32, what: &'static str) -> Result<Range<u32>, QueueError> {
    let end = u64::from(offset).saturating_add(len as u64);
    match u32::try_from(end) {
        Ok(end) if end <= have => Ok(offset..end),
        _ => Err(QueueError::TooShort {
            what,
            need: end,
            have: have.into(),
        }),
    }
}

/// Calls `f` with the pieces of host memory behind `range` of `buffers`.
fn each<'m>(
    memory: &'m GuestMemoryMmap,
    buffers: &[Buffer],
    range: Range<u32>,
    access: Permissions,
    mut f: impl FnMut(VolatileSlice<'m>),
) -> Result<(), QueueError> {
    let mut start = 0u32;
    for buffer in buffers {
        // The sum of all lengths fits: `push` saw to that.
        let end = start + buffer.len;
        let from = range.start.max(start);
        let to = range.end.min(end);
        if from < to {
            let gone = || QueueError::Memory {
                address: buffer.address.0,
                len: buffer.len.into(),
            };
            let address = buffer
                .address
                .0
                .checked_add(u64::from(from - start))
                .ok_or_else(gone)?;
            let slices = memory
                .get_slices(GuestAddress(address), (to - from) as usize, access)
                .map_err(|_| gone())?;
            for slice in slices {
                f(slice.map_err(|_| gone())?);
            }
        }
        if end >= range.end {
            break;
        }
        start = end;
    }
    Ok(())
}

fn slices<'m>(
    memory: &'m GuestMemoryMmap,
    buffers: &[Buffer],
    range: Range<u32>,
    access: Permissions,
) -> Result<Slices<'m>, QueueError> {
    let mut pieces = Vec::with_capacity(buffers.len().min(IOV_MAX));
    each(memory, buffers, range, access, |slice| pieces.push(slice))?;
    Ok(Slices { pieces })
}

/// The most pieces of one vectored system call (`UIO_MAXIOV`).
const IOV_MAX: usize = 1024;

/// Guest memory as the host sees it, for system calls that read or write it
/// without a copy in between.
#[derive(Debug, Default)]
pub struct Slices<'m> {
    pieces: Vec<VolatileSlice<'m>>,
}

impl<'m> Slices<'m> {
    /// Adds `other` at the end.
    pub fn append(&mut self, mut other: Slices<'m>) {
        self.pieces.append(&mut other.pieces);
    }

    /// Whether one system call can take all of them, and a prefix.
    pub fn fits_one_call(&self) -> bool {
        self.pieces.len() < IOV_MAX
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(VolatileSlice::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Fills them from `fd`, as far as one `readv` goes.
    ///
    /// # Errors
    /// Those of the system call.
    pub fn read_from(&self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let guards: Vec<_> = self.pieces.iter().map(|p| p.ptr_guard_mut()).collect();
        let vectors: Vec<_> = guards
            .iter()
            .take(IOV_MAX)
            .map(|guard| libc::iovec {
                iov_base: guard.as_ptr().cast(),
                iov_len: guard.len(),
            })
            .collect();
        // SAFETY: the vectors describe guest memory, mapped as long as the
        // guards live, and of which no Rust reference exists; there are at most
        // IOV_MAX of them.
        #[allow(unsafe_code)]
        let read = unsafe { libc::readv(fd.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    /// Writes `before` and then them to `fd`, as far as one `writev` goes.
    ///
    /// # Errors
    /// Those of the system call.
    pub fn write_to(&self, before: &[u8], fd: BorrowedFd<'_>) -> io::Result<usize> {
        let guards: Vec<_> = self.pieces.iter().map(|p| p.ptr_guard()).collect();
        let before = (!before.is_empty()).then(|| libc::iovec {
            iov_base: before.as_ptr().cast_mut().cast(),
            iov_len: before.len(),
        });
        let vectors: Vec<_> = before
            .into_iter()
            .chain(guards.iter().map(|guard| libc::iovec {
                iov_base: guard.as_ptr().cast_mut().cast(),
                iov_len: guard.len(),
            }))
            .take(IOV_MAX)
            .collect();
        // SAFETY: the vectors describe `before` and guest memory that is mapped
        // as long as the guards live; writev only reads from them; there are at
        // most IOV_MAX of them.
        #[allow(unsafe_code)]
        let written =
            unsafe { libc::writev(fd.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }
}
