//! Which bytes of the disk are in the overlay, and where.

use std::collections::BTreeMap;
use std::io;

use super::format::{BLOCKS, CLUSTER, FAN, LeafEntry, NODE, Place};

/// One cluster of the disk.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Entry {
    /// Where it is in the file, 0 if it has no place.
    pub(crate) offset: u64,
    /// Blocks whose bytes are in the file. Never taken back.
    pub(crate) valid: u16,
    /// Blocks that are zeros. None of them is valid.
    pub(crate) zero: u16,
    /// Blocks that are not valid but whose bytes in the file are right: a
    /// part of them is being written.
    pub(crate) filled: u16,
    /// Blocks that are not valid and are being written as a whole; until that
    /// is done their bytes in the file are nobody's.
    pub(crate) claimed: u16,
}

/// Where some blocks of a cluster are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    /// In the file, the first of them at this offset.
    File(u64),
    /// They are zeros.
    Zeros,
    /// In the base.
    Base,
}

impl Entry {
    /// Where block `first` is, and how many from it on are there too.
    pub(crate) fn span(&self, first: u32) -> (Where, u32) {
        let bits = |mask: u16| (u32::from(mask) >> first).trailing_ones();
        let left = BLOCKS - first;
        let valid = bits(self.valid);
        if valid > 0 {
            let at = self.offset + u64::from(first) * super::format::BLOCK;
            return (Where::File(at), valid.min(left));
        }
        let zero = bits(self.zero);
        if zero > 0 {
            return (Where::Zeros, zero.min(left));
        }
        (Where::Base, bits(!(self.valid | self.zero)).min(left))
    }

    /// What the leaf says of it.
    pub(crate) fn stored(&self) -> LeafEntry {
        LeafEntry {
            offset: if self.valid == 0 { 0 } else { self.offset },
            valid: self.valid,
            zero: self.zero,
        }
    }
}

/// The entries of [`FAN`] clusters.
#[derive(Debug)]
pub(crate) struct Leaf {
    entries: Box<[Entry; FAN as usize]>,
    /// What it says is not in the file yet.
    pub(crate) dirty: bool,
}

impl Leaf {
    fn new() -> Self {
        Self {
            entries: Box::new([Entry::default(); FAN as usize]),
            dirty: false,
        }
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }
}

/// The free space of the file.
#[derive(Debug, Default)]
pub(crate) struct Space {
    /// Where the file ends, as far as it is given out.
    pub(crate) end: u64,
    pub(crate) clusters: Vec<u64>,
    pub(crate) nodes: Vec<u64>,
}

impl Space {
    /// A cluster that nothing refers to.
    pub(crate) fn cluster(&mut self) -> io::Result<u64> {
        if let Some(offset) = self.clusters.pop() {
            return Ok(offset);
        }
        let offset = self.end;
        // Offsets of files are signed.
        if offset > i64::MAX as u64 - 2 * CLUSTER {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.end += CLUSTER;
        Ok(offset)
    }

    /// Room for a node that nothing refers to.
    pub(crate) fn node(&mut self) -> io::Result<u64> {
        if let Some(offset) = self.nodes.pop() {
            return Ok(offset);
        }
        let offset = self.cluster()?;
        let others = (1..CLUSTER / NODE as u64).rev();
        self.nodes.extend(others.map(|i| offset + i * NODE as u64));
        Ok(offset)
    }
}

/// All that is known of the file.
#[derive(Debug, Default)]
pub(crate) struct Map {
    pub(crate) leaves: BTreeMap<u64, Leaf>,
    /// Where the nodes of each level are that the superblock leads to,
    /// leaves first.
    pub(crate) places: Vec<BTreeMap<u64, Place>>,
    pub(crate) space: Space,
}

impl Map {
    /// The entry of a cluster of the disk.
    pub(crate) fn entry(&self, cluster: u64) -> Entry {
        self.leaves
            .get(&(cluster / FAN))
            .and_then(|leaf| leaf.entries.get((cluster % FAN) as usize))
            .copied()
            .unwrap_or_default()
    }

    /// How many clusters from `cluster` on are known to have no entry: the
    /// rest of a leaf that is not there.
    pub(crate) fn missing(&self, cluster: u64) -> u64 {
        if self.leaves.contains_key(&(cluster / FAN)) {
            0
        } else {
            FAN - cluster % FAN
        }
    }

    /// The same, to be changed. What is changed of `offset`, `valid` and
    /// `zero` must be made to reach the file with [`touch`](Self::touch).
    pub(crate) fn entry_mut(&mut self, cluster: u64) -> io::Result<&mut Entry> {
        self.leaves
            .entry(cluster / FAN)
            .or_insert_with(Leaf::new)
            .entries
            .get_mut((cluster % FAN) as usize)
            .ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Marks a cluster's leaf as changed.
    pub(crate) fn touch(&mut self, cluster: u64) {
        if let Some(leaf) = self.leaves.get_mut(&(cluster / FAN)) {
            leaf.dirty = true;
        }
    }
}

/// The bits of blocks `first` to before `end`.
pub(crate) fn mask(first: u32, end: u32) -> u16 {
    let below = |n: u32| (1u32 << n.min(BLOCKS)) - 1;
    (below(end) & !below(first)) as u16
}
