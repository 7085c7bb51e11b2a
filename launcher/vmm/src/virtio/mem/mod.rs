//! The memory device, [section 5.15]: memory that comes and goes in blocks
//! while the guest runs.
//!
//! The host says how much there should be ([`MemHandle::request`]); the guest
//! plugs and unplugs blocks of a region above its other memory until that is
//! so, as far as it can. What it unplugs is the host's again at once. It needs
//! no ACPI event, and works for part of what a guest has just the same.
//!
//! [section 5.15]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html

mod blocks;
mod handler;
#[cfg(any(test, feature = "testing"))]
pub mod random;
mod reach;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::worker::{OnStart, Worker};
use super::{
    ActivateError, Activation, Counter, Gauge, Interrupt, Stats, VirtioDevice, features,
    read_config,
};
use crate::memory::Range;
use blocks::Blocks;
pub use handler::MemHandler;
use reach::Reach;
pub use reach::Slots;

/// The device id.
pub const ID: u16 = 24;
/// `VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE`: the driver keeps away from memory
/// that is not plugged, where even reading would take memory of the host.
const F_UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;
const QUEUES: &[u16] = &[128];

/// What is plugged and unplugged at once, in bytes: a huge page.
pub const BLOCK: u64 = 2 << 20;

/// What a memory device has done.
#[derive(Debug, Default)]
pub struct MemMetrics {
    /// Requests of the guest, in `from_guest`.
    pub stats: Arc<Stats>,
    /// Bytes that the host wants plugged.
    pub requested: Gauge,
    /// Bytes that are plugged.
    pub plugged: Gauge,
    /// Requests that the guest did not get.
    pub refused: Counter,
}

/// What the device, its thread and its handles share.
#[derive(Debug)]
struct Shared {
    region: Range,
    blocks: Mutex<Blocks>,
    /// Taken after `blocks`, where both are.
    reach: Mutex<Reach>,
    metrics: Arc<MemMetrics>,
    interrupt: Mutex<Option<Arc<dyn Interrupt>>>,
}

impl Shared {
    fn set_interrupt(&self, interrupt: Option<Arc<dyn Interrupt>>) {
        *self
            .interrupt
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = interrupt;
    }
}

/// How the host says how much memory there should be.
#[derive(Debug, Clone)]
pub struct MemHandle(Arc<Shared>);

impl MemHandle {
    /// Wants `size` bytes plugged from now on, a multiple of [`BLOCK`] and at
    /// most the region. The guest is told; [`MemMetrics::plugged`] says how far
    /// it has come.
    ///
    /// # Errors
    /// The size is none that the guest can reach, or the guest cannot be told.
    pub fn request(&self, size: u64) -> io::Result<()> {
        let most = self.0.region.len;
        if size > most || !size.is_multiple_of(BLOCK) {
            return Err(invalid(format!(
                "{size} bytes of memory cannot be plugged: it has to be a multiple of {BLOCK}, \
                 and {most} at most"
            )));
        }
        self.0.metrics.requested.set(size);
        let interrupt = self.0.interrupt.lock();
        let interrupt = interrupt.unwrap_or_else(PoisonError::into_inner).clone();
        interrupt.map_or(Ok(()), |interrupt| interrupt.config())
    }

    /// The most that can be plugged, in bytes.
    pub fn most(&self) -> u64 {
        self.0.region.len
    }

    /// What the device has done.
    pub fn metrics(&self) -> &MemMetrics {
        &self.0.metrics
    }
}

/// A memory device.
#[derive(Debug)]
pub struct Mem {
    name: String,
    shared: Arc<Shared>,
    worker: Worker,
}

impl Mem {
    /// Makes one, called `name`, for `region` of the guest's memory
    /// ([`Placement::hotplug`](crate::memory::Placement)); nothing is plugged.
    ///
    /// # Errors
    /// The region is not one of whole blocks, or the thread cannot be started.
    pub fn new(name: &str, region: Range, on_start: &OnStart) -> io::Result<Self> {
        let shared = Self::shared(region)?;
        let handler = MemHandler::new(Arc::clone(&shared));
        let stats = Arc::clone(&shared.metrics.stats);
        let worker = Worker::spawn(name, handler, stats, on_start)?;
        Ok(Self {
            name: name.to_owned(),
            shared,
            worker,
        })
    }

    fn shared(region: Range) -> io::Result<Arc<Shared>> {
        let Range { start, len } = region;
        let whole = start.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK);
        if !whole || start.checked_add(len).is_none() {
            return Err(invalid(format!(
                "memory cannot be plugged at {start:#x}, {len} bytes: no multiples of {BLOCK}"
            )));
        }
        Ok(Arc::new(Shared {
            region,
            blocks: Mutex::new(Blocks::new(len / BLOCK)),
            reach: Mutex::new(Reach::new(region)),
            metrics: Arc::default(),
            interrupt: Mutex::default(),
        }))
    }

    /// To say later how much memory there should be.
    pub fn handle(&self) -> MemHandle {
        MemHandle(Arc::clone(&self.shared))
    }

    /// What it has done.
    pub fn metrics(&self) -> Arc<MemMetrics> {
        Arc::clone(&self.shared.metrics)
    }
}

impl VirtioDevice for Mem {
    fn id(&self) -> u16 {
        ID
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        features::COMMON | F_UNPLUGGED_INACCESSIBLE
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_mem_config, 5.15.4: block_size, node_id and padding,
        // addr, region_size, usable_region_size, plugged_size, requested_size.
        let Shared {
            region, metrics, ..
        } = &*self.shared;
        let fields = [
            BLOCK,
            0,
            region.start,
            region.len,
            region.len,
            metrics.plugged.get(),
            metrics.requested.get(),
        ];
        let config: Vec<u8> = fields.iter().flat_map(|f| f.to_le_bytes()).collect();
        read_config(&config, offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let interrupt = Arc::clone(&activation.interrupt);
        self.worker.activate(activation.into())?;
        self.shared.set_interrupt(Some(interrupt));
        Ok(())
    }

    // 5.15.5.2: what is plugged stays so.
    fn reset(&mut self) {
        self.shared.set_interrupt(None);
        self.worker.stop();
    }

    fn attach(&mut self, slots: &Arc<dyn Slots>) {
        self.shared.reach().move_to(Some(Arc::clone(slots)));
    }

    fn detach(&mut self) {
        self.shared.blocks().clear();
        self.shared.reach().move_to(None);
        self.shared.metrics.plugged.set(0);
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
