//! PCI: one bus, its configuration space, MSI-X, and virtio's transport.
//!
//! There are no bridges, no I/O BARs and no pin interrupts. BARs are placed by
//! this machine, as firmware would, and stay where they are: a guest can learn
//! their size and rewrite their address, but finds nothing elsewhere. Linux
//! keeps what it finds.

mod bus;
mod config;
pub mod msix;
pub mod virtio;

pub use bus::{PciBus, PciDevice, TooManyDevices};
pub use config::ConfigSpace;
