//! From the head of a chain to the list of its buffers.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use super::chain::{Buffer, Chain};
use super::error::QueueError;

/// Size of a descriptor, section 2.7.5.
const DESCRIPTOR: u32 = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// The most descriptors of an indirect table, if the queue is not larger. No
/// chain may have more descriptors than the queue ([section 2.7.5.3.1]), but
/// Linux goes by what the device says of its segments; 1024 is QEMU's limit
/// and that of one vectored read or write.
///
/// [section 2.7.5.3.1]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-460003
const MAX_INDIRECT: u32 = 1024;

/// Where a walk reads descriptors.
struct Table {
    base: GuestAddress,
    /// Descriptors it holds.
    len: u32,
    /// Descriptors that a chain through it may have.
    limit: u32,
}

impl Table {
    fn get(&self, memory: &GuestMemoryMmap, index: u16) -> Result<Descriptor, QueueError> {
        let bad = || QueueError::Memory {
            address: self.base.0.saturating_add(u64::from(index) * 16),
            len: DESCRIPTOR.into(),
        };
        let address = self
            .base
            .0
            .checked_add(u64::from(index) * u64::from(DESCRIPTOR))
            .ok_or_else(bad)?;
        memory.read_obj(GuestAddress(address)).map_err(|_| bad())
    }
}

/// Reads the chain that starts at `head`, filling `buffers` (which is emptied).
pub(super) fn walk(
    memory: &GuestMemoryMmap,
    table: GuestAddress,
    size: u16,
    head: u16,
    indirect_allowed: bool,
    mut buffers: Vec<Buffer>,
) -> Result<Chain, QueueError> {
    buffers.clear();
    if head >= size {
        return Err(QueueError::Head { head, size });
    }
    let mut table = Table {
        base: table,
        len: size.into(),
        limit: size.into(),
    };
    let mut chain = Chain::new(head, buffers);
    let mut index = head;
    let mut indirect = false;
    let mut seen = 0u32;
    loop {
        seen += 1;
        if seen > table.limit {
            return Err(QueueError::TooManyDescriptors(table.limit));
        }
        let descriptor = table.get(memory, index)?;
        let flags = descriptor.flags();
        if flags & INDIRECT != 0 {
            // Section 2.7.5.3.1: agreed upon, not nested, and the last one.
            if !indirect_allowed {
                return Err(QueueError::Indirect("not negotiated"));
            }
            if indirect {
                return Err(QueueError::Indirect("inside another"));
            }
            if flags & NEXT != 0 {
                return Err(QueueError::Indirect("not the last of its chain"));
            }
            if descriptor.len() == 0 || descriptor.len() % DESCRIPTOR != 0 {
                return Err(QueueError::Indirect("not a whole number of descriptors"));
            }
            indirect = true;
            table = Table {
                base: descriptor.addr(),
                len: descriptor.len() / DESCRIPTOR,
                limit: MAX_INDIRECT.max(size.into()),
            };
            index = 0;
            continue;
        }
        let buffer = Buffer {
            address: descriptor.addr(),
            len: descriptor.len(),
        };
        let writable = flags & WRITE != 0;
        let access = if writable {
            Permissions::Write
        } else {
            Permissions::Read
        };
        if buffer.len == 0 {
            return Err(QueueError::Empty);
        }
        if !memory.check_range(buffer.address, buffer.len as usize, access) {
            return Err(QueueError::Memory {
                address: buffer.address.0,
                len: buffer.len.into(),
            });
        }
        chain.push(buffer, writable)?;
        if flags & NEXT == 0 {
            return Ok(chain);
        }
        index = descriptor.next();
        if u32::from(index) >= table.len {
            return Err(QueueError::Next {
                next: index,
                size: table.len,
            });
        }
    }
}
