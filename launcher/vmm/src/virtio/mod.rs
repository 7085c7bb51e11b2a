//! Virtio 1.2 devices, and what they share.
//!
//! A device ([`VirtioDevice`]) knows nothing of PCI: the transport reads its
//! features and configuration, hands it its queues when the driver is ready
//! ([`Activation`]), and takes them away at a reset. Its work is done by a
//! [`worker::Handler`] on a thread of its own, on [`queue::Virtqueue`]s that
//! stop it at the first broken chain. Sections are those of [Virtual I/O Device
//! (VIRTIO) Version 1.2].
//!
//! [Virtual I/O Device (VIRTIO) Version 1.2]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html

pub mod balloon;
pub mod block;
pub mod console;
mod device;
mod discard;
pub mod features;
pub mod mem;
pub mod net;
pub mod queue;
pub mod rng;
mod stats;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vsock;
pub mod worker;

pub use device::{ActivateError, Activation, ActiveQueue, Interrupt, Memory, VirtioDevice};
pub use stats::{Counter, Gauge, Stats};

/// Reads `data` from a configuration space that holds `config`; beyond it are
/// zeros.
fn read_config(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let known = usize::try_from(offset)
        .ok()
        .and_then(|offset| config.get(offset..))
        .unwrap_or_default();
    let len = known.len().min(data.len());
    data[..len].copy_from_slice(&known[..len]);
}
