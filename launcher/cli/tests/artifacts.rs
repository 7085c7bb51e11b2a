//! KubeVirt VirtualMachine artifacts are taken as disks; other artifacts, and
//! what is not what its digest says, are refused.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../../builder/image/tests/common/mod.rs"]
mod image_tests;

use std::fs;
use std::path::{Path, PathBuf};

use common::{bootwright, command, fails, ok};
use image_tests::image::{Layout, MANIFEST, noise};
use serde_json::{Value, json};

const KIND: &str = "application/vnd.kubevirt.virtualmachine.v1";
const ZSTD: &str = "application/vnd.kubevirt.disk.raw+zstd";
const RAW: &str = "application/vnd.kubevirt.disk.raw";

struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes an artifact with these layers.
    fn artifact(&self, kind: &str, layers: impl Fn(&Layout<'_>) -> Vec<Value>) -> String {
        let place = self.at("artifact");
        let _ = fs::remove_dir_all(&place);
        let mut layout = Layout::new(&place);
        let config = layout.blob(
            "application/vnd.kubevirt.virtualmachine.config.v1+json",
            b"{}",
        );
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": kind,
            "config": config,
            "layers": layers(&layout),
            "annotations": {
                "org.opencontainers.image.base.name": "quay.io/acme/web:1.4",
                "dev.bootwright.option.hostname": "web",
            },
        });
        let manifest = layout.json(MANIFEST, &manifest);
        layout.tag("v1", manifest);
        format!("oci:{}:v1", place.display())
    }

    fn build(&self, target: &str) -> std::process::Command {
        let mut program = bootwright(&self.at("store"));
        program.args(["build", target, "--force", "-o"]);
        program.arg(self.at("out.raw"));
        program
    }

    fn nothing_left(&self) {
        assert!(!self.at("out.raw").exists());
        let temporary = ok(command(&["find"])
            .arg(self.at("store"))
            .args(["-size", "+1M", "-type", "f"]));
        assert_eq!(temporary, "", "left in the store");
    }
}

/// A disk with data, holes and an odd end.
fn disk() -> Vec<u8> {
    let mut disk = noise(5, 300_000);
    disk.resize(3 << 20, 0);
    disk.extend(noise(6, 1024));
    disk
}

/// Changes a byte in the blob of a layer.
fn tamper(place: &Path, layer: &Value, at: usize) {
    let digest = layer["digest"].as_str().unwrap().replace(':', "/");
    let path = place.join("blobs").join(digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn the_disk_of_an_artifact_is_a_disk() {
    let case = Case::new();
    let disk = disk();
    // In several frames, as `push` and others write it.
    let (head, tail) = disk.split_at(1 << 20);
    let frames = [
        zstd::encode_all(head, 3).unwrap(),
        zstd::encode_all(tail, 3).unwrap(),
    ]
    .concat();
    for (kind, blob) in [(ZSTD, &frames), (RAW, &disk)] {
        let target = case.artifact(KIND, |layout| vec![layout.blob(kind, blob)]);
        ok(&mut case.build(&target));
        assert!(fs::read(case.at("out.raw")).unwrap() == disk, "{kind}");
        let mut program = bootwright(&case.at("store"));
        let report = ok(program.args(["inspect", &target, "--json"]));
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["origin"]["form"], "artifact");
        assert_eq!(report["origin"]["options"]["hostname"], "web");
        assert_eq!(
            report["origin"]["source"]["reference"],
            "quay.io/acme/web:1.4"
        );
        // Holes stay holes.
        assert!(report["data"].as_u64().unwrap() < 1 << 20, "{report}");
    }
}

#[test]
fn an_artifact_that_is_not_what_it_says_is_refused() {
    let case = Case::new();
    let blob = zstd::encode_all(&disk()[..], 3).unwrap();
    let refused = |target: &str, words: &str| {
        let said = fails(&mut case.build(target));
        assert!(said.contains(words), "{words:?} is not in: {said}");
        case.nothing_left();
    };
    for at in [100, blob.len() - 1] {
        let layer = std::cell::RefCell::new(Value::Null);
        let target = case.artifact(KIND, |layout| {
            let made = layout.blob(ZSTD, &blob);
            layer.replace(made.clone());
            vec![made]
        });
        tamper(&case.at("artifact"), &layer.borrow(), at);
        refused(&target, "sha256:");
    }
    let cut = &blob[..blob.len() - 10];
    let target = case.artifact(KIND, |layout| vec![layout.blob(ZSTD, cut)]);
    refused(&target, "disk sha256:");
    let target = case.artifact(KIND, |_| Vec::new());
    refused(&target, "no disk of a kind that is known");
    let two = |layout: &Layout<'_>| vec![layout.blob(ZSTD, &blob), layout.blob(RAW, b"x")];
    refused(&case.artifact(KIND, two), "it has 2 disks");
    let other = case.artifact("application/vnd.acme.report", |layout| {
        vec![layout.blob("application/json", b"{}")]
    });
    refused(&other, "application/vnd.acme.report");

    // A few bytes that become many.
    let bomb = zstd::encode_all(&vec![0; 64 << 20][..], 19).unwrap();
    let target = case.artifact(KIND, |layout| vec![layout.blob(ZSTD, &bomb)]);
    let said = fails(case.build(&target).args(["--max-layer-size", "1M"]));
    assert!(said.contains("raise --max-layer-size"), "{said}");
    case.nothing_left();
}
