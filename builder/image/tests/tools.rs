//! Layers written by real tools, compared with the directory they were
//! written from as lstat(2), read(2) and lgetxattr(2) see it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use bootwright_image::store::{BlobInfo, Layer, Limits, Store};
use bootwright_image::{Digest, Entry, EntryKind};

/// What an archive format can keep.
#[derive(Clone, Copy)]
struct Keeps {
    long_names: bool,
    nanoseconds: bool,
    xattrs: bool,
    fifos: bool,
}

const ALL: Keeps = Keeps {
    long_names: true,
    nanoseconds: true,
    xattrs: true,
    fifos: true,
};
const NO_XATTRS: Keeps = Keeps {
    nanoseconds: false,
    xattrs: false,
    ..ALL
};
const SHORT: Keeps = Keeps {
    long_names: false,
    ..NO_XATTRS
};

/// A temporary directory on a file system with extended attributes, which
/// /tmp need not be.
fn temp_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn run(command: &mut Command) -> Vec<u8> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .env("TZ", "UTC")
        .output()
        .unwrap_or_else(|e| panic!("{name} is needed for this test: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn set_time(path: &Path, time: &str) {
    run(Command::new("touch")
        .arg("-h")
        .arg("-d")
        .arg(time)
        .arg(path));
}

/// A directory with some of everything that a user can make.
fn sample(keeps: Keeps) -> tempfile::TempDir {
    let dir = temp_dir();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("usr/bin")).unwrap();
    fs::create_dir(at("empty dir")).unwrap();
    fs::write(at("usr/bin/tool"), [b'#'; 10_000]).unwrap();
    fs::set_permissions(at("usr/bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(at("empty dir"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::hard_link(at("usr/bin/tool"), at("usr/bin/z-alias")).unwrap();
    symlink("../missing/\u{e9}", at("usr/link")).unwrap();
    fs::write(at("empty"), b"").unwrap();
    fs::write(at("block"), [1; 4096]).unwrap();
    fs::write(at("zeros"), vec![0; 50_000]).unwrap();
    fs::write(
        dir.path()
            .join(std::ffi::OsStr::from_bytes(b"latin-\xe9\xff")),
        b"x",
    )
    .unwrap();
    fs::write(at("new\nline"), b"y").unwrap();
    // Holes, also at the end, and data that starts inside a block.
    let sparse = File::create(at("sparse")).unwrap();
    sparse.write_all_at(b"start", 0).unwrap();
    for n in 0..60 {
        sparse
            .write_all_at(b"island", 1_000_000 + n * 100_000)
            .unwrap();
    }
    sparse.set_len(20_000_000).unwrap();
    if keeps.long_names {
        let deep = at(&["d".repeat(120).as_str(), &"e".repeat(200)].join("/"));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("f".repeat(255)), b"deep").unwrap();
        symlink("t/".repeat(500), at("long link")).unwrap();
        fs::hard_link(deep.join("f".repeat(255)), at("hard to long")).unwrap();
    }
    if keeps.fifos {
        run(Command::new("mkfifo").arg(at("fifo")));
    }
    if keeps.xattrs {
        let set = |name: &str, value: &str, file: &str| {
            run(Command::new("setfattr")
                .args(["-n", name, "-v", value])
                .arg(at(file)));
        };
        set("user.text", "value", "empty");
        set("user.binary", "0x0a00ff0a3d", "empty");
        set("user.directory", "0x00", "empty dir");
        run(Command::new("setfattr")
            .args(["-n", "user.none"])
            .arg(at("block")));
        run(Command::new("setfacl")
            .args(["-m", "u:1234:rw,g:5678:r"])
            .arg(at("block")));
        run(Command::new("setfacl")
            .args(["-d", "-m", "u:1234:rx"])
            .arg(at("usr")));
    }
    if rustix::process::geteuid().is_root() {
        for (name, kind, major, minor) in [("null", "c", "1", "3"), ("loop", "b", "7", "300")] {
            run(Command::new("mknod")
                .arg(at(name))
                .args([kind, major, minor]));
        }
        let (owner, group) = match keeps.long_names {
            true => (3_000_000, 4_000_000_000),
            // As large as six octal digits can say.
            false => (200_000, 262_143),
        };
        std::os::unix::fs::chown(at("empty"), Some(owner), Some(group)).unwrap();
    }
    set_time(&at("usr/bin/tool"), "2001-02-03 04:05:06.789012345");
    set_time(&at("usr/link"), "2038-02-03 04:05:06.5");
    if keeps.long_names {
        let fraction = if keeps.nanoseconds { ".25" } else { "" };
        set_time(&at("empty"), &format!("1965-01-01 00:00:00{fraction}"));
    }
    set_time(&at("usr"), "2020-01-01 00:00:00");
    dir
}

fn ingest(store: &Path, tar: &[u8]) -> Layer {
    let store = Store::open(Some(store)).unwrap();
    let digest = Digest::sha256(tar);
    let blob = BlobInfo {
        digest: Some(digest.clone()),
        size: Some(tar.len() as u64),
    };
    store
        .add_layer(&digest, &blob, tar, &Limits::default(), &|_| ())
        .unwrap()
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = [0u8; 4096];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap();
    names[..len]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = [0u8; 4096];
            let os_name = std::ffi::OsStr::from_bytes(name);
            let len = rustix::fs::lgetxattr(path, os_name, &mut value).unwrap();
            (name.to_vec(), value[..len].to_vec())
        })
        // Set by the machine the test runs on, not by the test.
        .filter(|(name, _)| !name.starts_with(b"security."))
        .collect()
}

/// The content of a file by its layer.
fn content(layer: &Layer, pack: &File, entry: &Entry<'_>) -> Vec<u8> {
    let EntryKind::Regular { size, segments } = &entry.kind else {
        panic!("{entry:?}");
    };
    assert!(pack.metadata().unwrap().len() == layer.pack_len());
    let mut content = vec![0; *size as usize];
    for s in segments {
        assert_eq!(s.pack_offset % 4096, s.file_offset % 4096);
        let start = s.file_offset as usize;
        let part = &mut content[start..start + s.len as usize];
        pack.read_exact_at(part, s.pack_offset).unwrap();
    }
    content
}

/// Compares a layer with the directory, both ways.
fn compare(layer: &Layer, dir: &Path, keeps: Keeps, case: &str) {
    let pack = File::open(layer.pack_path()).unwrap();
    let mut paths = BTreeSet::new();
    for entry in layer.entries() {
        let path = dir.join(std::ffi::OsStr::from_bytes(entry.path));
        let case = format!("{case}: {}", path.display());
        paths.insert(path.clone());
        let stat = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{case}: {e}"));
        if let EntryKind::Hardlink { target } = entry.kind {
            let target = fs::metadata(dir.join(std::ffi::OsStr::from_bytes(target))).unwrap();
            assert_eq!(target.ino(), stat.ino(), "{case}");
            continue;
        }
        let (dev, kind) = (stat.rdev(), stat.mode() & 0o170_000);
        let device = (rustix::fs::major(dev), rustix::fs::minor(dev));
        match entry.kind {
            EntryKind::Regular { .. } => {
                assert_eq!(kind, 0o100_000, "{case}");
                let expected = fs::read(&path).unwrap();
                assert!(content(layer, &pack, &entry) == expected, "{case}: content");
            }
            EntryKind::Directory => assert_eq!(kind, 0o040_000, "{case}"),
            EntryKind::Symlink { target } => {
                let expected = fs::read_link(&path).unwrap();
                assert_eq!(expected.as_os_str().as_bytes(), target, "{case}");
            }
            EntryKind::Fifo => assert_eq!(kind, 0o010_000, "{case}"),
            EntryKind::CharDevice { major, minor } => {
                assert_eq!((kind, device), (0o020_000, (major, minor)), "{case}");
            }
            EntryKind::BlockDevice { major, minor } => {
                assert_eq!((kind, device), (0o060_000, (major, minor)), "{case}");
            }
            EntryKind::Hardlink { .. } => unreachable!(),
        }
        if !matches!(entry.kind, EntryKind::Symlink { .. }) {
            assert_eq!(u32::from(entry.mode), stat.mode() & 0o7777, "{case}");
        }
        assert_eq!((entry.uid, entry.gid), (stat.uid(), stat.gid()), "{case}");
        assert_eq!(entry.mtime.secs, stat.mtime(), "{case}");
        if keeps.nanoseconds {
            assert_eq!(i64::from(entry.mtime.nanos), stat.mtime_nsec(), "{case}");
        }
        let found: BTreeMap<Vec<u8>, Vec<u8>> = entry
            .xattrs
            .iter()
            .map(|(n, v)| (n.to_vec(), v.to_vec()))
            .filter(|(name, _)| !name.starts_with(b"security."))
            .collect();
        match keeps.xattrs {
            true => assert_eq!(found, xattrs(&path), "{case}"),
            false => assert_eq!(found, BTreeMap::new(), "{case}"),
        }
    }
    let mut expected = BTreeSet::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            }
            expected.insert(entry.path());
        }
        expected.insert(dir);
    }
    // The root's own entry is written as `./`, which joins to a trailing slash.
    let normal = |paths: BTreeSet<PathBuf>| -> BTreeSet<PathBuf> {
        paths.iter().map(|p| p.components().collect()).collect()
    };
    assert_eq!(normal(paths), normal(expected), "{case}");
}

#[test]
fn what_gnu_tar_writes_is_read_in_all_formats() {
    let cases: [(&str, Keeps, &[&str]); 9] = [
        (
            "v7",
            Keeps {
                fifos: true,
                ..SHORT
            },
            &["--format=v7"],
        ),
        ("ustar", SHORT, &["--format=ustar"]),
        ("oldgnu", NO_XATTRS, &["--format=oldgnu"]),
        ("gnu", NO_XATTRS, &["--format=gnu"]),
        ("gnu sparse", NO_XATTRS, &["--format=gnu", "--sparse"]),
        ("pax", ALL, &["--format=pax"]),
        (
            "pax sparse 0.0",
            ALL,
            &["--format=pax", "--sparse", "--sparse-version=0.0"],
        ),
        (
            "pax sparse 0.1",
            ALL,
            &["--format=pax", "--sparse", "--sparse-version=0.1"],
        ),
        (
            "pax sparse 1.0",
            ALL,
            &["--format=pax", "--sparse", "--sparse-version=1.0"],
        ),
    ];
    for (case, keeps, options) in cases {
        if case == "v7" && rustix::process::geteuid().is_root() {
            // v7 knows no devices; the other formats do.
            continue;
        }
        let dir = sample(keeps);
        let mut tar = Command::new("tar");
        tar.arg("-C")
            .arg(dir.path())
            .args(options)
            .args(["-cf", "-", "."]);
        if keeps.xattrs {
            tar.args(["--xattrs", "--xattrs-include=*", "--acls"]);
        }
        let store = temp_dir();
        let layer = ingest(&store.path().join("store"), &run(&mut tar));
        compare(&layer, dir.path(), keeps, case);
        if options.contains(&"--sparse") {
            let entry = layer.entries().find(|e| e.path == b"sparse").unwrap();
            let EntryKind::Regular { segments, .. } = entry.kind else {
                panic!("{case}: {entry:?}");
            };
            let stored: u64 = segments.iter().map(|s| s.len).sum();
            assert!(
                segments.len() > 50 && stored < 1_000_000,
                "{case}: {segments:?}"
            );
        }
    }
}

#[test]
fn what_bsdtar_writes_is_read() {
    // Of ACLs bsdtar writes no more than text with names of the host.
    for (case, keeps) in [("pax", ALL), ("gnutar", NO_XATTRS), ("ustar", SHORT)] {
        let dir = sample(keeps);
        // Of times before 1970 it writes fractions the wrong way round in pax,
        // and nothing in other formats.
        let year = if keeps.nanoseconds { 1965 } else { 1971 };
        set_time(&dir.path().join("empty"), &format!("{year}-01-01 00:00:00"));
        if keeps.xattrs {
            run(Command::new("setfacl").args(["-R", "-b"]).arg(dir.path()));
            run(Command::new("setfattr")
                .args(["-n", "user.n=1 \u{e9}", "-v", "v"])
                .arg(dir.path().join("zeros")));
        }
        let mut tar = Command::new("bsdtar");
        tar.arg("-C")
            .arg(dir.path())
            .args(["--format", case, "-cf", "-"]);
        if !keeps.xattrs {
            tar.args(["--no-xattrs", "--no-acls", "--no-fflags"]);
        }
        let bytes = run(tar.arg("."));
        let store = temp_dir();
        compare(
            &ingest(&store.path().join("store"), &bytes),
            dir.path(),
            keeps,
            case,
        );
    }
}

#[test]
fn what_python_writes_is_read() {
    let script = "import sys, tarfile\n\
        t = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=getattr(tarfile, sys.argv[2]))\n\
        t.add(sys.argv[1], arcname='./')\n\
        t.close()";
    let keeps = Keeps {
        xattrs: false,
        // Times go through floating point, which is not exact.
        nanoseconds: false,
        ..ALL
    };
    for format in ["PAX_FORMAT", "GNU_FORMAT"] {
        let dir = sample(keeps);
        let bytes = run(Command::new("python3")
            .args(["-c", script])
            .arg(dir.path())
            .arg(format));
        let store = temp_dir();
        compare(
            &ingest(&store.path().join("store"), &bytes),
            dir.path(),
            keeps,
            format,
        );
    }
}

#[test]
fn zstd_chunked_layers_of_skopeo_are_read() {
    let work = temp_dir();
    // skopeo 1.9 fails on long runs of zeros, and drops what pads the archive
    // to a whole record.
    let dir = temp_dir();
    fs::create_dir(dir.path().join("d")).unwrap();
    for n in 0..20u8 {
        let text: Vec<u8> = (0..u32::from(n) * 5000)
            .map(|i| (i / 7 * i) as u8 ^ n)
            .collect();
        fs::write(dir.path().join(format!("d/{n}")), text).unwrap();
    }
    let at = |name: &str| work.path().join(name);
    let tar = run(Command::new("tar").arg("-C").arg(dir.path()).args([
        "--blocking-factor=1",
        "-cf",
        "-",
        ".",
    ]));
    let blobs = at("from/blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        format!(r#""digest":"{digest}","size":{}"#, bytes.len())
    };
    let diff_id = Digest::sha256(&tar);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{{"mediaType":"application/vnd.oci.image.config.v1+json",{}}},
        "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar",{}}}]}}"#,
        put(config.as_bytes()),
        put(&tar)
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json",{}}}]}}"#,
        put(manifest.as_bytes())
    );
    fs::write(at("from/index.json"), index).unwrap();
    fs::write(at("from/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    run(Command::new("skopeo")
        .args([
            "--insecure-policy",
            "copy",
            "--dest-compress",
            "--dest-compress-format=zstd:chunked",
        ])
        .arg(format!("oci:{}", at("from").display()))
        .arg(format!("oci:{}", at("to").display())));
    let (path, blob) = fs::read_dir(at("to/blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .find(|(_, bytes)| bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]))
        .expect("no zstd layer");
    // A frame for each file and, in skippable ones, a table of contents.
    let skippable = |bytes: &[u8]| bytes[1..] == [0x2a, 0x4d, 0x18] && bytes[0] >> 4 == 5;
    assert!(
        blob.windows(4).any(skippable),
        "{} is not zstd:chunked",
        path.display()
    );
    let store = Store::open(Some(&at("store"))).unwrap();
    let info = BlobInfo {
        digest: Some(Digest::sha256(&blob)),
        size: Some(blob.len() as u64),
    };
    let layer = store
        .add_layer(&diff_id, &info, &blob[..], &Limits::default(), &|_| ())
        .unwrap();
    compare(&layer, dir.path(), NO_XATTRS, "zstd:chunked");
}

#[test]
fn zeros_take_no_space_on_the_disk() {
    let dir = temp_dir();
    let mut file = File::create(dir.path().join("f")).unwrap();
    file.write_all(&[1; 4096]).unwrap();
    file.seek(SeekFrom::Current(40 << 20)).unwrap();
    file.write_all(&[2; 100]).unwrap();
    let tar = run(Command::new("tar")
        .arg("-C")
        .arg(dir.path())
        .args(["-cf", "-", "f"]));
    let layer = ingest(&dir.path().join("store"), &tar);
    let pack = fs::metadata(layer.pack_path()).unwrap();
    assert_eq!(pack.len(), (40 << 20) + 8192);
    assert!(pack.blocks() * 512 <= 64 << 10, "{} blocks", pack.blocks());
    let mut bytes = Vec::new();
    File::open(layer.pack_path())
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    assert_eq!(
        Digest::sha256(&bytes[..pack.len() as usize - 4096 + 100]),
        Digest::sha256(&fs::read(dir.path().join("f")).unwrap())
    );
}
