//! Plans to test with, and what they say as plain bytes.

#![allow(dead_code, unreachable_pub, clippy::panic)]

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use bootwright_disk::reader::{ReadAt, Run};
use bootwright_disk::sink::{self, Format, Options, Report, SinkError, Target};
use bootwright_disk::{Extent, Plan, PlanBuilder, PlanReader, Source, SourceId, SourceKind};
use proptest::prelude::*;
use tempfile::TempDir;

/// Length of the two source files.
pub const SOURCE_LEN: u64 = 1 << 20;

/// A plan, the directory with its sources, and the bytes it stands for.
#[derive(Debug)]
pub struct Sample {
    pub dir: TempDir,
    pub plan: Plan,
}

impl Sample {
    /// Places `pieces` on a disk of `size` bytes: start, length and what;
    /// pieces that overlap an earlier one or stick out are left out.
    pub fn new(size: u64, pieces: impl IntoIterator<Item = Piece>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let sources = vec![
            pack(dir.path(), "pack", 0x1234_5678),
            host_file(dir.path(), "host", 0x9abc_def1),
        ];
        let mut taken: Vec<(u64, u64)> = Vec::new();
        let mut builder = PlanBuilder::new(sources);
        for piece in pieces {
            let (start, end) = (piece.start, piece.start.saturating_add(piece.len));
            if piece.len == 0 || end > size || taken.iter().any(|t| start < t.1 && t.0 < end) {
                continue;
            }
            taken.push((start, end));
            builder.put(match piece.what {
                What::Literal(seed) => Extent::literal(start, noise(piece.len, seed)),
                What::Zeros => Extent::literal(start, vec![0; piece.len as usize]),
                What::Source(id, offset) => {
                    let len = piece.len.min(SOURCE_LEN);
                    Extent::source(start, len, SourceId(id), offset.min(SOURCE_LEN - len))
                }
            });
        }
        let plan = builder.finish(size).expect("a plan");
        Self { dir, plan }
    }

    pub fn reader(&self) -> PlanReader {
        PlanReader::new(self.plan.clone())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The disk byte by byte, by the plainest means.
    pub fn bytes(&self) -> Vec<u8> {
        let files: Vec<Vec<u8>> = (self.plan.sources().iter())
            .map(|s| std::fs::read(&s.path).expect("a source"))
            .collect();
        let mut disk = vec![0; self.plan.size() as usize];
        for extent in self.plan.extents() {
            let (start, len) = (extent.start as usize, extent.len as usize);
            disk[start..start + len].copy_from_slice(match &extent.content {
                bootwright_disk::Content::Literal(bytes) => bytes,
                bootwright_disk::Content::Source { id, offset } => {
                    &files[id.0 as usize][*offset as usize..][..len]
                }
            });
        }
        disk
    }

    /// Writes the disk to the file `name` in the sample's directory.
    pub fn write(&self, name: &str, format: Format) -> PathBuf {
        let path = self.path(name);
        write(
            &self.reader(),
            Target::Path(path.clone()),
            format,
            &forced(),
        )
        .expect("a disk");
        path
    }
}

/// Something at a place of a disk.
#[derive(Debug, Clone)]
pub struct Piece {
    pub start: u64,
    pub len: u64,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    Literal(u64),
    Zeros,
    /// Source and offset, moved down to fit.
    Source(u32, u64),
}

pub fn forced() -> Options {
    Options {
        force: true,
        sync: false,
        ..Options::default()
    }
}

pub fn write(
    disk: &dyn ReadAt,
    target: Target<'_>,
    format: Format,
    options: &Options,
) -> Result<Report, SinkError> {
    sink::write(
        disk,
        target,
        format,
        options,
        &|_| {},
        &AtomicBool::new(false),
    )
}

/// The disk equals `bytes`, read at once, in pieces, by runs and by data.
pub fn check_disk(disk: &dyn ReadAt, bytes: &[u8]) {
    assert_eq!(disk.size(), bytes.len() as u64);
    let read = |at: u64, len: u64| {
        let mut part = vec![0xee; len as usize];
        disk.read_exact_at(at, &mut part).expect("readable");
        part
    };
    assert!(read(0, disk.size()) == bytes);
    let mut at = 0;
    while at < disk.size() {
        let len = (at * 7 % 90_001 + 1).min(disk.size() - at);
        assert!(read(at, len) == bytes[at as usize..][..len as usize]);
        at += len;
    }
    let mut at = 0;
    while at < disk.size() {
        let len = match disk.next_run(at..disk.size()).expect("readable") {
            Run::Read(len) => len,
            Run::File(run) => {
                let mut part = vec![0; run.len as usize];
                run.file
                    .read_exact_at(&mut part, run.offset)
                    .expect("readable");
                assert!(
                    part == bytes[at as usize..][..run.len as usize],
                    "run at {at}"
                );
                run.len
            }
        };
        assert!(len > 0 && at + len <= disk.size());
        at += len;
    }
    let mut at = 0;
    while let Some(data) = disk.next_data(at).expect("readable") {
        assert!(data.start >= at && data.start < data.end && data.end <= disk.size());
        assert!(
            bytes[at as usize..data.start as usize]
                .iter()
                .all(|b| *b == 0)
        );
        at = data.end;
    }
    assert!(bytes[at as usize..].iter().all(|b| *b == 0));
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(len: u64, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

fn source_bytes(seed: u64) -> Vec<u8> {
    let mut bytes = noise(SOURCE_LEN, seed);
    // Runs of zeros and of text, as files have them.
    bytes[100_000..300_000].fill(0);
    bytes[400_000..500_000].fill(b'a');
    bytes
}

fn pack(dir: &Path, name: &str, seed: u64) -> Source {
    let path = dir.join(name);
    std::fs::write(&path, source_bytes(seed)).expect("a pack");
    Source {
        kind: SourceKind::Pack {
            diff_id: format!("sha256:{seed:064x}"),
        },
        path,
        len: SOURCE_LEN,
    }
}

fn host_file(dir: &Path, name: &str, seed: u64) -> Source {
    let path = dir.join(name);
    std::fs::write(&path, source_bytes(seed)).expect("a file");
    let metadata = File::open(&path)
        .and_then(|f| f.metadata())
        .expect("a file");
    Source {
        kind: SourceKind::HostFile {
            device: metadata.dev(),
            inode: metadata.ino(),
            mtime_ns: i128::from(metadata.mtime()) * 1_000_000_000
                + i128::from(metadata.mtime_nsec()),
        },
        path,
        len: SOURCE_LEN,
    }
}

/// The alignments that go wrong: bytes, sectors, blocks and clusters.
pub fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let position = |max: u64| {
        (
            0..max,
            prop::sample::select(vec![1u64, 1, 512, 4096, 65536]),
        )
            .prop_map(|(n, a)| n / a * a)
    };
    let what = prop_oneof![
        3 => any::<u64>().prop_map(What::Literal),
        1 => Just(What::Zeros),
        4 => (0..2u32, position(SOURCE_LEN)).prop_map(|(id, offset)| What::Source(id, offset)),
    ];
    let len = prop_oneof![
        2 => 1..10_000u64,
        1 => position(400_000).prop_map(|n| n + 4096),
    ];
    let piece =
        (position(3 << 20), len, what).prop_map(|(start, len, what)| Piece { start, len, what });
    prop::collection::vec(piece, 0..24)
}

/// Disks of up to 3 MiB in whole sectors, as every format can hold.
pub fn samples() -> impl Strategy<Value = Sample> {
    (1..6144u64, pieces()).prop_map(|(sectors, pieces)| Sample::new(sectors * 512, pieces))
}

/// Hand-made plans with one nasty thing each.
pub fn nasty() -> Vec<(&'static str, Sample)> {
    let piece = |start, len, what| Piece { start, len, what };
    vec![
        ("empty", Sample::new(1 << 20, [])),
        (
            "one byte at the very end",
            Sample::new(3 << 19, [piece((3 << 19) - 1, 1, What::Literal(1))]),
        ),
        (
            "one sector",
            Sample::new(512, [piece(3, 200, What::Literal(1))]),
        ),
        (
            "last cluster partial",
            Sample::new(
                (1 << 20) + 512,
                [piece(1 << 20, 512, What::Source(0, 700_001))],
            ),
        ),
        (
            "whole, odd offsets",
            Sample::new(
                1 << 20,
                [
                    piece(0, 13, What::Source(1, 1)),
                    piece(13, (1 << 20) - 13, What::Source(0, 5)),
                ],
            ),
        ),
        (
            "files one after the other with tails",
            Sample::new(
                1 << 20,
                (0..60).map(|i| piece(i * 16384, 16384 - i * 61 - 1, What::Source(0, i * 16384))),
            ),
        ),
        (
            "literal zeros and a zero run of a file",
            Sample::new(
                2 << 20,
                [
                    piece(0, 200_000, What::Zeros),
                    piece(1 << 20, 200_000, What::Source(0, 100_000)),
                ],
            ),
        ),
        (
            "an extent that ends inside a cluster where another starts",
            Sample::new(
                1 << 20,
                [
                    piece(65536 - 100, 150, What::Literal(3)),
                    piece(65536 + 50, 131_072, What::Source(1, 4096)),
                    piece(65536 * 3 + 50, 1, What::Literal(9)),
                ],
            ),
        ),
    ]
}

/// Runs a tool that the tests need; it must be installed and succeed.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("these tests need {program}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}
