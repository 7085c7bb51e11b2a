//! The border between a virtio device and its transport.

use std::fmt;
use std::io;
use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::mem::Slots;

/// The guest's memory. Regions may be added while it runs, so take a
/// [`memory`](vm_memory::GuestAddressSpace::memory) for each batch of work, not once.
pub type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// A device, apart from how the guest finds it.
pub trait VirtioDevice: Send + fmt::Debug {
    /// The device id of [section 5].
    ///
    /// [section 5]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-1930005
    fn id(&self) -> u16;

    /// Name for logs and metrics: `block0`.
    fn name(&self) -> &str;

    /// The features on offer, `VIRTIO_F_VERSION_1` among them.
    fn features(&self) -> u64;

    /// The largest size of each queue, each a power of two of at most 32768.
    fn queue_sizes(&self) -> &[u16];

    /// Reads the device's configuration; bytes beyond it are zeros.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the device's configuration; what is read-only or beyond its end
    /// is ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// The device is put into a machine that shows its guest memory by `slots`.
    fn attach(&mut self, _slots: &Arc<dyn Slots>) {}

    /// The driver is ready (`DRIVER_OK`): the device may use its queues.
    ///
    /// # Errors
    /// The device cannot start; the transport marks it as needing a reset.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Stops the device. When this returns, nothing of it touches guest memory
    /// and its queues are gone; it can be activated again.
    fn reset(&mut self);

    /// The machine that the device was in is gone, after a [`reset`](Self::reset),
    /// and so is its memory. What a reset leaves as it is starts afresh.
    fn detach(&mut self) {}
}

/// What a device is given to work with.
#[derive(Debug)]
pub struct Activation {
    /// The guest's memory.
    pub memory: Memory,
    /// The features that driver and device agreed on.
    pub features: u64,
    /// The queues, at the device's own indexes; `None` where the driver
    /// enabled none.
    pub queues: Vec<Option<ActiveQueue>>,
    /// How to reach the driver.
    pub interrupt: Arc<dyn Interrupt>,
}

/// A queue that its driver has enabled.
///
/// The ring's addresses and size are inside and no register leads to them any
/// more: whatever the guest writes to the transport after activation, they
/// cannot change (Firecracker's CVE-2026-5747).
#[derive(Debug)]
pub struct ActiveQueue {
    /// Its index in the device.
    pub index: u16,
    /// The rings, validated against the memory at activation.
    pub queue: Queue,
    /// Signalled when the driver has made buffers available.
    pub doorbell: EventFd,
}

/// How a device reaches its driver.
///
/// Devices call these from threads of their own, also while the transport waits
/// in [`VirtioDevice::reset`] or [`VirtioDevice::activate`] for that thread:
/// implementations take no lock that is held there.
pub trait Interrupt: Send + Sync + fmt::Debug {
    /// Used buffers are in queue `index`.
    ///
    /// # Errors
    /// The interrupt cannot be injected.
    fn queue(&self, index: u16) -> io::Result<()>;

    /// The device's configuration has changed.
    ///
    /// # Errors
    /// The interrupt cannot be injected.
    fn config(&self) -> io::Result<()>;

    /// The device met a broken queue: it sets `DEVICE_NEEDS_RESET`
    /// ([section 2.1.2]) and does nothing until the driver resets it.
    ///
    /// [section 2.1.2]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-120002
    fn needs_reset(&self);
}

/// A device that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver left out a queue that the device cannot be without.
    #[error("the driver did not enable queue {0}")]
    MissingQueue(u16),
    /// The host refused what the device needs.
    #[error("{what}: {error}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What happened.
        #[source]
        error: io::Error,
    },
}
