//! Giving up what a process was started with.

use std::io;

use super::SandboxError;

/// `_LINUX_CAPABILITY_VERSION_3` (include/uapi/linux/capability.h).
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`; version 3 takes two.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn refused(what: &'static str) -> SandboxError {
    SandboxError::Privilege {
        what,
        error: io::Error::last_os_error(),
    }
}

/// No new privileges and no capabilities, for the calling thread.
pub(super) fn drop_all() -> Result<(), SandboxError> {
    // SAFETY: takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(refused("the right to new privileges"));
    }
    // SAFETY: takes numbers only.
    let cleared = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    };
    if cleared != 0 {
        return Err(refused("ambient capabilities"));
    }
    let header = Header {
        version: CAPABILITY_VERSION,
        // The calling thread.
        pid: 0,
    };
    let none = [Data::default(); 2];
    // SAFETY: both point at structures of the layout that this version has,
    // and the kernel only reads them.
    if unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) } != 0 {
        return Err(refused("capabilities"));
    }
    Ok(())
}

/// No core dumps of this process.
pub(super) fn no_core_dumps() -> Result<(), SandboxError> {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure is valid and only read.
    match unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) } {
        0 => Ok(()),
        _ => Err(refused("core dumps")),
    }
}

/// Closes all descriptors from 3 on, apart from those in `keep`.
pub(super) fn close_inherited(keep: &[i32]) -> Result<(), SandboxError> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|fd| (*fd).try_into().ok()).collect();
    keep.sort_unstable();
    let mut first = 3u32;
    for last in keep.into_iter().map(Some).chain([None]) {
        let end = last.map_or(u32::MAX, |fd| fd.saturating_sub(1));
        if first <= end {
            // SAFETY: who calls this holds no descriptors in the range yet;
            // those that are there came with the process and nobody knows
            // them.
            let closed = unsafe { libc::syscall(libc::SYS_close_range, first, end, 0u32) };
            // Before Linux 5.9 there is no such call; then they stay.
            if closed != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS) {
                return Err(refused("descriptors of the parent's"));
            }
        }
        first = first.max(last.map_or(u32::MAX, |fd| fd.saturating_add(1)));
    }
    Ok(())
}
