//! The bytes of an overlay file; docs/src/formats/overlay.md describes them.

use crate::block::BaseId;

/// The unit in which the file is allocated.
pub(crate) const CLUSTER: u64 = 64 << 10;
/// The unit that is either the overlay's or the base's.
pub(crate) const BLOCK: u64 = 4096;
pub(crate) const BLOCKS: u32 = (CLUSTER / BLOCK) as u32;
/// Length of nodes and superblocks.
pub(crate) const NODE: usize = 4096;
/// Entries of a node, 16 bytes each.
pub(crate) const FAN: u64 = 256;
/// Where the superblock and its copy are.
pub(crate) const SUPERBLOCKS: [u64; 2] = [0, NODE as u64];
/// The largest disk: 64 TiB.
pub(crate) const MAX_SIZE: u64 = 64 << 40;

/// Not text, so that no editor takes it for its own.
const MAGIC: [u8; 8] = *b"\x93BWOVL\r\n";
const VERSION: u32 = 1;

/// The root of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) generation: u64,
    /// Size of the disk in bytes.
    pub(crate) size: u64,
    pub(crate) base: BaseId,
    /// The root node, unless nothing has been written.
    pub(crate) root: Option<Place>,
}

/// Where a node is, and the sum it must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) sum: u32,
}

/// What a superblock's bytes turned out to be.
#[derive(Debug)]
pub(crate) enum Decoded {
    Good(Superblock),
    /// Not one, or torn.
    Bad,
    /// One of a version that this program does not know.
    Version(u32),
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let field = bytes.get(at..).and_then(|b| b.first_chunk());
    field.copied().unwrap_or([0; N])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

/// How many levels of nodes a disk of `size` bytes needs; at level 0 are the
/// leaves, whose entries are clusters.
pub(crate) fn depth(size: u64) -> u32 {
    let (mut depth, mut covered) = (1, FAN * CLUSTER);
    while covered < size {
        depth += 1;
        covered = covered.saturating_mul(FAN);
    }
    depth
}

impl Superblock {
    pub(crate) fn encode(&self) -> [u8; NODE] {
        let mut bytes = [0; NODE];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &VERSION.to_le_bytes());
        put(&mut bytes, 12, &depth(self.size).to_le_bytes());
        put(&mut bytes, 16, &self.generation.to_le_bytes());
        put(&mut bytes, 24, &self.size.to_le_bytes());
        put(&mut bytes, 32, &self.base.0);
        if let Some(root) = self.root {
            put(&mut bytes, 64, &root.offset.to_le_bytes());
            put(&mut bytes, 72, &root.sum.to_le_bytes());
        }
        let (head, _) = bytes.split_at(NODE - 4);
        let sum = crc32c::crc32c(head);
        put(&mut bytes, NODE - 4, &sum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; NODE]) -> Decoded {
        let (head, _) = bytes.split_at(NODE - 4);
        if !bytes.starts_with(&MAGIC) || crc32c::crc32c(head) != u32_at(bytes, NODE - 4) {
            return Decoded::Bad;
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Decoded::Version(version);
        }
        let offset = u64_at(bytes, 64);
        let root = Place {
            offset,
            sum: u32_at(bytes, 72),
        };
        let superblock = Self {
            generation: u64_at(bytes, 16),
            size: u64_at(bytes, 24),
            base: BaseId(field(bytes, 32)),
            root: (offset != 0).then_some(root),
        };
        // Whatever else is in it would have been lost on the way here.
        if &superblock.encode() == bytes {
            Decoded::Good(superblock)
        } else {
            Decoded::Bad
        }
    }
}

/// The sum of the node numbered `index` at `level`: a node in the wrong place
/// is as wrong as a damaged one.
pub(crate) fn sum(level: u32, index: u64, bytes: &[u8]) -> u32 {
    let place = crc32c::crc32c(&level.to_le_bytes());
    let place = crc32c::crc32c_append(place, &index.to_le_bytes());
    crc32c::crc32c_append(place, bytes)
}

/// What a leaf says of one cluster of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LeafEntry {
    /// Where in the file the cluster is; 0 if nowhere.
    pub(crate) offset: u64,
    /// The blocks that are in the file.
    pub(crate) valid: u16,
    /// The blocks that are zeros.
    pub(crate) zero: u16,
}

pub(crate) fn encode_leaf(entries: impl Iterator<Item = LeafEntry>) -> [u8; NODE] {
    let mut bytes = [0; NODE];
    for (slot, entry) in bytes.chunks_exact_mut(16).zip(entries) {
        put(slot, 0, &entry.offset.to_le_bytes());
        put(slot, 8, &entry.valid.to_le_bytes());
        put(slot, 10, &entry.zero.to_le_bytes());
    }
    bytes
}

/// The entries of a leaf; an error if a reserved field is not 0.
pub(crate) fn decode_leaf(bytes: &[u8; NODE]) -> Result<Vec<LeafEntry>, &'static str> {
    bytes
        .chunks_exact(16)
        .map(|slot| {
            if u32_at(slot, 12) != 0 {
                return Err("a leaf has something in a reserved field");
            }
            Ok(LeafEntry {
                offset: u64_at(slot, 0),
                valid: u16::from_le_bytes(field(slot, 8)),
                zero: u16::from_le_bytes(field(slot, 10)),
            })
        })
        .collect()
}

pub(crate) fn encode_inner(children: impl Iterator<Item = (usize, Place)>) -> [u8; NODE] {
    let mut bytes = [0; NODE];
    for (slot, place) in children {
        put(&mut bytes, slot * 16, &place.offset.to_le_bytes());
        put(&mut bytes, slot * 16 + 8, &place.sum.to_le_bytes());
    }
    bytes
}

/// The children of an inner node, with their slots.
pub(crate) fn decode_inner(bytes: &[u8; NODE]) -> Result<Vec<(u64, Place)>, &'static str> {
    let mut children = Vec::new();
    for (i, slot) in (0..).zip(bytes.chunks_exact(16)) {
        let place = Place {
            offset: u64_at(slot, 0),
            sum: u32_at(slot, 8),
        };
        if u32_at(slot, 12) != 0 || (place.offset == 0 && place.sum != 0) {
            return Err("a node has something in a reserved field");
        }
        if place.offset != 0 {
            children.push((i, place));
        }
    }
    Ok(children)
}
