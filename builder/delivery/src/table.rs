//! A layer's table: where in its blob and its tar a pack's bytes are.
//!
//! Who has it and the plan reads any part of a disk out of a registry by
//! ranges, and verifies each frame before a byte of it is used. The table
//! follows from the layer's tar alone. The format is specified in
//! docs/src/formats/disk-image.md.

use std::ops::Range;

use bootwright_image::store::TarRun;

use crate::frames::{FRAME, Frame, Written};
use TableError::Malformed;

const MAGIC: [u8; 8] = *b"bw-layer";
const VERSION: u32 = 1;
/// Length of the header in bytes.
const HEADER: usize = 48;
/// Length of a frame's record in bytes.
const RECORD: usize = 36;
/// Longest number in the list of runs, in bytes.
const MAX_NUMBER: usize = 10;

/// What is known of a layer's blob and tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerTable {
    tar_len: u64,
    pack_len: u64,
    frames: Vec<Frame>,
    /// Where in the blob each frame starts, and where the last one ends.
    starts: Vec<u64>,
    /// In tar order, which is that of the pack.
    runs: Vec<TarRun>,
}

/// Bytes that are no table, or a table that contradicts itself.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TableError {
    /// Not a table.
    #[error("bad layer table: {0}")]
    Malformed(&'static str),
    /// Made by a newer version of this program.
    #[error("layer table of version {0}; this program reads version {VERSION}: update bootwright")]
    Newer(u32),
    /// The sum over the table is wrong.
    #[error("the layer table is corrupt: its checksum is wrong")]
    Checksum,
}

impl LayerTable {
    /// The table of a layer that was written.
    ///
    /// # Errors
    /// The parts do not fit each other.
    pub fn new(written: &Written, pack_len: u64, runs: Vec<TarRun>) -> Result<Self, TableError> {
        Self::checked(written.plain_len, pack_len, written.frames.clone(), runs)
    }

    fn checked(
        tar_len: u64,
        pack_len: u64,
        frames: Vec<Frame>,
        runs: Vec<TarRun>,
    ) -> Result<Self, TableError> {
        if frames.len() as u64 != tar_len.div_ceil(FRAME as u64) {
            return Err(Malformed("it has another number of frames than the tar"));
        }
        let mut starts = Vec::with_capacity(frames.len() + 1);
        let mut end: u64 = 0;
        for frame in &frames {
            // A frame that does not compress is a little longer than before.
            if frame.len == 0 || frame.len as usize > FRAME + FRAME / 8 {
                return Err(Malformed("a frame has an impossible length"));
            }
            starts.push(end);
            end += u64::from(frame.len);
        }
        starts.push(end);
        let (mut tar, mut pack) = (0, 0);
        for run in &runs {
            if run.len == 0 || run.tar_offset < tar || run.pack_offset < pack {
                return Err(Malformed("its runs are not in order"));
            }
            let end = |offset: u64, len: u64| offset.checked_add(run.len).filter(|&e| e <= len);
            tar = end(run.tar_offset, tar_len).ok_or(Malformed("a run is outside the tar"))?;
            pack = end(run.pack_offset, pack_len).ok_or(Malformed("a run is outside the pack"))?;
        }
        Ok(Self {
            tar_len,
            pack_len,
            frames,
            starts,
            runs,
        })
    }

    /// Length of the layer's tar in bytes.
    pub fn tar_len(&self) -> u64 {
        self.tar_len
    }

    /// Length of the layer's pack in bytes.
    pub fn pack_len(&self) -> u64 {
        self.pack_len
    }

    /// The frames.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Where in the blob the frames with these numbers are.
    pub fn blob_range(&self, frames: Range<usize>) -> Option<Range<u64>> {
        Some(*self.starts.get(frames.start)?..*self.starts.get(frames.end)?)
    }

    /// How many bytes of the tar frame `number` holds.
    pub fn frame_len(&self, number: usize) -> usize {
        let start = (number as u64).saturating_mul(FRAME as u64);
        self.tar_len.saturating_sub(start).min(FRAME as u64) as usize
    }

    /// The runs of the tar that are in `range` of the pack. What no run
    /// covers is zeros.
    pub fn runs_in(&self, range: Range<u64>) -> impl Iterator<Item = TarRun> + '_ {
        let first = self
            .runs
            .partition_point(|run| run.pack_offset + run.len <= range.start);
        let runs = self.runs.get(first..).unwrap_or_default().iter();
        runs.take_while(move |run| run.pack_offset < range.end)
            .map(move |run| {
                let start = run.pack_offset.max(range.start);
                let end = (run.pack_offset + run.len).min(range.end);
                TarRun {
                    tar_offset: run.tar_offset + (start - run.pack_offset),
                    pack_offset: start,
                    len: end - start,
                }
            })
    }

    /// The table as a file.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(self.tar_len.to_le_bytes());
        body.extend(self.pack_len.to_le_bytes());
        body.extend((FRAME as u32).to_le_bytes());
        body.extend((self.frames.len() as u32).to_le_bytes());
        body.extend((self.runs.len() as u64).to_le_bytes());
        for frame in &self.frames {
            body.extend(frame.len.to_le_bytes());
            body.extend(frame.sha256);
        }
        let (mut tar, mut pack) = (0, 0);
        for run in &self.runs {
            number(&mut body, run.tar_offset - tar);
            number(&mut body, run.pack_offset - pack);
            number(&mut body, run.len);
            tar = run.tar_offset + run.len;
            pack = run.pack_offset + run.len;
        }
        let mut bytes = Vec::with_capacity(16 + body.len());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(crc32c::crc32c(&body).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    /// Reads a table that may come from a stranger.
    ///
    /// # Errors
    /// Anything but a whole table whose parts fit each other.
    pub fn decode(bytes: &[u8]) -> Result<Self, TableError> {
        let mut input = Input(bytes);
        if input.array()? != MAGIC {
            return Err(Malformed("it begins with other bytes"));
        }
        let version = u32::from_le_bytes(input.array()?);
        if version != VERSION {
            return Err(TableError::Newer(version));
        }
        if crc32c::crc32c(bytes.get(16..).unwrap_or_default()) != input.u32()? {
            return Err(TableError::Checksum);
        }
        let (tar_len, pack_len) = (input.u64()?, input.u64()?);
        if input.u32()? as usize != FRAME {
            return Err(Malformed("its frames have another length"));
        }
        let frames = input.u32()? as usize;
        let runs = input.u64()?;
        // Before anything is allocated for them: there are bytes for all.
        let left = bytes.len().saturating_sub(HEADER);
        if frames > left / RECORD || runs > left as u64 / 3 {
            return Err(Malformed("it is cut short"));
        }
        let frames = (0..frames)
            .map(|_| {
                Ok(Frame {
                    len: input.u32()?,
                    sha256: input.array()?,
                })
            })
            .collect::<Result<_, _>>()?;
        let (mut tar, mut pack) = (0u64, 0u64);
        let mut list = Vec::with_capacity(runs as usize);
        for _ in 0..runs {
            let far = || Malformed("a run is too far away");
            let tar_offset = tar.checked_add(input.number()?).ok_or_else(far)?;
            let pack_offset = pack.checked_add(input.number()?).ok_or_else(far)?;
            let len = input.number()?;
            tar = tar_offset.checked_add(len).ok_or_else(far)?;
            pack = pack_offset.checked_add(len).ok_or_else(far)?;
            list.push(TarRun {
                tar_offset,
                pack_offset,
                len,
            });
        }
        if !input.0.is_empty() {
            return Err(Malformed("there is more behind its end"));
        }
        Self::checked(tar_len, pack_len, frames, list)
    }
}

/// Appends a number in LEB128.
fn number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], TableError> {
        let (array, rest) = self
            .0
            .split_first_chunk()
            .ok_or(Malformed("it is cut short"))?;
        self.0 = rest;
        Ok(*array)
    }

    fn u32(&mut self) -> Result<u32, TableError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, TableError> {
        self.array().map(u64::from_le_bytes)
    }

    fn number(&mut self) -> Result<u64, TableError> {
        let mut number = 0u64;
        for n in 0..MAX_NUMBER {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if n == MAX_NUMBER - 1 && bits > 1 {
                break;
            }
            number |= bits << (7 * n);
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed("a number is too long"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> LayerTable {
        let frame = |n: u8| Frame {
            len: 1000 * u32::from(n),
            sha256: [n; 32],
        };
        let run = |tar_offset, pack_offset, len| TarRun {
            tar_offset,
            pack_offset,
            len,
        };
        LayerTable::checked(
            2 * FRAME as u64 + 5,
            3 * FRAME as u64,
            vec![frame(1), frame(2), frame(3)],
            vec![
                run(512, 0, 100),
                run(1536, 4096, 70_000),
                run(900_000, 77_824, 1_100_000),
            ],
        )
        .unwrap()
    }

    #[test]
    fn a_table_reads_back_as_written() {
        assert_eq!(LayerTable::decode(&table().encode()), Ok(table()));
    }

    #[test]
    fn runs_are_cut_to_the_range() {
        let runs: Vec<_> = table().runs_in(50..4100).collect();
        let runs: Vec<_> = runs
            .iter()
            .map(|r| (r.tar_offset, r.pack_offset, r.len))
            .collect();
        assert_eq!(runs, [(562, 50, 50), (1536, 4096, 4)]);
        assert_eq!(table().runs_in(100..4096).count(), 0);
        assert_eq!(table().blob_range(1..3), Some(1000..6000));
        assert_eq!(table().blob_range(1..4), None);
        assert_eq!(table().frame_len(2), 5);
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_a_bad_table_is_an_error(
            at in 0usize..1000,
            value: u8,
            cut in 0usize..1000,
            fix_sum: bool,
        ) {
            let mut bytes = table().encode();
            let len = bytes.len();
            bytes[at % len] = value;
            if value % 3 == 0 {
                bytes.truncate(cut % len);
            }
            if fix_sum && bytes.len() >= 16 {
                let sum = crc32c::crc32c(&bytes[16..]);
                bytes[12..16].copy_from_slice(&sum.to_le_bytes());
            }
            if let Ok(table) = LayerTable::decode(&bytes) {
                for run in table.runs_in(0..u64::MAX) {
                    prop_assert!(run.tar_offset + run.len <= table.tar_len());
                    prop_assert!(run.pack_offset + run.len <= table.pack_len());
                }
            }
        }
    }
}
