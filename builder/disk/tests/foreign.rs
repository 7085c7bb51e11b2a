//! Disks for other hypervisors and clouds: as QEMU and as programs that share
//! no code with it read them, they are the disk that the plan says.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bootwright_disk::sink::{Compression, Format, Options, SinkError, Target};
use common::{Piece, Sample, What, forced, nasty, run, samples, write};
use proptest::prelude::*;

/// The formats for hypervisors, and what QEMU calls them.
const FORMATS: [(Format, &str); 4] = [
    (Format::Vmdk, "vmdk"),
    (Format::Vhd, "vpc"),
    (Format::VhdFixed, "vpc"),
    (Format::Vhdx, "vhdx"),
];

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn written(sample: &Sample, format: Format, options: &Options) -> PathBuf {
    let path = sample.path("disk");
    let target = Target::Path(path.clone());
    let report = write(&sample.reader(), target, format, options).unwrap();
    assert_eq!(report.length, path.metadata().unwrap().len());
    path
}

/// QEMU finds no error and reads what the plan says.
fn check(sample: &Sample) {
    for (format, name) in FORMATS {
        let disk = written(sample, format, &forced());
        if name != "vpc" {
            // QEMU has no check for that one.
            run("qemu-img", &["check", "-q", "-f", name, utf8(&disk)]);
        }
        let back = sample.path("back.raw");
        let args = ["convert", "-f", name, "-O", "raw", utf8(&disk), utf8(&back)];
        run("qemu-img", &args);
        assert!(std::fs::read(&back).unwrap() == sample.bytes(), "{format}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn qemu_reads_what_the_plan_says(sample in samples()) {
        check(&sample);
    }
}

#[test]
fn nasty_plans_are_written_as_they_are() {
    for (name, sample) in nasty() {
        println!("{name}");
        check(&sample);
    }
}

/// A disk with something in its first and last unit, and gaps between.
fn scattered(size: u64) -> Sample {
    let pieces = (0..70).map(|n| Piece {
        start: n * (size / 70) / 512 * 512 + n * 131,
        len: 70_000,
        what: What::Source((n % 2) as u32, n * 5000),
    });
    let last = Piece {
        start: size - 512,
        len: 512,
        what: What::Literal(7),
    };
    Sample::new(size, pieces.chain([last]))
}

#[test]
fn programs_that_share_no_code_with_qemu_read_the_same_disk() {
    // Whole grains, blocks and cylinders: 7-Zip rounds sizes.
    let sample = scattered(96 << 20);
    for (format, kind) in [
        (Format::Vmdk, "vmdk"),
        (Format::Vhd, "vhd"),
        (Format::VhdFixed, "vhd"),
        (Format::Vhdx, "vhdx"),
    ] {
        let disk = written(&sample, format, &forced());
        let name = sample.path(&format!("disk.{kind}"));
        std::fs::rename(&disk, &name).unwrap();
        let (out, kind) = (
            format!("-o{}", utf8(&sample.path("out"))),
            format!("-t{kind}"),
        );
        run("7zz", &["x", "-y", &kind, &out, utf8(&name)]);
        let mut files = std::fs::read_dir(sample.path("out")).unwrap();
        let back = files.next().unwrap().unwrap().path();
        assert!(std::fs::read(&back).unwrap() == sample.bytes(), "{format}");
        std::fs::remove_file(back).unwrap();
    }
}

#[test]
fn the_bytes_do_not_depend_on_threads_or_target() {
    let small = scattered(8 << 20);
    let gce = scattered(1 << 30);
    for format in FORMATS.map(|f| f.0).into_iter().chain([Format::Gce]) {
        let sample = if format == Format::Gce { &gce } else { &small };
        let with = |threads| Options {
            threads,
            ..forced()
        };
        let one = std::fs::read(written(sample, format, &with(1))).unwrap();
        let many = std::fs::read(written(sample, format, &with(5))).unwrap();
        assert!(one == many, "{format}");
        let mut streamed = Vec::new();
        let target = Target::Stream(Box::new(&mut streamed));
        let report = write(&sample.reader(), target, format, &with(3)).unwrap();
        assert!(one == streamed, "{format}");
        assert_eq!(report.length, one.len() as u64);
    }
}

#[test]
fn identifiers_follow_from_the_disk() {
    let with = |seed| {
        let what = What::Literal(seed);
        Sample::new(
            4 << 20,
            [Piece {
                start: 512,
                len: 92,
                what,
            }],
        )
    };
    let vhd = |sample: &Sample| {
        let bytes = std::fs::read(written(sample, Format::VhdFixed, &forced())).unwrap();
        bytes[bytes.len() - 512..][68..84].to_vec()
    };
    assert_eq!(vhd(&with(1)), vhd(&with(1)));
    assert_ne!(vhd(&with(1)), vhd(&with(2)));
    assert_ne!(vhd(&with(1)), [0; 16]);
}

#[test]
fn a_large_sparse_disk_is_a_small_file() {
    let with_size = |size: u64| {
        let pieces = [0, size / 3, size - 512].map(|start| Piece {
            start,
            len: 512,
            what: What::Literal(7),
        });
        Sample::new(size, pieces)
    };
    // Written in no time; to QEMU's comparison every block is some work.
    let (large, sample) = (with_size(3 << 38), with_size(3 << 31));
    let raw = sample.write("disk.raw", Format::Raw);
    for (format, name) in FORMATS {
        let disk = written(&large, format, &forced());
        let allocated = disk.metadata().unwrap().blocks() * 512;
        assert!(allocated < 8 << 20, "{format}: {allocated}");
        let disk = written(&sample, format, &forced());
        let args = ["compare", "-q", "-f", name, "-F", "raw"];
        run(
            "qemu-img",
            &[&args[..], &[utf8(&disk), utf8(&raw)]].concat(),
        );
    }
}

/// GNU tar and bsdtar unpack the disk, and gzip finds one whole member.
fn check_gce(sample: &Sample) {
    let archive = written(sample, Format::Gce, &forced());
    assert!(archive.metadata().unwrap().len() < 40 << 20);
    run("gzip", &["-t", "-S", "disk", utf8(&archive)]);
    let raw = sample.write("disk.raw.expected", Format::Raw);
    for program in ["tar", "bsdtar"] {
        let out = sample.path(program);
        std::fs::create_dir(&out).unwrap();
        let args = ["-xzf", utf8(&archive), "-C", utf8(&out)];
        run(program, &args);
        let names: Vec<_> = std::fs::read_dir(&out)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["disk.raw"], "{program}");
        let back = out.join("disk.raw");
        assert_eq!(back.metadata().unwrap().len(), sample.plan.size());
        let args = ["compare", "-q", "-f", "raw", "-F", "raw", utf8(&back)];
        run("qemu-img", &[&args[..], &[utf8(&raw)]].concat());
    }
}

#[test]
fn the_disk_in_a_tarball_is_the_plans() {
    check_gce(&scattered(1 << 30));
    // One range, no range, and a size that takes more than eleven digits.
    check_gce(&Sample::new(1 << 30, []));
    let size = 9 << 30;
    for start in [0, size - 512] {
        let piece = Piece {
            start,
            len: 512,
            what: What::Literal(7),
        };
        check_gce(&Sample::new(size, [piece]));
    }
}

#[test]
fn what_a_format_cannot_hold_is_refused() {
    let cases = [
        (Format::Vmdk, 1000, "multiple of 512"),
        (Format::Vhd, 1000, "multiple of 512"),
        (Format::Vhd, (2040 << 30) + 512, "at most 2190433320960"),
        (Format::VhdFixed, 2041 << 30, "at most 2190433320960"),
        (Format::Vhdx, (64 << 40) + 512, "at most 70368744177664"),
        (Format::Vmdk, 63 << 40, "at most 68169720922112"),
        (Format::Gce, 3 << 29, "multiple of 1073741824"),
        (Format::Vhdx, 0, "no bytes"),
    ];
    for (format, size, message) in cases {
        let sample = Sample::new(size, []);
        let target = Target::Path(sample.path("disk"));
        let error = write(&sample.reader(), target, format, &forced()).unwrap_err();
        assert!(matches!(error, SinkError::Format { .. }));
        assert!(error.to_string().contains(message), "{error}");
        assert!(!sample.path("disk").exists());
    }
}

#[test]
fn a_compression_that_the_format_has_not_is_refused() {
    let sample = Sample::new(1 << 20, []);
    for format in Format::ALL.iter().filter(|f| **f != Format::Gce) {
        for compression in [Compression::None, Compression::Zlib, Compression::Zstd] {
            let options = Options {
                compression,
                ..forced()
            };
            let target = Target::Path(sample.path("disk"));
            let done = write(&sample.reader(), target, *format, &options);
            let known = format.compressions().contains(&compression);
            assert_eq!(
                done.is_ok(),
                known || compression == Compression::None,
                "{format}, {compression:?}"
            );
        }
    }
}
