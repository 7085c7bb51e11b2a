//! The places on a disk where a file system may be.
//!
//! A GUID partition table counts first (UEFI 2.10, clause 5.3), then an MBR
//! with its chain of logical partitions (UEFI 2.10, 5.2.1), then the whole
//! disk as one file system.

use bootwright_disk::ReadAt;
use bootwright_disk::gpt::{self, types};
use bootwright_disk::reader::DiskCursor;

use crate::boot::Architecture;

/// Most logical partitions of an MBR that are followed.
const MAX_LOGICAL: u32 = 60;

const SECTOR: u64 = 512;

/// MBR type of an EFI system partition (UEFI 2.10, 5.2.2).
const MBR_ESP: u8 = 0xef;
/// MBR type of an extended boot loader partition (UAPI.1).
const MBR_XBOOTLDR: u8 = 0xea;
/// MBR types of partitions that hold logical ones.
const MBR_EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// What a partition is for, by its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// EFI system partition.
    Esp,
    /// Extended boot loader partition.
    Xbootldr,
    /// Root file system of the machine's architecture.
    Root,
    /// Anything else.
    Other,
}

/// A range of the disk that may hold a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Partition {
    /// For messages: `partition 2` or `the whole disk`.
    pub(super) name: String,
    /// First byte.
    pub(super) start: u64,
    /// Length in bytes.
    pub(super) len: u64,
    /// What it is for.
    pub(super) purpose: Purpose,
    /// How the kernel names the partition in `root=PARTUUID=`.
    pub(super) partuuid: Option<String>,
}

/// Finds the partitions of a disk. What is wrong with its tables is added to
/// `notes`.
pub(super) fn find(
    disk: &dyn ReadAt,
    architecture: Architecture,
    notes: &mut Vec<String>,
) -> Vec<Partition> {
    match gpt::read(&mut DiskCursor::new(disk)) {
        Ok(table) => return of_gpt(&table, architecture),
        Err(gpt::ReadError::NotGpt(_)) => {}
        Err(error) => notes.push(error.to_string()),
    }
    let found = of_mbr(disk);
    if !found.is_empty() {
        return found;
    }
    vec![Partition {
        name: "the whole disk".into(),
        start: 0,
        len: disk.size(),
        purpose: Purpose::Other,
        partuuid: None,
    }]
}

fn of_gpt(table: &gpt::Table, architecture: Architecture) -> Vec<Partition> {
    let root = types::root_types(architecture.oci()).map(|types| types.root);
    let purpose = |guid| match guid {
        types::ESP => Purpose::Esp,
        types::XBOOTLDR => Purpose::Xbootldr,
        guid if Some(guid) == root => Purpose::Root,
        _ => Purpose::Other,
    };
    table
        .partitions
        .iter()
        .map(|p| Partition {
            name: format!("partition {}", p.number),
            start: p.start,
            len: p.len,
            purpose: purpose(p.type_guid),
            partuuid: Some(p.guid.to_string()),
        })
        .collect()
}

/// A partition record of an MBR.
struct Record {
    kind: u8,
    first: u64,
    count: u64,
}

/// The records of the boot record at `sector`; none if it is not one.
fn records(disk: &dyn ReadAt, sector: u64) -> Option<([u8; SECTOR as usize], Vec<Record>)> {
    let mut bytes = [0; SECTOR as usize];
    let at = sector.checked_mul(SECTOR)?;
    disk.read_exact_at(at, &mut bytes).ok()?;
    if bytes[510..] != [0x55, 0xaa] {
        return None;
    }
    let (records, _) = bytes[446..510].as_chunks::<16>();
    let u32_at = |r: &[u8; 16], at: usize| {
        u64::from(u32::from_le_bytes([r[at], r[at + 1], r[at + 2], r[at + 3]]))
    };
    let all = records
        .iter()
        .map(|r| Record {
            kind: r[4],
            first: u32_at(r, 8),
            count: u32_at(r, 12),
        })
        .collect();
    Some((bytes, all))
}

fn of_mbr(disk: &dyn ReadAt) -> Vec<Partition> {
    let Some((bytes, primary)) = records(disk, 0) else {
        return Vec::new();
    };
    let signature = u32::from_le_bytes([bytes[440], bytes[441], bytes[442], bytes[443]]);
    let mut found = Vec::new();
    let mut add = |number: u32, kind: u8, first: u64, count: u64| {
        let (start, len) = (first * SECTOR, count * SECTOR);
        // A file system's boot sector has the same two bytes at its end as an
        // MBR, and text where the records would be.
        if kind == 0 || count == 0 || first == 0 || start + len > disk.size() {
            return;
        }
        found.push(Partition {
            name: format!("partition {number}"),
            start,
            len,
            purpose: match kind {
                MBR_ESP => Purpose::Esp,
                MBR_XBOOTLDR => Purpose::Xbootldr,
                _ => Purpose::Other,
            },
            partuuid: Some(format!("{signature:08x}-{number:02x}")),
        });
    };
    let mut extended = None;
    for (number, record) in (1..).zip(&primary) {
        if MBR_EXTENDED.contains(&record.kind) {
            extended = extended.or(Some(record.first));
        } else {
            add(number, record.kind, record.first, record.count);
        }
    }
    // A chain of boot records, each with one partition (relative to itself)
    // and the place of the next (relative to the first).
    let base = extended.unwrap_or(0);
    let mut next = extended;
    let mut number = 5;
    // Counted, because a chain may go round in a circle.
    for _ in 0..MAX_LOGICAL {
        let Some((sector, (_, logical))) = next
            .take()
            .and_then(|sector| Some((sector, records(disk, sector)?)))
        else {
            break;
        };
        for record in logical.iter().take(2) {
            if MBR_EXTENDED.contains(&record.kind) {
                next = Some(base + record.first);
            } else if record.kind != 0 {
                add(number, record.kind, sector + record.first, record.count);
                number += 1;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::discover::test_disk::Memory;

    fn record(kind: u8, first: u32, count: u32) -> [u8; 16] {
        let mut record = [0; 16];
        record[4] = kind;
        record[8..12].copy_from_slice(&first.to_le_bytes());
        record[12..].copy_from_slice(&count.to_le_bytes());
        record
    }

    fn boot_record(disk: &mut [u8], sector: usize, records: &[[u8; 16]]) {
        let at = sector * 512;
        for (n, record) in records.iter().enumerate() {
            disk[at + 446 + n * 16..][..16].copy_from_slice(record);
        }
        disk[at + 510..at + 512].copy_from_slice(&[0x55, 0xaa]);
    }

    #[test]
    fn an_mbr_has_primary_and_logical_partitions() {
        let mut disk = vec![0; 100 * 512];
        disk[440..444].copy_from_slice(&0xdead_beefu32.to_le_bytes());
        boot_record(
            &mut disk,
            0,
            &[record(0x83, 2, 8), record(0xef, 10, 10), record(5, 20, 80)],
        );
        boot_record(&mut disk, 20, &[record(0x83, 1, 9), record(5, 20, 20)]);
        boot_record(&mut disk, 40, &[record(0xea, 2, 8), record(0, 0, 0)]);
        let found = find(&Memory(disk), Architecture::X86_64, &mut Vec::new());
        let short: Vec<_> = found
            .iter()
            .map(|p| (p.name.as_str(), p.start / 512, p.len / 512, p.purpose))
            .collect();
        assert_eq!(
            short,
            [
                ("partition 1", 2, 8, Purpose::Other),
                ("partition 2", 10, 10, Purpose::Esp),
                ("partition 5", 21, 9, Purpose::Other),
                ("partition 6", 42, 8, Purpose::Xbootldr),
            ]
        );
        assert_eq!(found[2].partuuid.as_deref(), Some("deadbeef-05"));
    }

    #[test]
    fn a_chain_of_logical_partitions_that_loops_ends() {
        let mut disk = vec![0; 100 * 512];
        boot_record(&mut disk, 0, &[record(5, 20, 80)]);
        boot_record(&mut disk, 20, &[record(0, 0, 0), record(5, 0, 20)]);
        let found = find(&Memory(disk), Architecture::X86_64, &mut Vec::new());
        assert_eq!(found[0].name, "the whole disk");
    }
}
