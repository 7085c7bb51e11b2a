//! Layer packs: writing them, and reading them back to check their sums.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use zerocopy::little_endian::U32;

use crate::layer::{PACK_BLOCK, Segment};
use crate::tar::Run;

/// A pack has a CRC32C for each run of this many bytes; it is also written in
/// such pieces.
pub(super) const CHUNK: usize = 1 << 20;

const BLOCK: usize = PACK_BLOCK as usize;

/// Writes a pack from its beginning to its end. Blocks that are all zeros are
/// not written; they become holes.
#[derive(Debug)]
pub(super) struct PackWriter<'a> {
    file: &'a File,
    /// What has not been written yet; starts at `base`.
    chunk: Vec<u8>,
    base: u64,
    sums: Vec<u32>,
    /// Places of the data that is to come, in reverse order.
    places: Vec<Place>,
}

/// A run of data and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pack_offset: u64,
    pub(super) len: u64,
}

impl<'a> PackWriter<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        Self {
            file,
            chunk: Vec::with_capacity(CHUNK),
            base: 0,
            sums: Vec::new(),
            places: Vec::new(),
        }
    }

    /// Gives the runs of the next file their places: `segments` is what its
    /// index says, and [`PackWriter::data`] expects the bytes. Every block of
    /// the file is in one segment at most, and each segment starts in a block
    /// of its own. Says how long the pack will be.
    pub(super) fn begin(&mut self, runs: &[Run], segments: &mut Vec<Segment>) -> Option<u64> {
        segments.clear();
        self.places.clear();
        let mut end = self.len();
        for run in runs {
            let run_end = run.offset.checked_add(run.len)?;
            let pack_offset = match segments.last_mut() {
                Some(last)
                    if run.offset / PACK_BLOCK
                        == (last.file_offset + last.len - 1) / PACK_BLOCK =>
                {
                    // In the same block; what lies between is zeros.
                    let at = last.pack_offset + (run.offset - last.file_offset);
                    last.len = run_end - last.file_offset;
                    at
                }
                _ => {
                    let block = end.checked_next_multiple_of(PACK_BLOCK)?;
                    let pack_offset = block.checked_add(run.offset % PACK_BLOCK)?;
                    segments.push(Segment {
                        file_offset: run.offset,
                        pack_offset,
                        len: run.len,
                    });
                    pack_offset
                }
            };
            end = pack_offset.checked_add(run.len)?;
            let len = run.len;
            self.places.push(Place { pack_offset, len });
        }
        self.places.reverse();
        Some(end)
    }

    /// Where the data of the file goes, in its order.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> + '_ {
        self.places.iter().rev().copied()
    }

    /// Writes the next bytes of the file to their places.
    pub(super) fn data(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty()
            && let Some(mut place) = self.places.pop()
        {
            let len = usize::try_from(place.len)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            let (now, rest) = bytes.split_at(len);
            self.pad_to(place.pack_offset)?;
            self.write(now)?;
            bytes = rest;
            place.pack_offset += len as u64;
            place.len -= len as u64;
            if place.len > 0 {
                self.places.push(place);
            }
        }
        Ok(())
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.base + self.chunk.len() as u64
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = CHUNK - self.chunk.len();
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.chunk.extend_from_slice(now);
            bytes = rest;
            if self.chunk.len() == CHUNK {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Appends zeros up to `len`, which is at most two blocks ahead.
    fn pad_to(&mut self, len: u64) -> io::Result<()> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        while self.len() < len {
            let missing = usize::try_from(len - self.len())
                .unwrap_or(BLOCK)
                .min(BLOCK);
            self.write(ZEROS.get(..missing).unwrap_or(&ZEROS))?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sums.push(crc32c::crc32c(&self.chunk));
        let mut at = 0;
        let zero: Vec<bool> = self.chunk.chunks(BLOCK).map(is_zero).collect();
        for run in zero.chunk_by(|a, b| a == b) {
            let end = (at + run.len() * BLOCK).min(self.chunk.len());
            if let (Some(false), Some(bytes)) = (run.first(), self.chunk.get(at..end)) {
                self.file.write_all_at(bytes, self.base + at as u64)?;
            }
            at = end;
        }
        self.base += self.chunk.len() as u64;
        self.chunk.clear();
        Ok(())
    }

    /// Pads to a whole block and writes what is left. Says the pack's length
    /// and the sums of its chunks.
    pub(super) fn finish(mut self) -> io::Result<(u64, Vec<u32>)> {
        self.pad_to(self.len().next_multiple_of(PACK_BLOCK))?;
        if !self.chunk.is_empty() {
            self.flush()?;
        }
        // A hole at the end is no part of the file yet.
        self.file.set_len(self.base)?;
        Ok((self.base, self.sums))
    }
}

fn is_zero(block: &[u8]) -> bool {
    // In pieces that vectorise; most blocks end at the first.
    block
        .chunks(128)
        .all(|piece| piece.iter().fold(0, |all, &byte| all | byte) == 0)
}

/// A pack or skeleton that is not what the index says.
#[derive(Debug, thiserror::Error)]
pub(super) enum PackError {
    #[error("its pack has {actual} bytes instead of {expected}")]
    Length { expected: u64, actual: u64 },
    #[error("its pack is damaged between bytes {start} and {end}")]
    Sum { start: u64, end: u64 },
    #[error("its pack cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("its skeleton is unusable: {0}")]
    Skeleton(io::Error),
}

/// Reads a whole pack and checks the sums of its chunks. `progress` is told
/// the number of bytes read since it was last called.
pub(super) fn check(
    file: &File,
    expected: u64,
    sums: &[U32],
    mut progress: impl FnMut(u64),
) -> Result<(), PackError> {
    check_length(file, expected)?;
    let mut chunk = vec![0; CHUNK];
    let mut start = 0;
    for &sum in sums {
        let end = expected.min(start + CHUNK as u64);
        let len = usize::try_from(end - start).unwrap_or(CHUNK);
        let bytes = chunk.get_mut(..len).unwrap_or_default();
        file.read_exact_at(bytes, start)?;
        if sum != crc32c::crc32c(bytes) {
            return Err(PackError::Sum { start, end });
        }
        progress(end - start);
        start = end;
    }
    Ok(())
}

/// Checks the length of a pack.
pub(super) fn check_length(file: &File, expected: u64) -> Result<(), PackError> {
    let actual = file.metadata()?.len();
    if actual != expected {
        return Err(PackError::Length { expected, actual });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(files: &[(&[Run], &[u8])]) -> (Vec<Vec<Segment>>, Vec<u8>) {
        let file = tempfile::tempfile().unwrap();
        let mut pack = PackWriter::new(&file);
        let mut all = Vec::new();
        for (runs, data) in files {
            let mut segments = Vec::new();
            pack.begin(runs, &mut segments).unwrap();
            for piece in data.chunks(7) {
                pack.data(piece).unwrap();
            }
            all.push(segments);
        }
        let (len, _) = pack.finish().unwrap();
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        (all, bytes)
    }

    fn segment(file_offset: u64, pack_offset: u64, len: u64) -> Segment {
        Segment {
            file_offset,
            pack_offset,
            len,
        }
    }

    #[test]
    fn files_start_on_blocks_and_sparse_data_keeps_its_place_in_the_block() {
        let run = |offset, len| Run { offset, len };
        let (segments, bytes) = written(&[
            (&[run(0, 3)], b"abc"),
            (&[], b""),
            // Two runs in one block, one in the next, one far away.
            (
                &[run(10, 2), run(20, 2), run(4096, 1), run(81_920 + 5, 3)],
                b"ddeefggg",
            ),
        ]);
        assert_eq!(segments[0], [segment(0, 0, 3)]);
        assert_eq!(segments[1], []);
        assert_eq!(
            segments[2],
            [
                segment(10, 4096 + 10, 12),
                segment(4096, 8192, 1),
                segment(81_925, 12_288 + 5, 3)
            ]
        );
        assert_eq!(bytes.len(), 16_384);
        assert_eq!(&bytes[4106..4118], b"dd\0\0\0\0\0\0\0\0ee");
        assert_eq!(&bytes[12_288..12_297], b"\0\0\0\0\0ggg\0");
    }
}
