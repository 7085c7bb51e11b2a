//! qcow2 disks: clean to QEMU, and the same disk as the plan.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use bootwright_disk::sink::{Compression, Format, Options, SinkError, Target};
use common::{Piece, Sample, What, forced, nasty, run, samples, write};
use proptest::prelude::*;

const METHODS: [Compression; 3] = [Compression::None, Compression::Zlib, Compression::Zstd];

fn options(compression: Compression, cluster_size: u32) -> Options {
    Options {
        compression,
        cluster_size,
        ..forced()
    }
}

fn qcow2(sample: &Sample, options: &Options) -> Vec<u8> {
    let target = Target::Path(sample.path("disk.qcow2"));
    let report = write(&sample.reader(), target, Format::Qcow2, options).unwrap();
    let bytes = std::fs::read(sample.path("disk.qcow2")).unwrap();
    assert_eq!(report.length, bytes.len() as u64);
    bytes
}

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// QEMU finds no error and nothing leaked, and reads what the plan says.
fn check(sample: &Sample, options: &Options) {
    qcow2(sample, options);
    let (disk, back) = (sample.path("disk.qcow2"), sample.path("back.raw"));
    run("qemu-img", &["check", "-q", "-f", "qcow2", utf8(&disk)]);
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "qcow2",
            "-O",
            "raw",
            utf8(&disk),
            utf8(&back),
        ],
    );
    assert!(
        std::fs::read(&back).unwrap() == sample.bytes(),
        "{options:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn qemu_reads_what_the_plan_says(
        sample in samples(),
        method in prop::sample::select(METHODS.to_vec()),
        cluster_bits in 9..18u32,
    ) {
        check(&sample, &options(method, 1 << cluster_bits));
    }
}

#[test]
fn nasty_plans_are_written_as_they_are() {
    for (name, sample) in nasty() {
        for method in METHODS {
            println!("{name}, {method:?}");
            check(&sample, &options(method, 64 << 10));
        }
    }
}

#[test]
fn the_bytes_do_not_depend_on_threads_or_target() {
    let sample = nasty().remove(4).1;
    for method in METHODS {
        let with = |threads| Options {
            threads,
            ..options(method, 4096)
        };
        let one = qcow2(&sample, &with(1));
        assert!(one == qcow2(&sample, &with(5)), "{method:?}");
        let mut streamed = Vec::new();
        let target = Target::Stream(Box::new(&mut streamed));
        let report = write(&sample.reader(), target, Format::Qcow2, &with(3)).unwrap();
        assert!(one == streamed, "{method:?}");
        assert_eq!(report.length, one.len() as u64);
    }
}

#[test]
fn a_large_sparse_disk_is_a_small_file() {
    let pieces = [0, 700 << 30, (2 << 40) - 512].map(|start| Piece {
        start,
        len: 512,
        what: What::Literal(7),
    });
    let sample = Sample::new(2 << 40, pieces);
    for method in METHODS {
        let len = qcow2(&sample, &options(method, 64 << 10)).len();
        assert!(len < 1 << 20, "{method:?}: {len}");
        let disk = sample.path("disk.qcow2");
        run("qemu-img", &["check", "-q", utf8(&disk)]);
        let raw = sample.write("disk.raw", Format::Raw);
        run(
            "qemu-img",
            &["compare", "-q", "-F", "raw", utf8(&disk), utf8(&raw)],
        );
    }
}

#[test]
fn many_clusters_of_one_byte_share_a_cluster() {
    let dense = (0..900).map(|n| Piece {
        start: n << 18,
        len: 4096,
        what: What::Source(0, 402_000),
    });
    for method in METHODS {
        check(
            &Sample::new(300 << 20, dense.clone()),
            &options(method, 64 << 10),
        );
    }
}

#[test]
fn what_the_format_cannot_hold_is_refused() {
    let odd = Sample::new(1000, []);
    let huge = Sample::new(4 << 40, []);
    let cases = [
        (&odd, 65536, "multiple of 512"),
        (&huge, 512, "larger clusters"),
        (&huge, 1000, "power of two"),
        (&huge, 4 << 20, "power of two"),
        (&huge, 256, "power of two"),
    ];
    for (sample, cluster_size, message) in cases {
        let target = Target::Path(sample.path("disk.qcow2"));
        let options = options(Compression::None, cluster_size);
        let error = write(&sample.reader(), target, Format::Qcow2, &options).unwrap_err();
        assert!(matches!(error, SinkError::Format { .. }));
        assert!(error.to_string().contains(message), "{error}");
        assert!(!sample.path("disk.qcow2").exists());
    }
}
