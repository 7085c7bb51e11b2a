//! Saying which system call was forbidden, then ending the process.

use std::sync::Once;

use super::EXIT_STATUS;

/// Installs the handler for the signal that a forbidden system call raises.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: all zeros is a valid sigaction; the handler only makes system
        // calls that may be made in a handler.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = refused
                as extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void)
                as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut());
        }
    });
}

/// The fields of `siginfo_t` for SIGSYS (include/uapi/asm-generic/siginfo.h).
#[repr(C)]
struct Refusal {
    signal: libc::c_int,
    error: libc::c_int,
    code: libc::c_int,
    padding: libc::c_int,
    address: *mut libc::c_void,
    call: libc::c_int,
    arch: libc::c_uint,
}

extern "C" fn refused(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel gives a valid siginfo_t, in which SIGSYS has these
    // fields.
    let call = unsafe { (*info.cast::<Refusal>()).call };
    let mut text = [0; 80];
    let len = message(&mut text, call.unsigned_abs());
    // SAFETY: the buffer is valid, and both may be called in a handler.
    unsafe {
        libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), len);
        libc::_exit(EXIT_STATUS.into());
    }
}

/// Writes the message into `text`, without allocating; returns its length.
fn message(text: &mut [u8; 80], call: u32) -> usize {
    let mut digits = [0; 10];
    let mut count = 0;
    let mut rest = call;
    loop {
        digits[count] = b'0' + (rest % 10) as u8;
        rest /= 10;
        count += 1;
        if rest == 0 {
            break;
        }
    }
    digits[..count].reverse();
    let mut len = 0;
    for part in [
        &b"error: the sandbox refused system call "[..],
        &digits[..count],
        b" (see --no-sandbox)\n",
    ] {
        text[len..len + part.len()].copy_from_slice(part);
        len += part.len();
    }
    len
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_message_names_the_system_call() {
        for call in [0, 7, 41, u32::MAX] {
            let mut text = [0; 80];
            let len = super::message(&mut text, call);
            let text = String::from_utf8_lossy(&text[..len]).into_owned();
            assert!(text.contains(&format!("system call {call} ")), "{text}");
        }
    }
}
