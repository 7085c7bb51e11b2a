//! Opening VHD, fixed and dynamic (Microsoft's Virtual Hard Disk Image Format
//! Specification 1.0). All numbers are big-endian.

use std::sync::Mutex;

use super::blocks::{Blocks, Entries};
use super::file::{DiskError, DiskFormat, RawFile};

/// What footers start with.
pub(super) const COOKIE: [u8; 8] = *b"conectix";

const FOOTER: u64 = 512;

/// "Disk Type".
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;

/// Blocks of other sizes are nobody's; the table of smaller ones takes long
/// to look through.
const BLOCKS: std::ops::RangeInclusive<u64> = 64 << 10..=256 << 20;

struct Footer([u8; FOOTER as usize]);

impl Footer {
    fn u32(&self, at: usize) -> u32 {
        self.0[at..]
            .first_chunk()
            .map_or(0, |b| u32::from_be_bytes(*b))
    }

    fn u64(&self, at: usize) -> u64 {
        self.0[at..]
            .first_chunk()
            .map_or(0, |b| u64::from_be_bytes(*b))
    }

    /// The complement of the sum of all bytes but the checksum's.
    fn is_whole(&self) -> bool {
        let all: u32 = self.0.iter().map(|b| u32::from(*b)).sum();
        let own: u32 = self.0[64..68].iter().map(|b| u32::from(*b)).sum();
        self.0.starts_with(&COOKIE) && self.u32(64) == !(all - own)
    }

    /// "Current Size", as Hyper-V and Azure take it.
    fn size(&self) -> u64 {
        self.u64(48)
    }
}

/// The size of the disk if the file is a fixed VHD: only its end says so.
pub(super) fn fixed_size(file: &RawFile) -> Result<Option<u64>, DiskError> {
    let Some(size) = file.len().checked_sub(FOOTER) else {
        return Ok(None);
    };
    let footer = Footer(file.field(size, DiskFormat::Vhd)?);
    let fixed = footer.is_whole() && footer.u32(60) == FIXED && footer.size() == size;
    Ok(fixed.then_some(size))
}

/// Opens a dynamic VHD.
pub(super) fn open_dynamic(file: RawFile) -> Result<Blocks, DiskError> {
    let damaged = |reason: String| Err(file.damaged(DiskFormat::Vhd, reason));
    // The copy at the start; the footer itself may be lost.
    let footer = Footer(file.field(0, DiskFormat::Vhd)?);
    if !footer.is_whole() {
        return damaged("its footer has a wrong checksum".into());
    }
    match footer.u32(60) {
        DYNAMIC => {}
        DIFFERENCING => {
            return Err(file.unsupported(
                "a differencing VHD, whose parent is not followed; \
                 make it whole with qemu-img convert",
            ));
        }
        kind => return damaged(format!("a disk of type {kind}")),
    }
    // "Dynamic Disk Header Format": the fields that matter are in its start.
    let header = Footer(file.field(footer.u64(16), DiskFormat::Vhd)?);
    if !header.0.starts_with(b"cxsparse") {
        return damaged("it has no dynamic header".into());
    }
    let (size, block) = (footer.size(), u64::from(header.u32(32)));
    if !block.is_power_of_two() || !BLOCKS.contains(&block) {
        return damaged(format!("blocks of {block} bytes"));
    }
    let (blocks, entries) = (size.div_ceil(block), u64::from(header.u32(28)));
    if blocks > entries {
        return damaged(format!("a table of {entries} blocks for {size} bytes"));
    }
    let table = header.u64(16);
    let end = table.checked_add(blocks * 4);
    let Some(end) = end.filter(|end| *end <= file.len()) else {
        return damaged(format!("the table at {table} reaches past the end"));
    };
    Ok(Blocks {
        file,
        size,
        block,
        table: table..end,
        entries: Entries::Vhd {
            // A bit a sector, in whole sectors.
            bitmap: (block / 512 / 8).next_multiple_of(512),
        },
        piece: Mutex::new(None),
    })
}
