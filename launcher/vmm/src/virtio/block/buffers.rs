//! A request's buffers: pieces of the guest's memory, in order.

#![allow(unsafe_code)]

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

/// Pieces of the guest's memory that stay mapped as long as this is alive.
///
/// The guest may read and write them at any time, so no reference to their
/// bytes is ever made; they are copied from and to, by pointer.
#[derive(Debug)]
pub(crate) struct Buffers {
    memory: Arc<GuestMemoryMmap>,
    pieces: Vec<libc::iovec>,
    len: u64,
}

/// A byte of the guest's memory.
#[derive(Debug)]
pub(crate) struct GuestByte {
    _memory: Arc<GuestMemoryMmap>,
    address: *mut u8,
}

impl GuestByte {
    pub(crate) fn write(&self, value: u8) {
        // SAFETY: the address was taken from a slice of the memory that is
        // held, so it is mapped and writable.
        unsafe { self.address.write_volatile(value) }
    }
}

impl Buffers {
    pub(crate) fn new(memory: Arc<GuestMemoryMmap>) -> Self {
        Self {
            memory,
            pieces: Vec::new(),
            len: 0,
        }
    }

    pub(crate) fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// Bytes in all pieces.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Appends `len` bytes at a guest address; `None` if the guest has no
    /// memory there.
    pub(crate) fn push(&mut self, address: GuestAddress, len: u32) -> Option<()> {
        // Both kinds of access are checked, because regions have one kind.
        let access = Permissions::ReadWrite;
        for slice in self.memory.get_slices(address, len as usize, access).ok()? {
            let slice = slice.ok()?;
            self.pieces.push(libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
        }
        self.len += u64::from(len);
        Some(())
    }

    /// Takes the last byte off.
    pub(crate) fn pop_byte(&mut self) -> Option<GuestByte> {
        while self.pieces.last().is_some_and(|piece| piece.iov_len == 0) {
            self.pieces.pop();
        }
        let piece = self.pieces.last_mut()?;
        piece.iov_len -= 1;
        self.len -= 1;
        let address = piece.iov_base.cast::<u8>().wrapping_add(piece.iov_len);
        Some(GuestByte {
            _memory: Arc::clone(&self.memory),
            address,
        })
    }

    /// Copies the first `N` bytes and takes them off.
    pub(crate) fn pop_front<const N: usize>(&mut self) -> Option<[u8; N]> {
        if self.len < N as u64 {
            return None;
        }
        let mut bytes = [0; N];
        self.copy_out(0, &mut bytes);
        let rest = self.slice(N as u64, self.len - N as u64);
        self.pieces = rest;
        self.len -= N as u64;
        Some(bytes)
    }

    /// The pieces that make up `len` bytes from byte `at` on.
    pub(crate) fn slice(&self, at: u64, len: u64) -> Vec<libc::iovec> {
        let (mut skip, mut left) = (at, len);
        let mut slice = Vec::new();
        for piece in &self.pieces {
            if left == 0 {
                break;
            }
            let there = piece.iov_len as u64;
            if skip >= there {
                skip -= there;
                continue;
            }
            let n = (there - skip).min(left);
            slice.push(libc::iovec {
                iov_base: piece
                    .iov_base
                    .cast::<u8>()
                    .wrapping_add(skip as usize)
                    .cast(),
                iov_len: n as usize,
            });
            skip = 0;
            left -= n;
        }
        slice
    }

    /// Copies bytes from `at` on to `bytes`, as many as there are.
    pub(crate) fn copy_out(&self, at: u64, bytes: &mut [u8]) {
        let mut rest = bytes;
        for piece in self.slice(at, rest.len() as u64) {
            let (part, tail) = rest.split_at_mut(piece.iov_len.min(rest.len()));
            // SAFETY: the piece lies in the memory that is held, the slice is
            // ours and as long; they cannot overlap.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    piece.iov_base.cast::<u8>(),
                    part.as_mut_ptr(),
                    part.len(),
                );
            }
            rest = tail;
        }
    }

    /// Copies `bytes` to where they fit from `at` on.
    pub(crate) fn copy_in(&self, at: u64, bytes: &[u8]) {
        let mut rest = bytes;
        for piece in self.slice(at, rest.len() as u64) {
            let (part, tail) = rest.split_at(piece.iov_len.min(rest.len()));
            // SAFETY: as in `copy_out`, the other way round.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    part.as_ptr(),
                    piece.iov_base.cast::<u8>(),
                    part.len(),
                );
            }
            rest = tail;
        }
    }

    /// Clears `len` bytes from `at` on.
    pub(crate) fn clear(&self, at: u64, len: u64) {
        for piece in self.slice(at, len) {
            // SAFETY: the piece lies in the memory that is held.
            unsafe { std::ptr::write_bytes(piece.iov_base.cast::<u8>(), 0, piece.iov_len) }
        }
    }
}
