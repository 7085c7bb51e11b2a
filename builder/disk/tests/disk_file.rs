//! Disks that others made: read as QEMU reads them, hostile ones refused.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bootwright_disk::reader::{DiskFile, DiskFormat, ReadAt, open_disk, open_disk_as};
use bootwright_disk::sink::{Compression, Format, Options, Target};
use common::{Piece, Sample, What, check_disk as check, forced, noise, run, samples, write};
use proptest::prelude::*;
use tempfile::TempDir;

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A disk with data, text and zeros in it.
fn sample() -> Sample {
    Sample::new(
        (5 << 20) + 1536,
        [
            Piece {
                start: 100,
                len: 70_000,
                what: What::Literal(1),
            },
            Piece {
                start: 1 << 20,
                len: 1 << 20,
                what: What::Source(0, 0),
            },
            Piece {
                start: (5 << 20) + 1000,
                len: 536,
                what: What::Literal(2),
            },
        ],
    )
}

#[test]
fn what_qemu_makes_is_read_as_qemu_reads_it() {
    let sample = sample();
    let raw = sample.write("disk.raw", Format::Raw);
    let disk = sample.path("disk.qcow2");
    let cases: [&[&str]; 10] = [
        &[],
        &["-o", "compat=0.10"],
        &["-c"],
        &["-c", "-o", "compat=0.10"],
        &["-c", "-o", "compression_type=zstd"],
        &["-c", "-o", "compression_type=zstd,cluster_size=2M"],
        &["-c", "-o", "cluster_size=512"],
        &["-o", "cluster_size=512"],
        &["-o", "cluster_size=2M,lazy_refcounts=on"],
        &["-o", "refcount_bits=1"],
    ];
    for case in cases {
        println!("{case:?}");
        let mut args = vec!["convert", "-f", "raw", "-O", "qcow2"];
        args.extend(case);
        args.extend([utf8(&raw), utf8(&disk)]);
        run("qemu-img", &args);
        let opened = open_disk(&disk).unwrap();
        assert_eq!(opened.format(), DiskFormat::Qcow2);
        check(&opened, &sample.bytes());
    }
}

#[test]
fn a_disk_with_snapshots_shows_its_present_state() {
    let sample = sample();
    let raw = sample.write("disk.raw", Format::Raw);
    let disk = sample.path("disk.qcow2");
    let (raw, path) = (utf8(&raw), utf8(&disk));
    run(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "qcow2", raw, path],
    );
    run("qemu-img", &["snapshot", "-c", "before", path]);
    run("qemu-io", &["-c", "write -P 0x55 64k 128k", path]);
    run("qemu-io", &["-c", "write -z 1100k 128k", path]);
    run("qemu-io", &["-c", "discard 4M 64k", path]);
    let mut bytes = sample.bytes();
    bytes[64 << 10..192 << 10].fill(0x55);
    bytes[1100 << 10..1228 << 10].fill(0);
    check(&open_disk(&disk).unwrap(), &bytes);
}

#[test]
fn a_raw_file_is_read_as_it_is() {
    let sample = sample();
    let raw = sample.write("disk.raw", Format::Raw);
    let disk = open_disk(&raw).unwrap();
    assert_eq!(disk.format(), DiskFormat::Raw);
    check(&disk, &sample.bytes());
    assert_eq!(disk.next_data(2 << 20).unwrap().unwrap().start, 5 << 20);
    let empty = sample.path("empty");
    std::fs::write(&empty, "").unwrap();
    check(&open_disk(&empty).unwrap(), &[]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_we_write_is_what_we_read(
        sample in samples(),
        compression in prop::sample::select(
            vec![Compression::None, Compression::Zlib, Compression::Zstd]),
        cluster_bits in 9..18u32,
    ) {
        let options = Options { compression, cluster_size: 1 << cluster_bits, ..forced() };
        let path = sample.path("disk.qcow2");
        write(&sample.reader(), Target::Path(path.clone()), Format::Qcow2, &options).unwrap();
        let disk = open_disk(&path).unwrap();
        check(&disk, &sample.bytes());
        // And once more through a sink.
        let raw = sample.path("again.raw");
        write(&disk, Target::Path(raw.clone()), Format::Raw, &forced()).unwrap();
        prop_assert!(std::fs::read(raw).unwrap() == sample.bytes());
    }

    /// Whatever single field of header and tables lies, reading ends in bytes
    /// or in an error, soon.
    #[test]
    fn a_damaged_disk_is_an_error_or_some_other_disk(
        at in prop_oneof![0..112u64, 0..300_000u64],
        value in prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), (0..64u32).prop_map(|n| 1 << n)],
        compression in prop::sample::select(
            vec![Compression::None, Compression::Zlib, Compression::Zstd]),
    ) {
        let (_dir, path) = made(compression);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&value.to_be_bytes(), at).unwrap();
        if let Ok(disk) = open_disk(&path) {
            read_some(&disk);
        }
    }
}

fn made(compression: Compression) -> (TempDir, PathBuf) {
    let sample = sample();
    let path = sample.path("disk.qcow2");
    let options = Options {
        compression,
        cluster_size: 4096,
        ..forced()
    };
    write(
        &sample.reader(),
        Target::Path(path.clone()),
        Format::Qcow2,
        &options,
    )
    .unwrap();
    (sample.dir, path)
}

fn read_some(disk: &DiskFile) {
    let mut part = vec![0; 1 << 16];
    let mut at = 0;
    for _ in 0..200 {
        let Ok(Some(data)) = disk.next_data(at) else {
            break;
        };
        assert!(data.start >= at && data.start < data.end && data.end <= disk.size());
        let len = (data.end - data.start).min(part.len() as u64) as usize;
        let _ = disk.read_exact_at(data.start, &mut part[..len]);
        let _ = disk.next_run(data.clone());
        at = data.start + len as u64;
    }
}

/// Writes big-endian numbers into a good qcow2 and says what opening gives.
fn with(changes: &[(u64, &[u8])]) -> String {
    let (_dir, path) = made(Compression::Zstd);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    for (at, bytes) in changes {
        file.write_all_at(bytes, *at).unwrap();
    }
    match open_disk(&path) {
        Ok(_) => "opened".into(),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(utf8(&path)), "{text}");
            text
        }
    }
}

#[test]
fn what_is_not_safe_to_read_is_refused() {
    type Change<'a> = (u64, &'a [u8]);
    let cases: [(&[Change<'_>], &str); 14] = [
        (&[], "opened"),
        (&[(4, &[0, 0, 0, 4])], "version 4"),
        (&[(8, &[0, 0, 0, 0, 0, 0, 1, 0])], "backing file"),
        (&[(32, &[0, 0, 0, 1])], "encrypted"),
        (&[(79, &[1 << 2])], "external data file"),
        (&[(79, &[1 << 1])], "corrupt"),
        (&[(79, &[1 << 4])], "features 0x10"),
        (&[(104, &[2])], "compression type 2"),
        (&[(20, &[0, 0, 0, 63])], "clusters of 2^63"),
        (&[(20, &[0, 0, 0, 8])], "clusters of 2^8"),
        (&[(24, &[0xff; 8])], "too small for a disk"),
        (&[(36, &[0xff; 4])], "L1 table of"),
        (&[(40, &[0xff; 8])], "past the end"),
        (&[(100, &[0, 0, 0, 1])], "header is too short"),
    ];
    for (changes, message) in cases {
        let text = with(changes);
        assert!(text.contains(message), "{changes:?}: {text}");
    }
}

#[test]
fn a_header_that_claims_too_much_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    run(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "cluster_size=2M",
            utf8(&path),
            "100T",
        ],
    );
    let text = open_disk(&path).unwrap_err().to_string();
    assert!(text.contains("the limit is 70368744177664"), "{text}");
}

#[test]
fn backing_and_data_files_made_by_qemu_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("base"), noise(1 << 20, 1)).unwrap();
    let disk = path("disk");
    let backing = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        utf8(&path("base")),
        utf8(&disk),
    ]
    .map(str::to_owned);
    run("qemu-img", &backing.each_ref().map(String::as_str));
    assert!(
        open_disk(&disk)
            .unwrap_err()
            .to_string()
            .contains("backing file")
    );
    let data = format!("data_file={}", utf8(&path("data")));
    run(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            &data,
            utf8(&disk),
            "1M",
        ],
    );
    assert!(
        open_disk(&disk)
            .unwrap_err()
            .to_string()
            .contains("external data file")
    );
}

#[test]
fn other_formats_are_named_instead_of_read_as_raw() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    let cases = [
        (vec!["vmdk"], "a VMDK"),
        (
            vec!["vmdk", "-o", "subformat=monolithicFlat"],
            "descriptor of a VMDK",
        ),
        (vec!["qed"], "a QED disk"),
        (vec!["vdi"], "a VDI"),
    ];
    for (format, message) in cases {
        let mut args = vec!["create", "-q", "-f"];
        args.extend(format);
        args.extend([utf8(&disk), "1M"]);
        run("qemu-img", &args);
        let text = open_disk(&disk).unwrap_err().to_string();
        assert!(text.contains(message), "{text}");
        assert_eq!(
            open_disk_as(&disk, DiskFormat::Raw).unwrap().format(),
            DiskFormat::Raw
        );
    }
    for (path, message) in [
        ("/dev/null", "neither"),
        ("/tmp", "neither"),
        ("/nowhere", "No such"),
    ] {
        let text = open_disk(Path::new(path)).unwrap_err().to_string();
        assert!(text.contains(message), "{text}");
    }
}

#[test]
fn compressed_data_that_is_no_cluster_is_an_error() {
    for compression in [Compression::Zlib, Compression::Zstd] {
        let (_dir, path) = made(compression);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        // The first compressed cluster follows the header.
        file.write_all_at(&[0xff; 8192], 4096).unwrap();
        let disk = open_disk(&path).unwrap();
        let mut bytes = vec![0; disk.size() as usize];
        let error = disk.read_exact_at(0, &mut bytes).unwrap_err().to_string();
        assert!(error.contains("disk.qcow2: damaged"), "{error}");
    }
}
