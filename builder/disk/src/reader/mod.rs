//! Reading a disk at any offset: a plan, or a file that somebody made.
//!
//! [`ReadAt`] is what sinks, servers and inspectors read. [`PlanReader`]
//! gives it over a [`Plan`](crate::Plan) and its source files; [`DiskFile`] over a
//! raw, qcow2, VHD or VHDX file, which may come from a stranger. [`DiskCursor`] turns either
//! into a [`Read`](io::Read) and [`Seek`](io::Seek).

mod blocks;
mod cursor;
mod file;
mod plan;
mod qcow2;
mod vhd;
mod vhdx;

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

pub use cursor::DiskCursor;
pub use file::{
    DiskError, DiskFile, DiskFormat, MAX_DISK_SIZE, open_disk, open_disk_as, open_disk_part,
    open_raw,
};
pub use plan::PlanReader;

use crate::plan::SourceId;

/// A disk that can be read at any offset, by several threads at once.
pub trait ReadAt: Debug + Send + Sync {
    /// Size of the disk in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` with the disk's bytes from `offset` on.
    ///
    /// # Errors
    /// The range reaches past the end of the disk
    /// ([`UnexpectedEof`](io::ErrorKind::UnexpectedEof)), or what lies below
    /// cannot be read; the message names the file.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// The first run of bytes at or after `from` that may be something other
    /// than zeros, `None` if only zeros follow. The run starts at or after
    /// `from`, is not empty and lies inside the disk.
    ///
    /// # Errors
    /// What tells zeros from data cannot be read.
    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        Ok((from < self.size()).then(|| from..self.size()))
    }

    /// Whether all of `range`, which must lie inside the disk, is known to be
    /// zeros without reading a file. What is not known is `false`.
    fn is_known_zero(&self, range: Range<u64>) -> bool {
        let _ = range;
        false
    }

    /// How the bytes from `range.start` on are best copied, and how many of
    /// them: at least one, at most the whole range, which must not be empty
    /// and must lie inside the disk.
    ///
    /// # Errors
    /// The file that the bytes are in cannot be opened.
    fn next_run(&self, range: Range<u64>) -> io::Result<Run> {
        Ok(Run::Read(range.end - range.start))
    }

    /// Checks that a run's file is still what it was, which makes what was
    /// copied out of it good.
    ///
    /// # Errors
    /// It is not; the message names the file.
    fn check_run(&self, run: &FileRun) -> io::Result<()> {
        let _ = run;
        Ok(())
    }
}

/// A way to copy the next bytes of a disk, see [`ReadAt::next_run`].
#[derive(Debug)]
pub enum Run {
    /// Read so many bytes from the disk.
    Read(u64),
    /// Copy them out of this file, in the kernel if it can.
    File(FileRun),
}

/// A run of a disk that lies in a file as it is.
#[derive(Debug)]
pub struct FileRun {
    /// The file; pass the run to [`ReadAt::check_run`] after copying.
    pub file: Arc<File>,
    /// Where in the file the run starts, in bytes.
    pub offset: u64,
    /// Length of the run in bytes, greater than 0.
    pub len: u64,
    /// The source of the plan that the file is, if it is one.
    pub source: Option<SourceId>,
}

/// How many bytes of a disk may be something other than zeros: what is left
/// to do for a progress bar.
///
/// # Errors
/// As for [`ReadAt::next_data`].
pub fn data_len(disk: &dyn ReadAt) -> io::Result<u64> {
    let (mut sum, mut at) = (0, 0);
    while let Some(run) = disk.next_data(at)? {
        sum += run.end - run.start;
        at = run.end;
    }
    Ok(sum)
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn size(&self) -> u64 {
        (**self).size()
    }
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_exact_at(offset, buf)
    }
    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        (**self).next_data(from)
    }
    fn is_known_zero(&self, range: Range<u64>) -> bool {
        (**self).is_known_zero(range)
    }
    fn next_run(&self, range: Range<u64>) -> io::Result<Run> {
        (**self).next_run(range)
    }
    fn check_run(&self, run: &FileRun) -> io::Result<()> {
        (**self).check_run(run)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn size(&self) -> u64 {
        (**self).size()
    }
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_exact_at(offset, buf)
    }
    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        (**self).next_data(from)
    }
    fn is_known_zero(&self, range: Range<u64>) -> bool {
        (**self).is_known_zero(range)
    }
    fn next_run(&self, range: Range<u64>) -> io::Result<Run> {
        (**self).next_run(range)
    }
    fn check_run(&self, run: &FileRun) -> io::Result<()> {
        (**self).check_run(run)
    }
}

/// The range of `len` bytes at `offset`, if a disk of `size` bytes has it.
fn checked_range(offset: u64, len: usize, size: u64) -> io::Result<Range<u64>> {
    offset
        .checked_add(len as u64)
        .filter(|&end| end <= size)
        .map(|end| offset..end)
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{len} bytes at {offset} reach past the end of a disk of {size} bytes"),
            )
        })
}
