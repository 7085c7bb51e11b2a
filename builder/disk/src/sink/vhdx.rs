//! VHDX (Microsoft's MS-VHDX).
//!
//! Everything lies on a multiple of 1 MiB: headers and region tables in the
//! first, an empty log, metadata, the block allocation table, then the
//! blocks, whose places are settled before anything is written. All numbers
//! are little-endian.

use std::ops::Range;

use uuid::Uuid;

use super::output::Output;
use super::units::Units;
use super::{SinkError, ids};
use crate::reader::ReadAt;
use crate::vhdx::{
    DISK_ID, DISK_SIZE, FILE_PARAMETERS, FULLY_PRESENT, HEADER_LEN, HEADERS, IS_REQUIRED,
    LOGICAL_SECTOR_SIZE, MAX_BLOCK, METADATA_REGION, METADATA_TABLE_LEN, MIN_BLOCK,
    PHYSICAL_SECTOR_SIZE, REGION_TABLE_LEN, REGION_TABLES, SIGNATURE, TABLE_REGION, checksum,
    chunk_ratio,
};

const MIB: u64 = 1 << 20;

/// Where the regions are.
const LOG: u64 = MIB;
const METADATA: u64 = 2 * MIB;
const TABLE: u64 = 3 * MIB;

/// Bytes of a sector of the virtual disk.
const LOGICAL_SECTOR: u32 = 512;

/// What a sector has physically: the guest aligns its writes to it.
const PHYSICAL_SECTOR: u32 = 4096;

/// With more blocks than this, they are made larger.
const MANY_BLOCKS: u64 = 512 << 10;

/// Writes `disk`.
pub(super) fn write(disk: &dyn ReadAt, output: &mut Output<'_>) -> Result<(), SinkError> {
    let block = block_size(disk.size());
    let runs: Vec<Range<u64>> = Units::new(disk, block).collect::<Result<_, _>>()?;
    let entries = Entries::new(disk.size(), block);
    let table_len = (entries.count() * 8).next_multiple_of(MIB);
    let ids = ids(disk)?;

    let mut start = Vec::new();
    start.extend(SIGNATURE);
    start.extend("Bootwright".encode_utf16().flat_map(u16::to_le_bytes));
    for (sequence, at) in (1..).zip(HEADERS) {
        start.resize(at as usize, 0);
        start.extend(header(
            sequence,
            ids.uuid("vhdx file"),
            ids.uuid("vhdx data"),
        ));
    }
    for at in REGION_TABLES {
        start.resize(at as usize, 0);
        start.extend(region_table(table_len));
    }
    output.write(&start)?;
    output.zeros(METADATA - output.position())?;
    output.write(&metadata(disk.size(), block, ids.uuid("vhdx disk")))?;
    output.zeros(TABLE - output.position())?;

    let mut table = vec![0; (entries.count() * 8) as usize];
    let places = (TABLE + table_len..).step_by(block as usize);
    for (block, place) in runs.iter().cloned().flatten().zip(places) {
        let entry = table.get_mut((entries.of(block) * 8) as usize..);
        // The place in MiB is in the bits from 20 on, as the place itself.
        for (to, from) in
            (entry.unwrap_or_default().iter_mut()).zip((place | FULLY_PRESENT).to_le_bytes())
        {
            *to = from;
        }
    }
    output.write(&table)?;
    output.zeros(TABLE + table_len - output.position())?;

    for run in runs {
        let bytes = run.start * block..(run.end * block).min(disk.size());
        let padding = (run.end - run.start) * block - (bytes.end - bytes.start);
        output.copy(disk, bytes)?;
        output.zeros(padding)?;
    }
    Ok(())
}

/// 1 MiB, which Microsoft advises for ext4; more where the table would get
/// large.
fn block_size(disk_size: u64) -> u64 {
    let mut block = MIN_BLOCK;
    while block < MAX_BLOCK && disk_size.div_ceil(block) > MANY_BLOCKS {
        block *= 2;
    }
    block
}

/// Section 2.5, "BAT": how its entries are laid out.
#[derive(Debug, Clone, Copy)]
struct Entries {
    blocks: u64,
    /// Blocks between two entries for bitmaps, which only differencing disks
    /// use.
    chunk: u64,
}

impl Entries {
    fn new(disk_size: u64, block: u64) -> Self {
        Self {
            blocks: disk_size.div_ceil(block),
            chunk: chunk_ratio(LOGICAL_SECTOR, block),
        }
    }

    fn count(&self) -> u64 {
        self.of(self.blocks.saturating_sub(1)) + 1
    }

    /// The entry of a block.
    fn of(&self, block: u64) -> u64 {
        block + block / self.chunk
    }
}

/// Section 2.2.2, "Headers". The one with the higher number counts.
fn header(sequence: u64, file: Uuid, data: Uuid) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN);
    bytes.extend(b"head");
    bytes.extend([0; 4]);
    bytes.extend(sequence.to_le_bytes());
    bytes.extend(file.to_bytes_le());
    bytes.extend(data.to_bytes_le());
    bytes.extend([0; 16]); // the log is empty
    bytes.extend(0u16.to_le_bytes()); // its version
    bytes.extend(1u16.to_le_bytes()); // version
    bytes.extend((MIB as u32).to_le_bytes());
    bytes.extend(LOG.to_le_bytes());
    checked(bytes, HEADER_LEN)
}

/// Section 2.2.3, "Region Table".
fn region_table(table_len: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(REGION_TABLE_LEN);
    bytes.extend(b"regi");
    bytes.extend([0; 4]);
    bytes.extend(2u32.to_le_bytes());
    bytes.extend([0; 4]);
    for (region, at, len) in [
        (TABLE_REGION, TABLE, table_len),
        (METADATA_REGION, METADATA, MIB),
    ] {
        bytes.extend(region.to_bytes_le());
        bytes.extend(at.to_le_bytes());
        bytes.extend((len as u32).to_le_bytes());
        bytes.extend(1u32.to_le_bytes()); // required
    }
    checked(bytes, REGION_TABLE_LEN)
}

/// Fills `bytes` up to `len` and sets the checksum, which headers and region
/// tables have at the same place.
fn checked(mut bytes: Vec<u8>, len: usize) -> Vec<u8> {
    bytes.resize(len, 0);
    let sum = checksum(&bytes);
    for (to, from) in bytes.iter_mut().skip(4).zip(sum.to_le_bytes()) {
        *to = from;
    }
    bytes
}

/// Section 2.6, "Metadata Region": a table, and from 64 KiB on its items.
fn metadata(disk_size: u64, block: u64, disk: Uuid) -> Vec<u8> {
    /// Of an item: it is about the virtual disk.
    const IS_VIRTUAL_DISK: u32 = 2;
    let about_disk = IS_VIRTUAL_DISK | IS_REQUIRED;
    // The upper half: no parent, and blocks may be absent.
    let parameters = block.to_le_bytes();
    let items: [(Uuid, &[u8], u32); 5] = [
        (FILE_PARAMETERS, &parameters, IS_REQUIRED),
        (DISK_SIZE, &disk_size.to_le_bytes(), about_disk),
        (DISK_ID, &disk.to_bytes_le(), about_disk),
        (
            LOGICAL_SECTOR_SIZE,
            &LOGICAL_SECTOR.to_le_bytes(),
            about_disk,
        ),
        (
            PHYSICAL_SECTOR_SIZE,
            &PHYSICAL_SECTOR.to_le_bytes(),
            about_disk,
        ),
    ];
    let mut table = Vec::new();
    table.extend(b"metadata");
    table.extend(0u16.to_le_bytes());
    table.extend((items.len() as u16).to_le_bytes());
    table.extend([0; 20]);
    let mut values: Vec<u8> = Vec::new();
    for (id, value, flags) in items {
        table.extend(id.to_bytes_le());
        table.extend(((METADATA_TABLE_LEN + values.len()) as u32).to_le_bytes());
        table.extend((value.len() as u32).to_le_bytes());
        table.extend(flags.to_le_bytes());
        table.extend([0; 4]);
        values.extend(value);
    }
    table.resize(METADATA_TABLE_LEN, 0);
    table.extend(values);
    table
}
