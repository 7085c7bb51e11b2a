//! A file system on a disk, read by path: FAT or ext2/3/4.
//!
//! Symbolic links are followed inside the file system. Whatever the file
//! system claims, no more is read than the caller allows, and no more than
//! [`MAX_READ`] altogether.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fmt, io};

use bootwright_disk::ReadAt;
use bootwright_disk::reader::DiskCursor;
use ext4_view::{Ext4, Ext4Error, Ext4Read};

use super::partitions::Partition;
use crate::{ext4, fat};

/// Most bytes that are read from one ext4 file system.
const MAX_READ: u64 = 8 << 30;

/// Most block groups of an ext4 file system: enough for 16 TiB.
const MAX_GROUPS: u64 = 131_072;

/// Most names of a directory that are looked at.
const MAX_NAMES: usize = 10_000;

type Disk = Arc<dyn ReadAt>;

/// A mounted file system, so to speak.
pub(super) struct Volume {
    /// Where it is.
    pub(super) partition: Partition,
    /// UUID as `root=UUID=` takes it, where there is one.
    pub(super) uuid: Option<String>,
    kind: Kind,
}

enum Kind {
    Fat {
        reader: Box<fat::Reader<DiskCursor<Disk>>>,
        files: Vec<fat::read::Entry>,
    },
    Ext4(Ext4),
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume")
            .field("partition", &self.partition)
            .finish_non_exhaustive()
    }
}

/// Why a file of a volume cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum VolumeError {
    /// From the FAT reader.
    #[error(transparent)]
    Fat(#[from] fat::ReadError),
    /// From the ext4 reader.
    #[error("ext4 file system: {0}")]
    Ext4(#[from] Ext4Error),
    /// The superblock promises more than there is.
    #[error("ext4 file system: {0}")]
    BadExt4(String),
    /// A file larger than it should be.
    #[error("{path} has {len} bytes, more than {limit}")]
    TooLarge {
        /// The file.
        path: String,
        /// Its length.
        len: u64,
        /// What is read at most.
        limit: u64,
    },
    /// A file that is not there.
    #[error("{0} is not there")]
    Missing(String),
    /// Something that is no file system this program reads.
    #[error("{0}")]
    Unknown(String),
}

impl Volume {
    /// Opens the file system in `partition`.
    pub(super) fn open(disk: &Disk, partition: &Partition) -> Result<Self, VolumeError> {
        let mut start = [0; 2048];
        let readable = disk.read_exact_at(partition.start, &mut start).is_ok();
        if !readable {
            return Err(VolumeError::Unknown("too small for a file system".into()));
        }
        match ext4::read_superblock(&start) {
            Ok(summary) => return Self::ext4(disk, partition, &start, &summary),
            Err(ext4::SuperblockError::NoMagic) => {}
            Err(error) => return Err(VolumeError::BadExt4(error.to_string())),
        }
        let cursor = DiskCursor::part(Arc::clone(disk), partition.start, partition.len);
        match fat::Reader::open(cursor) {
            Ok(mut reader) => Ok(Self {
                partition: partition.clone(),
                uuid: reader
                    .volume_id()
                    .map(|id| format!("{:04X}-{:04X}", id >> 16, id & 0xffff)),
                kind: Kind::Fat {
                    files: reader.list()?,
                    reader: Box::new(reader),
                },
            }),
            Err(fat::ReadError::NotFat(_)) => {
                Err(VolumeError::Unknown(foreign(&**disk, partition)))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn ext4(
        disk: &Disk,
        partition: &Partition,
        start: &[u8; 2048],
        summary: &ext4::Summary,
    ) -> Result<Self, VolumeError> {
        // The reader allocates by these before it reads anything.
        let bad = |what: &str| Err(VolumeError::BadExt4(what.to_owned()));
        let size = summary.blocks.checked_mul(summary.block_size);
        if size.is_none_or(|size| size > partition.len) {
            return bad("it is larger than its partition");
        }
        // s_blocks_per_group, Linux' Documentation/filesystems/ext4/super.rst.
        let at = 1024 + 0x20;
        let per_group =
            u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]);
        let groups = summary.blocks.checked_div(per_group.into());
        if groups.is_none_or(|groups| groups > MAX_GROUPS) {
            return bad("it has too many block groups");
        }
        let reader = Part {
            disk: Arc::clone(disk),
            start: partition.start,
            len: partition.len,
            left: AtomicU64::new(MAX_READ),
        };
        Ok(Self {
            partition: partition.clone(),
            uuid: Some(uuid::Uuid::from_bytes(summary.uuid).to_string()),
            kind: Kind::Ext4(Ext4::load(Box::new(reader))?),
        })
    }

    /// What kind of file system it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Fat { .. } => "FAT file system",
            Kind::Ext4(_) => "ext4 file system",
        }
    }

    /// Whether paths of this volume differ by case.
    pub(super) fn is_fat(&self) -> bool {
        matches!(self.kind, Kind::Fat { .. })
    }

    /// Length of the regular file at `path` (with or without leading slash).
    pub(super) fn file_len(&self, path: &str) -> Option<u64> {
        match &self.kind {
            Kind::Fat { files, .. } => {
                let path = relative(path);
                let same = |f: &&fat::read::Entry| f.path.eq_ignore_ascii_case(path);
                let file = files.iter().find(same)?;
                (!file.is_directory).then_some(file.size.into())
            }
            Kind::Ext4(ext4) => {
                let metadata = ext4.metadata(&absolute(path)).ok()?;
                metadata
                    .file_type()
                    .is_regular_file()
                    .then(|| metadata.len())
            }
        }
    }

    /// The file at `path`, of at most `limit` bytes.
    pub(super) fn read(&mut self, path: &str, limit: u64) -> Result<Vec<u8>, VolumeError> {
        let len = self.checked_len(path, limit)?;
        self.read_part(path, 0, len)
    }

    /// At most `len` bytes of the file at `path` from `offset` on.
    pub(super) fn read_part(
        &mut self,
        path: &str,
        offset: u64,
        len: u64,
    ) -> Result<Vec<u8>, VolumeError> {
        let size = self.checked_len(path, u64::MAX)?;
        let end = offset.saturating_add(len).min(size);
        let range = offset.min(end)..end;
        match &mut self.kind {
            Kind::Fat { reader, .. } => Ok(reader.read_range(relative(path), range)?),
            Kind::Ext4(ext4) => {
                let mut file = ext4.open(&absolute(path))?;
                file.seek_to(range.start)?;
                // Grows as bytes arrive: a sparse file costs memory only. They
                // come a block at a time, however much room there is.
                let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
                let mut left = range.end - range.start;
                while left > 0 {
                    let step = left.min(buffer.len() as u64) as usize;
                    let n = file.read_bytes(buffer.get_mut(..step).unwrap_or_default())?;
                    bytes.extend(buffer.get(..n).unwrap_or_default());
                    if n == 0 {
                        break;
                    }
                    left -= n as u64;
                }
                Ok(bytes)
            }
        }
    }

    fn checked_len(&self, path: &str, limit: u64) -> Result<u64, VolumeError> {
        let len = self
            .file_len(path)
            .ok_or_else(|| VolumeError::Missing(absolute(path)))?;
        if len > limit {
            let path = absolute(path);
            return Err(VolumeError::TooLarge { path, len, limit });
        }
        Ok(len)
    }

    /// Names in the directory at `path` in byte order; none if it is not
    /// there. Names that are no UTF-8 are left out.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = match &self.kind {
            Kind::Fat { files, .. } => {
                let directory = relative(path);
                let name = |file: &fat::read::Entry| {
                    let (parent, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
                    parent
                        .eq_ignore_ascii_case(directory)
                        .then(|| name.to_owned())
                };
                files.iter().filter_map(name).take(MAX_NAMES).collect()
            }
            Kind::Ext4(ext4) => {
                let Ok(entries) = ext4.read_dir(&absolute(path)) else {
                    return Vec::new();
                };
                entries
                    .map_while(Result::ok)
                    .take(MAX_NAMES)
                    .filter_map(|e| e.file_name().as_str().ok().map(str::to_owned))
                    .filter(|name| name != "." && name != "..")
                    .collect()
            }
        };
        names.sort();
        names
    }
}

/// A range of a disk as the ext4 reader wants it.
struct Part {
    disk: Disk,
    start: u64,
    len: u64,
    left: AtomicU64,
}

impl Ext4Read for Part {
    fn read(
        &mut self,
        at: u64,
        buf: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        let len = buf.len() as u64;
        let inside = at.checked_add(len).is_some_and(|end| end <= self.len);
        if !inside {
            return Err(Box::new(io::Error::from(io::ErrorKind::UnexpectedEof)));
        }
        let spend = |left: u64| left.checked_sub(len);
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        if self.left.fetch_update(set, get, spend).is_err() {
            return Err("more was read than any boot needs; it is damaged".into());
        }
        Ok(self.disk.read_exact_at(self.start + at, buf)?)
    }
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

fn absolute(path: &str) -> String {
    format!("/{}", relative(path))
}

/// What a partition holds instead of a file system that can be read.
fn foreign(disk: &dyn ReadAt, partition: &Partition) -> String {
    const MAGIC: [(u64, &[u8], &str); 9] = [
        (0, b"XFSB", "XFS"),
        (0x1_0040, b"_BHRfS_M", "Btrfs"),
        (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
        (536, b"LVM2 001", "an LVM physical volume"),
        (0, b"hsqs", "SquashFS"),
        (1024, b"\xe2\xe1\xf5\xe0", "EROFS"),
        (4086, b"SWAPSPACE2", "swap space"),
        (1024, b"\x10\x20\xf5\xf2", "F2FS"),
        (0, b"-rom1fs-", "romfs"),
    ];
    for (at, magic, name) in MAGIC {
        let mut bytes = vec![0; magic.len()];
        let inside = at + (magic.len() as u64) <= partition.len;
        if inside && disk.read_exact_at(partition.start + at, &mut bytes).is_ok() && bytes == magic
        {
            return format!("{name}, which is not read here");
        }
    }
    "no file system that is known here".into()
}
