//! Reading an overlay file's tree; nothing in it is trusted.

use std::collections::BTreeSet;

use super::format::{
    BLOCK, BLOCKS, CLUSTER, Decoded, FAN, MAX_SIZE, NODE, Place, SUPERBLOCKS, Superblock,
    decode_inner, decode_leaf, depth, sum,
};
use super::map::{Entry, Map, mask};
use crate::block::{HostFile, OpenError, SECTOR};

/// Reads files and says what is wrong with them.
struct Loader<'a> {
    file: &'a HostFile,
    len: u64,
    size: u64,
    map: Map,
    /// Clusters that hold data.
    data: BTreeSet<u64>,
    /// Nodes that are in use.
    nodes: BTreeSet<u64>,
}

fn damaged(file: &HostFile, reason: impl Into<String>) -> OpenError {
    OpenError::Damaged {
        path: file.path().into(),
        format: "overlay",
        reason: reason.into(),
    }
}

fn io(file: &HostFile, error: std::io::Error) -> OpenError {
    OpenError::Io {
        path: file.path().into(),
        error,
    }
}

/// The newest superblock of the file.
pub(crate) fn superblock(file: &HostFile) -> Result<Superblock, OpenError> {
    let len = file.len().map_err(|e| io(file, e))?;
    if len < CLUSTER {
        let reason = if len == 0 {
            "it is empty: the machine stopped while it was being made; remove it"
        } else {
            "it is too short"
        };
        return Err(damaged(file, reason));
    }
    let mut newest: Option<Superblock> = None;
    for at in SUPERBLOCKS {
        let mut bytes = [0; NODE];
        file.read_exact_at(at, &mut bytes)
            .map_err(|e| io(file, e))?;
        match Superblock::decode(&bytes) {
            Decoded::Good(found) => {
                if newest.is_none_or(|newest| found.generation > newest.generation) {
                    newest = Some(found);
                }
            }
            Decoded::Version(version) => {
                return Err(OpenError::Unsupported {
                    path: file.path().into(),
                    what: format!("an overlay of version {version}; this program knows version 1"),
                });
            }
            Decoded::Bad => {}
        }
    }
    let found = newest.ok_or_else(|| damaged(file, "it has no superblock"))?;
    if found.size == 0 || !found.size.is_multiple_of(SECTOR) || found.size > MAX_SIZE {
        return Err(damaged(file, format!("a disk of {} bytes", found.size)));
    }
    if found.generation > u64::MAX / 2 {
        return Err(damaged(file, format!("generation {}", found.generation)));
    }
    Ok(found)
}

/// Reads all that `superblock` leads to.
pub(crate) fn load(file: &HostFile, superblock: &Superblock) -> Result<Map, OpenError> {
    let len = file.len().map_err(|e| io(file, e))?;
    let depth = depth(superblock.size);
    let mut loader = Loader {
        file,
        len,
        size: superblock.size,
        map: Map {
            places: (0..depth).map(|_| Default::default()).collect(),
            ..Map::default()
        },
        data: BTreeSet::new(),
        nodes: BTreeSet::new(),
    };
    if let Some(root) = superblock.root {
        loader.node(depth - 1, 0, root)?;
    }
    loader.finish()
}

impl Loader<'_> {
    fn damaged(&self, reason: impl Into<String>) -> OpenError {
        damaged(self.file, reason)
    }

    fn node(&mut self, level: u32, index: u64, place: Place) -> Result<(), OpenError> {
        let Place { offset, sum: given } = place;
        let inside = offset >= CLUSTER
            && offset.is_multiple_of(NODE as u64)
            && offset
                .checked_add(NODE as u64)
                .is_some_and(|end| end <= self.len);
        if !inside {
            return Err(self.damaged(format!("there can be no node at {offset}")));
        }
        if !self.nodes.insert(offset) {
            return Err(self.damaged(format!("the node at {offset} is used twice")));
        }
        let mut bytes = [0; NODE];
        self.file
            .read_exact_at(offset, &mut bytes)
            .map_err(|e| io(self.file, e))?;
        if sum(level, index, &bytes) != given {
            return Err(self.damaged(format!("the node at {offset} has the wrong checksum")));
        }
        if let Some(places) = self.map.places.get_mut(level as usize) {
            places.insert(index, place);
        }
        // No writer makes empty nodes; what is read is bounded by what is in
        // the file, not by what its holes could pretend.
        if bytes.iter().all(|b| *b == 0) {
            return Err(self.damaged(format!("the node at {offset} is empty")));
        }
        if level == 0 {
            return self.leaf(index, offset, &bytes);
        }
        let children = decode_inner(&bytes).map_err(|e| self.damaged(e))?;
        for (slot, child) in children {
            self.node(level - 1, index * FAN + slot, child)?;
        }
        Ok(())
    }

    fn leaf(&mut self, index: u64, at: u64, bytes: &[u8; NODE]) -> Result<(), OpenError> {
        let entries = decode_leaf(bytes).map_err(|e| self.damaged(e))?;
        for (slot, stored) in (0..).zip(entries) {
            if stored == Default::default() {
                continue;
            }
            let cluster = index * FAN + slot;
            let start = cluster.saturating_mul(CLUSTER);
            let there = self.size.saturating_sub(start).min(CLUSTER);
            let allowed = mask(0, there.div_ceil(BLOCK) as u32);
            let used = stored.valid | stored.zero;
            let inside = stored.offset >= CLUSTER && stored.offset.is_multiple_of(CLUSTER);
            // Bytes that are said to be in the file must be.
            let blocks = u64::from(BLOCKS - stored.valid.leading_zeros().min(BLOCKS));
            let end = stored.offset.checked_add((blocks * BLOCK).min(there));
            if stored.valid & stored.zero != 0
                || used & !allowed != 0
                || (stored.valid == 0) != (stored.offset == 0)
                || (stored.valid != 0 && !inside)
                || end.is_none_or(|end| stored.valid != 0 && end > self.len)
            {
                return Err(self.damaged(format!(
                    "the leaf at {at} says something impossible of byte {start} of the disk"
                )));
            }
            if stored.valid != 0 && !self.data.insert(stored.offset) {
                return Err(self.damaged(format!("the cluster at {} is used twice", stored.offset)));
            }
            let entry = self.map.entry_mut(cluster).map_err(|e| io(self.file, e))?;
            *entry = Entry {
                offset: stored.offset,
                valid: stored.valid,
                zero: stored.zero,
                ..Entry::default()
            };
        }
        Ok(())
    }

    /// Finds the free space and returns the map.
    fn finish(mut self) -> Result<Map, OpenError> {
        let of_nodes: BTreeSet<u64> = (self.nodes.iter())
            .map(|node| node / CLUSTER * CLUSTER)
            .collect();
        if let Some(both) = of_nodes.intersection(&self.data).next() {
            return Err(self.damaged(format!("the cluster at {both} is used twice")));
        }
        let last = of_nodes.last().max(self.data.last());
        let space = &mut self.map.space;
        space.end = last.map_or(CLUSTER, |last| last + CLUSTER);
        let node = NODE as u64;
        for cluster in &of_nodes {
            let nodes = (0..CLUSTER / node).map(|i| cluster + i * node);
            space
                .nodes
                .extend(nodes.filter(|at| !self.nodes.contains(at)));
        }
        // What a crash left behind, below the end: as many as the file is
        // longer than what is used, so a sparse file could claim any number.
        let mut at = CLUSTER;
        for used in of_nodes.iter().chain(&self.data).collect::<BTreeSet<_>>() {
            while at < *used && space.clusters.len() < MAX_FREE {
                space.clusters.push(at);
                at += CLUSTER;
            }
            at = used + CLUSTER;
        }
        // Given out from the front.
        space.clusters.reverse();
        space.nodes.reverse();
        Ok(self.map)
    }
}

/// How many unused clusters are remembered: 64 GiB of them.
const MAX_FREE: usize = 1 << 20;
