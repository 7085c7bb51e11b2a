//! Placing partitions on a disk.

use std::collections::BTreeSet;

use bytes::Bytes;
use uuid::Uuid;

use super::header::{ENTRY_COUNT, ENTRY_SIZE, Entry, Header, NAME_UNITS};
use super::{ALIGNMENT, Copy, Partition, SECTOR, Table};
use crate::plan::Extent;

/// Sectors before the first usable one: protective MBR, header, entries.
const FIRST_USABLE: u64 = 2 + ENTRY_SECTORS;
/// Sectors after the last usable one: entries, header.
const TRAILER: u64 = ENTRY_SECTORS + 1;
const ENTRY_SECTORS: u64 = (ENTRY_COUNT * ENTRY_SIZE) as u64 / SECTOR;

/// A partition to be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPartition {
    /// What the partition is for; see [`super::types`]. Not nil.
    pub type_guid: Uuid,
    /// The partition's own identifier, no other's on this disk. Not nil.
    pub guid: Uuid,
    /// Its name, at most 36 UTF-16 code units, no NUL.
    pub name: String,
    /// Length in bytes, a multiple of 512 greater than 0.
    pub len: u64,
    /// See [`super::attributes`].
    pub attributes: u64,
}

/// How to lay out a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The disk's identifier.
    pub disk_guid: Uuid,
    /// Size of the disk in bytes, a multiple of 512; the smallest multiple of
    /// the alignment that holds the partitions if not given.
    pub disk_size: Option<u64>,
    /// Where partitions start: a multiple of this many bytes, itself a
    /// multiple of 512.
    pub alignment: u64,
}

impl Options {
    /// A disk just large enough, with partitions on whole MiB.
    pub fn new(disk_guid: Uuid) -> Self {
        Self {
            disk_guid,
            disk_size: None,
            alignment: ALIGNMENT,
        }
    }
}

/// A disk laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The table with the partitions in the order in which they were given.
    pub table: Table,
    /// Size of the disk in bytes.
    pub disk_size: u64,
    /// The protective MBR and both copies of the table.
    pub extents: Vec<Extent>,
}

/// Why partitions could not be laid out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayoutError {
    /// More partitions than the table has entries.
    #[error("{0} partitions, but a partition table holds {ENTRY_COUNT}")]
    TooManyPartitions(usize),
    /// A name that does not fit an entry.
    #[error("partition name {0:?} is longer than {NAME_UNITS} UTF-16 code units or holds NUL")]
    BadName(String),
    /// A length that is no whole number of sectors, or zero.
    #[error("partition {name:?}: length {len} is not a positive multiple of {SECTOR}")]
    BadLength {
        /// The partition's name.
        name: String,
        /// Its length in bytes.
        len: u64,
    },
    /// A nil identifier, or one that two partitions share.
    #[error("partition {name:?}: GUID {guid} is nil or already used on this disk")]
    BadGuid {
        /// The partition's name.
        name: String,
        /// The identifier.
        guid: Uuid,
    },
    /// The alignment is no whole number of sectors, or zero.
    #[error("partition alignment {0} is not a positive multiple of {SECTOR}")]
    BadAlignment(u64),
    /// The disk's size is no whole number of sectors.
    #[error("disk size {0} is not a multiple of {SECTOR}")]
    BadDiskSize(u64),
    /// The disk is too small for its partitions.
    #[error(
        "a disk of {disk_size} bytes is too small: its partitions and their table need {needed}"
    )]
    DiskTooSmall {
        /// Size of the disk in bytes.
        disk_size: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// The partitions end past 2^63 bytes.
    #[error("the partitions are too large for any disk")]
    TooLarge,
}

/// Places `partitions` one after the other and gives the table's bytes.
///
/// The result depends on the arguments alone.
///
/// # Errors
/// An argument breaks its documented range, or the disk is too small.
pub fn layout(partitions: &[NewPartition], options: &Options) -> Result<Layout, LayoutError> {
    check(partitions)?;
    let starts = place(partitions.iter().map(|p| p.len), options.alignment)?;
    let partitions: Vec<Partition> = (1..)
        .zip(starts)
        .zip(partitions)
        .map(|((number, start), new)| Partition {
            number,
            type_guid: new.type_guid,
            guid: new.guid,
            name: new.name.clone(),
            start,
            len: new.len,
            attributes: new.attributes,
        })
        .collect();
    let end = partitions
        .last()
        .map_or(FIRST_USABLE * SECTOR, Partition::end);
    let needed = end + TRAILER * SECTOR;
    let disk_size = match options.disk_size {
        None => align_up(needed, options.alignment)?,
        Some(size) if size % SECTOR != 0 => return Err(LayoutError::BadDiskSize(size)),
        Some(disk_size) if disk_size < needed => {
            return Err(LayoutError::DiskTooSmall { disk_size, needed });
        }
        Some(size) => size,
    };
    let table = Table {
        disk_guid: options.disk_guid,
        sector_size: SECTOR,
        copy: Copy::Primary,
        partitions,
    };
    Ok(Layout {
        extents: encode(&table, disk_size / SECTOR),
        table,
        disk_size,
    })
}

/// The length in bytes, a multiple of the alignment, that one more partition
/// can have on a disk of `disk_size` bytes after partitions of the lengths
/// `before`; 0 if there is no room.
///
/// # Errors
/// The alignment is no multiple of 512, or the lengths fit no disk.
pub fn space_left(before: &[u64], disk_size: u64, alignment: u64) -> Result<u64, LayoutError> {
    let lens = before.iter().copied().chain([SECTOR]);
    let starts = place(lens, alignment)?;
    let start = starts.last().copied().unwrap_or(disk_size);
    let room = disk_size.saturating_sub(start.saturating_add(TRAILER * SECTOR));
    Ok(room - room % alignment)
}

/// The size in bytes of the smallest disk, a multiple of the alignment, for
/// partitions of the lengths `lens`.
///
/// # Errors
/// The alignment is no multiple of 512, or the lengths fit no disk.
pub fn smallest_disk(lens: &[u64], alignment: u64) -> Result<u64, LayoutError> {
    let starts = place(lens.iter().copied(), alignment)?;
    let last = starts.last().zip(lens.last());
    let end = last.map_or(FIRST_USABLE * SECTOR, |(start, len)| start + len);
    align_up(end + TRAILER * SECTOR, alignment)
}

fn check(partitions: &[NewPartition]) -> Result<(), LayoutError> {
    if partitions.len() > ENTRY_COUNT {
        return Err(LayoutError::TooManyPartitions(partitions.len()));
    }
    let mut guids = BTreeSet::new();
    for NewPartition {
        type_guid,
        guid,
        name,
        len,
        ..
    } in partitions
    {
        let name = name.clone();
        if name.encode_utf16().count() > NAME_UNITS || name.contains('\0') {
            return Err(LayoutError::BadName(name));
        }
        if *len == 0 || len % SECTOR != 0 {
            return Err(LayoutError::BadLength { name, len: *len });
        }
        if type_guid.is_nil() || guid.is_nil() || !guids.insert(guid) {
            return Err(LayoutError::BadGuid { name, guid: *guid });
        }
    }
    Ok(())
}

/// First bytes of partitions of the given lengths.
fn place(lens: impl Iterator<Item = u64>, alignment: u64) -> Result<Vec<u64>, LayoutError> {
    if alignment == 0 || !alignment.is_multiple_of(SECTOR) {
        return Err(LayoutError::BadAlignment(alignment));
    }
    let mut end = FIRST_USABLE * SECTOR;
    lens.map(|len| {
        let start = align_up(end, alignment)?;
        end = start
            .checked_add(len)
            .filter(|&end| end < 1 << 63)
            .ok_or(LayoutError::TooLarge)?;
        Ok(start)
    })
    .collect()
}

fn align_up(offset: u64, alignment: u64) -> Result<u64, LayoutError> {
    offset
        .checked_next_multiple_of(alignment)
        .filter(|&aligned| aligned < 1 << 63)
        .ok_or(LayoutError::TooLarge)
}

/// The bytes of a table on a disk of `sectors` sectors, at least
/// `FIRST_USABLE + TRAILER`.
fn encode(table: &Table, sectors: u64) -> Vec<Extent> {
    let mut entries = vec![0; ENTRY_COUNT * ENTRY_SIZE];
    let (places, _) = entries.as_chunks_mut::<ENTRY_SIZE>();
    for (place, p) in places.iter_mut().zip(&table.partitions) {
        *place = Entry {
            type_guid: p.type_guid,
            guid: p.guid,
            first_lba: p.start / SECTOR,
            last_lba: p.end() / SECTOR - 1,
            attributes: p.attributes,
            name: p.name.clone(),
        }
        .encode();
    }
    let last = sectors - 1;
    let primary = Header {
        my_lba: 1,
        alternate_lba: last,
        first_usable_lba: FIRST_USABLE,
        last_usable_lba: last - TRAILER,
        disk_guid: table.disk_guid,
        entries_lba: 2,
        entry_count: ENTRY_COUNT as u32,
        entry_size: ENTRY_SIZE as u32,
        entries_crc: crc32fast::hash(&entries),
    };
    let backup = Header {
        my_lba: last,
        alternate_lba: 1,
        entries_lba: last - ENTRY_SECTORS,
        ..primary.clone()
    };

    let mut front = vec![0; 2 * SECTOR as usize];
    front[..512].copy_from_slice(&protective_mbr(sectors));
    front[512..][..primary.encode().len()].copy_from_slice(&primary.encode());
    // Unused entries are zero and need no extent.
    entries.truncate(table.partitions.len() * ENTRY_SIZE);
    front.extend_from_slice(&entries);
    let mut extents = vec![Extent::literal(0, front)];
    if !entries.is_empty() {
        extents.push(Extent::literal(backup.entries_lba * SECTOR, entries));
    }
    let header = Bytes::copy_from_slice(&backup.encode());
    extents.push(Extent::literal(last * SECTOR, header));
    extents
}

/// One record that claims the whole disk for GPT, so that tools which know
/// only MBR leave it alone (UEFI 2.10, clause 5.2.3).
fn protective_mbr(sectors: u64) -> [u8; 512] {
    let mut mbr = [0; 512];
    let size = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    let record = &mut mbr[446..462];
    record[1..4].copy_from_slice(&[0x00, 0x02, 0x00]); // CHS of sector 1
    record[4] = 0xee;
    record[5..8].copy_from_slice(&[0xff, 0xff, 0xff]); // CHS beyond reach
    record[8..12].copy_from_slice(&1u32.to_le_bytes());
    record[12..16].copy_from_slice(&size.to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    mbr
}
