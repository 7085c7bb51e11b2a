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
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::spec::Spec;

/// The longest path of a socket (`sun_path` of sockaddr_un(7)), and the
/// longest name in a machine's folder for them.
const MAX_SOCKET: usize = 107;
const LONGEST_NAME: &str = "/vsock.sock_4294967295";

/// How often a folder is asked for that somebody clears away or describes at
/// this moment, and how long after each time.
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
        let mut names = self.entries()?;
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        Ok(names)
    }

    /// The names of all folders, those on their way out among them.
    fn entries(&self) -> anyhow::Result<Vec<String>> {
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
        Ok(names)
    }

    /// Clears away what killed ephemeral machines have left.
    pub(crate) fn clear_stale(&self) -> anyhow::Result<()> {
        for name in self.entries()? {
            let place = self.place(&name);
            if name.starts_with('.') {
                remove(&place.state)?;
                continue;
            }
            let Some(_lock) = place.try_lock()? else {
                continue;
            };
            // Without a description it was killed while it was prepared.
            if Spec::load(&place.state).map_or(!place.has_spec(), |spec| spec.ephemeral) {
                place.clear()?;
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
        for _ in 0..TRIES {
            for dir in [&self.state, &self.runtime] {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(dir)
                    .with_context(|| format!("cannot make {}", dir.display()))?;
            }
            // Until there is a description, the folder may be cleared away
            // before it is locked.
            match self.try_lock()? {
                Some(lock) if self.runtime.is_dir() => return Ok(Some(lock)),
                None if self.has_spec() => return Ok(None),
                Some(_) | None => thread::sleep(MOMENT),
            }
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
            // Whoever had it may have removed the folder.
            Ok(()) => Ok(is_at(&file, &path)?.then_some(Lock(file))),
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

    /// Removes both folders of a machine that somebody may be making again at
    /// this moment: what is in the new ones is left alone.
    fn clear(&self) -> anyhow::Result<()> {
        self.remove_runtime()?;
        let name = format!(".{}.{}", self.name().display(), std::process::id());
        let aside = self.state.with_file_name(name);
        remove(&aside)?;
        match fs::rename(&self.state, &aside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot remove {}", self.state.display()))
            }
            _ => remove(&aside),
        }
    }

    /// Removes both folders. Whoever calls this holds the lock.
    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        remove(&self.runtime)?;
        remove(&self.state)
    }
}

/// Whether an open file is the one of this name.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn remove(dir: &Path) -> anyhow::Result<()> {
    let mut tries = 0;
    loop {
        tries += 1;
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Somebody has asked for the lock meanwhile.
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty && tries < TRIES => {}
            other => return other.with_context(|| format!("cannot remove {}", dir.display())),
        }
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
    fn a_machine_that_is_made_is_not_cleared_away_by_those_who_look() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let stop = std::sync::atomic::AtomicBool::new(false);
        let over = || stop.load(std::sync::atomic::Ordering::Relaxed);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over() {
                        places.clear_stale().unwrap();
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
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
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
