//! Extent trees: from a file's blocks to the volume's.
//! See the kernel's `Documentation/filesystems/ext4/ifork.rst`.

use super::blocks::{Block, Blocks, ZERO};
use super::checksum::{crc, put16, put32};
use super::geometry::{BLOCK, Space};

/// A run of a file's blocks in the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileExtent {
    /// First block in the file.
    pub(super) logical: u32,
    /// First block in the volume.
    pub(super) block: u32,
    /// 1 to 32768 blocks.
    pub(super) len: u32,
}

/// The longest extent of blocks that have content.
const MAX_LEN: u32 = 32768;
/// Entries beside the header in the inode.
const ROOT_ENTRIES: usize = 4;
/// Bytes of the root in the inode.
pub(super) const ROOT_LEN: usize = 12 + ROOT_ENTRIES * 12;
/// Entries beside header and checksum in a block.
const BLOCK_ENTRIES: usize = (BLOCK as usize - 12 - 4) / 12;

/// Adds a run of usable space to a file's extents.
pub(super) fn append(
    extents: &mut Vec<FileExtent>,
    mut logical: u32,
    at: u32,
    count: u32,
    space: &Space,
) {
    for (mut block, mut count) in space.pieces(at, count) {
        if let Some(last) = extents.last_mut()
            && last.block + last.len == block
            && last.logical + last.len == logical
        {
            let add = count.min(MAX_LEN - last.len);
            last.len += add;
            (logical, block, count) = (logical + add, block + add, count - add);
        }
        while count > 0 {
            let len = count.min(MAX_LEN);
            extents.push(FileExtent {
                logical,
                block,
                len,
            });
            (logical, block, count) = (
                logical.wrapping_add(len),
                block.wrapping_add(len),
                count - len,
            );
        }
    }
}

/// How many blocks the tree over so many extents has outside of the inode.
pub(super) fn tree_blocks(extents: usize) -> u32 {
    let mut total = 0;
    let mut level = extents;
    while level > ROOT_ENTRIES {
        level = level.div_ceil(BLOCK_ENTRIES);
        total += level;
    }
    total as u32
}

/// Writes the tree over `extents`: the root into the inode, the rest into
/// `out`, whose first block is number `first` of usable space.
pub(super) fn write(
    extents: &[FileExtent],
    inode_seed: u32,
    first: u32,
    space: &Space,
    out: &mut Blocks,
) -> [u8; ROOT_LEN] {
    let mut level: Vec<[u8; 12]> = extents.iter().map(leaf_entry).collect();
    let mut depth = 0;
    while level.len() > ROOT_ENTRIES {
        let mut above = Vec::with_capacity(level.len().div_ceil(BLOCK_ENTRIES));
        for entries in level.chunks(BLOCK_ENTRIES) {
            let mut block = ZERO;
            node(&mut block, entries, BLOCK_ENTRIES, depth);
            let end = 12 + BLOCK_ENTRIES * 12;
            let checksum = crc(inode_seed, &block[..end]);
            put32(&mut block, end, checksum);
            let number = space.block(first + out.count());
            out.push(&block);
            above.push(index_entry(&entries[0], number));
        }
        level = above;
        depth += 1;
    }
    let mut root = [0; ROOT_LEN];
    node(&mut root, &level, ROOT_ENTRIES, depth);
    root
}

fn node(buf: &mut [u8], entries: &[[u8; 12]], max: usize, depth: u16) {
    put16(buf, 0, 0xf30a);
    put16(buf, 2, entries.len() as u16);
    put16(buf, 4, max as u16);
    put16(buf, 6, depth);
    for (slot, entry) in buf[12..].chunks_exact_mut(12).zip(entries) {
        slot.copy_from_slice(entry);
    }
}

fn leaf_entry(extent: &FileExtent) -> [u8; 12] {
    let mut entry = [0; 12];
    put32(&mut entry, 0, extent.logical);
    put16(&mut entry, 4, extent.len as u16);
    put32(&mut entry, 8, extent.block);
    entry
}

/// An entry for the node that starts with `first` and lies in `block`.
fn index_entry(first: &[u8; 12], block: u32) -> [u8; 12] {
    let mut entry = [0; 12];
    entry[..4].copy_from_slice(&first[..4]);
    put32(&mut entry, 4, block);
    entry
}

const _: () = assert!(size_of::<Block>() == 12 + BLOCK_ENTRIES * 12 + 4);
