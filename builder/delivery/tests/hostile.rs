//! Disk images and containerDisks of strangers: whatever they say, what is
//! wrong is told, and nothing outside of the image is read.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use bootwright_delivery::frames::{Frame, Written};
use bootwright_delivery::metadata::Metadata;
use bootwright_delivery::oci::{annotation, empty_config};
use bootwright_delivery::{LayerTable, container_disk, disk_image};
use bootwright_disk::plan::{Extent, Plan, PlanBuilder, Source, SourceId, SourceKind};
use bootwright_disk::plan_file;
use bootwright_image::config::ImageConfig;
use bootwright_image::store::{BlobInfo, Layer, Limits, Store, TarRun};
use bootwright_image::{Digest, Platform};
use serde_json::{Value, json};

const GUID: [u8; 16] = [7; 16];
const SIZE: u64 = 1 << 20;
const PACK: u64 = 8192;
const TAR: u64 = 1536;

/// The parts of a metadata layer, to be spoilt one by one.
struct Parts {
    info: Value,
    plan: Vec<u8>,
    table: Vec<u8>,
    /// Names of the files in the tar.
    names: Vec<&'static str>,
}

fn diff_id() -> Digest {
    Digest::sha256(b"a layer")
}

fn plan(pack_len: u64) -> Plan {
    let pack = Source {
        kind: SourceKind::Pack {
            diff_id: diff_id().to_string(),
        },
        path: "/nowhere".into(),
        len: pack_len,
    };
    let mut builder = PlanBuilder::new(vec![pack]);
    builder.put(Extent::literal(0, &b"boot"[..]));
    builder.put(Extent::source(4096, 4096, SourceId(0), 0));
    builder.put(Extent::source(65536, 4096, SourceId(0), 4096));
    builder.finish(SIZE).unwrap()
}

impl Parts {
    fn new() -> Self {
        let mut encoded = Vec::new();
        plan_file::encode(&plan(PACK), GUID, &mut encoded).unwrap();
        let written = Written {
            digest: Digest::sha256(b"blob"),
            size: 1000,
            plain_digest: diff_id(),
            plain_len: TAR,
            frames: vec![Frame {
                len: 900,
                sha256: [0; 32],
            }],
        };
        let run = TarRun {
            tar_offset: 512,
            pack_offset: 0,
            len: 1000,
        };
        Self {
            info: json!({
                "version": 1,
                "guid": uuid::Uuid::from_bytes(GUID),
                "size": SIZE,
                "tool": "test",
                "boot": {
                    "kernelVersion": "6", "commandLine": "",
                    "kernel": {"size": 4096, "parts": [
                        {"offset": 0, "diskOffset": 4096, "len": 1000},
                        {"offset": 1000, "diskOffset": 70_000, "len": 3096},
                    ]},
                },
                "layers": [{
                    "diffId": diff_id().to_string(),
                    "digest": written.digest.to_string(),
                    "size": written.size,
                }],
            }),
            plan: encoded,
            table: LayerTable::new(&written, PACK, vec![run]).unwrap().encode(),
            names: vec![
                "bootwright/disk.json",
                "bootwright/plan",
                "bootwright/layers/0000",
            ],
        }
    }

    fn tar(&self) -> Vec<u8> {
        let info = serde_json::to_vec(&self.info).unwrap();
        let files = [&info, &self.plan, &self.table];
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in self.names.iter().zip(files.into_iter().cycle()) {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o444);
            tar.append_data(&mut header, name, &content[..]).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn read(&self) -> Result<Metadata, String> {
        Metadata::read(&mut &self.tar()[..]).map_err(|e| e.to_string())
    }

    /// Writes a number into the plan and sets its checksum right.
    fn poke(&mut self, at: usize, value: u64) {
        self.plan[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let sum = crc32c::crc32c(&self.plan[16..]);
        self.plan[12..16].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Where extent `n` of the plan begins in its file: after the header and the
/// name of one pack.
fn extent(n: usize) -> usize {
    56 + 12 + diff_id().to_string().len() + 32 * n
}

#[test]
fn a_metadata_layer_that_contradicts_itself_is_refused() {
    let metadata = Parts::new().read().unwrap();
    assert_eq!(metadata.info.size, SIZE);
    type Spoil = fn(&mut Parts);
    let cases: &[(&str, Spoil, &str)] = &[
        (
            "an extent outside its pack",
            |p| p.poke(extent(2) + 16, PACK),
            "points at bytes",
        ),
        (
            "an extent that ends outside its pack",
            |p| p.poke(extent(2) + 16, 4097),
            "points at bytes",
        ),
        (
            "an offset that overflows",
            |p| p.poke(extent(2) + 16, u64::MAX - 10),
            "points at bytes",
        ),
        (
            "overlapping extents",
            |p| p.poke(extent(2), 8000),
            "overlap",
        ),
        (
            "extents out of order",
            |p| p.poke(extent(1), 70_000),
            "not in order",
        ),
        ("an extent past the disk", |p| p.poke(extent(2), SIZE), ""),
        (
            "an extent that overflows",
            |p| p.poke(extent(2), u64::MAX - 100),
            "",
        ),
        (
            "a length that overflows",
            |p| p.poke(extent(2) + 8, u64::MAX),
            "",
        ),
        ("an empty extent", |p| p.poke(extent(2) + 8, 0), ""),
        ("an unknown pack", |p| p.poke(extent(2) + 24, 1), ""),
        (
            "a literal past the end",
            |p| p.poke(extent(0) + 8, 4096),
            "",
        ),
        (
            "more extents than there are",
            |p| p.poke(48, u64::MAX / 32),
            "",
        ),
        ("another size", |p| p.poke(32, 2 * SIZE), "different disks"),
        (
            "an impossible size",
            |p| {
                p.poke(32, u64::MAX);
                p.info["size"] = u64::MAX.into();
            },
            "64 TiB",
        ),
        ("another disk", |p| p.poke(16, 8), "different disks"),
        ("a newer plan", |p| p.plan[8] = 2, "version 2"),
        ("a newer table", |p| p.table[8] = 9, "version 9"),
        (
            "newer metadata",
            |p| p.info["version"] = 2.into(),
            "update bootwright",
        ),
        (
            "no version",
            |p| p.info["version"] = "x".into(),
            "disk.json",
        ),
        (
            "another layer",
            |p| p.info["layers"][0]["diffId"] = Digest::sha256(b"x").to_string().into(),
            "different layers",
        ),
        (
            "no layers",
            |p| p.info["layers"] = json!([]),
            "unexpected file",
        ),
        (
            "frames past the blob",
            |p| p.info["layers"][0]["size"] = 899.into(),
            "outside its blob",
        ),
        ("a damaged table", |p| p.table[60] ^= 1, "checksum"),
        ("a table that ends early", |p| p.table.truncate(50), ""),
        ("a damaged plan", |p| p.plan[60] ^= 1, "checksum"),
        (
            "a kernel outside the disk",
            |p| p.info["boot"]["kernel"]["parts"][1]["diskOffset"] = (SIZE - 1).into(),
            "outside the disk",
        ),
        (
            "a kernel whose parts overflow",
            |p| p.info["boot"]["kernel"]["parts"][1]["diskOffset"] = u64::MAX.into(),
            "outside the disk",
        ),
        (
            "a kernel whose parts overlap",
            |p| p.info["boot"]["kernel"]["parts"][1]["offset"] = 999.into(),
            "out of order",
        ),
        (
            "a kernel shorter than its parts",
            |p| p.info["boot"]["kernel"]["size"] = 4095.into(),
            "out of order",
        ),
        (
            "a missing table",
            |p| p.names.truncate(2),
            "no bootwright/layers/0000",
        ),
        (
            "a missing plan",
            |p| p.names[1] = "bootwright/other",
            "no bootwright/plan",
        ),
        (
            "a file too many",
            |p| p.names.push("bootwright/more"),
            "unexpected file",
        ),
        (
            "a file twice",
            |p| p.names[1] = "bootwright/disk.json",
            "twice",
        ),
    ];
    for (what, spoil, words) in cases {
        let mut parts = Parts::new();
        spoil(&mut parts);
        let error = parts.read().expect_err(what);
        assert!(error.contains(words), "{what}: {error}");
    }
}

#[test]
fn a_metadata_layer_that_is_cut_short_is_refused_wherever_it_ends() {
    let tar = Parts::new().tar();
    // What comes last is the end of the archive, which may be missing.
    let content = tar.len() - 1024;
    for len in (0..content).step_by(97) {
        assert!(Metadata::read(&mut &tar[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn no_tables_length_makes_memory() {
    // Numbers that ask for gigabytes, in files of some hundred bytes.
    for at in [32, 36, 40, 44] {
        let mut parts = Parts::new();
        parts.table[at..at + 4].copy_from_slice(&[0xff; 4]);
        let sum = crc32c::crc32c(&parts.table[16..]);
        parts.table[12..16].copy_from_slice(&sum.to_le_bytes());
        assert!(parts.read().is_err());
    }
}

struct Case {
    store: Store,
    _dir: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            store: Store::open(Some(&dir.path().join("store"))).unwrap(),
            _dir: dir,
        }
    }

    fn layer(&self, tar: &[u8]) -> Layer {
        let (diff_id, blob) = (Digest::sha256(tar), BlobInfo::default());
        self.store
            .add_layer(&diff_id, &blob, tar, &Limits::default(), &|_| ())
            .unwrap()
    }
}

fn config(version: &str) -> ImageConfig {
    let platform: Platform = "linux/amd64".parse().unwrap();
    let mut config = empty_config(platform);
    config.labels = BTreeMap::from([(annotation::DISK_VERSION.to_owned(), version.to_owned())]);
    config
}

#[test]
fn a_disk_image_of_another_version_or_without_its_layers_is_refused() {
    let case = Case::new();
    let top = case.layer(&Parts::new().tar());
    let other = case.layer(&tar_of(&[("file", b"content")]));
    let open = |version: &str, layers: &[Layer]| {
        let error = disk_image::open(&config(version), layers).unwrap_err();
        error.to_string()
    };
    let said = open("2", std::slice::from_ref(&top));
    assert!(
        said.contains("format version 2") && said.contains("update bootwright"),
        "{said}"
    );
    let said = open("two", std::slice::from_ref(&top));
    assert!(said.contains("\"two\" is no version"), "{said}");
    let said = open("1", &[]);
    assert!(said.contains("no layers"), "{said}");
    let said = open("1", std::slice::from_ref(&top));
    assert!(said.contains("which the image does not have"), "{said}");
    // The metadata is not on top.
    let said = open("1", &[top.clone(), other.clone()]);
    assert!(said.contains("no bootwright/disk.json"), "{said}");
    // A layer of the same name whose pack has another length: the plan's
    // extents would lie outside of it.
    let short = case.layer(&tar_of(&[("file", b"content")]));
    let mut parts = Parts::new();
    let text = parts.plan.clone();
    let (from, to) = (diff_id().to_string(), short.diff_id().to_string());
    let at = text
        .windows(from.len())
        .position(|w| w == from.as_bytes())
        .unwrap();
    parts.plan[at..at + to.len()].copy_from_slice(to.as_bytes());
    parts.poke(32, SIZE);
    parts.info["layers"][0]["diffId"] = to.into();
    let said = open("1", &[short, case.layer(&parts.tar())]);
    assert!(
        said.contains("has 4096 bytes, the disk's plan says 8192"),
        "{said}"
    );
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn what_is_no_containerdisk_is_told() {
    let case = Case::new();
    let find = |tars: &[Vec<u8>]| {
        let layers: Vec<_> = tars.iter().map(|tar| case.layer(tar)).collect();
        let found = container_disk::find(&layers).map_err(|e| e.to_string());
        found.map(|found| (found.name.clone(), found.is_qcow2))
    };
    assert_eq!(
        find(&[tar_of(&[("disk/x", b"QFI\xfb")])]),
        Ok(("disk/x".into(), true))
    );
    // The upper layer replaces and removes.
    let upper = [
        tar_of(&[("disk/a", b"lower"), ("disk/b", b"lower")]),
        tar_of(&[("disk/.wh.a", b"")]),
    ];
    assert_eq!(find(&upper), Ok(("disk/b".into(), false)));
    let opaque = [
        tar_of(&[("disk/a", b"lower"), ("disk/b", b"lower")]),
        tar_of(&[("disk/.wh..wh..opq", b""), ("disk/c", b"")]),
    ];
    assert_eq!(find(&opaque), Ok(("disk/c".into(), false)));
    for (tars, words) in [
        (vec![], "no file under /disk"),
        (vec![tar_of(&[("other", b"")])], "no file under /disk"),
        (
            vec![tar_of(&[("disk/a", b""), ("disk/b", b"")])],
            "2 files under /disk",
        ),
        (vec![tar_of(&[("disk", b"")])], "/disk is no directory"),
    ] {
        let error = find(&tars).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    let mut link = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    link.append_link(&mut header, "disk/disk.img", "/etc/shadow")
        .unwrap();
    let error = find(&[link.into_inner().unwrap()]).unwrap_err();
    assert!(error.contains("is no regular file"), "{error}");
}

#[test]
fn a_qcow2_with_a_backing_file_is_refused() {
    let case = Case::new();
    let dir = tempfile::tempdir().unwrap();
    let (base, top) = (dir.path().join("base.raw"), dir.path().join("top.qcow2"));
    std::fs::write(&base, vec![7; 1 << 20]).unwrap();
    let done = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .args([&base, &top])
        .status();
    assert!(done.unwrap().success());
    let layer = case.layer(&tar_of(&[(
        "disk/disk.qcow2",
        &std::fs::read(&top).unwrap(),
    )]));
    let found = container_disk::find(&[layer]).unwrap();
    let error = found.open(None).unwrap_err().to_string();
    assert!(error.contains("backing file"), "{error}");
}
