//! Virtio 1.2 devices, and what they share.
//!
//! A device ([`VirtioDevice`]) knows nothing of PCI: the transport reads its
//! features and configuration, hands it its queues when the driver is ready
//! ([`Activation`]), and takes them away at a reset. Sections are those of
//! [Virtual I/O Device (VIRTIO) Version 1.2].
//!
//! [Virtual I/O Device (VIRTIO) Version 1.2]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html

mod device;

pub use device::{ActivateError, Activation, ActiveQueue, Interrupt, Memory, VirtioDevice};
