//! Directories of the host as trees, with real files.
#![allow(clippy::unwrap_used, clippy::panic, reason = "it is all tests")]

use std::fs::{self, File, Permissions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use bootwright_disk::{SourceKind, SourceReader};
use bootwright_rootfs::tree::{DirectoryOptions, Kind, Tree};

fn tree(path: &Path) -> Tree {
    Tree::from_directory(path, DirectoryOptions::default()).unwrap()
}

/// Runs a tool of the system that the test cannot do without.
fn tool(program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
    assert!(
        out.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A directory with a bit of everything that an ordinary user can make.
fn bit_of_everything() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("a/b/c")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("a/file"), "content").unwrap();
    fs::write(at("a/nothing"), "").unwrap();
    fs::write(at("a/b/setuid"), "x").unwrap();
    fs::set_permissions(at("a/b/setuid"), Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(at("empty"), Permissions::from_mode(0o1777)).unwrap();
    fs::hard_link(at("a/file"), at("a/b/c/linked")).unwrap();
    symlink("/etc/passwd", at("outside")).unwrap();
    symlink("../..", at("a/b/up")).unwrap();
    fs::hard_link(at("outside"), at("a/outside too")).unwrap();
    tool("mkfifo", &[at("fifo").to_str().unwrap()]);
    fs::write(at("early"), "1969").unwrap();
    tool("touch", &["-d", "@-5.25", at("early").to_str().unwrap()]);
    tool(
        "touch",
        &["-h", "-d", "@7", at("outside").to_str().unwrap()],
    );
    dir
}

/// What find(1) says of every name, in the words of [`words`].
fn found(dir: &Path) -> Vec<String> {
    let format = "%P\\t%y\\t%m\\t%U:%G\\t%T@\\t%n\\t%s\\t%l\\n";
    let out = tool("find", &[dir.to_str().unwrap(), "-printf", format]);
    let mut lines: Vec<String> = out.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Every name of the tree in the words of [`found`].
fn words(tree: &Tree, dir: &Path) -> Vec<String> {
    let mut lines: Vec<String> = tree
        .walk()
        .map(|(path, id)| {
            let path = String::from_utf8(path).unwrap();
            let inode = tree.inode(id);
            let on_host = fs::symlink_metadata(dir.join(&path)).unwrap();
            // Links and size of a directory are its file system's affair.
            let (letter, names, size, target) = match &inode.kind {
                Kind::Directory(_) => ('d', on_host.nlink(), on_host.size(), String::new()),
                Kind::Regular(f) => ('f', inode.names.into(), f.size, String::new()),
                Kind::Symlink(target) => (
                    'l',
                    inode.names.into(),
                    target.len() as u64,
                    String::from_utf8_lossy(target).into_owned(),
                ),
                Kind::Fifo => ('p', inode.names.into(), 0, String::new()),
                Kind::CharDevice { .. } => ('c', inode.names.into(), 0, String::new()),
                Kind::BlockDevice { .. } => ('b', inode.names.into(), 0, String::new()),
            };
            // find prints whole seconds and ten digits of what comes on top,
            // before 1970 too; the last digit is always 0.
            let time = format!("{}.{:09}0", inode.mtime.secs, inode.mtime.nanos);
            format!(
                "{path}\t{letter}\t{:o}\t{}:{}\t{time}\t{names}\t{size}\t{target}",
                inode.mode, inode.uid, inode.gid
            )
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn every_name_is_as_find_says() {
    let dir = bit_of_everything();
    if is_root() {
        let at = |name| dir.path().join(name).to_str().unwrap().to_owned();
        tool("mknod", &[&at("char"), "c", "5", "1"]);
        tool("mknod", &[&at("block"), "b", "259", "70000"]);
        tool("chown", &["-h", "123456:77", &at("outside")]);
        tool("chown", &["4000000000:9", &at("a/file")]);
    }
    let tree = tree(dir.path());
    assert_eq!(words(&tree, dir.path()), found(dir.path()));
    assert!(tree.warnings().is_empty(), "{:?}", tree.warnings());
    if is_root() {
        let id = tree.resolve(b"block").unwrap();
        let (major, minor) = (259, 70000);
        assert_eq!(tree.inode(id).kind, Kind::BlockDevice { major, minor });
    }
}

#[test]
fn contents_are_sources_with_the_identity_they_had() {
    let dir = bit_of_everything();
    let tree = tree(dir.path());
    let id = tree.resolve(b"a/b/c/linked").unwrap();
    assert_eq!(tree.resolve(b"a/file").unwrap(), id);
    let reader = SourceReader::new(tree.sources().to_vec());
    assert_eq!(tree.read(id, 100, &reader).unwrap(), b"content");
    // a/file, a/b/setuid and early; the empty file needs none.
    assert_eq!(tree.sources().len(), 3);
    for source in tree.sources() {
        let meta = fs::symlink_metadata(&source.path).unwrap();
        let mtime_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        assert_eq!(source.len, meta.len());
        assert_eq!(
            source.kind,
            SourceKind::HostFile {
                device: meta.dev(),
                inode: meta.ino(),
                mtime_ns
            }
        );
        assert!(source.path.is_absolute());
    }
}

#[test]
fn holes_stay_holes_and_read_as_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse");
    let file = File::create(&path).unwrap();
    file.set_len(100 << 30).unwrap();
    for at in [0, 1 << 20, (1 << 30) + 5, (100 << 30) - 1] {
        file.write_all_at(b"x", at).unwrap();
    }
    File::create(dir.path().join("all hole"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    // Ends in a hole, begins with one, and is read in full.
    let mut small = File::create(dir.path().join("small")).unwrap();
    small.seek(SeekFrom::Start(70_000)).unwrap();
    small.write_all(b"data").unwrap();
    small.set_len(200_000).unwrap();

    let tree = tree(dir.path());
    let content = |name: &[u8]| match &tree.inode(tree.resolve(name).unwrap()).kind {
        Kind::Regular(content) => content.clone(),
        other => panic!("{other:?}"),
    };
    let sparse = content(b"sparse");
    assert_eq!(sparse.size, 100 << 30);
    assert_eq!(sparse.extents.len(), 4, "{:?}", sparse.extents);
    assert!(sparse.extents.iter().map(|e| e.len).sum::<u64>() < 1 << 20);
    assert_eq!(sparse.extents[3].end(), sparse.size);
    assert!(sparse.extents.iter().all(|e| e.start % 4096 == 0));
    assert_eq!(content(b"all hole").extents, []);
    assert_eq!(content(b"all hole").size, 1 << 40);

    let reader = SourceReader::new(tree.sources().to_vec());
    let read = tree
        .read(tree.resolve(b"small").unwrap(), 1 << 20, &reader)
        .unwrap();
    assert_eq!(read, fs::read(dir.path().join("small")).unwrap());
}

#[test]
fn xattrs_of_the_file_are_kept_and_those_of_the_host_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    let path = file.to_str().unwrap();
    fs::write(&file, "x").unwrap();
    let long = "v".repeat(2000);
    tool("setfattr", &["-n", "user.long", "-v", &long, path]);
    tool("setfattr", &["-n", "user.a", "-v", "", path]);
    tool("setfacl", &["-m", "u:5:r", path]);
    tool(
        "setfacl",
        &["-d", "-m", "g:6:rx", dir.path().to_str().unwrap()],
    );
    let mut expected = vec!["system.posix_acl_access", "user.a", "user.long"];
    if is_root() {
        symlink("x", dir.path().join("s")).unwrap();
        let link = dir.path().join("s");
        let set = |name: &str, value: &str, path: &str| {
            tool("setfattr", &["-h", "-n", name, "-v", value, path]);
        };
        set("trusted.t", "1", path);
        set("trusted.t", "link", link.to_str().unwrap());
        set("trusted.overlay.opaque", "y", path);
        set(
            "security.capability",
            "0x0100000200040000000000000000000000000000",
            path,
        );
        expected = vec![
            "security.capability",
            "system.posix_acl_access",
            "trusted.t",
            "user.a",
            "user.long",
        ];
    }
    let tree = tree(dir.path());
    let xattrs = |name: &[u8]| {
        tree.inode(
            tree.resolve_parent(name)
                .map(|(d, n)| tree.child(d, n).unwrap())
                .unwrap(),
        )
        .xattrs
        .clone()
    };
    let names: Vec<_> = xattrs(b"f")
        .iter()
        .map(|(name, _)| String::from_utf8(name.to_vec()).unwrap())
        .collect();
    assert_eq!(names, expected);
    assert_eq!(xattrs(b"f").get(b"user.long"), Some(long.as_bytes()));
    assert_eq!(xattrs(b"f").get(b"user.a"), Some(&b""[..]));
    let acl = tree.inode(tree.root()).xattrs.clone();
    // Version 2, little-endian: linux/posix_acl_xattr.h.
    let default = acl.get(b"system.posix_acl_default").unwrap();
    assert_eq!(default[..4], [2, 0, 0, 0]);
    if is_root() {
        assert_eq!(xattrs(b"s").get(b"trusted.t"), Some(&b"link"[..]));
    }
}

#[test]
fn sockets_are_left_out_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let _listener = UnixListener::bind(dir.path().join("socket")).unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    let tree = tree(dir.path());
    assert_eq!(tree.walk().count(), 2);
    let [warning] = tree.warnings() else {
        panic!("{:?}", tree.warnings());
    };
    assert!(warning.contains("/socket: left out"), "{warning}");
}

#[test]
fn the_same_files_give_the_same_tree() {
    let dir = bit_of_everything();
    let (one, two) = (tree(dir.path()), tree(dir.path()));
    assert_eq!(one.sources(), two.sources());
    let list = |tree: &Tree| {
        tree.walk()
            .map(|(path, id)| (path, id, tree.inode(id).clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&one), list(&two));
}

#[test]
fn the_top_may_be_a_link_and_must_be_a_directory() {
    let dir = bit_of_everything();
    let outer = tempfile::tempdir().unwrap();
    let link = outer.path().join("link");
    symlink(dir.path(), &link).unwrap();
    assert_eq!(words(&tree(&link), dir.path()), found(dir.path()));
    for (path, message) in [("a/file", "Not a directory"), ("none", "No such file")] {
        let path = dir.path().join(path);
        let error = Tree::from_directory(&path, DirectoryOptions::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains(message), "{error}");
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}

/// Links keep changing between a file, a directory and a link that leads out
/// while the tree is made; nothing of the outside may get in.
#[test]
fn a_race_with_symbolic_links_does_not_lead_out() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("real")).unwrap();
    fs::write(at("real/secret"), "public").unwrap();
    symlink(outside.path(), at("link")).unwrap();
    fs::create_dir(at("x")).unwrap();
    fs::rename(at("real"), at("x/d")).unwrap();
    std::thread::scope(|scope| {
        // Gone with this function, in a panic too: the other ends then.
        let reading = std::sync::Arc::new(());
        let watch = std::sync::Arc::downgrade(&reading);
        scope.spawn(move || {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            while watch.strong_count() > 0 {
                renameat_with(CWD, at("link"), CWD, at("x/d"), RenameFlags::EXCHANGE).unwrap();
            }
        });
        let secret = fs::metadata(outside.path().join("secret")).unwrap().ino();
        let mut seen = [0; 3];
        for _ in 0..3000 {
            match Tree::from_directory(dir.path(), DirectoryOptions::default()) {
                Ok(tree) => {
                    for source in tree.sources() {
                        let SourceKind::HostFile { inode, .. } = source.kind else {
                            panic!("{source:?}");
                        };
                        assert_ne!(inode, secret, "{source:?}");
                    }
                    seen[usize::from(tree.sources().is_empty())] += 1;
                }
                Err(_) => seen[2] += 1,
            }
        }
        assert!(seen[0] + seen[1] > 0, "{seen:?}");
    });
}

/// Runs one of this file's tests as another user or in another namespace,
/// since a test as root can read everything.
fn again(test: &str, wrap: &[&str], variable: &str, dir: &Path) {
    let exe = dir.join("test");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    let exe = exe.to_str().unwrap();
    let args: Vec<&str> = wrap.iter().copied().chain([exe, "--exact", test]).collect();
    let mut command = Command::new(args[0]);
    command.args(&args[1..]).env(variable, dir);
    if wrap.is_empty() {
        command.uid(65534).gid(65534);
    }
    let out = command.output().unwrap();
    assert!(
        out.status.success(),
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(String::from_utf8_lossy(&out.stdout).contains("1 passed"));
}

#[test]
fn what_cannot_be_read_is_named() {
    const UNREADABLE: &str = "BOOTWRIGHT_TEST_UNREADABLE";
    if is_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        return again("what_cannot_be_read_is_named", &[], UNREADABLE, dir.path());
    }
    for name in ["file", "directory"] {
        let dir = match std::env::var_os(UNREADABLE) {
            Some(dir) => tempfile::tempdir_in(dir).unwrap(),
            None => tempfile::tempdir().unwrap(),
        };
        let path = dir.path().join("d").join(name);
        fs::create_dir(dir.path().join("d")).unwrap();
        if name == "file" {
            fs::write(&path, "x").unwrap();
        } else {
            fs::create_dir(&path).unwrap();
        }
        fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
        let error = Tree::from_directory(dir.path(), DirectoryOptions::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains("Permission denied"), "{error}");
    }
}

#[test]
fn mounts_are_crossed_only_when_asked() {
    const MOUNTED: &str = "BOOTWRIGHT_TEST_MOUNTED";
    let Some(dir) = std::env::var_os(MOUNTED) else {
        let dir = tempfile::tempdir().unwrap();
        let wrap: &[&str] = if is_root() {
            &["unshare", "--mount"]
        } else {
            &["unshare", "--map-root-user", "--mount"]
        };
        return again(
            "mounts_are_crossed_only_when_asked",
            wrap,
            MOUNTED,
            dir.path(),
        );
    };
    let top = Path::new(&dir).join("top");
    let at = |name: &str| top.join(name).to_str().unwrap().to_owned();
    fs::create_dir_all(at("mnt")).unwrap();
    fs::create_dir_all(at("bind")).unwrap();
    fs::create_dir_all(at("same")).unwrap();
    fs::write(at("same/f"), "x").unwrap();
    fs::write(at("file"), "covered").unwrap();
    tool(
        "mount",
        &["-t", "tmpfs", "-o", "mode=700", "none", &at("mnt")],
    );
    fs::write(at("mnt/inside"), "x").unwrap();
    // The same file system, yet another mount.
    tool("mount", &["--bind", &at("same"), &at("bind")]);
    tool("mount", &["--bind", &at("same/f"), &at("file")]);

    let list = |cross_mounts| {
        let tree = Tree::from_directory(&top, DirectoryOptions { cross_mounts }).unwrap();
        let paths: Vec<_> = tree
            .walk()
            .map(|(path, id)| {
                format!(
                    "{} {:o}",
                    String::from_utf8(path).unwrap(),
                    tree.inode(id).mode
                )
            })
            .collect();
        (paths, tree.warnings().len())
    };
    let mode = |name| fs::metadata(at(name)).unwrap().mode() & 0o7777;
    let root = format!(" {:o}", mode(""));
    let f = format!("same/f {:o}", mode("same/f"));
    let same = format!("same {:o}", mode("same"));
    assert_eq!(
        list(false),
        (
            vec![
                root.clone(),
                "bind 755".into(),
                "mnt 755".into(),
                same.clone(),
                f.clone()
            ],
            3
        )
    );
    assert_eq!(
        list(true),
        (
            vec![
                root,
                same.replace("same", "bind"),
                f.replace("same", "bind"),
                f.replace("same/f", "file"),
                "mnt 700".into(),
                format!("mnt/inside {:o}", mode("mnt/inside")),
                same,
                f,
            ],
            0
        )
    );
}
