//! The PCI transport of virtio: [section 4.1], modern only.
//!
//! BAR 0 holds, by page: common configuration, interrupt status, the device's
//! own configuration, doorbells, MSI-X table, pending bits.
//!
//! [section 4.1]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-1150001

mod common;
mod device;
mod interrupt;

pub use device::VirtioPci;
