//! Reading a layer's tar archive as a stream.
//!
//! Bytes go into a [`Reader`] in pieces of any size; [`Member`]s and their
//! content come out at a [`Sink`]. Understood are v7, ustar (POSIX.1-1988),
//! pax (POSIX.1-2001) and GNU archives with long names and sparse files, all
//! in bounded memory. Where implementations differ, this one does as Go's
//! `archive/tar` under container runtimes, so that an image has the same files
//! in a container and on a disk.

mod header;
mod path;
mod pax;
mod reader;
mod sparse;

#[cfg(test)]
mod tests;

pub(crate) use path::is_normal;
pub use path::normalise;
pub use reader::Reader;

use crate::layer::Timestamp;

/// Size of a tar's blocks in bytes.
pub(crate) const BLOCK: usize = 512;

/// Longest target of a symbolic link in bytes: ext4 gives it one block and a
/// NUL, as PATH_MAX does.
pub const MAX_SYMLINK: usize = 4095;

/// How much of a layer is borne. All are inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries in a layer.
    pub max_entries: u64,
    /// Bytes of a layer's uncompressed tar, and of its pack.
    pub max_layer_bytes: u64,
    /// Bytes of a layer's index, which is held in memory.
    pub max_index_bytes: u64,
    /// Bytes of an entry's extended attributes, names included.
    pub max_xattr_bytes: usize,
    /// Bytes of one pax extended header or GNU long name.
    pub max_header_bytes: usize,
    /// Data segments of one sparse file.
    pub max_sparse_segments: usize,
    /// Base-2 logarithm of the largest zstd window; as much memory is taken
    /// where a layer's frame asks for it. 10 to 31; what decoders bear by
    /// default is 27 (RFC 8878, 3.1.1.1.2, recommends at least 23).
    pub max_zstd_window_log: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: 5_000_000,
            max_layer_bytes: 64 << 30,
            max_index_bytes: 1 << 30,
            max_xattr_bytes: 256 << 10,
            max_header_bytes: 1 << 20,
            max_sparse_segments: 1_000_000,
            max_zstd_window_log: 27,
        }
    }
}

/// What a [`Member`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemberKind {
    /// A regular file with data runs.
    #[default]
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link; the target is as written.
    Symlink,
    /// A hard link; the target is a normalised path.
    Hardlink,
    /// A character device.
    CharDevice {
        /// Major number, 0 to 4095.
        major: u32,
        /// Minor number, 0 to 1,048,575.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number, 0 to 4095.
        major: u32,
        /// Minor number, 0 to 1,048,575.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// A run of data in a file; the rest of the file is holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Byte offset in the file.
    pub offset: u64,
    /// Length in bytes, greater than 0.
    pub len: u64,
}

/// One member of an archive, all its headers taken together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// Normalised path; empty for the root directory.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
    /// Target of a link, else empty.
    pub target: Vec<u8>,
    /// Permission bits with setuid, setgid and sticky: 0 to 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Length of a regular file in bytes, else 0.
    pub size: u64,
    /// Where a regular file has data: sorted, not overlapping, inside `size`.
    pub runs: Vec<Run>,
    /// Extended attributes: sorted by name, no name twice.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Takes what a [`Reader`] reads.
pub trait Sink {
    /// Why it would not go on.
    type Error: From<TarError>;

    /// The next member.
    ///
    /// # Errors
    /// It will not go on.
    fn member(&mut self, member: &Member) -> Result<(), Self::Error>;

    /// The next bytes of the last member's runs, which follow each other with
    /// no gap; in all as many as its runs are long.
    ///
    /// # Errors
    /// It will not go on.
    fn data(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;

    /// The next bytes of the archive that are no data: headers, padding and
    /// what follows the end. Those of a member's last header come after
    /// [`Sink::member`].
    ///
    /// # Errors
    /// It will not go on.
    fn structure(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        let _ = bytes;
        Ok(())
    }
}

/// An archive that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TarError {
    /// Bytes that are no header.
    #[error("bad tar header at byte {offset}: {reason}")]
    Header {
        /// Where the header starts in the tar.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// A header that makes no sense.
    #[error("entry {path:?}: {reason}")]
    Entry {
        /// The entry's path as written, shortened, made printable.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The archive ends too early.
    #[error("the tar is truncated at byte {offset}, {place}")]
    Truncated {
        /// Where it ends.
        offset: u64,
        /// In what.
        place: &'static str,
    },
    /// More than the [`Limits`] bear.
    #[error("it has more than {limit} {what}; raise the limit with {option}")]
    Limit {
        /// The limit.
        limit: u64,
        /// Of what.
        what: &'static str,
        /// The option that raises it.
        option: &'static str,
    },
}

impl TarError {
    pub(crate) fn entry(path: &[u8], reason: impl Into<String>) -> Self {
        let shown = path.get(..200).unwrap_or(path);
        Self::Entry {
            path: String::from_utf8_lossy(shown).into_owned(),
            reason: reason.into(),
        }
    }
}
