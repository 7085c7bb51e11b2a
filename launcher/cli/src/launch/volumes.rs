//! Volumes of the pod that hold disks.
//!
//! What is in an image or a claim is somebody else's: a name in it never leads
//! out of it, and what it leads to is a file or a device.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

/// Where a containerDisk has its disk.
const DISK: &str = "disk";

/// Of a claim's free space, how much of 100 parts a disk takes that is made in
/// it: KubeVirt leaves a tenth, too, for the file system's own.
const PARTS: u64 = 90;

/// What sizes of disks that are made are rounded down to.
const MIB: u64 = 1 << 20;

/// Refuses an image volume in which there is nothing: some runtimes mount
/// nothing where they should mount an image, and say nothing.
pub(super) fn check_mounted(folder: &Path) -> anyhow::Result<()> {
    let mut entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    if entries.next().is_none() {
        bail!(
            "{} is empty: the node's container runtime has mounted no image there. Image volumes \
             need containerd 2.1 or CRI-O 1.31, and the feature ImageVolume of the kubelet",
            folder.display()
        );
    }
    Ok(())
}

/// A file at `path` in `folder`, out of which no symbolic link leads.
pub(super) fn file_in(folder: &Path, path: &str) -> anyhow::Result<PathBuf> {
    let shown = folder.join(path.trim_start_matches('/'));
    let context = || format!("cannot open {}", shown.display());
    let top = File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(
        &top,
        path.trim_start_matches('/'),
        flags,
        Mode::empty(),
        resolve,
    )
    .map_err(std::io::Error::from)
    .with_context(context)?;
    let real = name_of(&found).with_context(context)?;
    if !fs::symlink_metadata(&real).with_context(context)?.is_file() {
        bail!("{} is no file", shown.display());
    }
    Ok(real)
}

/// What an open file is called.
fn name_of(file: &OwnedFd) -> std::io::Result<PathBuf> {
    use std::os::fd::AsRawFd as _;
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The disk in the image of a containerDisk: the file at `path`, or the only
/// one in `disk`.
pub(super) fn container_disk(folder: &Path, path: Option<&str>) -> anyhow::Result<PathBuf> {
    check_mounted(folder)?;
    if let Some(path) = path {
        return file_in(folder, path);
    }
    let dir = folder.join(DISK);
    let is_folder = fs::symlink_metadata(&dir).is_ok_and(|m| m.is_dir());
    if !is_folder {
        bail!(
            "{} is not there: a containerDisk has its disk in the folder /disk, or path says where",
            dir.display()
        );
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        names.push(entry?.file_name());
        if names.len() > 1 {
            bail!(
                "there is more than one file in {}: say in path which is the disk",
                dir.display()
            );
        }
    }
    match names.first().and_then(|name| name.to_str()) {
        Some(name) => file_in(folder, &format!("{DISK}/{name}")),
        None => bail!("there is no file in {}", dir.display()),
    }
}

/// A block device, or a disk's file in a claim's file system, which is made if
/// there is none and it `may_make` one.
pub(super) fn device(path: &Path, may_make: bool) -> anyhow::Result<PathBuf> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && may_make => {
            make(path)?;
            fs::symlink_metadata(path)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
            "{} is not there: the claim holds no disk yet; put one there, or name a claim that does",
            path.display()
        ),
        other => other,
    };
    let kind = metadata
        .with_context(|| format!("cannot look at {}", path.display()))?
        .file_type();
    if !kind.is_file() && !kind.is_block_device() {
        bail!(
            "{} is no disk: neither a file nor a block device",
            path.display()
        );
    }
    Ok(path.to_owned())
}

/// Makes a disk's file that takes what room there is, as the guest writes it.
fn make(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().context("a path without a folder")?;
    let context = || format!("cannot make {}", path.display());
    let room = rustix::fs::statvfs(folder)
        .map_err(std::io::Error::from)
        .with_context(context)?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    let size = free / 100 * PARTS / MIB * MIB;
    if size == 0 {
        bail!("{}: there is no room in the claim", path.display());
    }
    let temporary = path.with_extension("new");
    let file = File::create(&temporary).with_context(context)?;
    file.set_len(size).with_context(context)?;
    fs::rename(&temporary, path).with_context(context)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_image_volume_that_is_empty_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let error = check_mounted(dir.path()).unwrap_err().to_string();
        assert!(error.contains("mounted no image"), "{error}");
        let error = container_disk(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains("mounted no image"), "{error}");
        fs::write(dir.path().join("x"), "").unwrap();
        check_mounted(dir.path()).unwrap();
        assert!(check_mounted(&dir.path().join("gone")).is_err());
    }

    #[test]
    fn a_container_disk_has_one_disk_and_no_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let (image, outside) = (dir.path().join("image"), dir.path().join("outside"));
        fs::create_dir_all(image.join("disk")).unwrap();
        fs::write(&outside, "secret").unwrap();
        let error = |path| {
            let error = container_disk(&image, path).unwrap_err();
            crate::explained(&error)
        };
        assert!(error(None).contains("no file in"));
        fs::write(image.join("disk/disk.img"), "disk").unwrap();
        let found = container_disk(&image, None).unwrap();
        assert_eq!(
            found,
            fs::canonicalize(image.join("disk/disk.img")).unwrap()
        );
        fs::write(image.join("disk/other.img"), "disk").unwrap();
        assert!(error(None).contains("more than one file"));
        assert!(container_disk(&image, Some("/disk/other.img")).is_ok());
        symlink("other.img", image.join("disk/latest")).unwrap();
        let found = container_disk(&image, Some("disk/latest")).unwrap();
        assert!(found.ends_with("disk/other.img"));
        // Within the image, an absolute link leads to the image's own root.
        symlink(&outside, image.join("disk/away")).unwrap();
        assert!(error(Some("disk/away")).contains("cannot open"));
        symlink("../../outside", image.join("disk/up")).unwrap();
        assert!(error(Some("disk/up")).contains("cannot open"));
        assert!(error(Some("disk")).contains("is no file"));
        assert!(error(Some("gone")).contains("cannot open"));
    }

    #[test]
    fn a_claim_holds_a_disk_or_room_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.img");
        let error = device(&path, false).unwrap_err().to_string();
        assert!(error.contains("holds no disk yet"), "{error}");
        assert_eq!(device(&path, true).unwrap(), path);
        let len = fs::metadata(&path).unwrap().len();
        assert!(len > 0 && len.is_multiple_of(MIB), "{len}");
        assert_eq!(device(&path, false).unwrap(), path);
        let link = dir.path().join("link.img");
        symlink("/etc/passwd", &link).unwrap();
        let error = device(&link, true).unwrap_err().to_string();
        assert!(error.contains("is no disk"), "{error}");
        assert!(device(dir.path(), true).is_err());
    }
}
