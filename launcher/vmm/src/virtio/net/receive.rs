//! Buffers of the guest that wait for frames.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use vm_memory::GuestMemoryMmap;

use super::{HEADER, MAX_PACKET, NUM_BUFFERS};
use crate::virtio::queue::{Chain, QueueError, Slices, Virtqueue};

/// Chains taken from a receive queue, to be filled in order.
///
/// They are kept from frame to frame: how long a frame is shows only when it is
/// there, and taking and giving back chains for each would cost more than the
/// frame.
#[derive(Debug)]
pub struct Buffers {
    chains: VecDeque<Chain>,
    /// Bytes they hold in all.
    capacity: usize,
    /// `VIRTIO_NET_F_MRG_RXBUF`: a frame may use several.
    merge: bool,
    /// Bytes that are to be here before the next frame is read.
    wanted: usize,
    /// Whether all that the queue can have is here.
    full: bool,
}

impl Buffers {
    /// None yet. If `unseen`, the length of a frame is known only once it is in
    /// the buffers, so there must be room for the longest.
    pub(super) fn new(merge: bool, unseen: bool) -> Self {
        Self {
            chains: VecDeque::new(),
            capacity: 0,
            merge,
            wanted: if unseen { MAX_PACKET } else { 1 },
            full: false,
        }
    }

    /// Takes chains until there is room for the next frame, or no more.
    pub(super) fn refill(
        &mut self,
        queue: &mut Virtqueue,
        memory: &GuestMemoryMmap,
    ) -> Result<(), QueueError> {
        while self.chains.is_empty() || (self.merge && self.capacity < self.wanted) {
            let Some(chain) = queue.pop(memory)? else {
                break;
            };
            // 5.1.6.3.1: room for the header at least.
            if chain.readable_len() != 0 || (chain.writable_len() as usize) < HEADER {
                return Err(QueueError::Malformed(
                    "a receive buffer needs room for a header, and nothing to read",
                ));
            }
            self.capacity = self.capacity.saturating_add(chain.writable_len() as usize);
            self.chains.push_back(chain);
        }
        self.full = self.chains.len() >= usize::from(queue.size());
        Ok(())
    }

    /// Whether there is room for the next frame, whatever its length.
    pub(super) fn ready(&self) -> bool {
        !self.chains.is_empty() && (!self.merge || self.capacity >= self.wanted || self.full)
    }

    /// How many chains a packet of `len` bytes takes, if they suffice.
    fn chains_for(&self, len: usize) -> Option<usize> {
        let mut room = 0usize;
        let most = if self.merge { usize::MAX } else { 1 };
        self.chains
            .iter()
            .take(most)
            .position(|chain| {
                room = room.saturating_add(chain.writable_len() as usize);
                room >= len
            })
            .map(|last| last + 1)
    }

    /// Whether a frame of `len` bytes fits now, could after another refill, or
    /// never will.
    pub(super) fn fits(&mut self, len: usize) -> Fit {
        let packet = HEADER + len;
        if self.chains_for(packet).is_some() {
            Fit::Now
        } else if self.chains.is_empty() || (self.merge && !self.full) {
            self.wanted = self.wanted.max(packet);
            Fit::Later
        } else {
            Fit::Never
        }
    }

    /// Writes `data` at `offset` bytes into the packet.
    pub(super) fn write(
        &self,
        memory: &GuestMemoryMmap,
        offset: usize,
        mut data: &[u8],
    ) -> Result<(), QueueError> {
        let mut skip = offset;
        for chain in &self.chains {
            let room = chain.writable_len() as usize;
            if skip >= room {
                skip -= room;
                continue;
            }
            let (now, later) = data.split_at(data.len().min(room - skip));
            chain.write_at(memory, skip as u32, now)?;
            data = later;
            skip = 0;
            if data.is_empty() {
                return Ok(());
            }
        }
        Err(QueueError::TooShort {
            what: "writable",
            need: data.len() as u64,
            have: 0,
        })
    }

    /// Fills them from `fd` with a packet that has its header.
    pub(super) fn read_from(
        &self,
        memory: &GuestMemoryMmap,
        fd: BorrowedFd<'_>,
    ) -> Result<io::Result<usize>, QueueError> {
        let most = if self.merge { usize::MAX } else { 1 };
        let mut all = Slices::default();
        for chain in self.chains.iter().take(most) {
            all.append(chain.writable_slices(memory, 0, MAX_PACKET as u32)?);
        }
        Ok(all.read_from(fd))
    }

    /// Hands the chains that a frame of `len` bytes took to the driver.
    pub(super) fn commit(
        &mut self,
        queue: &mut Virtqueue,
        memory: &GuestMemoryMmap,
        len: u32,
    ) -> Result<(), QueueError> {
        let packet = HEADER + len as usize;
        let count = self.chains_for(packet).unwrap_or(self.chains.len());
        // 5.1.6.4.1: the number of buffers, which is 1 without MRG_RXBUF.
        let number = u16::try_from(count).unwrap_or(u16::MAX);
        self.write(memory, NUM_BUFFERS as usize, &number.to_le_bytes())?;
        let mut rest = packet;
        let mut used = 0;
        let chains = self.chains.drain(..count).map(|chain| {
            let now = rest.min(chain.writable_len() as usize);
            rest -= now;
            used += chain.writable_len() as usize;
            (chain, now as u32)
        });
        queue.complete_all(memory, chains)?;
        self.capacity = self.capacity.saturating_sub(used);
        Ok(())
    }
}

/// Whether a frame fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Now,
    Later,
    Never,
}
