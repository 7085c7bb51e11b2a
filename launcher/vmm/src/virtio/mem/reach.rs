//! What of the region the guest can reach.
//!
//! A host keeps tables for all memory that a guest can reach, whether it is
//! used or not, so the region is shown in pieces: each appears with the first of
//! its blocks that is plugged and goes with the last.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::BLOCK;
use super::blocks::{Blocks, State};
use crate::memory::Range;

/// The smallest piece, in bytes: what memory comes in on a stock guest.
const SMALLEST: u64 = 128 << 20;

/// Most pieces of a region: hosts count them in some hundreds.
const MOST: u64 = 128;

/// Shows a guest its memory.
pub trait Slots: fmt::Debug + Send + Sync {
    /// Lets the guest reach the piece `range`, the `number`th of the region, or
    /// not any more.
    ///
    /// # Errors
    /// The host refuses.
    fn set(&self, number: u32, range: Range, reachable: bool) -> io::Result<()>;
}

/// The pieces of a region.
#[derive(Debug)]
pub(super) struct Reach {
    region: Range,
    piece: u64,
    reachable: Vec<bool>,
    slots: Option<Arc<dyn Slots>>,
}

impl Reach {
    /// Those of `region`; the guest reaches none.
    pub(super) fn new(region: Range) -> Self {
        let piece = (region.len / MOST).next_power_of_two().max(SMALLEST);
        Self {
            region,
            piece,
            reachable: vec![false; region.len.div_ceil(piece) as usize],
            slots: None,
        }
    }

    /// Goes to another machine, or to none: the guest reaches nothing of it.
    pub(super) fn move_to(&mut self, slots: Option<Arc<dyn Slots>>) {
        self.slots = slots;
        self.reachable.fill(false);
    }

    /// Shows all pieces that `blocks` are in.
    pub(super) fn show(&mut self, blocks: std::ops::Range<u64>) -> io::Result<()> {
        for number in self.pieces(blocks) {
            self.set(number, true)?;
        }
        Ok(())
    }

    /// Hides those pieces of `blocks` that have nothing plugged in `all`.
    pub(super) fn hide(&mut self, blocks: std::ops::Range<u64>, all: &Blocks) -> io::Result<()> {
        for number in self.pieces(blocks) {
            let Range { start, len } = self.range(number);
            let first = (start - self.region.start) / BLOCK;
            if all.state(first..first + len / BLOCK) == State::Unplugged {
                self.set(number, false)?;
            }
        }
        Ok(())
    }

    fn pieces(&self, blocks: std::ops::Range<u64>) -> std::ops::Range<usize> {
        let blocks_a_piece = self.piece / BLOCK;
        let end = blocks.end.div_ceil(blocks_a_piece) as usize;
        (blocks.start / blocks_a_piece) as usize..end.min(self.reachable.len())
    }

    fn range(&self, number: usize) -> Range {
        let offset = number as u64 * self.piece;
        Range {
            start: self.region.start + offset,
            len: self.piece.min(self.region.len - offset),
        }
    }

    fn set(&mut self, number: usize, reachable: bool) -> io::Result<()> {
        let range = self.range(number);
        let Some(state) = self.reachable.get_mut(number) else {
            return Ok(());
        };
        if *state != reachable {
            if let Some(slots) = &self.slots {
                slots.set(number as u32, range, reachable)?;
            }
            *state = reachable;
        }
        Ok(())
    }
}
