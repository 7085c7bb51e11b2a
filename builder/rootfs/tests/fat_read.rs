//! Reading FAT volumes: those of mkfs.fat and mtools, and broken ones.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use bootwright_disk::{Content, Extent};
use bootwright_image::Timestamp;
use bootwright_rootfs::fat::{self, FatFile, Options, ReadError, Reader};
use bootwright_rootfs::tree::FileContent;
use proptest::prelude::*;

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A volume of mkfs.fat with two files of mtools on it.
fn foreign(dir: &Path, bits: &str, kib: &str, sector: &str) -> Vec<u8> {
    let image = dir.join(format!("fat{bits}"));
    let image = image.to_str().unwrap();
    let _ = fs::remove_file(image);
    let options = ["-F", bits, "-S", sector, "-n", "FOREIGN", "-i", "12345678"];
    run("mkfs.fat", &[&options[..], &["-C", image, kib]].concat());
    let big = dir.join("big");
    fs::write(&big, big_file()).unwrap();
    let small = dir.join("small");
    fs::write(&small, b"small").unwrap();
    run("mmd", &["-i", image, "::/EFI", "::/EFI/Linux Images"]);
    run(
        "mcopy",
        &["-i", image, small.to_str().unwrap(), "::/EFI/gone"],
    );
    run(
        "mcopy",
        &[
            "-i",
            image,
            big.to_str().unwrap(),
            "::/EFI/Linux Images/big \u{fc}.efi",
        ],
    );
    // What is written now fills the hole that this leaves, and goes on
    // elsewhere.
    run("mdel", &["-i", image, "::/EFI/gone"]);
    run(
        "mcopy",
        &["-i", image, big.to_str().unwrap(), "::/EFI/parted"],
    );
    run(
        "mcopy",
        &["-i", image, small.to_str().unwrap(), "::/SMALL.TXT"],
    );
    fs::read(image).unwrap()
}

fn big_file() -> Vec<u8> {
    (0..100_001u32).map(|n| (n / 3) as u8).collect()
}

#[test]
fn volumes_of_others_are_listed_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        ("12", "1440", "512"),
        ("16", "16384", "512"),
        ("32", "40960", "512"),
        ("32", "300000", "4096"),
    ];
    for (bits, kib, sector) in cases {
        let image = foreign(dir.path(), bits, kib, sector);
        let mut reader = Reader::open(Cursor::new(image)).unwrap();
        assert_eq!(reader.volume_id(), Some(0x1234_5678));
        assert_eq!(reader.label().unwrap().as_deref(), Some("FOREIGN"));
        let mut found: Vec<_> = reader
            .list()
            .unwrap()
            .into_iter()
            .map(|e| (e.path, e.is_directory, e.size))
            .collect();
        found.sort();
        let expected = [
            ("EFI", true, 0),
            ("EFI/Linux Images", true, 0),
            ("EFI/Linux Images/big \u{fc}.efi", false, 100_001),
            ("EFI/parted", false, 100_001),
            ("SMALL.TXT", false, 5),
        ];
        let expected = expected.map(|(path, dir, size)| (path.to_owned(), dir, size));
        assert_eq!(found, expected, "FAT{bits}");
        for path in [
            "efi/linux images/BIG \u{dc}.efi",
            "EFI/LINUXI~1/big \u{fc}.efi",
            "efi/PARTED",
        ] {
            assert!(
                reader.read_file(path, 1 << 20).unwrap() == big_file(),
                "FAT{bits}"
            );
        }
        assert_eq!(reader.read_file("small.txt", 5).unwrap(), b"small");

        let cases = [
            ("small.txt", 4, "has 5 bytes, more than 4"),
            ("EFI", 9, "\"EFI\""),
            ("small.txt/x", 9, "\"small.txt/x\""),
            ("EFI/nothing", 9, "no such file"),
            ("", 9, "no such file"),
        ];
        for (path, limit, message) in cases {
            let error = reader.read_file(path, limit).unwrap_err().to_string();
            assert!(error.contains(message), "{error}, not {message}");
        }
    }
}

fn literal(path: &str, bytes: &[u8]) -> FatFile {
    FatFile {
        path: path.into(),
        content: FileContent {
            size: bytes.len() as u64,
            extents: vec![Extent::literal(0, bytes.to_vec())],
        },
    }
}

const TIME: i64 = 1_741_171_810;

/// A volume of ours, cut after its last used cluster, and where its clusters
/// start. One cluster is one sector.
fn ours() -> (Vec<u8>, usize) {
    let files = [
        literal("EFI/BOOT/BOOTX64.EFI", &big_file()),
        literal("loader/entries/a long name.conf", b"title x\n"),
    ];
    let options = Options {
        size: Some(33 << 20),
        volume_id: 7,
        label: String::new(),
        time: Timestamp {
            secs: TIME,
            nanos: 0,
        },
    };
    let volume = fat::format(&files, &options).unwrap();
    let end = volume.extents.iter().map(Extent::end).max().unwrap();
    let mut image = vec![0; end.next_multiple_of(512) as usize];
    for extent in &volume.extents {
        let Content::Literal(bytes) = &extent.content else {
            panic!("only literals were put in");
        };
        image[extent.start as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    let fat_sectors = u32::from_le_bytes(image[36..40].try_into().unwrap());
    (image, (32 + 2 * fat_sectors as usize) * 512)
}

#[test]
fn a_volume_of_ours_is_read_back() {
    let mut reader = Reader::open(Cursor::new(ours().0)).unwrap();
    assert_eq!(reader.label().unwrap(), None);
    let entries = reader.list().unwrap();
    let paths: Vec<_> = entries.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "EFI",
            "loader",
            "loader/entries",
            "loader/entries/a long name.conf",
            "EFI/BOOT",
            "EFI/BOOT/BOOTX64.EFI"
        ]
    );
    let secs = entries.iter().map(|e| e.modified.unwrap().secs);
    assert!(secs.into_iter().all(|secs| secs == TIME));
    assert!(reader.read_file("efi/boot/bootx64.efi", 1 << 20).unwrap() == big_file());
}

#[test]
fn damage_is_named() {
    let (good, data) = ours();
    let fat = 32 * 512;
    // Clusters: 2 root, 3 EFI, 4 EFI/BOOT, 5 loader, 6 loader/entries, 7 on
    // the kernel.
    let cluster = |n: usize| data + (n - 2) * 512;
    let cases: [(&str, usize, &[u8]); 12] = [
        ("no boot sector signature", 510, &[0]),
        ("bytes per sector", 11, &[1]),
        ("sectors per cluster", 13, &[3]),
        ("no FAT", 16, &[0]),
        ("media type", 21, &[1]),
        ("fewer sectors than it needs", 32, &[0, 1, 0, 0]),
        (
            "\"\": its chain of clusters leaves the volume",
            44,
            &[0xff, 0xff, 0xff, 0x0f],
        ),
        (
            "\"EFI\": its chain of clusters is a loop",
            fat + 3 * 4,
            &[3, 0, 0, 0],
        ),
        (
            "\"EFI\": its chain of clusters leaves the volume",
            fat + 3 * 4,
            &[1, 0, 0, 0],
        ),
        // EFI/BOOT is EFI.
        (
            "its clusters are also those of another directory",
            cluster(3) + 64 + 26,
            &[3],
        ),
        (
            "the chain is cut: leaves the volume",
            fat + 7 * 4,
            &[0, 0, 0, 0],
        ),
        (
            "its chain of clusters ends before the file",
            fat + 7 * 4,
            &[0xff, 0xff, 0xff, 0x0f],
        ),
    ];
    for (message, at, bytes) in cases {
        let mut image = good.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        let error = Reader::open(Cursor::new(image))
            .and_then(|mut reader| {
                reader.list()?;
                reader.read_file("EFI/BOOT/BOOTX64.EFI", 1 << 20)
            })
            .unwrap_err()
            .to_string();
        let message = message.trim_start_matches("the chain is cut: ");
        assert!(error.contains(message), "{error}, not {message}");
    }
    let mut reader = Reader::open(Cursor::new(&good[..good.len() / 10 * 9])).unwrap();
    let error = reader.read_file("EFI/BOOT/BOOTX64.EFI", 1 << 20);
    let Err(ReadError::Io(error)) = error else {
        panic!("{error:?}");
    };
    assert!(error.to_string().contains("ends before"), "{error}");
}

#[test]
fn no_name_leads_out_of_a_directory() {
    let (good, data) = ours();
    // The long name's units of `a long name.conf` in loader/entries.
    let entry = data + 4 * 512 + 64 + 32;
    assert_eq!(&good[entry + 1..entry + 3], b"a\0");
    for (units, name) in [
        ("../../../evil", "..\u{fffd}..\u{fffd}..\u{fffd}evilonf"),
        ("..\0", "ALONGN~1.CON"),
        ("a\u{1b}[2J\\b", "a\u{fffd}[2J\u{fffd}bname.conf"),
    ] {
        let mut image = good.clone();
        let offsets = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
        for (at, unit) in offsets.into_iter().zip(units.encode_utf16()) {
            image[entry + at..entry + at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        let entries = Reader::open(Cursor::new(image)).unwrap().list().unwrap();
        let path = &entries[3].path;
        assert_eq!(path, &format!("loader/entries/{name}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_volume_makes_reading_panic(
        flips in proptest::collection::vec((0usize..5, 0usize..4096, any::<u8>()), 1..12),
    ) {
        let (mut image, data) = ours();
        // Boot sector, its fields, FAT, directories, anything.
        for (place, offset, byte) in flips {
            let at = match place {
                0 => offset % 512,
                1 => 11 + offset % 60,
                2 => 32 * 512 + offset % 256,
                3 => data + offset % (5 * 512),
                _ => offset * 31,
            };
            let len = image.len();
            image[at % len] = byte;
        }
        if let Ok(mut reader) = Reader::open(Cursor::new(image)) {
            let _ = reader.label();
            let _ = reader.list();
            let _ = reader.read_file("EFI/BOOT/BOOTX64.EFI", 1 << 20);
        }
    }
}
