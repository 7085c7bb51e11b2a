//! Raw disks: the right bytes, sparse, and nothing half-written.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bootwright_disk::reader::data_len;
use bootwright_disk::sink::{self, Format, Options, SinkError, Target};
use bootwright_disk::{Extent, PlanBuilder, PlanReader, Source, SourceId, SourceKind};
use common::{Piece, Sample, What, forced, nasty, samples, write};
use proptest::prelude::*;

fn stream(sample: &Sample) -> Vec<u8> {
    let mut bytes = Vec::new();
    let target = Target::Stream(Box::new(&mut bytes));
    let report = write(&sample.reader(), target, Format::Raw, &forced()).unwrap();
    assert_eq!(report.length, sample.plan.size());
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn file_and_stream_hold_what_the_plan_says(sample in samples()) {
        let expected = sample.bytes();
        let path = sample.write("disk.raw", Format::Raw);
        prop_assert!(std::fs::read(path).unwrap() == expected);
        prop_assert!(stream(&sample) == expected);
    }
}

#[test]
fn nasty_plans_are_written_as_they_are() {
    for (name, sample) in nasty() {
        let expected = sample.bytes();
        let path = sample.write("disk.raw", Format::Raw);
        assert!(std::fs::read(path).unwrap() == expected, "{name}");
        assert!(stream(&sample) == expected, "{name}");
    }
}

#[test]
fn zeros_take_no_space() {
    let pieces = [
        Piece {
            start: 5 << 20,
            len: 1 << 20,
            what: What::Zeros,
        },
        Piece {
            start: 100 << 30,
            len: 4096,
            what: What::Literal(1),
        },
    ];
    let sample = Sample::new(200 << 30, pieces);
    let path = sample.write("disk.raw", Format::Raw);
    let metadata = path.metadata().unwrap();
    assert_eq!(metadata.len(), 200 << 30);
    assert!(metadata.blocks() * 512 <= 64 << 10, "{}", metadata.blocks());
}

#[test]
fn holes_of_a_pack_stay_holes() {
    let dir = tempfile::tempdir().unwrap();
    let (path, len) = (dir.path().join("pack"), 8 << 20);
    let pack = std::fs::File::create(&path).unwrap();
    pack.set_len(len).unwrap();
    pack.write_all_at(&vec![7; 1 << 20], 3 << 20).unwrap();
    pack.write_all_at(b"x", 6 << 20).unwrap();
    let source = Source {
        kind: SourceKind::Pack {
            diff_id: "sha256:0".into(),
        },
        path: path.clone(),
        len,
    };
    let mut builder = PlanBuilder::new(vec![source]);
    // From the middle of a hole, and to the end in one.
    builder.put(Extent::source(1 << 20, len - 4096, SourceId(0), 4096));
    let disk = PlanReader::new(builder.finish(16 << 20).unwrap());
    let to = dir.path().join("disk.raw");
    let told = AtomicU64::new(0);
    let report = sink::write(
        &disk,
        Target::Path(to.clone()),
        Format::Raw,
        &forced(),
        &|bytes| {
            told.fetch_add(bytes, Ordering::Relaxed);
        },
        &AtomicBool::new(false),
    )
    .unwrap();
    assert_eq!(told.into_inner(), report.data);
    let mut expected = vec![0; 16 << 20];
    let pack = std::fs::read(&path).unwrap();
    expected[1 << 20..][..(8 << 20) - 4096].copy_from_slice(&pack[4096..]);
    assert!(std::fs::read(&to).unwrap() == expected);
    let used = to.metadata().unwrap().blocks() * 512;
    assert!(used <= (1 << 20) + (64 << 10), "{used}");
}

#[test]
fn progress_adds_up_to_the_data() {
    for (name, sample) in nasty() {
        let done = AtomicU64::new(0);
        let progress = |n| {
            done.fetch_add(n, Ordering::Relaxed);
        };
        let target = Target::Path(sample.path("disk.raw"));
        let report = sink::write(
            &sample.reader(),
            target,
            Format::Raw,
            &forced(),
            &progress,
            &AtomicBool::new(false),
        )
        .unwrap();
        let data = data_len(&sample.reader()).unwrap();
        assert_eq!((report.data, done.into_inner()), (data, data), "{name}");
    }
}

/// The names in a sample's directory, without its sources.
fn outputs(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n != "pack" && n != "host")
        .collect();
    names.sort();
    names
}

#[test]
fn an_existing_file_is_replaced_only_by_force() {
    let sample = nasty().remove(4).1;
    let path = sample.path("disk.raw");
    std::fs::write(&path, "old").unwrap();
    let target = || Target::Path(path.clone());
    let error = write(&sample.reader(), target(), Format::Raw, &Options::default()).unwrap_err();
    assert!(matches!(error, SinkError::Exists(_)), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    write(&sample.reader(), target(), Format::Raw, &forced()).unwrap();
    assert!(std::fs::read(&path).unwrap() == sample.bytes());
    assert_eq!(outputs(sample.dir.path()), ["disk.raw"]);
}

#[test]
fn a_cancelled_write_leaves_the_old_file_and_nothing_else() {
    let sample = nasty().remove(4).1;
    let path = sample.path("disk.raw");
    std::fs::write(&path, "old").unwrap();
    let cancel = AtomicBool::new(false);
    let progress = |_| cancel.store(true, Ordering::Relaxed);
    let target = Target::Path(path.clone());
    let error = sink::write(
        &sample.reader(),
        target,
        Format::Raw,
        &forced(),
        &progress,
        &cancel,
    )
    .unwrap_err();
    assert!(matches!(error, SinkError::Cancelled), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(outputs(sample.dir.path()), ["disk.raw"]);
}

#[test]
fn a_source_that_changed_is_an_error_and_leaves_nothing() {
    for long in [false, true] {
        // Long extents are copied by the kernel, short ones by us.
        let len = if long { 500_000 } else { 5000 };
        let what = What::Source(1, 0);
        let sample = Sample::new(
            1 << 20,
            [Piece {
                start: 0,
                len,
                what,
            }],
        );
        std::fs::write(sample.path("host"), "other").unwrap();
        let target = Target::Path(sample.path("disk.raw"));
        let error = write(&sample.reader(), target, Format::Raw, &forced()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, SinkError::Read(_)), "{text}");
        assert!(text.contains("/host changed while"), "{text}");
        assert!(outputs(sample.dir.path()).is_empty());
    }
}

#[test]
fn what_cannot_be_a_disk_is_refused() {
    let sample = Sample::new(4096, []);
    let cases = [
        ("/dev/null", "is a character device"),
        ("/tmp", "is a directory"),
        ("/nowhere/disk", "No such file"),
    ];
    for (path, message) in cases {
        let target = Target::Path(path.into());
        let error = write(&sample.reader(), target, Format::Raw, &forced()).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn a_new_file_has_the_mode_that_the_umask_leaves() {
    let sample = Sample::new(4096, []);
    std::fs::write(sample.path("plain"), "").unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
    let path = sample.write("disk.raw", Format::Raw);
    assert_eq!(mode(&path), mode(&sample.path("plain")));
}

/// A stream that takes so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(buf.len())
            .ok_or(io::ErrorKind::StorageFull)?;
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_target_says_how_much_is_needed() {
    let sample = nasty().remove(4).1;
    let target = Target::Stream(Box::new(Full(100_000)));
    let error = write(&sample.reader(), target, Format::Raw, &forced()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("no space left") && text.contains("1048576"),
        "{text}"
    );
}
