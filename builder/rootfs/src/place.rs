//! What a byte of an assembled disk is, in words: for telling people where
//! another disk differs from it.

use std::io;

use bootwright_disk::reader::ReadAt;
use bootwright_disk::{Content, Extent};

use crate::assemble::{Disk, PartitionSummary};
use crate::ext4;
use crate::tree::Tree;

/// Bytes of a sector (UEFI 5.3).
const SECTOR: u64 = 512;
/// Sectors of a backup of the partition table: entries and header.
const BACKUP: u64 = 33;

/// Where a byte of a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Number of the partition, from 1; `None` outside of all.
    pub partition: Option<usize>,
    /// What is there.
    pub what: String,
}

/// What the byte at `offset` of `disk`, assembled from `tree` and read by
/// `reader`, is.
///
/// # Errors
/// The disk cannot be read.
pub fn name(disk: &Disk, tree: &Tree, reader: &dyn ReadAt, offset: u64) -> io::Result<Place> {
    let found = disk.partitions.iter().zip(1..).find(|(summary, _)| {
        let partition = &summary.partition;
        (partition.start..partition.end()).contains(&offset)
    });
    let Some((summary, number)) = found else {
        return Ok(Place {
            partition: None,
            what: outside(disk, offset),
        });
    };
    let start = summary.partition.start;
    let what = match summary.file_system {
        "ext4" => {
            let read = |at: u64, buf: &mut [u8]| reader.read_exact_at(start + at, buf);
            ext4::name(tree, &read, offset - start)?
        }
        _ => in_esp(disk, summary, offset),
    };
    Ok(Place {
        partition: Some(number),
        what,
    })
}

/// UEFI 5.3.1: protective MBR, header and entries, and the backup of both.
fn outside(disk: &Disk, offset: u64) -> String {
    let sectors = disk.plan.size() / SECTOR;
    match offset / SECTOR {
        0 => "protective MBR".to_owned(),
        1 => "header of the partition table".to_owned(),
        2..34 => {
            let entry = (offset - 2 * SECTOR) / 128 + 1;
            format!("entry {entry} of the partition table")
        }
        sector if sector + 1 == sectors => "header of the backup partition table".to_owned(),
        sector if sector + BACKUP >= sectors => {
            let entry = (offset - (sectors - BACKUP) * SECTOR) / 128 + 1;
            format!("entry {entry} of the backup partition table")
        }
        _ => "space between partitions".to_owned(),
    }
}

/// A file of the boot partition, if it is known whose byte it is.
fn in_esp(disk: &Disk, summary: &PartitionSummary, offset: u64) -> String {
    let extents = disk.plan.extents_in(offset..offset + 1).first();
    let at = offset - summary.partition.start;
    let found = extents.and_then(|extent| {
        let here = extent.slice(offset..offset + 1)?;
        disk.boot.esp.iter().find_map(|file| {
            let shows = |part: &&Extent| match (&part.content, &here.content) {
                (Content::Source { id, offset: from }, Content::Source { id: other, offset }) => {
                    id == other && (*from..*from + part.len).contains(offset)
                }
                (Content::Literal(part), Content::Literal(_)) => match &extent.content {
                    // Padded to a cluster on the disk.
                    Content::Literal(all) => all.starts_with(part),
                    Content::Source { .. } => false,
                },
                _ => false,
            };
            file.content.extents.iter().find(shows).map(|_| &file.path)
        })
    });
    match found {
        Some(path) => format!("content of {path}"),
        None => format!("byte {at}, of the FAT file system's structures"),
    }
}
