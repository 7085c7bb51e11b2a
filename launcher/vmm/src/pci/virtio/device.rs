//! A virtio device as a PCI function.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::EventFd;

use super::common::{Action, Common, QueueSetup};
use super::interrupt::Vectors;
use crate::irq::Router;
use crate::pci::bus::{PciBus, PciDevice};
use crate::pci::config::{ConfigSpace, Identity};
use crate::pci::msix::{self, Msix};
use crate::virtio::{Activation, ActiveQueue, Interrupt, Memory, VirtioDevice};
use crate::worker::Worker;

const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const PENDING: u64 = 0x5000;
const PAGE: u64 = 0x1000;
/// Bytes between two doorbells.
const NOTIFY_STRIDE: u32 = 4;
/// What fits in the pages for doorbells and MSI-X.
const MAX_QUEUES: usize = 128;

/// [Section 4.1.4]: kinds of capabilities.
///
/// [Section 4.1.4]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-1220004
const CAPABILITY: u8 = 0x09;
const CAP_COMMON: u8 = 1;
const CAP_NOTIFY: u8 = 2;
const CAP_ISR: u8 = 3;
const CAP_DEVICE: u8 = 4;
const CAP_PCI: u8 = 5;

const VENDOR: u16 = 0x1af4;
const DEVICE_BASE: u16 = 0x1040;

/// PCI classes of section 5's devices, for those who list them.
fn class(id: u16) -> [u8; 3] {
    match id {
        1 => [0x02, 0x00, 0],
        2 => [0x01, 0x80, 0],
        3 => [0x07, 0x80, 0],
        5 | 24 => [0x05, 0x80, 0],
        _ => [0xff, 0x00, 0],
    }
}

struct State {
    config: ConfigSpace,
    common: Common,
    /// Doorbells that KVM rings, with their addresses.
    doorbells: Vec<(EventFd, u64)>,
}

/// A device, its registers and its interrupts.
pub struct VirtioPci {
    name: String,
    bar: u64,
    memory: Memory,
    router: Arc<dyn Router>,
    worker: Arc<Worker>,
    vectors: Arc<Vectors>,
    state: Mutex<State>,
    /// Taken out when the machine is rebuilt around it.
    device: Arc<Mutex<Option<Box<dyn VirtioDevice>>>>,
    msix_offset: u8,
    pci_offset: u8,
}

impl fmt::Debug for VirtioPci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioPci")
            .field("name", &self.name)
            .field("bar", &format_args!("{:#x}", self.bar))
            .finish_non_exhaustive()
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VirtioPci {
    /// Puts `device` behind the BAR at `bar`. Its calls that may block or
    /// start threads are made by `worker`, not by a vCPU.
    ///
    /// # Errors
    /// If there are not enough interrupts.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        bar: u64,
        memory: Memory,
        router: Arc<dyn Router>,
        worker: Arc<Worker>,
    ) -> io::Result<Self> {
        let queues = device.queue_sizes().len();
        if queues > MAX_QUEUES {
            return Err(io::Error::other(format!(
                "{}: {queues} queues, at most {MAX_QUEUES} are possible",
                device.name()
            )));
        }
        let msix = Msix::new(Arc::clone(&router), queues as u16 + 1)?;
        let mut config = ConfigSpace::new(Identity {
            id: (VENDOR, DEVICE_BASE + device.id()),
            subsystem: (VENDOR, DEVICE_BASE + device.id()),
            class: class(device.id()),
            revision: 1,
        });
        config.set_bar0(bar as u32, PciBus::BAR_SIZE as u32);
        let (msix_offset, pci_offset) = capabilities(&mut config, msix.len());
        Ok(Self {
            name: device.name().to_owned(),
            bar,
            memory,
            router,
            worker,
            vectors: Arc::new(Vectors::new(msix, queues)),
            state: Mutex::new(State {
                config,
                common: Common::new(device.features(), device.queue_sizes()),
                doorbells: Vec::new(),
            }),
            device: Arc::new(Mutex::new(Some(device))),
            msix_offset,
            pci_offset,
        })
    }

    /// Resets the device and takes it out.
    pub fn into_device(self: Arc<Self>) -> Option<Box<dyn VirtioDevice>> {
        self.reset(&mut lock(&self.state));
        let mut device = lock(&self.device).take()?;
        device.detach();
        Some(device)
    }

    fn activate(&self, state: &mut State, features: u64, setups: &[QueueSetup]) {
        match self.queues(state, features, setups) {
            Ok(queues) => {
                let activation = Activation {
                    memory: self.memory.clone(),
                    features,
                    queues,
                    interrupt: Arc::clone(&self.vectors) as Arc<dyn Interrupt>,
                };
                let device = Arc::clone(&self.device);
                let result = self.worker.run(move || {
                    lock(&device)
                        .as_mut()
                        .map_or(Ok(()), |device| device.activate(activation))
                });
                match result {
                    Some(Ok(())) => {}
                    Some(Err(error)) => self.fail(&error.to_string()),
                    None => self.fail("it died while it was started"),
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&self, why: &str) {
        crate::log::warn(format_args!("{}: {why}", self.name));
        self.vectors.needs_reset();
    }

    fn queues(
        &self,
        state: &mut State,
        features: u64,
        setups: &[QueueSetup],
    ) -> Result<Vec<Option<ActiveQueue>>, String> {
        let memory = self.memory.memory();
        let mut queues = Vec::with_capacity(setups.len());
        for (index, setup) in setups.iter().enumerate() {
            let queue = setup.build(&memory, features).map_err(|_| {
                format!("the driver put queue {index} outside of the memory, or not aligned")
            })?;
            let Some(queue) = queue else {
                queues.push(None);
                continue;
            };
            let address = self.bar + NOTIFY + u64::from(NOTIFY_STRIDE) * index as u64;
            let doorbell = EventFd::new(libc::EFD_NONBLOCK)
                .and_then(|d| self.router.ring(&d, address).map(|()| d))
                .map_err(|error| format!("doorbell of queue {index}: {error}"))?;
            let copy = doorbell.try_clone().map_err(|error| error.to_string())?;
            state.doorbells.push((copy, address));
            queues.push(Some(ActiveQueue {
                index: index as u16,
                queue,
                doorbell,
            }));
        }
        Ok(queues)
    }

    fn reset(&self, state: &mut State) {
        for (doorbell, address) in state.doorbells.drain(..) {
            let _ = self.router.unring(&doorbell, address);
        }
        let device = Arc::clone(&self.device);
        self.worker.run(move || {
            if let Some(device) = lock(&device).as_mut() {
                device.reset();
            }
        });
        state.common.reset();
        self.vectors.reset();
    }

    fn apply(&self, state: &mut State, action: Action) {
        match action {
            Action::None => {}
            Action::Activate { features, queues } => self.activate(state, features, &queues),
            Action::Reset => self.reset(state),
        }
    }

    fn read_region(&self, state: &State, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let within = offset % PAGE;
        match offset / PAGE * PAGE {
            COMMON => state.common.read(within, data, &self.vectors),
            ISR => {
                if let (0, [byte, ..]) = (within, data) {
                    *byte = self.vectors.take_isr();
                }
            }
            DEVICE => {
                if let Some(device) = lock(&self.device).as_ref() {
                    device.read_config(within, data);
                }
            }
            TABLE => self.vectors.msix().read_table(within, data),
            PENDING => self.vectors.msix().read_pending(within, data),
            _ => {}
        }
    }

    fn write_region(&self, state: &mut State, offset: u64, data: &[u8]) {
        let within = offset % PAGE;
        match offset / PAGE * PAGE {
            COMMON => {
                let action = state.common.write(within, data, &self.vectors);
                self.apply(state, action);
            }
            DEVICE => {
                if let Some(device) = lock(&self.device).as_mut() {
                    device.write_config(within, data);
                }
            }
            // KVM takes writes to doorbells; those through the window below
            // and those of odd widths come here.
            NOTIFY => {
                let address = self.bar + offset;
                if let Some((doorbell, _)) = state.doorbells.iter().find(|d| d.1 == address) {
                    let _ = doorbell.write(1);
                }
            }
            TABLE => self.vectors.msix().write_table(within, data),
            _ => {}
        }
    }

    /// [Section 4.1.4.9]: a window into the BAR for those who cannot map it.
    /// Returns where it leads, if `offset` is its data.
    ///
    /// [Section 4.1.4.9]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-1390009
    fn window(&self, state: &State, offset: usize, len: usize) -> Option<u64> {
        let at = usize::from(self.pci_offset);
        let word = |at| {
            let mut bytes = [0; 4];
            state.config.read(at, &mut bytes);
            u32::from_le_bytes(bytes)
        };
        let (bar, target, length) = (word(at + 4) & 0xff, word(at + 8), word(at + 12));
        let fits = matches!(length, 1 | 2 | 4)
            && length as usize == len
            && target.is_multiple_of(length)
            && u64::from(target) + u64::from(length) <= PciBus::BAR_SIZE;
        (offset == at + 16 && bar == 0 && fits).then_some(target.into())
    }
}

/// Adds MSI-X's and virtio's capabilities; returns where MSI-X's and the
/// window's are.
fn capabilities(config: &mut ConfigSpace, vectors: u16) -> (u8, u8) {
    let mut msix = (vectors - 1).to_le_bytes().to_vec();
    msix.extend((TABLE as u32).to_le_bytes());
    msix.extend((PENDING as u32).to_le_bytes());
    let writable = [(3, msix::CONTROL_WRITABLE)];
    let msix_offset = config.add_capability(msix::CAPABILITY, &msix, &writable);
    let virtio = |kind: u8, offset: u64, length: u64, more: &[u8]| {
        // Length of the capability, kind, BAR, id, padding, offset, length.
        let mut body = vec![16 + more.len() as u8, kind, 0, 0, 0, 0];
        body.extend((offset as u32).to_le_bytes());
        body.extend((length as u32).to_le_bytes());
        body.extend(more);
        body
    };
    let regions = [
        (CAP_COMMON, COMMON, 56),
        (CAP_ISR, ISR, 1),
        (CAP_DEVICE, DEVICE, PAGE),
    ];
    for (kind, offset, length) in regions {
        config.add_capability(CAPABILITY, &virtio(kind, offset, length, &[]), &[]);
    }
    let stride = NOTIFY_STRIDE.to_le_bytes();
    config.add_capability(CAPABILITY, &virtio(CAP_NOTIFY, NOTIFY, PAGE, &stride), &[]);
    let writable: Vec<_> = [4].into_iter().chain(8..20).map(|at| (at, 0xff)).collect();
    let window = config.add_capability(CAPABILITY, &virtio(CAP_PCI, 0, 0, &[0; 4]), &writable);
    (msix_offset, window)
}

impl PciDevice for VirtioPci {
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let state = lock(&self.state);
        match self.window(&state, offset, data.len()) {
            Some(target) => self.read_region(&state, target, data),
            None => state.config.read(offset, data),
        }
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        let mut state = lock(&self.state);
        state.config.write(offset, data);
        let control = usize::from(self.msix_offset) + 2;
        if offset < control + 2 && offset + data.len() > control {
            let mut bytes = [0; 2];
            state.config.read(control, &mut bytes);
            self.vectors.msix().set_control(u16::from_le_bytes(bytes));
        }
        if let Some(target) = self.window(&state, offset, data.len()) {
            self.write_region(&mut state, target, data);
        }
    }

    fn read_bar(&self, offset: u64, data: &mut [u8]) {
        self.read_region(&lock(&self.state), offset, data);
    }

    fn write_bar(&self, offset: u64, data: &[u8]) {
        self.write_region(&mut lock(&self.state), offset, data);
    }
}

#[cfg(test)]
mod tests;
