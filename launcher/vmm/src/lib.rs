//! A KVM virtual machine monitor that boots stock distribution kernels with no
//! firmware.
//!
//! What goes in is a kernel, an initramfs, a command line and block back ends;
//! what comes out is a running guest and, in the end, why it stopped.

pub mod block;
pub mod virtio;
