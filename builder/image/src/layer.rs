//! What a layer says: its entries in tar order.
//!
//! An [`Entry`] borrows from the layer's index. Regular files say where their
//! content lies in the layer's pack; the pack's blocks are 4 KiB and every
//! file starts on one.

/// Size of a pack's blocks in bytes; each file's content starts on one.
pub const PACK_BLOCK: u64 = 4096;

/// A point in time: seconds since 1970 and nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z; negative before.
    pub secs: i64,
    /// Nanoseconds after `secs`, 0 to 999,999,999.
    pub nanos: u32,
}

/// A run of a regular file's content in its layer's pack. Parts of a file
/// that no segment covers are holes and read as zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Byte offset in the file.
    pub file_offset: u64,
    /// Byte offset in the pack. `pack_offset % 4096 == file_offset % 4096`.
    pub pack_offset: u64,
    /// Length in bytes, greater than 0.
    pub len: u64,
}

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Path inside the root file system, with no leading or trailing slash,
    /// no empty, `.` or `..` component; empty for the root directory.
    /// Whiteouts keep their `.wh.` name.
    pub path: &'a [u8],
    /// What the entry is.
    pub kind: EntryKind<'a>,
    /// Permission bits with setuid, setgid and sticky: 0 to 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Extended attributes: full name (`security.capability`) and value,
    /// sorted by name, no name twice.
    pub xattrs: Vec<(&'a [u8], &'a [u8])>,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind<'a> {
    /// A directory.
    Directory,
    /// A regular file.
    Regular {
        /// Length in bytes.
        size: u64,
        /// Its content, sorted by file offset.
        segments: Vec<Segment>,
    },
    /// A symbolic link.
    Symlink {
        /// Its target as written in the layer; any bytes but NUL.
        target: &'a [u8],
    },
    /// Another name for an entry of this layer or one below.
    Hardlink {
        /// Path of the entry it links to, in the form of [`Entry::path`].
        target: &'a [u8],
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}
