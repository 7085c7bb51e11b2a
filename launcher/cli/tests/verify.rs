//! `bootwright verify`: the first byte that is not the image's is found and
//! told by name.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Output;

use common::images::{application, base};
use common::layout::{Compression, Layout};
use common::tarball::Tarball;
use common::{bootwright, command, ok, run};
use serde_json::Value;

const OPTIONS: [&str; 4] = ["--boot", "none", "--free", "16M"];

struct Work {
    dir: tempfile::TempDir,
}

impl Work {
    fn new() -> Self {
        let work = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        Layout::new(&work.at("image"))
            .layer(&base().finish(), Compression::Gzip)
            .layer(&application().finish(), Compression::Zstd)
            .tag("v1");
        work
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn image(&self) -> String {
        format!("oci:{}:v1", self.at("image").display())
    }

    fn build(&self, name: &str, options: &[&str]) -> String {
        let mut program = bootwright(&self.at("store"));
        program.args(["build", &self.image(), "-o"]);
        ok(program.arg(self.at(name)).args(options));
        self.at(name).display().to_string()
    }

    /// Pushes the disk to a layout, as a disk image.
    fn push(&self, image: &str, name: &str) {
        let to = format!("oci:{}:v1", self.at(name).display());
        let mut program = bootwright(&self.at("store"));
        ok(program.args(["push", image, &to]).args(OPTIONS));
    }

    fn verify(&self, disk: &str, options: &[&str]) -> Output {
        let mut program = bootwright(&self.at("store"));
        run(program.args(["verify", disk, &self.image()]).args(options))
    }

    /// The report of a disk that must differ.
    fn differs(&self, disk: &str, options: &[&str]) -> Value {
        let output = self.verify(disk, &[options, &["--json"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["same"], false);
        report
    }

    fn is_the_same(&self, disk: &str, options: &[&str]) {
        let output = self.verify(disk, options);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains("is what oci:"), "{said}");
    }

    /// Changes the byte of a disk where `needle` is, or `skip` bytes after it.
    fn damage(&self, disk: &str, needle: &[u8], skip: u64) {
        let bytes = fs::read(disk).unwrap();
        let at = bytes.windows(needle.len()).position(|w| w == needle);
        let at = at.unwrap() as u64 + skip;
        let file = fs::File::options().write(true).open(disk).unwrap();
        file.write_all_at(&[bytes[at as usize] ^ 1], at).unwrap();
    }
}

fn first(report: &Value) -> &str {
    report["differences"][0]["what"].as_str().unwrap()
}

#[test]
fn a_disk_is_what_its_image_makes_in_every_form() {
    let work = Work::new();
    let raw = work.build("disk.raw", &OPTIONS);
    work.is_the_same(&raw, &OPTIONS);
    let more = [&OPTIONS[..], &["--compress", "zstd"]].concat();
    let qcow2 = work.build("disk.qcow2", &more);
    work.is_the_same(&qcow2, &OPTIONS);
    // The size is that of the format.
    let gce = work.build("disk.tar.gz", &OPTIONS);
    ok(command(&["tar", "-xzf", &gce, "-C"]).arg(work.dir.path()));
    work.is_the_same(&raw, &OPTIONS);

    // A disk image says itself how it was made.
    work.push(&work.image(), "disk");
    let disk = format!("oci:{}:v1", work.at("disk").display());
    work.is_the_same(&disk, &[]);
    // Nothing of the packs is read: they are the same by name.
    let output = work.verify(&disk, &["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["different_bytes"], 0);
    assert_eq!(report["disk"]["form"], "disk");
}

#[test]
fn the_first_file_that_differs_is_told_by_path() {
    let work = Work::new();
    let raw = work.build("disk.raw", &OPTIONS);
    work.damage(&raw, b"ID=test\nVERSION_ID=2\n", 3);
    let report = work.differs(&raw, &OPTIONS);
    assert_eq!(first(&report), "content of /etc/os-release, byte 3");
    assert_eq!(report["differences"][0]["partition"], 1);
    assert_eq!(report["differences"][0]["partition_name"], "root");
    assert_eq!(report["different_bytes"], 4096);
    work.damage(&raw, b"hello\n", 0);
    let output = work.verify(&raw, &OPTIONS);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("partition 1 (root): content of /etc/motd, byte 0"),
        "{said}"
    );
    assert!(said.contains("8.0 KiB in all"), "{said}");
}

#[test]
fn structures_are_told_by_name() {
    let work = Work::new();
    let raw = work.build("disk.raw", &OPTIONS);
    work.damage(&raw, b"EFI PART", 0);
    let report = work.differs(&raw, &OPTIONS);
    assert_eq!(first(&report), "header of the partition table");
    assert_eq!(report["differences"][0]["partition"], Value::Null);
    work.damage(&raw, b"EFI PART", 0);

    // The directory /srv names "data".
    let again = work.build("again.raw", &OPTIONS);
    work.damage(&again, b"\x04\x01data", 2);
    let report = work.differs(&again, &OPTIONS);
    assert!(first(&report).contains("of /srv/"), "{report}");
}

#[test]
fn other_options_and_other_images_are_told() {
    let work = Work::new();
    let raw = work.build("disk.raw", &OPTIONS);
    let report = work.differs(&raw, &["--boot", "none", "--free", "32M"]);
    let (size, expected) = (report["size"].as_u64(), report["expected_size"].as_u64());
    assert!(size.unwrap() < expected.unwrap());
    let hint = report["hints"][0].as_str().unwrap();
    assert!(hint.contains("another identifier"), "{hint}");

    work.push(&work.image(), "disk");
    Layout::new(&work.at("image"))
        .layer(&base().finish(), Compression::Gzip)
        .layer(
            &Tarball::new().file("new", "new").finish(),
            Compression::Gzip,
        )
        .tag("v1");
    let disk = format!("oci:{}:v1", work.at("disk").display());
    let report = work.differs(&disk, &[]);
    let hint = report["hints"][0].as_str().unwrap();
    assert!(
        hint.contains("the disk says that it was made from sha256:"),
        "{hint}"
    );
}

#[test]
fn errors_have_a_status_of_their_own() {
    let work = Work::new();
    let raw = work.build("disk.raw", &OPTIONS);
    let image = work.image();
    for (disk, image, words) in [
        (
            image.as_str(),
            image.as_str(),
            "is an image; name a disk first",
        ),
        (&raw, &raw, "is a disk file; name the image"),
        ("oci:/nonexistent:v1", &image, "/nonexistent"),
        (&raw, "oci:/nonexistent:v1", "/nonexistent"),
    ] {
        let mut program = bootwright(&work.at("store"));
        let output = run(program.args(["verify", disk, image]).args(OPTIONS));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    }
    let quiet = work.verify(&raw, &[&OPTIONS[..], &["--quiet"]].concat());
    assert_eq!((quiet.status.code(), quiet.stdout.len()), (Some(0), 0));
}
