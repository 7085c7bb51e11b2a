//! The configuration space, `struct virtio_blk_config` ([section 5.2.4]), and
//! the features that go with it ([section 5.2.3]).
//!
//! [section 5.2.3]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-2770003
//! [section 5.2.4]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-2790004

use virtio_bindings::bindings::virtio_blk as blk;
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};

use crate::block::{Limits, SECTOR};

/// Entries of each queue.
pub(crate) const QUEUE_SIZE: u16 = 256;

/// The most data segments of a request: what fits in a queue beside the
/// header and the status.
pub(crate) const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;

/// The longest segment in bytes, so that no request is longer than
/// [`MAX_DATA`].
pub(crate) const SIZE_MAX: u32 = 256 << 10;

/// The most bytes that one request moves.
pub(crate) const MAX_DATA: u64 = SEG_MAX as u64 * SIZE_MAX as u64;

/// The most ranges of one discard or write-zeroes request.
pub(crate) const MAX_RANGES: u32 = 32;

/// The most sectors of one such range: 1 GiB.
pub(crate) const MAX_RANGE_SECTORS: u32 = 2 << 20;

/// Length of the configuration in bytes, without the fields of features that
/// are not offered.
pub(crate) const CONFIG_LEN: usize = 60;

/// The features on offer.
pub(crate) fn features(limits: &Limits, queues: u16) -> u64 {
    let mut bits = vec![
        VIRTIO_F_VERSION_1,
        VIRTIO_RING_F_EVENT_IDX,
        VIRTIO_RING_F_INDIRECT_DESC,
        blk::VIRTIO_BLK_F_SIZE_MAX,
        blk::VIRTIO_BLK_F_SEG_MAX,
        blk::VIRTIO_BLK_F_BLK_SIZE,
        blk::VIRTIO_BLK_F_TOPOLOGY,
        blk::VIRTIO_BLK_F_FLUSH,
    ];
    if queues > 1 {
        bits.push(blk::VIRTIO_BLK_F_MQ);
    }
    if limits.read_only {
        bits.push(blk::VIRTIO_BLK_F_RO);
    } else {
        bits.push(blk::VIRTIO_BLK_F_WRITE_ZEROES);
        if limits.discard.is_some() {
            bits.push(blk::VIRTIO_BLK_F_DISCARD);
        }
    }
    bits.into_iter().fold(0, |all, bit| all | 1 << bit)
}

/// The configuration as the driver reads it.
pub(crate) fn config(size: u64, limits: &Limits, queues: u16) -> [u8; CONFIG_LEN] {
    let mut config = [0; CONFIG_LEN];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(field) = config.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    let block = limits.physical_block.max(SECTOR as u32);
    put(0, &(size / SECTOR).to_le_bytes()); // capacity
    put(8, &SIZE_MAX.to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &(SECTOR as u32).to_le_bytes()); // blk_size
    put(24, &[(block / SECTOR as u32).ilog2() as u8]); // physical_block_exp
    put(26, &((block / SECTOR as u32) as u16).to_le_bytes()); // min_io_size
    put(32, &[1]); // writeback; read only with CONFIG_WCE
    put(34, &queues.to_le_bytes());
    if !limits.read_only {
        if let Some(granularity) = limits.discard {
            put(36, &MAX_RANGE_SECTORS.to_le_bytes());
            put(40, &MAX_RANGES.to_le_bytes());
            let sectors = (granularity / SECTOR as u32).max(1);
            put(44, &sectors.to_le_bytes()); // discard_sector_alignment
        }
        put(48, &MAX_RANGE_SECTORS.to_le_bytes());
        put(52, &MAX_RANGES.to_le_bytes());
        put(56, &[u8::from(limits.discard.is_some())]); // may_unmap
    }
    config
}
