//! Port writes that KVM keeps, so that the guest need not be left for them.
//!
//! A kernel looks at PCI's functions a thousand times while it boots, each time
//! with a write to the address port, which does nothing until the data port is
//! used: KVM keeps these writes in a ring and goes on with the guest
//! (`KVM_REGISTER_COALESCED_MMIO`, Documentation/virt/kvm/api.rst). Whoever
//! handles an access to PCI's ports does what is in the ring first.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use kvm_bindings::{KVM_COALESCED_MMIO_PAGE_OFFSET, kvm_coalesced_mmio, kvm_coalesced_mmio_ring};
use kvm_ioctls::{Cap, IoEventAddress, VcpuFd, VmFd};

use super::kvm::KvmError;
use crate::arch::layout;

/// The ring's size in bytes: one page.
const SIZE: usize = 4096;

/// How many writes it holds (`KVM_COALESCED_MMIO_MAX`).
const ENTRIES: u32 =
    ((SIZE - size_of::<kvm_coalesced_mmio_ring>()) / size_of::<kvm_coalesced_mmio>()) as u32;

/// Size of the address port, in bytes.
const ADDRESS: u32 = 4;

/// The ring of a machine's kept writes.
#[derive(Debug)]
pub(super) struct KeptWrites(Mutex<Ring>);

/// The page that KVM writes and whoever holds the lock reads.
#[derive(Debug)]
struct Ring(NonNull<kvm_coalesced_mmio_ring>);

// SAFETY: the page is the process's, not a thread's.
unsafe impl Send for Ring {}

impl KeptWrites {
    /// Has the machine's KVM keep writes to PCI's address port; nothing if it
    /// cannot (before Linux 4.20). The ring is that of the machine, and mapped
    /// by way of any of its processors.
    pub(super) fn new(vm: &VmFd, vcpu: &VcpuFd) -> Result<Option<Self>, KvmError> {
        if !vm.check_extension(Cap::CoalescedPio) {
            return Ok(None);
        }
        const WHAT: &str = "keep writes to ports";
        let ring = Ring::map(vcpu).map_err(|error| KvmError::Call { what: WHAT, error })?;
        let port = IoEventAddress::Pio(layout::PCI_CONFIG_PORT.into());
        vm.register_coalesced_mmio(port, ADDRESS)
            .map_err(KvmError::call(WHAT))?;
        Ok(Some(Self(Mutex::new(ring))))
    }

    /// Whether a kept write may matter to an access to `port`.
    pub(super) fn concern(port: u16) -> bool {
        (layout::PCI_CONFIG_PORT..layout::PCI_CONFIG_PORT + 8).contains(&port)
    }

    /// Takes the writes, the oldest first: their ports and bytes. Other threads
    /// that want to have them done wait for it.
    pub(super) fn take(&self, mut work: impl FnMut(u16, &[u8])) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(write) = ring.next() {
            let bytes = write.data.get(..write.len as usize);
            if let (Ok(port), Some(bytes)) = (u16::try_from(write.phys_addr), bytes) {
                work(port, bytes);
            }
        }
    }
}

impl Ring {
    fn map(vcpu: &VcpuFd) -> io::Result<Self> {
        let offset = SIZE as libc::off_t * libc::off_t::from(KVM_COALESCED_MMIO_PAGE_OFFSET);
        // SAFETY: a mapping of its own, at an address that the kernel chooses.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                offset,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let ring = NonNull::new(page.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self(ring))
    }

    fn next(&mut self) -> Option<kvm_coalesced_mmio> {
        let ring = self.0.as_ptr();
        // SAFETY: the page is mapped for as long as this lives, and these fields
        // are aligned; KVM accesses them atomically, too.
        let (first, last) = unsafe {
            (
                AtomicU32::from_ptr(&raw mut (*ring).first),
                AtomicU32::from_ptr(&raw mut (*ring).last),
            )
        };
        let at = first.load(Ordering::Relaxed);
        // KVM has written the entry before it moves the end past it.
        if at == last.load(Ordering::Acquire) || at >= ENTRIES {
            return None;
        }
        // SAFETY: the entry lies in the page, and KVM leaves it alone until the
        // start of the ring has moved past it.
        let write = unsafe {
            let entries = (&raw const (*ring).coalesced_mmio).cast::<kvm_coalesced_mmio>();
            entries.add(at as usize).read_volatile()
        };
        first.store((at + 1) % ENTRIES, Ordering::Release);
        Some(write)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this size, and nothing leads there any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), SIZE) };
    }
}
