//! Requests of the guest, on the device's thread.

use std::ops::Range;
use std::sync::Arc;

use vm_memory::{GuestAddressSpace, GuestMemoryMmap};
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::blocks::{Blocks, State};
use super::{BLOCK, Reach, Shared};
use crate::virtio::discard::discard;
use crate::virtio::queue::{Chain, QueueError, Served, Virtqueue};
use crate::virtio::worker::{EventSet, Handler, Poll, Token, Work};
use crate::virtio::{ActivateError, Memory};

/// Types of requests, [section 5.15.6].
///
/// [section 5.15.6]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html
pub(super) mod request {
    pub(in super::super) const PLUG: u16 = 0;
    pub(in super::super) const UNPLUG: u16 = 1;
    pub(in super::super) const UNPLUG_ALL: u16 = 2;
    pub(in super::super) const STATE: u16 = 3;
}

/// Answers.
pub(super) mod answer {
    pub(in super::super) const ACK: u16 = 0;
    pub(in super::super) const NACK: u16 = 1;
    pub(in super::super) const BUSY: u16 = 2;
    pub(in super::super) const ERROR: u16 = 3;
}

/// `struct virtio_mem_req`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Request {
    pub(super) kind: U16,
    pub(super) padding: [U16; 3],
    pub(super) address: U64,
    pub(super) count: U16,
    pub(super) padding_end: [U16; 3],
}

/// `struct virtio_mem_resp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Answer {
    pub(super) kind: U16,
    pub(super) padding: [U16; 3],
    /// Of [`request::STATE`].
    pub(super) state: U16,
}

impl Answer {
    pub(super) fn new(kind: u16, state: u16) -> Self {
        Self {
            kind: kind.into(),
            padding: [0.into(); 3],
            state: state.into(),
        }
    }
}

/// The half on the thread.
#[derive(Debug)]
pub struct MemHandler {
    shared: Arc<Shared>,
    active: Option<(Memory, Virtqueue)>,
}

impl MemHandler {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            active: None,
        }
    }
}

impl Handler for MemHandler {
    fn start(&mut self, mut work: Work, _poll: &Poll) -> Result<(), ActivateError> {
        self.active = Some((work.memory.clone(), work.take(0)?));
        Ok(())
    }

    fn event(&mut self, _token: Token, _ready: EventSet, _poll: &Poll) -> Result<(), QueueError> {
        let Some((memory, queue)) = &mut self.active else {
            return Ok(());
        };
        let memory = memory.memory();
        queue.answer();
        queue.drain(&memory, |chain| self.shared.serve(&memory, chain))
    }

    fn stop(&mut self, _poll: &Poll) {
        self.active = None;
    }
}

impl Shared {
    fn serve(&self, memory: &GuestMemoryMmap, chain: &Chain) -> Result<Served, QueueError> {
        let mut bytes = [0; size_of::<Request>()];
        chain.read_at(memory, 0, &mut bytes)?;
        let request = Request::read_from_bytes(&bytes)
            .map_err(|_| QueueError::Malformed("a request of memory that is none"))?;
        let len = size_of::<Answer>();
        if (chain.writable_len() as usize) < len {
            return Err(QueueError::TooShort {
                what: "writable",
                need: len as u64,
                have: chain.writable_len().into(),
            });
        }
        let answer = self.answer(memory, &request);
        self.metrics.stats.from_guest.add(1);
        if answer.kind.get() != answer::ACK {
            self.metrics.refused.add(1);
        }
        chain.write_at(memory, 0, answer.as_bytes())?;
        Ok(Served::Used(len as u32))
    }

    fn answer(&self, memory: &GuestMemoryMmap, request: &Request) -> Answer {
        let mut blocks = self.blocks();
        let kind = request.kind.get();
        if kind == request::UNPLUG_ALL {
            let freed = discard(memory, self.region.start, self.region.len);
            if freed.is_ok() {
                blocks.clear();
                self.metrics.plugged.set(0);
                self.hide(0..self.region.len / BLOCK, &blocks);
            }
            return Answer::new(kind_of(&freed), 0);
        }
        let Some(range) = self.range(request) else {
            return Answer::new(answer::ERROR, 0);
        };
        let state = blocks.state(range.clone());
        let count = range.end - range.start;
        let answer = match (kind, state) {
            (request::STATE, state) => return Answer::new(answer::ACK, number(state)),
            (request::PLUG, State::Unplugged) => {
                // 5.15: no more than was asked for.
                match (blocks.plugged() + count) * BLOCK <= self.metrics.requested.get() {
                    true => kind_of(&self.reach().show(range.clone())),
                    false => answer::NACK,
                }
            }
            (request::UNPLUG, State::Plugged) => {
                let start = self.region.start + range.start * BLOCK;
                kind_of(&discard(memory, start, count * BLOCK))
            }
            _ => answer::ERROR,
        };
        if answer == answer::ACK {
            blocks.set(range.clone(), kind == request::PLUG);
            self.metrics.plugged.set(blocks.plugged() * BLOCK);
        }
        if kind == request::UNPLUG {
            self.hide(range, &blocks);
        }
        Answer::new(answer, 0)
    }

    /// Hides what is unplugged. A piece that the host keeps in reach is empty, and
    /// goes when something in it is unplugged again.
    fn hide(&self, range: Range<u64>, blocks: &Blocks) {
        let _ = self.reach().hide(range, blocks);
    }

    /// The blocks that a request names, if they are whole blocks of the region.
    fn range(&self, request: &Request) -> Option<Range<u64>> {
        let offset = request.address.get().checked_sub(self.region.start)?;
        let (first, count) = (offset / BLOCK, u64::from(request.count.get()));
        let end = first.checked_add(count)?;
        let fits = offset.is_multiple_of(BLOCK) && count > 0 && end <= self.region.len / BLOCK;
        fits.then_some(first..end)
    }

    pub(super) fn blocks(&self) -> std::sync::MutexGuard<'_, Blocks> {
        self.blocks
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn reach(&self) -> std::sync::MutexGuard<'_, Reach> {
        self.reach
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The guest may try again if the host did not give or take the memory.
fn kind_of(freed: &std::io::Result<()>) -> u16 {
    match freed {
        Ok(()) => answer::ACK,
        Err(_) => answer::BUSY,
    }
}

fn number(state: State) -> u16 {
    match state {
        State::Plugged => 0,
        State::Unplugged => 1,
        State::Mixed => 2,
    }
}
