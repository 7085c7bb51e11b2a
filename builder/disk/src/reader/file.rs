//! A disk in a file that may come from a stranger.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, SeekFrom as Find, open, seek};
use rustix::io::Errno;

use super::blocks::Blocks;
use super::qcow2::Qcow2;
use super::{FileRun, ReadAt, Run, checked_range, vhd, vhdx};

/// The largest disk that is opened, in bytes: 64 TiB. Headers of a few bytes
/// can claim any size, and what reads the disk has work to do for each byte.
pub const MAX_DISK_SIZE: u64 = 64 << 40;

/// Why a file was not opened as a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file cannot be read.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        error: io::Error,
    },
    /// The file is a disk of a kind that is not read, or not safe to read.
    #[error("{}: {what}", .path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is or asks for, and what can be done.
        what: String,
    },
    /// The file breaks the rules of its format.
    #[error("{}: damaged {format}: {reason}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The format's name.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// How the bytes of a disk lie in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    /// As they are.
    Raw,
    /// qcow2, version 2 or 3.
    Qcow2,
    /// VHD, fixed or dynamic.
    Vhd,
    /// VHDX, version 1.
    Vhdx,
}

impl DiskFormat {
    /// The format's usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
        }
    }
}

/// A raw, qcow2, VHD or VHDX disk, to be read.
///
/// Nothing but the file itself is ever opened: a disk that names another
/// file is refused, whatever it is. Memory is bounded whatever its tables say.
#[derive(Debug)]
pub struct DiskFile {
    image: Image,
    file_len: u64,
}

#[derive(Debug)]
enum Image {
    Raw(RawFile),
    Qcow2(Box<Qcow2>),
    /// Without the footer.
    FixedVhd(RawFile),
    Blocks(Box<Blocks>),
}

/// Opens the disk in the file or block device `path`, of the format that its
/// first bytes show; raw if they show none.
///
/// # Errors
/// See [`DiskError`].
pub fn open_disk(path: &Path) -> Result<DiskFile, DiskError> {
    let raw = RawFile::open(path)?;
    let format = raw.probe()?;
    DiskFile::new(raw, format)
}

/// Opens a raw disk in a file that is open; `name` is what errors call it.
///
/// # Errors
/// See [`DiskError`].
pub fn open_raw(file: File, name: &Path) -> Result<DiskFile, DiskError> {
    DiskFile::new(RawFile::new(file, name)?, DiskFormat::Raw)
}

/// Opens a disk that is `part` of the file `path`, a range in bytes. Its format
/// is that which its first bytes show, as for [`open_disk`].
///
/// # Errors
/// See [`DiskError`]; the file may also end before the part does.
pub fn open_disk_part(path: &Path, part: Range<u64>) -> Result<DiskFile, DiskError> {
    let mut raw = RawFile::open(path)?;
    if part.start > part.end || part.end > raw.len {
        return Err(raw.unsupported("it is shorter than the disk in it"));
    }
    (raw.start, raw.len) = (part.start, part.end - part.start);
    let format = raw.probe()?;
    DiskFile::new(raw, format)
}

/// Opens the disk in `path` as one of `format`, whatever it looks like.
///
/// # Errors
/// See [`DiskError`].
pub fn open_disk_as(path: &Path, format: DiskFormat) -> Result<DiskFile, DiskError> {
    DiskFile::new(RawFile::open(path)?, format)
}

impl DiskFile {
    fn new(raw: RawFile, format: DiskFormat) -> Result<Self, DiskError> {
        let file_len = raw.len;
        let image = match format {
            DiskFormat::Raw => Image::Raw(raw),
            DiskFormat::Qcow2 => Image::Qcow2(Box::new(Qcow2::open(raw)?)),
            DiskFormat::Vhd => match vhd::fixed_size(&raw)? {
                Some(len) => Image::FixedVhd(RawFile { len, ..raw }),
                None => Image::Blocks(Box::new(vhd::open_dynamic(raw)?)),
            },
            DiskFormat::Vhdx => Image::Blocks(Box::new(vhdx::open(raw)?)),
        };
        let disk = Self { image, file_len };
        if disk.size() > MAX_DISK_SIZE {
            return Err(DiskError::Unsupported {
                path: disk.raw().path.clone(),
                what: format!(
                    "a disk of {} bytes; the limit is {MAX_DISK_SIZE}",
                    disk.size()
                ),
            });
        }
        Ok(disk)
    }

    /// The format of the file.
    pub fn format(&self) -> DiskFormat {
        match &self.image {
            Image::Raw(_) => DiskFormat::Raw,
            Image::Qcow2(_) => DiskFormat::Qcow2,
            Image::FixedVhd(_) => DiskFormat::Vhd,
            Image::Blocks(blocks) => blocks.format(),
        }
    }

    /// The file's path, as it was opened.
    pub fn path(&self) -> &Path {
        &self.raw().path
    }

    /// Length of the file in bytes.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    fn raw(&self) -> &RawFile {
        match &self.image {
            Image::Raw(raw) | Image::FixedVhd(raw) => raw,
            Image::Qcow2(qcow2) => qcow2.file(),
            Image::Blocks(blocks) => blocks.file(),
        }
    }

    fn disk(&self) -> &dyn ReadAt {
        match &self.image {
            Image::Raw(raw) | Image::FixedVhd(raw) => raw,
            Image::Qcow2(qcow2) => &**qcow2,
            Image::Blocks(blocks) => &**blocks,
        }
    }
}

impl ReadAt for DiskFile {
    fn size(&self) -> u64 {
        self.disk().size()
    }
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk().read_exact_at(offset, buf)
    }
    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.disk().next_data(from)
    }
    fn next_run(&self, range: Range<u64>) -> io::Result<Run> {
        self.disk().next_run(range)
    }
}

/// A file's bytes as they are, or a part of them.
#[derive(Debug)]
pub(super) struct RawFile {
    file: Arc<File>,
    path: PathBuf,
    /// Where in the file it begins.
    start: u64,
    len: u64,
}

impl RawFile {
    fn open(path: &Path) -> Result<Self, DiskError> {
        let io = |error| DiskError::Io {
            path: path.into(),
            error,
        };
        // NONBLOCK, so that a fifo does not hang us before it is refused.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = open(path, flags, Mode::empty()).map_err(|e| io(e.into()))?;
        Self::new(file.into(), path)
    }

    fn new(mut file: File, path: &Path) -> Result<Self, DiskError> {
        let io = |error| DiskError::Io {
            path: path.into(),
            error,
        };
        let kind = file.metadata().map_err(io)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskError::Unsupported {
                path: path.into(),
                what: "a disk is a file or a block device, and this is neither".into(),
            });
        }
        let len = file.seek(SeekFrom::End(0)).map_err(io)?;
        Ok(Self {
            file: Arc::new(file),
            path: path.into(),
            start: 0,
            len,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// `len` bytes at `offset` as a run.
    pub(super) fn run(&self, offset: u64, len: u64) -> Run {
        Run::File(FileRun {
            file: Arc::clone(&self.file),
            offset: self.start + offset,
            len,
            source: None,
        })
    }

    /// The error of a file that breaks the rules of its format.
    pub(super) fn damaged(&self, format: DiskFormat, reason: String) -> DiskError {
        DiskError::Damaged {
            path: self.path.clone(),
            format: format.name(),
            reason,
        }
    }

    /// The error of a file that is not safe to read, or not read at all.
    pub(super) fn unsupported(&self, what: &str) -> DiskError {
        DiskError::Unsupported {
            path: self.path.clone(),
            what: what.into(),
        }
    }

    /// The `N` bytes at `offset` as a field of `format`.
    pub(super) fn field<const N: usize>(
        &self,
        offset: u64,
        format: DiskFormat,
    ) -> Result<[u8; N], DiskError> {
        let mut bytes = [0; N];
        match self.read_exact_at(offset, &mut bytes) {
            Ok(()) => Ok(bytes),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged(format, format!("it ends before byte {offset}")))
            }
            Err(error) => Err(DiskError::Io {
                path: self.path.clone(),
                error,
            }),
        }
    }

    /// The format that the first bytes show.
    fn probe(&self) -> Result<DiskFormat, DiskError> {
        /// Formats that nobody means when they say raw disk.
        const FOREIGN: [(usize, &[u8], &str); 8] = [
            (0, b"KDMV", "a VMDK"),
            (0, b"# Disk DescriptorFile", "the descriptor of a VMDK"),
            (0, b"QED\0", "a QED disk"),
            (64, b"\x7f\x10\xda\xbe", "a VDI"),
            (0, b"\x1f\x8b\x08", "compressed with gzip"),
            (0, b"\x28\xb5\x2f\xfd", "compressed with zstd"),
            (0, b"\xfd7zXZ\0", "compressed with xz"),
            (0, b"BZh", "compressed with bzip2"),
        ];
        let mut head = [0; 512];
        let n = self.len.min(head.len() as u64) as usize;
        let (head, _) = head.split_at_mut(n);
        self.read_exact_at(0, head).map_err(|error| DiskError::Io {
            path: self.path.clone(),
            error,
        })?;
        if head.starts_with(&super::qcow2::MAGIC) {
            return Ok(DiskFormat::Qcow2);
        }
        if head.starts_with(&crate::vhdx::SIGNATURE) {
            return Ok(DiskFormat::Vhdx);
        }
        if head.starts_with(&vhd::COOKIE) || vhd::fixed_size(self)?.is_some() {
            return Ok(DiskFormat::Vhd);
        }
        for (at, magic, name) in FOREIGN {
            if head.get(at..).is_some_and(|h| h.starts_with(magic)) {
                return Err(DiskError::Unsupported {
                    path: self.path.clone(),
                    what: format!("it is {name}; convert it to raw or qcow2 first"),
                });
            }
        }
        Ok(DiskFormat::Raw)
    }
}

impl ReadAt for RawFile {
    fn size(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        checked_range(offset, buf.len(), self.len)?;
        self.file
            .read_exact_at(buf, self.start + offset)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", self.path.display())))
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        if from >= self.len {
            return Ok(None);
        }
        let file_end = self.start + self.len;
        let start = match seek(&self.file, Find::Data(self.start + from)) {
            Ok(start) if start < file_end => (start - self.start).max(from),
            Ok(_) | Err(Errno::NXIO) => return Ok(None),
            // A device or a file system that does not tell.
            Err(_) => return Ok(Some(from..self.len)),
        };
        let end = seek(&self.file, Find::Hole(self.start + start));
        let end = end.map_or(self.len, |end| end.min(file_end) - self.start);
        Ok(Some(start..end.max(start + 1)))
    }

    fn next_run(&self, range: Range<u64>) -> io::Result<Run> {
        Ok(self.run(range.start, range.end - range.start))
    }
}
