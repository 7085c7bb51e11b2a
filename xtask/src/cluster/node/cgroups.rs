//! The control groups of a node, which are also the list of its processes.
//!
//! In each hierarchy that the machine has, the node has one group, named after
//! the node's folder. All that the node ever starts is in it or below, so that
//! its processes are found even if nobody has written down their ids.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest as _, Sha256};

/// How long processes may take to be gone after they were killed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node's part of the processors: that of four processes (Linux,
/// admin-guide/cgroup-v1/cgroups.rst and cgroup-v2.rst, "Weights").
const SHARES: &str = "4096";
const WEIGHT: &str = "400";

/// Mount options that name no controller.
const GENERAL: [&str; 8] = [
    "rw",
    "ro",
    "nosuid",
    "nodev",
    "noexec",
    "relatime",
    "xattr",
    "nsdelegate",
];

/// A hierarchy, as it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Where.
    pub(super) mount: PathBuf,
    /// Whether it is of version 2.
    pub(super) unified: bool,
    /// Of version 1, what makes it this one: controllers, or a name.
    pub(super) options: String,
}

/// Those that this process sees.
pub(super) fn hierarchies() -> Result<Vec<Hierarchy>> {
    Ok(parse(&fs::read_to_string("/proc/self/mounts")?))
}

/// Finds them in a list of mounts (proc(5), `/proc/pid/mounts`).
fn parse(mounts: &str) -> Vec<Hierarchy> {
    let hierarchy = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (mount, kind, options) = (words.next()?, words.next()?, words.next()?);
        let unified = match kind {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        let own = |option: &&str| !GENERAL.contains(option) && !option.starts_with("release_agent");
        let options: Vec<_> = options.split(',').filter(own).collect();
        Some(Hierarchy {
            mount: mount.into(),
            unified,
            options: options.join(","),
        })
    };
    mounts.lines().filter_map(hierarchy).collect()
}

/// A node's groups.
#[derive(Debug)]
pub(super) struct Groups {
    /// Of version 1: what the first process joins.
    pub(super) old: Vec<PathBuf>,
    /// Of version 2: the same, and it goes on into `init` below, since a group
    /// with processes of its own has no controllers to hand on.
    pub(super) unified: Vec<PathBuf>,
}

impl Groups {
    /// The groups of the node with this folder, whether they are there or not.
    pub(super) fn of(dir: &Path) -> Result<Self> {
        let digest = Sha256::digest(dir.as_os_str().as_encoded_bytes());
        let hex: String = digest.iter().take(6).map(|b| format!("{b:02x}")).collect();
        let name = format!("bootwright-{hex}");
        let (unified, old): (Vec<_>, Vec<_>) = hierarchies()?.into_iter().partition(|h| h.unified);
        let group = |hierarchy: Hierarchy| hierarchy.mount.join(&name);
        Ok(Self {
            old: old.into_iter().map(group).collect(),
            unified: unified.into_iter().map(group).collect(),
        })
    }

    /// Makes them.
    pub(super) fn make(&self) -> Result<()> {
        let make = |dir: &Path| {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
        };
        for dir in &self.old {
            make(dir)?;
            // Nobody may join a group that has no processors yet.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let parent = dir.parent().unwrap_or(dir).join(file);
                if let Ok(value) = fs::read(parent) {
                    fs::write(dir.join(file), value)?;
                }
            }
            let clone = dir.join("cgroup.clone_children");
            if dir.join("cpuset.cpus").exists() {
                fs::write(clone, "1")?;
            }
        }
        for dir in &self.unified {
            make(&dir.join("init"))?;
        }
        self.weigh()
    }

    /// To the processes of a hierarchy's top, a group counts as one: a busy
    /// machine would starve the node.
    fn weigh(&self) -> Result<()> {
        for (dirs, file, weight) in [
            (&self.old, "cpu.shares", SHARES),
            (&self.unified, "cpu.weight", WEIGHT),
        ] {
            let files = dirs.iter().map(|dir| dir.join(file));
            for path in files.filter(|path| path.exists()) {
                fs::write(&path, weight)
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// The processes in them, by the ids that they have here.
    pub(super) fn processes(&self) -> Vec<Pid> {
        let mut found = Vec::new();
        for dir in self.old.iter().chain(&self.unified) {
            collect(dir, &mut found);
        }
        found.sort_by_key(|pid| pid.as_raw_nonzero());
        found.dedup();
        found
    }

    /// Kills all that is in them, and removes them.
    pub(super) fn clear(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for pid in &left {
                // Whoever ended in the meantime is fine.
                let _ = kill_process(*pid, Signal::KILL);
            }
            if start.elapsed() > PATIENCE {
                bail!("processes do not end: {left:?}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        for dir in self.old.iter().chain(&self.unified) {
            remove(dir, start)?;
        }
        Ok(())
    }
}

fn collect(dir: &Path, found: &mut Vec<Pid>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // 0 would be a process that cannot be seen from here.
    let pids = text
        .lines()
        .filter_map(|line| Pid::from_raw(line.parse().ok()?));
    found.extend(pids);
    for below in folders(dir) {
        collect(&below, found);
    }
}

/// Removes a group and those below it: their files go with the folders.
fn remove(dir: &Path, start: Instant) -> Result<()> {
    for below in folders(dir) {
        remove(&below, start)?;
    }
    loop {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            // The dead leave their group a moment after they have gone.
            Err(error) if start.elapsed() > PATIENCE => {
                return Err(error).with_context(|| format!("cannot remove {}", dir.display()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
            Ok(()) => return Ok(()),
        }
    }
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let entries = entries.flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_told_apart() {
        let mounts = "proc /proc proc rw 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid,nsdelegate 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,xattr,name=systemd 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n";
        let hierarchy = |mount: &str, unified, options: &str| Hierarchy {
            mount: mount.into(),
            unified,
            options: options.into(),
        };
        assert_eq!(
            parse(mounts),
            [
                hierarchy("/sys/fs/cgroup/unified", true, ""),
                hierarchy("/sys/fs/cgroup/systemd", false, "name=systemd"),
                hierarchy("/sys/fs/cgroup/cpu,cpuacct", false, "cpu,cpuacct"),
            ]
        );
    }

    #[test]
    fn nodes_in_other_folders_have_other_groups() {
        let groups = |dir: &str| Groups::of(Path::new(dir)).unwrap();
        let (one, other) = (groups("/a"), groups("/b"));
        assert_eq!(one.old, groups("/a").old);
        let all = |groups: &Groups| [groups.old.clone(), groups.unified.clone()].concat();
        assert!(all(&one).iter().all(|dir| !all(&other).contains(dir)));
    }
}
