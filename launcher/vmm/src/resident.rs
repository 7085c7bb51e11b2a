//! Memory that a machine's process keeps beside the guest's.
//!
//! A machine is prepared in many small pieces: the entries of a file system,
//! the extents of its disk. Freed, they leave holes that stay resident for as
//! long as the machine runs, unless they are given back; and so does the code
//! that made them, most of the program, of which a running machine uses little.

use std::ffi::{c_int, c_void};

/// Has all threads take from one heap. By itself each gets its own, most of which
/// is never used: some hundred KiB for every thread. To be called before there
/// are threads; those of a machine allocate little once they run.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes plain numbers.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Has memory of this process, and of programs that it starts, come in pages of
/// the smallest size, or as the system likes. What prepares a machine and stands
/// by it touches a little in many places, and 2 MiB at each would be much; that
/// of a guest is better off with huge pages.
pub fn small_pages(small: bool) {
    // SAFETY: prctl(2) with plain numbers. Where the kernel knows no huge pages,
    // there is nothing to be done.
    unsafe {
        libc::prctl(
            libc::PR_SET_THP_DISABLE,
            libc::c_ulong::from(small),
            0,
            0,
            0,
        );
    }
}

/// Gives back to the system all pages of the heap in which there is nothing.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes no pointer, and only releases pages that no
    // allocation is in, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Takes the program's code and constants out of this process until they are
/// used again: they come from the page cache then, a few pages at a time.
pub fn let_go_of_code() {
    // SAFETY: the function is one of the type that is asked for, does not
    // unwind, and keeps nothing of what it is given.
    unsafe {
        libc::dl_iterate_phdr(Some(let_go), std::ptr::null_mut());
    }
}

/// Of the object that dl_iterate_phdr(3) tells of first, which is the program.
unsafe extern "C" fn let_go(info: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: dl_iterate_phdr passes an object that is loaded, and its headers,
    // which stay there as long as it is.
    let (base, headers) = unsafe {
        let info = &*info;
        let headers = std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into());
        (info.dlpi_addr, headers)
    };
    let read_only = (headers.iter())
        .filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0);
    for header in read_only {
        let start = (base + header.p_vaddr).next_multiple_of(4096);
        let end = (base + header.p_vaddr + header.p_memsz) & !4095;
        let len = end.saturating_sub(start) as usize;
        // SAFETY: the pages are those of a file that cannot be written to while
        // it runs, and nothing can have been written to these: read again, they
        // are the same.
        let _ = unsafe { libc::madvise(start as *mut c_void, len, libc::MADV_DONTNEED) };
    }
    // The first is all.
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_runs_on_after_it_was_let_go() {
        let resident = || -> u64 {
            let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let exe = std::env::current_exe().unwrap();
            let mut ours = false;
            let mut total = 0;
            for line in text.lines() {
                if line.contains(" r-xp ") || line.contains(" r--p ") || line.contains(" rw-p ") {
                    ours = line.contains(" r-xp ") && line.ends_with(exe.to_str().unwrap());
                } else if let Some(rest) = line.strip_prefix("Rss:").filter(|_| ours) {
                    let kib = rest.split_whitespace().next().unwrap();
                    total += kib.parse::<u64>().unwrap();
                }
            }
            total
        };
        let before = resident();
        let_go_of_code();
        let after = resident();
        assert!(after < before, "{before} {after}");
    }
}
