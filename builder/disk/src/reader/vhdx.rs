//! Opening VHDX (Microsoft's MS-VHDX). All numbers are little-endian.

use std::ops::Range;
use std::sync::Mutex;

use uuid::Uuid;

use super::blocks::{Blocks, Entries};
use super::file::{DiskError, DiskFormat, MAX_DISK_SIZE, RawFile};
use crate::vhdx::{
    DISK_ID, DISK_SIZE, FILE_PARAMETERS, HEADER_LEN, HEADERS, IS_REQUIRED, LOGICAL_SECTOR_SIZE,
    MAX_BLOCK, METADATA_REGION, METADATA_TABLE_LEN, MIN_BLOCK, PHYSICAL_SECTOR_SIZE,
    REGION_TABLE_LEN, REGION_TABLES, TABLE_REGION, checksum, chunk_ratio,
};

const FORMAT: DiskFormat = DiskFormat::Vhdx;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let field = bytes.get(at..).and_then(|b| b.first_chunk());
    field.map_or(0, |b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(|b| b.first_chunk());
    field.map_or(0, |b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..).and_then(|b| b.first_chunk());
    field.map_or(0, |b| u64::from_le_bytes(*b))
}

fn guid_at(bytes: &[u8], at: usize) -> Uuid {
    let field = bytes.get(at..).and_then(|b| b.first_chunk());
    field.map_or(Uuid::nil(), |b| Uuid::from_bytes_le(*b))
}

/// Opens a VHDX.
pub(super) fn open(file: RawFile) -> Result<Blocks, DiskError> {
    check_header(&file)?;
    let regions = Regions::read(&file)?;
    let metadata = Metadata::read(&file, &regions.metadata)?;
    let damaged = |reason: String| Err(file.damaged(FORMAT, reason));
    let Metadata {
        block,
        size,
        sector,
    } = metadata;
    if !block.is_power_of_two() || !(MIN_BLOCK..=MAX_BLOCK).contains(&block) {
        return damaged(format!("blocks of {block} bytes"));
    }
    if ![512, 4096].contains(&sector) {
        return damaged(format!("sectors of {sector} bytes"));
    }
    if size == 0 || size > MAX_DISK_SIZE {
        return damaged(format!("a disk of {size} bytes"));
    }
    let chunk = chunk_ratio(sector, block);
    let last = size.div_ceil(block) - 1;
    let needed = (last + last / chunk + 1) * 8;
    let table = regions.table;
    if table.end - table.start < needed {
        return damaged(format!("the table has no place for a disk of {size} bytes"));
    }
    Ok(Blocks {
        table: table.start..table.start + needed,
        file,
        size,
        block,
        entries: Entries::Vhdx { chunk },
        piece: Mutex::new(None),
    })
}

/// Section 2.2.2: of the two headers the whole one with the higher number
/// counts.
fn check_header(file: &RawFile) -> Result<(), DiskError> {
    let mut newest: Option<[u8; HEADER_LEN]> = None;
    for at in HEADERS {
        let header: [u8; HEADER_LEN] = file.field(at, FORMAT)?;
        if !header.starts_with(b"head") || u32_at(&header, 4) != checksum(&header) {
            continue;
        }
        let newer = newest.is_none_or(|newest| u64_at(&header, 8) > u64_at(&newest, 8));
        if newer {
            newest = Some(header);
        }
    }
    let Some(header) = newest else {
        return Err(file.damaged(FORMAT, "neither of its headers is whole".into()));
    };
    if !guid_at(&header, 48).is_nil() {
        return Err(file.unsupported(
            "a VHDX that was not closed: its log is not replayed; \
             do that with qemu-img check -r all",
        ));
    }
    match u16_at(&header, 66) {
        1 => Ok(()),
        version => Err(file.unsupported(&format!("a VHDX of version {version}"))),
    }
}

/// Section 2.2.3, "Region Table".
struct Regions {
    table: Range<u64>,
    metadata: Range<u64>,
}

impl Regions {
    fn read(file: &RawFile) -> Result<Self, DiskError> {
        for at in REGION_TABLES {
            let bytes: [u8; REGION_TABLE_LEN] = file.field(at, FORMAT)?;
            if bytes.starts_with(b"regi") && u32_at(&bytes, 4) == checksum(&bytes) {
                return Self::parse(file, &bytes);
            }
        }
        Err(file.damaged(FORMAT, "neither of its region tables is whole".into()))
    }

    fn parse(file: &RawFile, bytes: &[u8]) -> Result<Self, DiskError> {
        const MAX_ENTRIES: u32 = 2047;
        let (mut table, mut metadata) = (None, None);
        for n in 0..u32_at(bytes, 8).min(MAX_ENTRIES) as usize {
            let at = 16 + n * 32;
            let start = u64_at(bytes, at + 16);
            let end = start.checked_add(u64::from(u32_at(bytes, at + 24)));
            let range = end.filter(|end| *end <= file.len()).map(|end| start..end);
            let region = guid_at(bytes, at);
            let place = match region {
                TABLE_REGION => &mut table,
                METADATA_REGION => &mut metadata,
                _ if u32_at(bytes, at + 28) & 1 == 0 => continue,
                _ => return Err(file.unsupported(&format!("a VHDX that needs region {region}"))),
            };
            *place = range;
        }
        match (table, metadata) {
            (Some(table), Some(metadata)) => Ok(Self { table, metadata }),
            _ => Err(file.damaged(FORMAT, "a region is not in the file".into())),
        }
    }
}

/// Section 2.6, "Metadata Region".
#[derive(Debug, Default)]
struct Metadata {
    block: u64,
    size: u64,
    sector: u32,
}

impl Metadata {
    fn read(file: &RawFile, region: &Range<u64>) -> Result<Self, DiskError> {
        const MAX_ENTRIES: u16 = 2047;
        let table: [u8; METADATA_TABLE_LEN] = file.field(region.start, FORMAT)?;
        if !table.starts_with(b"metadata") {
            return Err(file.damaged(FORMAT, "it has no metadata".into()));
        }
        let mut found = Self::default();
        for n in 0..usize::from(u16_at(&table, 10).min(MAX_ENTRIES)) {
            let at = 32 + n * 32;
            let item = region.start + u64::from(u32_at(&table, at + 16));
            match guid_at(&table, at) {
                FILE_PARAMETERS => {
                    let value: [u8; 8] = file.field(item, FORMAT)?;
                    if u32_at(&value, 4) & 2 != 0 {
                        return Err(file.unsupported(
                            "a VHDX with a parent, which is not followed; \
                             make it whole with qemu-img convert",
                        ));
                    }
                    found.block = u64::from(u32_at(&value, 0));
                }
                DISK_SIZE => found.size = u64::from_le_bytes(file.field(item, FORMAT)?),
                LOGICAL_SECTOR_SIZE => {
                    found.sector = u32::from_le_bytes(file.field(item, FORMAT)?);
                }
                DISK_ID | PHYSICAL_SECTOR_SIZE => {}
                _ if u32_at(&table, at + 24) & IS_REQUIRED == 0 => {}
                id => return Err(file.unsupported(&format!("a VHDX that needs metadata {id}"))),
            }
        }
        Ok(found)
    }
}
