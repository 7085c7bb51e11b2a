//! Where a disk's bytes live.
//!
//! A [`Backend`] does no bulk I/O of its own: asked for a range, it says which
//! run of which file holds it, or that it is zeros or a few literal bytes, and
//! the device moves the bytes between that file and the guest's memory. So one
//! asynchronous engine serves every format: a [`PlanDisk`] over packs and host
//! files, an [`Overlay`] over any other disk, a [`RawDisk`] and a [`Qcow2Disk`].

mod host_file;
mod identity;
mod overlay;
mod plan;
mod qcow2;
mod raw;

#[cfg(test)]
pub(crate) mod testing;

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bootwright_disk::SourceId;
use bytes::Bytes;

pub use host_file::HostFile;
pub use identity::BaseId;
pub use overlay::Overlay;
pub use plan::PlanDisk;
pub use qcow2::Qcow2Disk;
pub use raw::RawDisk;

/// The unit of virtio-blk's addresses, in bytes.
pub const SECTOR: u64 = 512;

/// A disk, for a device to serve.
///
/// Ranges are in bytes, not empty, in whole sectors and inside the disk; the
/// device sees to it, and a back end answers anything else with an error. All
/// methods may be called from several threads at once.
pub trait Backend: Debug + Send + Sync {
    /// Size of the disk in bytes, a multiple of [`SECTOR`].
    fn size(&self) -> u64;

    /// What the disk can do.
    fn limits(&self) -> Limits;

    /// Where the bytes from `range.start` on are: a run of at least one byte
    /// that ends in `range`. It stays right until it has been read, whatever
    /// is written meanwhile: a concurrent read sees old or new bytes.
    ///
    /// # Errors
    /// What tells where they are cannot be read or is damaged.
    fn read(&self, range: Range<u64>) -> io::Result<Run>;

    /// Makes good what was read out of `run`, see [`FileRun::source`].
    ///
    /// # Errors
    /// The file is not what it was; the bytes must not be used.
    fn check(&self, run: &FileRun) -> io::Result<()> {
        let _ = run;
        Ok(())
    }

    /// Where to write the bytes from `range.start` on: a run as for
    /// [`read`](Self::read). They are part of the disk only after
    /// [`written`](Self::written), which or [`abandoned`](Self::abandoned)
    /// must be called for each run, as soon as it is done.
    ///
    /// # Errors
    /// The disk is read-only, or there is no place for them.
    /// [`WouldBlock`](io::ErrorKind::WouldBlock): another write has to be done
    /// first; try again later.
    fn prepare_write(&self, range: Range<u64>) -> io::Result<FileRun>;

    /// A run has been written where [`prepare_write`](Self::prepare_write)
    /// said; `range` is where it is on the disk.
    ///
    /// # Errors
    /// The disk cannot take note of it.
    fn written(&self, range: Range<u64>) -> io::Result<()> {
        let _ = range;
        Ok(())
    }

    /// The same for a run whose writing failed: what `range` holds now is the
    /// old bytes or the new ones.
    fn abandoned(&self, range: Range<u64>) {
        let _ = range;
    }

    /// Makes `range` read as zeros; `unmap` allows to give its space back.
    ///
    /// # Errors
    /// The disk is read-only, or the zeros cannot be written.
    fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> io::Result<()>;

    /// Gives back the space of `range`, or of whatever part of it is easy.
    /// What is given back reads as zeros.
    ///
    /// # Errors
    /// The disk is read-only, or the file cannot be changed.
    fn discard(&self, range: Range<u64>) -> io::Result<()>;

    /// Returns when all writes that [`written`](Self::written) has been
    /// called for are on stable storage, with all that is needed to find them.
    ///
    /// # Errors
    /// They may not be; after that no later flush succeeds, because nobody
    /// knows what the kernel dropped.
    fn flush(&self) -> io::Result<()>;
}

/// What a disk can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Nothing can be written.
    pub read_only: bool,
    /// The unit in bytes in which writing is cheapest, a power of two.
    pub physical_block: u32,
    /// The unit in bytes in which space is given back, a power of two; `None`
    /// if there is nothing to gain by it.
    pub discard: Option<u32>,
}

impl Limits {
    /// The limits of a disk that cannot be written.
    pub(crate) const READ_ONLY: Self = Self {
        read_only: true,
        physical_block: 4096,
        discard: None,
    };
}

/// The next bytes of a disk.
#[derive(Debug)]
pub enum Run {
    /// So many zeros.
    Zeros(u64),
    /// These bytes, at least one.
    Literal(Bytes),
    /// A run of a file.
    File(FileRun),
}

impl Run {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Zeros(len) => *len,
            Self::Literal(bytes) => bytes.len() as u64,
            Self::File(run) => run.len,
        }
    }

    /// Whether there is nothing in it, which no back end returns.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A run of a file that holds a run of a disk.
#[derive(Debug)]
pub struct FileRun {
    /// The file.
    pub file: Arc<HostFile>,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// Parts that are zeros whatever the file has there, relative to the
    /// run: where the file runs through gaps too small to leave out.
    pub gaps: Vec<Range<u64>>,
    /// Whether the file may end inside the run; what is missing is zeros.
    pub sparse_end: bool,
    /// The source of the plan that the file is; what was read is good after
    /// [`Backend::check`].
    pub source: Option<SourceId>,
}

impl FileRun {
    /// A run without gaps.
    pub(crate) fn new(file: &Arc<HostFile>, offset: u64, len: u64) -> Self {
        Self {
            file: Arc::clone(file),
            offset,
            len,
            gaps: Vec::new(),
            sparse_end: false,
            source: None,
        }
    }

    /// Allows the file to end inside the run.
    pub(crate) fn sparse(mut self) -> Self {
        self.sparse_end = true;
        self
    }
}

/// Why a back end was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened, read or written.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        error: io::Error,
    },
    /// Another process has the disk open.
    #[error(
        "{}: in use by another process{}; a disk that is written can have one user only",
        .path.display(),
        .holder.map_or(String::new(), |pid| format!(" ({pid})"))
    )]
    Locked {
        /// The file.
        path: PathBuf,
        /// The process, where the kernel tells.
        holder: Option<u32>,
    },
    /// The file is a disk of a kind that is not served, or not safe to serve.
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

/// Checks a range against the trait's contract.
pub(crate) fn checked(range: &Range<u64>, size: u64) -> io::Result<()> {
    if range.start >= range.end || range.end > size {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("bytes {range:?} of a disk of {size}"),
        ));
    }
    Ok(())
}

/// The error of writing a disk that cannot be written.
pub(crate) fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the disk is read-only")
}

/// Fills `buf` from byte `offset` of `disk`, synchronously.
///
/// # Errors
/// As for [`Backend::read`], or a file cannot be read.
pub fn read_at(disk: &dyn Backend, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let end = end_of(offset, buf.len())?;
    let (mut at, mut rest) = (offset, buf);
    while !rest.is_empty() {
        let run = disk.read(at..end)?;
        let len = run_len(&run, rest.len())?;
        let (part, tail) = std::mem::take(&mut rest).split_at_mut(len);
        match run {
            Run::Zeros(_) => part.fill(0),
            Run::Literal(bytes) => part.copy_from_slice(&bytes),
            Run::File(run) => {
                if run.sparse_end {
                    run.file.read_sparse_at(run.offset, part)?;
                } else {
                    run.file.read_exact_at(run.offset, part)?;
                }
                for gap in &run.gaps {
                    if let Some(gap) = part.get_mut(gap.start as usize..gap.end as usize) {
                        gap.fill(0);
                    }
                }
                disk.check(&run)?;
            }
        }
        at += len as u64;
        rest = tail;
    }
    Ok(())
}

/// Writes `buf` at byte `offset` of `disk`, synchronously.
///
/// # Errors
/// As for [`Backend::prepare_write`], or a file cannot be written.
pub fn write_at(disk: &dyn Backend, offset: u64, buf: &[u8]) -> io::Result<()> {
    let end = end_of(offset, buf.len())?;
    let (mut at, mut rest) = (offset, buf);
    while !rest.is_empty() {
        let run = disk.prepare_write(at..end)?;
        let len = usize::try_from(run.len).unwrap_or(usize::MAX);
        let (part, tail) = rest.split_at_checked(len).ok_or_else(overlong)?;
        let range = at..at + run.len;
        if let Err(error) = run.file.write_all_at(run.offset, part) {
            disk.abandoned(range);
            return Err(error);
        }
        at = range.end;
        disk.written(range)?;
        rest = tail;
    }
    Ok(())
}

fn end_of(offset: u64, len: usize) -> io::Result<u64> {
    offset
        .checked_add(len as u64)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// The run's length, which must be from 1 to `max`.
fn run_len(run: &Run, max: usize) -> io::Result<usize> {
    usize::try_from(run.len())
        .ok()
        .filter(|len| (1..=max).contains(len))
        .ok_or_else(overlong)
}

pub(crate) fn overlong() -> io::Error {
    io::Error::other("the back end returned a run of the wrong length")
}
