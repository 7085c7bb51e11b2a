//! Customising a tree: names, accounts, keys and files, as a user asks.
#![allow(clippy::unwrap_used, clippy::panic, reason = "it is all tests")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use bootwright_disk::{SourceKind, SourceReader};
use bootwright_rootfs::customize::{Customization, FileSpec, MachineId, Password, parse_keys};
use bootwright_rootfs::tree::{FileContent, Inode, Kind, Timestamp, Tree};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGRvIG5vdCB1c2UgdGhpcyBrZXksIGl0IGlzIGEgdGVz me@home";
const OTHER_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG5vciB0aGlzLCBpdCBpcyBhIHRlc3QgYXMgd2VsbCAg you@home";

/// The image's time; everything of an image has it, changed or not.
const THEN: Timestamp = Timestamp { secs: 5, nanos: 0 };
/// The build's time: 20,000 days and a bit.
const NOW: Timestamp = Timestamp {
    secs: 20_000 * 86_400 + 77,
    nanos: 0,
};

/// A tree with these files; a path with `@` before it is a symbolic link, one
/// that ends in `/` a directory.
fn image(files: &[(&str, &str)]) -> Tree {
    let mut tree = Tree::new(Vec::new());
    let template = Inode::directory(0o755, THEN);
    for (path, content) in files {
        if let Some(path) = path.strip_suffix('/') {
            tree.make_directories(path.as_bytes(), &template).unwrap();
            continue;
        }
        let (path, inode) = match path.strip_prefix('@') {
            Some(path) => (path, Inode::symlink(content.as_bytes(), THEN)),
            None => {
                let content = FileContent::literal(content.to_string());
                let mode = if path.contains("shadow") {
                    0o640
                } else {
                    0o644
                };
                (*path, Inode::file(content, mode, THEN))
            }
        };
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = tree.make_directories(parent.as_bytes(), &template).unwrap();
        tree.insert(dir, name.as_bytes(), inode).unwrap();
    }
    tree
}

const DEBIAN: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\nold:x:1000:1000::/home/old:/bin/sh\n",
    ),
    (
        "etc/group",
        "root:x:0:\nsudo:x:27:old\nold:x:1000:\nstaff:x:1001:",
    ),
    (
        "etc/shadow",
        "root:*:19000:0:99999:7:::\nold:!:19000:0:99999:7:::\n",
    ),
    ("etc/gshadow", "root:*::\nsudo:*::old\n"),
    ("etc/subuid", "old:100000:65536\n"),
    ("etc/subgid", ""),
    ("etc/sudoers.d/README", "x"),
    ("etc/skel/.bashrc", "# bashrc\n"),
    ("etc/skel/.config/app/x", "y"),
    ("@etc/skel/link", ".bashrc"),
    ("@bin", "usr/bin"),
    ("usr/bin/bash", ""),
    ("root/", ""),
    ("home/", ""),
];

fn apply(tree: &mut Tree, what: Customization) {
    Customization { time: NOW, ..what }.apply(tree).unwrap();
}

fn fails(files: &[(&str, &str)], what: Customization) -> String {
    let mut tree = image(files);
    what.apply(&mut tree).unwrap_err().to_string()
}

fn text(tree: &Tree, path: &str) -> String {
    let id = tree
        .resolve(path.as_bytes())
        .unwrap_or_else(|e| panic!("{e}"));
    let reader = SourceReader::new(tree.sources().to_vec());
    String::from_utf8(tree.read(id, 1 << 20, &reader).unwrap()).unwrap()
}

/// Type, mode, owner and whether the time is the build's.
fn attributes(tree: &Tree, path: &str) -> String {
    let (dir, name) = tree.resolve_parent(path.as_bytes()).unwrap();
    let inode = tree.inode(tree.child(dir, name).unwrap_or_else(|| panic!("no {path}")));
    let kind = match &inode.kind {
        Kind::Directory(_) => "d".to_owned(),
        Kind::Regular(_) => "f".to_owned(),
        Kind::Symlink(target) => format!("s {}", String::from_utf8_lossy(target)),
        other => format!("{other:?}"),
    };
    let time = if inode.mtime == NOW { "now" } else { "then" };
    format!("{kind} {:o} {}:{} {time}", inode.mode, inode.uid, inode.gid)
}

fn exists(tree: &Tree, path: &str) -> bool {
    tree.resolve(path.as_bytes()).is_ok()
}

#[test]
fn a_user_is_made_as_an_administrator_would() {
    let mut tree = image(DEBIAN);
    let users = vec!["bob".parse().unwrap(), "eve:2000".parse().unwrap()];
    apply(
        &mut tree,
        Customization {
            users,
            ..Default::default()
        },
    );
    assert!(text(&tree, "etc/passwd").ends_with(
        "old:x:1000:1000::/home/old:/bin/sh\nbob:x:1002:1002::/home/bob:/bin/bash\n\
         eve:x:2000:2000::/home/eve:/bin/bash\n"
    ));
    assert_eq!(
        text(&tree, "etc/group"),
        "root:x:0:\nsudo:x:27:old,bob,eve\nold:x:1000:\nstaff:x:1001:\nbob:x:1002:\neve:x:2000:\n"
    );
    assert!(
        text(&tree, "etc/shadow").ends_with("bob:*:20000:0:99999:7:::\neve:*:20000:0:99999:7:::\n")
    );
    assert_eq!(
        text(&tree, "etc/gshadow"),
        "root:*::\nsudo:*::old,bob,eve\nbob:!::\neve:!::\n"
    );
    assert_eq!(
        text(&tree, "etc/subuid"),
        "old:100000:65536\nbob:165536:65536\neve:231072:65536\n"
    );
    assert_eq!(
        text(&tree, "etc/subgid"),
        "bob:100000:65536\neve:165536:65536\n"
    );
    assert_eq!(
        text(&tree, "etc/sudoers.d/90-bootwright-bob"),
        "bob ALL=(ALL) NOPASSWD:ALL\n"
    );
    for (path, expected) in [
        ("etc/passwd", "f 644 0:0 now"),
        ("etc/shadow", "f 640 0:0 now"),
        ("etc/sudoers.d/90-bootwright-bob", "f 440 0:0 now"),
        ("home/bob", "d 700 1002:1002 now"),
        ("home/bob/.bashrc", "f 644 1002:1002 now"),
        ("home/bob/.config/app", "d 755 1002:1002 now"),
        ("home/bob/.config/app/x", "f 644 1002:1002 now"),
        ("home/bob/link", "s .bashrc 777 1002:1002 now"),
        ("home/eve", "d 700 2000:2000 now"),
        ("etc/skel/.bashrc", "f 644 0:0 then"),
        ("home", "d 755 0:0 then"),
    ] {
        assert_eq!(attributes(&tree, path), expected, "{path}");
    }
    assert_eq!(text(&tree, "home/bob/.bashrc"), "# bashrc\n");
}

/// Files that share blocks would be corruption on the disk.
#[test]
fn two_users_share_no_content() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("etc/skel")).unwrap();
    fs::write(dir.path().join("etc/skel/f"), "content").unwrap();
    let mut tree = Tree::from_directory(dir.path(), Default::default()).unwrap();
    let users = vec!["a".parse().unwrap()];
    apply(
        &mut tree,
        Customization {
            users,
            ..Default::default()
        },
    );
    let copy = tree.inode(tree.resolve(b"home/a/f").unwrap()).kind.clone();
    assert_eq!(copy, Kind::Regular(FileContent::literal("content")));
}

#[test]
fn an_image_without_account_files_gets_what_is_needed() {
    let mut tree = image(&[]);
    let users = vec!["bob".parse().unwrap()];
    let root_password = Some(Password::Hash("$6$salt$hash-hash".into()));
    let what = Customization {
        users,
        root_password,
        ..Default::default()
    };
    apply(&mut tree, what);
    assert_eq!(
        text(&tree, "etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nbob:*:1000:1000::/home/bob:/bin/sh\n"
    );
    assert_eq!(
        text(&tree, "etc/shadow"),
        "root:$6$salt$hash-hash:20000:0:99999:7:::\n"
    );
    assert_eq!(attributes(&tree, "etc/shadow"), "f 600 0:0 now");
    assert_eq!(attributes(&tree, "home/bob"), "d 700 1000:1000 now");
    assert!(!exists(&tree, "etc/sudoers.d"));
    assert!(!exists(&tree, "etc/gshadow"));
}

#[test]
fn groups_below_usr_lib_take_their_members_in_etc() {
    let mut tree = image(&[
        ("etc/passwd", "root:x:0:0::/root:/bin/bash\n"),
        ("etc/group", "root:x:0:\n"),
        (
            "usr/lib/passwd",
            "core:x:1000:1000::/var/home/core:/bin/bash\n",
        ),
        ("usr/lib/group", "wheel:x:10:\ncore:x:1000:\n"),
        ("@home", "var/home"),
        ("@root", "var/roothome"),
        ("var/", ""),
    ]);
    let users = vec!["bob".parse().unwrap()];
    let ssh_keys = parse_keys(KEY.as_bytes()).unwrap();
    apply(
        &mut tree,
        Customization {
            users,
            ssh_keys,
            ..Default::default()
        },
    );
    assert_eq!(
        text(&tree, "etc/group"),
        "root:x:0:\nbob:x:1001:\nwheel:x:10:bob\n"
    );
    assert_eq!(
        attributes(&tree, "var/home/bob/.ssh"),
        "d 700 1001:1001 now"
    );
    // The image's own user only gets the key.
    let users = vec!["core".parse().unwrap()];
    let ssh_keys = parse_keys(KEY.as_bytes()).unwrap();
    apply(
        &mut tree,
        Customization {
            users,
            ssh_keys,
            ..Default::default()
        },
    );
    assert_eq!(
        attributes(&tree, "var/home/core/.ssh/authorized_keys"),
        "f 600 1000:1000 now"
    );
    assert!(!text(&tree, "etc/passwd").contains("core"));
    let ssh_keys = parse_keys(KEY.as_bytes()).unwrap();
    apply(
        &mut tree,
        Customization {
            ssh_keys,
            ..Default::default()
        },
    );
    assert_eq!(attributes(&tree, "var/roothome/.ssh"), "d 700 0:0 now");
}

#[test]
fn users_that_conflict_are_refused() {
    let users = |text: &str| Customization {
        users: vec![text.parse().unwrap()],
        ..Default::default()
    };
    for (user, message) in [
        (
            "old:1234",
            "cannot add user old: the image has that user already, with id 1000",
        ),
        (
            "bob:1000",
            "cannot add user bob: id 1000 belongs to another user",
        ),
        ("bob:65534", "id 65534 belongs"),
    ] {
        let error = fails(DEBIAN, users(user));
        assert!(error.contains(message), "{error}");
    }
    let error = fails(&[("etc/passwd/", "")], users("bob"));
    assert!(error.contains("/etc/passwd"), "{error}");
    let error = fails(&[("@etc", "etc")], users("bob"));
    assert!(error.contains("symbolic links"), "{error}");
    // A uid whose number is another group's id gets another group id.
    let mut tree = image(DEBIAN);
    apply(&mut tree, users("bob:1001"));
    assert!(text(&tree, "etc/passwd").contains("bob:x:1001:1002:"));
    // A group of the user's name becomes the user's.
    apply(&mut tree, users("staff"));
    assert!(text(&tree, "etc/passwd").contains("staff:x:1003:1001:"));
}

#[test]
fn keys_join_those_that_are_there() {
    let mut tree = image(DEBIAN);
    let ssh_keys = parse_keys(KEY.as_bytes()).unwrap();
    apply(
        &mut tree,
        Customization {
            ssh_keys,
            ..Default::default()
        },
    );
    assert_eq!(attributes(&tree, "root/.ssh"), "d 700 0:0 now");
    assert_eq!(
        attributes(&tree, "root/.ssh/authorized_keys"),
        "f 600 0:0 now"
    );
    let both = format!("{KEY}\n{OTHER_KEY}\n{OTHER_KEY}\n");
    let ssh_keys = parse_keys(both.as_bytes()).unwrap();
    apply(
        &mut tree,
        Customization {
            ssh_keys,
            ..Default::default()
        },
    );
    assert_eq!(
        text(&tree, "root/.ssh/authorized_keys"),
        format!("{KEY}\n{OTHER_KEY}\n")
    );
    assert_eq!(attributes(&tree, "root"), "d 755 0:0 then");
}

#[test]
fn keys_of_an_absolute_link_do_not_leave_the_tree() {
    let mut tree = image(&[("@root", "/../../tmp/x")]);
    let ssh_keys = parse_keys(KEY.as_bytes()).unwrap();
    apply(
        &mut tree,
        Customization {
            ssh_keys,
            ..Default::default()
        },
    );
    assert!(text(&tree, "tmp/x/.ssh/authorized_keys").contains(KEY));
}

#[test]
fn the_root_password_is_a_hash_that_is_always_the_same() {
    let shadow = |identity: &[u8]| {
        let mut tree = image(DEBIAN);
        let root_password = Some(Password::parse(b"secret\n").unwrap());
        let identity = identity.to_vec();
        apply(
            &mut tree,
            Customization {
                root_password,
                identity,
                ..Default::default()
            },
        );
        assert!(text(&tree, "etc/passwd").starts_with("root:x:0:0:root:/root:/bin/bash\n"));
        text(&tree, "etc/shadow")
    };
    let line = shadow(b"a").lines().next().unwrap().to_owned();
    assert!(line.starts_with("root:$6$"), "{line}");
    assert!(line.ends_with(":20000:0:99999:7:::"), "{line}");
    assert_eq!(shadow(b"a"), shadow(b"a"));
    assert_ne!(shadow(b"a"), shadow(b"b"));
}

#[test]
fn a_date_of_1970_does_not_expire_passwords() {
    let mut tree = image(DEBIAN);
    let root_password = Some(Password::Hash("$6$salt$hash-hash".into()));
    let what = Customization {
        root_password,
        ..Default::default()
    };
    what.apply(&mut tree).unwrap();
    assert!(text(&tree, "etc/shadow").starts_with("root:$6$salt$hash-hash::0:"));
}

#[test]
fn the_hostname_is_written_and_known_to_hosts_if_there_are_any() {
    let hostname = |name: &str| Customization {
        hostname: Some(name.parse().unwrap()),
        ..Default::default()
    };
    let mut tree = image(&[]);
    apply(&mut tree, hostname("web"));
    assert_eq!(text(&tree, "etc/hostname"), "web\n");
    assert!(!exists(&tree, "etc/hosts"));

    let mut tree = image(&[
        ("@etc/hostname", "/proc/sys/kernel/hostname"),
        ("etc/hosts", "127.0.0.1 localhost # web"),
    ]);
    for _ in 0..2 {
        apply(&mut tree, hostname("web.example.org"));
    }
    assert_eq!(attributes(&tree, "etc/hostname"), "f 644 0:0 now");
    assert_eq!(
        text(&tree, "etc/hosts"),
        "127.0.0.1 localhost # web\n127.0.1.1\tweb.example.org web\n"
    );
}

#[test]
fn the_machine_id_is_left_for_the_first_boot() {
    const ID: &str = "0123456789abcdef0123456789abcdef\n";
    let systemd = ("usr/lib/systemd/systemd", "");
    for (before, policy, after) in [
        (vec![("etc/machine-id", ID)], MachineId::Fresh, Some("")),
        (vec![("etc/machine-id", ID)], MachineId::Keep, Some(ID)),
        (vec![("etc/machine-id", "")], MachineId::Fresh, Some("")),
        (
            vec![("etc/machine-id", "uninitialized\n")],
            MachineId::Fresh,
            Some("uninitialized\n"),
        ),
        (vec![systemd], MachineId::Fresh, Some("")),
        (vec![systemd], MachineId::Keep, None),
        (vec![], MachineId::Fresh, None),
    ] {
        let mut tree = image(&before);
        apply(
            &mut tree,
            Customization {
                machine_id: policy,
                ..Default::default()
            },
        );
        let is = exists(&tree, "etc/machine-id").then(|| text(&tree, "etc/machine-id"));
        assert_eq!(is.as_deref(), after, "{before:?} {policy:?}");
    }
    let mut tree = image(&[("var/lib/dbus/machine-id", ID)]);
    apply(&mut tree, Customization::default());
    assert_eq!(
        attributes(&tree, "var/lib/dbus/machine-id"),
        "s /etc/machine-id 777 0:0 now"
    );
}

#[test]
fn what_builders_leave_is_removed() {
    let unit = ("usr/lib/systemd/system/systemd-resolved.service", "");
    let wants = (
        "@etc/systemd/system/multi-user.target.wants/systemd-resolved.service",
        "/lib/systemd/system/systemd-resolved.service",
    );
    let stub = "s ../run/systemd/resolve/stub-resolv.conf 777 0:0 now";
    for (files, resolv) in [
        (vec![("etc/resolv.conf", ""), unit, wants], stub),
        (vec![("etc/resolv.conf", ""), unit], "f 644 0:0 then"),
        (vec![("etc/resolv.conf", ""), wants], "f 644 0:0 then"),
        (
            vec![("etc/resolv.conf", "nameserver 192.0.2.1\n"), unit, wants],
            "f 644 0:0 then",
        ),
    ] {
        let mut tree = image(&files);
        apply(&mut tree, Customization::default());
        assert_eq!(attributes(&tree, "etc/resolv.conf"), resolv);
    }
    let mut tree = image(&[
        (".dockerenv", ""),
        ("run/.containerenv", "x"),
        ("run/x", ""),
    ]);
    apply(&mut tree, Customization::default());
    assert!(!exists(&tree, ".dockerenv") && !exists(&tree, "run/.containerenv"));
    assert!(exists(&tree, "run/x"));
}

#[test]
fn an_fstab_that_waits_for_foreign_devices_is_worth_a_warning() {
    let fstab = "# /dev/x /y\nUUID=1234 / ext4 defaults 0 1\ntmpfs /tmp tmpfs defaults 0 0\n\
                 /dev/sdb1 /data ext4 ro,nofail 0 2\n\nLABEL=swap none swap\nbroken\n";
    let mut tree = image(&[("etc/fstab", fstab)]);
    apply(&mut tree, Customization::default());
    let warnings = tree.warnings().join("\n");
    assert_eq!(tree.warnings().len(), 2, "{warnings}");
    assert!(warnings.contains("UUID=1234 on /:"), "{warnings}");
    assert!(warnings.contains("LABEL=swap on none"), "{warnings}");
    assert_eq!(text(&tree, "etc/fstab"), fstab);
}

#[test]
fn nothing_asked_for_changes_nothing() {
    let mut tree = image(DEBIAN);
    let before: Vec<_> = tree
        .walk()
        .map(|(path, id)| (path, tree.inode(id).clone()))
        .collect();
    apply(&mut tree, Customization::default());
    let after: Vec<_> = tree
        .walk()
        .map(|(path, id)| (path, tree.inode(id).clone()))
        .collect();
    assert_eq!(before, after);
}

fn file(source: &Path, rest: &str) -> Customization {
    let text = format!("{}:{rest}", source.display());
    Customization {
        files: vec![FileSpec::parse(text.as_ref()).unwrap()],
        ..Default::default()
    }
}

#[test]
fn files_of_the_host_come_without_its_owners_and_times() {
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small");
    fs::write(&small, "small").unwrap();
    fs::set_permissions(&small, fs::Permissions::from_mode(0o600)).unwrap();
    let large = dir.path().join("large");
    fs::write(&large, vec![b'x'; 65_537]).unwrap();
    fs::set_permissions(&large, fs::Permissions::from_mode(0o775)).unwrap();
    let link = dir.path().join("link");
    symlink(&small, &link).unwrap();

    let mut tree = image(&[("usr/lib/", ""), ("@lib", "usr/lib"), ("@lib/old", "gone")]);
    for (source, rest, path, expected) in [
        (&small, "/a/b/c", "a/b/c", "f 644 0:0 now"),
        (&small, "/a/d:4711", "a/d", "f 4711 0:0 now"),
        (&small, "/lib", "usr/lib/small", "f 644 0:0 now"),
        (&small, "/new/", "new/small", "f 644 0:0 now"),
        (&small, "/lib/old", "usr/lib/old", "f 644 0:0 now"),
        (&large, "/large", "large", "f 755 0:0 now"),
        (&link, "/link", "link", "f 644 0:0 now"),
    ] {
        apply(&mut tree, file(source, rest));
        assert_eq!(attributes(&tree, path), expected, "{rest}");
    }
    assert_eq!(attributes(&tree, "a/b"), "d 755 0:0 now");
    assert_eq!(text(&tree, "link"), "small");
    // Only the large file is read later.
    let [source] = tree.sources() else {
        panic!("{:?}", tree.sources());
    };
    assert_eq!(source.len, 65_537);
    assert!(matches!(source.kind, SourceKind::HostFile { .. }));
    assert_eq!(text(&tree, "large").len(), 65_537);

    for (source, rest, message) in [
        (&dir.path().join("none"), "/x", "No such file"),
        (&small, "/a/d/x", "not a directory"),
        (&"/dev/null".into(), "/x", "neither a file nor a directory"),
    ] {
        let error = file(source, rest).apply(&mut tree).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert!(error.contains(source.to_str().unwrap()), "{error}");
    }
    let error = file(&small, "/a/").apply(&mut image(&[("a/small/x", "")]));
    assert!(error.unwrap_err().to_string().contains("in the way"));
}

#[test]
fn a_directory_of_the_host_is_laid_over_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("lib/deep")).unwrap();
    fs::create_dir_all(at("etc/conf.d")).unwrap();
    fs::write(at("lib/deep/tool"), "tool").unwrap();
    fs::set_permissions(at("lib/deep/tool"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(at("etc/conf.d/a"), "new").unwrap();
    fs::write(at("big"), vec![7; 100_000]).unwrap();
    fs::write(at("empty"), "").unwrap();
    symlink("/etc/passwd", at("etc/link")).unwrap();

    let mut tree = image(&[
        ("usr/lib/x", "x"),
        ("@lib", "usr/lib"),
        ("etc/conf.d/a", "old"),
        ("etc/conf.d/b", "kept"),
    ]);
    apply(&mut tree, file(dir.path(), "/"));
    assert_eq!(attributes(&tree, "usr/lib/deep/tool"), "f 755 0:0 now");
    assert_eq!(attributes(&tree, "lib"), "s usr/lib 777 0:0 then");
    assert_eq!(attributes(&tree, "etc/link"), "s /etc/passwd 777 0:0 now");
    assert_eq!(text(&tree, "etc/conf.d/a"), "new");
    assert_eq!(text(&tree, "etc/conf.d/b"), "kept");
    assert_eq!(text(&tree, "big").len(), 100_000);
    assert_eq!(text(&tree, "empty"), "");
    assert_eq!(tree.sources().len(), 1);
    // Again, elsewhere: the modes of files only, and sources of its own.
    apply(&mut tree, file(dir.path(), "/opt/app:640"));
    assert_eq!(attributes(&tree, "opt/app/lib/deep/tool"), "f 640 0:0 now");
    assert_eq!(attributes(&tree, "opt/app/lib/deep"), "d 755 0:0 now");
    assert_eq!(tree.sources().len(), 2);
    assert_eq!(text(&tree, "opt/app/big").len(), 100_000);

    let error = file(dir.path(), "/").apply(&mut image(&[("big/x", "")]));
    assert!(error.unwrap_err().to_string().contains("in the way: /big"));
}

#[test]
fn files_come_first_so_that_accounts_see_them() {
    let dir = tempfile::tempdir().unwrap();
    let passwd = dir.path().join("passwd");
    fs::write(&passwd, "root:x:0:0:root:/srv/root:/bin/sh\n").unwrap();
    let mut tree = image(DEBIAN);
    let ssh_keys = parse_keys(KEY.as_bytes()).unwrap();
    apply(
        &mut tree,
        Customization {
            ssh_keys,
            ..file(&passwd, "/etc/passwd")
        },
    );
    assert_eq!(attributes(&tree, "srv/root/.ssh"), "d 700 0:0 now");
}
