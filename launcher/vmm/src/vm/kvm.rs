//! KVM, and what a machine needs of it.

use std::io;
use std::sync::Arc;

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemoryBackend};

use crate::arch::layout;
use crate::irq::io_error;
use crate::memory::{Placement, Range};
use crate::virtio::Memory;
use crate::virtio::mem::Slots;

/// KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is none.
    #[error(
        "/dev/kvm does not exist: the kernel modules kvm and kvm_intel or kvm_amd are not loaded, or virtualisation is off in the firmware"
    )]
    Missing,
    /// It is not for this user.
    #[error("/dev/kvm is not for this user: add them to its group (usually kvm)")]
    Permission,
    /// It is too old, or none.
    #[error("/dev/kvm speaks version {0}, not {KVM_API_VERSION}")]
    Version(i32),
    /// It cannot do what is needed.
    #[error("this host's KVM has no {0:?}")]
    Capability(Cap),
    /// A call failed.
    #[error("KVM cannot {what}: {error}")]
    Call {
        /// What was tried.
        what: &'static str,
        /// What it said.
        #[source]
        error: io::Error,
    },
}

impl KvmError {
    pub(super) fn call(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |error| Self::Call {
            what,
            error: io_error(error),
        }
    }
}

/// What a machine cannot be without.
const NEEDED: [Cap; 6] = [
    Cap::Irqchip,
    Cap::IrqRouting,
    Cap::Irqfd,
    Cap::Ioeventfd,
    Cap::UserMemory,
    Cap::ImmediateExit,
];

/// Opens KVM and checks what it can do.
pub(super) fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::Missing,
        libc::EACCES | libc::EPERM => KvmError::Permission,
        _ => KvmError::call("be opened")(error),
    })?;
    let version = kvm.get_api_version();
    if version != KVM_API_VERSION as i32 {
        return Err(KvmError::Version(version));
    }
    for capability in NEEDED {
        if !kvm.check_extension(capability) {
            return Err(KvmError::Capability(capability));
        }
    }
    Ok(kvm)
}

/// An empty machine with its interrupt controllers.
pub(super) fn create_vm(kvm: &Kvm) -> Result<VmFd, KvmError> {
    let vm = loop {
        match kvm.create_vm() {
            // A signal ends KVM's work here, which has no other consequence.
            Err(error) if error.errno() == libc::EINTR => {}
            other => break other.map_err(KvmError::call("make a virtual machine"))?,
        }
    };
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
        .map_err(KvmError::call("place its identity map"))?;
    vm.set_tss_address(layout::KVM_TSS as usize)
        .map_err(KvmError::call("place its task state segment"))?;
    vm.create_irq_chip()
        .map_err(KvmError::call("make interrupt controllers"))?;
    Ok(vm)
}

/// Gives the machine the memory that it has at boot.
pub(super) fn set_memory(
    vm: &VmFd,
    memory: &Memory,
    placement: &Placement,
) -> Result<(), KvmError> {
    for (slot, range) in placement.boot.iter().enumerate() {
        show(vm, memory, slot as u32, *range, true).map_err(|error| KvmError::Call {
            what: "map the guest's memory",
            error,
        })?;
    }
    Ok(())
}

/// Lets the guest reach `range` of its memory, or not any more.
fn show(vm: &VmFd, memory: &Memory, slot: u32, range: Range, reachable: bool) -> io::Result<()> {
    let start = GuestAddress(range.start);
    let address = memory.memory().get_host_address(start);
    let region = kvm_bindings::kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: range.start,
        // Of no bytes, it is taken away.
        memory_size: if reachable { range.len } else { 0 },
        userspace_addr: address.map_err(io::Error::other)? as u64,
    };
    // SAFETY: the range is mapped, and stays so while the guest can run: the
    // machine holds the memory and drops it after its vCPUs. What the guest
    // writes there is no Rust object.
    unsafe { vm.set_user_memory_region(region) }.map_err(io_error)
}

/// Shows a guest what is plugged in.
#[derive(Debug)]
pub(super) struct KvmSlots {
    vm: Arc<VmFd>,
    memory: Memory,
    /// How many slots the memory at boot takes.
    taken: u32,
}

impl KvmSlots {
    pub(super) fn new(vm: &Arc<VmFd>, memory: &Memory, placement: &Placement) -> Self {
        Self {
            vm: Arc::clone(vm),
            memory: memory.clone(),
            taken: placement.boot.len() as u32,
        }
    }
}

impl Slots for KvmSlots {
    fn set(&self, number: u32, range: Range, reachable: bool) -> io::Result<()> {
        let slot = self.taken + number;
        show(&self.vm, &self.memory, slot, range, reachable)
    }
}

/// What KVM lets a processor be.
pub(super) fn supported_cpuid(kvm: &Kvm) -> Result<CpuId, KvmError> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(KvmError::call("tell what processors it can make"))
}
