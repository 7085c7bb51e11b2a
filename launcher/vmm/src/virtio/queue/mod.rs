//! A virtqueue at work, strict about what its driver puts there.
//!
//! What goes in is an [`ActiveQueue`]; what comes out are [`Chain`]s, each read
//! once, checked from end to end and then independent of what the driver does
//! to its tables. Whatever the driver may not do is a [`QueueError`], upon
//! which a device stops: the library's own iterators would end a broken chain
//! early and in silence. Ring layout: [section 2.7].
//!
//! [section 2.7]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-350007

mod chain;
mod error;
#[cfg(test)]
mod tests;
mod walk;

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

pub use chain::{Buffer, Chain, Slices};
pub use error::QueueError;

use super::{ActiveQueue, Interrupt, features};

/// `VIRTQ_AVAIL_F_NO_INTERRUPT`, section 2.7.6.
const NO_INTERRUPT: u16 = 1;

/// Chains served in one go before other events, a reset among them, get a turn.
const BUDGET: usize = 256;

/// What became of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Done: so many bytes were written to its writable part.
    Used(u32),
    /// Nothing was done with it; it stays available, and so do those after it.
    /// The driver is asked for no further notifications.
    Later,
}

/// A queue that its device works on.
#[derive(Debug)]
pub struct Virtqueue {
    index: u16,
    queue: Queue,
    doorbell: EventFd,
    interrupt: Arc<dyn Interrupt>,
    indirect: bool,
    /// Where the used index was when the driver was thought of last.
    told: u16,
    /// Emptied lists of buffers, to be filled again.
    spare: Vec<Vec<Buffer>>,
}

impl Virtqueue {
    /// Takes over a queue under the negotiated `features`.
    pub fn new(active: ActiveQueue, features: u64, interrupt: Arc<dyn Interrupt>) -> Self {
        let ActiveQueue {
            index,
            mut queue,
            doorbell,
        } = active;
        queue.set_event_idx(features & features::RING_EVENT_IDX != 0);
        Self {
            index,
            told: queue.next_used(),
            queue,
            doorbell,
            interrupt,
            indirect: features & features::RING_INDIRECT_DESC != 0,
            spare: Vec::new(),
        }
    }

    /// Its index in the device.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// How many descriptors it has.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Another descriptor of the driver's doorbell, to wait for it.
    ///
    /// # Errors
    /// The host is out of descriptors.
    pub fn clone_doorbell(&self) -> io::Result<EventFd> {
        self.doorbell.try_clone()
    }

    /// Clears the doorbell, so that it may ring again.
    pub fn answer(&self) {
        // It was cleared already, which is what is wanted, or never rings.
        let _ = self.doorbell.read();
    }

    /// Rings the own doorbell: there is more to do, after other events.
    pub fn ring(&self) {
        // A full counter rings as well.
        let _ = self.doorbell.write(1);
    }

    /// Takes the next available chain.
    ///
    /// # Errors
    /// The driver broke a rule of section 2.7.
    pub fn pop(&mut self, memory: &GuestMemoryMmap) -> Result<Option<Chain>, QueueError> {
        let table = GuestAddress(self.queue.desc_table());
        let size = self.queue.size();
        let Some(head) = self.queue.iter(memory)?.next().map(|c| c.head_index()) else {
            return Ok(None);
        };
        let buffers = self.spare.pop().unwrap_or_default();
        walk::walk(memory, table, size, head, self.indirect, buffers).map(Some)
    }

    /// Gives back the chain that was taken last: it is available again.
    pub fn undo(&mut self, chain: Chain) {
        self.queue.go_to_previous_position();
        self.recycle(chain);
    }

    /// Whether a chain is available.
    ///
    /// # Errors
    /// The ring is not in memory.
    pub fn has_available(&self, memory: &GuestMemoryMmap) -> Result<bool, QueueError> {
        let available = self.queue.avail_idx(memory, Ordering::Acquire)?;
        Ok(available.0 != self.queue.next_avail())
    }

    /// Hands a chain back to the driver with `len` bytes written to it.
    ///
    /// The driver hears of it at the next [`notify`](Self::notify).
    ///
    /// # Errors
    /// The used ring is not in memory.
    pub fn complete(
        &mut self,
        memory: &GuestMemoryMmap,
        chain: Chain,
        len: u32,
    ) -> Result<(), QueueError> {
        let head = chain.head();
        self.recycle(chain);
        Ok(self.queue.add_used(memory, head, len)?)
    }

    /// Hands several chains back at once: the driver sees all of them or none,
    /// which matters where several make up one packet.
    ///
    /// # Errors
    /// The used ring is not in memory.
    pub fn complete_all(
        &mut self,
        memory: &GuestMemoryMmap,
        chains: impl IntoIterator<Item = (Chain, u32)>,
    ) -> Result<(), QueueError> {
        let mut chains = chains.into_iter().peekable();
        let size = self.queue.size().max(1);
        while let Some((chain, len)) = chains.next() {
            if chains.peek().is_none() {
                // Writes the index, and with it publishes those before.
                return self.complete(memory, chain, len);
            }
            // An element of the used ring, section 2.7.8.
            let next = self.queue.next_used();
            let mut element = [0; 8];
            element[..4].copy_from_slice(&u32::from(chain.head()).to_le_bytes());
            element[4..].copy_from_slice(&len.to_le_bytes());
            let slot = u64::from(next % size);
            let address = self.queue.used_ring().saturating_add(4 + slot * 8);
            memory
                .write_slice(&element, GuestAddress(address))
                .map_err(virtio_queue::Error::GuestMemory)?;
            self.queue.set_next_used(next.wrapping_add(1));
            self.recycle(chain);
        }
        Ok(())
    }

    /// Interrupts the driver if there are used buffers it wants to hear of,
    /// [section 2.7.7.2].
    ///
    /// # Errors
    /// The ring is not in memory, or the interrupt cannot be injected.
    ///
    /// [section 2.7.7.2]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-550002
    pub fn notify(&mut self, memory: &GuestMemoryMmap) -> Result<(), QueueError> {
        let new = self.queue.next_used();
        let old = std::mem::replace(&mut self.told, new);
        if new == old {
            return Ok(());
        }
        // The used index must be out before it is read what the driver wants.
        fence(Ordering::SeqCst);
        let ring = self.queue.avail_ring();
        let wanted = if self.queue.event_idx_enabled() {
            let event = ring.saturating_add(4 + u64::from(self.queue.size()) * 2);
            let event = load(memory, event)?;
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            load(memory, ring)? & NO_INTERRUPT == 0
        };
        if !wanted {
            return Ok(());
        }
        self.interrupt
            .queue(self.index)
            .map_err(QueueError::Interrupt)
    }

    /// Asks the driver to ring when it makes buffers available; true if it did
    /// so meanwhile and will not ring for those.
    ///
    /// # Errors
    /// The ring is not in memory.
    pub fn listen(&mut self, memory: &GuestMemoryMmap) -> Result<bool, QueueError> {
        Ok(self.queue.enable_notification(memory)?)
    }

    /// Spares the driver ringing until [`listen`](Self::listen).
    ///
    /// # Errors
    /// The ring is not in memory.
    pub fn ignore(&mut self, memory: &GuestMemoryMmap) -> Result<(), QueueError> {
        Ok(self.queue.disable_notification(memory)?)
    }

    /// Serves the available chains with `serve` and notifies the driver: until
    /// none is left, or `serve` answers [`Served::Later`], or others should
    /// have a turn (the doorbell then rings at once).
    ///
    /// # Errors
    /// Those of `serve` and of the queue.
    pub fn drain<E, F>(&mut self, memory: &GuestMemoryMmap, mut serve: F) -> Result<(), E>
    where
        E: From<QueueError>,
        F: FnMut(&Chain) -> Result<Served, E>,
    {
        let mut budget = BUDGET;
        self.ignore(memory)?;
        'serve: loop {
            while budget > 0 {
                let Some(chain) = self.pop(memory)? else {
                    break;
                };
                budget -= 1;
                match serve(&chain)? {
                    Served::Used(len) => self.complete(memory, chain, len)?,
                    Served::Later => {
                        self.undo(chain);
                        break 'serve;
                    }
                }
            }
            if budget == 0 {
                self.ring();
                break;
            }
            if !self.listen(memory)? {
                break;
            }
            self.ignore(memory)?;
        }
        Ok(self.notify(memory)?)
    }

    /// The interrupt of the device that the queue belongs to.
    pub fn interrupt(&self) -> &Arc<dyn Interrupt> {
        &self.interrupt
    }

    fn recycle(&mut self, chain: Chain) {
        // One is in use at a time by most devices, and none by idle ones.
        if self.spare.len() < 16 {
            self.spare.push(chain.into_buffers());
        }
    }
}

fn load(memory: &GuestMemoryMmap, address: u64) -> Result<u16, QueueError> {
    memory
        .load(GuestAddress(address), Ordering::Relaxed)
        .map(u16::from_le)
        .map_err(|error| virtio_queue::Error::GuestMemory(error).into())
}

/// Marks `fd` as non-blocking.
pub(crate) fn set_nonblocking(fd: &impl AsRawFd) -> io::Result<()> {
    let fd = fd.as_raw_fd();
    // SAFETY: F_GETFL and F_SETFL take and return plain numbers.
    #[allow(unsafe_code)]
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        if flags < 0 || libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
