//! A root directory that is a mount point.
//!
//! buildah makes mount namespaces and changes how `/` propagates in them,
//! which the kernel refuses where `/` is none: in a plain chroot. There,
//! buildah runs in a bind mount of the whole tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use xshell::{Shell, cmd};

use crate::proc;

/// Where buildah's root is. Dropped, a mount made for it goes away.
#[derive(Debug)]
pub(super) struct Root(Option<PathBuf>);

impl Root {
    /// `/` itself where that will do, else a mount of it at `at`.
    pub(super) fn new(at: &Path) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        if is_mount_point(&mounts, "/") || !rustix::process::geteuid().is_root() {
            return Ok(Self(None));
        }
        fs::create_dir_all(at)?;
        let sh = Shell::new()?;
        proc::read(cmd!(sh, "mount --rbind / {at}"))?;
        let root = Self(Some(at.to_owned()));
        // Or unmounting /proc there would unmount it here, too.
        proc::read(cmd!(sh, "mount --make-rprivate {at}"))?;
        Ok(root)
    }

    /// How `program` is started there: what to run, and its first arguments.
    pub(super) fn command(&self, program: &str) -> (String, Vec<PathBuf>) {
        match &self.0 {
            None => (program.into(), Vec::new()),
            Some(path) => ("chroot".into(), vec![path.clone(), program.into()]),
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let Some(path) = &self.0 else { return };
        // Not through `proc`: this must also happen after an interrupt.
        let status = Command::new("umount")
            .args(["--recursive", "--lazy"])
            .arg(path)
            .status();
        if !status.is_ok_and(|s| s.success()) {
            eprintln!("cannot unmount {}", path.display());
        }
    }
}

/// Whether a path is in the fifth column of `/proc/self/mountinfo`.
fn is_mount_point(mountinfo: &str, path: &str) -> bool {
    mountinfo
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fifth_column_says_what_is_mounted_where() {
        let chroot = "35 30 0:5 / /proc rw - proc proc rw\n36 30 0:6 / /dev rw - devtmpfs d rw\n";
        assert!(!is_mount_point(chroot, "/"));
        assert!(is_mount_point(chroot, "/dev"));
        let whole = "30 1 254:0 / / rw - ext4 /dev/vda rw\n";
        assert!(is_mount_point(whole, "/"));
    }
}
