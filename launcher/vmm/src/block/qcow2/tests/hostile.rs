//! Files that are damaged, or made to do harm.

use proptest::prelude::*;

use super::{KINDS, SIZE};
use crate::block::qcow2::Qcow2Disk;
use crate::block::testing::file_of;
use crate::block::{Backend, write_at};

fn used() -> &'static [u8] {
    static BYTES: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    BYTES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = KINDS[0].make(dir.path());
        let disk = KINDS[0].open(&path);
        write_at(&disk, 100 << 10, &[1; 70_000 / 512 * 512]).unwrap();
        write_at(&disk, SIZE - 512, &[1; 512]).unwrap();
        drop(disk);
        std::fs::read(path).unwrap()
    })
}

/// A file with one field of its header replaced.
fn with(at: usize, field: &[u8]) -> Vec<u8> {
    let mut bytes = used().to_vec();
    bytes[at..at + field.len()].copy_from_slice(field);
    bytes
}

fn error(bytes: &[u8], read_only: bool) -> String {
    let opened = Qcow2Disk::from_file(file_of(bytes), read_only, None);
    opened.map_or_else(|e| e.to_string(), |_| "no error".into())
}

#[test]
fn what_no_writer_makes_is_refused_by_name() {
    let be32 = |n: u32| n.to_be_bytes();
    let be64 = |n: u64| n.to_be_bytes();
    let cases = [
        ("no header", Vec::new()),
        ("no header", vec![0; 4096]),
        ("no header", used()[..60].to_vec()),
        ("version 4", with(4, &be32(4))),
        ("encrypted", with(32, &be32(1))),
        ("2^8 bytes", with(20, &be32(8))),
        ("2^22 bytes", with(20, &be32(22))),
        ("a disk of", with(24, &be64(u64::MAX))),
        ("a disk of 0", with(24, &be64(0))),
        ("an L1 table of 1 entries", with(24, &be64(1 << 40))),
        ("an L1 table of 4294967295", with(36, &be32(u32::MAX))),
        ("no L1 table at", with(40, &be64(0))),
        ("no L1 table at", with(40, &be64(512))),
        ("no L1 table at", with(40, &be64(1 << 50))),
        ("no L1 table at", with(40, &be64(u64::MAX << 16))),
        ("no refcount table", with(48, &be64(0))),
        ("no refcount table", with(48, &be64(1 << 50))),
        ("no refcount table", with(56, &be32(0))),
        ("no refcount table", with(56, &be32(u32::MAX))),
        ("refcounts of 2^7", with(96, &be32(7))),
        ("a header of 100", with(100, &be32(100))),
        ("a header of", with(100, &be32(u32::MAX))),
        ("incompatible features 0x20", with(72, &be64(1 << 5))),
        ("marked as corrupt", with(72, &be64(2))),
        ("external data", with(72, &be64(4))),
        (
            "compression type 7",
            with(72, &[0, 0, 0, 0, 0, 0, 0, 8]).tap(104, 7),
        ),
        ("the name of its backing file", with(8, &be64(u64::MAX))),
    ];
    for (i, (message, bytes)) in cases.iter().enumerate() {
        for read_only in [true, false] {
            let error = error(bytes, read_only);
            assert!(error.contains(message), "case {i}: {error}");
        }
    }
    assert!(error(&with(72, &be64(1)), false).contains("was not closed"));
    assert_eq!(error(&with(72, &be64(1)), true), "no error");
}

trait Tap {
    fn tap(self, at: usize, byte: u8) -> Self;
}

impl Tap for Vec<u8> {
    fn tap(mut self, at: usize, byte: u8) -> Self {
        self[at] = byte;
        self
    }
}

#[test]
fn a_name_of_a_backing_file_is_shown_harmless() {
    let mut bytes = with(8, &600u64.to_be_bytes());
    bytes[16..20].copy_from_slice(&7u32.to_be_bytes());
    bytes[600..607].copy_from_slice(b"\x1b[31m\n\"");
    let error = error(&bytes, true);
    assert!(error.contains(r#"\u{1b}[31m\n\""#), "{error}");
}

#[test]
fn refcounts_that_give_away_the_tables_are_refused() {
    let table = u64::from_be_bytes(used()[48..56].try_into().unwrap()) as usize;
    let block = u64::from_be_bytes(used()[table..table + 8].try_into().unwrap()) as usize;
    // Cluster 0 is the header's.
    let error = error(&with(block, &[0, 0]), false);
    assert!(error.contains("its header is free space"), "{error}");
    let l1 = u64::from_be_bytes(used()[40..48].try_into().unwrap()) as usize >> 16;
    let error = self::error(&with(block + l1 * 2, &[0, 0]), false);
    assert!(error.contains("its L1 table is free space"), "{error}");
}

#[test]
fn entries_that_lead_nowhere_are_errors_of_those_who_follow_them() {
    let l1 = u64::from_be_bytes(used()[40..48].try_into().unwrap()) as usize;
    let l2 =
        (u64::from_be_bytes(used()[l1..l1 + 8].try_into().unwrap()) & ((1 << 56) - 1)) as usize;
    let disk = |bytes: &[u8]| Qcow2Disk::from_file(file_of(bytes), false, None).unwrap();
    let entry = |n: u64| n.to_be_bytes();
    // No L2 table there.
    let broken = disk(&with(l1, &entry(1 << 63 | 1 << 50)));
    assert!(broken.read(0..512).is_err() && broken.prepare_write(0..512).is_err());
    let broken = disk(&with(l1, &entry(1 << 63 | 512)));
    assert!(
        broken
            .read(0..512)
            .unwrap_err()
            .to_string()
            .contains("L1 entry")
    );
    // Far away in the file: zeros to read, and no place to write.
    let broken = disk(&with(l2, &entry(1 << 63 | 1 << 50)));
    assert!(broken.read(0..512).is_ok());
    let error = broken.prepare_write(0..512).unwrap_err().to_string();
    assert!(error.contains("there is no cluster at"), "{error}");
    assert!(broken.discard(0..65536).is_err());
    // Compressed data that is none.
    let broken = disk(&with(l2, &entry(1 << 62 | 4096)));
    assert!(
        broken
            .read(0..512)
            .unwrap_err()
            .to_string()
            .contains("is no cluster")
    );
    assert!(broken.prepare_write(0..512).is_err());
    let broken = disk(&with(l2, &entry(1 << 62 | 1 << 40)));
    assert!(
        broken
            .read(0..512)
            .unwrap_err()
            .to_string()
            .contains("no compressed data")
    );
    // The others are as good as ever.
    assert!(broken.read(1 << 20..2 << 20).is_ok());
    write_at(&broken, 1 << 20, &[1; 512]).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn damage_anywhere_is_an_error_or_other_bytes(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = used().to_vec();
        for (at, value) in changes {
            // Where the tables are, that is nearly all of it.
            let at = at.index(bytes.len().min(6 << 16));
            bytes[at] = value;
        }
        if let Ok(disk) = Qcow2Disk::from_file(file_of(&bytes), false, None) {
            let size = disk.size().min(SIZE);
            let mut at = 0;
            while at < size {
                at += disk.read(at..size).map_or(65536, |run| run.len());
            }
            let _ = write_at(&disk, 0, &[2; 200 << 10].map(|b| b)[..size.min(200 << 10) as usize]);
            let _ = disk.discard(0..size);
            let _ = disk.flush();
        }
    }
}
