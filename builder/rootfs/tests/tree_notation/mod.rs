//! A notation for layers and trees, one entry a line, for tests:
//!
//! ```text
//! d PATH [ATTR]…          directory       f PATH CONTENT [ATTR]…  file
//! s PATH TARGET [ATTR]…   symbolic link   h PATH TARGET           hard link
//! p PATH [ATTR]…          fifo            c PATH MAJOR:MINOR      character device
//! ```
//! CONTENT is a number that stands for a page of the layer's pack. ATTR is an
//! octal mode (`=755`), an owner (`u1000:100`), a time (`@5`), or an xattr
//! (`user.a:value`). The root directory is `.`.
#![allow(dead_code, reason = "each test uses what it needs")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "only tests use it")]

use std::collections::BTreeMap;

use bootwright_disk::{Content, Source, SourceId, SourceKind};
use bootwright_image::{Entry, EntryKind, Segment, Timestamp};
use bootwright_rootfs::tree::{InodeId, Kind, MergeError, Tree};

/// Length of every file that is not empty (content 0).
pub(crate) const FILE_SIZE: u64 = 10;

/// The sources of `layers` layers.
pub(crate) fn packs(layers: usize) -> Vec<Source> {
    (0..layers)
        .map(|layer| Source {
            kind: SourceKind::Pack {
                diff_id: format!("sha256:{layer:064x}"),
            },
            path: format!("pack{layer}").into(),
            len: 1 << 30,
        })
        .collect()
}

/// Merges layers in this notation.
pub(crate) fn merge(layers: &[&[&str]]) -> Result<Tree, MergeError> {
    let mut tree = Tree::new(packs(layers.len()));
    for (layer, lines) in layers.iter().enumerate() {
        tree.apply_layer(SourceId(layer as u32), lines.iter().map(|l| entry(l)))?;
    }
    Ok(tree)
}

/// The entry that a line stands for.
pub(crate) fn entry(line: &str) -> Entry<'_> {
    let mut words = line.split(' ');
    let mut word = || words.next().unwrap_or_else(|| panic!("short line: {line}"));
    let (letter, path) = (word(), word());
    let kind = match letter {
        "d" => EntryKind::Directory,
        "f" => regular(word().parse().unwrap()),
        "s" => EntryKind::Symlink {
            target: word().as_bytes(),
        },
        "h" => EntryKind::Hardlink {
            target: word().as_bytes(),
        },
        "p" => EntryKind::Fifo,
        "c" => {
            let (major, minor) = word().split_once(':').unwrap();
            EntryKind::CharDevice {
                major: major.parse().unwrap(),
                minor: minor.parse().unwrap(),
            }
        }
        _ => panic!("unknown entry: {line}"),
    };
    let mut entry = Entry {
        path: path
            .strip_prefix('.')
            .filter(|p| p.is_empty())
            .unwrap_or(path)
            .as_bytes(),
        mode: default_mode(letter),
        kind,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Vec::new(),
    };
    for word in words {
        match word.split_at(1) {
            ("=", mode) => entry.mode = u16::from_str_radix(mode, 8).unwrap(),
            ("@", secs) => entry.mtime.secs = secs.parse().unwrap(),
            ("u", owner) if owner.starts_with(|c: char| c.is_ascii_digit()) => {
                let (uid, gid) = owner.split_once(':').unwrap();
                entry.uid = uid.parse().unwrap();
                entry.gid = gid.parse().unwrap();
            }
            _ => {
                let (name, value) = word.split_once(':').unwrap();
                entry.xattrs.push((name.as_bytes(), value.as_bytes()));
            }
        }
    }
    entry
}

fn default_mode(letter: &str) -> u16 {
    match letter {
        "d" => 0o755,
        "s" => 0o777,
        _ => 0o644,
    }
}

fn regular<'a>(content: u64) -> EntryKind<'a> {
    let segment = Segment {
        file_offset: 0,
        pack_offset: content * 4096,
        len: FILE_SIZE,
    };
    match content {
        0 => EntryKind::Regular {
            size: 0,
            segments: Vec::new(),
        },
        _ => EntryKind::Regular {
            size: FILE_SIZE,
            segments: vec![segment],
        },
    }
}

/// A tree in this notation: names in byte order, the later names of an inode
/// as hard links to its first. The root is left out if it is as in an empty
/// tree.
pub(crate) fn dump(tree: &Tree) -> Vec<String> {
    let mut first = BTreeMap::<InodeId, String>::new();
    let mut names = BTreeMap::<InodeId, u32>::new();
    let mut lines = Vec::new();
    for (path, id) in tree.walk() {
        *names.entry(id).or_default() += 1;
        let path = String::from_utf8(path).unwrap();
        if let Some(first) = first.get(&id) {
            lines.push(format!("h {path} {first}"));
            continue;
        }
        let line = describe(tree, id, if path.is_empty() { "." } else { &path });
        if line != "d ." {
            lines.push(line);
        }
        first.insert(id, path);
    }
    for (id, names) in names {
        assert_eq!(tree.inode(id).names, names, "names of /{}", first[&id]);
    }
    lines
}

fn describe(tree: &Tree, id: InodeId, path: &str) -> String {
    let inode = tree.inode(id);
    let mut line = match &inode.kind {
        Kind::Directory(_) => format!("d {path}"),
        Kind::Regular(file) => match file.extents.as_slice() {
            [] => {
                assert_eq!(file.size, 0);
                format!("f {path} 0")
            }
            [extent] => {
                assert_eq!((extent.start, extent.len, file.size), (0, 10, 10));
                let Content::Source { offset, .. } = extent.content else {
                    panic!("literal in {path}");
                };
                format!("f {path} {}", offset / 4096)
            }
            more => panic!("{path}: {more:?}"),
        },
        Kind::Symlink(target) => format!("s {path} {}", String::from_utf8_lossy(target)),
        Kind::CharDevice { major, minor } => format!("c {path} {major}:{minor}"),
        Kind::BlockDevice { major, minor } => format!("b {path} {major}:{minor}"),
        Kind::Fifo => format!("p {path}"),
    };
    if inode.mode != default_mode(&line[..1]) {
        line += &format!(" ={:o}", inode.mode);
    }
    if (inode.uid, inode.gid) != (0, 0) {
        line += &format!(" u{}:{}", inode.uid, inode.gid);
    }
    if inode.mtime != Timestamp::default() {
        line += &format!(" @{}", inode.mtime.secs);
    }
    for (name, value) in inode.xattrs.iter() {
        line += &format!(
            " {}:{}",
            String::from_utf8_lossy(name),
            String::from_utf8_lossy(value)
        );
    }
    line
}
