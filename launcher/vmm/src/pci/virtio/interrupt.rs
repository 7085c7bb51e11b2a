//! How a device behind the PCI transport reaches its driver.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::pci::msix::Msix;
use crate::virtio::Interrupt;

/// `VIRTIO_MSI_NO_VECTOR`: this event interrupts nobody.
pub(super) const NO_VECTOR: u16 = 0xffff;

/// [Section 4.1.4.5]: bit 0 a queue, bit 1 the configuration.
///
/// [Section 4.1.4.5]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-1340005
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// Vectors, and what device and transport share.
#[derive(Debug)]
pub(super) struct Vectors {
    msix: Mutex<Msix>,
    config: AtomicU16,
    queues: Vec<AtomicU16>,
    isr: AtomicU8,
    generation: AtomicU8,
    broken: AtomicBool,
}

impl Vectors {
    pub(super) fn new(msix: Msix, queues: usize) -> Self {
        Self {
            msix: Mutex::new(msix),
            config: AtomicU16::new(NO_VECTOR),
            queues: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            isr: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            broken: AtomicBool::new(false),
        }
    }

    pub(super) fn msix(&self) -> MutexGuard<'_, Msix> {
        self.msix.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, queue: Option<u16>) -> Option<&AtomicU16> {
        match queue {
            None => Some(&self.config),
            Some(index) => self.queues.get(usize::from(index)),
        }
    }

    /// The vector of a queue, or of configuration changes.
    pub(super) fn vector(&self, queue: Option<u16>) -> u16 {
        self.slot(queue)
            .map_or(NO_VECTOR, |slot| slot.load(Ordering::Acquire))
    }

    /// Sets it; a vector that there is not becomes none, which the driver sees
    /// when it reads back (section 4.1.5.1.2.1).
    pub(super) fn set_vector(&self, queue: Option<u16>, vector: u16) {
        let vector = match vector < self.msix().len() {
            true => vector,
            false => NO_VECTOR,
        };
        if let Some(slot) = self.slot(queue) {
            slot.store(vector, Ordering::Release);
        }
    }

    /// Reading the status clears it.
    pub(super) fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::AcqRel)
    }

    pub(super) fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Forgets what the last driver did; the table of messages stays.
    pub(super) fn reset(&self) {
        self.config.store(NO_VECTOR, Ordering::Release);
        for queue in &self.queues {
            queue.store(NO_VECTOR, Ordering::Release);
        }
        self.isr.store(0, Ordering::Release);
        self.broken.store(false, Ordering::Release);
    }

    fn send(&self, queue: Option<u16>) -> io::Result<()> {
        match self.vector(queue) {
            NO_VECTOR => Ok(()),
            vector => self.msix().send(vector),
        }
    }
}

impl Interrupt for Vectors {
    fn queue(&self, index: u16) -> io::Result<()> {
        self.isr.fetch_or(ISR_QUEUE, Ordering::AcqRel);
        self.send(Some(index))
    }

    fn config(&self) -> io::Result<()> {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.isr.fetch_or(ISR_CONFIG, Ordering::AcqRel);
        self.send(None)
    }

    fn needs_reset(&self) {
        self.broken.store(true, Ordering::Release);
        // Section 2.1.2: the device SHOULD send a configuration change.
        let _ = self.config();
    }
}
