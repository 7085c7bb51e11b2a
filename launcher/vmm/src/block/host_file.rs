//! An open file of the host that holds a disk, or a part of one.
//!
//! All reading, writing and syncing of metadata goes through here, so that a
//! test can record the exact sequence and replay any prefix of it.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::OpenError;

/// How many zeros are written at once where the file system cannot.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A file or block device, with its name for messages.
#[derive(Debug)]
pub struct HostFile {
    file: File,
    path: PathBuf,
    #[cfg(test)]
    journal: Option<super::testing::Journal>,
}

/// How a file is used, which decides how it is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Read by any number of processes, written by none.
    Read,
    /// Read and written by this process only.
    Write,
}

/// The bytes of a file that QEMU locks to say what it does with it and what
/// it does not want others to do (its block/file-posix.c, `RAW_LOCK_*`):
/// 100 and 201 mean "reads consistently" and "lets nobody write".
const QEMU_READS: i64 = 100;
const QEMU_NO_WRITERS: i64 = 201;

/// How often a lock is tried, and the time between: a fifth of a second.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

impl HostFile {
    /// Wraps an open file.
    pub fn new(file: File, path: impl Into<PathBuf>) -> Self {
        // Files are opened without waiting, and io_uring would take that for
        // the I/O too. That this fails for an open file is not known.
        // SAFETY: fcntl takes no pointers for these commands.
        unsafe {
            let flags = libc::fcntl(file.as_raw_fd(), libc::F_GETFL);
            if flags >= 0 && flags & libc::O_NONBLOCK != 0 {
                libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK);
            }
        }
        Self {
            file,
            path: path.into(),
            #[cfg(test)]
            journal: None,
        }
    }

    /// The same, writing down what is done to it.
    #[cfg(test)]
    pub(crate) fn recorded(mut self, journal: super::testing::Journal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// Opens a disk's file and locks it.
    pub(crate) fn open(path: &Path, usage: Use) -> Result<Self, OpenError> {
        use std::os::unix::fs::OpenOptionsExt;
        let io = |error| OpenError::Io {
            path: path.into(),
            error,
        };
        let mut options = File::options();
        options.read(true).write(usage == Use::Write);
        // NONBLOCK, so that a fifo does not hang us before it is refused.
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
        let mut file = options.clone().custom_flags(flags).open(path).map_err(io)?;
        let kind = file.metadata().map_err(io)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenError::Unsupported {
                path: path.into(),
                what: "a disk is a file or a block device, and this is neither".into(),
            });
        }
        if kind.is_block_device() && usage == Use::Write {
            // O_EXCL on a device: fails while it is mounted.
            file = options
                .custom_flags(flags | libc::O_EXCL)
                .open(path)
                .map_err(|e| match e.raw_os_error() {
                    Some(libc::EBUSY) => OpenError::Locked {
                        path: path.into(),
                        holder: None,
                    },
                    _ => io(e),
                })?;
        }
        let file = Self::new(file, path);
        file.lock(usage)?;
        Ok(file)
    }

    /// Locks the file against use by others that does not go with `usage`,
    /// until it is closed. QEMU honours the locks, as we do its.
    pub(crate) fn lock(&self, usage: Use) -> Result<(), OpenError> {
        match usage {
            Use::Write => self.lock_range(libc::F_WRLCK, 0, 0),
            Use::Read => {
                self.lock_range(libc::F_RDLCK, QEMU_READS, 1)?;
                self.lock_range(libc::F_RDLCK, QEMU_NO_WRITERS, 1)
            }
        }
    }

    fn lock_range(&self, kind: i32, start: i64, len: i64) -> Result<(), OpenError> {
        let lock = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: start,
            l_len: len,
            l_pid: 0,
        };
        // A child that was forked and has not called exec yet holds what its
        // parent has closed already, so the first refusal may mean nothing.
        let mut patience = LOCK_TRIES;
        let error = loop {
            // SAFETY: fcntl reads the struct and nothing else of ours.
            let result = unsafe { libc::fcntl(self.raw_fd(), libc::F_OFD_SETLK, &lock) };
            if result == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            patience -= 1;
            if patience == 0 || !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) {
                break error;
            }
            std::thread::sleep(LOCK_PAUSE);
        };
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Err(OpenError::Locked {
                path: self.path.clone(),
                holder: self.holder(lock),
            }),
            _ => Err(OpenError::Io {
                path: self.path.clone(),
                error: io::Error::new(error.kind(), format!("cannot be locked: {error}")),
            }),
        }
    }

    /// Who holds what conflicts with `lock`; open-file-description locks,
    /// which we and QEMU use, have no owner and show as -1.
    fn holder(&self, mut lock: libc::flock) -> Option<u32> {
        // SAFETY: fcntl reads and writes the struct, which outlives the call.
        let result = unsafe { libc::fcntl(self.raw_fd(), libc::F_OFD_GETLK, &mut lock) };
        (result == 0 && lock.l_type != libc::F_UNLCK as libc::c_short)
            .then(|| u32::try_from(lock.l_pid).ok())
            .flatten()
            .filter(|pid| *pid > 0)
    }

    /// The file's name, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor, to do I/O on while this is alive.
    pub fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The file itself.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Length in bytes now.
    pub(crate) fn len(&self) -> io::Result<u64> {
        let metadata = self.file.metadata().map_err(|e| self.naming(e))?;
        if metadata.file_type().is_block_device() {
            use std::io::{Seek, SeekFrom};
            return (&self.file)
                .seek(SeekFrom::End(0))
                .map_err(|e| self.naming(e));
        }
        Ok(metadata.len())
    }

    pub(crate) fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file
            .read_exact_at(buf, offset)
            .map_err(|e| self.naming(e))
    }

    /// Fills `buf`, with zeros from the end of the file on.
    pub(crate) fn read_sparse_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            match self.file.read_at(rest, at) {
                Ok(0) => {
                    rest.fill(0);
                    return Ok(());
                }
                Ok(n) => {
                    at += n as u64;
                    rest = rest.get_mut(n..).unwrap_or_default();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.naming(e)),
            }
        }
        Ok(())
    }

    pub(crate) fn write_all_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.file
            .write_all_at(buf, offset)
            .map_err(|e| self.naming(e))?;
        #[cfg(test)]
        if let Some(journal) = &self.journal {
            journal.write(offset, buf);
        }
        Ok(())
    }

    /// Makes the file `len` bytes long if it is shorter; what is new is zeros.
    pub(crate) fn grow(&self, len: u64) -> io::Result<()> {
        if self.len()? < len {
            if self.file.metadata()?.file_type().is_block_device() {
                return Err(self.naming(io::ErrorKind::StorageFull.into()));
            }
            self.file.set_len(len).map_err(|e| self.naming(e))?;
        }
        #[cfg(test)]
        if let Some(journal) = &self.journal {
            journal.push(super::testing::Event::Grow(len));
        }
        Ok(())
    }

    /// Returns when all that was written is on stable storage.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data().map_err(|e| self.naming(e))?;
        #[cfg(test)]
        if let Some(journal) = &self.journal {
            journal.sync();
        }
        Ok(())
    }

    /// Makes `len` bytes at `offset` zeros and, with `unmap`, gives their
    /// space back; the file keeps its length or, where the range reaches past
    /// its end, may become as long as the range's end.
    pub(crate) fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let mode = if unmap {
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE
        } else {
            libc::FALLOC_FL_ZERO_RANGE
        };
        match self.fallocate(mode, offset, len) {
            Ok(()) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV)) => {
                // Not through `write_all_at`, so that it is recorded once.
                let end = offset.saturating_add(len);
                let mut at = offset;
                while at < end {
                    let n = (end - at).min(ZEROS.len() as u64);
                    let zeros = ZEROS.get(..n as usize).unwrap_or_default();
                    self.file
                        .write_all_at(zeros, at)
                        .map_err(|e| self.naming(e))?;
                    at += n;
                }
            }
            Err(e) => return Err(self.naming(e)),
        }
        #[cfg(test)]
        if let Some(journal) = &self.journal {
            journal.zero(offset, len);
        }
        Ok(())
    }

    /// Gives the space of a range back if the file system can.
    pub(crate) fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        match self.fallocate(mode, offset, len) {
            Ok(()) => {
                #[cfg(test)]
                if let Some(journal) = &self.journal {
                    journal.zero(offset, len);
                }
                Ok(true)
            }
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV)) => {
                Ok(false)
            }
            Err(e) => Err(self.naming(e)),
        }
    }

    fn fallocate(&self, mode: i32, offset: u64, len: u64) -> io::Result<()> {
        let range = |n: u64| i64::try_from(n).map_err(|_| io::ErrorKind::InvalidInput);
        let (offset, len) = (range(offset)?, range(len)?);
        loop {
            // SAFETY: fallocate takes no pointers.
            if unsafe { libc::fallocate(self.raw_fd(), mode, offset, len) } == 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    pub(crate) fn naming(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
    }
}
