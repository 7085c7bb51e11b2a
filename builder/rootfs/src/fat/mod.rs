//! FAT32: a list of files becomes an EFI system partition, and back.
//!
//! [`format()`] places files on a FAT32 volume and gives its extents; the
//! files' contents stay where they are. [`Reader`] lists and reads volumes
//! that somebody else wrote. The format is Microsoft's *FAT: General Overview
//! of On-Disk Format*, version 1.03 (fatgen103), which clause 13.3 of the
//! UEFI specification builds on.

mod directory;
mod format;
mod geometry;
mod name;
pub mod read;
mod time;

use bootwright_image::Timestamp;

use crate::tree::FileContent;

pub use format::format;
pub use read::{ReadError, Reader};
pub(crate) use time::civil_from_days;

/// Size in bytes of a volume for which none is asked: 512 MiB, as bootc makes
/// it. It is larger only if the files take more than a third of it, so that
/// a guest can keep a second kernel while it writes a third.
pub const DEFAULT_SIZE: u64 = 512 << 20;

/// The smallest volume in bytes: 33 MiB. FAT32 has at least 65,525 clusters,
/// or drivers take it for FAT16 (fatgen103, page 14).
pub const MIN_SIZE: u64 = 33 << 20;

/// A file to be put on a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FatFile {
    /// Path from the root of the volume, such as `EFI/BOOT/BOOTX64.EFI`;
    /// directories are made as needed. Case is kept but does not distinguish
    /// names.
    pub path: String,
    /// What is in it; at most 4 GiB - 1.
    pub content: FileContent,
}

/// How to format a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Size of the volume in bytes, a multiple of 4096 from [`MIN_SIZE`] to
    /// 2 TiB - 4096; see [`DEFAULT_SIZE`] if not given.
    pub size: Option<u64>,
    /// The volume's serial number; Linux shows it as `UUID=ABCD-EF01`.
    pub volume_id: u32,
    /// The volume's label: at most 11 of A-Z, 0-9, space and
    /// ``!#$%&'()-@^_`{}~``; lower case becomes upper case. No label if empty.
    pub label: String,
    /// The time of all files and directories. FAT knows 1980 to 2107; what
    /// lies outside becomes the nearest time inside. Stored as UTC.
    pub time: Timestamp,
}

/// Why files could not be put on a volume.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FatError {
    /// A path that FAT cannot hold.
    #[error("{path:?} cannot be a path on a FAT volume: {reason}")]
    BadPath {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two paths that are the same to FAT, or a file where a directory is
    /// needed.
    #[error(
        "{path:?} and {other:?} cannot both be on a FAT volume: names that differ in case only are \
         the same there, and a file is no directory"
    )]
    Duplicate {
        /// The path.
        path: String,
        /// The one that was there first.
        other: String,
    },
    /// A file of 4 GiB or more.
    #[error("{path:?} has {size} bytes, a file on a FAT volume at most 4294967295")]
    FileTooLarge {
        /// The file's path.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
    /// A directory with more entries than FAT allows.
    #[error("directory {path:?} has too many entries for a FAT volume")]
    DirectoryTooLarge {
        /// The directory's path.
        path: String,
    },
    /// The volume is full.
    #[error("no room for {path:?} on a FAT volume of {size} bytes: at least {needed} are needed")]
    NoSpace {
        /// The first file or directory that does not fit.
        path: String,
        /// The volume's size in bytes.
        size: u64,
        /// A size in bytes that would do.
        needed: u64,
    },
    /// A size that no FAT32 volume has.
    #[error(
        "a FAT32 volume cannot have {size} bytes, only a multiple of 4096 from {MIN_SIZE} to 2 TiB - 4096"
    )]
    BadSize {
        /// The size in bytes.
        size: u64,
    },
    /// A label that FAT cannot hold.
    #[error("{0:?} cannot be a volume label: at most 11 of A-Z, 0-9, space and !#$%&'()-@^_`{{}}~")]
    BadLabel(String),
}
