//! Locks and temporary files.
//!
//! Locks are `flock`s, which the kernel takes back when their holder dies.
//! A file in the store's `tmp` directory is locked by its owner for as long as
//! it lives; whatever can be locked there has been left behind.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::{Interrupt, StoreError};

/// How often a lock that another process holds is tried.
const POLL: Duration = Duration::from_millis(20);

/// A file in `tmp` that is locked exclusively, and removed when this is
/// dropped.
#[derive(Debug)]
pub(super) struct TempFile {
    pub(super) file: File,
    path: PathBuf,
}

impl TempFile {
    /// Creates or takes over the file and locks it; waits while another holds
    /// it.
    pub(super) fn create(path: &Path, interrupt: &Interrupt) -> Result<Self, StoreError> {
        loop {
            if let Some(file) = Self::try_create(path)? {
                return Ok(file);
            }
            interrupt.check()?;
            thread::sleep(POLL);
        }
    }

    /// The same, but `None` where another holds it.
    pub(super) fn try_create(path: &Path) -> Result<Option<Self>, StoreError> {
        loop {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .map_err(StoreError::io("create", path))?;
            if !try_lock(&file).map_err(StoreError::io("lock", path))? {
                return Ok(None);
            }
            // Whoever held it may have removed it meanwhile.
            if is_at(&file, path).map_err(StoreError::io("read", path))? {
                empty(&file).map_err(StoreError::io("write", path))?;
                let path = path.to_owned();
                return Ok(Some(Self { file, path }));
            }
        }
    }

    /// Gives the file its final name. It stays locked.
    pub(super) fn rename(mut self, to: &Path) -> Result<File, StoreError> {
        fs::rename(&self.path, to).map_err(StoreError::io("write", to))?;
        self.path = PathBuf::new();
        self.file.try_clone().map_err(StoreError::io("write", to))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // If it stays, the next process takes it for left behind.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Empties a file that somebody left behind. An empty one stays as it is: ext4
/// takes truncating to nothing for an overwrite and writes all data back in
/// every `close` that follows ("auto_da_alloc" in ext4(5)).
fn empty(file: &File) -> io::Result<()> {
    match file.metadata()?.len() {
        0 => Ok(()),
        _ => file.set_len(0),
    }
}

/// Tries to lock a file exclusively.
pub(super) fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether the open file is what the path names.
pub(super) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((open.dev(), open.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes what processes left behind in `tmp`. Best effort: what cannot be
/// removed does no harm.
pub(super) fn clean(tmp: &Path) {
    for entry in fs::read_dir(tmp).into_iter().flatten().flatten() {
        let path = entry.path();
        let file = File::options().read(true).write(true).open(&path);
        if let Ok(file) = file
            && matches!(try_lock(&file), Ok(true))
            && matches!(is_at(&file, &path), Ok(true))
        {
            let _ = fs::remove_file(&path);
        }
    }
}
