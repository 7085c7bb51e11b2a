//! What a guest does with a volume: write to it and grow it.

use std::fs::{self, File};
use std::path::Path;

use bootwright_rootfs::ext4::Size;
use bootwright_rootfs::tree::Tree;

use crate::compare::{Mount, compare};
use crate::workshop::*;

fn some_tree(shop: &Workshop) -> Tree {
    let mut tree = Tree::new(Vec::new());
    let mut pack = Pack::default();
    let offsets: Vec<u64> = (0..2000).map(|i| pack.add(&noise(i, 3000))).collect();
    let id = shop.pack(&mut tree, &pack);
    let dir = put(&mut tree, "large", directory());
    for (i, offset) in offsets.into_iter().enumerate() {
        if i % 7 != 0 {
            let name = format!("a rather long name of file number {i}");
            tree.insert(dir, name.as_bytes(), shown(id, offset, 3000))
                .unwrap();
        }
    }
    let mut inode = file(b"x".to_vec());
    inode.xattrs.insert(&b"user.large"[..], noise(1, 2000));
    put(&mut tree, "attributes", inode);
    tree
}

fn resize(volume: &Path, size: u64) {
    File::options()
        .write(true)
        .open(volume)
        .unwrap()
        .set_len(size)
        .unwrap();
    succeed("resize2fs", &[volume.to_str().unwrap()]);
    fsck(volume);
}

#[test]
fn a_volume_grows_offline() {
    let shop = Workshop::new();
    let tree = some_tree(&shop);
    for (size, grown) in [
        (64 * MIB, 65 * MIB),
        (64 * MIB, 40 * 64 * MIB),
        (GIB, GIB + 200 * MIB),
        (GIB, 40 * GIB),
    ] {
        let (_, volume) = shop.format(&tree, &options(Size::Exact(size)));
        resize(&volume, grown);
        compare(&shop, &tree, &volume);
        resize(&volume, grown + 10 * GIB);
        compare(&shop, &tree, &volume);
    }
}

/// Growing a mounted file system takes CAP_SYS_RESOURCE, which root in a
/// container may lack.
fn may_grow_online() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let capabilities = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
    let may = capabilities >> 24 & 1 == 1;
    if !may {
        eprintln!("growing online needs CAP_SYS_RESOURCE: not tested");
    }
    may
}

#[test]
fn a_guest_writes_and_grows_a_mounted_volume() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("mounting needs root: not tested");
        return;
    }
    let shop = Workshop::new();
    let mut tree = some_tree(&shop);
    let (formatted, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(50 * MIB)));
    let mount = Mount::new(&shop, &volume, "rw");
    // Into the indexed directory, with blocks to split; into gaps; over
    // what is there.
    let dir = mount.at.join("large");
    for i in 0..3000 {
        fs::write(dir.join(format!("new {i}")), noise(i, 100)).unwrap();
    }
    for i in (0..3000).step_by(2) {
        fs::remove_file(dir.join(format!("new {i}"))).unwrap();
    }
    fs::write(mount.at.join("filled"), noise(7, 30 << 20)).unwrap();
    succeed(
        "setfattr",
        &[
            "-n",
            "user.large",
            "-v",
            "small",
            mount.at.join("attributes").to_str().unwrap(),
        ],
    );
    // Twice its size, then forty times.
    let factors = if may_grow_online() { &[2, 40][..] } else { &[] };
    for factor in factors {
        let size = formatted.volume.size * factor;
        File::options()
            .write(true)
            .open(&volume)
            .unwrap()
            .set_len(size)
            .unwrap();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let at = mount.at.to_str().unwrap();
        let line = mounts
            .lines()
            .find(|line| line.split(' ').nth(1) == Some(at))
            .unwrap();
        let device = line.split(' ').next().unwrap();
        succeed("losetup", &["-c", device]);
        succeed("resize2fs", &[device]);
        let df = rustix::fs::statvfs(&mount.at).unwrap();
        assert!(df.f_blocks * df.f_frsize > size / 10 * 8);
    }
    assert_eq!(
        fs::read(mount.at.join("filled")).unwrap(),
        noise(7, 30 << 20)
    );
    drop(mount);
    fsck(&volume);
    let mount = Mount::new(&shop, &volume, "rw");
    for i in (1..3000).step_by(2) {
        let path = mount.at.join(format!("large/new {i}"));
        assert_eq!(fs::read(&path).unwrap(), noise(i, 100));
        fs::remove_file(path).unwrap();
    }
    fs::remove_file(mount.at.join("filled")).unwrap();
    drop(mount);
    // What the image brought is still all there is, but for one value.
    let id = tree.child(tree.root(), b"attributes").unwrap();
    let value = &b"small"[..];
    tree.inode_mut(id).xattrs.insert(&b"user.large"[..], value);
    fsck(&volume);
    let mount = Mount::new(&shop, &volume, "ro");
    for (path, id) in tree.walk() {
        if tree.inode(id).is_directory() {
            continue;
        }
        let path = mount.at.join(std::str::from_utf8(&path).unwrap());
        assert!(fs::symlink_metadata(path).is_ok());
    }
}
