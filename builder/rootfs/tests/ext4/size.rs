//! Sizes: what is needed, what is free, what a large disk costs.

use bootwright_rootfs::ext4::{self, Ext4Error, Options, Size, read_superblock};
use bootwright_rootfs::tree::{InodeId, Tree};

use crate::compare::compare;
use crate::workshop::*;

/// A tree of so many files in a pack, some of them removed.
fn tree_of(shop: &Workshop, files: u64, len: u64) -> Tree {
    let mut tree = Tree::new(Vec::new());
    let mut pack = Pack::default();
    let offsets: Vec<u64> = (0..files)
        .map(|i| pack.add(&noise(i, (len + i % 5000) as usize)))
        .collect();
    let id = shop.pack(&mut tree, &pack);
    let mut dir: InodeId = tree.root();
    for (i, offset) in (0u64..).zip(offsets) {
        if i % 100 == 0 {
            dir = put(&mut tree, &format!("d{i}"), directory());
        }
        if i % 10 != 3 {
            let inode = shown(id, offset, len + i % 5000);
            tree.insert(dir, format!("{i}").as_bytes(), inode).unwrap();
        }
    }
    tree
}

#[test]
fn the_size_needed_is_enough_and_a_block_less_is_not() {
    for (files, len) in [(300, 30_000), (1000, 1), (40, 5_000_000), (5000, 10)] {
        let shop = Workshop::new();
        let tree = tree_of(&shop, files, len);
        let options = |size| Options {
            spare_inodes: 10,
            ..options(size)
        };
        let Err(Ext4Error::NoSpace { size, needed }) =
            ext4::format(&tree, &options(Size::Exact(4096)))
        else {
            panic!("one block is not enough");
        };
        assert_eq!(size, 4096);
        let (formatted, volume) = shop.format(&tree, &options(Size::Exact(needed)));
        compare(&shop, &tree, &volume);
        assert_eq!(formatted.stats.minimum_size, needed);
        if needed > 8 * MIB {
            let error = ext4::format(&tree, &options(Size::Exact(needed - BLOCK))).unwrap_err();
            let size = needed - BLOCK;
            assert_eq!(error, Ext4Error::NoSpace { size, needed });
        }
    }
}

#[test]
fn the_room_asked_for_is_what_the_guest_has() {
    let shop = Workshop::new();
    let tree = tree_of(&shop, 300, 30_000);
    for free in [0, 1, 10 * MIB, 100 * MIB, 127 * MIB, 2 * GIB, 30 * GIB] {
        let (formatted, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(free)));
        let stats = formatted.stats;
        assert!(stats.available >= free, "{stats:?}");
        // Not much more than asked for: what groups and tables round up to.
        assert!(stats.available < free + 3 * MIB, "{free}: {stats:?}");
        let dumped = succeed("dumpe2fs", &["-h", volume.to_str().unwrap()]);
        let field = |name: &str| -> u64 {
            let line = dumped.lines().find(|line| line.starts_with(name)).unwrap();
            line[name.len()..].trim().parse().unwrap()
        };
        assert_eq!(field("Free blocks:") * BLOCK, stats.free);
        assert_eq!(field("Block count:") * BLOCK, stats.size);
        assert_eq!(field("Inode count:"), u64::from(stats.inodes));
        assert_eq!(field("Free inodes:"), u64::from(stats.free_inodes));
        if rustix::process::geteuid().is_root() {
            let mount = crate::compare::Mount::new(&shop, &volume, "ro");
            let df = rustix::fs::statvfs(&mount.at).unwrap();
            assert_eq!(df.f_bavail * df.f_frsize, stats.available);
            assert_eq!(df.f_ffree, u64::from(stats.free_inodes));
        }
    }
}

#[test]
fn volumes_of_any_size_are_clean() {
    let shop = Workshop::new();
    let tree = tree_of(&shop, 50, 3000);
    let group = 128 * MIB;
    let sizes = [
        2 * MIB,
        8 * MIB - BLOCK,
        8 * MIB,
        group - BLOCK,
        group,
        group + BLOCK,
        group + 3 * MIB,
        2 * group + MIB,
        16 * group,
        17 * group + 40 * MIB,
        40 * GIB,
        100 * GIB,
    ];
    for size in sizes {
        let (formatted, volume) = shop.format(&tree, &options(Size::Exact(size)));
        assert_eq!(formatted.volume.size, size);
        assert!(size - formatted.stats.size < group);
        if size < 3 * group {
            compare(&shop, &tree, &volume);
        }
        if size == 100 * GIB {
            assert!(formatted.stats.literal < 2 * MIB, "{:?}", formatted.stats);
            assert!(formatted.volume.extents.len() < 300);
        }
    }
}

#[test]
fn a_volume_of_a_tebibyte_costs_hardly_anything() {
    let shop = Workshop::new();
    let tree = tree_of(&shop, 50, 3000);
    let (formatted, volume) = shop.format(&tree, &options(Size::Exact(1 << 40)));
    // Mostly the copies of the group descriptors.
    assert!(formatted.stats.literal < 12 * MIB, "{:?}", formatted.stats);
    compare(&shop, &tree, &volume);
}

#[test]
fn as_many_inodes_as_asked_for_are_free() {
    let shop = Workshop::new();
    let tree = tree_of(&shop, 100, 100);
    for spare_inodes in [0, 5, 100_000, 1_000_000] {
        let options = Options {
            spare_inodes,
            ..options(Size::MinimalPlusFree(MIB))
        };
        let (formatted, _) = shop.format(&tree, &options);
        assert!(formatted.stats.free_inodes >= spare_inodes);
    }
    for bytes_per_inode in [0, 1024, 4096, 65536, u32::MAX] {
        let options = Options {
            bytes_per_inode,
            ..options(Size::Exact(3 * GIB))
        };
        let (formatted, volume) = shop.format(&tree, &options);
        let want = 3 * GIB / u64::from(bytes_per_inode.max(4096));
        assert!(u64::from(formatted.stats.inodes) >= want);
        compare(&shop, &tree, &volume);
    }
}

#[test]
fn the_superblock_tells_what_was_made() {
    let shop = Workshop::new();
    let tree = Tree::new(Vec::new());
    let (formatted, volume) = shop.format(&tree, &options(Size::Exact(GIB)));
    let bytes = std::fs::read(&volume).unwrap();
    let summary = read_superblock(&bytes[..4096]).unwrap();
    assert_eq!(summary.uuid, options(Size::Exact(0)).uuid);
    assert_eq!(summary.label, "root");
    assert_eq!(summary.size(), GIB);
    assert_eq!(summary.free(), formatted.stats.free);
    assert_eq!(summary.inodes, formatted.stats.inodes);
    assert!(summary.clean);
    // The same words as dumpe2fs.
    let dumped = succeed("dumpe2fs", &["-h", volume.to_str().unwrap()]);
    let line = dumped
        .lines()
        .find(|l| l.starts_with("Filesystem features:"))
        .unwrap();
    let features: Vec<&str> = line.split_whitespace().skip(2).collect();
    assert_eq!(summary.features, features);
    let mut damaged = bytes[..2048].to_vec();
    damaged[1024 + 0x78] ^= 1;
    assert_eq!(
        read_superblock(&damaged),
        Err(ext4::SuperblockError::BadChecksum)
    );
}

#[test]
fn the_features_are_those_of_mke2fs_without_resize_inode() {
    let shop = Workshop::new();
    let tree = Tree::new(Vec::new());
    let (_, volume) = shop.format(&tree, &options(Size::Exact(2 * GIB)));
    let theirs = shop.path("mke2fs");
    std::fs::File::create(&theirs)
        .unwrap()
        .set_len(2 * GIB)
        .unwrap();
    let theirs = theirs.to_str().unwrap();
    let features = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                    large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
    let args = [
        "-q", "-t", "ext4", "-O", features, "-b", "4096", "-I", "256", "-i", "16384", "-m", "1",
        "-L", "root", theirs,
    ];
    succeed("mke2fs", &args);
    // The same but for what is told to be different.
    let told = [
        "UUID",
        "created",
        "Last write",
        "Last check",
        "Lifetime",
        "Hash Seed",
        "Checksum:",
        "Filesystem features",
        "Journal sequence",
        "Reserved block count",
    ];
    let dump = |path: &str| -> Vec<String> {
        succeed("dumpe2fs", &["-h", path])
            .lines()
            .filter(|line| !told.iter().any(|word| line.contains(word)))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(dump(volume.to_str().unwrap()), dump(theirs));
}
