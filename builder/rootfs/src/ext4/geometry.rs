//! Where ext4 keeps its own blocks in a volume of a given size: block groups,
//! descriptors, bitmaps, inode tables, backups.
//!
//! A [`Geometry`] follows from the number of blocks and inodes alone. What it
//! leaves over is *usable space*: the [`Space`] numbers these blocks without
//! gaps, so that everything else can be laid out as if ext4 reserved nothing.

/// Block size in bytes.
pub(super) const BLOCK: u64 = 4096;
/// Blocks in a group: as many as a one-block bitmap has bits.
pub(super) const GROUP: u32 = 32768;
/// Bytes of an inode.
pub(super) const INODE: u32 = 256;
/// Inodes in a block of the inode table.
const INODES_PER_BLOCK: u32 = BLOCK as u32 / INODE;
/// Bytes of a group descriptor (feature `64bit`).
pub(super) const DESCRIPTOR: u32 = 64;
/// Blocks that a last group must have over its own metadata; mke2fs leaves
/// smaller ones out, too.
const MIN_TAIL: u32 = 50;
/// The most inodes of a volume; a little less than 2^32 so that rounding up
/// to whole groups cannot overflow.
pub(super) const MAX_INODES: u64 = 0xff00_0000;

/// How many inodes a volume must have.
#[derive(Debug, Clone, Copy)]
pub(super) struct InodeDemand {
    /// Inodes in use, with the reserved ones.
    pub(super) used: u32,
    /// Free ones at the least.
    pub(super) spare: u32,
    /// One inode for so many bytes of the volume at the least, and one free
    /// inode for so many free bytes.
    pub(super) bytes_per_inode: u32,
    /// Blocks in use by these inodes.
    pub(super) blocks: u32,
}

/// Inodes that every file system has: reserved ones and `/lost+found`.
const RESERVED_INODES: u32 = 11;

impl InodeDemand {
    /// In a volume of any size.
    pub(super) fn least(&self) -> u64 {
        u64::from(self.used) + u64::from(self.spare)
    }

    /// In a volume of so many blocks.
    fn wanted(&self, blocks: u32) -> u64 {
        let by_bytes =
            |blocks: u32| u64::from(blocks) * BLOCK / u64::from(self.bytes_per_inode.max(1024));
        let files = u64::from(self.used.saturating_sub(RESERVED_INODES));
        let with_free = files + by_bytes(blocks.saturating_sub(self.blocks));
        let wanted = by_bytes(blocks).max(with_free).max(self.least());
        wanted.min(MAX_INODES)
    }
}

/// The fixed part of a file system's layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Blocks of the file system.
    pub(super) blocks: u32,
    /// Block groups.
    pub(super) groups: u32,
    /// Inodes of each group; a multiple of 16.
    pub(super) inodes_per_group: u32,
    /// Blocks of the descriptor table.
    pub(super) descriptor_blocks: u32,
    /// Logarithm of the number of groups whose bitmaps and inode tables lie
    /// together (feature `flex_bg`).
    pub(super) log_flex: u8,
}

impl Geometry {
    /// The layout of a file system that makes the most of `blocks` blocks;
    /// none if they are too few for so many inodes.
    ///
    /// A last group too small to be of use is left out, so the result may
    /// have fewer blocks.
    pub(super) fn new(blocks: u64, demand: &InodeDemand) -> Option<Self> {
        let mut blocks = u32::try_from(blocks).ok().filter(|&b| b > 0)?;
        loop {
            let groups = blocks.div_ceil(GROUP);
            let per_group = demand
                .wanted(blocks)
                .div_ceil(u64::from(groups))
                .next_multiple_of(u64::from(INODES_PER_BLOCK))
                .min(u64::from(GROUP)) as u32;
            if u64::from(per_group) * u64::from(groups) < demand.least() {
                return None;
            }
            let geometry = Self {
                blocks,
                groups,
                inodes_per_group: per_group,
                descriptor_blocks: (u64::from(groups) * u64::from(DESCRIPTOR)).div_ceil(BLOCK)
                    as u32,
                // Sixteen groups' metadata must fit into the first of them.
                log_flex: if per_group > GROUP / 4 { 3 } else { 4 },
            };
            let tail = blocks % GROUP;
            let last = groups - 1;
            let least = geometry.backup(last) + 2 + geometry.table_blocks() + MIN_TAIL;
            if tail == 0 || tail >= least {
                return Some(geometry);
            }
            blocks -= tail;
            if blocks == 0 {
                return None;
            }
        }
    }

    /// Blocks of one group's inode table.
    pub(super) fn table_blocks(&self) -> u32 {
        self.inodes_per_group / INODES_PER_BLOCK
    }

    /// Inodes of the file system.
    pub(super) fn inodes(&self) -> u32 {
        self.inodes_per_group * self.groups
    }

    /// First block of a group.
    pub(super) fn group_start(&self, group: u32) -> u32 {
        group * GROUP
    }

    /// Blocks in a group; fewer in the last one.
    pub(super) fn group_len(&self, group: u32) -> u32 {
        GROUP.min(self.blocks - self.group_start(group))
    }

    /// Blocks of the superblock and descriptors at a group's start, or 0
    /// (feature `sparse_super`).
    pub(super) fn backup(&self, group: u32) -> u32 {
        if has_backup(group) {
            1 + self.descriptor_blocks
        } else {
            0
        }
    }

    /// The first group of the flexible group that `group` belongs to, and how
    /// many groups that has.
    fn flex(&self, group: u32) -> (u32, u32) {
        let first = group >> self.log_flex << self.log_flex;
        (first, (self.groups - first).min(1 << self.log_flex))
    }

    /// Where a flexible group's metadata starts.
    fn flex_start(&self, first: u32) -> u32 {
        self.group_start(first) + self.backup(first)
    }

    /// Block of a group's block bitmap.
    pub(super) fn block_bitmap(&self, group: u32) -> u32 {
        let (first, _) = self.flex(group);
        self.flex_start(first) + (group - first)
    }

    /// Block of a group's inode bitmap.
    pub(super) fn inode_bitmap(&self, group: u32) -> u32 {
        let (first, count) = self.flex(group);
        self.flex_start(first) + count + (group - first)
    }

    /// First block of a group's inode table.
    pub(super) fn inode_table(&self, group: u32) -> u32 {
        let (first, count) = self.flex(group);
        self.flex_start(first) + 2 * count + (group - first) * self.table_blocks()
    }

    /// The runs of blocks that are not usable, as start and length, in order.
    pub(super) fn reserved(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        (0..self.groups).filter_map(move |group| {
            let (first, count) = self.flex(group);
            let flex = if group == first {
                count * (2 + self.table_blocks())
            } else {
                0
            };
            let len = self.backup(group) + flex;
            (len > 0).then(|| (self.group_start(group), len))
        })
    }
}

/// Whether a group has a copy of superblock and descriptors: 0, 1 and the
/// powers of 3, 5 and 7.
pub(super) fn has_backup(group: u32) -> bool {
    group <= 1
        || [3u64, 5, 7].into_iter().any(|base| {
            let mut power = base;
            while power < u64::from(group) {
                power *= base;
            }
            power == u64::from(group)
        })
}

/// The blocks that [`Geometry`] does not reserve, numbered without gaps.
#[derive(Debug)]
pub(super) struct Space {
    segments: Vec<Segment>,
    len: u32,
}

/// A run of blocks free of reserved ones.
#[derive(Debug, Clone, Copy)]
struct Segment {
    /// Number of its first block in usable space.
    usable: u32,
    /// Its first block in the volume.
    block: u32,
    len: u32,
}

impl Space {
    pub(super) fn new(geometry: &Geometry) -> Self {
        let mut segments = Vec::new();
        let (mut usable, mut block) = (0, 0);
        let mut push = |block: u32, end: u32| {
            if end > block {
                let len = end - block;
                segments.push(Segment { usable, block, len });
                usable += len;
            }
        };
        for (start, len) in geometry.reserved() {
            push(block, start);
            block = start + len;
        }
        push(block, geometry.blocks);
        Self {
            segments,
            len: usable,
        }
    }

    /// How many blocks are usable.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// The blocks of the volume that a run in usable space occupies, as start
    /// and length. What lies beyond the end of the space is left out.
    pub(super) fn pieces(&self, at: u32, count: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
        let first = self.segments.partition_point(|s| s.usable + s.len <= at);
        let end = u64::from(at) + u64::from(count);
        self.segments[first..]
            .iter()
            .take_while(move |s| u64::from(s.usable) < end)
            .map(move |s| {
                let from = at.max(s.usable);
                let to = end.min(u64::from(s.usable + s.len)) as u32;
                (s.block + (from - s.usable), to - from)
            })
    }

    /// The block of the volume that has number `at`; 0 beyond the end.
    pub(super) fn block(&self, at: u32) -> u32 {
        self.pieces(at, 1).next().map_or(0, |(block, _)| block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMAND: InodeDemand = InodeDemand {
        used: 11,
        spare: 0,
        bytes_per_inode: 16384,
        blocks: 5,
    };

    #[test]
    fn backups_are_in_groups_0_1_and_powers_of_3_5_and_7() {
        let groups: Vec<u32> = (0..400).filter(|&g| has_backup(g)).collect();
        assert_eq!(groups, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343]);
    }

    #[test]
    fn two_gib_are_laid_out_as_mke2fs_does() {
        let g = Geometry::new(524_288, &DEMAND).unwrap();
        assert_eq!((g.groups, g.inodes_per_group), (16, 8192));
        assert_eq!(g.block_bitmap(15), 17);
        assert_eq!(g.inode_bitmap(1), 19);
        assert_eq!(g.inode_table(15), 7714);
        let reserved: u32 = g.reserved().map(|(_, len)| len).sum();
        assert_eq!(reserved, 24_620 - 16_384);
    }

    #[test]
    fn a_tail_too_small_for_a_group_is_left_out() {
        let g = Geometry::new(u64::from(GROUP) + 60, &DEMAND).unwrap();
        assert_eq!(g.blocks, GROUP);
        assert_eq!(Geometry::new(20, &DEMAND), None);
    }

    #[test]
    fn no_metadata_overlaps_and_usable_space_is_the_rest() {
        for blocks in [100, 2048, 40_000, 524_288, 600_000, 26_214_400] {
            for spare in [0, 200_000] {
                let demand = InodeDemand { spare, ..DEMAND };
                let Some(g) = Geometry::new(blocks, &demand) else {
                    continue;
                };
                let mut used: Vec<(u32, u32)> = (0..g.groups)
                    .flat_map(|n| {
                        [
                            (g.group_start(n), g.backup(n)),
                            (g.block_bitmap(n), 1),
                            (g.inode_bitmap(n), 1),
                            (g.inode_table(n), g.table_blocks()),
                        ]
                    })
                    .filter(|(_, len)| *len > 0)
                    .collect();
                used.sort_unstable();
                assert!(used.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0));
                let reserved: u32 = used.iter().map(|(_, len)| len).sum();
                let space = Space::new(&g);
                assert_eq!(space.len(), g.blocks - reserved);
                for (start, len) in space.pieces(0, u32::MAX) {
                    assert!(
                        used.iter()
                            .all(|&(s, l)| s + l <= start || start + len <= s)
                    );
                }
            }
        }
    }
}
