//! Partition tables against independent tools: sgdisk, sfdisk and the `gpt`
//! crate.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use bootwright_disk::gpt::{
    self, Copy, Fault, LayoutError, NewPartition, Options, PartitionReader, ReadError, attributes,
    types,
};
use bootwright_disk::{Content, Extent};
use proptest::prelude::*;
use uuid::Uuid;

const MIB: u64 = 1 << 20;

fn guid(n: u128) -> Uuid {
    Uuid::from_u128(0x1234_5678_9abc_4def_8123_0000_0000_0000 | n)
}

fn new(n: u128, type_guid: Uuid, name: &str, len: u64) -> NewPartition {
    NewPartition {
        type_guid,
        guid: guid(n),
        name: name.into(),
        len,
        attributes: 0,
    }
}

fn usual() -> Vec<NewPartition> {
    let root = types::root_types("amd64").unwrap().root;
    vec![
        new(1, types::BIOS_BOOT, "bios", MIB),
        new(2, types::ESP, "esp", 512 * MIB),
        NewPartition {
            attributes: attributes::GROW_FILE_SYSTEM,
            ..new(3, root, "root-x86-64 \u{fc}", 3 * 1024 * MIB - 512)
        },
    ]
}

fn write(path: &Path, size: u64, extents: &[Extent]) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for extent in extents {
        let Content::Literal(bytes) = &extent.content else {
            panic!("a table holds literals only");
        };
        file.write_all_at(bytes, extent.start).unwrap();
    }
}

fn in_memory(layout: &gpt::Layout) -> Vec<u8> {
    let mut disk = vec![0; layout.disk_size as usize];
    for extent in &layout.extents {
        let Content::Literal(bytes) = &extent.content else {
            panic!("a table holds literals only");
        };
        disk[extent.start as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    disk
}

/// Standard output of a tool that must succeed.
fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[test]
fn sgdisk_and_sfdisk_find_what_was_laid_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let layout = gpt::layout(&usual(), &Options::new(guid(0))).unwrap();
    write(&path, layout.disk_size, &layout.extents);
    let path = path.to_str().unwrap();

    let verdict = tool("sgdisk", &["-v", path]);
    assert!(verdict.contains("No problems found."), "{verdict}");
    let root = tool("sgdisk", &["-i", "3", path]);
    for line in [
        "Partition GUID code: 4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
        "Partition unique GUID: 12345678-9ABC-4DEF-8123-000000000003",
        "Attribute flags: 0800000000000000",
        "Partition name: 'root-x86-64 \u{fc}'",
    ] {
        assert!(root.contains(line), "{line} is not in {root}");
    }

    let dump = tool("sfdisk", &["--dump", path]);
    for line in [
        "label-id: 12345678-9ABC-4DEF-8123-000000000000",
        "first-lba: 34",
        "start=        2048, size=        2048",
        "start=        4096, size=     1048576",
        "start=     1052672, size=     6291455",
    ] {
        assert!(dump.contains(line), "{line} is not in {dump}");
    }
    assert_eq!(layout.disk_size, (1 + 1 + 512 + 3072 + 1) * MIB);
    assert!(tool("sfdisk", &["--verify", path]).contains("No errors detected"));
}

#[test]
fn what_was_laid_out_is_read_back_from_either_copy() {
    let layout = gpt::layout(&usual(), &Options::new(guid(0))).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    write(&path, layout.disk_size, &layout.extents);
    let mut file = File::options().read(true).write(true).open(&path).unwrap();
    assert_eq!(gpt::read(&mut file).unwrap(), layout.table);

    file.write_all_at(b"x", 512 + 60).unwrap();
    let backup = gpt::read(&mut file).unwrap();
    assert_eq!(backup.copy, Copy::Backup);
    assert_eq!(backup.partitions, layout.table.partitions);
    assert_eq!(backup.find(types::ESP).unwrap().number, 2);

    file.write_all_at(b"x", layout.disk_size - 512 + 60)
        .unwrap();
    let error = gpt::read(&mut file).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(
            error,
            ReadError::Damaged {
                primary: Fault::HeaderChecksum { .. },
                backup: Fault::HeaderChecksum { .. }
            }
        ),
        "{text}"
    );
}

#[test]
fn a_damaged_disk_says_what_is_wrong_with_it() {
    let layout = gpt::layout(&[new(1, types::ESP, "esp", MIB)], &Options::new(guid(0))).unwrap();
    let good = in_memory(&layout);
    let last = good.len() - 512;
    type Damage = fn(&mut Vec<u8>, usize);
    let cases: [(&str, Damage); 6] = [
        ("smaller than two sectors", |d, _| d.truncate(600)),
        ("holds no MBR", |d, _| d[510] = 0),
        ("no protective partition", |d, _| d[450] = 0x83),
        ("no table at the start or the end", |d, last| {
            d[512] = 0;
            d[last] = 0;
        }),
        ("primary: partition entries' checksum", |d, last| {
            d[1024 + 33] = 0;
            d[last] = 0;
        }),
        ("primary: header field Revision is 0", |d, last| {
            d[512 + 8..512 + 12].fill(0);
            d[last] = 0;
        }),
    ];
    for (message, damage) in cases {
        let mut disk = good.clone();
        damage(&mut disk, last);
        let error = gpt::read(&mut Cursor::new(disk)).unwrap_err().to_string();
        assert!(error.contains(message), "{error}, not {message}");
    }
    let mut short = good.clone();
    short.truncate(good.len() / 2);
    let error = gpt::read(&mut Cursor::new(short)).unwrap_err().to_string();
    assert!(error.contains("is it cut short?"), "{error}");
}

/// Sets both checksums of the primary copy right, as an attacker would.
fn seal(disk: &mut [u8]) {
    let entries = crc32fast::hash(&disk[1024..1024 + 16384]);
    disk[512 + 88..512 + 92].copy_from_slice(&entries.to_le_bytes());
    disk[512 + 16..512 + 20].fill(0);
    let header = crc32fast::hash(&disk[512..512 + 92]);
    disk[512 + 16..512 + 20].copy_from_slice(&header.to_le_bytes());
}

#[test]
fn lies_with_correct_checksums_are_refused() {
    let partitions = [new(1, types::ESP, "a", MIB), new(2, types::ESP, "b", MIB)];
    let layout = gpt::layout(&partitions, &Options::new(guid(0))).unwrap();
    let mut good = in_memory(&layout);
    let last = good.len() - 512;
    good[last] = 0; // the backup shall not help
    let cases: [(&str, usize, &[u8]); 9] = [
        ("MyLBA is 2", 512 + 24, &[2]),
        (
            "LastUsableLBA is sector 18446744073709551615",
            512 + 48,
            &[0xff; 8],
        ),
        (
            "FirstUsableLBA is 18446744073709551615",
            512 + 40,
            &[0xff; 8],
        ),
        ("SizeOfPartitionEntry is 129", 512 + 84, &[129]),
        ("SizeOfPartitionEntry is 4294967295", 512 + 84, &[0xff; 4]),
        (
            "NumberOfPartitionEntries is 4294967295",
            512 + 80,
            &[0xff; 4],
        ),
        (
            "PartitionEntryLBA is sector 18446744073709551615",
            512 + 72,
            &[0xff; 8],
        ),
        (
            "partition 1 has sectors 2048 to 18446744073709551615",
            1024 + 40,
            &[0xff; 8],
        ),
        (
            "partitions 2 and 1 overlap",
            1024 + 128 + 32,
            &[0x00, 0x01, 0, 0, 0, 0, 0, 0, 0xff, 0x0f],
        ),
    ];
    for (message, at, bytes) in cases {
        let mut disk = good.clone();
        disk[at..at + bytes.len()].copy_from_slice(bytes);
        seal(&mut disk);
        let error = gpt::read(&mut Cursor::new(disk)).unwrap_err().to_string();
        assert!(error.contains(message), "{error}, not {message}");
    }
}

#[test]
fn what_cannot_be_laid_out_is_refused() {
    let options = Options::new(guid(0));
    let esp = |len| new(1, types::ESP, "esp", len);
    let cases = [
        (vec![esp(0)], "length 0"),
        (vec![esp(513)], "length 513"),
        (vec![esp(512), esp(512)], "already used"),
        (vec![new(1, Uuid::nil(), "x", 512)], "nil"),
        (vec![new(1, types::ESP, &"x".repeat(37), 512)], "36"),
        (vec![new(1, types::ESP, &"\u{1f422}".repeat(19), 512)], "36"),
        (vec![esp(1 << 63)], "too large"),
        (
            (0..129).map(|n| new(n, types::ESP, "x", 512)).collect(),
            "holds 128",
        ),
    ];
    for (partitions, message) in cases {
        let error = gpt::layout(&partitions, &options).unwrap_err().to_string();
        assert!(error.contains(message), "{error}, not {message}");
    }
    let small = Options {
        disk_size: Some(2 * MIB),
        ..options.clone()
    };
    assert_eq!(
        gpt::layout(&[esp(MIB)], &small).unwrap_err(),
        LayoutError::DiskTooSmall {
            disk_size: 2 * MIB,
            needed: 2 * MIB + 33 * 512
        }
    );
    let odd = Options {
        alignment: 1000,
        ..options
    };
    assert_eq!(
        gpt::layout(&[], &odd).unwrap_err(),
        LayoutError::BadAlignment(1000)
    );
}

#[test]
fn sectors_of_4096_bytes_are_read() {
    let mut disk = Cursor::new(vec![0; 8 << 20]);
    ::gpt::mbr::ProtectiveMBR::with_lb_size(2047)
        .overwrite_lba0(&mut disk)
        .unwrap();
    let mut theirs = ::gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(::gpt::disk::LogicalBlockSize::Lb4096)
        .create_from_device(disk, Some(guid(7)))
        .unwrap();
    let partition = ::gpt::partition::Partition {
        part_type_guid: ::gpt::partition_types::EFI,
        part_guid: guid(8),
        first_lba: 256,
        last_lba: 511,
        flags: 0,
        name: "esp".into(),
    };
    theirs
        .update_partitions([(1, partition)].into_iter().collect())
        .unwrap();
    let mut disk = theirs.write().unwrap();
    let table = gpt::read(&mut disk).unwrap();
    assert_eq!((table.sector_size, table.disk_guid), (4096, guid(7)));
    let esp = table.find(types::ESP).unwrap();
    assert_eq!((esp.start, esp.len), (MIB, MIB));
}

#[test]
fn a_partition_reader_shows_the_partition_alone() {
    let table = gpt::layout(
        &[new(1, types::ESP, "esp", 1024)],
        &Options {
            alignment: 512,
            ..Options::new(guid(0))
        },
    )
    .unwrap();
    let mut disk = Cursor::new(in_memory(&table));
    let partition = &table.table.partitions[0];
    disk.seek(SeekFrom::Start(partition.start)).unwrap();
    disk.write_all(&[7; 1024]).unwrap();
    let mut reader = PartitionReader::new(disk, partition);
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert_eq!(all, [7; 1024]);
    assert_eq!(reader.seek(SeekFrom::End(-1)).unwrap(), 1023);
    assert_eq!(reader.read(&mut [0; 9]).unwrap(), 1);
    assert!(reader.seek(SeekFrom::Current(-2000)).is_err());
    reader.seek(SeekFrom::Start(u64::MAX)).unwrap();
    assert_eq!(reader.read(&mut [0; 9]).unwrap(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_gpt_crate_reads_any_layout(
        lens in proptest::collection::vec(1u64..5000, 0..128),
        log_alignment in 0u32..4,
        slack in 0u64..100,
    ) {
        let partitions: Vec<_> = (1..)
            .zip(&lens)
            .map(|(n, len)| new(n, types::LINUX_GENERIC, &format!("part \u{1f422} {n}"), len * 512))
            .collect();
        let mut options = Options { alignment: 512 << log_alignment, ..Options::new(guid(0)) };
        let computed = gpt::layout(&partitions, &options).unwrap();
        let smallest = computed.disk_size;
        options.disk_size = Some(computed.disk_size + slack * 512);
        let layout = gpt::layout(&partitions, &options).unwrap();
        let disk = in_memory(&layout);

        prop_assert_eq!(gpt::read(&mut Cursor::new(disk.clone())).unwrap(), layout.table.clone());
        let theirs = ::gpt::GptConfig::new()
            .only_valid_headers(true)
            .open_from_device(Cursor::new(disk))
            .unwrap();
        prop_assert_eq!(*theirs.guid(), guid(0));
        let read: Vec<_> = theirs.partitions().values()
            .map(|p| (p.part_guid, p.first_lba * 512, (p.last_lba + 1) * 512, p.name.clone()))
            .collect();
        let ours: Vec<_> = layout.table.partitions.iter()
            .map(|p| (p.guid, p.start, p.end(), p.name.clone()))
            .collect();
        prop_assert_eq!(read, ours);

        let bytes: Vec<_> = lens.iter().map(|len| len * 512).collect();
        prop_assert_eq!(gpt::smallest_disk(&bytes, options.alignment).unwrap(), smallest);
        let room = gpt::space_left(&bytes, layout.disk_size, options.alignment).unwrap();
        if room > 0 && partitions.len() < 128 {
            let mut more = partitions.clone();
            more.push(new(999, types::LINUX_GENERIC, "rest", room));
            prop_assert!(gpt::layout(&more, &options).is_ok());
            more.last_mut().unwrap().len += options.alignment;
            prop_assert!(gpt::layout(&more, &options).is_err());
        }
    }

    #[test]
    fn no_disk_makes_reading_panic(
        flips in proptest::collection::vec((0usize..20480, any::<u8>()), 1..20),
        sealed in any::<bool>(),
    ) {
        let layout = gpt::layout(&usual()[..1], &Options::new(guid(0))).unwrap();
        let mut disk = in_memory(&layout);
        for (at, byte) in flips {
            disk[at] = byte;
        }
        if sealed {
            seal(&mut disk);
        }
        let _ = gpt::read(&mut Cursor::new(disk));
    }
}
