//! ext4: a tree becomes a volume.
//!
//! [`format()`] takes a [`Tree`] whose files' contents lie in packs, host files
//! or memory, and gives the extents of an ext4 file system that holds it; no
//! content is read. Each pack becomes one run of blocks, so that its files'
//! extents join into few. [`read_superblock`] tells what is on a disk.
//!
//! The on-disk format is that of the kernel's
//! `Documentation/filesystems/ext4/`, with the features that mke2fs 1.47
//! chooses, less `resize_inode`.

mod acl;
mod blocks;
mod checksum;
mod collect;
mod contents;
mod directory;
mod emit;
mod extents;
mod geometry;
mod groups;
mod hash;
mod inode;
mod journal;
mod layout;
mod name;
mod number;
mod superblock;
mod xattr;

use bootwright_image::Timestamp;

pub use acl::AclError;
pub use name::name;
pub use superblock::{Summary, SuperblockError, read_superblock};

use crate::tree::Tree;
use crate::volume::Volume;
use collect::Collected;
use geometry::{BLOCK, InodeDemand};
use layout::{Fit, Goal};

/// How large the volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// So many bytes; a multiple of 4096.
    Exact(u64),
    /// As small as it can be with so many bytes available to an ordinary user
    /// of the guest, as `df` shows them.
    MinimalPlusFree(u64),
}

/// What the tree does not say about the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How large the volume is.
    pub size: Size,
    /// UUID, in the order in which it is written.
    pub uuid: [u8; 16],
    /// Seed of the hashes in large directories; a UUID, too.
    pub hash_seed: [u8; 16],
    /// Label, at most 16 bytes.
    pub label: String,
    /// When the file system was made; also the time of `/lost+found`.
    pub time: Timestamp,
    /// One inode for so many bytes of the volume, and one free inode for so
    /// many free bytes; at least 1024.
    pub bytes_per_inode: u32,
    /// Free inodes at the least.
    pub spare_inodes: u32,
}

impl Options {
    /// No label, and inodes as mke2fs has them: one for 16 KiB, but at least
    /// 1024 free ones.
    pub fn new(size: Size, uuid: [u8; 16], hash_seed: [u8; 16], time: Timestamp) -> Self {
        Self {
            size,
            uuid,
            hash_seed,
            label: String::new(),
            time,
            bytes_per_inode: 16384,
            spare_inodes: 1024,
        }
    }
}

/// A formatted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Formatted {
    /// What to write; extents are sorted and do not overlap.
    pub volume: Volume,
    /// What came out.
    pub stats: Stats,
    /// What the file system cannot hold and was left out, in words; at most
    /// a hundred and the number of those not told.
    pub warnings: Vec<String>,
}

/// Numbers about a formatted file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes of the file system; the volume may be larger by a tail too small
    /// for a block group.
    pub size: u64,
    /// The smallest size in bytes that holds the tree, with a small journal
    /// and no room for anything more.
    pub minimum_size: u64,
    /// Bytes in free blocks.
    pub free: u64,
    /// Of these, what an ordinary user of the guest can use.
    pub available: u64,
    /// Inodes of the file system.
    pub inodes: u32,
    /// Inodes that are free.
    pub free_inodes: u32,
    /// Bytes of blocks with file contents.
    pub content: u64,
    /// Bytes of the journal.
    pub journal: u64,
    /// Bytes of literals in the volume: metadata and contents from memory.
    pub literal: u64,
}

/// Why a tree could not be formatted.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ext4Error {
    /// The tree does not fit into the size asked for.
    #[error("the root file system needs {needed} bytes, but has {size}")]
    NoSpace {
        /// The size asked for, in bytes.
        size: u64,
        /// The smallest size that is enough, in bytes.
        needed: u64,
    },
    /// More than 2^32 - 1 blocks.
    #[error("the root file system would be larger than 16 TiB")]
    TooLarge,
    /// More inodes than an ext4 file system has.
    #[error("more files than an ext4 file system can hold: {0}")]
    TooManyInodes(u64),
    /// A size that is no multiple of the block size.
    #[error("the file system's size of {0} bytes is not a multiple of 4096")]
    UnevenSize(u64),
    /// The label does not fit.
    #[error("the label {0:?} is longer than 16 bytes")]
    LongLabel(String),
    /// `/lost+found` has to be a directory.
    #[error("/lost+found is not a directory, but ext4 needs it to be one")]
    LostFound,
    /// A file of more than 2^32 - 1 blocks.
    #[error("file too large for ext4 ({size} bytes): /{path}")]
    LargeFile {
        /// Path in the tree.
        path: String,
        /// Length in bytes.
        size: u64,
    },
    /// Extents that overlap or lie outside of the file or its source.
    #[error("the content of /{path} does not fit its size or its source")]
    BadContent {
        /// Path in the tree.
        path: String,
    },
    /// Targets have 1 to 4095 bytes and no NUL.
    #[error("bad target of symbolic link ({len} bytes, with or without NUL): /{path}")]
    BadSymlink {
        /// Path in the tree.
        path: String,
        /// Length of the target in bytes.
        len: usize,
    },
    /// Numbers that Linux gives to no device.
    #[error("device number {major}:{minor} out of range: /{path}")]
    BadDevice {
        /// Path in the tree.
        path: String,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// ext4 counts 65,000 names of a file.
    #[error("{links} hard links are more than ext4's 65000: /{path}")]
    ManyLinks {
        /// Path in the tree, one of many.
        path: String,
        /// Number of names.
        links: u32,
    },
    /// More entries than the index of a directory holds.
    #[error("too many entries in a directory ({entries}): /{path}")]
    LargeDirectory {
        /// Path in the tree.
        path: String,
        /// Number of entries.
        entries: usize,
    },
    /// Attributes that do not fit into the inode and a block.
    #[error("extended attributes too large for ext4 ({needed} of 4060 bytes): /{path}")]
    LargeXattrs {
        /// Path in the tree.
        path: String,
        /// Bytes that would be needed in the block.
        needed: usize,
    },
    /// A `system.posix_acl_*` attribute that is no ACL. Leaving it out could
    /// grant access that it denies.
    #[error("bad access control list {name} ({source}): /{path}")]
    BadAcl {
        /// Path in the tree.
        path: String,
        /// Name of the attribute.
        name: String,
        /// What is wrong with it.
        source: AclError,
    },
}

/// Formats the tree as ext4.
///
/// The same tree and options give the same extents.
///
/// # Errors
/// The tree does not fit into the size, or has something that ext4 cannot
/// hold; the message names its path.
pub fn format(tree: &Tree, options: &Options) -> Result<Formatted, Ext4Error> {
    if options.label.len() > 16 {
        return Err(Ext4Error::LongLabel(options.label.clone()));
    }
    if let Size::Exact(size) = options.size
        && size % BLOCK != 0
    {
        return Err(Ext4Error::UnevenSize(size));
    }
    let mut collected = collect::collect(tree, options)?;
    let demand = InodeDemand {
        used: collected.numbering.last(),
        spare: options.spare_inodes,
        bytes_per_inode: options.bytes_per_inode,
        blocks: collected.layout.used,
    };
    if demand.least() > geometry::MAX_INODES {
        return Err(Ext4Error::TooManyInodes(demand.least()));
    }
    let minimum = collected
        .layout
        .smallest(Goal::Bare, &demand)
        .map_err(|_| Ext4Error::TooLarge)?;
    let (size, fit) = fit(&mut collected, options.size, minimum, &demand)?;
    Ok(emit::emit(tree, options, collected, fit, size, minimum))
}

/// Finds size, journal and layout.
fn fit(
    collected: &mut Collected<'_>,
    size: Size,
    minimum: u64,
    demand: &InodeDemand,
) -> Result<(u64, Fit), Ext4Error> {
    let layout = &mut collected.layout;
    let (size, free) = match size {
        Size::Exact(size) => (size, None),
        Size::MinimalPlusFree(free) => {
            let free = free.div_ceil(BLOCK);
            let blocks = layout
                .smallest(Goal::Free(free), demand)
                .map_err(|_| Ext4Error::TooLarge)?;
            (blocks * BLOCK, Some(free))
        }
    };
    let blocks = size / BLOCK;
    if blocks > u64::from(u32::MAX) {
        return Err(Ext4Error::TooLarge);
    }
    for journal in journal::sizes(blocks) {
        // Without gaps only where there is no room for them.
        for keep_gaps in [true, false] {
            if layout.place(keep_gaps)
                && let Some(fit) = layout.fit(blocks, journal, demand)
                && free.is_none_or(|free| layout.available(&fit) >= free)
            {
                return Ok((size, fit));
            }
        }
    }
    Err(Ext4Error::NoSpace {
        size,
        needed: minimum * BLOCK,
    })
}
