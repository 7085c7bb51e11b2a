//! Directory blocks: a list of entries where one block is enough, else an
//! index over blocks sorted by hash.
//! See the kernel's `Documentation/filesystems/ext4/directory.rst`.

use super::blocks::{Block, Blocks, ZERO};
use super::checksum::{crc, put16, put32};
use super::geometry::BLOCK;
use super::hash::{NameHash, half_md4};

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    /// 1 to 255 bytes.
    pub(super) name: &'a [u8],
    pub(super) ino: u32,
    pub(super) file_type: FileType,
}

/// What a directory entry says that its inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum FileType {
    Regular = 1,
    Directory = 2,
    CharDevice = 3,
    BlockDevice = 4,
    Fifo = 5,
    Symlink = 7,
}

/// What a directory needs to know of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) ino: u32,
    pub(super) parent: u32,
    /// See [`super::checksum::inode_seed`].
    pub(super) inode_seed: u32,
    pub(super) hash_seed: &'a [u32; 4],
    /// Blocks that the directory has at the least.
    pub(super) min_blocks: u32,
}

/// What became of a directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// A list in so many blocks.
    Linear(u32),
    /// An index and its leaves, in so many blocks.
    Indexed(u32),
    /// More than an index of two levels holds. Nothing was written.
    TooLarge,
}

const BLOCK_LEN: usize = BLOCK as usize;
/// The checksum at a block's end: an entry without name of type 0xde.
const TAIL: usize = 12;
/// Bytes for entries in a leaf or list block.
const CAPACITY: usize = BLOCK_LEN - TAIL;
/// Where the index starts in block 0, after `.`, `..` and its own header.
const ROOT_INDEX: usize = 32;
/// Where the index starts in other index blocks, after an empty entry.
const NODE_INDEX: usize = 8;
/// Index entries in block 0 and in other index blocks; 8 bytes each, and
/// 8 bytes of checksum.
const ROOT_LIMIT: usize = (BLOCK_LEN - ROOT_INDEX - 8) / 8;
const NODE_LIMIT: usize = (BLOCK_LEN - NODE_INDEX - 8) / 8;
/// Half MD4, in the index's header.
const HALF_MD4: u8 = 1;

/// Bytes of an entry.
fn entry_len(name: usize) -> usize {
    (8 + name).next_multiple_of(4)
}

/// Writes a directory's blocks. `entries` has every name once, without `.`
/// and `..`.
pub(super) fn write(entries: &[Entry<'_>], context: &Context<'_>, out: &mut Blocks) -> Written {
    let dots = entry_len(1) + entry_len(2);
    let total = entries.iter().try_fold(dots, |sum, e| {
        Some(sum + entry_len(e.name.len())).filter(|&s| s <= CAPACITY)
    });
    if total.is_none() {
        return write_indexed(entries, context, out);
    }
    let mut leaf = Leaf::new();
    leaf.push(b".", context.ino, FileType::Directory);
    leaf.push(b"..", context.parent, FileType::Directory);
    for entry in entries {
        leaf.push(entry.name, entry.ino, entry.file_type);
    }
    out.push(&leaf.finish(context.inode_seed));
    for _ in 1..context.min_blocks {
        out.push(&Leaf::new().finish(context.inode_seed));
    }
    Written::Linear(context.min_blocks.max(1))
}

/// A block of entries being filled.
struct Leaf {
    block: Block,
    /// Where the last entry starts and where it ends.
    last: usize,
    end: usize,
}

impl Leaf {
    fn new() -> Self {
        Self {
            block: ZERO,
            last: 0,
            end: 0,
        }
    }

    fn push(&mut self, name: &[u8], ino: u32, file_type: FileType) {
        let len = entry_len(name.len());
        self.last = self.end;
        self.end += len;
        let entry = &mut self.block[self.last..self.end];
        put32(entry, 0, ino);
        put16(entry, 4, len as u16);
        entry[6] = name.len() as u8;
        entry[7] = file_type as u8;
        entry[8..8 + name.len()].copy_from_slice(name);
    }

    fn fits(&self, name: &[u8]) -> bool {
        self.end + entry_len(name.len()) <= CAPACITY
    }

    /// Lets the last entry reach to the tail and seals the block.
    fn finish(mut self, inode_seed: u32) -> Block {
        put16(
            &mut self.block,
            self.last + 4,
            (CAPACITY - self.last) as u16,
        );
        let checksum = crc(inode_seed, &self.block[..CAPACITY]);
        put16(&mut self.block, CAPACITY + 4, TAIL as u16);
        self.block[CAPACITY + 7] = 0xde;
        put32(&mut self.block, CAPACITY + 8, checksum);
        self.block
    }
}

/// An index entry: names from this hash on are in or below this block.
#[derive(Clone, Copy)]
struct IndexEntry {
    /// The lowest bit says that the names before have the same hash.
    hash: u32,
    block: u32,
}

fn write_indexed(entries: &[Entry<'_>], context: &Context<'_>, out: &mut Blocks) -> Written {
    let mut sorted: Vec<(NameHash, u32)> = entries
        .iter()
        .enumerate()
        .map(|(i, e)| (half_md4(e.name, context.hash_seed), i as u32))
        .collect();
    // Equal hashes stay in the order of the names.
    sorted.sort_unstable();

    // First where the leaves start, as the index comes before them.
    let mut starts: Vec<(usize, u32)> = Vec::new();
    let mut room = 0;
    let mut previous = 0;
    for (n, &(hash, i)) in sorted.iter().enumerate() {
        let len = entry_len(entries[i as usize].name.len());
        if len > room {
            let first = match starts.is_empty() {
                true => 0,
                false => hash.major | u32::from(hash.major == previous),
            };
            starts.push((n, first));
            room = CAPACITY;
        }
        room -= len;
        previous = hash.major;
    }
    let nodes = match starts.len() {
        0..=ROOT_LIMIT => 0,
        leaves => leaves.div_ceil(NODE_LIMIT),
    };
    if nodes > ROOT_LIMIT {
        return Written::TooLarge;
    }

    let leaves: Vec<IndexEntry> = starts
        .iter()
        .zip(1 + nodes as u32..)
        .map(|(&(_, hash), block)| IndexEntry { hash, block })
        .collect();
    if nodes == 0 {
        out.push(&root(&leaves, 0, context));
    } else {
        let top: Vec<IndexEntry> = leaves
            .chunks(NODE_LIMIT)
            .zip(1..)
            .map(|(below, block)| IndexEntry {
                hash: below[0].hash,
                block,
            })
            .collect();
        out.push(&root(&top, 1, context));
        for below in leaves.chunks(NODE_LIMIT) {
            let mut block = ZERO;
            put16(&mut block, 4, BLOCK as u16);
            index(
                &mut block,
                NODE_INDEX,
                NODE_LIMIT,
                below,
                context.inode_seed,
            );
            out.push(&block);
        }
    }
    let ends = starts.iter().skip(1).map(|&(n, _)| n).chain([sorted.len()]);
    for (&(from, _), to) in starts.iter().zip(ends) {
        let mut leaf = Leaf::new();
        for &(_, i) in &sorted[from..to] {
            let entry = &entries[i as usize];
            debug_assert!(leaf.fits(entry.name));
            leaf.push(entry.name, entry.ino, entry.file_type);
        }
        out.push(&leaf.finish(context.inode_seed));
    }
    Written::Indexed(1 + (nodes + leaves.len()) as u32)
}

/// Block 0 of an indexed directory, which old code can read as a list.
fn root(below: &[IndexEntry], levels: u8, context: &Context<'_>) -> Block {
    let mut leaf = Leaf::new();
    leaf.push(b".", context.ino, FileType::Directory);
    leaf.push(b"..", context.parent, FileType::Directory);
    let mut block = leaf.block;
    put16(&mut block, leaf.last + 4, (BLOCK_LEN - leaf.last) as u16);
    let info = &mut block[leaf.end..ROOT_INDEX];
    info[4] = HALF_MD4;
    info[5] = info.len() as u8;
    info[6] = levels;
    index(
        &mut block,
        ROOT_INDEX,
        ROOT_LIMIT,
        below,
        context.inode_seed,
    );
    block
}

/// Writes an index and its checksum. The first entry's hash is implied, and
/// limit and count stand in its place.
fn index(block: &mut Block, at: usize, limit: usize, entries: &[IndexEntry], inode_seed: u32) {
    for (entry, at) in entries.iter().zip((at..).step_by(8)) {
        put32(block, at, entry.hash);
        put32(block, at + 4, entry.block);
    }
    put16(block, at, limit as u16);
    put16(block, at + 2, entries.len() as u16);
    let used = crc(inode_seed, &block[..at + entries.len() * 8]);
    // Of the checksum itself four reserved bytes and four zeros count.
    put32(block, at + limit * 8 + 4, crc(used, &[0; 8]));
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::collect::hash_words;
    use super::super::{Options, Size, format};
    use super::*;
    use crate::tree::{Inode, Kind, Tree};
    use bootwright_disk::Content;
    use bootwright_image::Timestamp;

    /// Names of 8 bytes; 255 of them fill a leaf.
    const PER_LEAF: usize = CAPACITY / 16;

    #[test]
    fn names_of_one_hash_in_two_leaves_are_marked_and_accepted() {
        let seed = [7; 16];
        let words = hash_words(&seed);
        let mut names: Vec<(NameHash, String)> = (0..200_000u32)
            .map(|i| format!("{i:08x}"))
            .map(|name| (half_md4(name.as_bytes(), &words), name))
            .collect();
        names.sort_unstable();
        let pair = names
            .windows(2)
            .position(|w| w[0].0.major == w[1].0.major)
            .unwrap();
        assert!(pair > PER_LEAF, "names before the pair");
        // The last name of the first leaf and the first of the second.
        let chosen = names[..PER_LEAF - 1]
            .iter()
            .chain(&names[pair..names.len().min(pair + 600)]);
        let mut tree = Tree::new(Vec::new());
        let root = tree.root();
        let time = Timestamp::default();
        let dir = tree
            .insert(root, b"d", Inode::directory(0o755, time))
            .unwrap();
        for (_, name) in chosen {
            let inode = Inode::new(Kind::Fifo, 0o600);
            tree.insert(dir, name.as_bytes(), inode).unwrap();
        }
        let options = Options::new(Size::Exact(16 << 20), [1; 16], seed, time);
        let formatted = format(&tree, &options).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(formatted.volume.size).unwrap();
        for extent in formatted.volume.extents {
            let Content::Literal(bytes) = extent.content else {
                panic!("there are no sources");
            };
            use std::os::unix::fs::FileExt;
            file.as_file().write_all_at(&bytes, extent.start).unwrap();
        }
        let run = |program: &str, args: &[&str]| {
            let output = Command::new(program)
                .args(args)
                .arg(file.path())
                .output()
                .unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{text}");
            text
        };
        run("e2fsck", &["-fn"]);
        let marked = format!("Hash 0x{:08x}", names[pair].0.major | 1);
        let dump = run("debugfs", &["-R", "htree_dump /d"]);
        assert!(dump.contains(&marked), "{marked} in {dump}");
    }
}
