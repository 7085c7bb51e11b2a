//! Extended attributes and access control lists.

use bootwright_rootfs::ext4::Size;
use bootwright_rootfs::tree::{Inode, Tree};

use crate::compare::compare;
use crate::workshop::*;

fn with(mut inode: Inode, xattrs: &[(&str, Vec<u8>)]) -> Inode {
    for (name, value) in xattrs {
        inode.xattrs.insert(name.as_bytes(), value.as_slice());
    }
    inode
}

/// An ACL in version 2, from tag, permissions and id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&permissions.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

#[test]
fn attributes_of_all_sizes_are_kept() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    for len in (0..100).chain([500, 1000, 3999, 4000, 4040]) {
        let x = [("user.abcd", noise(len, len as usize))];
        put(&mut tree, &format!("one{len}"), with(file(Vec::new()), &x));
    }
    for count in [2, 3, 5, 20, 50] {
        let names: Vec<String> = (0..count)
            .map(|i| format!("user.{}", "n".repeat(i + 1)))
            .collect();
        let x: Vec<(&str, Vec<u8>)> = names
            .iter()
            .map(|name| (&**name, noise(count as u64, 40 - name.len().min(40))))
            .collect();
        put(&mut tree, &format!("many{count}"), with(directory(), &x));
    }
    let name = format!("user.{}", "l".repeat(250));
    put(
        &mut tree,
        "long",
        with(file(Vec::new()), &[(&name, noise(1, 100))]),
    );
    let (formatted, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(MIB)));
    assert_eq!(formatted.warnings, [""; 0]);
    compare(&shop, &tree, &volume);
}

#[test]
fn all_namespaces_on_all_types_are_kept() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    // cap_net_raw=ep, version 2.
    let mut capability = vec![0; 20];
    capability[..4].copy_from_slice(&0x0200_0001u32.to_le_bytes());
    capability[4..8].copy_from_slice(&0x2000u32.to_le_bytes());
    let label = b"system_u:object_r:bin_t:s0\0".to_vec();
    let x = [
        ("security.capability", capability),
        ("security.selinux", label.clone()),
        ("trusted.overlay.opaque", b"y".to_vec()),
        ("user.name", b"value".to_vec()),
        ("user.x\u{e9}", b"a name that is not ASCII".to_vec()),
    ];
    put(&mut tree, "file", with(file(b"x".to_vec()), &x));
    put(&mut tree, "dir", with(directory(), &x[1..]));
    put(&mut tree, "fifo", with(fifo(), &x[1..3]));
    put(
        &mut tree,
        "link",
        with(Inode::symlink(b"target", TIME), &x[1..3]),
    );
    let slow = "x".repeat(200);
    let xattrs = [("security.selinux", vec![b'l'; 200])];
    put(
        &mut tree,
        "slow",
        with(Inode::symlink(slow.as_bytes(), TIME), &xattrs),
    );
    put(
        &mut tree,
        "fast",
        with(Inode::symlink(b"fast", TIME), &xattrs),
    );
    let root = tree.root();
    tree.inode_mut(root)
        .xattrs
        .insert(&b"security.selinux"[..], label);
    let (_, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(MIB)));
    compare(&shop, &tree, &volume);
}

#[test]
fn access_control_lists_are_what_getfacl_shows() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    const NOBODY: u32 = u32::MAX;
    let access = acl(&[
        (1, 7, NOBODY),
        (2, 6, 1000),
        (2, 4, 70_000),
        (4, 5, NOBODY),
        (8, 1, 4),
        (16, 7, NOBODY),
        (32, 5, NOBODY),
    ]);
    let default = acl(&[(1, 7, NOBODY), (4, 5, NOBODY), (32, 0, NOBODY)]);
    let large: Vec<(u16, u16, u32)> = [(1, 7, NOBODY)]
        .into_iter()
        .chain((0..400).map(|id| (2, 4, id)))
        .chain([(4, 5, NOBODY), (16, 7, NOBODY), (32, 0, NOBODY)])
        .collect();
    let name = "system.posix_acl_access";
    let mode = |inode: Inode| Inode {
        mode: 0o775,
        ..inode
    };
    put(
        &mut tree,
        "file",
        with(mode(file(Vec::new())), &[(name, access.clone())]),
    );
    let both = [(name, access), ("system.posix_acl_default", default)];
    put(&mut tree, "dir", with(mode(directory()), &both));
    put(
        &mut tree,
        "none",
        with(mode(directory()), &[(name, acl(&[]))]),
    );
    let inode = Inode {
        mode: 0o770,
        ..directory()
    };
    put(&mut tree, "large", with(inode, &[(name, acl(&large))]));
    let (formatted, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(MIB)));
    assert_eq!(formatted.warnings, [""; 0]);
    compare(&shop, &tree, &volume);
    if rustix::process::geteuid().is_root() {
        let mount = crate::compare::Mount::new(&shop, &volume, "ro");
        let dir = mount.at.join("dir");
        let text = succeed("getfacl", &["-n", "-c", dir.to_str().unwrap()]);
        let want = "user::rwx\nuser:1000:rw-\nuser:70000:r--\ngroup::r-x\ngroup:4:--x\n\
                    mask::rwx\nother::r-x\ndefault:user::rwx\ndefault:group::r-x\n\
                    default:other::---\n";
        assert!(text.contains(want), "{text}");
    }
}

#[test]
fn a_block_of_attributes_is_shared_by_up_to_1024_inodes() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    let x = [("user.large", noise(1, 1000)), ("user.small", vec![1])];
    for i in 0..2500 {
        put(&mut tree, &format!("f{i}"), with(file(Vec::new()), &x));
    }
    let (many, volume) = shop.format(&tree, &options(Size::Exact(64 * MIB)));
    compare(&shop, &tree, &volume);
    for i in 1..2500 {
        let id = tree.child(tree.root(), format!("f{i}").as_bytes()).unwrap();
        tree.inode_mut(id).xattrs = Default::default();
    }
    let (one, _) = shop.format(&tree, &options(Size::Exact(64 * MIB)));
    assert_eq!(one.stats.free - many.stats.free, 2 * BLOCK);
}

#[test]
fn what_ext4_has_no_place_for_is_left_out_and_told() {
    let shop = Workshop::new();
    let mut tree = Tree::new(Vec::new());
    let x = [("com.apple.provenance", vec![1]), ("user.kept", vec![2])];
    for i in 0..150 {
        put(&mut tree, &format!("f{i:03}"), with(file(Vec::new()), &x));
    }
    let (formatted, volume) = shop.format(&tree, &options(Size::MinimalPlusFree(MIB)));
    compare(&shop, &tree, &volume);
    assert_eq!(formatted.warnings.len(), 101);
    assert_eq!(
        formatted.warnings[0],
        "ext4 has no place for the extended attribute com.apple.provenance: /f000"
    );
    assert_eq!(formatted.warnings[100], "and 50 more");
}
