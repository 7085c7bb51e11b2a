//! The console device, [section 5.3], with its one port.
//!
//! What the guest writes goes to a descriptor of the host, what the host writes
//! to another comes to the guest, both without a copy in between and neither
//! faster than its reader reads.
//!
//! [section 5.3]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-2900003

#[cfg(any(test, feature = "testing"))]
pub mod random;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::GuestAddressSpace;

use super::queue::{QueueError, Served, Virtqueue, set_nonblocking};
use super::worker::{EventSet, FIRST_TOKEN, Handler, OnStart, Poll, Token, Work, Worker};
use super::{
    ActivateError, Activation, Interrupt, Memory, Stats, VirtioDevice, features, read_config,
};

/// The device id.
pub const ID: u16 = 3;
/// `VIRTIO_CONSOLE_F_SIZE`: columns and rows are in the configuration.
const F_SIZE: u64 = 1 << 0;
const QUEUES: &[u16] = &[256, 256];
/// To the guest.
const RECEIVE: u16 = 0;
/// From the guest.
const TRANSMIT: u16 = 1;

const INPUT: Token = FIRST_TOKEN;
const OUTPUT: Token = FIRST_TOKEN + 1;

/// The most bytes moved at once, so that the other direction has its turn.
const MOST: u32 = 64 << 10;

/// The host's ends. They become non-blocking, for everyone who shares them, so
/// give pipes, sockets or a pseudo terminal and not the user's terminal.
#[derive(Debug, Default)]
pub struct Streams {
    /// What it reads goes to the guest.
    pub input: Option<OwnedFd>,
    /// What the guest writes goes there; without one it is dropped.
    pub output: Option<OwnedFd>,
}

/// Columns and rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// How the host tells a console its size.
#[derive(Debug, Clone, Default)]
pub struct ConsoleHandle(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    size: Size,
    interrupt: Option<Arc<dyn Interrupt>>,
}

impl ConsoleHandle {
    /// The console's size from now on; the guest is told.
    ///
    /// # Errors
    /// The guest cannot be told.
    pub fn resize(&self, size: Size) -> io::Result<()> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.size == size {
            return Ok(());
        }
        shared.size = size;
        let interrupt = shared.interrupt.clone();
        // Not under the lock: the transport may read the configuration.
        drop(shared);
        interrupt.map_or(Ok(()), |interrupt| interrupt.config())
    }

    fn size(&self) -> Size {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size
    }

    fn set_interrupt(&self, interrupt: Option<Arc<dyn Interrupt>>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .interrupt = interrupt;
    }
}

/// A console device.
#[derive(Debug)]
pub struct Console {
    name: String,
    handle: ConsoleHandle,
    stats: Arc<Stats>,
    worker: Worker,
}

impl Console {
    /// Makes one, called `name`, of `size`.
    ///
    /// # Errors
    /// A stream cannot be used, or the thread not be started.
    pub fn new(name: &str, streams: Streams, size: Size, on_start: &OnStart) -> io::Result<Self> {
        let stats = Arc::new(Stats::default());
        let worker = Worker::spawn(
            name,
            ConsoleHandler::new(streams, Arc::clone(&stats))?,
            Arc::clone(&stats),
            on_start,
        )?;
        let handle = ConsoleHandle::default();
        handle.resize(size)?;
        Ok(Self {
            name: name.to_owned(),
            handle,
            stats,
            worker,
        })
    }

    /// To change its size later.
    pub fn handle(&self) -> ConsoleHandle {
        self.handle.clone()
    }

    /// What it has done.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }
}

impl VirtioDevice for Console {
    fn id(&self) -> u16 {
        ID
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        features::COMMON | F_SIZE
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_console_config, 5.3.4: cols, rows, max_nr_ports, emerg_wr.
        let size = self.handle.size();
        let mut config = [0; 12];
        config[0..2].copy_from_slice(&size.columns.to_le_bytes());
        config[2..4].copy_from_slice(&size.rows.to_le_bytes());
        config[4..8].copy_from_slice(&1u32.to_le_bytes());
        read_config(&config, offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let interrupt = Arc::clone(&activation.interrupt);
        self.worker.activate(activation.into())?;
        self.handle.set_interrupt(Some(interrupt));
        Ok(())
    }

    fn reset(&mut self) {
        self.handle.set_interrupt(None);
        self.worker.stop();
    }
}

/// The half on the thread.
#[derive(Debug)]
pub struct ConsoleHandler {
    input: Option<Stream>,
    output: Option<Stream>,
    stats: Arc<Stats>,
    active: Option<Active>,
}

#[derive(Debug)]
struct Active {
    memory: Memory,
    receive: Virtqueue,
    transmit: Virtqueue,
    /// Bytes of the next chain to transmit that have been sent already.
    sent: u32,
}

/// A descriptor of the host, and whether it is waited for.
#[derive(Debug)]
struct Stream {
    fd: OwnedFd,
    token: Token,
    events: EventSet,
    waiting: bool,
}

impl Stream {
    fn new(fd: OwnedFd, token: Token, events: EventSet) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self {
            fd,
            token,
            events,
            waiting: false,
        })
    }

    /// Waits for it, or no longer: entirely, lest a hang-up that nobody wants
    /// to hear of yet wakes the thread for ever. False if it cannot be waited
    /// for, because it is a file, which is always ready.
    fn wait(&mut self, wait: bool, poll: &Poll) -> io::Result<bool> {
        if wait && !self.waiting {
            match poll.add(self.fd.as_raw_fd(), self.token, self.events) {
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Ok(false),
                result => result?,
            }
        } else if !wait && self.waiting {
            poll.remove(self.fd.as_raw_fd());
        }
        self.waiting = wait;
        Ok(true)
    }
}

/// Waits for `stream` if a chain of `queue` is `blocked` by it.
fn wait(
    stream: &mut Option<Stream>,
    blocked: bool,
    queue: &Virtqueue,
    poll: &Poll,
) -> Result<(), QueueError> {
    if let Some(stream) = stream {
        let waits = stream
            .wait(blocked, poll)
            .map_err(|error| QueueError::Host {
                what: "waiting for a console's stream",
                error,
            })?;
        if blocked && !waits {
            queue.ring();
        }
    }
    Ok(())
}

/// What a transfer came to.
enum Moved {
    Bytes(u32),
    /// Nothing now, but later.
    Wait,
    /// Nothing any more.
    End,
}

impl Moved {
    fn of(result: io::Result<usize>) -> Self {
        match result {
            Ok(0) => Self::End,
            Ok(n) => Self::Bytes(u32::try_from(n).unwrap_or(u32::MAX)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Self::Wait,
                _ => Self::End,
            },
        }
    }
}

impl ConsoleHandler {
    /// One between `streams` and the guest, that counts in `stats`.
    ///
    /// # Errors
    /// A stream cannot be made non-blocking.
    pub fn new(streams: Streams, stats: Arc<Stats>) -> io::Result<Self> {
        let stream = |fd: Option<OwnedFd>, token, events| {
            fd.map(|fd| Stream::new(fd, token, events)).transpose()
        };
        Ok(Self {
            input: stream(streams.input, INPUT, EventSet::IN)?,
            output: stream(streams.output, OUTPUT, EventSet::OUT)?,
            stats,
            active: None,
        })
    }

    /// Moves what the host has written to the guest's buffers.
    fn receive(&mut self, poll: &Poll) -> Result<(), QueueError> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let memory = active.memory.memory();
        let mut blocked = false;
        let (input, stats) = (&mut self.input, &self.stats);
        active.receive.drain(&memory, |chain| {
            if chain.readable_len() != 0 || chain.writable_len() == 0 {
                return Err(QueueError::Malformed("input needs only writable buffers"));
            }
            let Some(stream) = input.as_ref() else {
                return Ok(Served::Later);
            };
            let slices = chain.writable_slices(&memory, 0, MOST)?;
            match Moved::of(slices.read_from(stream.fd.as_fd())) {
                Moved::Bytes(n) => {
                    stats.delivered(n.into());
                    Ok(Served::Used(n))
                }
                Moved::Wait => {
                    blocked = true;
                    Ok(Served::Later)
                }
                Moved::End => {
                    if let Some(mut stream) = input.take() {
                        let _ = stream.wait(false, poll);
                    }
                    Ok(Served::Later)
                }
            }
        })?;
        // With no buffers there is no use in waiting for input.
        wait(&mut self.input, blocked, &active.receive, poll)
    }

    /// Moves what the guest has written to the host.
    fn transmit(&mut self, poll: &Poll) -> Result<(), QueueError> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let Active {
            memory,
            transmit,
            sent,
            ..
        } = active;
        let memory = memory.memory();
        let mut blocked = false;
        let (output, stats) = (&mut self.output, &self.stats);
        transmit.drain(&memory, |chain| {
            if chain.writable_len() != 0 {
                return Err(QueueError::Malformed("output needs only readable buffers"));
            }
            let Some(stream) = output.as_ref() else {
                stats.dropped.add(1);
                return Ok(Served::Used(0));
            };
            // The driver may have changed the chain since it was here last.
            let slices = chain.readable_slices(&memory, *sent, MOST)?;
            if !slices.is_empty() {
                match Moved::of(slices.write_to(&[], stream.fd.as_fd())) {
                    Moved::Bytes(n) => *sent += n,
                    Moved::Wait => {}
                    Moved::End => {
                        if let Some(mut stream) = output.take() {
                            let _ = stream.wait(false, poll);
                        }
                        *sent = u32::MAX;
                    }
                }
            }
            if *sent < chain.readable_len() {
                blocked = true;
                return Ok(Served::Later);
            }
            *sent = 0;
            stats.received(chain.readable_len().into());
            Ok(Served::Used(0))
        })?;
        wait(&mut self.output, blocked, transmit, poll)
    }
}

impl Handler for ConsoleHandler {
    fn start(&mut self, mut work: Work, _poll: &Poll) -> Result<(), ActivateError> {
        self.active = Some(Active {
            memory: work.memory.clone(),
            receive: work.take(RECEIVE)?,
            transmit: work.take(TRANSMIT)?,
            sent: 0,
        });
        Ok(())
    }

    fn event(&mut self, token: Token, _ready: EventSet, poll: &Poll) -> Result<(), QueueError> {
        const RECEIVE_BELL: Token = RECEIVE as Token;
        const TRANSMIT_BELL: Token = TRANSMIT as Token;
        let Some(active) = &self.active else {
            return Ok(());
        };
        match token {
            RECEIVE_BELL => active.receive.answer(),
            TRANSMIT_BELL => active.transmit.answer(),
            _ => {}
        }
        match token {
            RECEIVE_BELL | INPUT => self.receive(poll),
            TRANSMIT_BELL | OUTPUT => self.transmit(poll),
            _ => Ok(()),
        }
    }

    fn stop(&mut self, poll: &Poll) {
        self.active = None;
        for stream in [&mut self.input, &mut self.output].into_iter().flatten() {
            let _ = stream.wait(false, poll);
        }
    }
}
