//! Bitmaps and group descriptors.
//! See the kernel's `Documentation/filesystems/ext4/{bitmaps,group_descr}.rst`.

use super::blocks::{Block, Extents, ZERO};
use super::checksum::{crc, put16, put32};
use super::geometry::{DESCRIPTOR, Geometry};

/// What the groups' bitmaps and descriptors tell.
#[derive(Debug)]
pub(super) struct Usage<'a> {
    /// Blocks in use, as start and length, in order and without overlap.
    pub(super) blocks: &'a [(u32, u32)],
    /// The largest inode number in use; all below it are in use.
    pub(super) last_inode: u32,
    /// How many directories each group holds.
    pub(super) directories: &'a [u32],
}

/// Flags of a group: its inode bitmap and table, or its block bitmap, were
/// never written and follow from the rest.
const INODE_UNINIT: u16 = 1;
const BLOCK_UNINIT: u16 = 2;
/// The inode table needs no zeroing; what the plan leaves out reads as zeros.
const TABLE_ZEROED: u16 = 4;

/// Writes the bitmaps of all groups in use, and returns the descriptors.
pub(super) fn write(
    geometry: &Geometry,
    usage: &Usage<'_>,
    volume_seed: u32,
    out: &mut Extents,
) -> Vec<u8> {
    let mut table = vec![0; geometry.groups as usize * DESCRIPTOR as usize];
    let per_group = geometry.inodes_per_group;
    let mut blocks = usage.blocks.iter().copied().peekable();
    for (group, descriptor) in (0..geometry.groups).zip(table.chunks_exact_mut(DESCRIPTOR as usize))
    {
        let mut flags = TABLE_ZEROED;
        let start = geometry.group_start(group);
        let len = geometry.group_len(group);

        let mut bitmap = ZERO;
        let mut used = 0;
        while let Some(&(from, count)) = blocks.peek() {
            let end = from + count;
            if from >= start + len {
                break;
            }
            let first = from.max(start) - start;
            let last = end.min(start + len) - start;
            set(&mut bitmap, first, last);
            used += last - first;
            if end > start + len {
                break;
            }
            blocks.next();
        }
        if used == geometry.backup(group) && group + 1 < geometry.groups {
            flags |= BLOCK_UNINIT;
        } else {
            set(&mut bitmap, len, super::geometry::GROUP);
            let checksum = crc(volume_seed, &bitmap);
            put16(descriptor, 0x18, checksum as u16);
            put16(descriptor, 0x38, (checksum >> 16) as u16);
            out.put_block(geometry.block_bitmap(group), &bitmap);
        }

        let first_inode = group * per_group;
        let inodes = usage.last_inode.saturating_sub(first_inode).min(per_group);
        if inodes == 0 {
            flags |= INODE_UNINIT;
        } else {
            let mut bitmap = ZERO;
            set(&mut bitmap, 0, inodes);
            let checksum = crc(volume_seed, &bitmap[..per_group as usize / 8]);
            put16(descriptor, 0x1a, checksum as u16);
            put16(descriptor, 0x3a, (checksum >> 16) as u16);
            set(&mut bitmap, per_group, super::geometry::GROUP);
            out.put_block(geometry.inode_bitmap(group), &bitmap);
        }

        put32(descriptor, 0x00, geometry.block_bitmap(group));
        put32(descriptor, 0x04, geometry.inode_bitmap(group));
        put32(descriptor, 0x08, geometry.inode_table(group));
        put16(descriptor, 0x0c, (len - used) as u16);
        put16(descriptor, 0x0e, (per_group - inodes) as u16);
        let directories = usage.directories.get(group as usize).copied().unwrap_or(0);
        put16(descriptor, 0x10, directories as u16);
        put16(descriptor, 0x12, flags);
        put16(descriptor, 0x1c, (per_group - inodes) as u16);
        let checksum = crc(crc(volume_seed, &group.to_le_bytes()), descriptor);
        put16(descriptor, 0x1e, checksum as u16);
    }
    table
}

/// Sets the bits from `from` up to `to`.
fn set(bitmap: &mut Block, from: u32, to: u32) {
    let (from, to) = (from as usize, to as usize);
    if from >= to {
        return;
    }
    let (first, last) = (from / 8, (to - 1) / 8);
    let low = 0xffu8 << (from % 8);
    let high = 0xffu8 >> (7 - (to - 1) % 8);
    if first == last {
        bitmap[first] |= low & high;
    } else {
        bitmap[first] |= low;
        bitmap[first + 1..last].fill(0xff);
        bitmap[last] |= high;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_set_from_and_up_to() {
        for (from, to) in [
            (0, 0),
            (0, 1),
            (3, 5),
            (7, 9),
            (8, 16),
            (1, 32768),
            (32768, 32768),
        ] {
            let mut bitmap = ZERO;
            set(&mut bitmap, from, to);
            for bit in 0..32768u32 {
                let is = bitmap[bit as usize / 8] >> (bit % 8) & 1 == 1;
                assert_eq!(is, (from..to).contains(&bit), "{from}..{to}: {bit}");
            }
        }
    }
}
