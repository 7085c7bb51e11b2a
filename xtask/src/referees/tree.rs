//! Comparing two directory trees entry by entry, both ways.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, FileType, Stat};
use sha2::{Digest, Sha256};

/// What a builder of disks adds to an image, and may therefore be in the
/// second tree alone.
const ADDED: &[&str] = &["lost+found"];

/// What a builder of disks replaces: the empty file that container tools
/// leave where they mount theirs becomes the link to systemd-resolved's.
const REPLACED: &[(&str, &[u8])] = &[(
    "etc/resolv.conf",
    b"../run/systemd/resolve/stub-resolv.conf",
)];

/// How many differences are told.
const TOLD: usize = 40;

/// All that an entry is, except for its name.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// `st_mode`: type and permissions.
    mode: u32,
    owner: (u32, u32),
    /// Bytes; 0 for what is neither a file nor a symbolic link.
    size: u64,
    /// Modification time: seconds and nanoseconds.
    mtime: (i64, u64),
    /// Names of the inode; 0 for directories, where file systems differ.
    links: u64,
    /// Major and minor number; 0 for what is no device.
    device: u64,
    /// A file's SHA-256, a symbolic link's target.
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Compares all entries below `expected` and `found`.
///
/// # Errors
/// Names every entry that is missing, too many or different, and how.
pub(super) fn compare(expected: &Path, found: &Path) -> Result<usize> {
    let (expected, mut found) = (read(expected)?, read(found)?);
    let mut differences = Vec::new();
    for (path, entry) in &expected {
        match found.remove(path) {
            None => differences.push(format!("{}: missing", path.display())),
            Some(other) if other.replaces(path, entry) => {}
            Some(other) => {
                for field in entry.differences(&other) {
                    differences.push(format!("{}: {field}", path.display()));
                }
            }
        }
    }
    let extra = found
        .keys()
        .filter(|path| !ADDED.iter().any(|a| path.starts_with(a)));
    differences.extend(extra.map(|path| format!("{}: not in the image", path.display())));
    if !differences.is_empty() {
        let told = differences.iter().take(TOLD).map(|d| format!("  {d}\n"));
        bail!(
            "{} differences:\n{}",
            differences.len(),
            told.collect::<String>()
        );
    }
    Ok(expected.len())
}

impl Entry {
    /// Whether this is what [`REPLACED`] puts in the place of `expected`.
    fn replaces(&self, path: &Path, expected: &Self) -> bool {
        expected.size == 0
            && FileType::from_raw_mode(self.mode) == FileType::Symlink
            && REPLACED
                .iter()
                .any(|(name, target)| path == Path::new(name) && self.content == *target)
    }

    fn differences(&self, found: &Self) -> Vec<String> {
        let mut list = Vec::new();
        let mut differ = |name: &str, a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| {
            let (a, b) = (format!("{a:?}"), format!("{b:?}"));
            if a != b {
                list.push(format!("{name} is {b}, not {a}"));
            }
        };
        differ(
            "mode",
            &format!("{:o}", self.mode),
            &format!("{:o}", found.mode),
        );
        differ("owner", &self.owner, &found.owner);
        differ("size", &self.size, &found.size);
        differ("mtime", &self.mtime, &found.mtime);
        differ("link count", &self.links, &found.links);
        differ("device", &self.device, &found.device);
        differ("xattrs", &self.xattrs, &found.xattrs);
        if self.content != found.content {
            list.push("content differs".into());
        }
        list
    }
}

fn read(root: &Path) -> Result<BTreeMap<PathBuf, Entry>> {
    let mut entries = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let at = root.join(&folder);
        for name in fs::read_dir(&at).with_context(|| format!("cannot list {}", at.display()))? {
            let path = folder.join(name?.file_name());
            let full = root.join(&path);
            let entry = read_entry(&full).with_context(|| format!("cannot read {full:?}"))?;
            if FileType::from_raw_mode(entry.mode) == FileType::Directory {
                folders.push(path.clone());
            }
            entries.insert(path, entry);
        }
    }
    Ok(entries)
}

fn read_entry(path: &Path) -> Result<Entry> {
    let stat: Stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let content = match kind {
        FileType::RegularFile => {
            let mut hash = HashWriter(Sha256::new());
            std::io::copy(&mut fs::File::open(path)?, &mut hash)?;
            hash.0.finalize().to_vec()
        }
        FileType::Symlink => fs::read_link(path)?.as_os_str().as_bytes().to_vec(),
        _ => Vec::new(),
    };
    let device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    Ok(Entry {
        mode: stat.st_mode,
        owner: (stat.st_uid, stat.st_gid),
        size: if content.is_empty() {
            0
        } else {
            u64::try_from(stat.st_size)?
        },
        mtime: (stat.st_mtime, stat.st_mtime_nsec),
        links: if kind == FileType::Directory {
            0
        } else {
            stat.st_nlink
        },
        device: if device { stat.st_rdev } else { 0 },
        content,
        xattrs: xattrs(path)?,
    })
}

fn xattrs(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; 64 << 10];
    let len = rustix::fs::llistxattr(path, &mut names[..])?;
    let mut found = BTreeMap::new();
    for name in names[..len]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; 64 << 10];
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..])?;
        value.truncate(len);
        found.insert(name.to_vec(), value);
    }
    Ok(found)
}

/// Writes into a hash.
struct HashWriter(Sha256);

impl std::io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_extra_or_different_is_named() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (dir, name, text) in [
            (&a, "same", "1"),
            (&b, "same", "1"),
            (&a, "changed", "1"),
            (&b, "changed", "2"),
            (&a, "missing", "1"),
            (&b, "extra", "1"),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            let time = std::time::SystemTime::UNIX_EPOCH;
            fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(time)
                .unwrap();
        }
        fs::create_dir(b.path().join("lost+found")).unwrap();
        let error = compare(a.path(), b.path()).unwrap_err().to_string();
        for part in [
            "3 differences",
            "changed: content",
            "missing: missing",
            "extra: not in",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(compare(a.path(), a.path()).is_ok_and(|n| n == 3));
    }
}
