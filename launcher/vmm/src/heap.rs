//! What the allocator keeps of memory that was freed.
//!
//! A machine is prepared in many small pieces: the entries of a file system,
//! the extents of its disk. Freed, they leave holes that stay resident for as
//! long as the machine runs, unless they are given back.

/// Gives back to the system all pages in which there is nothing.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes no pointer, and only releases pages that no
    // allocation is in, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
