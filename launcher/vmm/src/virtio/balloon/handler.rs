//! The queues of the device, on its thread.

use std::sync::Arc;
use std::time::Instant;

use vm_memory::{GuestAddressSpace, GuestMemoryMmap};

use super::report::{self, MemoryReport};
use super::{DEFLATE, F_PAGE_REPORTING, F_STATS_VQ, INFLATE, PAGE, QUEUES, STATS, Shared};
use crate::virtio::discard::discard;
use crate::virtio::queue::{Chain, QueueError, Served, Virtqueue};
use crate::virtio::worker::{EventSet, Handler, Poll, Token, Work};
use crate::virtio::{ActivateError, Memory};

/// The half on the thread.
#[derive(Debug)]
pub struct BalloonHandler {
    shared: Arc<Shared>,
    active: Option<Active>,
}

#[derive(Debug)]
struct Active {
    memory: Memory,
    inflate: Virtqueue,
    deflate: Virtqueue,
    stats: Option<Virtqueue>,
    reporting: Option<Virtqueue>,
    /// Queues that the driver enabled and that nothing was agreed for.
    others: Vec<Virtqueue>,
    /// What the next statistics are asked for with.
    ask: Option<Chain>,
}

impl BalloonHandler {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            active: None,
        }
    }
}

/// Runs of pages, in bytes, from their numbers in any order.
fn runs(pages: &mut [u32], mut run: impl FnMut(u64, u64)) {
    pages.sort_unstable();
    let mut pages = pages.iter().map(|page| u64::from(*page)).peekable();
    while let Some(first) = pages.next() {
        let mut end = first + 1;
        while let Some(next) = pages.next_if(|next| *next <= end) {
            end = next + 1;
        }
        run(first * PAGE, (end - first) * PAGE);
    }
}

impl Shared {
    /// Takes the pages whose numbers the guest has written.
    fn inflate(&self, memory: &GuestMemoryMmap, chain: &Chain) -> Result<Served, QueueError> {
        each_piece(memory, chain, |pages| {
            runs(pages, |start, len| self.take(memory, start, len));
        })
    }

    /// Gives pages back: they are there as soon as they are used.
    fn deflate(&self, memory: &GuestMemoryMmap, chain: &Chain) -> Result<Served, QueueError> {
        each_piece(memory, chain, |pages| {
            self.metrics.deflated.add(pages.len() as u64 * PAGE);
        })
    }

    fn take(&self, memory: &GuestMemoryMmap, start: u64, len: u64) {
        match discard(memory, start, len) {
            Ok(()) => self.metrics.inflated.add(len),
            // Not its memory, or the host wants none: nothing is lost.
            Err(_) => self.metrics.stats.dropped.add(1),
        }
    }

    /// Takes free pages, the buffers themselves, for as long as they are free.
    fn report(&self, memory: &GuestMemoryMmap, chain: &Chain) -> Result<Served, QueueError> {
        for buffer in chain.writable() {
            let (start, len) = (buffer.address.0, u64::from(buffer.len));
            // Whole pages only; a driver has no others.
            let first = start.next_multiple_of(PAGE);
            let end = (start + len) / PAGE * PAGE;
            if first >= end {
                continue;
            }
            match discard(memory, first, end - first) {
                Ok(()) => self.metrics.reported.add(end - first),
                Err(_) => self.metrics.stats.dropped.add(1),
            }
        }
        self.metrics.stats.from_guest.add(1);
        Ok(Served::Used(0))
    }
}

/// Numbers that are read at a time.
const PIECE: usize = 1024;

/// Reads the page numbers in a chain, some at a time.
fn each_piece(
    memory: &GuestMemoryMmap,
    chain: &Chain,
    mut f: impl FnMut(&mut [u32]),
) -> Result<Served, QueueError> {
    if chain.writable_len() != 0 || !chain.readable_len().is_multiple_of(4) {
        return Err(QueueError::Malformed(
            "a balloon needs numbers of pages of four bytes each, and nothing to write",
        ));
    }
    let mut done = 0;
    let mut bytes = [0; PIECE * 4];
    let mut pages = Vec::with_capacity(PIECE);
    while done < chain.readable_len() {
        let now = (chain.readable_len() - done).min(PIECE as u32 * 4);
        let bytes = bytes.get_mut(..now as usize).unwrap_or_default();
        chain.read_at(memory, done, bytes)?;
        pages.clear();
        let (numbers, _) = bytes.as_chunks();
        pages.extend(numbers.iter().map(|n| u32::from_le_bytes(*n)));
        f(&mut pages);
        done += now;
    }
    Ok(Served::Used(0))
}

impl Active {
    /// Takes statistics, and keeps what to ask for the next with.
    fn take_stats(&mut self, shared: &Shared) -> Result<(), QueueError> {
        let Some(queue) = &mut self.stats else {
            return Ok(());
        };
        let memory = self.memory.memory();
        while let Some(chain) = queue.pop(&memory)? {
            if chain.writable_len() != 0 {
                return Err(QueueError::Malformed("statistics that are writable"));
            }
            let mut bytes = [0; report::MOST];
            let len = bytes.len().min(chain.readable_len() as usize);
            let bytes = bytes.get_mut(..len).unwrap_or_default();
            chain.read_at(&memory, 0, bytes)?;
            shared.set_report(MemoryReport::parse(bytes), Instant::now());
            // 5.5.6.3.1: one at a time, so there is none before it.
            if let Some(before) = self.ask.replace(chain) {
                queue.complete(&memory, before, 0)?;
            }
        }
        queue.notify(&memory)
    }

    /// Asks for statistics.
    fn ask_stats(&mut self) -> Result<(), QueueError> {
        let (Some(queue), Some(chain)) = (&mut self.stats, self.ask.take()) else {
            return Ok(());
        };
        let memory = self.memory.memory();
        queue.complete(&memory, chain, 0)?;
        queue.notify(&memory)
    }
}

impl Handler for BalloonHandler {
    fn start(&mut self, mut work: Work, _poll: &Poll) -> Result<(), ActivateError> {
        let inflate = work.take(INFLATE)?;
        let deflate = work.take(DEFLATE)?;
        let stats = match work.features & F_STATS_VQ {
            0 => None,
            _ => Some(work.take(STATS)?),
        };
        // Section 5.5.2 puts it at 4; Linux leaves out queues that were not
        // negotiated, so that it is at 3 or 2.
        let reporting = match work.features & F_PAGE_REPORTING {
            0 => None,
            _ => (STATS..QUEUES.len() as u16).find_map(|index| work.take_optional(index)),
        };
        self.active = Some(Active {
            memory: work.memory.clone(),
            inflate,
            deflate,
            stats,
            reporting,
            others: work.queues.into_iter().flatten().collect(),
            ask: None,
        });
        Ok(())
    }

    fn event(&mut self, token: Token, _ready: EventSet, _poll: &Poll) -> Result<(), QueueError> {
        const INFLATE_BELL: Token = INFLATE as Token;
        const DEFLATE_BELL: Token = DEFLATE as Token;
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let memory = active.memory.memory();
        let shared = &self.shared;
        let is = |queue: &Option<Virtqueue>| {
            queue
                .as_ref()
                .is_some_and(|q| Token::from(q.index()) == token)
        };
        match token {
            INFLATE_BELL => {
                active.inflate.answer();
                let queue = &mut active.inflate;
                queue.drain(&memory, |chain| shared.inflate(&memory, chain))
            }
            DEFLATE_BELL => {
                active.deflate.answer();
                let queue = &mut active.deflate;
                queue.drain(&memory, |chain| shared.deflate(&memory, chain))
            }
            _ if is(&active.stats) => {
                active.stats.iter().for_each(Virtqueue::answer);
                active.take_stats(shared)
            }
            _ if is(&active.reporting) => match &mut active.reporting {
                Some(queue) => {
                    queue.answer();
                    queue.drain(&memory, |chain| shared.report(&memory, chain))
                }
                None => Ok(()),
            },
            _ => {
                // Or the bell would ring for ever.
                active.others.iter().for_each(Virtqueue::answer);
                Ok(())
            }
        }
    }

    fn poked(&mut self, _poll: &Poll) -> Result<(), QueueError> {
        self.active.as_mut().map_or(Ok(()), Active::ask_stats)
    }

    fn stop(&mut self, _poll: &Poll) {
        self.active = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_the_pages_and_as_few_as_can_be(
            mut pages in prop::collection::vec(prop_oneof![0u32..50, 0u32..], 0..60),
        ) {
            let mut expected: Vec<_> = pages.iter().map(|p| u64::from(*p)).collect();
            expected.sort_unstable();
            expected.dedup();
            let (mut got, mut last) = (Vec::new(), None);
            runs(&mut pages, |start, len| {
                assert!(len > 0 && last != Some(start));
                last = Some(start + len);
                got.extend(start / PAGE..(start + len) / PAGE);
            });
            prop_assert_eq!(got, expected);
        }
    }
}
