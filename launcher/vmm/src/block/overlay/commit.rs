//! Making what was written part of the file: nodes first, then the superblock
//! that leads to them. Nothing that a superblock leads to is ever overwritten.

use std::collections::BTreeSet;
use std::io;

use super::Overlay;
use super::format::{FAN, NODE, Place, SUPERBLOCKS, Superblock, encode_inner, encode_leaf, sum};
use super::map::Map;

/// What has to be written.
pub(crate) struct Change {
    nodes: Vec<(u64, [u8; NODE])>,
    /// Nodes that the old superblock leads to and the new one does not.
    retired: Vec<u64>,
    root: Place,
}

/// Makes new nodes for all that changed and remembers them in `map`; `None`
/// if nothing did.
pub(crate) fn prepare(map: &mut Map) -> io::Result<Option<Change>> {
    let mut changed: BTreeSet<u64> = (map.leaves.iter())
        .filter(|(_, leaf)| leaf.dirty)
        .map(|(index, _)| *index)
        .collect();
    if changed.is_empty() {
        return Ok(None);
    }
    let mut change = Change {
        nodes: Vec::new(),
        retired: Vec::new(),
        root: Place { offset: 0, sum: 0 },
    };
    for level in 0..map.places.len() {
        let mut parents = BTreeSet::new();
        for index in changed {
            let bytes = if level == 0 {
                let leaf = map.leaves.get_mut(&index).ok_or_else(inconsistent)?;
                leaf.dirty = false;
                encode_leaf(leaf.entries().map(|entry| entry.stored()))
            } else {
                let children = map.places.get(level - 1).ok_or_else(inconsistent)?;
                let range = index * FAN..(index + 1) * FAN;
                encode_inner((children.range(range)).map(|(i, place)| ((i % FAN) as usize, *place)))
            };
            let place = Place {
                offset: map.space.node()?,
                sum: sum(level as u32, index, &bytes),
            };
            change.nodes.push((place.offset, bytes));
            let places = map.places.get_mut(level).ok_or_else(inconsistent)?;
            let old = places.insert(index, place);
            change.retired.extend(old.map(|old| old.offset));
            change.root = place;
            parents.insert(index / FAN);
        }
        changed = parents;
    }
    Ok(Some(change))
}

fn inconsistent() -> io::Error {
    io::Error::other("the overlay's map contradicts itself")
}

impl Overlay {
    /// Puts `change` into the file, in steps that each leave it whole.
    pub(crate) fn commit(&self, change: &Change, old: &Superblock) -> io::Result<Superblock> {
        for (offset, bytes) in &change.nodes {
            self.file.write_all_at(*offset, bytes)?;
        }
        // With the nodes this makes safe the data that they lead to, and the
        // copy of the last superblock, so that one is whole while the other
        // is being written.
        self.file.sync()?;
        let new = Superblock {
            generation: old.generation + 1,
            root: Some(change.root),
            ..*old
        };
        let [first, copy] = SUPERBLOCKS;
        let bytes = new.encode();
        self.file.write_all_at(first, &bytes)?;
        self.file.sync()?;
        self.file.write_all_at(copy, &bytes)?;
        Ok(new)
    }

    /// What the old superblock led to can be used again.
    pub(crate) fn retire(map: &mut Map, change: Change) {
        map.space.nodes.extend(change.retired);
    }
}
