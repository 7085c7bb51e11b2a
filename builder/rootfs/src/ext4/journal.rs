//! The journal's size and its superblock; the rest of it is zeros.
//! See the kernel's `Documentation/filesystems/ext4/journal.rst`.

use super::geometry::BLOCK;

/// The inode of the journal.
pub(super) const INODE: u32 = 8;
/// The smallest volume that has a journal, in blocks.
pub(super) const MIN_BLOCKS: u64 = 2048;

/// Volumes of up to so many blocks (exclusive) and their journal's blocks, as
/// mke2fs has it (`ext2fs_default_journal_size`).
const SIZES: [(u64, u32); 9] = [
    (MIN_BLOCKS, 0),
    (32 << 10, 1024),
    (256 << 10, 4096),
    (512 << 10, 8192),
    (4096 << 10, 16384),
    (8192 << 10, 32768),
    (16384 << 10, 65536),
    (32768 << 10, 131_072),
    (u64::MAX, 262_144),
];

/// The journal's blocks for a volume of `blocks` blocks; 0 for none.
pub(super) fn default(blocks: u64) -> u32 {
    SIZES
        .iter()
        .find(|(below, _)| blocks < *below)
        .map_or(0, |(_, size)| *size)
}

/// The journal's blocks where there is no room for more.
pub(super) fn smallest(blocks: u64) -> u32 {
    default(blocks).min(SIZES[1].1)
}

/// The journal's sizes for a volume, the largest first.
pub(super) fn sizes(blocks: u64) -> impl Iterator<Item = u32> {
    let largest = default(blocks);
    let least = smallest(blocks);
    SIZES
        .into_iter()
        .rev()
        .map(|(_, size)| size)
        .filter(move |size| (least..=largest).contains(size))
}

/// The superblock of an empty journal, version 2. Big-endian.
pub(super) fn superblock(blocks: u32, uuid: &[u8; 16]) -> Vec<u8> {
    let mut bytes = vec![0; 0x44];
    let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    put(0x00, 0xc03b_3998); // magic
    put(0x04, 4); // superblock version 2
    put(0x0c, BLOCK as u32);
    put(0x10, blocks);
    put(0x14, 1); // first block of the log
    put(0x18, 1); // first sequence number
    put(0x1c, 0); // start: nothing to replay
    put(0x40, 1); // users
    bytes[0x30..0x40].copy_from_slice(uuid);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_mke2fs() {
        let cases = [
            (2047, 0),
            (2048, 1024),
            (524_287, 8192),
            (524_288, 16384),
            (26_214_400, 131_072),
            (268_435_456, 262_144),
        ];
        for (blocks, journal) in cases {
            assert_eq!(default(blocks), journal, "{blocks}");
        }
        assert_eq!(
            sizes(524_288).collect::<Vec<_>>(),
            [16384, 8192, 4096, 1024]
        );
        assert_eq!(sizes(100).collect::<Vec<_>>(), [0]);
    }
}
