//! A raw disk: a file or a block device whose bytes are the disk's.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::host_file::Use;
use super::{
    Backend, BaseId, FileRun, HostFile, Limits, OpenError, Run, SECTOR, checked, read_only,
};

/// A raw disk.
#[derive(Debug)]
pub struct RawDisk {
    file: Arc<HostFile>,
    size: u64,
    read_only: bool,
    /// A flush has failed: what the kernel dropped nobody knows.
    failed: AtomicBool,
}

impl RawDisk {
    /// Opens and locks the file or block device `path`, whatever is in it.
    ///
    /// Bytes after the last whole sector are not part of the disk.
    ///
    /// # Errors
    /// It cannot be opened, is no file or device, or is in use.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, OpenError> {
        let usage = if read_only { Use::Read } else { Use::Write };
        Self::from_file(HostFile::open(path, usage)?, read_only)
    }

    /// Serves a file that is open already, and locked if it needs to be.
    ///
    /// # Errors
    /// Its length cannot be read, or it has no whole sector.
    pub fn from_file(file: HostFile, read_only: bool) -> Result<Self, OpenError> {
        let path = file.path().to_owned();
        let len = file.len().map_err(|error| OpenError::Io {
            path: path.clone(),
            error,
        })?;
        let size = len / SECTOR * SECTOR;
        if size == 0 {
            return Err(OpenError::Unsupported {
                path,
                what: format!("a file of {len} bytes is no disk"),
            });
        }
        Ok(Self {
            file: Arc::new(file),
            size,
            read_only,
            failed: AtomicBool::new(false),
        })
    }

    /// What an overlay over this disk remembers of it.
    ///
    /// # Errors
    /// The file cannot be asked.
    pub fn identity(&self) -> io::Result<BaseId> {
        BaseId::of_file(&self.file)
    }

    fn writable(&self, range: &Range<u64>) -> io::Result<()> {
        checked(range, self.size)?;
        if self.read_only {
            return Err(read_only());
        }
        Ok(())
    }
}

impl Backend for RawDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn limits(&self) -> Limits {
        Limits {
            read_only: self.read_only,
            physical_block: 4096,
            discard: (!self.read_only).then_some(4096),
        }
    }

    fn read(&self, range: Range<u64>) -> io::Result<Run> {
        checked(&range, self.size)?;
        let len = range.end - range.start;
        Ok(Run::File(FileRun::new(&self.file, range.start, len)))
    }

    fn prepare_write(&self, range: Range<u64>) -> io::Result<FileRun> {
        self.writable(&range)?;
        let len = range.end - range.start;
        Ok(FileRun::new(&self.file, range.start, len))
    }

    fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> io::Result<()> {
        self.writable(&range)?;
        self.file.zero(range.start, range.end - range.start, unmap)
    }

    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        self.writable(&range)?;
        // A file system that cannot is no error: the space just stays.
        self.file
            .punch(range.start, range.end - range.start)
            .map(drop)
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier flush failed"));
        }
        self.file.sync().inspect_err(|_| {
            self.failed.store(true, Ordering::Release);
        })
    }
}
