//! Collecting literal bytes: metadata blocks without their zeros, and the
//! volume's extents.

use bootwright_disk::{Content, Extent};
use bytes::Bytes;

use super::geometry::{BLOCK, Space};

/// A block being made.
pub(super) type Block = [u8; BLOCK as usize];

/// An empty block.
pub(super) const ZERO: Block = [0; BLOCK as usize];

/// Runs of zeros of at least so many bytes are not stored. About the cost of
/// an extent more.
const ZERO_RUN: usize = 64;

/// Metadata blocks that follow each other in usable space. Most directories
/// fill a small part of their block, so zeros are left out.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    bytes: Vec<u8>,
    chunks: Vec<Chunk>,
    count: u32,
}

/// Bytes without long runs of zeros.
#[derive(Debug)]
struct Chunk {
    /// Offset from the start of the first block.
    at: u64,
    /// Place in [`Blocks::bytes`].
    from: usize,
    len: usize,
}

impl Blocks {
    /// How many blocks there are.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Adds a block.
    pub(super) fn push(&mut self, block: &Block) {
        let base = u64::from(self.count) * BLOCK;
        self.count += 1;
        let mut start = None;
        let mut zeros = 0;
        // By words, as most blocks are mostly empty.
        for (i, word) in block.chunks_exact(8).enumerate() {
            let at = i * 8;
            if word == [0; 8] {
                zeros += 8;
                if let (Some(from), ZERO_RUN..) = (start, zeros) {
                    self.store(base, &block[from..at + 8 - zeros], from);
                    start = None;
                }
            } else {
                zeros = 0;
                start.get_or_insert(at);
            }
        }
        if let Some(from) = start {
            self.store(base, &block[from..block.len() - zeros], from);
        }
    }

    fn store(&mut self, base: u64, bytes: &[u8], offset: usize) {
        let at = base + offset as u64;
        let from = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        match self.chunks.last_mut() {
            Some(last) if last.at + last.len as u64 == at => last.len += bytes.len(),
            _ => self.chunks.push(Chunk {
                at,
                from,
                len: bytes.len(),
            }),
        }
    }

    /// Puts the blocks where usable space has its block number `first`.
    pub(super) fn emit(self, first: u32, space: &Space, out: &mut Extents) {
        let bytes = Bytes::from(self.bytes);
        let mut chunks = self.chunks.iter().peekable();
        let mut done = 0;
        for (block, count) in space.pieces(first, self.count) {
            let end = done + u64::from(count) * BLOCK;
            let target = u64::from(block) * BLOCK;
            while let Some(chunk) = chunks.peek() {
                let from = chunk.at.max(done);
                let to = (chunk.at + chunk.len as u64).min(end);
                if from < to {
                    let skip = chunk.from + (from - chunk.at) as usize;
                    let part = bytes.slice(skip..skip + (to - from) as usize);
                    out.put(Extent::literal(target + (from - done), part));
                }
                if chunk.at + chunk.len as u64 > end {
                    break;
                }
                chunks.next();
            }
            done = end;
        }
    }
}

/// The extents of the volume, joined where they come in order.
#[derive(Debug, Default)]
pub(super) struct Extents {
    list: Vec<Extent>,
    /// Bytes of metadata.
    pub(super) literal: u64,
}

impl Extents {
    /// Adds an extent; one that continues the last one's source is joined
    /// with it.
    pub(super) fn put(&mut self, extent: Extent) {
        if let Content::Literal(bytes) = &extent.content {
            self.literal += bytes.len() as u64;
        } else if let Some(last) = self.list.last_mut()
            && let Content::Source { id, offset } = last.content
            && let Content::Source {
                id: next_id,
                offset: next,
            } = extent.content
            && id == next_id
            && last.end() == extent.start
            && offset + last.len == next
        {
            last.len += extent.len;
            return;
        }
        self.list.push(extent);
    }

    /// Adds `bytes` at a byte of the volume, without zeros at their end.
    pub(super) fn put_bytes(&mut self, start: u64, bytes: Bytes) {
        let len = trimmed(&bytes).len();
        if len > 0 {
            self.put(Extent::literal(start, bytes.slice(..len)));
        }
    }

    /// Adds a copy of `block`, without zeros at its end.
    pub(super) fn put_block(&mut self, number: u32, block: &Block) {
        let bytes = Bytes::copy_from_slice(trimmed(block));
        self.put_bytes(u64::from(number) * BLOCK, bytes);
    }

    /// All extents in the order of the volume.
    pub(super) fn finish(mut self) -> Vec<Extent> {
        self.list.sort_by_key(|extent| extent.start);
        self.list.shrink_to_fit();
        self.list
    }
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    let len = bytes.iter().rposition(|&b| b != 0).map_or(0, |at| at + 1);
    &bytes[..len]
}

#[cfg(test)]
mod tests {
    use super::super::geometry::{Geometry, InodeDemand};
    use super::*;

    #[test]
    fn blocks_keep_all_but_long_zeros_across_reserved_blocks() {
        let demand = InodeDemand {
            used: 11,
            spare: 0,
            bytes_per_inode: 16384,
            blocks: 0,
        };
        let geometry = Geometry::new(100_000, &demand).unwrap();
        let space = Space::new(&geometry);
        // Where group 1's backup cuts the space.
        let cut = space
            .pieces(0, u32::MAX)
            .next()
            .map(|(_, len)| len)
            .unwrap();
        let mut blocks = Blocks::default();
        let mut want = Vec::new();
        for n in 0..6u8 {
            let mut block = ZERO;
            block[0] = n + 1;
            block[200 + usize::from(n) * 70..][..90].fill(9);
            block[4095] = n + 1;
            blocks.push(&block);
            want.push(block);
        }
        assert_eq!(blocks.count(), 6);
        let mut out = Extents::default();
        blocks.emit(cut - 3, &space, &mut out);
        assert!(out.literal < 6 * 120, "{}", out.literal);
        let mut seen = vec![ZERO; 6];
        for extent in out.finish() {
            let Content::Literal(bytes) = extent.content else {
                panic!("metadata is literal");
            };
            for (i, byte) in bytes.iter().enumerate() {
                let at = extent.start + i as u64;
                let block = (at / BLOCK) as u32;
                let index = (0..6)
                    .position(|n| space.block(cut - 3 + n) == block)
                    .unwrap();
                seen[index][(at % BLOCK) as usize] = *byte;
            }
        }
        assert_eq!(seen, want);
    }
}
