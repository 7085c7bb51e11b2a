//! Hand-made nasty images, built into disks and held against `umoci unpack`
//! of the same image: every inode of the mounted root file system must be
//! what an independent implementation of the OCI layer rules unpacked.
//! Mounting needs root; as an ordinary user these tests say so and stop.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::images::base;
use common::layout::{Compression, Layout};
use common::tarball::Tarball;
use common::{bootwright, command, ok, root};
use serde_json::Value;

/// The root partition of a raw disk, mounted read-only while it lives.
struct Mounted {
    at: PathBuf,
}

impl Mounted {
    fn new(disk: &Path, partition: &Value, at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        let options = format!(
            "loop,ro,noload,offset={},sizelimit={}",
            partition["start"], partition["size"]
        );
        let mount = || {
            let mut mount = command(&["mount", "-t", "ext4", "-o", &options]);
            mount.arg(disk).arg(&at);
            mount
        };
        // Others may take the loop device that mount(8) has just found free.
        for _ in 0..20 {
            if common::run(&mut mount()).status.success() {
                return Self { at };
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        ok(&mut mount());
        Self { at }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = command(&["umount"]).arg(&self.at).status();
    }
}

/// The root partition of `bootwright build --json`'s report.
fn root_partition(report: &Value) -> &Value {
    report["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["label"] == "root")
        .unwrap()
}

/// Builds `layers` and compares the disk's root file system with what umoci
/// unpacks. The file system must be clean to e2fsck, too.
fn compare_with_umoci(layers: Vec<Vec<u8>>) {
    if !root() {
        eprintln!("not root: not compared with umoci");
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&work.path().join("image"));
    let kinds = [Compression::Gzip, Compression::None];
    for (tar, kind) in layers.iter().zip(kinds.iter().cycle()) {
        layout = layout.layer(tar, *kind);
    }
    layout.tag("test");
    let image = format!("{}:test", layout.dir.display());
    let disk = work.path().join("disk.raw");
    let report = ok(bootwright(&work.path().join("store"))
        .args([
            "build",
            &format!("oci:{image}"),
            "--boot",
            "none",
            "--json",
            "-o",
        ])
        .arg(&disk));
    let report: Value = serde_json::from_str(&report).unwrap();

    let unpacked = work.path().join("unpacked");
    ok(command(&["umoci", "unpack", "--image", &image]).arg(&unpacked));
    let partition = root_partition(&report);
    let volume = work.path().join("root.ext4");
    ok(command(&[
        "dd",
        "bs=1M",
        "iflag=skip_bytes,count_bytes",
        "conv=sparse",
        "status=none",
    ])
    .arg(format!("if={}", disk.display()))
    .arg(format!("of={}", volume.display()))
    .arg(format!("skip={}", partition["start"]))
    .arg(format!("count={}", partition["size"])));
    ok(command(&["e2fsck", "-fn"]).arg(&volume));

    let mounted = Mounted::new(&disk, partition, work.path().join("mounted"));
    let mut got = common::compare::facts(&mounted.at);
    got.remove(Path::new("lost+found"));
    let want = common::compare::facts(&unpacked.join("rootfs"));
    let differences = common::compare::differences(&want, &got);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn whiteouts_take_away_what_lower_layers_put_there() {
    compare_with_umoci(vec![
        base()
            .dir("a")
            .file("a/gone", "1")
            .file("a/kept", "2")
            .dir("opaque")
            .file("opaque/lower", "3")
            .dir("opaque/sub")
            .file("opaque/sub/lower", "4")
            .dir("whole")
            .file("whole/x", "5")
            .symlink("link", "a/kept")
            .finish(),
        Tarball::new()
            .dir("a")
            .file("a/.wh.gone", "")
            .dir("opaque")
            .file("opaque/.wh..wh..opq", "")
            .file("opaque/upper", "6")
            .file(".wh.whole", "")
            .file(".wh.link", "")
            .finish(),
    ]);
}

#[test]
fn a_later_layer_changes_what_a_path_is() {
    compare_with_umoci(vec![
        base()
            .file("file-to-dir", "x")
            .dir("dir-to-file")
            .file("dir-to-file/below", "y")
            .symlink("link-to-file", "etc")
            .fifo("fifo-to-link")
            .finish(),
        Tarball::new()
            .dir("file-to-dir")
            .file("file-to-dir/new", "z")
            .file("dir-to-file", "now a file")
            .file("link-to-file", "plain")
            .symlink("fifo-to-link", "nowhere")
            .finish(),
        Tarball::new()
            .file("file-to-dir", "a file again")
            .dir("dir-to-file")
            .finish(),
    ]);
}

#[test]
fn hard_links_hold_within_and_across_layers() {
    compare_with_umoci(vec![
        base()
            .file("one", "content")
            .hardlink("two", "one")
            .hardlink("./etc/three", "/one")
            .finish(),
        Tarball::new().hardlink("four", "two").finish(),
        Tarball::new().file("one", "replaced").finish(),
    ]);
}

#[test]
fn attributes_of_every_kind_survive() {
    let long = "n".repeat(255);
    let deep = format!("deep/{}/{}", "d".repeat(200), "e".repeat(200));
    // Version 2 capability set: cap_net_raw permitted and effective.
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    compare_with_umoci(vec![
        base()
            .mode(0o4755)
            .file("setuid", "s")
            .mode(0o1777)
            .entry(tar::EntryType::Directory, "sticky", b"", "")
            .mode(0o640)
            .owner(1234, 70_000)
            .file("owned", "o")
            .owner(0, 0)
            .pax("uid", "3000000000")
            .file("big-owner", "b")
            .pax("mtime", "1700000000.123456789")
            .file("nanoseconds", "n")
            .pax("path", &long)
            .file("short", "long name")
            .dir("deep")
            .pax("path", &deep[..205])
            .dir("x")
            .pax("path", &deep)
            .file("short", "long path")
            .pax("SCHILY.xattr.user.greeting", "hello")
            .file("with-xattr", "x")
            .pax("SCHILY.xattr.security.capability", capability)
            .file("with-capability", "c")
            .pax("linkpath", "t".repeat(300))
            .symlink("long-link", "")
            .symlink("short-link", "../x")
            .char_device("null", 1, 3)
            .block_device("disk", 8, 0)
            .block_device("many", 259, 70_000)
            .fifo("pipe")
            .file("empty", "")
            .file("block", vec![7; 4096])
            .file("block-and-one", vec![8; 4097])
            .finish(),
    ]);
}

#[test]
fn names_need_not_be_text() {
    compare_with_umoci(vec![
        base()
            .pax("path", b"latin-\xe9")
            .file("x", "e acute")
            .file("new\nline", "n")
            .file(" leading space", "s")
            .file("back\\slash", "b")
            .file("-rf", "dash")
            .file("..almost", "dots")
            .finish(),
    ]);
}

#[test]
fn prefixes_and_missing_parents_make_no_difference() {
    compare_with_umoci(vec![
        base().finish(),
        Tarball::new()
            .dir("./dot/")
            .file("./dot/file", "1")
            .file("/absolute", "2")
            .dir("etc/")
            .file("etc//double", "3")
            .finish(),
    ]);
}

#[test]
fn the_last_of_several_entries_of_a_path_counts() {
    compare_with_umoci(vec![
        base()
            .file("twice", "first")
            .file("twice", "the second one")
            .file("was-file", "1")
            .dir("was-file")
            .file("was-file/below", "2")
            .finish(),
    ]);
}
