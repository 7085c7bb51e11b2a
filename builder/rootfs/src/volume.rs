//! A formatted volume: what a formatter gives and a partition holds.

use bootwright_disk::Extent;

/// A file system as extents relative to its own start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Length in bytes, a multiple of 4096.
    pub size: u64,
    /// What is in it, in any order; the rest reads as zeros.
    pub extents: Vec<Extent>,
}
