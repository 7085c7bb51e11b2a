//! What ext4 cannot hold: one clear error that names it.

use bootwright_disk::{Extent, SourceId};
use bootwright_rootfs::ext4::{self, Ext4Error, Options, Size};
use bootwright_rootfs::tree::{FileContent, Inode, Kind, Tree};

use crate::workshop::*;

fn refuse(inode: Inode) -> String {
    let mut tree = Tree::new(Vec::new());
    let dir = put(&mut tree, "dir", directory());
    tree.insert(dir, b"name", inode).unwrap();
    ext4::format(&tree, &options(Size::Exact(64 * MIB)))
        .unwrap_err()
        .to_string()
}

#[test]
fn what_cannot_be_stored_is_refused_with_its_path() {
    let regular = |size, extents| Inode::file(FileContent { size, extents }, 0o644, TIME);
    let xattr = |name: &str, len: usize| {
        let mut inode = file(Vec::new());
        inode.xattrs.insert(name.as_bytes(), vec![3; len]);
        inode
    };
    let device = |major, minor| Inode::new(Kind::CharDevice { major, minor }, 0o600);
    let cases = [
        (Inode::symlink(b"", TIME), "bad target"),
        (Inode::symlink(b"a\0b", TIME), "bad target"),
        (Inode::symlink(&[b'x'; 4096], TIME), "4096 bytes"),
        (device(4096, 0), "4096:0"),
        (device(0, 1 << 20), "0:1048576"),
        (regular(u64::MAX, Vec::new()), "too large"),
        (regular((1 << 44) - 4095, Vec::new()), "too large"),
        (
            regular(9, vec![Extent::source(0, 9, SourceId(0), 0)]),
            "content",
        ),
        (regular(9, vec![Extent::literal(1, vec![1; 9])]), "content"),
        (xattr("user.large", 4096), "too large"),
        (xattr("security.x", 65536), "too large"),
        (
            xattr("system.posix_acl_access", 5),
            "system.posix_acl_access",
        ),
    ];
    for (inode, words) in cases {
        let message = refuse(inode);
        assert!(message.contains(words), "{message}");
        assert!(message.contains("/dir/name"), "{message}");
    }
}

#[test]
fn more_names_than_ext4_counts_are_refused() {
    let mut tree = Tree::new(Vec::new());
    let id = put(&mut tree, "0", fifo());
    for i in 1..65_001 {
        tree.link(tree.root(), format!("{i}").as_bytes(), id)
            .unwrap();
    }
    let error = ext4::format(&tree, &options(Size::Exact(64 * MIB))).unwrap_err();
    assert_eq!(
        error,
        Ext4Error::ManyLinks {
            path: "0".into(),
            links: 65_001
        }
    );
    tree.remove(tree.root(), b"0");
    let shop = Workshop::new();
    shop.format(&tree, &options(Size::Exact(64 * MIB)));
}

#[test]
fn a_lost_found_that_is_no_directory_is_refused() {
    let mut tree = Tree::new(Vec::new());
    put(&mut tree, "lost+found", fifo());
    let error = ext4::format(&tree, &options(Size::Exact(64 * MIB))).unwrap_err();
    assert_eq!(error, Ext4Error::LostFound);
}

#[test]
fn sizes_and_labels_that_cannot_be_are_refused() {
    let tree = Tree::new(Vec::new());
    let with = |size, label: &str| Options {
        label: label.into(),
        ..options(size)
    };
    for (options, words) in [
        (with(Size::Exact(64 * MIB + 512), ""), "multiple of 4096"),
        (with(Size::Exact(1 << 44), ""), "16 TiB"),
        (with(Size::MinimalPlusFree(1 << 44), ""), "16 TiB"),
        (with(Size::MinimalPlusFree(u64::MAX), ""), "16 TiB"),
        (with(Size::Exact(64 * MIB), "seventeen bytes.."), "16 bytes"),
        (with(Size::Exact(0), ""), "needs 8388608 bytes"),
    ] {
        let message = ext4::format(&tree, &options).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
}
