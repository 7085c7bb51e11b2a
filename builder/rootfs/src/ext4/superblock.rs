//! The superblock: writing our own, reading anyone's.
//! See the kernel's `Documentation/filesystems/ext4/super.rst`.

use bootwright_image::Timestamp;

use super::checksum::{crc, put16, put32};
use super::extents;
use super::geometry::{DESCRIPTOR, GROUP, Geometry, INODE};
use super::inode::EXTRA;
use super::journal;

/// Bytes of a superblock, and where the first one starts.
pub(super) const LEN: usize = 1024;

/// Optional features of ext4 by name, as mke2fs and dumpe2fs spell them.
type Names = [(u32, &'static str)];

const COMPAT: &Names = &[
    (0x0001, "dir_prealloc"),
    (0x0002, "imagic_inodes"),
    (0x0004, "has_journal"),
    (0x0008, "ext_attr"),
    (0x0010, "resize_inode"),
    (0x0020, "dir_index"),
    (0x0200, "sparse_super2"),
    (0x0400, "fast_commit"),
    (0x0800, "stable_inodes"),
    (0x1000, "orphan_file"),
];
const INCOMPAT: &Names = &[
    (0x0001, "compression"),
    (0x0002, "filetype"),
    (0x0004, "needs_recovery"),
    (0x0008, "journal_dev"),
    (0x0010, "meta_bg"),
    (0x0040, "extent"),
    (0x0080, "64bit"),
    (0x0100, "mmp"),
    (0x0200, "flex_bg"),
    (0x0400, "ea_inode"),
    (0x1000, "dirdata"),
    (0x2000, "metadata_csum_seed"),
    (0x4000, "large_dir"),
    (0x8000, "inline_data"),
    (0x1_0000, "encrypt"),
    (0x2_0000, "casefold"),
];
const RO_COMPAT: &Names = &[
    (0x0001, "sparse_super"),
    (0x0002, "large_file"),
    (0x0008, "huge_file"),
    (0x0010, "uninit_bg"),
    (0x0020, "dir_nlink"),
    (0x0040, "extra_isize"),
    (0x0100, "quota"),
    (0x0200, "bigalloc"),
    (0x0400, "metadata_csum"),
    (0x1000, "read-only"),
    (0x2000, "project"),
    (0x8000, "verity"),
    (0x1_0000, "orphan_present"),
];

const HAS_JOURNAL: u32 = 0x4;
/// ext_attr, dir_index.
const OUR_COMPAT: u32 = 0x28;
/// filetype, extent, 64bit, flex_bg.
const OUR_INCOMPAT: u32 = 0x2c2;
/// sparse_super, large_file, huge_file, dir_nlink, extra_isize,
/// metadata_csum.
const OUR_RO_COMPAT: u32 = 0x46b;
const IS_64BIT: u32 = 0x80;
const METADATA_CSUM: u32 = 0x400;
const MAGIC: u16 = 0xef53;

/// What goes into the superblock.
#[derive(Debug)]
pub(super) struct Superblock<'a> {
    pub(super) geometry: &'a Geometry,
    pub(super) uuid: &'a [u8; 16],
    pub(super) hash_seed: &'a [u32; 4],
    pub(super) label: &'a str,
    pub(super) time: Timestamp,
    pub(super) root_blocks: u64,
    pub(super) free_blocks: u64,
    pub(super) free_inodes: u32,
    /// Blocks of metadata and journal.
    pub(super) overhead: u32,
    /// Blocks of the journal and its inode's extents.
    pub(super) journal: Option<(u32, [u8; 60])>,
}

impl Superblock<'_> {
    /// The superblock of a group; those after group 0 are copies for e2fsck,
    /// which are not marked clean.
    pub(super) fn encode(&self, group: u32) -> [u8; LEN] {
        let mut sb = [0; LEN];
        let geometry = self.geometry;
        let secs = self.time.secs.clamp(0, 0xff_ffff_ffff) as u64;
        put32(&mut sb, 0x00, geometry.inodes());
        put32(&mut sb, 0x04, geometry.blocks);
        put32(&mut sb, 0x08, self.root_blocks as u32);
        put32(&mut sb, 0x0c, self.free_blocks as u32);
        put32(&mut sb, 0x10, self.free_inodes);
        put32(&mut sb, 0x18, 2); // blocks of 1024 << 2 bytes
        put32(&mut sb, 0x1c, 2); // clusters of one block
        put32(&mut sb, 0x20, GROUP);
        put32(&mut sb, 0x24, GROUP);
        put32(&mut sb, 0x28, geometry.inodes_per_group);
        put32(&mut sb, 0x30, secs as u32); // last write
        put16(&mut sb, 0x36, u16::MAX); // no check after so many mounts
        put16(&mut sb, 0x38, MAGIC);
        put16(&mut sb, 0x3a, u16::from(group == 0)); // clean
        put16(&mut sb, 0x3c, 1); // on errors continue
        put32(&mut sb, 0x40, secs as u32); // last check
        put32(&mut sb, 0x4c, 1); // dynamic revision
        put32(&mut sb, 0x54, 11); // first inode that is not reserved
        put16(&mut sb, 0x58, INODE as u16);
        put16(&mut sb, 0x5a, group as u16);
        let journal = if self.journal.is_some() {
            HAS_JOURNAL
        } else {
            0
        };
        put32(&mut sb, 0x5c, OUR_COMPAT | journal);
        put32(&mut sb, 0x60, OUR_INCOMPAT);
        put32(&mut sb, 0x64, OUR_RO_COMPAT);
        sb[0x68..0x78].copy_from_slice(self.uuid);
        sb[0x78..0x78 + self.label.len()].copy_from_slice(self.label.as_bytes());
        for (word, at) in self.hash_seed.iter().zip((0xec..).step_by(4)) {
            put32(&mut sb, at, *word);
        }
        sb[0xfc] = 1; // half MD4
        put16(&mut sb, 0xfe, DESCRIPTOR as u16);
        put32(&mut sb, 0x100, 0x0c); // mount options user_xattr, acl
        put32(&mut sb, 0x108, secs as u32); // made
        if let Some((blocks, root)) = &self.journal {
            put32(&mut sb, 0xe0, journal::INODE);
            sb[0xfd] = 1; // a copy of the journal's extents follows
            sb[0x10c..0x148].copy_from_slice(root);
            let size = u64::from(*blocks) * super::geometry::BLOCK;
            put32(&mut sb, 0x148, (size >> 32) as u32);
            put32(&mut sb, 0x14c, size as u32);
        }
        put16(&mut sb, 0x15c, EXTRA);
        put16(&mut sb, 0x15e, EXTRA);
        put32(&mut sb, 0x160, 1); // names are hashed as signed bytes
        sb[0x174] = geometry.log_flex;
        sb[0x175] = 1; // CRC-32C
        put32(&mut sb, 0x248, self.overhead);
        for at in [0x274, 0x276, 0x277] {
            sb[at] = (secs >> 32) as u8; // written, made, checked
        }
        let checksum = crc(!0, &sb[..0x3fc]);
        put32(&mut sb, 0x3fc, checksum);
        sb
    }
}

/// What a file system says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// UUID, in the order in which it is written.
    pub uuid: [u8; 16],
    /// Label; bytes that are not UTF-8 are replaced.
    pub label: String,
    /// Bytes in a block.
    pub block_size: u64,
    /// Blocks of the file system.
    pub blocks: u64,
    /// Blocks that are free.
    pub free_blocks: u64,
    /// Free blocks that only root may use.
    pub reserved_blocks: u64,
    /// Inodes of the file system.
    pub inodes: u32,
    /// Inodes that are free.
    pub free_inodes: u32,
    /// Features as mke2fs spells them; those without a known name as their
    /// word and bit.
    pub features: Vec<String>,
    /// Whether it was unmounted (or made) in good order.
    pub clean: bool,
}

impl Summary {
    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.blocks.saturating_mul(self.block_size)
    }

    /// Free bytes.
    pub fn free(&self) -> u64 {
        self.free_blocks.saturating_mul(self.block_size)
    }
}

/// Why bytes are no ext4 superblock.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum SuperblockError {
    /// Fewer bytes than a file system's first 2048.
    #[error("{0} bytes are too few for an ext4 file system")]
    TooShort(usize),
    /// The magic number is not there.
    #[error("no ext4 file system: bad magic number")]
    NoMagic,
    /// The checksum is not that of the bytes.
    #[error("the ext4 superblock is damaged: bad checksum")]
    BadChecksum,
    /// A field has a value that cannot be.
    #[error("the ext4 superblock is damaged: bad {0}")]
    BadField(&'static str),
}

/// Reads the superblock of an ext2, ext3 or ext4 file system from its first
/// 2048 bytes or more.
///
/// # Errors
/// There is no superblock, or it is damaged.
pub fn read_superblock(bytes: &[u8]) -> Result<Summary, SuperblockError> {
    let sb: &[u8; LEN] = bytes
        .get(LEN..2 * LEN)
        .and_then(|sb| sb.try_into().ok())
        .ok_or(SuperblockError::TooShort(bytes.len()))?;
    let get16 = |at: usize| u16::from_le_bytes([sb[at], sb[at + 1]]);
    let get32 = |at: usize| u32::from_le_bytes([sb[at], sb[at + 1], sb[at + 2], sb[at + 3]]);
    if get16(0x38) != MAGIC {
        return Err(SuperblockError::NoMagic);
    }
    // Revision 0 has no feature words.
    let feature = |at| if get32(0x4c) == 0 { 0 } else { get32(at) };
    let [compat, incompat, ro_compat] = [0x5c, 0x60, 0x64].map(feature);
    if ro_compat & METADATA_CSUM != 0 && crc(!0, &sb[..0x3fc]) != get32(0x3fc) {
        return Err(SuperblockError::BadChecksum);
    }
    let high = |at| match incompat & IS_64BIT {
        0 => 0,
        _ => u64::from(get32(at)) << 32,
    };
    let wide = |low, at| u64::from(get32(low)) | high(at);
    let log_block = get32(0x18);
    if log_block > 6 {
        return Err(SuperblockError::BadField("block size"));
    }
    let summary = Summary {
        uuid: std::array::from_fn(|i| sb[0x68 + i]),
        label: text(&sb[0x78..0x88]),
        block_size: 1024 << log_block,
        blocks: wide(0x04, 0x150),
        free_blocks: wide(0x0c, 0x158),
        reserved_blocks: wide(0x08, 0x154),
        inodes: get32(0x00),
        free_inodes: get32(0x10),
        features: [
            (compat, COMPAT),
            (incompat, INCOMPAT),
            (ro_compat, RO_COMPAT),
        ]
        .into_iter()
        .zip(["compat", "incompat", "ro_compat"])
        .flat_map(|((bits, names), word)| feature_names(bits, names, word))
        .collect(),
        clean: get16(0x3a) & 1 == 1,
    };
    if summary.blocks == 0 || summary.blocks.checked_mul(summary.block_size).is_none() {
        return Err(SuperblockError::BadField("number of blocks"));
    }
    if summary.free_blocks > summary.blocks {
        return Err(SuperblockError::BadField("number of free blocks"));
    }
    if summary.inodes == 0 || summary.free_inodes > summary.inodes {
        return Err(SuperblockError::BadField("number of inodes"));
    }
    Ok(summary)
}

fn text(bytes: &[u8]) -> String {
    let len = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

fn feature_names(bits: u32, names: &Names, word: &str) -> Vec<String> {
    (0..32)
        .map(|bit| 1u32 << bit)
        .filter(|bit| bits & bit != 0)
        .map(|bit| match names.iter().find(|(known, _)| *known == bit) {
            Some((_, name)) => (*name).to_owned(),
            None => format!("{word}:{bit:#x}"),
        })
        .collect()
}

const _: () = assert!(extents::ROOT_LEN == 0x148 - 0x10c);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_superblock_is_refused() {
        assert_eq!(
            read_superblock(&[0; 2047]),
            Err(SuperblockError::TooShort(2047))
        );
        assert_eq!(read_superblock(&[0; 4096]), Err(SuperblockError::NoMagic));
        let mut bytes = [0; 2048];
        put16(&mut bytes, LEN + 0x38, MAGIC);
        assert_eq!(
            read_superblock(&bytes),
            Err(SuperblockError::BadField("number of blocks"))
        );
        put32(&mut bytes, LEN + 0x18, 32);
        assert_eq!(
            read_superblock(&bytes),
            Err(SuperblockError::BadField("block size"))
        );
    }
}
