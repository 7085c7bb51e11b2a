//! Waiting for one of several events.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

/// Returns when one of the events can be read, or after `patience`.
pub(crate) fn wait<const N: usize>(
    events: [Option<&EventFd>; N],
    patience: Option<Duration>,
) -> io::Result<()> {
    let patience = patience.map_or(-1, |p| p.as_millis() as i32);
    let mut fds = events.map(|event| libc::pollfd {
        // poll ignores negative descriptors.
        fd: event.map_or(-1, AsRawFd::as_raw_fd),
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
