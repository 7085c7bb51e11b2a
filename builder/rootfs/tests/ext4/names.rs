//! Directories, names, types and attributes.

use bootwright_image::Timestamp;
use bootwright_rootfs::ext4::Size;
use bootwright_rootfs::tree::{Inode, Kind, Tree};

use crate::compare::{compare, compare_by_tools};
use crate::workshop::*;

#[test]
fn an_empty_tree_is_a_clean_file_system() {
    let shop = Workshop::new();
    let tree = Tree::new(Vec::new());
    for size in [
        Size::Exact(MIB),
        Size::Exact(64 * MIB),
        Size::MinimalPlusFree(0),
    ] {
        let (formatted, volume) = shop.format(&tree, &options(size));
        assert_eq!(formatted.warnings, [""; 0]);
        compare(&shop, &tree, &volume);
    }
}

#[test]
fn names_types_owners_and_times_are_kept() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    let long = "n".repeat(255);
    for name in [
        "a",
        "with space",
        "new\nline",
        "\u{1f980}",
        "back\\slash",
        "quote\"'",
        "-rf",
        "...",
        &long,
    ] {
        put(&mut tree, name, file(name.as_bytes().to_vec()));
    }
    tree.insert(tree.root(), b"\xff\xfe\x01", fifo()).unwrap();
    for (i, (major, minor)) in [
        (0, 0),
        (1, 3),
        (255, 255),
        (256, 0),
        (8, 256),
        (4095, 0xf_ffff),
    ]
    .into_iter()
    .enumerate()
    {
        put(
            &mut tree,
            &format!("c{i}"),
            Inode::new(Kind::CharDevice { major, minor }, 0o620),
        );
        put(
            &mut tree,
            &format!("b{i}"),
            Inode::new(Kind::BlockDevice { major, minor }, 0o660),
        );
    }
    for len in [1, 58, 59, 60, 61, 4094, 4095] {
        let target = &"../target".repeat(500)[..len];
        put(
            &mut tree,
            &format!("link{len}"),
            Inode::symlink(target.as_bytes(), TIME),
        );
    }
    let hard = put(&mut tree, "hard", file(b"x".to_vec()));
    let sub = put(&mut tree, "sub", directory());
    for i in 0..500 {
        tree.link(sub, format!("link {i}").as_bytes(), hard)
            .unwrap();
    }
    let (_, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(MIB)));
    compare(&shop, &tree, &volume);
}

#[test]
fn times_owners_and_modes_are_kept_up_to_their_limits() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    for (i, secs) in [
        -0x8000_0000,
        -1,
        0,
        0x7fff_ffff,
        0x8000_0000,
        0x3_7fff_ffff,
        i64::MAX,
        i64::MIN,
    ]
    .into_iter()
    .enumerate()
    {
        let inode = Inode {
            mtime: Timestamp {
                secs,
                nanos: 999_999_999,
            },
            mode: 0o7777,
            uid: 70_000 + i as u32,
            gid: u32::MAX - 1,
            ..directory()
        };
        put(&mut tree, &format!("time{i}"), inode);
    }
    let (_, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(MIB)));
    compare_by_tools(&shop, &tree, &volume);
}

#[test]
fn directories_of_any_size_are_found_by_name() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    // Around one block, and around an index of one level (507 leaves).
    for count in [1u32, 254, 255, 340, 341, 342, 20_000] {
        let dir = put(&mut tree, &format!("d{count}"), directory());
        for i in 0..count {
            tree.insert(dir, format!("{i:x}").as_bytes(), fifo())
                .unwrap();
        }
    }
    let dir = put(&mut tree, "long", directory());
    for i in 0..9_000 {
        tree.insert(dir, format!("{i:0255}").as_bytes(), fifo())
            .unwrap();
    }
    let (_, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(MIB)));
    compare(&shop, &tree, &volume);
}

#[test]
fn a_hundred_thousand_names_in_one_directory_are_kept() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    let dir = put(&mut tree, "dir", directory());
    let one = tree.insert(dir, b"first", file(b"1".to_vec())).unwrap();
    for i in 0..100_000u32 {
        let name = format!("a file with the number {}", i.wrapping_mul(2_654_435_761));
        if i % 2 == 0 {
            tree.insert(dir, name.as_bytes(), fifo()).unwrap();
        } else if i < 60_000 {
            tree.link(dir, name.as_bytes(), one).unwrap();
        } else {
            tree.insert(dir, name.as_bytes(), directory()).unwrap();
        }
    }
    let (_, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(MIB)));
    compare_by_tools(&shop, &tree, &volume);
}

#[test]
fn more_subdirectories_than_are_counted_are_kept() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    for (name, count) in [("counted", 64_998), ("not counted", 64_999)] {
        let dir = put(&mut tree, name, directory());
        for i in 0..count {
            tree.insert(dir, format!("{i}").as_bytes(), directory())
                .unwrap();
        }
    }
    let (_, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(MIB)));
    // e2fsck counts them itself.
    for (name, links) in [("counted", "65000"), ("not counted", "1")] {
        let command = format!("stat \"/{name}\"");
        let stat = succeed("debugfs", &["-R", &command, volume.to_str().unwrap()]);
        assert!(stat.contains(&format!("Links: {links} ")), "{stat}");
    }
}

#[test]
fn directories_a_thousand_levels_deep_are_kept() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    let mut dir = tree.root();
    for i in 0..1000 {
        tree.insert(dir, b"f", file(vec![b'x'; i])).unwrap();
        // Short, so that paths stay within PATH_MAX.
        dir = tree.insert(dir, b"d", directory()).unwrap();
    }
    let (_, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(MIB)));
    compare_by_tools(&shop, &tree, &volume);
}

#[test]
fn a_lost_found_of_the_image_is_used() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    put(&mut tree, "a", file(b"a".to_vec()));
    let dir = put(&mut tree, "lost+found", directory());
    tree.inode_mut(dir).mode = 0o750;
    let sub = tree.insert(dir, b"sub", directory()).unwrap();
    tree.insert(sub, b"f", file(b"f".to_vec())).unwrap();
    let (_, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(MIB)));
    compare(&shop, &tree, &volume);
    let stat = succeed(
        "debugfs",
        &["-R", "stat /lost+found", volume.to_str().unwrap()],
    );
    assert!(stat.contains("Inode: 11 "), "{stat}");
    assert!(stat.contains("Size: 16384"), "{stat}");
}
