//! Disks in blocks of one size that one table places: dynamic VHD and VHDX.
//!
//! The table is a stranger's: it is read in pieces, of which one is kept, and
//! a place that is not in the file is an error when the block is read.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::file::{DiskFormat, RawFile};
use super::{ReadAt, Run, checked_range};
use crate::vhdx::FULLY_PRESENT;

/// Bytes of the table that are read at once and kept.
const PIECE: u64 = 64 << 10;

/// How a table's entries are to be understood.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entries {
    /// 32 bits, big-endian: the sector of a bitmap of this many bytes, behind
    /// which the block is; all ones if it is absent.
    Vhd {
        /// Bytes of a bitmap.
        bitmap: u64,
    },
    /// 64 bits, little-endian: a state, and from bit 20 on the place.
    Vhdx {
        /// Entries before one that is about something else.
        chunk: u64,
    },
}

/// An open disk.
#[derive(Debug)]
pub(super) struct Blocks {
    pub(super) file: RawFile,
    /// Size of the disk in bytes.
    pub(super) size: u64,
    /// Size of a block in bytes, a power of two.
    pub(super) block: u64,
    /// Where the table is in the file; all of it must be inside.
    pub(super) table: Range<u64>,
    pub(super) entries: Entries,
    /// A piece of the table, by its number.
    pub(super) piece: Mutex<Option<(u64, Arc<[u8]>)>>,
}

impl Blocks {
    pub(super) fn file(&self) -> &RawFile {
        &self.file
    }

    pub(super) fn format(&self) -> DiskFormat {
        match self.entries {
            Entries::Vhd { .. } => DiskFormat::Vhd,
            Entries::Vhdx { .. } => DiskFormat::Vhdx,
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<(u64, Arc<[u8]>)>> {
        self.piece.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The `N` bytes at `at` of the table.
    fn entry<const N: usize>(&self, at: u64) -> io::Result<[u8; N]> {
        let number = at / PIECE;
        let kept = self.kept().clone().filter(|(kept, _)| *kept == number);
        let piece = match kept {
            Some((_, piece)) => piece,
            None => {
                let start = self.table.start + number * PIECE;
                let len = self.table.end.saturating_sub(start).min(PIECE);
                let mut bytes = vec![0; len as usize];
                self.file.read_exact_at(start, &mut bytes)?;
                let piece: Arc<[u8]> = bytes.into();
                *self.kept() = Some((number, Arc::clone(&piece)));
                piece
            }
        };
        let entry = piece.get((at % PIECE) as usize..);
        let entry = entry.and_then(|bytes| bytes.first_chunk());
        entry
            .copied()
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Where in the file a block is; `None` if it is zeros.
    fn place(&self, block: u64) -> io::Result<Option<u64>> {
        let place = match self.entries {
            Entries::Vhd { bitmap } => match u32::from_be_bytes(self.entry(block * 4)?) {
                u32::MAX => return Ok(None),
                sector => u64::from(sector) * 512 + bitmap,
            },
            Entries::Vhdx { chunk } => {
                let entry = u64::from_le_bytes(self.entry((block + block / chunk) * 8)?);
                match entry & 7 {
                    FULLY_PRESENT => entry >> 20 << 20,
                    // Not present, undefined, zero, unmapped.
                    0..=3 => return Ok(None),
                    state => return Err(self.damaged(&format!("a block in state {state}"), block)),
                }
            }
        };
        let len = self.block.min(self.size - block * self.block);
        if place
            .checked_add(len)
            .is_none_or(|end| end > self.file.len())
        {
            let reason = format!("there is no block at {place}");
            return Err(self.damaged(&reason, block));
        }
        Ok(Some(place))
    }

    fn damaged(&self, reason: &str, block: u64) -> io::Error {
        let at = block * self.block;
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{}: damaged {}: {reason}, for byte {at} of the disk",
                self.file.path().display(),
                self.format().name()
            ),
        )
    }

    /// The first block from `block` on that is data, or is not, as against
    /// `data`; or how many blocks there are.
    fn skip(&self, mut block: u64, data: bool) -> io::Result<u64> {
        let blocks = self.size.div_ceil(self.block);
        while block < blocks && self.place(block)?.is_some() == data {
            block += 1;
        }
        Ok(block.min(blocks))
    }

    /// The end of the block that `at` is in, or of the disk.
    fn block_end(&self, at: u64) -> u64 {
        ((at / self.block + 1) * self.block).min(self.size)
    }
}

impl ReadAt for Blocks {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        checked_range(offset, buf.len(), self.size)?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let len = (self.block_end(at) - at).min(rest.len() as u64);
            let (part, tail) = rest.split_at_mut(len as usize);
            match self.place(at / self.block)? {
                Some(place) => self.file.read_exact_at(place + at % self.block, part)?,
                None => part.fill(0),
            }
            (at, rest) = (at + len, tail);
        }
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let start = self.skip(from / self.block, false)?;
        let end = self.skip(start, true)?;
        let run = (start * self.block).max(from)..(end * self.block).min(self.size);
        Ok((run.start < run.end).then_some(run))
    }

    fn next_run(&self, range: Range<u64>) -> io::Result<Run> {
        let len = self.block_end(range.start).min(range.end) - range.start;
        Ok(match self.place(range.start / self.block)? {
            Some(place) => self.file.run(place + range.start % self.block, len),
            None => Run::Read(len),
        })
    }
}
