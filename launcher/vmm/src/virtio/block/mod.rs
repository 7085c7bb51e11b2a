//! The block device ([section 5.2]).
//!
//! Requests come in by queue, each queue with a thread of its own; a
//! [`Backend`] says where the bytes are, an engine (io_uring, or plain system
//! calls) moves them between that file and the guest's memory. What has to
//! wait (flush, discard, write-zeroes) is done by one more thread a device.
//! All threads and rings are made with the device, before the sandbox closes.
//!
//! [section 5.2]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-2740002

mod active;
mod buffers;
mod config;
mod engine;
mod metrics;
mod poll;
mod request;
mod slow;
mod uring;
mod worker;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use vmm_sys_util::eventfd::EventFd;

use self::config::{CONFIG_LEN, QUEUE_SIZE, config, features};
use self::engine::{Engine, Synchronous};
use self::slow::{Mailbox, lane};
use self::uring::Uring;
use self::worker::{Session, Stop, Tools, serve};
use super::{ActivateError, Activation, VirtioDevice};
use crate::block::Backend;

pub use self::metrics::BlockMetrics;

/// The device id of section 5.
const ID: u16 = 2;

/// How bytes are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BlockEngine {
    /// io_uring if the kernel allows it, else system calls.
    #[default]
    Auto,
    /// One system call a transfer.
    Synchronous,
}

/// Runs first in each thread of a device, to install what belongs there.
pub type OnThread = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// What a block device is made of.
pub struct BlockOptions {
    /// Name for logs, threads and metrics: `block0`.
    pub name: String,
    /// The serial number, by which udev makes `/dev/disk/by-id/virtio-…`; the
    /// first 20 bytes count.
    pub serial: String,
    /// Number of queues, at least 1; more than the guest has processors are
    /// of no use.
    pub queues: u16,
    /// How bytes are moved.
    pub engine: BlockEngine,
    /// Runs first in each thread.
    pub on_thread: Option<OnThread>,
}

impl fmt::Debug for BlockOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockOptions")
            .field("name", &self.name)
            .field("serial", &self.serial)
            .field("queues", &self.queues)
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

/// A block device over a [`Backend`].
#[derive(Debug)]
pub struct Block {
    name: String,
    backend: Arc<dyn Backend>,
    queue_sizes: Vec<u16>,
    features: u64,
    config: [u8; CONFIG_LEN],
    metrics: Arc<BlockMetrics>,
    engine: &'static str,
    workers: Vec<Crew>,
    helper: Option<JoinHandle<()>>,
    stop: Option<Arc<Stop>>,
}

/// A worker thread, seen from the device.
#[derive(Debug)]
struct Crew {
    sessions: Option<Sender<Session>>,
    /// One message for each session that has ended.
    ended: Receiver<()>,
    busy: bool,
    thread: Option<JoinHandle<()>>,
}

impl Block {
    /// A device that serves `backend`. Starts its threads.
    ///
    /// # Errors
    /// The host has no threads or descriptors left.
    pub fn new(backend: Arc<dyn Backend>, options: BlockOptions) -> io::Result<Self> {
        let queues = options.queues.clamp(1, 64);
        let limits = backend.limits();
        let metrics = Arc::new(BlockMetrics::default());
        let mut serial = [0; 20];
        for (to, from) in serial.iter_mut().zip(options.serial.bytes()) {
            *to = from;
        }
        let (slow, jobs) = lane();
        let served = Arc::clone(&backend);
        let helper = spawn(format!("{}-slow", options.name), &options, move || {
            slow::run(&*served, &jobs);
        })?;
        let mut workers = Vec::new();
        let mut engine_name = "";
        for index in 0..queues {
            let (engine, name) = make_engine(options.engine);
            engine_name = name;
            let tools = Tools {
                backend: Arc::clone(&backend),
                engine,
                slow: slow.clone(),
                mailbox: Arc::new(Mailbox::new()?),
                serial,
                metrics: Arc::clone(&metrics),
            };
            workers.push(Crew::new(
                format!("{}-q{index}", options.name),
                &options,
                tools,
            )?);
        }
        Ok(Self {
            queue_sizes: vec![QUEUE_SIZE; usize::from(queues)],
            features: features(&limits, queues),
            config: config(backend.size(), &limits, queues),
            name: options.name,
            backend,
            metrics,
            engine: engine_name,
            workers,
            helper: Some(helper),
            stop: None,
        })
    }

    /// What the device has done so far.
    pub fn metrics(&self) -> &Arc<BlockMetrics> {
        &self.metrics
    }

    /// What is served.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// How bytes are moved: `io_uring` or `synchronous`.
    pub fn engine(&self) -> &'static str {
        self.engine
    }
}

fn make_engine(choice: BlockEngine) -> (Box<dyn Engine>, &'static str) {
    if choice == BlockEngine::Auto
        && let Ok(uring) = Uring::new()
    {
        return (Box::new(uring), "io_uring");
    }
    (Box::new(Synchronous::default()), "synchronous")
}

fn spawn(
    name: String,
    options: &BlockOptions,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let first = options.on_thread.clone();
    std::thread::Builder::new().name(name).spawn(move || {
        // Without what belongs there the thread must not run; its device then
        // fails to activate, which says so.
        if first.is_none_or(|first| first().is_ok()) {
            work();
        }
    })
}

impl Crew {
    fn new(name: String, options: &BlockOptions, mut tools: Tools) -> io::Result<Self> {
        let (sessions, next) = channel::<Session>();
        let (end, ended) = channel();
        let thread = spawn(name, options, move || {
            while let Ok(mut session) = next.recv() {
                if serve(&mut tools, &mut session).is_err() {
                    session.interrupt.needs_reset();
                }
                drop(session);
                if end.send(()).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self {
            sessions: Some(sessions),
            ended,
            busy: false,
            thread: Some(thread),
        })
    }
}

impl VirtioDevice for Block {
    fn id(&self) -> u16 {
        ID
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let there = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.config.get(offset..))
            .unwrap_or_default();
        for (to, from) in data.iter_mut().zip(there) {
            *to = *from;
        }
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {
        // The one field that could be written, `writeback`, needs
        // VIRTIO_BLK_F_CONFIG_WCE, which is not offered.
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        if !matches!(activation.queues.first(), Some(Some(_))) {
            return Err(ActivateError::MissingQueue(0));
        }
        let host = |what| move |error| ActivateError::Host { what, error };
        let stop = Arc::new(Stop {
            flag: AtomicBool::new(false),
            event: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
                .map_err(host("making an event"))?,
        });
        self.stop = Some(Arc::clone(&stop));
        let broken = Arc::new(AtomicBool::new(false));
        for (crew, queue) in self.workers.iter_mut().zip(activation.queues) {
            // A driver may use fewer queues than there are.
            let Some(queue) = queue else { continue };
            let session = Session {
                queue,
                memory: activation.memory.clone(),
                features: activation.features,
                interrupt: Arc::clone(&activation.interrupt),
                stop: Arc::clone(&stop),
                broken: Arc::clone(&broken),
            };
            let sent = crew.sessions.as_ref().map(|to| to.send(session).is_ok());
            if sent != Some(true) {
                let gone = io::Error::other("the thread has ended");
                return Err(host("starting a queue")(gone));
            }
            crew.busy = true;
        }
        Ok(())
    }

    fn reset(&mut self) {
        let Some(stop) = self.stop.take() else {
            return;
        };
        stop.flag.store(true, Ordering::Release);
        // All workers poll the same event and none reads it.
        let _ = stop.event.write(1);
        for crew in &mut self.workers {
            if std::mem::take(&mut crew.busy) {
                // An error means that the thread is gone, and with it what it
                // had going.
                let _ = crew.ended.recv();
            }
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.reset();
        for crew in &mut self.workers {
            crew.sessions = None;
            if let Some(thread) = crew.thread.take() {
                let _ = thread.join();
            }
        }
        // The workers held the other ends of its channel.
        if let Some(helper) = self.helper.take() {
            let _ = helper.join();
        }
    }
}
