//! A file that gets its name when it is finished.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, linkat, open, renameat_with};
use rustix::io::Errno;

/// A new file in the directory of its later name. Where the file system can,
/// it has no name at all until [`commit`](Self::commit), so that not even
/// SIGKILL leaves anything behind; elsewhere it has a temporary one.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) file: File,
    path: PathBuf,
    temporary: Option<PathBuf>,
}

impl Staged {
    /// Creates the file, with the mode that the umask leaves of 0666.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        if path.file_name().is_none() {
            return Err(Errno::ISDIR.into());
        }
        // A file without a name gets one through its link in /proc.
        if Path::new("/proc/self/fd").is_dir() {
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            match open(directory(path), flags, Mode::from_raw_mode(0o666)) {
                Ok(fd) => {
                    return Ok(Self {
                        file: fd.into(),
                        path: path.into(),
                        temporary: None,
                    });
                }
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Self::create_named(path)
    }

    /// The same with a temporary name.
    fn create_named(path: &Path) -> io::Result<Self> {
        let (temporary, file) = with_free_name(path, |temporary| {
            File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(temporary)
        })?;
        Ok(Self {
            file,
            path: path.into(),
            temporary: Some(temporary),
        })
    }

    /// Gives the file its name; `replace` a file that has it, or fail with
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists). With `sync`, file and
    /// name are on the disk below when this returns.
    pub(super) fn commit(mut self, replace: bool, sync: bool) -> io::Result<()> {
        if sync {
            self.file.sync_all()?;
        }
        match &self.temporary {
            None if !replace => self.link(&self.path)?,
            None => {
                let linked = with_free_name(&self.path, |temporary| self.link(temporary))?.0;
                // From here on drop removes it.
                let linked = self.temporary.insert(linked);
                std::fs::rename(linked, &self.path)?;
            }
            Some(temporary) if replace => std::fs::rename(temporary, &self.path)?,
            Some(temporary) => rename_new(temporary, &self.path)?,
        }
        self.temporary = None;
        if sync {
            File::open(directory(&self.path))?.sync_all()?;
        }
        Ok(())
    }

    fn link(&self, to: &Path) -> io::Result<()> {
        let from = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        linkat(CWD, from.as_str(), CWD, to, AtFlags::SYMLINK_FOLLOW)?;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nobody is left to tell; the error that led here is on its way.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// Renames unless `to` exists.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system without the flag: two steps, as good as atomic.
        Err(Errno::INVAL | Errno::NOSYS) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        done => Ok(done?),
    }
}

/// The directory that `path` is in.
fn directory(path: &Path) -> &Path {
    path.parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Calls `make` with names like `.disk.img.1234-0.tmp` until one is free.
fn with_free_name<T>(
    path: &Path,
    make: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<(PathBuf, T)> {
    const TRIES: u32 = 1000;
    let base = path.file_name().unwrap_or(OsStr::new("disk"));
    for n in 0..TRIES {
        let mut name = OsString::from(".");
        name.push(base);
        name.push(format!(".{}-{n}.tmp", std::process::id()));
        let temporary = directory(path).join(name);
        match make(&temporary) {
            Ok(made) => return Ok((temporary, made)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        "no temporary name is free beside it",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    type Create = fn(&Path) -> io::Result<Staged>;
    const WAYS: [Create; 2] = [Staged::create, Staged::create_named];

    fn names(dir: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_committed_file_has_its_name_and_nothing_else_is_left() {
        for create in WAYS {
            for sync in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("disk");
                let mut staged = create(&path).unwrap();
                staged.file.write_all(b"new").unwrap();
                staged.commit(false, sync).unwrap();
                assert_eq!(std::fs::read(&path).unwrap(), b"new");
                assert_eq!(names(dir.path()), ["disk"]);
            }
        }
    }

    #[test]
    fn an_existing_file_stays_unless_it_is_to_be_replaced() {
        for create in WAYS {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("disk");
            std::fs::write(&path, b"old").unwrap();
            let error = create(&path).unwrap().commit(false, true).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(&path).unwrap(), b"old");
            assert_eq!(names(dir.path()), ["disk"]);
            let mut staged = create(&path).unwrap();
            staged.file.write_all(b"new").unwrap();
            staged.commit(true, true).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"new");
            assert_eq!(names(dir.path()), ["disk"]);
        }
    }

    #[test]
    fn a_dropped_file_leaves_nothing() {
        for create in WAYS {
            let dir = tempfile::tempdir().unwrap();
            drop(create(&dir.path().join("disk")).unwrap());
            assert!(names(dir.path()).is_empty());
        }
    }
}
