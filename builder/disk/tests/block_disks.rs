//! VHD and VHDX disks that others made: read as QEMU reads them, hostile ones
//! refused.

#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bootwright_disk::reader::{DiskFormat, ReadAt, open_disk};
use bootwright_disk::sink::Format;
use common::{Piece, Sample, What, check_disk, run, samples};
use proptest::prelude::*;
use tempfile::TempDir;

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Data in two blocks of many, the last one partial.
fn sample() -> Sample {
    let piece = |start, len, what| Piece { start, len, what };
    Sample::new(
        (17 << 20) + 1536,
        [
            piece(100, 70_000, What::Literal(1)),
            piece(9 << 20, 1 << 20, What::Source(0, 0)),
            piece((17 << 20) + 1000, 536, What::Literal(2)),
        ],
    )
}

#[test]
fn what_qemu_makes_is_read_as_qemu_reads_it() {
    let sample = sample();
    let raw = sample.write("disk.raw", Format::Raw);
    let disk = sample.path("disk");
    for (format, kind, options) in [
        (DiskFormat::Vhd, "vpc", "force_size=on"),
        (DiskFormat::Vhd, "vpc", "subformat=fixed,force_size=on"),
        (DiskFormat::Vhdx, "vhdx", "block_size=1M"),
        (DiskFormat::Vhdx, "vhdx", "block_size=8M"),
        (DiskFormat::Vhdx, "vhdx", "subformat=fixed"),
    ] {
        println!("{kind}, {options}");
        let args = ["convert", "-f", "raw", "-O", kind, "-o", options];
        run(
            "qemu-img",
            &[&args[..], &[utf8(&raw), utf8(&disk)]].concat(),
        );
        let opened = open_disk(&disk).unwrap();
        assert_eq!(opened.format(), format);
        assert_eq!(opened.file_len(), disk.metadata().unwrap().len());
        check_disk(&opened, &sample.bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn what_we_write_is_what_we_read(sample in samples()) {
        for (format, kind) in FORMATS {
            let path = sample.write("disk", format);
            let disk = open_disk(&path).unwrap();
            prop_assert_eq!(disk.format(), kind);
            check_disk(&disk, &sample.bytes());
        }
    }

    /// Whatever field of headers and tables lies, reading ends in bytes or in
    /// an error, soon.
    #[test]
    fn a_damaged_disk_is_an_error_or_some_other_disk(
        format in prop::sample::select(FORMATS.to_vec()),
        at in prop_oneof![0..2048u64, (1u64 << 16)..(5 << 16), (2u64 << 20)..(4 << 20)],
        value in prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), (0..64u32).prop_map(|n| 1 << n)],
    ) {
        let (_dir, path) = made(format.0);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&value.to_le_bytes(), at).unwrap();
        if let Ok(disk) = open_disk(&path) {
            let mut part = vec![0; 1 << 16];
            let mut at = 0;
            for _ in 0..100 {
                let Ok(Some(data)) = disk.next_data(at) else {
                    break;
                };
                prop_assert!(data.start >= at && data.start < data.end && data.end <= disk.size());
                let len = (data.end - data.start).min(part.len() as u64) as usize;
                let _ = disk.read_exact_at(data.start, &mut part[..len]);
                let _ = disk.next_run(data.clone());
                at = data.start + len as u64;
            }
        }
    }
}

const FORMATS: [(Format, DiskFormat); 3] = [
    (Format::Vhd, DiskFormat::Vhd),
    (Format::VhdFixed, DiskFormat::Vhd),
    (Format::Vhdx, DiskFormat::Vhdx),
];

fn made(format: Format) -> (TempDir, PathBuf) {
    let sample = sample();
    let path = sample.write("disk", format);
    (sample.dir, path)
}

/// Writes into a good disk, mends the checksum that covers it, and says what
/// opening or reading gives.
fn with(format: Format, at: u64, bytes: &[u8]) -> String {
    let (_dir, path) = made(format);
    let mut all = std::fs::read(&path).unwrap();
    all[at as usize..][..bytes.len()].copy_from_slice(bytes);
    match (format, at) {
        (Format::Vhd, ..512) => {
            all[64..68].fill(0);
            let sum: u32 = all[..512].iter().map(|b| u32::from(*b)).sum();
            all[64..68].copy_from_slice(&(!sum).to_be_bytes());
        }
        (Format::Vhdx, 0x1_0000..0x5_0000) => {
            let start = (at >> 16 << 16) as usize;
            let len = if at < 0x3_0000 { 4096 } else { 65536 };
            let part = &mut all[start..][..len];
            part[4..8].fill(0);
            let sum = crc32c(part);
            part[4..8].copy_from_slice(&sum.to_le_bytes());
        }
        _ => {}
    }
    std::fs::write(&path, all).unwrap();
    let error = match open_disk(&path) {
        Ok(disk) => {
            let mut bytes = vec![0; disk.size() as usize];
            match disk.read_exact_at(0, &mut bytes) {
                Ok(()) => return "read".into(),
                Err(error) => error.to_string(),
            }
        }
        Err(error) => error.to_string(),
    };
    assert!(error.contains(utf8(&path)), "{error}");
    error
}

/// Bit by bit, so as not to share what it checks.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0x82f6_3b78 * (sum & 1))
        })
    })
}

#[test]
fn what_is_not_safe_to_read_is_refused() {
    const DYNAMIC: u64 = 512;
    const ITEMS: u64 = (2 << 20) + (64 << 10);
    let cases: [(Format, u64, &[u8], &str); 19] = [
        (Format::Vhd, 0, b"c", "read"),
        (Format::Vhd, 60, &[0, 0, 0, 4], "differencing"),
        (Format::Vhd, 60, &[0, 0, 0, 9], "type 9"),
        (Format::Vhd, 16, &[0xff; 8], "ends before"),
        (Format::Vhd, 16, &[0; 8], "no dynamic header"),
        (Format::Vhd, 48, &[0x7f], "a table of 9 blocks"),
        (Format::Vhd, DYNAMIC + 32, &[0, 0, 2, 0], "blocks of 512"),
        (
            Format::Vhd,
            DYNAMIC + 32,
            &[0, 0x20, 0, 1],
            "blocks of 2097153",
        ),
        (Format::Vhd, DYNAMIC + 16, &[0xff; 8], "past the end"),
        (Format::Vhd, 1536, &[0, 0xff, 0, 0], "no block at"),
        (Format::Vhdx, 0, b"v", "read"),
        (Format::Vhdx, (128 << 10) + 48, &[1], "log is not replayed"),
        (Format::Vhdx, (128 << 10) + 66, &[2], "version 2"),
        (
            Format::Vhdx,
            (192 << 10) + 16 + 23,
            &[0x7f],
            "not in the file",
        ),
        (Format::Vhdx, (192 << 10) + 16, &[0], "needs region"),
        (Format::Vhdx, ITEMS + 4, &[2], "a parent"),
        (Format::Vhdx, ITEMS, &[1], "blocks of 1048577"),
        (Format::Vhdx, ITEMS + 8 + 5, &[1], "no place for a disk"),
        (Format::Vhdx, (3 << 20) + 6, &[1], "no block at"),
    ];
    for (format, at, bytes, message) in cases {
        let text = with(format, at, bytes);
        assert!(text.contains(message), "{format} {at} {bytes:x?}: {text}");
    }
}

#[test]
fn a_raw_disk_that_only_looks_like_a_footer_at_its_end_stays_raw() {
    let (_dir, path) = made(Format::VhdFixed);
    let mut bytes = std::fs::read(&path).unwrap();
    let len = bytes.len();
    bytes[len - 400] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(open_disk(&path).unwrap().format(), DiskFormat::Raw);
}
