//! Features that are not a device's own, and how devices name theirs.
//!
//! [Section 6], as bits of the 64-bit feature word.
//!
//! [Section 6]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-6600006

/// `VIRTIO_F_INDIRECT_DESC`: tables of descriptors outside the ring.
pub const RING_INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`: notifications by index.
pub const RING_EVENT_IDX: u64 = 1 << 29;
/// `VIRTIO_F_VERSION_1`: no legacy.
pub const VERSION_1: u64 = 1 << 32;

/// What every device here offers.
pub const COMMON: u64 = VERSION_1 | RING_INDIRECT_DESC | RING_EVENT_IDX;
