//! The tree against real unpackers: the same layers through umoci, which
//! unpacks onto one directory, and through podman, which stacks directories
//! with overlayfs. Every name must be the same in all three.
//!
//! Only root can unpack other users' files and devices, so an ordinary user
//! compares nothing here; the rules themselves are tested everywhere.
#![allow(clippy::unwrap_used, clippy::panic, reason = "it is all tests")]

mod tree_notation;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

use bootwright_image::digest::Digest;
use bootwright_image::{Entry, EntryKind};
use bootwright_rootfs::tree::{Kind, Tree};
use tree_notation::FILE_SIZE;

struct Stack {
    what: &'static str,
    /// Who makes the same of it.
    like: &'static [Unpacker],
    layers: &'static [&'static [&'static str]],
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Unpacker {
    Umoci,
    Podman,
}

const BOTH: &[Unpacker] = &[Unpacker::Umoci, Unpacker::Podman];

const STACKS: &[Stack] = &[
    Stack {
        what: "all types and attributes",
        like: BOTH,
        layers: &[&[
            "d . =755 u1:2 @3",
            "d d =1777 u70000:5 @6",
            "f d/f 1 =4755 u7:8 @9 user.a:b user.b:c",
            "f d/empty 0 =0 @9",
            "s d/s ../nowhere u1:1 @2",
            "p d/p =600 @1",
            "c d/c 5:1 @1",
            "h d/h d/f",
            "h d/t d/s",
        ]],
    },
    Stack {
        what: "whiteouts of files, directories and nothing",
        like: BOTH,
        layers: &[
            &[
                "d . @1",
                "d a @1",
                "f a/b 1",
                "f a/c 2",
                "d x @1",
                "d x/y @1",
                "f x/y/z 3",
                "f k 4",
            ],
            &[
                "d . @1",
                "d a @2",
                "f a/.wh.b 0",
                "f .wh.x 0",
                "f .wh.nothing 0",
            ],
            &["d . @1", "f n 5", "f .wh.k 0"],
        ],
    },
    Stack {
        what: "a whiteout beside its own layer's entry of that name",
        like: &[Unpacker::Umoci],
        layers: &[
            &[
                "d . @1",
                "d a =700 @1",
                "f a/old 1",
                "d a/d @1",
                "f a/d/old 1",
                "f b 2",
                "f c 3",
            ],
            &[
                "d . @1",
                "d a =711 @4",
                "d a/d @4",
                "f a/d/new 2",
                "f .wh.a 0",
                "f b 4",
                "f .wh.b 0",
            ],
            &["d . @1", "f .wh.c 0", "f c 5"],
        ],
    },
    Stack {
        what: "opaque directories, marked first and last",
        like: BOTH,
        layers: &[
            &[
                "d . @1",
                "d a @1",
                "d a/b @1",
                "d a/b/c @1",
                "f a/b/c/bar 1",
                "d e @1",
                "f e/f 1",
            ],
            &[
                "d . @1",
                "d a @2",
                "f a/.wh..wh..opq 0",
                "d a/b @2",
                "d a/b/c @2",
                "f a/b/c/foo 2",
                "d e =700 @2",
                "f e/.wh..wh..opq 0",
            ],
        ],
    },
    Stack {
        what: "an opaque mark after the entries it does not hide",
        like: &[Unpacker::Umoci],
        layers: &[
            &["d . @1", "d a @1", "d a/b @1", "f a/b/old 1", "f a/x 1"],
            &[
                "d . @1",
                "d a @2",
                "d a/b @2",
                "f a/b/new 2",
                "f a/.wh..wh..opq 0",
            ],
        ],
    },
    Stack {
        what: "types that replace each other",
        like: BOTH,
        layers: &[
            &[
                "d . @1", "d a @1", "f a/x 1", "f b 2", "s c b", "f d 3", "p e", "d f @1",
                "f f/x 1",
            ],
            &[
                "d . @1", "f a 4", "d b @2", "f b/y 5", "f c 6", "s d a", "c e 1:3", "s f b",
            ],
            &["d . @1", "d a =700 @3", "f a/z 7", "f b 8", "d f @3"],
        ],
    },
    Stack {
        what: "a directory over a directory",
        like: BOTH,
        layers: &[
            &["d . @1", "d a =700 u1:1 @1 user.x:1 user.y:2", "f a/f 1"],
            &["d . @1", "d a =755 u2:3 @4 user.y:5"],
        ],
    },
    Stack {
        what: "an explicit directory over a link of a lower layer",
        like: BOTH,
        layers: &[
            &[
                "d . @1",
                "d usr @1",
                "d usr/lib @1",
                "f usr/lib/x 1",
                "s lib usr/lib @1",
            ],
            &["d . @1", "d lib =711 @2", "f lib/y 2"],
        ],
    },
    Stack {
        what: "an entry below a link and below a file of a lower layer",
        like: &[Unpacker::Podman],
        layers: &[
            &[
                "d . @1",
                "d usr @1",
                "d usr/lib @1",
                "f usr/lib/x 1",
                "s lib usr/lib @1",
                "f f 1",
            ],
            &["d . @1", "f lib/y 2", "f f/g 3"],
        ],
    },
    Stack {
        what: "parents without an entry",
        like: BOTH,
        layers: &[&["d . @1", "f a/b/c 1 =600 u5:5"], &["d . @1", "f d/e 2"]],
    },
    Stack {
        what: "entries below a link of the same layer",
        like: BOTH,
        layers: &[&[
            "d . @1",
            "d usr @1",
            "d usr/lib @1",
            "s lib usr/lib @1",
            "f lib/y 2",
            "s abs /usr",
            "f abs/lib/z 3",
        ]],
    },
    Stack {
        what: "hard links in one layer",
        like: BOTH,
        layers: &[&[
            "d . @1",
            "f a 1 =640 u1:2 @5",
            "h b a",
            "h c b",
            "d d @1",
            "h d/e c",
        ]],
    },
    Stack {
        // An overlay goes on counting names that upper layers hide.
        what: "hard links in one layer, and names that go",
        like: &[Unpacker::Umoci],
        layers: &[
            &[
                "d . @1",
                "f a 1 =640 u1:2 @5",
                "h b a",
                "h c b",
                "d d @1",
                "h d/e c",
            ],
            &["d . @1", "f b 2", "f .wh.c 0"],
        ],
    },
    Stack {
        what: "hard links to lower layers",
        like: &[Unpacker::Umoci],
        layers: &[
            &["d . @1", "d d @1", "f d/a 1 =640 @5", "s s d/a @1"],
            &["d . @1", "h b d/a", "h t s"],
            &["d . @1", "f d/.wh.a 0", "h c b"],
        ],
    },
    Stack {
        what: "several entries of one name",
        like: &[Unpacker::Umoci],
        layers: &[&[
            "d . @1",
            "f a 1 =600",
            "s a x",
            "f a 2",
            "d b @1",
            "f b/x 1",
            "f b 3",
            "d c @1",
            "d c =700 @9",
        ]],
    },
];

fn run(program: &str, args: &[&str]) -> String {
    run_in(Path::new("/"), program, args)
}

fn run_in(dir: &Path, program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .current_dir(dir)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
    assert!(
        out.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let out = String::from_utf8(out.stdout).unwrap();
    out.trim_end_matches('\n').to_owned()
}

/// What content number `n` is in a tar.
fn content(n: u64) -> Vec<u8> {
    match n {
        0 => Vec::new(),
        n => format!("{n:0width$}", width = FILE_SIZE as usize).into(),
    }
}

fn tar(lines: &[&str]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut attributes = BTreeMap::new();
    for line in lines {
        let mut entry = tree_notation::entry(line);
        // As tar writes them: podman gives them to the target, umoci does not.
        if let EntryKind::Hardlink { target } = entry.kind
            && let Some(&(mode, uid, gid, mtime)) = attributes.get(target)
        {
            (entry.mode, entry.uid, entry.gid, entry.mtime) = (mode, uid, gid, mtime);
        }
        attributes.insert(entry.path, (entry.mode, entry.uid, entry.gid, entry.mtime));
        if !entry.xattrs.is_empty() {
            let names: Vec<_> = entry
                .xattrs
                .iter()
                .map(|(name, _)| format!("SCHILY.xattr.{}", String::from_utf8_lossy(name)))
                .collect();
            let values = entry.xattrs.iter().map(|(_, value)| *value);
            builder
                .append_pax_extensions(names.iter().map(String::as_str).zip(values))
                .unwrap();
        }
        let (header, data) = header(&entry);
        builder.append(&header, data.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn header(entry: &Entry<'_>) -> (tar::Header, Vec<u8>) {
    let mut header = tar::Header::new_gnu();
    let path = str::from_utf8(entry.path).unwrap();
    let mut data = Vec::new();
    let slash = match entry.kind {
        EntryKind::Directory => "/",
        _ => "",
    };
    header.set_path(format!("./{path}{slash}")).unwrap();
    let link = |header: &mut tar::Header, target: &[u8]| {
        header.set_link_name_literal(target).unwrap();
    };
    let kind = match &entry.kind {
        EntryKind::Directory => tar::EntryType::Directory,
        EntryKind::Regular { segments, .. } => {
            data = content(segments.first().map_or(0, |s| s.pack_offset / 4096));
            tar::EntryType::Regular
        }
        EntryKind::Symlink { target } => {
            link(&mut header, target);
            tar::EntryType::Symlink
        }
        EntryKind::Hardlink { target } => {
            link(&mut header, target);
            tar::EntryType::Link
        }
        EntryKind::CharDevice { major, minor } => {
            header.set_device_major(*major).unwrap();
            header.set_device_minor(*minor).unwrap();
            tar::EntryType::Char
        }
        EntryKind::Fifo => tar::EntryType::Fifo,
        other => panic!("{other:?}"),
    };
    header.set_entry_type(kind);
    header.set_mode(entry.mode.into());
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_mtime(entry.mtime.secs as u64);
    header.set_size(data.len() as u64);
    header.set_cksum();
    (header, data)
}

/// An OCI layout with one image, called `x`.
fn layout(dir: &Path, layers: &[&[&str]]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let blob = |media_type: &str, bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        let size = bytes.len();
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
    };
    let tars: Vec<Vec<u8>> = layers.iter().map(|lines| tar(lines)).collect();
    let diff_ids: Vec<String> = tars
        .iter()
        .map(|tar| format!("\"{}\"", Digest::sha256(tar)))
        .collect();
    let descriptors: Vec<String> = tars
        .iter()
        .map(|tar| blob("application/vnd.oci.image.layer.v1.tar", tar))
        .collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let config = blob(
        "application/vnd.oci.image.config.v1+json",
        config.as_bytes(),
    );
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{manifest_type}","config":{config},"layers":[{}]}}"#,
        descriptors.join(",")
    );
    let manifest = blob(manifest_type, manifest.as_bytes());
    let manifest = manifest.replacen(
        '{',
        r#"{"annotations":{"org.opencontainers.image.ref.name":"x"},"#,
        1,
    );
    fs::write(
        dir.join("index.json"),
        format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#),
    )
    .unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// Every name of a directory of the host, in words.
fn on_host(dir: &Path) -> Vec<String> {
    let list = run("find", &[dir.to_str().unwrap(), "-printf", "%P\\n"]);
    let mut lines: Vec<String> = list
        .split('\n')
        .map(|path| {
            let at = match path {
                "" => dir.to_owned(),
                path => dir.join(path),
            };
            let meta = fs::symlink_metadata(&at).unwrap();
            let kind = match meta.file_type() {
                t if t.is_dir() => "d".to_owned(),
                t if t.is_symlink() => format!("s {}", fs::read_link(&at).unwrap().display()),
                t if t.is_fifo() => "p".to_owned(),
                t if t.is_char_device() => {
                    let (major, minor) = (
                        rustix::fs::major(meta.rdev()),
                        rustix::fs::minor(meta.rdev()),
                    );
                    format!("c {major}:{minor}")
                }
                _ => format!("f {}", String::from_utf8(fs::read(&at).unwrap()).unwrap()),
            };
            let names = if meta.is_dir() { 1 } else { meta.nlink() };
            let xattrs = match meta.is_dir() || meta.is_file() {
                true => run(
                    "getfattr",
                    &["-d", "--absolute-names", at.to_str().unwrap()],
                )
                .lines()
                .filter(|line| line.starts_with("user."))
                .map(|line| format!(" {}", line.replace('"', "")))
                .collect(),
                false => String::new(),
            };
            format!(
                "/{path} {kind} {:o} {}:{} @{} x{names}{xattrs}",
                meta.mode() & 0o7777,
                meta.uid(),
                meta.gid(),
                meta.mtime()
            )
        })
        .collect();
    lines.sort();
    lines
}

/// Every name of a tree, in the words of [`on_host`].
fn in_tree(tree: &Tree) -> Vec<String> {
    let mut lines: Vec<String> = tree
        .walk()
        .map(|(path, id)| {
            let inode = tree.inode(id);
            let kind = match &inode.kind {
                Kind::Directory(_) => "d".to_owned(),
                Kind::Symlink(target) => format!("s {}", String::from_utf8_lossy(target)),
                Kind::Fifo => "p".to_owned(),
                Kind::CharDevice { major, minor } => format!("c {major}:{minor}"),
                Kind::BlockDevice { major, minor } => format!("b {major}:{minor}"),
                Kind::Regular(file) => {
                    let number = file.extents.first().map_or(0, |e| match e.content {
                        bootwright_disk::Content::Source { offset, .. } => offset / 4096,
                        bootwright_disk::Content::Literal(_) => panic!("literal"),
                    });
                    format!("f {}", String::from_utf8(content(number)).unwrap())
                }
            };
            let xattrs: String = inode
                .xattrs
                .iter()
                .map(|(name, value)| {
                    format!(
                        " {}={}",
                        String::from_utf8_lossy(name),
                        String::from_utf8_lossy(value)
                    )
                })
                .collect();
            format!(
                "/{} {kind} {:o} {}:{} @{} x{}{xattrs}",
                String::from_utf8_lossy(&path),
                inode.mode,
                inode.uid,
                inode.gid,
                inode.mtime.secs,
                inode.names
            )
        })
        .collect();
    lines.sort();
    lines
}

fn compare(unpacker: Unpacker, unpack: impl Fn(&Path, &mut dyn FnMut(&Path))) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: nothing compared with {unpacker:?}");
        return;
    }
    for stack in STACKS.iter().filter(|s| s.like.contains(&unpacker)) {
        let dir = tempfile::tempdir().unwrap();
        layout(&dir.path().join("image"), stack.layers);
        let tree = tree_notation::merge(stack.layers).unwrap();
        let mut compared = false;
        unpack(dir.path(), &mut |root| {
            let (mut ours, mut theirs) = (in_tree(&tree), on_host(root));
            if unpacker == Unpacker::Podman {
                // Its root is a mount point of its own.
                ours.remove(0);
                theirs.remove(0);
            }
            for (ours, theirs) in ours.iter_mut().zip(&mut theirs) {
                let (a, b) = (without_time(ours), without_time(theirs));
                if a == b && is_new_directory(theirs) {
                    (*ours, *theirs) = (a, b);
                }
            }
            assert_eq!(ours, theirs, "{}", stack.what);
            compared = true;
        });
        assert!(compared);
    }
}

/// A directory that the unpacker changed after it had set its time.
fn is_new_directory(line: &str) -> bool {
    let secs = line
        .split(" @")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    line.contains(" d ") && secs.unwrap().parse::<u64>().unwrap() > 1_000_000_000
}

fn without_time(line: &str) -> String {
    let (before, rest) = line.split_once(" @").unwrap();
    let (_, after) = rest.split_once(' ').unwrap();
    format!("{before} {after}")
}

#[test]
fn umoci_makes_the_same_of_layers() {
    compare(Unpacker::Umoci, |dir, check| {
        let image = format!("{}/image:x", dir.display());
        let bundle = dir.join("bundle");
        run(
            "umoci",
            &["unpack", "--image", &image, bundle.to_str().unwrap()],
        );
        check(&bundle.join("rootfs"));
    });
}

#[test]
fn podman_makes_the_same_of_layers() {
    compare(Unpacker::Podman, |dir, check| {
        let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let (root, run_root) = (at("storage"), at("run"));
        let podman = |args: &[&str]| {
            let common = [
                "--root",
                &root,
                "--runroot",
                &run_root,
                "--storage-driver",
                "overlay",
            ];
            run_in(dir, "podman", &[&common, args].concat())
        };
        let id = podman(&["pull", "-q", "oci:image:x"]);
        let mounted = podman(&["image", "mount", &id]);
        check(Path::new(&mounted));
        podman(&["image", "unmount", &id]);
        podman(&["rmi", &id]);
    });
}
