//! Where machines are kept.
//!
//! Each machine has a folder in `$XDG_STATE_HOME/bootwright/vms` with all
//! that outlives it, and one in `$XDG_RUNTIME_DIR/bootwright` with its
//! sockets. Its process holds a lock on the first for as long as it lives, so
//! a folder without a lock is that of a machine that does not run; of those,
//! the ephemeral ones have been killed, and their folders are cleared away.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::spec::Spec;

/// The longest path of a socket (`sun_path` of sockaddr_un(7)), and the
/// longest name in a machine's folder for them.
const MAX_SOCKET: usize = 107;
const LONGEST_NAME: &str = "/vsock.sock_4294967295";

/// Where this user's machines are kept.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    state: PathBuf,
    runtime: PathBuf,
}

/// A machine's folders.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// What outlives its process.
    pub state: PathBuf,
    /// Sockets, and what goes with the process.
    pub runtime: PathBuf,
}

/// Held by a machine's process, or by who prepares or removes its folder.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// The file whose descriptors hold the lock.
    pub(crate) fn into_file(self) -> File {
        self.0
    }
}

impl Places {
    /// From the environment, as the XDG Base Directory Specification has it.
    pub(crate) fn from_env() -> anyhow::Result<Self> {
        let dir = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let state = dir("XDG_STATE_HOME")
            .or_else(|| dir("HOME").map(|home| home.join(".local/state")))
            .context("neither XDG_STATE_HOME nor HOME says where machines are kept")?
            .join("bootwright");
        let runtime = match dir("XDG_RUNTIME_DIR") {
            Some(dir) => dir.join("bootwright"),
            None => state.join("run"),
        };
        Ok(Self {
            state: state.join("vms"),
            runtime,
        })
    }

    /// The folders of the machine `name`.
    pub(crate) fn place(&self, name: &str) -> Place {
        Place {
            state: self.state.join(name),
            runtime: self.runtime.join(name),
        }
    }

    /// The names of all machines there are, in order.
    pub(crate) fn names(&self) -> anyhow::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.state) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => {
                return Err(e).with_context(|| format!("cannot list {}", self.state.display()));
            }
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    /// Clears away what killed ephemeral machines have left.
    pub(crate) fn clear_stale(&self) -> anyhow::Result<()> {
        for name in self.names()? {
            let place = self.place(&name);
            let Some(_lock) = place.try_lock()? else {
                continue;
            };
            // Without a description it was killed while it was prepared.
            if Spec::load(&place.state).map_or(!place.has_spec(), |spec| spec.ephemeral) {
                place.remove()?;
            }
        }
        Ok(())
    }
}

impl Place {
    /// The machine's name.
    pub(crate) fn name(&self) -> &OsStr {
        self.state.file_name().unwrap_or_default()
    }

    /// The socket that leads to ports of the guest, where it has a socket
    /// device.
    pub(crate) fn vsock(&self) -> PathBuf {
        self.runtime.join("vsock.sock")
    }

    /// Makes the folders and takes the lock; `None` if the machine runs.
    pub(crate) fn make(&self) -> anyhow::Result<Option<Lock>> {
        if self.runtime.as_os_str().len() + LONGEST_NAME.len() > MAX_SOCKET {
            bail!(
                "{} is too long a path for sockets; set XDG_RUNTIME_DIR to a shorter one",
                self.runtime.display()
            );
        }
        for dir in [&self.state, &self.runtime] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
        }
        self.try_lock()
    }

    /// Makes what goes with a process for the next one; `None` if the folder
    /// was taken or removed meanwhile.
    pub(crate) fn remake(&self, lock: Lock) -> anyhow::Result<Option<Lock>> {
        // The lock may be one on a file that is no longer there.
        drop(lock);
        match self.has_spec() {
            true => self.make(),
            false => Ok(None),
        }
    }

    /// Takes the lock; `None` if somebody has it, or there is no folder.
    pub(crate) fn try_lock(&self) -> anyhow::Result<Option<Lock>> {
        let path = self.state.join("lock");
        if !self.state.is_dir() {
            return Ok(None);
        }
        let file = match File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
        {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("cannot open {}", path.display())),
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => {
                Err(e).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Whether the machine has been described.
    pub(crate) fn has_spec(&self) -> bool {
        self.state.join("vm.json").exists()
    }

    /// Removes what goes with the process.
    pub(crate) fn remove_runtime(&self) -> anyhow::Result<()> {
        remove(&self.runtime)
    }

    /// Removes both folders. Whoever calls this holds the lock.
    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        remove(&self.runtime)?;
        remove(&self.state)
    }
}

fn remove(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Writes a file so that its name always shows all of it.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let context = || format!("cannot write {}", path.display());
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary).with_context(context)?;
    file.write_all(bytes).with_context(context)?;
    fs::rename(&temporary, path).with_context(context)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn places(dir: &Path) -> Places {
        Places {
            state: dir.join("vms"),
            runtime: dir.join("run"),
        }
    }

    #[test]
    fn a_machine_has_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let place = places(dir.path()).place("a");
        let lock = place.make().unwrap();
        assert!(lock.is_some());
        assert!(place.make().unwrap().is_none());
        drop(lock);
        assert!(place.make().unwrap().is_some());
    }

    #[test]
    fn what_was_killed_while_it_was_prepared_is_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let lock = places.place("alive").make().unwrap();
        drop(places.place("dead").make().unwrap());
        places.clear_stale().unwrap();
        assert_eq!(places.names().unwrap(), ["alive"]);
        drop(lock);
    }

    #[test]
    fn paths_too_long_for_sockets_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let place = places(&dir.path().join("x".repeat(100))).place("a");
        let error = place.make().unwrap_err().to_string();
        assert!(error.contains("XDG_RUNTIME_DIR"), "{error}");
    }
}
