//! Waiting for one of several events.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// Returns when one of the descriptors can be read, or after `patience`.
pub(crate) fn wait<const N: usize>(
    descriptors: [Option<RawFd>; N],
    patience: Option<Duration>,
) -> io::Result<()> {
    let patience = patience.map_or(-1, |p| p.as_millis() as i32);
    let mut fds = descriptors.map(|fd| libc::pollfd {
        // poll ignores negative descriptors.
        fd: fd.unwrap_or(-1),
        events: libc::POLLIN,
        revents: 0,
    });
    loop {
        // SAFETY: the array is ours and outlives the call.
        let n = unsafe { libc::poll(fds.as_mut_ptr(), N as libc::nfds_t, patience) };
        if n >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
