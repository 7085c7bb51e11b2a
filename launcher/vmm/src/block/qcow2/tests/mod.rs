//! qcow2 files: against QEMU's tools, after crashes, and made to do harm.

mod crash;
mod hostile;
mod tables;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use proptest::prelude::*;

use super::Qcow2Disk;
use crate::block::testing::{Dice, Journal, Rig, file_of, sector};
use crate::block::{Backend, OpenError, RawDisk, read_at, write_at};

/// No whole number of clusters of any size.
const SIZE: u64 = (24 << 20) + 3 * 512;

/// What sector `at` of a backing file holds.
fn backing_value(at: u64) -> u32 {
    // It is shorter than the disk over it, and partly zeros.
    if at * 512 >= SIZE - (1 << 20) || (1000..1300).contains(&at) {
        0
    } else {
        0x8000_0000 | at as u32
    }
}

fn backing_bytes() -> &'static [u8] {
    static BYTES: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    BYTES.get_or_init(|| {
        (0..(SIZE - (1 << 20)) / 512)
            .flat_map(|at| sector(backing_value(at)))
            .collect()
    })
}

fn backing() -> Arc<dyn Backend> {
    Arc::new(RawDisk::from_file(file_of(backing_bytes()), true).unwrap())
}

fn no_value(_: u64) -> u32 {
    0
}

/// Where things happen: at borders of clusters and of L2 tables, and the end.
fn spots() -> Vec<Range<u64>> {
    let end = SIZE / 512;
    vec![
        0..300,
        900..1400,
        32700..32900,
        end - 2100..end - 1900,
        end - 150..end,
    ]
}

fn run(program: &str, args: &[&str]) -> std::process::Output {
    Command::new(program).args(args).output().unwrap()
}

#[track_caller]
fn tool(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}

/// What QEMU thinks of the file.
#[track_caller]
fn check(path: &Path) {
    tool(
        "qemu-img",
        &["check", "-f", "qcow2", path.to_str().unwrap()],
    );
}

/// A kind of file.
#[derive(Debug, Clone, Copy)]
struct Kind {
    options: &'static str,
    backed: bool,
}

const KINDS: [Kind; 8] = [
    Kind {
        options: "compat=1.1",
        backed: false,
    },
    Kind {
        options: "compat=1.1",
        backed: true,
    },
    Kind {
        options: "compat=0.10",
        backed: false,
    },
    Kind {
        options: "compat=0.10",
        backed: true,
    },
    Kind {
        options: "cluster_size=512,refcount_bits=64",
        backed: false,
    },
    Kind {
        options: "cluster_size=4096,refcount_bits=1",
        backed: true,
    },
    Kind {
        options: "cluster_size=2M,refcount_bits=8",
        backed: true,
    },
    Kind {
        options: "preallocation=metadata",
        backed: false,
    },
];

impl Kind {
    fn make(self, dir: &Path) -> PathBuf {
        let path = dir.join("disk.qcow2");
        let name = path.to_str().unwrap();
        let size = SIZE.to_string();
        if self.backed {
            std::fs::write(dir.join("backing.raw"), backing_bytes()).unwrap();
            tool(
                "qemu-img",
                &[
                    "create",
                    "-f",
                    "qcow2",
                    "-o",
                    self.options,
                    "-b",
                    "backing.raw",
                    "-F",
                    "raw",
                    name,
                    &size,
                ],
            );
        } else {
            tool(
                "qemu-img",
                &["create", "-f", "qcow2", "-o", self.options, name, &size],
            );
        }
        path
    }

    fn open(self, path: &Path) -> Qcow2Disk {
        Qcow2Disk::open(path, false, self.backed.then(backing)).unwrap()
    }

    fn base(self) -> &'static dyn Fn(u64) -> u32 {
        if self.backed {
            &backing_value
        } else {
            &no_value
        }
    }

    fn rig<'a>(self, disk: &'a Qcow2Disk, journal: Journal) -> Rig<'a> {
        Rig {
            disk,
            journal,
            base: self.base(),
            model: Default::default(),
            spots: spots(),
            next: 1,
        }
    }
}

fn all_of(disk: &dyn Backend) -> Vec<u8> {
    let mut bytes = vec![0; disk.size() as usize];
    read_at(disk, 0, &mut bytes).unwrap();
    bytes
}

/// The whole disk as qemu-img reads it.
fn as_qemu_reads(path: &Path) -> Vec<u8> {
    let raw = path.with_extension("converted");
    let names = [path.to_str().unwrap(), raw.to_str().unwrap()];
    tool(
        "qemu-img",
        &["convert", "-f", "qcow2", "-O", "raw", names[0], names[1]],
    );
    std::fs::read(raw).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn a_file_of_any_kind_is_what_was_written_and_qemu_agrees(
        seed in any::<u64>(),
        kind in 0..KINDS.len(),
    ) {
        let kind = KINDS[kind];
        let dir = tempfile::tempdir().unwrap();
        let path = kind.make(dir.path());
        let mut disk = kind.open(&path);
        let mut dice = Dice::new(seed);
        let (mut model, mut next) = Default::default();
        for _ in 0..3 {
            let mut rig = kind.rig(&disk, Journal::default());
            (rig.model, rig.next) = (model, next + 1);
            for _ in 0..60 {
                rig.step(&mut dice);
            }
            rig.compare();
            (model, next) = (rig.model, rig.next);
            drop(disk);
            check(&path);
            disk = kind.open(&path);
            let mut rig = kind.rig(&disk, Journal::default());
            rig.model = model.clone();
            rig.compare();
        }
        let all = all_of(&disk);
        drop(disk);
        prop_assert!(all == as_qemu_reads(&path));
    }
}

#[test]
fn what_qemu_io_wrote_is_read_and_what_we_write_qemu_io_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = KINDS[0].make(dir.path());
    let name = path.to_str().unwrap();
    let io = |commands: &[&str]| {
        let mut args = vec!["-f", "qcow2"];
        for command in commands {
            args.extend(["-c", command]);
        }
        args.push(name);
        let text = tool("qemu-io", &args);
        assert!(
            !text.contains("failed") && !text.contains("mismatch"),
            "{text}"
        );
    };
    io(&[
        "write -P 17 100k 200k",
        "write -P 18 5M 1M",
        "write -z 5500k 64k",
        "discard 5800k 128k",
    ]);
    let disk = KINDS[0].open(&path);
    let is = |at: u64, len: usize, value: u8| {
        let mut bytes = vec![0; len];
        read_at(&disk, at, &mut bytes).unwrap();
        assert!(bytes.iter().all(|b| *b == value), "{at}");
    };
    is(0, 100 << 10, 0);
    is(100 << 10, 200 << 10, 17);
    is(5 << 20, 300 << 10, 18);
    is(5504 << 10, 56 << 10, 0);
    write_at(&disk, 150 << 10, &vec![33; 1024]).unwrap();
    write_at(&disk, 10 << 20, &vec![34; 3 << 20]).unwrap();
    write_at(&disk, 5824 << 10, &vec![35; 64 << 10]).unwrap();
    disk.write_zeroes(12 << 20..(12 << 20) + 5000 / 512 * 512, true)
        .unwrap();
    disk.flush().unwrap();
    drop(disk);
    check(&path);
    io(&[
        "read -P 17 100k 50k",
        "read -P 33 150k 1k",
        "read -P 17 151k 149k",
        "read -P 34 10M 2M",
        "read -P 0 12M 4608",
        "read -P 34 12587520 995328",
        "read -P 35 5824k 64k",
        "read -P 0 20M 1M",
    ]);
}

#[test]
fn compressed_clusters_are_read_and_replaced() {
    for (options, size) in [
        ("compression_type=zlib", "64k"),
        ("compression_type=zstd", "64k"),
        ("compression_type=zlib", "4k"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let raw = dir.path().join("raw");
        // Compressible, but every sector another.
        std::fs::write(&raw, backing_bytes()).unwrap();
        let path = dir.path().join("disk.qcow2");
        let name = path.to_str().unwrap();
        let options = format!("{options},cluster_size={size}");
        tool(
            "qemu-img",
            &[
                "convert",
                "-c",
                "-f",
                "raw",
                "-O",
                "qcow2",
                "-o",
                &options,
                raw.to_str().unwrap(),
                name,
            ],
        );
        let disk = Qcow2Disk::open(&path, true, None).unwrap();
        assert!(all_of(&disk) == backing_bytes());
        drop(disk);
        let disk = Qcow2Disk::open(&path, false, None).unwrap();
        let mut model = backing_bytes().to_vec();
        let mut dice = Dice::new(9);
        for i in 0..200 {
            let at = dice.roll(disk.size() / 512 - 300);
            let len = [1, 8, 128, 300][dice.roll(4) as usize];
            let bytes = (at * 512) as usize..((at + len) * 512) as usize;
            match dice.roll(5) {
                0 => {
                    let range = bytes.start as u64..bytes.end as u64;
                    disk.write_zeroes(range, true).unwrap();
                    model[bytes].fill(0);
                }
                _ => {
                    model[bytes.clone()].fill(i as u8);
                    write_at(&disk, bytes.start as u64, &model[bytes]).unwrap();
                }
            }
        }
        assert!(all_of(&disk) == model);
        drop(disk);
        check(&path);
        assert!(as_qemu_reads(&path) == model);
    }
}

#[test]
fn a_snapshot_keeps_what_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let path = KINDS[0].make(dir.path());
    let name = path.to_str().unwrap();
    tool("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 3M", name]);
    tool("qemu-img", &["snapshot", "-c", "before", name]);
    let disk = KINDS[0].open(&path);
    write_at(&disk, 1 << 20, &vec![2; 200 << 10]).unwrap();
    disk.flush().unwrap();
    disk.discard(2 << 20..3 << 20).unwrap();
    drop(disk);
    check(&path);
    tool(
        "qemu-io",
        &[
            "-f",
            "qcow2",
            "-c",
            "read -P 2 1M 200k",
            "-c",
            "read -P 0 2M 1M",
            name,
        ],
    );
    tool("qemu-img", &["snapshot", "-a", "before", name]);
    tool("qemu-io", &["-f", "qcow2", "-c", "read -P 1 0 3M", name]);
    check(&path);
}

#[test]
fn the_refcount_table_grows_with_the_file() {
    // 64-bit refcounts of 512-byte clusters: a block counts 64 of them, and
    // the first table 64 blocks, 2 MiB.
    let dir = tempfile::tempdir().unwrap();
    let path = KINDS[4].make(dir.path());
    let disk = KINDS[4].open(&path);
    let model: Vec<u8> = (0..SIZE).map(|i| (i / 512 % 251 + 1) as u8).collect();
    for (i, part) in model.chunks(3 << 20).enumerate() {
        write_at(&disk, i as u64 * (3 << 20), part).unwrap();
        if i % 2 == 0 {
            disk.flush().unwrap();
        }
    }
    drop(disk);
    check(&path);
    assert!(as_qemu_reads(&path) == model);
    let disk = KINDS[4].open(&path);
    assert!(all_of(&disk) == model);
}

#[test]
fn discarding_gives_space_back() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let path = KINDS[0].make(dir.path());
    let disk = KINDS[0].open(&path);
    write_at(&disk, 0, &vec![5; 8 << 20]).unwrap();
    disk.flush().unwrap();
    let blocks = || std::fs::metadata(&path).unwrap().blocks() * 512;
    assert!(blocks() > 8 << 20);
    disk.discard(4096..8 << 20).unwrap();
    disk.flush().unwrap();
    assert!(blocks() < 1 << 20, "{}", blocks());
    let mut bytes = vec![1; 8 << 20];
    read_at(&disk, 0, &mut bytes).unwrap();
    assert!(bytes[..4096].iter().all(|b| *b == 5) && bytes[4096..].iter().all(|b| *b == 0));
    // And again the same place is written.
    let len = std::fs::metadata(&path).unwrap().len();
    write_at(&disk, 0, &vec![6; 8 << 20]).unwrap();
    drop(disk);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), len);
    check(&path);
}

#[test]
fn two_writes_to_one_new_cluster_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = KINDS[1].make(dir.path());
    let disk = KINDS[1].open(&path);
    let whole = disk.prepare_write(0..65536).unwrap();
    let error = disk.prepare_write(512..1024).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    disk.abandoned(0..65536);
    write_at(&disk, 512, &sector(9)).unwrap();
    let mut bytes = [0; 1536];
    read_at(&disk, 0, &mut bytes).unwrap();
    let expect = [
        sector(backing_value(0)),
        sector(9),
        sector(backing_value(2)),
    ];
    assert_eq!(bytes, *expect.concat());
    drop((whole, disk));
    check(&path);
}

#[test]
fn backing_files_are_opened_by_nobody_but_the_caller() {
    let dir = tempfile::tempdir().unwrap();
    let path = KINDS[1].make(dir.path());
    let error = Qcow2Disk::open(&path, true, None).unwrap_err().to_string();
    assert!(
        error.contains("backing.raw") && error.contains("unless it is asked for"),
        "{error}"
    );
    Qcow2Disk::open(&path, true, Some(backing())).unwrap();
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let plain = KINDS[0].make(&other);
    let error = Qcow2Disk::open(&plain, true, Some(backing())).unwrap_err();
    assert!(error.to_string().contains("has none"), "{error}");
}

#[test]
fn what_is_not_supported_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    let name = path.to_str().unwrap();
    let data = format!("data_file={}", dir.path().join("data").display());
    for (options, what) in [
        (data.as_str(), "external data file"),
        (
            "extended_l2=on,cluster_size=128k",
            "incompatible features 0x10",
        ),
    ] {
        tool(
            "qemu-img",
            &["create", "-f", "qcow2", "-o", options, name, "1M"],
        );
        for read_only in [true, false] {
            let error = Qcow2Disk::open(&path, read_only, None).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_file_has_one_writer_also_of_qemus() {
    let dir = tempfile::tempdir().unwrap();
    let path = KINDS[0].make(dir.path());
    let disk = KINDS[0].open(&path);
    let error = Qcow2Disk::open(&path, false, None).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    let output = run(
        "qemu-io",
        &["-f", "qcow2", "-c", "write 0 512", path.to_str().unwrap()],
    );
    assert!(!output.status.success());
    drop(disk);
    tool(
        "qemu-io",
        &["-f", "qcow2", "-c", "write 0 512", path.to_str().unwrap()],
    );
}

#[test]
fn autoclear_features_are_cleared_by_those_who_write() {
    let dir = tempfile::tempdir().unwrap();
    let path = KINDS[0].make(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[95] = 2;
    std::fs::write(&path, &bytes).unwrap();
    drop(Qcow2Disk::open(&path, true, None).unwrap());
    assert_eq!(std::fs::read(&path).unwrap()[95], 2);
    drop(Qcow2Disk::open(&path, false, None).unwrap());
    assert_eq!(std::fs::read(&path).unwrap()[88..96], [0; 8]);
}
