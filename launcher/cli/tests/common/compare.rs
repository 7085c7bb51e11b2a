//! Compares two mounted or unpacked directory trees, inode by inode.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Everything about a file that must survive, its name apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, i64),
    /// Length of files, target of links, number of devices.
    pub content: String,
    /// All names of the inode, for files with more than one.
    pub links: Vec<PathBuf>,
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// All that lies below `root`, by path.
pub fn facts(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut found = BTreeMap::new();
    let mut names: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        if meta.is_dir() {
            for entry in fs::read_dir(&full).unwrap() {
                pending.push(path.join(entry.unwrap().file_name()));
            }
        } else if meta.nlink() > 1 {
            names.entry(meta.ino()).or_default().push(path.clone());
            inodes.insert(path.clone(), meta.ino());
        }
        let kind = meta.file_type();
        let content = if kind.is_file() {
            let bytes = fs::read(&full).unwrap();
            format!("{} {:x?}", meta.len(), &Sha256::digest(&bytes)[..8])
        } else if kind.is_symlink() {
            format!("{:?}", fs::read_link(&full).unwrap())
        } else if kind.is_block_device() || kind.is_char_device() {
            format!("device {:x}", meta.rdev())
        } else {
            String::new()
        };
        let facts = Facts {
            mode: meta.mode(),
            uid: meta.uid(),
            gid: meta.gid(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            content,
            links: Vec::new(),
            xattrs: xattrs(&full),
        };
        found.insert(path, facts);
    }
    for (path, inode) in inodes {
        let mut links = names[&inode].clone();
        links.sort();
        found.get_mut(&path).unwrap().links = links;
    }
    found
}

fn xattrs(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut list = vec![0u8; 65536];
    let len = rustix::fs::llistxattr(path, &mut list).unwrap_or(0);
    list[..len]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0u8; 65536];
            let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(len);
            (OsString::from_vec(name.to_vec()), value)
        })
        .collect()
}

/// The differences between two trees in words; empty when they are the same.
pub fn differences(want: &BTreeMap<PathBuf, Facts>, got: &BTreeMap<PathBuf, Facts>) -> Vec<String> {
    let show = |p: &Path| String::from_utf8_lossy(p.as_os_str().as_bytes()).into_owned();
    let mut lines = Vec::new();
    for (path, facts) in want {
        match got.get(path) {
            None => lines.push(format!("missing: {}", show(path))),
            Some(other) if other != facts => {
                lines.push(format!(
                    "{}:\n  want {facts:?}\n  got  {other:?}",
                    show(path)
                ));
            }
            Some(_) => {}
        }
    }
    lines.extend(
        got.keys()
            .filter(|p| !want.contains_key(*p))
            .map(|p| format!("extra: {}", show(p))),
    );
    lines
}
