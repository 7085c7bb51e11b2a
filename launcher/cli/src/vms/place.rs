//! Where machines are kept.
//!
//! Each machine has a folder in `$XDG_STATE_HOME/bootwright/vms` with all
//! that outlives it, and one in `$XDG_RUNTIME_DIR/bootwright` with its
//! sockets. Its process holds a lock on the first for as long as it lives, so
//! a folder without a lock is that of a machine that does not run; of those,
//! the ephemeral ones have been killed, and their folders are cleared away.
//!
//! Folders come, go and are asked for one at a time, whoever does it: a second
//! lock, the gate, is held meanwhile, and never for longer.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::spec::Spec;

/// The longest path of a socket (`sun_path` of sockaddr_un(7)), and the
/// longest name in a machine's folder for them.
const MAX_SOCKET: usize = 107;
const LONGEST_NAME: &str = "/vsock.sock_4294967295";

/// The end of the gate's name, which is beside the folder of all machines.
const GATE: &str = "lock";

/// How often a folder is asked for that somebody describes at this moment, and
/// how long after each time.
const TRIES: u32 = 50;
const MOMENT: Duration = Duration::from_millis(20);

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
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        Ok(names)
    }

    /// Clears away what killed ephemeral machines have left.
    pub(crate) fn clear_stale(&self) -> anyhow::Result<()> {
        for name in self.names()? {
            let place = self.place(&name);
            let _gate = place.gate()?;
            let Some(_lock) = place.try_lock_inside()? else {
                continue;
            };
            // Without a description it was killed while it was prepared.
            if Spec::load(&place.state).map_or(!place.has_spec(), |spec| spec.ephemeral) {
                place.remove_inside()?;
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

    /// The file of the gate.
    pub(crate) fn gate_path(&self) -> PathBuf {
        let machines = self.state.parent().unwrap_or(&self.state);
        machines.with_extension(GATE)
    }

    /// The gate, held until what is returned is dropped.
    fn gate(&self) -> anyhow::Result<File> {
        let path = self.gate_path();
        let open = || {
            (File::options().read(true).write(true).create(true))
                .truncate(false)
                .open(&path)
        };
        let mut file = open();
        if let (Err(error), Some(dir)) = (&file, path.parent())
            && error.kind() == io::ErrorKind::NotFound
        {
            make_dir(dir)?;
            file = open();
        }
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        loop {
            match file.lock() {
                Ok(()) => return Ok(file),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).with_context(|| format!("cannot lock {}", path.display())),
            }
        }
    }

    /// Makes the folders and takes the lock; `None` if the machine runs.
    pub(crate) fn make(&self) -> anyhow::Result<Option<Lock>> {
        if self.runtime.as_os_str().len() + LONGEST_NAME.len() > MAX_SOCKET {
            bail!(
                "{} is too long a path for sockets; set XDG_RUNTIME_DIR to a shorter one",
                self.runtime.display()
            );
        }
        for _ in 0..TRIES {
            let gate = self.gate()?;
            make_dir(&self.state)?;
            make_dir(&self.runtime)?;
            match self.try_lock_inside()? {
                Some(lock) => return Ok(Some(lock)),
                None if self.has_spec() => return Ok(None),
                None => drop(gate),
            }
            // Somebody has just made it, and may not keep it.
            thread::sleep(MOMENT);
        }
        Ok(None)
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
        let _gate = self.gate()?;
        self.try_lock_inside()
    }

    /// Whether somebody has the lock, which nobody notices.
    pub(crate) fn is_locked(&self) -> anyhow::Result<bool> {
        let _gate = self.gate()?;
        Ok(self.state.is_dir() && self.try_lock_inside()?.is_none())
    }

    /// Takes the lock for who holds the gate.
    fn try_lock_inside(&self) -> anyhow::Result<Option<Lock>> {
        let path = self.state.join("lock");
        if !self.state.is_dir() {
            return Ok(None);
        }
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
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
        let _gate = self.gate()?;
        self.remove_inside()
    }

    /// Removes both folders for who holds the gate, too.
    fn remove_inside(&self) -> anyhow::Result<()> {
        remove(&self.runtime)?;
        remove(&self.state)
    }
}

fn make_dir(dir: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make {}", dir.display()))
}

fn remove(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("cannot remove {}", dir.display())),
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

    use std::sync::Arc;

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
    fn a_machine_that_is_made_is_not_cleared_away_by_those_who_look() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        thread::scope(|scope| {
            // Gone with this function, in a panic too: the others end then.
            let made = Arc::new(());
            for _ in 0..2 {
                let made = Arc::downgrade(&made);
                let places = &places;
                scope.spawn(move || {
                    while made.strong_count() > 0 {
                        places.clear_stale().unwrap();
                        let _ = places.place("a").is_locked().unwrap();
                    }
                });
            }
            for round in 0..60 {
                let place = places.place("a");
                let lock = place.make().unwrap();
                assert!(lock.is_some(), "{round}");
                for folder in [&place.state, &place.runtime] {
                    write_whole(&folder.join("file.txt"), b"").unwrap();
                }
                assert!(place.state.join("lock").exists(), "{round}");
                place.remove().unwrap();
            }
        });
    }

    #[test]
    fn paths_too_long_for_sockets_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let place = places(&dir.path().join("x".repeat(100))).place("a");
        let error = place.make().unwrap_err().to_string();
        assert!(error.contains("XDG_RUNTIME_DIR"), "{error}");
    }
}
