//! Finished disks are taken wherever an image is: disk images over any
//! transport, containerDisks of anybody's, and files.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../../builder/image/tests/common/mod.rs"]
mod image_tests;

use std::fs;
use std::path::{Path, PathBuf};

use common::images::{application, base, pseudo_random};
use common::layout::{Compression, Layout};
use common::tarball::Tarball;
use common::{bootwright, command, fails, ok};
use image_tests::proxy::{Fault, Proxy, Request};
use image_tests::registry::{Registry, Setup};
use image_tests::skopeo_copy;
use serde_json::Value;

const OPTIONS: [&str; 4] = ["--boot", "none", "--free", "16M"];

/// An image, its disk as a file and as a disk image.
struct Work {
    dir: tempfile::TempDir,
}

impl Work {
    fn new() -> Self {
        let work = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let layout = Layout::new(&work.at("image"))
            .layer(&base().finish(), Compression::Gzip)
            .layer(&application().finish(), Compression::Zstd);
        layout.tag("v1");
        work.build(&work.image(), "disk.raw", &OPTIONS);
        work.push(&work.image(), "disk");
        work
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn image(&self) -> String {
        format!("oci:{}:v1", self.at("image").display())
    }

    fn disk(&self) -> String {
        format!("oci:{}:v1", self.at("disk").display())
    }

    /// Pushes the disk of an image to a layout, as a disk image.
    fn push(&self, image: &str, name: &str) {
        let to = format!("oci:{}:v1", self.at(name).display());
        let mut program = bootwright(&self.at("store"));
        ok(program.args(["push", image, &to]).args(OPTIONS));
    }

    fn build(&self, target: &str, name: &str, more: &[&str]) -> PathBuf {
        let path = self.at(name);
        let mut program = bootwright(&self.at("store"));
        program.args(["build", target, "--force", "-o"]);
        ok(program.arg(&path).args(more));
        path
    }

    fn inspect(&self, target: &str, more: &[&str]) -> Value {
        let mut program = bootwright(&self.at("fresh"));
        program.args(["inspect", target, "--json"]).args(more);
        serde_json::from_str(&ok(&mut program)).unwrap()
    }

    /// The disk that `target` names must be the one that was built.
    fn is_the_disk(&self, target: &str, more: &[&str]) {
        let copy = self.at("copy.raw");
        let mut program = bootwright(&self.at("fresh"));
        program.args(["build", target, "--force", "-o"]);
        ok(program.arg(&copy).args(more));
        ok(command(&["cmp"]).arg(&copy).arg(self.at("disk.raw")));
        fs::remove_dir_all(self.at("fresh")).unwrap();
    }
}

/// A containerDisk with `file` in it, as other tools make them.
fn container_disk(dir: &Path, name: &str, file: &Path, owner: u64) -> String {
    let layer = Tarball::new()
        .owner(owner, owner)
        .dir("disk")
        .file(&format!("disk/{name}"), fs::read(file).unwrap())
        .finish();
    Layout::new(dir).layer(&layer, Compression::Gzip).tag("v1");
    format!("oci:{}:v1", dir.display())
}

#[test]
fn a_disk_image_is_the_same_disk_over_every_transport() {
    let work = Work::new();
    let registry = Registry::start(&Setup::default());
    let docker = format!("docker://{}/disk:v1", registry.host());
    let (oci, archive) = (
        work.disk(),
        format!("oci-archive:{}:v1", work.at("a.tar").display()),
    );
    let legacy = format!("docker-archive:{}:disk:v1", work.at("d.tar").display());
    skopeo_copy(&["--dest-tls-verify=false", &oci, &docker]);
    skopeo_copy(&[&oci, &archive]);
    // Docker's form knows no zstd, so these layers are compressed anew.
    let gzip = format!("oci:{}:v1", work.at("gzip").display());
    let plain = format!("dir:{}", work.at("plain").display());
    skopeo_copy(&["--dest-decompress", &oci, &plain]);
    skopeo_copy(&[&plain, &gzip]);
    skopeo_copy(&[&gzip, &legacy]);
    for target in [&oci, &archive, &gzip, &legacy, &docker] {
        work.is_the_disk(target, &["--tls-verify=false"]);
    }
    // Where its tables do not fit the blobs, all of it is fetched.
    let report = work.inspect(&gzip, &[]);
    assert_eq!(report["boots"]["source"], "kernel");
    // In another format, as images are.
    let qcow2 = work.build(&oci, "copy.qcow2", &["--compress", "zstd"]);
    ok(command(&["qemu-img", "compare"])
        .arg(&qcow2)
        .arg(work.at("disk.raw")));
}

#[test]
fn containerdisks_of_anybody_are_disks() {
    let work = Work::new();
    let raw = work.at("disk.raw");
    let qcow2 = work.at("other.qcow2");
    ok(command(&["qemu-img", "convert", "-c", "-O", "qcow2"])
        .arg(&raw)
        .arg(&qcow2));
    for (n, (name, file, owner, format)) in [
        ("disk.img", &raw, 107, "raw"),
        ("Fedora-Cloud 43.qcow2", &qcow2, 0, "qcow2"),
        ("image", &qcow2, 1000, "qcow2"),
    ]
    .into_iter()
    .enumerate()
    {
        let target = container_disk(&work.at(&format!("cd{n}")), name, file, owner);
        work.is_the_disk(&target, &[]);
        let report = work.inspect(&target, &[]);
        assert_eq!(report["origin"]["form"], "containerdisk");
        assert_eq!(report["format"], format);
        assert_eq!(report["partitions"][0]["label"], "root");
        assert!(report["boots"]["kernel"].is_string(), "{report}");
    }
}

#[test]
fn inspect_tells_where_a_disk_comes_from() {
    let work = Work::new();
    let report = work.inspect(&work.disk(), &[]);
    let origin = &report["origin"];
    assert_eq!(origin["form"], "disk");
    assert_eq!(origin["name"], work.disk());
    assert_eq!(origin["source"]["reference"], work.image());
    assert_eq!(origin["options"]["free"], "16777216");
    let tool = concat!("bootwright ", env!("CARGO_PKG_VERSION"));
    assert_eq!(origin["tool"], tool);
    assert_eq!(report["path"], Value::Null);
    assert_eq!(
        report["size"],
        work.at("disk.raw").metadata().unwrap().len()
    );
    assert_eq!(report["boots"]["source"], "kernel");
    assert_eq!(report["made_for"]["kernel_version"], "6.1.0-test");
    assert_eq!(report["made_for"]["kernel_size"], 70_000);

    let mut program = bootwright(&work.at("fresh"));
    let text = ok(program.args(["inspect", &work.disk()]));
    for part in ["a disk image", "made from", "option free", "Partition 1"] {
        assert!(text.contains(part), "{part} is in {text}");
    }
}

#[test]
fn options_for_images_are_refused_by_name() {
    let work = Work::new();
    let cases: &[(&[&str], &str)] = &[
        (&["--size", "20G"], "--size: "),
        (&["--free", "1G", "--karg", "quiet"], "--free, --karg: "),
        (
            &["--hostname", "web", "--boot", "uki"],
            "--boot, --hostname: ",
        ),
    ];
    let raw = work.at("disk.raw").display().to_string();
    for target in [&work.disk(), &raw] {
        for (options, words) in cases {
            let mut program = bootwright(&work.at("store"));
            program
                .args(["build", target, "-o"])
                .arg(work.at("new.raw"));
            let said = fails(program.args(*options));
            assert!(said.contains(words) && said.contains("finished"), "{said}");
            let mut program = bootwright(&work.at("store"));
            program
                .args(["serve", target, "--nbd"])
                .arg(work.at("socket"));
            let said = fails(program.args(*options));
            assert!(said.contains(words), "{said}");
        }
    }
    assert!(!work.at("new.raw").exists());
}

/// Blobs that were fetched as a whole, by their number and size.
fn fetched(seen: &[Request]) -> usize {
    let blobs = seen
        .iter()
        .filter(|r| r.is_blob() && r.line.starts_with("GET "));
    blobs.filter(|r| r.header("range").is_none()).count()
}

#[test]
fn a_pulled_disk_saves_its_siblings_and_its_image_the_layers() {
    let work = Work::new();
    let registry = Registry::start(&Setup::default());
    let docker = |name: &str| format!("docker://{}/{name}", registry.host());
    let copy = |from: &str, to: &str| {
        skopeo_copy(&["--dest-tls-verify=false", from, &docker(to)]);
    };
    copy(&work.image(), "image:v1");
    copy(&work.disk(), "disk:v1");
    // The next version: the same base, another application.
    let sibling = Layout::new(&work.at("image2"))
        .layer(&base().finish(), Compression::Gzip)
        .layer(
            &Tarball::new().file("new", pseudo_random(50_000)).finish(),
            Compression::None,
        );
    sibling.tag("v1");
    let image2 = format!("oci:{}:v1", work.at("image2").display());
    work.push(&image2, "disk2");
    copy(&image2, "image:v2");
    copy(&format!("oci:{}:v1", work.at("disk2").display()), "disk:v2");

    let proxy = Proxy::start(registry.port, |_, _| Fault::None);
    let build = |name: &str, options: &[&str]| {
        let before = proxy.seen().len();
        let mut program = bootwright(&work.at("node"));
        let target = format!("docker://{}/{name}", proxy.host());
        program.args(["build", &target, "--tls-verify=false", "--force", "-o"]);
        ok(program.arg(work.at("node.raw")).args(options));
        fetched(&proxy.seen()[before..])
    };
    // Config, two layers and the metadata.
    assert_eq!(build("disk:v1", &[]), 4);
    assert_eq!(build("disk:v1", &[]), 0, "again: only the tag is asked for");
    assert_eq!(
        build("disk:v2", &[]),
        3,
        "config, metadata and the new layer"
    );
    ok(command(&["cmp"])
        .arg(work.at("node.raw"))
        .arg(work.build(&image2, "2.raw", &OPTIONS)));

    // What only the older version used goes first.
    let cache = |args: &[&str]| -> Value {
        let mut program = bootwright(&work.at("node"));
        program.arg("cache").args(args).arg("--json");
        serde_json::from_str(&ok(&mut program)).unwrap()
    };
    let everything = cache(&["prune", "--keep", "1T", "--dry-run"]);
    let total = everything["left"].as_u64().unwrap();
    let few = cache(&["prune", "--keep", &(total - 300_000).to_string()]);
    assert!(few["freed"].as_u64().unwrap() >= 300_000, "{few}");
    assert_eq!(build("disk:v2", &[]), 0, "it is all there");
    let missing = build("image:v1", &OPTIONS);
    assert!((1..=3).contains(&missing), "{missing} blobs");
    ok(command(&["cmp"])
        .arg(work.at("node.raw"))
        .arg(work.at("disk.raw")));
}

#[test]
fn inspect_reads_little_of_a_large_disk() {
    let work = Work::new();
    // A layer that nobody has to read.
    let large = Layout::new(&work.at("image"))
        .layer(&base().finish(), Compression::Gzip)
        .layer(
            &Tarball::new()
                .file("data", pseudo_random(40 << 20))
                .finish(),
            Compression::None,
        );
    large.tag("v1");
    work.push(&work.image(), "large");
    let registry = Registry::start(&Setup::default());
    let large = format!("oci:{}:v1", work.at("large").display());
    let to = format!("docker://{}/disk:v1", registry.host());
    skopeo_copy(&["--dest-tls-verify=false", &large, &to]);
    let proxy = Proxy::start(registry.port, |_, _| Fault::None);
    let target = format!("docker://{}/disk:v1", proxy.host());
    let report = work.inspect(&target, &["--tls-verify=false"]);
    assert_eq!(report["boots"]["source"], "kernel");
    let seen = proxy.seen();
    assert_eq!(fetched(&seen), 2, "config and metadata");
    let bytes: u64 = seen
        .iter()
        .filter_map(|request| {
            let (start, end) = request
                .header("range")?
                .strip_prefix("bytes=")?
                .split_once('-')?;
            Some(end.parse::<u64>().unwrap() + 1 - start.parse::<u64>().unwrap())
        })
        .sum();
    assert!(bytes < 4 << 20, "{bytes} bytes");
}
