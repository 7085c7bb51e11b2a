//! The identity of a tree that has no image.
//!
//! An image is identified by its diff ids. A directory of the host has none:
//! its identity is SHA-256 over names and attributes, sizes and times, but not
//! over contents, which are not read, nor over where the directory lies.

use bootwright_image::Digest;
use bootwright_image::digest::{Algorithm, Hasher};

use crate::tree::{Kind, Timestamp, Tree};

/// The identity of `tree` and the latest time in it.
pub fn of_tree(tree: &Tree) -> (Digest, Timestamp) {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut latest = Timestamp::default();
    let mut walk = tree.walk();
    while let Some((path, id)) = walk.next_borrowed() {
        let inode = tree.inode(id);
        latest = latest.max(inode.mtime);
        let (kind, size): (&[u8], u64) = match &inode.kind {
            Kind::Directory(_) => (b"d", 0),
            Kind::Regular(file) => (b"f", file.size),
            Kind::Symlink(target) => (target, u64::MAX),
            Kind::CharDevice { major, minor } => (b"c", device(*major, *minor)),
            Kind::BlockDevice { major, minor } => (b"b", device(*major, *minor)),
            Kind::Fifo => (b"p", 0),
        };
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(path);
        field(kind);
        field(&size.to_le_bytes());
        field(&inode.mode.to_le_bytes());
        field(&inode.uid.to_le_bytes());
        field(&inode.gid.to_le_bytes());
        field(&inode.mtime.secs.to_le_bytes());
        field(&inode.mtime.nanos.to_le_bytes());
        for (name, value) in inode.xattrs.iter() {
            field(name);
            field(value);
        }
    }
    (hasher.finish(), latest)
}

fn device(major: u32, minor: u32) -> u64 {
    u64::from(major) << 32 | u64::from(minor)
}
