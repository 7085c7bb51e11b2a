//! One pair of queues on its thread.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use vm_memory::{GuestAddressSpace, GuestMemoryMmap};

use super::control::Control;
use super::receive::Buffers;
use super::{HEADER, Link, MAX_PACKET, feature};
use crate::virtio::queue::{Chain, QueueError, Served, Virtqueue};
use crate::virtio::worker::{EventSet, FIRST_TOKEN, Handler, Poll, Token, Work};
use crate::virtio::{ActivateError, Memory, Stats};

/// Event of the back end's descriptor.
pub(super) const PEER: Token = FIRST_TOKEN;

/// Frames moved to the guest before other events get a turn.
const BUDGET: usize = 256;

/// What became of a frame from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way: so many bytes.
    Bytes(u32),
    /// It cannot be sent by anyone.
    Dropped,
    /// There is no room for it now.
    Blocked,
    /// The peer is gone.
    Closed,
}

/// What came from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A frame of so many bytes, its header not counted, is in the buffers.
    Bytes(u32),
    /// A frame came that the guest has no buffer for.
    Dropped,
    /// The guest has to make more buffers available first.
    NoBuffers,
    /// There is nothing now.
    Nothing,
    /// The peer is gone.
    Closed,
}

/// What is at the other end.
pub trait Backend: Send {
    /// The descriptor to wait for.
    fn fd(&self) -> BorrowedFd<'_>;

    /// The features it adds to those of any network device.
    fn features(&self) -> u64;

    /// A driver has come that negotiated `features`.
    ///
    /// # Errors
    /// The host refuses.
    fn start(&mut self, features: u64) -> io::Result<()>;

    /// Sends the packet in `chain`, which has a whole header.
    ///
    /// # Errors
    /// The chain is no longer in memory.
    fn send(&mut self, memory: &GuestMemoryMmap, chain: &Chain) -> Result<Sent, QueueError>;

    /// Goes on with what [`send`](Self::send) took but could not send yet:
    /// [`Sent::Bytes`] when there is nothing of it left.
    fn flush(&mut self) -> Sent;

    /// Whether the length of a frame is known only when it is in the buffers.
    fn frames_are_unseen(&self) -> bool;

    /// Whether it has frames for [`receive`](Self::receive) that its descriptor
    /// does not show.
    fn has_buffered(&self) -> bool;

    /// Puts the next frame into `buffers`.
    ///
    /// # Errors
    /// The buffers are no longer in memory.
    fn receive(
        &mut self,
        memory: &GuestMemoryMmap,
        buffers: &mut Buffers,
    ) -> Result<Received, QueueError>;
}

/// The half on the thread, for one pair of queues.
#[derive(Debug)]
pub struct NetHandler<B> {
    pair: u16,
    backend: B,
    control: Option<Control>,
    link: Arc<Link>,
    stats: Arc<Stats>,
    active: Option<Active>,
    /// What the back end's descriptor is waited for.
    waiting: Option<EventSet>,
    closed: bool,
}

#[derive(Debug)]
struct Active {
    memory: Memory,
    receive: Virtqueue,
    transmit: Virtqueue,
    control: Option<Virtqueue>,
    buffers: Buffers,
    /// The driver has no buffers for what the peer sends.
    starving: bool,
    /// The peer has no room for what the driver sends.
    blocked: bool,
}

impl<B: Backend> NetHandler<B> {
    pub(super) fn new(
        pair: u16,
        backend: B,
        control: Option<Control>,
        link: Arc<Link>,
        stats: Arc<Stats>,
    ) -> Self {
        Self {
            pair,
            backend,
            control,
            link,
            stats,
            active: None,
            waiting: None,
            closed: false,
        }
    }

    /// A handler of its own, for tests and fuzzing.
    pub fn alone(backend: B, stats: Arc<Stats>) -> Self {
        Self::new(0, backend, None, Link::new(), stats)
    }

    fn transmit(&mut self) -> Result<(), QueueError> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let memory = active.memory.memory();
        active.blocked = false;
        let Active {
            transmit, blocked, ..
        } = active;
        let (backend, stats, closed) = (&mut self.backend, &self.stats, &mut self.closed);
        transmit.drain(&memory, |chain| {
            if chain.writable_len() != 0 {
                return Err(QueueError::Malformed("a frame to send that is writable"));
            }
            let len = chain.readable_len();
            if (len as usize) < HEADER {
                return Err(QueueError::TooShort {
                    what: "readable",
                    need: HEADER as u64,
                    have: len.into(),
                });
            }
            let sent = if *closed || len as usize > MAX_PACKET {
                Sent::Dropped
            } else {
                backend.send(&memory, chain)?
            };
            match sent {
                Sent::Bytes(n) => stats.received(n.into()),
                Sent::Dropped => stats.dropped.add(1),
                Sent::Blocked => {
                    *blocked = true;
                    return Ok(Served::Later);
                }
                Sent::Closed => {
                    *closed = true;
                    stats.dropped.add(1);
                }
            }
            Ok(Served::Used(0))
        })?;
        // Part of the last frame may be left.
        match backend.flush() {
            Sent::Blocked => *blocked = true,
            Sent::Closed => *closed = true,
            Sent::Bytes(_) | Sent::Dropped => {}
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), QueueError> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let memory = active.memory.memory();
        let Active {
            receive,
            buffers,
            starving,
            ..
        } = active;
        *starving = false;
        receive.ignore(&memory)?;
        let mut budget = BUDGET;
        while !self.closed {
            if budget == 0 {
                // The descriptor shows only what has not been read from it.
                if self.backend.has_buffered() {
                    receive.ring();
                }
                break;
            }
            budget -= 1;
            buffers.refill(receive, &memory)?;
            match self.backend.receive(&memory, buffers)? {
                Received::Bytes(n) => {
                    buffers.commit(receive, &memory, n)?;
                    self.stats.delivered(n.into());
                }
                Received::Dropped => self.stats.dropped.add(1),
                Received::Nothing => break,
                Received::Closed => self.closed = true,
                Received::NoBuffers => {
                    if !receive.listen(&memory)? {
                        *starving = true;
                        break;
                    }
                    receive.ignore(&memory)?;
                }
            }
        }
        receive.notify(&memory)
    }

    /// Waits for the peer as far as there is something to do with it.
    fn wait(&mut self, poll: &Poll) -> Result<(), QueueError> {
        if self.closed {
            self.link.down();
        }
        let mut events = EventSet::empty();
        if let Some(active) = &self.active
            && !self.closed
        {
            events.set(EventSet::IN, !active.starving);
            events.set(EventSet::OUT, active.blocked);
        }
        let want = (!events.is_empty()).then_some(events);
        if want == self.waiting {
            return Ok(());
        }
        let fd = self.backend.fd().as_raw_fd();
        let result = match (self.waiting, want) {
            (None, Some(events)) => poll.add(fd, PEER, events),
            (Some(_), Some(events)) => poll.modify(fd, PEER, events),
            // Not at all, or a hang-up would come again and again.
            (_, None) => {
                poll.remove(fd);
                Ok(())
            }
        };
        self.waiting = want;
        result.map_err(|error| QueueError::Host {
            what: "waiting for the network",
            error,
        })
    }
}

impl<B: Backend> Handler for NetHandler<B> {
    fn start(&mut self, mut work: Work, poll: &Poll) -> Result<(), ActivateError> {
        let host = |what| move |error| ActivateError::Host { what, error };
        self.backend
            .start(work.features)
            .map_err(host("network offloads"))?;
        if let Some(control) = &mut self.control {
            control.start().map_err(host("network queues"))?;
        }
        let receive = work.take(0)?;
        self.active = Some(Active {
            memory: work.memory.clone(),
            buffers: Buffers::new(
                work.features & feature::MRG_RXBUF != 0,
                self.backend.frames_are_unseen(),
            ),
            receive,
            transmit: work.take(1)?,
            control: work.take_optional(2),
            starving: false,
            blocked: false,
        });
        self.wait(poll).map_err(|error| ActivateError::Host {
            what: "waiting for the network",
            error: io::Error::other(error),
        })
    }

    fn event(&mut self, token: Token, ready: EventSet, poll: &Poll) -> Result<(), QueueError> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let (receive, transmit) = if token == PEER {
            (
                ready != EventSet::OUT,
                active.blocked && ready != EventSet::IN,
            )
        } else {
            let first = u64::from(self.pair) * 2;
            if token == first {
                active.receive.answer();
                (true, false)
            } else if token == first + 1 {
                active.transmit.answer();
                // Woken for nothing while the peer has no room.
                (false, !active.blocked)
            } else {
                if let (Some(queue), Some(control)) = (&mut active.control, &mut self.control) {
                    queue.answer();
                    let memory = active.memory.memory();
                    queue.drain(&memory, |chain| control.serve(&memory, chain))?;
                }
                (false, false)
            }
        };
        if transmit {
            self.transmit()?;
        }
        if receive {
            self.receive()?;
        }
        self.wait(poll)
    }

    fn stop(&mut self, poll: &Poll) {
        self.active = None;
        // Removes the peer from the poll.
        let _ = self.wait(poll);
    }
}
