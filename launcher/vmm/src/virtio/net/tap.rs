//! A tap interface of the host.
//!
//! The kernel takes and gives frames with the same header that the guest uses
//! (`IFF_VNET_HDR`), so checksums and segmentation are left to whoever does
//! them last, and frames pass with no copy in the launcher.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::raw::{c_int, c_uint, c_ulong};
use std::os::unix::fs::OpenOptionsExt;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};

use super::handler::{Backend, Received, Sent};
use super::receive::Buffers;
use super::{HEADER, feature, invalid};
use crate::virtio::queue::{Chain, QueueError, set_nonblocking};

// linux/if_tun.h
const TUNSETIFF: c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: c_ulong = 0x4004_54d0;
const TUNGETIFF: c_ulong = 0x8004_54d2;
const TUNSETVNETHDRSZ: c_ulong = 0x4004_54d8;
const TUNSETQUEUE: c_ulong = 0x4004_54d9;
const TUN_F_CSUM: c_uint = 1;
const TUN_F_TSO4: c_uint = 2;
const TUN_F_TSO6: c_uint = 4;
const TUN_F_TSO_ECN: c_uint = 8;
const IFF_ATTACH_QUEUE: c_int = 0x0200;
const IFF_DETACH_QUEUE: c_int = 0x0400;

/// Opens `queues` queues of the tap interface `name`, which is made if it does
/// not exist.
///
/// # Errors
/// The name is too long, or the caller may not use that interface.
pub fn open(name: &str, queues: usize) -> io::Result<Vec<OwnedFd>> {
    let mut request = request();
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(invalid("an interface's name has 1 to 15 bytes"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if queues > 1 {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    request.ifr_ifru.ifru_flags = flags as i16;
    (0..queues)
        .map(|_| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
                .open("/dev/net/tun")?;
            // SAFETY: TUNSETIFF reads and writes one ifreq.
            #[allow(unsafe_code)]
            let result = unsafe { ioctl_with_ref(&file, TUNSETIFF, &request) };
            check(result)?;
            Ok(OwnedFd::from(file))
        })
        .collect()
}

fn request() -> libc::ifreq {
    // SAFETY: all zeros are a valid ifreq.
    #[allow(unsafe_code)]
    unsafe {
        std::mem::zeroed()
    }
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Has the kernel use a queue of a tap with several, or no longer.
pub(super) fn attach(fd: &OwnedFd, attach: bool) -> io::Result<()> {
    let mut request = request();
    let flags = if attach {
        IFF_ATTACH_QUEUE
    } else {
        IFF_DETACH_QUEUE
    };
    request.ifr_ifru.ifru_flags = flags as i16;
    // SAFETY: TUNSETQUEUE reads one ifreq.
    #[allow(unsafe_code)]
    let result = unsafe { ioctl_with_ref(fd, TUNSETQUEUE, &request) };
    check(result)
}

/// One queue of a tap interface.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
}

impl Tap {
    /// One over the descriptor of a tap that was opened with `IFF_NO_PI` and
    /// `IFF_VNET_HDR`.
    ///
    /// # Errors
    /// It is no such descriptor.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        let mut request = request();
        // SAFETY: TUNGETIFF writes one ifreq.
        #[allow(unsafe_code)]
        let result = unsafe { ioctl_with_mut_ref(&fd, TUNGETIFF, &mut request) };
        check(result)?;
        // SAFETY: TUNGETIFF sets the flags, and any bytes are valid ones.
        #[allow(unsafe_code)]
        let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        if flags & libc::IFF_TAP == 0
            || flags & libc::IFF_NO_PI == 0
            || flags & libc::IFF_VNET_HDR == 0
        {
            return Err(invalid(
                "a tap must be opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR",
            ));
        }
        let size = HEADER as c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one int.
        #[allow(unsafe_code)]
        let result = unsafe { ioctl_with_ref(&fd, TUNSETVNETHDRSZ, &size) };
        check(result)?;
        Ok(Self { fd })
    }
}

impl Backend for Tap {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn features(&self) -> u64 {
        feature::CSUM
            | feature::HOST_TSO4
            | feature::HOST_TSO6
            | feature::HOST_ECN
            | feature::GUEST_CSUM
            | feature::GUEST_TSO4
            | feature::GUEST_TSO6
            | feature::GUEST_ECN
    }

    fn start(&mut self, features: u64) -> io::Result<()> {
        // What the guest can take from the host; what it sends may have it all.
        let mut offloads = 0;
        if features & feature::GUEST_CSUM != 0 {
            offloads |= TUN_F_CSUM;
            for (guest, host) in [
                (feature::GUEST_TSO4, TUN_F_TSO4),
                (feature::GUEST_TSO6, TUN_F_TSO6),
            ] {
                if features & guest != 0 {
                    offloads |= host;
                }
            }
            if features & feature::GUEST_ECN != 0 && offloads & (TUN_F_TSO4 | TUN_F_TSO6) != 0 {
                offloads |= TUN_F_TSO_ECN;
            }
        }
        // SAFETY: TUNSETOFFLOAD takes a number.
        #[allow(unsafe_code)]
        let result = unsafe { ioctl_with_val(&self.fd, TUNSETOFFLOAD, c_ulong::from(offloads)) };
        check(result)
    }

    fn send(&mut self, memory: &GuestMemoryMmap, chain: &Chain) -> Result<Sent, QueueError> {
        let len = chain.readable_len();
        let slices = chain.readable_slices(memory, 0, len)?;
        if !slices.fits_one_call() {
            return Ok(Sent::Dropped);
        }
        Ok(match slices.write_to(&[], self.fd.as_fd()) {
            Ok(_) => Sent::Bytes(len.saturating_sub(HEADER as u32)),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => Sent::Blocked,
                // The interface is down, or the kernel does not like the
                // header: that frame's problem.
                _ => Sent::Dropped,
            },
        })
    }

    fn flush(&mut self) -> Sent {
        Sent::Bytes(0)
    }

    fn frames_are_unseen(&self) -> bool {
        true
    }

    fn has_buffered(&self) -> bool {
        false
    }

    fn receive(
        &mut self,
        memory: &GuestMemoryMmap,
        buffers: &mut Buffers,
    ) -> Result<Received, QueueError> {
        if !buffers.ready() {
            return Ok(Received::NoBuffers);
        }
        Ok(match buffers.read_from(memory, self.fd.as_fd())? {
            Ok(n) if n > HEADER => Received::Bytes((n - HEADER) as u32),
            Ok(_) => Received::Dropped,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => Received::Nothing,
                // EBADFD: the interface has been deleted.
                _ => Received::Closed,
            },
        })
    }
}
