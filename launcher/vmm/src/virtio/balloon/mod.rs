//! The memory balloon, [section 5.5]: memory of the guest that the host uses.
//!
//! The host says how much it wants ([`BalloonHandle::request`]); the guest
//! gives pages, and takes them back when it runs out of memory if that is
//! agreed. Free pages are reported on their own, without a balloon: what a guest
//! frees is the host's again after a moment. The guest also says how it is
//! doing ([`MemoryReport`]).
//!
//! [section 5.5]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html

mod handler;
#[cfg(any(test, feature = "testing"))]
pub mod random;
mod report;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use vmm_sys_util::eventfd::EventFd;

use super::worker::{OnStart, Worker};
use super::{
    ActivateError, Activation, Counter, Gauge, Interrupt, Stats, VirtioDevice, features,
    read_config,
};
pub use handler::BalloonHandler;
pub use report::MemoryReport;

/// The device id.
pub const ID: u16 = 5;

/// `VIRTIO_BALLOON_F_STATS_VQ`.
const F_STATS_VQ: u64 = 1 << 1;
/// `VIRTIO_BALLOON_F_DEFLATE_ON_OOM`.
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
/// `VIRTIO_BALLOON_F_PAGE_REPORTING`.
const F_PAGE_REPORTING: u64 = 1 << 5;

const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATS: u16 = 2;
/// Linux wants 32 of reports of free pages (PAGE_REPORTING_CAPACITY), and has their
/// queue at an earlier place if it leaves out others.
const QUEUES: &[u16] = &[128, 128, 32, 32, 32];

/// What the device counts in, in bytes, whatever the guest's pages are.
pub const PAGE: u64 = 4096;

/// How a balloon behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Bytes that it may take at most: the guest's memory.
    pub most: u64,
    /// Whether the guest may take pages back when it runs out of memory.
    pub deflate_on_oom: bool,
    /// Whether free pages are reported.
    pub free_page_reporting: bool,
}

/// What a balloon has done; sizes are in bytes.
#[derive(Debug, Default)]
pub struct BalloonMetrics {
    /// Reports of free pages in `from_guest`; in `dropped`, runs of pages that
    /// could not be taken.
    pub stats: Arc<Stats>,
    /// What the host wants.
    pub requested: Gauge,
    /// What the guest says that the balloon has.
    pub actual: Gauge,
    /// What went into the balloon.
    pub inflated: Counter,
    /// What came out of it.
    pub deflated: Counter,
    /// What was reported as free and taken.
    pub reported: Counter,
}

/// What the device, its thread and its handles share.
#[derive(Debug, Default)]
struct Shared {
    metrics: Arc<BalloonMetrics>,
    interrupt: Mutex<Option<Arc<dyn Interrupt>>>,
    report: Mutex<Option<(MemoryReport, Instant)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn set_report(&self, report: MemoryReport, at: Instant) {
        *lock(&self.report) = Some((report, at));
    }
}

/// How the host inflates a balloon and asks how the guest is doing.
#[derive(Debug)]
pub struct BalloonHandle {
    shared: Arc<Shared>,
    most: u64,
    poker: EventFd,
}

impl BalloonHandle {
    /// Wants `size` bytes from now on, a multiple of [`PAGE`]. The guest is
    /// told; [`BalloonMetrics::actual`] says how far it has come.
    ///
    /// # Errors
    /// That is more than the guest has, no whole number of pages, or the guest
    /// cannot be told.
    pub fn request(&self, size: u64) -> io::Result<()> {
        if size > self.most || !size.is_multiple_of(PAGE) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a balloon of {size} bytes: it has to be a multiple of {PAGE}, and {} at most",
                    self.most
                ),
            ));
        }
        self.shared.metrics.requested.set(size);
        let interrupt = lock(&self.shared.interrupt).clone();
        interrupt.map_or(Ok(()), |interrupt| interrupt.config())
    }

    /// Asks the guest for statistics, which come in a moment if it has a driver.
    pub fn ask(&self) {
        let _ = self.poker.write(1);
    }

    /// The last statistics that came, and when.
    pub fn report(&self) -> Option<(MemoryReport, Instant)> {
        *lock(&self.shared.report)
    }

    /// What the device has done.
    pub fn metrics(&self) -> &BalloonMetrics {
        &self.shared.metrics
    }
}

/// A balloon device.
#[derive(Debug)]
pub struct Balloon {
    name: String,
    config: Config,
    shared: Arc<Shared>,
    worker: Worker,
}

impl Balloon {
    /// Makes one, called `name`; at first it takes nothing.
    ///
    /// # Errors
    /// Its thread cannot be started.
    pub fn new(name: &str, config: Config, on_start: &OnStart) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let handler = BalloonHandler::new(Arc::clone(&shared));
        let stats = Arc::clone(&shared.metrics.stats);
        let worker = Worker::spawn(name, handler, stats, on_start)?;
        Ok(Self {
            name: name.to_owned(),
            config: Config {
                // The number of pages is one of 32 bits.
                most: config.most.min(u64::from(u32::MAX) * PAGE),
                ..config
            },
            shared,
            worker,
        })
    }

    /// To inflate it later.
    ///
    /// # Errors
    /// The host is out of descriptors.
    pub fn handle(&self) -> io::Result<BalloonHandle> {
        Ok(BalloonHandle {
            shared: Arc::clone(&self.shared),
            most: self.config.most,
            poker: self.worker.poker()?,
        })
    }

    /// What it has done.
    pub fn metrics(&self) -> Arc<BalloonMetrics> {
        Arc::clone(&self.shared.metrics)
    }
}

impl VirtioDevice for Balloon {
    fn id(&self) -> u16 {
        ID
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        let mut features = features::COMMON | F_STATS_VQ;
        if self.config.deflate_on_oom {
            features |= F_DEFLATE_ON_OOM;
        }
        if self.config.free_page_reporting {
            features |= F_PAGE_REPORTING;
        }
        features
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_balloon_config, 5.5.4: num_pages, actual.
        let metrics = &self.shared.metrics;
        let fields = [&metrics.requested, &metrics.actual];
        let config = fields.map(|bytes| ((bytes.get() / PAGE) as u32).to_le_bytes());
        read_config(config.as_flattened(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        // Of `actual` only, and all of it (4.1.3.1).
        let actual = &self.shared.metrics.actual;
        if let (4, Ok(bytes)) = (offset, data.try_into()) {
            actual.set(u64::from(u32::from_le_bytes(bytes)) * PAGE);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let interrupt = Arc::clone(&activation.interrupt);
        self.worker.activate(activation.into())?;
        *lock(&self.shared.interrupt) = Some(interrupt);
        Ok(())
    }

    fn reset(&mut self) {
        *lock(&self.shared.interrupt) = None;
        self.worker.stop();
        // A driver that starts has given nothing yet.
        self.shared.metrics.actual.set(0);
    }

    fn detach(&mut self) {
        *lock(&self.shared.report) = None;
    }
}
