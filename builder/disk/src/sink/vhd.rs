//! VHD, fixed and dynamic (Microsoft's Virtual Hard Disk Image Format
//! Specification 1.0).
//!
//! A fixed disk is its bytes and a footer. A dynamic one allocates blocks of
//! 2 MiB, whose places are settled before anything is written, so that it
//! streams as well. All numbers are big-endian.

use std::ops::Range;

use super::output::Output;
use super::units::Units;
use super::{SinkError, ids};
use crate::reader::ReadAt;

const SECTOR: u64 = 512;

/// Bytes of a block of a dynamic disk, without its bitmap.
const BLOCK: u64 = 2 << 20;

/// A bit for each sector of a block, in whole sectors.
const BITMAP: u64 = BLOCK / SECTOR / 8;

/// A block's bytes start on a multiple of this, so that they can be shared
/// with what they are copied from.
const ALIGNMENT: u64 = 4096;

/// From the bitmap of one block to that of the next.
const STRIDE: u64 = ALIGNMENT + BLOCK;

/// Where a dynamic disk's header is, behind a copy of the footer.
const DYNAMIC_HEADER: u64 = 512;

/// Where the block allocation table is.
const TABLE: u64 = 1536;

/// Of a block that is not there; also of a header that does not follow.
const ABSENT: u64 = u64::MAX;

/// "Disk Type".
#[derive(Debug, Clone, Copy)]
enum Kind {
    Fixed = 2,
    Dynamic = 3,
}

/// Writes `disk` with every byte in its place.
pub(super) fn write_fixed(disk: &dyn ReadAt, output: &mut Output<'_>) -> Result<(), SinkError> {
    let footer = footer(disk, Kind::Fixed)?;
    super::raw::write(disk, output)?;
    output.write(&footer)
}

/// Writes `disk` with its blocks of zeros left out.
pub(super) fn write_dynamic(disk: &dyn ReadAt, output: &mut Output<'_>) -> Result<(), SinkError> {
    let footer = footer(disk, Kind::Dynamic)?;
    let runs: Vec<Range<u64>> = Units::new(disk, BLOCK).collect::<Result<_, _>>()?;
    let blocks = disk.size().div_ceil(BLOCK);
    let table_end = (TABLE + blocks * 4).next_multiple_of(SECTOR);
    // The first bitmap ends where the first block's bytes may start.
    let first = (table_end + BITMAP).next_multiple_of(ALIGNMENT) - BITMAP;

    output.write(&footer)?;
    output.write(&dynamic_header(blocks))?;
    let mut table = vec![0xff; (table_end - TABLE) as usize];
    let places = (0..).map(|n| ((first + n * STRIDE) / SECTOR) as u32);
    for (block, place) in runs.iter().cloned().flatten().zip(places) {
        let entry = table.get_mut(block as usize * 4..).unwrap_or_default();
        for (to, from) in entry.iter_mut().zip(place.to_be_bytes()) {
            *to = from;
        }
    }
    output.write(&table)?;

    for block in runs.into_iter().flatten() {
        let gap = (output.position() + BITMAP).next_multiple_of(ALIGNMENT) - BITMAP;
        output.zeros(gap - output.position())?;
        // "Each bit indicates whether the sector contains data": all do.
        output.write(&[0xff; BITMAP as usize])?;
        let bytes = block * BLOCK..((block + 1) * BLOCK).min(disk.size());
        let padding = BLOCK - (bytes.end - bytes.start);
        output.copy(disk, bytes)?;
        output.zeros(padding)?;
    }
    output.write(&footer)
}

/// "Hard Disk Footer Format".
fn footer(disk: &dyn ReadAt, kind: Kind) -> Result<Vec<u8>, SinkError> {
    let next = match kind {
        Kind::Fixed => ABSENT,
        Kind::Dynamic => DYNAMIC_HEADER,
    };
    let size = disk.size();
    let mut bytes = Vec::with_capacity(SECTOR as usize);
    bytes.extend(b"conectix");
    bytes.extend(2u32.to_be_bytes()); // features: the reserved bit
    bytes.extend(0x0001_0000u32.to_be_bytes()); // version
    bytes.extend(next.to_be_bytes());
    bytes.extend(0u32.to_be_bytes()); // made in 2000, for all we know
    // Readers decide by who made a disk whether its size is the truth or its
    // geometry, which rounds. For Windows (and Azure) it is the size.
    bytes.extend(b"win ");
    bytes.extend(0x000a_0000u32.to_be_bytes());
    bytes.extend(b"Wi2k");
    bytes.extend(size.to_be_bytes()); // original size
    bytes.extend(size.to_be_bytes()); // current size
    // The largest geometry: says to the rest of them to take the size, as
    // QEMU's `force_size` does.
    bytes.extend(65_535u16.to_be_bytes());
    bytes.extend([16, 255]);
    bytes.extend((kind as u32).to_be_bytes());
    const CHECKSUM: usize = 64;
    bytes.extend(0u32.to_be_bytes());
    bytes.extend(ids(disk)?.uuid("vhd").as_bytes());
    bytes.resize(SECTOR as usize, 0);
    set_checksum(&mut bytes, CHECKSUM);
    Ok(bytes)
}

/// "Dynamic Disk Header Format".
fn dynamic_header(blocks: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1024);
    bytes.extend(b"cxsparse");
    bytes.extend(ABSENT.to_be_bytes());
    bytes.extend(TABLE.to_be_bytes());
    bytes.extend(0x0001_0000u32.to_be_bytes()); // version
    bytes.extend((blocks as u32).to_be_bytes());
    bytes.extend((BLOCK as u32).to_be_bytes());
    const CHECKSUM: usize = 36;
    // The rest is about a parent, of which there is none.
    bytes.resize(1024, 0);
    set_checksum(&mut bytes, CHECKSUM);
    bytes
}

/// The complement of the sum of all bytes, the checksum's being 0.
fn set_checksum(bytes: &mut [u8], at: usize) {
    let sum: u32 = bytes.iter().map(|b| u32::from(*b)).sum();
    let field = bytes.get_mut(at..).unwrap_or_default();
    for (to, from) in field.iter_mut().zip((!sum).to_be_bytes()) {
        *to = from;
    }
}
