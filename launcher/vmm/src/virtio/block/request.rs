//! Parsing requests ([section 5.2.6]).
//!
//! A chain is *broken* if it says nothing that could be answered: it leads
//! nowhere, has no header or no byte for the status. Such a driver is out of
//! step and the device needs a reset. All else is answered with a status.
//!
//! [section 5.2.6]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-2850006

use std::ops::Range;
use std::sync::Arc;

use virtio_bindings::bindings::virtio_blk as blk;
use virtio_queue::DescriptorChain;
use vm_memory::GuestMemoryMmap;

use super::buffers::{Buffers, GuestByte};
use super::config::{MAX_DATA, MAX_RANGE_SECTORS, MAX_RANGES};
use crate::block::{Limits, SECTOR};

/// What a request asks for, validated.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Read this range of the disk into the buffers.
    Read(Range<u64>),
    /// Write the buffers to this range of the disk.
    Write(Range<u64>),
    /// Return when all that was written is safe.
    Flush,
    /// Write the serial number into the buffers.
    GetId,
    /// Give these ranges back.
    Discard(Vec<Range<u64>>),
    /// Make these ranges zeros, each with whether it may be given back.
    WriteZeroes(Vec<(Range<u64>, bool)>),
    /// Answer with this status.
    Refuse(u8),
}

/// A request that can be answered.
#[derive(Debug)]
pub(crate) struct Request {
    /// The chain's head, to return it by.
    pub(crate) head: u16,
    /// What to do.
    pub(crate) kind: Kind,
    /// The data: to write for writes, to be filled for reads.
    pub(crate) buffers: Buffers,
    /// Where the status goes.
    pub(crate) status: GuestByte,
}

/// The chain cannot be answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);

/// What requests are validated against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) size: u64,
    pub(crate) limits: Limits,
    /// The negotiated features.
    pub(crate) features: u64,
    pub(crate) queue_size: u16,
}

impl Bounds {
    fn has(&self, feature: u32) -> bool {
        self.features & (1 << feature) != 0
    }

    /// The range of the disk, if it has it.
    fn range(&self, sector: u64, len: u64) -> Option<Range<u64>> {
        let start = sector.checked_mul(SECTOR)?;
        let end = start.checked_add(len)?;
        (len > 0 && len.is_multiple_of(SECTOR) && end <= self.size).then_some(start..end)
    }
}

/// Reads a request out of its chain.
pub(crate) fn parse(
    chain: DescriptorChain<&GuestMemoryMmap>,
    memory: &Arc<GuestMemoryMmap>,
    bounds: &Bounds,
) -> Result<Request, Broken> {
    let head = chain.head_index();
    let mut readable = Buffers::new(Arc::clone(memory));
    let mut writable = Buffers::new(Arc::clone(memory));
    let mut more = true;
    let mut count = 0u32;
    for descriptor in chain {
        count += 1;
        // Section 2.7.5.3.1 for indirect tables; others cannot be longer.
        if count > u32::from(bounds.queue_size) {
            return Err(Broken("a chain longer than the queue"));
        }
        let buffers = if descriptor.is_write_only() {
            &mut writable
        } else if writable.len() > 0 {
            // Section 2.7.4.2: what the device writes comes last.
            return Err(Broken("a readable buffer after a writable one"));
        } else {
            &mut readable
        };
        buffers
            .push(descriptor.addr(), descriptor.len())
            .ok_or(Broken("a buffer outside the guest's memory"))?;
        more = descriptor.has_next();
    }
    // The iterator ends at the first descriptor that it cannot read.
    if more {
        return Err(Broken("a chain that leads nowhere"));
    }
    let header: [u8; 16] = readable.pop_front().ok_or(Broken("no header"))?;
    let status = writable
        .pop_byte()
        .ok_or(Broken("no byte for the status"))?;
    let word = |at: usize| header.get(at..).and_then(|h| h.first_chunk());
    let kind = u32::from_le_bytes(*word(0).unwrap_or(&[0; 4]));
    let sector = header.last_chunk().map_or(0, |s| u64::from_le_bytes(*s));
    let (kind, buffers) = classify(kind, sector, readable, writable, bounds);
    Ok(Request {
        head,
        kind,
        buffers,
        status,
    })
}

fn classify(
    kind: u32,
    sector: u64,
    readable: Buffers,
    writable: Buffers,
    bounds: &Bounds,
) -> (Kind, Buffers) {
    const IOERR: Kind = Kind::Refuse(blk::VIRTIO_BLK_S_IOERR as u8);
    const UNSUPPORTED: Kind = Kind::Refuse(blk::VIRTIO_BLK_S_UNSUPP as u8);
    match kind {
        blk::VIRTIO_BLK_T_IN => {
            let range = bounds.range(sector, writable.len());
            let range = range.filter(|_| writable.len() <= MAX_DATA);
            (range.map_or(IOERR, Kind::Read), writable)
        }
        blk::VIRTIO_BLK_T_OUT => {
            let range = bounds.range(sector, readable.len());
            // Section 5.2.6.2: a write to a read-only device fails so.
            let range = range.filter(|_| readable.len() <= MAX_DATA && !bounds.limits.read_only);
            (range.map_or(IOERR, Kind::Write), readable)
        }
        blk::VIRTIO_BLK_T_FLUSH if bounds.has(blk::VIRTIO_BLK_F_FLUSH) => (Kind::Flush, readable),
        blk::VIRTIO_BLK_T_GET_ID if writable.len() >= u64::from(blk::VIRTIO_BLK_ID_BYTES) => {
            (Kind::GetId, writable)
        }
        blk::VIRTIO_BLK_T_GET_ID => (IOERR, writable),
        blk::VIRTIO_BLK_T_DISCARD if bounds.has(blk::VIRTIO_BLK_F_DISCARD) => {
            match ranges(&readable, bounds, 0) {
                Ok(ranges) => {
                    let ranges = ranges.into_iter().map(|(range, _)| range).collect();
                    (Kind::Discard(ranges), readable)
                }
                Err(status) => (Kind::Refuse(status), readable),
            }
        }
        blk::VIRTIO_BLK_T_WRITE_ZEROES if bounds.has(blk::VIRTIO_BLK_F_WRITE_ZEROES) => {
            match ranges(&readable, bounds, blk::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) {
                Ok(ranges) => (Kind::WriteZeroes(ranges), readable),
                Err(status) => (Kind::Refuse(status), readable),
            }
        }
        _ => (UNSUPPORTED, readable),
    }
}

/// The ranges of `struct virtio_blk_discard_write_zeroes` in `buffers`, each
/// with whether its unmap flag is set.
fn ranges(buffers: &Buffers, bounds: &Bounds, flags: u32) -> Result<Vec<(Range<u64>, bool)>, u8> {
    const IOERR: u8 = blk::VIRTIO_BLK_S_IOERR as u8;
    let count = buffers.len() / 16;
    if count == 0
        || !buffers.len().is_multiple_of(16)
        || count > u64::from(MAX_RANGES)
        || bounds.limits.read_only
    {
        return Err(IOERR);
    }
    (0..count)
        .map(|i| {
            let mut entry = [0; 16];
            buffers.copy_out(i * 16, &mut entry);
            let [sector @ .., _, _, _, _, _, _, _, _] = entry;
            let [.., a, b, c, d, e, f, g, h] = entry;
            let count = u32::from_le_bytes([a, b, c, d]);
            let given = u32::from_le_bytes([e, f, g, h]);
            // Section 5.2.6.2: unknown flags, and unmap in a discard.
            if given & !flags != 0 {
                return Err(blk::VIRTIO_BLK_S_UNSUPP as u8);
            }
            let sector = u64::from_le_bytes(sector);
            bounds
                .range(sector, u64::from(count) * SECTOR)
                .filter(|_| count <= MAX_RANGE_SECTORS)
                .map(|range| (range, given != 0))
                .ok_or(IOERR)
        })
        .collect()
}
