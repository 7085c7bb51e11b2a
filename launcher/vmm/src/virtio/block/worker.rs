//! One queue's thread: takes requests, has their bytes moved, returns them.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use virtio_bindings::bindings::virtio_blk as blk;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::active::{Active, Progress};
use super::engine::Engine;
use super::metrics::BlockMetrics;
use super::poll::wait;
use super::request::{Bounds, Broken, Kind, parse};
use super::slow::{Job, Mailbox, Task};
use crate::block::Backend;
use crate::virtio::{ActiveQueue, Interrupt, Memory};

/// How long requests that wait for another queue's write are left alone. They
/// are rare: two writes to one block that has not been written before.
const STALL: Duration = Duration::from_millis(1);

/// What a worker keeps from one activation to the next.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) slow: Sender<Job>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) serial: [u8; blk::VIRTIO_BLK_ID_BYTES as usize],
    pub(crate) metrics: Arc<BlockMetrics>,
}

/// How a device tells its workers to stop.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) flag: AtomicBool,
    pub(crate) event: EventFd,
}

/// A queue at work.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) queue: ActiveQueue,
    pub(crate) memory: Memory,
    pub(crate) features: u64,
    pub(crate) interrupt: Arc<dyn Interrupt>,
    pub(crate) stop: Arc<Stop>,
    /// A queue of the device is broken: all of them stand still.
    pub(crate) broken: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Worker<'a> {
    tools: &'a mut Tools,
    session: &'a mut Session,
    bounds: Bounds,
    slots: Vec<Option<Active>>,
    free: Vec<usize>,
    /// Slots in which nothing is going any more.
    quiet: Vec<usize>,
    /// Slots that wait for a write, maybe of another queue.
    stalled: Vec<usize>,
    /// Requests have been returned since the driver was last told.
    returned: bool,
}

/// Serves the queue until it is told to stop and nothing is going any more.
///
/// # Errors
/// The host does not let it wait for work.
pub(crate) fn serve(tools: &mut Tools, session: &mut Session) -> io::Result<()> {
    let size = session.queue.queue.size();
    let bounds = Bounds {
        size: tools.backend.size(),
        limits: tools.backend.limits(),
        features: session.features,
        queue_size: size,
    };
    let event_idx = session.features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
    session.queue.queue.set_event_idx(event_idx);
    let mut worker = Worker {
        tools,
        session,
        bounds,
        slots: (0..size).map(|_| None).collect(),
        free: (0..usize::from(size)).rev().collect(),
        quiet: Vec::new(),
        stalled: Vec::new(),
        returned: false,
    };
    worker.run()
}

impl Worker<'_> {
    fn run(&mut self) -> io::Result<()> {
        loop {
            while self.turn() {}
            let stopping = self.session.stop.flag.load(Ordering::Acquire);
            if stopping && self.free.len() == self.slots.len() {
                return Ok(());
            }
            let stop = (!stopping).then(|| self.session.stop.event.as_raw_fd());
            let doorbell = (!self.halted()).then(|| self.session.queue.doorbell.as_raw_fd());
            let mailbox = Some(self.tools.mailbox.event().as_raw_fd());
            let patience = (!self.stalled.is_empty()).then_some(STALL);
            wait(
                [stop, doorbell, mailbox, self.tools.engine.event()],
                patience,
            )?;
        }
    }

    /// Whether no new request may be taken.
    fn halted(&self) -> bool {
        self.session.broken.load(Ordering::Acquire)
            || self.session.stop.flag.load(Ordering::Acquire)
    }

    /// Does what can be done now; returns whether that was anything.
    fn turn(&mut self) -> bool {
        let mut busy = false;
        if !self.halted() {
            let _ = self.session.queue.doorbell.read();
            match self.take() {
                Ok(taken) => busy |= taken,
                Err(_) => self.break_down(),
            }
        }
        if let Err(error) = self.tools.engine.kick() {
            self.tools.metrics.failed(&error);
        }
        busy |= self.reap();
        if self.answer().is_err() {
            self.break_down();
        }
        busy
    }

    fn break_down(&self) {
        if !self.session.broken.swap(true, Ordering::AcqRel) {
            self.session.interrupt.needs_reset();
        }
    }

    /// Starts requests until there are none, or as many as can be at once.
    fn take(&mut self) -> Result<bool, Broken> {
        const RINGS: Broken = Broken("the rings are outside the guest's memory");
        let memory = self.session.memory.memory().into_inner();
        let mut taken = false;
        loop {
            let queue = &mut self.session.queue.queue;
            queue.disable_notification(&*memory).map_err(|_| RINGS)?;
            while let Some(&slot) = self.free.last() {
                if self.session.stop.flag.load(Ordering::Relaxed) {
                    return Ok(taken);
                }
                let queue = &mut self.session.queue.queue;
                let mut available = queue
                    .iter(&*memory)
                    .map_err(|_| Broken("the ring of available buffers makes no sense"))?;
                let Some(chain) = available.next() else {
                    break;
                };
                let active = Active::new(parse(chain, &memory, &self.bounds)?);
                self.free.pop();
                self.start(slot, active);
                taken = true;
            }
            if self.free.is_empty() {
                return Ok(taken);
            }
            let queue = &mut self.session.queue.queue;
            if !queue.enable_notification(&*memory).map_err(|_| RINGS)? {
                return Ok(taken);
            }
        }
    }

    fn start(&mut self, slot: usize, mut active: Active) {
        let task = match &mut active.kind {
            Kind::Flush => Some(Task::Flush),
            Kind::Discard(ranges) => Some(Task::Discard(std::mem::take(ranges))),
            Kind::WriteZeroes(ranges) => Some(Task::WriteZeroes(std::mem::take(ranges))),
            Kind::GetId => {
                active.buffers().copy_in(0, &self.tools.serial);
                None
            }
            Kind::Read(_) | Kind::Write(_) | Kind::Refuse(_) => None,
        };
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(active);
        }
        match task {
            Some(task) => self.send(slot, task),
            None => self.advance(slot),
        }
    }

    fn advance(&mut self, slot: usize) {
        self.stalled.retain(|stalled| *stalled != slot);
        let Some(Some(active)) = self.slots.get_mut(slot) else {
            return;
        };
        let Tools {
            backend, engine, ..
        } = &mut *self.tools;
        match active.advance(slot, &**backend, |op| engine.push(op)) {
            Progress::Going => {}
            Progress::Stalled => self.stalled.push(slot),
            Progress::Quiet => self.quiet.push(slot),
        }
    }

    /// Gives a task to the helper thread.
    fn send(&mut self, slot: usize, task: Task) {
        let Some(Some(active)) = self.slots.get_mut(slot) else {
            return;
        };
        active.settled = true;
        let results = Arc::clone(&self.tools.mailbox);
        let job = Job {
            slot,
            task,
            results,
        };
        if self.tools.slow.send(job).is_err() {
            active.error = Some(io::Error::other("the device's helper thread is gone"));
            self.quiet.push(slot);
        }
    }

    /// Takes back what is done; returns whether that was anything.
    fn reap(&mut self) -> bool {
        let mut any = false;
        while let Some((op, result)) = self.tools.engine.pop() {
            any = true;
            if let Some(Some(active)) = self.slots.get_mut(op.slot) {
                active.done(&op, result, &*self.tools.backend);
            }
            self.advance(op.slot);
        }
        for slot in std::mem::take(&mut self.stalled) {
            self.advance(slot);
        }
        for (slot, result) in self.tools.mailbox.take() {
            any = true;
            if let (Some(Some(active)), Err(error)) = (self.slots.get_mut(slot), result) {
                active.error = Some(error);
            }
            self.quiet.push(slot);
        }
        any
    }

    /// Returns requests in which nothing is going any more to the driver.
    fn answer(&mut self) -> Result<(), Broken> {
        const RINGS: Broken = Broken("the ring of used buffers is outside the guest's memory");
        let memory = self.session.memory.memory().into_inner();
        let mut result = Ok(());
        while let Some(slot) = self.quiet.pop() {
            if self.settle(slot) {
                continue;
            }
            let Some(active) = self.slots.get_mut(slot).and_then(Option::take) else {
                continue;
            };
            self.free.push(slot);
            // A broken device says nothing more to its driver.
            if !self.session.broken.load(Ordering::Acquire) {
                result = result.and(self.give_back(active, &memory).ok_or(RINGS));
            }
        }
        if std::mem::take(&mut self.returned) {
            let queue = &mut self.session.queue;
            let tell = queue.queue.needs_notification(&*memory);
            if tell.map_err(|_| RINGS)? {
                // The transport reports its own failures.
                let _ = self.session.interrupt.queue(queue.index);
            }
        }
        result
    }

    /// Does what follows when all bytes of a request are moved; returns
    /// whether it has to wait for that.
    fn settle(&mut self, slot: usize) -> bool {
        let Some(Some(active)) = self.slots.get_mut(slot) else {
            return false;
        };
        let Kind::Write(_) = &active.kind else {
            return false;
        };
        if active.settled || active.error.is_some() {
            return false;
        }
        active.settled = true;
        // Section 5.2.6.2: a driver that knows no flush relies on each write
        // being safe when it is returned.
        let through = self.bounds.features & (1 << blk::VIRTIO_BLK_F_FLUSH) == 0;
        if through {
            self.send(slot, Task::Flush);
            return self.quiet.last() != Some(&slot);
        }
        false
    }

    fn give_back(&mut self, active: Active, memory: &GuestMemoryMmap) -> Option<()> {
        let metrics = &self.tools.metrics;
        let status = match (&active.error, &active.kind) {
            (Some(error), _) => {
                metrics.failed(error);
                blk::VIRTIO_BLK_S_IOERR as u8
            }
            (None, Kind::Refuse(status)) => {
                BlockMetrics::count(&metrics.refused, 1);
                *status
            }
            (None, kind) => {
                metrics.succeeded(kind);
                blk::VIRTIO_BLK_S_OK as u8
            }
        };
        active.status.write(status);
        let used = active.used().saturating_add(1);
        let queue = &mut self.session.queue.queue;
        queue.add_used(memory, active.head, used).ok()?;
        self.returned = true;
        Some(())
    }
}
