//! The thread on which a device does its work.
//!
//! A [`Worker`] is started with its device, before the sandbox closes, and
//! parks until the driver is ready. All descriptors it will ever wait for,
//! apart from connections, exist by then: activation only hands over queues,
//! and needs no system call that opens or maps anything. A [`Handler`] is the
//! device's half on the thread; it sees one event at a time.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub use vmm_sys_util::epoll::EventSet;

use super::queue::{QueueError, Virtqueue};
use super::{ActivateError, Activation, Interrupt, Memory, Stats};

/// What an event is for: the index of a queue for its doorbell, what the
/// handler chose for its own descriptors.
pub type Token = u64;

/// Tokens from here on are for handlers to use.
pub const FIRST_TOKEN: Token = 0x1_0000;

const CONTROL: Token = u64::MAX;
const POKE: Token = u64::MAX - 1;

/// Called on each new thread with its name before it does anything: the place
/// for the thread's system call filter.
pub type OnStart = Arc<dyn Fn(&str) -> io::Result<()> + Send + Sync>;

/// A device's half on its thread.
pub trait Handler: Send {
    /// The driver is ready. Doorbells are polled already; the first event of
    /// each queue comes by itself only if the driver has rung.
    ///
    /// # Errors
    /// The device cannot start.
    fn start(&mut self, work: Work, poll: &Poll) -> Result<(), ActivateError>;

    /// Something happened: a doorbell rang, or a descriptor became ready.
    ///
    /// # Errors
    /// The device cannot go on: it is stopped and the driver told to reset it.
    fn event(&mut self, token: Token, ready: EventSet, poll: &Poll) -> Result<(), QueueError>;

    /// The host wants something ([`Worker::poke`]).
    ///
    /// # Errors
    /// As of [`event`](Self::event).
    fn poked(&mut self, poll: &Poll) -> Result<(), QueueError> {
        let _ = poll;
        Ok(())
    }

    /// When to call [`timeout`](Self::timeout) if nothing happens before.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// The deadline has passed.
    ///
    /// # Errors
    /// As of [`event`](Self::event).
    fn timeout(&mut self, poll: &Poll) -> Result<(), QueueError> {
        let _ = poll;
        Ok(())
    }

    /// Drops the queues and all that belongs to this activation.
    fn stop(&mut self, poll: &Poll);
}

/// What a handler works with from one activation to the next reset.
#[derive(Debug)]
pub struct Work {
    /// The guest's memory.
    pub memory: Memory,
    /// The negotiated features.
    pub features: u64,
    /// The queues, at their indexes in the device.
    pub queues: Vec<Option<Virtqueue>>,
    /// How to reach the driver.
    pub interrupt: Arc<dyn Interrupt>,
}

impl From<Activation> for Work {
    fn from(activation: Activation) -> Self {
        let Activation {
            memory,
            features,
            queues,
            interrupt,
        } = activation;
        let queues = queues
            .into_iter()
            .map(|queue| queue.map(|q| Virtqueue::new(q, features, Arc::clone(&interrupt))))
            .collect();
        Self {
            memory,
            features,
            queues,
            interrupt,
        }
    }
}

impl Work {
    /// Takes queue `index`.
    ///
    /// # Errors
    /// The driver did not enable it.
    pub fn take(&mut self, index: u16) -> Result<Virtqueue, ActivateError> {
        self.take_optional(index)
            .ok_or(ActivateError::MissingQueue(index))
    }

    /// Takes queue `index`, if the driver enabled it.
    pub fn take_optional(&mut self, index: u16) -> Option<Virtqueue> {
        self.queues.get_mut(usize::from(index))?.take()
    }
}

/// The descriptors that a worker waits for, level-triggered.
#[derive(Debug)]
pub struct Poll(Epoll);

impl Poll {
    /// One that waits for nothing.
    ///
    /// # Errors
    /// The host is out of descriptors.
    pub fn new() -> io::Result<Self> {
        Epoll::new().map(Self)
    }

    /// Waits for `events` of `fd`.
    ///
    /// # Errors
    /// It cannot be waited for (a regular file), or is already.
    pub fn add(&self, fd: RawFd, token: Token, events: EventSet) -> io::Result<()> {
        self.0
            .ctl(ControlOperation::Add, fd, EpollEvent::new(events, token))
    }

    /// Waits for other `events` of `fd`. Hang-ups and errors come unasked.
    ///
    /// # Errors
    /// It is not waited for.
    pub fn modify(&self, fd: RawFd, token: Token, events: EventSet) -> io::Result<()> {
        self.0
            .ctl(ControlOperation::Modify, fd, EpollEvent::new(events, token))
    }

    /// Waits for `fd` no longer; nothing happens if it was not waited for.
    pub fn remove(&self, fd: RawFd) {
        let _ = self
            .0
            .ctl(ControlOperation::Delete, fd, EpollEvent::default());
    }

    pub(super) fn wait(
        &self,
        events: &mut [EpollEvent],
        timeout: Option<Duration>,
    ) -> io::Result<usize> {
        let timeout = timeout.map_or(-1, |t| {
            // Rounded up, lest a rest of a millisecond makes the loop spin.
            let up = i32::from(!t.is_zero());
            i32::try_from(t.as_millis()).map_or(i32::MAX, |ms| ms.saturating_add(up))
        });
        self.0.wait(timeout, events)
    }
}

enum Command {
    Start(Box<Work>, Sender<Result<(), ActivateError>>),
    Stop(Sender<()>),
    Exit,
}

/// A device's thread, seen from the device.
pub struct Worker {
    commands: Sender<Command>,
    control: EventFd,
    poke: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("thread", &self.thread)
            .finish_non_exhaustive()
    }
}

impl Worker {
    /// Starts a thread for `handler` under `name` (15 bytes of it are seen),
    /// parked until [`activate`](Self::activate).
    ///
    /// # Errors
    /// The host is out of threads or descriptors, or `on_start` failed.
    pub fn spawn(
        name: &str,
        handler: impl Handler + 'static,
        stats: Arc<Stats>,
        on_start: &OnStart,
    ) -> io::Result<Self> {
        let control = EventFd::new(EFD_NONBLOCK)?;
        let poke = EventFd::new(EFD_NONBLOCK)?;
        let poll = Poll::new()?;
        poll.add(control.as_raw_fd(), CONTROL, EventSet::IN)?;
        poll.add(poke.as_raw_fd(), POKE, EventSet::IN)?;
        let (commands, receiver) = channel();
        let thread = Thread {
            handler: Box::new(handler),
            stats,
            poll,
            control: control.try_clone()?,
            poke: poke.try_clone()?,
            commands: receiver,
            running: None,
        };
        let (started, wait) = channel();
        let on_start = Arc::clone(on_start);
        let own_name = name.to_owned();
        let join = thread::Builder::new()
            .name(own_name.clone())
            .stack_size(256 << 10)
            .spawn(move || {
                let result = on_start(&own_name);
                let go = result.is_ok();
                let _ = started.send(result);
                if go {
                    thread.run();
                }
            })?;
        wait.recv().map_err(|_| gone())??;
        Ok(Self {
            commands,
            control,
            poke,
            thread: Some(join),
        })
    }

    /// Hands over the queues, and waits until the handler has started.
    ///
    /// # Errors
    /// The handler cannot start.
    pub fn activate(&self, work: Work) -> Result<(), ActivateError> {
        let (reply, answer) = channel();
        let dead = |_| ActivateError::Host {
            what: "device thread",
            error: gone(),
        };
        self.command(Command::Start(Box::new(work), reply))
            .map_err(dead)?;
        answer.recv().map_err(|_| dead(()))?
    }

    /// Stops the handler and waits until it has let go of its queues.
    pub fn stop(&self) {
        let (reply, answer) = channel();
        if self.command(Command::Stop(reply)).is_ok() {
            // An error means that the thread is gone, and its queues with it.
            let _ = answer.recv();
        }
    }

    /// Has [`Handler::poked`] called, if the device is active.
    pub fn poke(&self) {
        let _ = self.poke.write(1);
    }

    /// Something to [`poke`](Self::poke) the worker with from elsewhere.
    ///
    /// # Errors
    /// The host is out of descriptors.
    pub fn poker(&self) -> io::Result<EventFd> {
        self.poke.try_clone()
    }

    fn command(&self, command: Command) -> Result<(), ()> {
        self.commands.send(command).map_err(|_| ())?;
        self.control.write(1).map_err(|_| ())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.command(Command::Exit);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("the device's thread has ended")
}

/// A device's thread, seen from inside.
struct Thread {
    handler: Box<dyn Handler>,
    stats: Arc<Stats>,
    poll: Poll,
    control: EventFd,
    poke: EventFd,
    commands: Receiver<Command>,
    /// Set from start to stop or fault.
    running: Option<Running>,
}

struct Running {
    interrupt: Arc<dyn Interrupt>,
    doorbells: Vec<EventFd>,
}

impl Thread {
    fn run(mut self) {
        let mut events = [EpollEvent::default(); 32];
        loop {
            let timeout = self
                .running
                .as_ref()
                .and_then(|_| self.handler.deadline())
                .map(|at| at.saturating_duration_since(Instant::now()));
            let count = match self.poll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.fail(&QueueError::Host {
                        what: "waiting for events",
                        error,
                    });
                    break;
                }
            };
            if self.running.is_some()
                && self
                    .handler
                    .deadline()
                    .is_some_and(|at| at <= Instant::now())
            {
                let result = self.handler.timeout(&self.poll);
                self.check(result);
            }
            for event in events.iter().take(count) {
                match event.data() {
                    CONTROL => {
                        let _ = self.control.read();
                        if self.obey() {
                            self.halt();
                            return;
                        }
                        // The other events may be of what is no more; they
                        // come again if not.
                        break;
                    }
                    POKE => {
                        let _ = self.poke.read();
                        if self.running.is_some() {
                            let result = self.handler.poked(&self.poll);
                            self.check(result);
                        }
                    }
                    token if self.running.is_some() => {
                        let ready = EventSet::from_bits_truncate(event.events());
                        let result = self.handler.event(token, ready, &self.poll);
                        self.check(result);
                    }
                    _ => {}
                }
            }
        }
        self.halt();
    }

    /// Does what was commanded; true at the end.
    fn obey(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Start(work, reply) => {
                    self.halt();
                    let result = self.start(*work);
                    if result.is_err() {
                        self.halt();
                    }
                    let _ = reply.send(result);
                }
                Command::Stop(reply) => {
                    self.halt();
                    let _ = reply.send(());
                }
                Command::Exit => return true,
            }
        }
        false
    }

    fn start(&mut self, work: Work) -> Result<(), ActivateError> {
        let mut running = Running {
            interrupt: Arc::clone(&work.interrupt),
            doorbells: Vec::new(),
        };
        // Epoll goes by descriptor and open file; others keep the file open, so
        // what is polled must be a descriptor that is closed here and not by
        // the handler.
        let mut result = Ok(());
        for queue in work.queues.iter().flatten() {
            result = queue.clone_doorbell().and_then(|doorbell| {
                self.poll
                    .add(doorbell.as_raw_fd(), queue.index().into(), EventSet::IN)?;
                running.doorbells.push(doorbell);
                Ok(())
            });
            if result.is_err() {
                break;
            }
        }
        self.running = Some(running);
        result.map_err(|error| ActivateError::Host {
            what: "waiting for doorbells",
            error,
        })?;
        self.handler.start(work, &self.poll)
    }

    fn check(&mut self, result: Result<(), QueueError>) {
        if let Err(error) = result {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &QueueError) {
        self.stats.fail(error);
        if let Some(interrupt) = self.halt() {
            interrupt.needs_reset();
        }
    }

    /// Lets go of the queues.
    fn halt(&mut self) -> Option<Arc<dyn Interrupt>> {
        let running = self.running.take()?;
        for doorbell in &running.doorbells {
            self.poll.remove(doorbell.as_raw_fd());
        }
        self.handler.stop(&self.poll);
        Some(running.interrupt)
    }
}
