//! A KVM virtual machine monitor that boots stock distribution kernels with no
//! firmware.
//!
//! What goes in is a kernel, an initramfs, a command line and block back ends;
//! what comes out is a running guest and, in the end, why it stopped.

// The one crate of the workspace that may: it maps memory and talks to KVM.
// Every use says why it is sound.
#![allow(unsafe_code)]

pub mod acpi;
pub mod arch;
pub mod block;
pub mod boot;
pub mod devices;
pub mod irq;
mod log;
pub mod memory;
pub mod pci;
pub mod resident;
pub mod sandbox;
pub mod smbios;
pub mod virtio;
pub mod vm;
pub mod worker;
