//! ext4 volumes against their referees: e2fsck, debugfs, dumpe2fs, resize2fs,
//! the `ext4-view` crate and, where the test runs as root, the kernel.

#![allow(clippy::unwrap_used, clippy::panic)]

mod attributes;
mod compare;
mod content;
mod guest;
mod names;
mod random;
mod refused;
mod size;
mod workshop;
