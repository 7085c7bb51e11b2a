//! Memory of the guest that is given back to the host.

use std::io;
use std::os::fd::AsRawFd;

use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

/// Gives back the `len` bytes at `start`, which lie in one region; they take up
/// nothing until they are written again. Until then they read as zeros, or as
/// what was mapped there from a file at boot.
///
/// # Errors
/// They do not lie in one region, or the host refuses.
pub(super) fn discard(memory: &GuestMemoryMmap, start: u64, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    let outside = || io::Error::new(io::ErrorKind::InvalidInput, "not in memory");
    let region = memory
        .find_region(GuestAddress(start))
        .ok_or_else(outside)?;
    let offset = start - region.start_addr().0;
    if len > region.len() - offset {
        return Err(outside());
    }
    if let Some(file) = region.file_offset() {
        punch(file.file().as_raw_fd(), file.start() + offset, len)?;
    }
    // Not of the file are pages of a kernel that the guest has written to.
    forget(region, offset, len)
}

/// Makes a hole in the file; it goes from all mappings of it, and from KVM's
/// view of them.
fn punch(fd: i32, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (offset as libc::off_t, len as libc::off_t);
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: takes plain numbers. The pages that go belong to the guest, whose
    // memory may change at any time; no Rust reference leads there, and reading
    // them stays possible.
    match unsafe { libc::fallocate(fd, mode, offset, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The same for pages that are of no file that can be written.
fn forget(region: &GuestRegionMmap, offset: u64, len: u64) -> io::Result<()> {
    let slice = region
        .get_slice(vm_memory::MemoryRegionAddress(offset), len as usize)
        .map_err(io::Error::other)?;
    let guard = slice.ptr_guard_mut();
    // SAFETY: the range is mapped as long as the guard lives, and the guest's: no
    // Rust reference leads there, and reading it stays possible.
    match unsafe { libc::madvise(guard.as_ptr().cast(), guard.len(), libc::MADV_DONTNEED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
