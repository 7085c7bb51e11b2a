//! Interrupts: which line leads where in KVM's interrupt controllers.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KvmIrqRouting,
    kvm_irq_routing_entry,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use crate::arch::layout;

/// A message that is an interrupt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Message {
    /// Where it is written to.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// Where messages can be routed: KVM, or a test.
pub trait Router: Send + Sync + std::fmt::Debug {
    /// A new line: what is signalled, and its number.
    ///
    /// # Errors
    /// If there are no more.
    fn line(&self) -> io::Result<(EventFd, u32)>;

    /// From now on, `line` sends `message`.
    ///
    /// # Errors
    /// If KVM refuses.
    fn route(&self, line: u32, message: Message) -> io::Result<()>;

    /// Signals of `doorbell` follow writes of the guest to `address`.
    ///
    /// # Errors
    /// If KVM refuses.
    fn ring(&self, doorbell: &EventFd, address: u64) -> io::Result<()>;

    /// Undoes [`ring`](Self::ring).
    ///
    /// # Errors
    /// If KVM refuses.
    fn unring(&self, doorbell: &EventFd, address: u64) -> io::Result<()>;
}

/// All routes of a machine.
#[derive(Debug)]
pub struct KvmRouter {
    vm: Arc<VmFd>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    messages: BTreeMap<u32, Message>,
    next: u32,
}

impl KvmRouter {
    /// The routes of `vm`: so far, each pin of the IOAPIC has its own number.
    ///
    /// # Errors
    /// If KVM refuses.
    pub fn new(vm: Arc<VmFd>) -> io::Result<Self> {
        let router = Self {
            vm,
            state: Mutex::new(State {
                messages: BTreeMap::new(),
                next: layout::IOAPIC_PINS,
            }),
        };
        router.apply(&BTreeMap::new())?;
        Ok(router)
    }

    /// Makes `event` raise the pin `irq` of the IOAPIC.
    ///
    /// # Errors
    /// If KVM refuses.
    pub fn pin(&self, irq: u32) -> io::Result<EventFd> {
        let event = EventFd::new(libc::EFD_NONBLOCK)?;
        self.vm.register_irqfd(&event, irq).map_err(io_error)?;
        Ok(event)
    }

    fn apply(&self, messages: &BTreeMap<u32, Message>) -> io::Result<()> {
        let mut entries: Vec<_> = (0..layout::IOAPIC_PINS)
            .map(|pin| {
                let mut entry = kvm_irq_routing_entry {
                    gsi: pin,
                    type_: KVM_IRQ_ROUTING_IRQCHIP,
                    ..Default::default()
                };
                entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
                entry.u.irqchip.pin = pin;
                entry
            })
            .collect();
        entries.extend(messages.iter().map(|(gsi, message)| {
            let mut entry = kvm_irq_routing_entry {
                gsi: *gsi,
                type_: KVM_IRQ_ROUTING_MSI,
                ..Default::default()
            };
            entry.u.msi.address_lo = message.address as u32;
            entry.u.msi.address_hi = (message.address >> 32) as u32;
            entry.u.msi.data = message.data;
            entry
        }));
        let routing = KvmIrqRouting::from_entries(&entries).map_err(io::Error::other)?;
        self.vm.set_gsi_routing(&routing).map_err(io_error)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// KVM's errors are those of the operating system.
pub(crate) fn io_error(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

impl Router for KvmRouter {
    fn line(&self) -> io::Result<(EventFd, u32)> {
        let mut state = self.state();
        let event = EventFd::new(libc::EFD_NONBLOCK)?;
        self.vm
            .register_irqfd(&event, state.next)
            .map_err(io_error)?;
        state.next += 1;
        Ok((event, state.next - 1))
    }

    fn route(&self, line: u32, message: Message) -> io::Result<()> {
        let mut state = self.state();
        // Setting routes waits for all vCPUs; guests rewrite what is there.
        if state.messages.get(&line) == Some(&message) {
            return Ok(());
        }
        state.messages.insert(line, message);
        self.apply(&state.messages)
    }

    fn ring(&self, doorbell: &EventFd, address: u64) -> io::Result<()> {
        let address = kvm_ioctls::IoEventAddress::Mmio(address);
        self.vm
            .register_ioevent(doorbell, &address, kvm_ioctls::NoDatamatch)
            .map_err(io_error)
    }

    fn unring(&self, doorbell: &EventFd, address: u64) -> io::Result<()> {
        let address = kvm_ioctls::IoEventAddress::Mmio(address);
        self.vm
            .unregister_ioevent(doorbell, &address, kvm_ioctls::NoDatamatch)
            .map_err(io_error)
    }
}
