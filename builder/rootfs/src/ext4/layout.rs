//! Where contents go in usable space, and how large a volume must be.
//!
//! After the journal come the packs, each as one run in which the blocks that
//! no file uses stay free, then directories, attributes, contents from
//! elsewhere and extent trees, one block after the other. Positions count
//! from the end of the journal and so do not depend on the volume's size.

use super::contents::{Place, Run};
use super::extents::{self, FileExtent};
use super::geometry::{Geometry, InodeDemand, Space};

/// Blocks in the order of usable space.
#[derive(Debug)]
pub(super) struct Layout {
    /// Sorted by inode and block.
    pub(super) runs: Vec<Run>,
    /// Indexes of the runs that show packs, in the order of the packs.
    pub(super) packs: Vec<u32>,
    /// Free blocks between the used ones, as position and length, in order.
    gaps: Vec<(u32, u32)>,
    body_blocks: u32,
    xattr_blocks: u32,
    /// Where the body starts.
    pub(super) body: u32,
    /// Where the attribute blocks start.
    pub(super) xattrs: u32,
    /// The end of all but the extent trees.
    pub(super) end: u32,
    /// Blocks in use before `end`.
    pub(super) used: u32,
}

/// Contents need more blocks than any volume has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Positions end here, far enough from 2^32 to add a journal and trees.
const MAX_BLOCKS: u64 = 0xf000_0000;

impl Layout {
    /// Takes runs sorted by inode and block, and the number of blocks of
    /// directories and of attributes.
    ///
    /// A block of a pack has one place only: where two runs show it, the
    /// second becomes dense.
    pub(super) fn new(
        mut runs: Vec<Run>,
        body_blocks: u32,
        xattr_blocks: u32,
    ) -> Result<Self, TooLarge> {
        let mut packs = pack_order(&runs);
        let mut split = Vec::new();
        let mut taken = (0u32, 0u32);
        for &index in &packs {
            let run = &mut runs[index as usize];
            let Place::Pack { source, block } = run.place else {
                continue;
            };
            if source != taken.0 {
                taken = (source, 0);
            }
            let end = block + run.count;
            let twice = taken.1.saturating_sub(block).min(run.count);
            taken.1 = taken.1.max(end);
            if twice == run.count {
                run.place = Place::Dense;
            } else if twice > 0 {
                split.push(Run {
                    count: twice,
                    place: Place::Dense,
                    ..*run
                });
                run.logical += twice;
                run.count -= twice;
                let block = block + twice;
                run.place = Place::Pack { source, block };
            }
        }
        if split.is_empty() {
            packs.retain(|&i| matches!(runs[i as usize].place, Place::Pack { .. }));
        } else {
            runs.append(&mut split);
            runs.sort_unstable_by_key(|run| (run.ino, run.logical));
            packs = pack_order(&runs);
        }
        let contents: u64 = runs
            .iter()
            .filter(|run| !matches!(run.place, Place::Body(_)))
            .map(|run| u64::from(run.count))
            .sum();
        let used = contents + u64::from(body_blocks) + u64::from(xattr_blocks);
        if used > MAX_BLOCKS {
            return Err(TooLarge);
        }
        Ok(Self {
            runs,
            packs,
            gaps: Vec::new(),
            body_blocks,
            xattr_blocks,
            body: 0,
            xattrs: 0,
            end: 0,
            used: used as u32,
        })
    }

    /// Gives every run its position. With `keep_gaps`, blocks of a pack that
    /// no file uses stay free between those that are used; says whether
    /// there is so much room at all.
    pub(super) fn place(&mut self, keep_gaps: bool) -> bool {
        self.gaps.clear();
        let mut at = 0u64;
        // The pack and the block of it that comes next.
        let mut next: Option<(u32, u32)> = None;
        for &index in &self.packs {
            let run = &mut self.runs[index as usize];
            let Place::Pack { source, block } = run.place else {
                continue;
            };
            if keep_gaps
                && let Some((last, end)) = next
                && last == source
                && block > end
            {
                let gap = block - end;
                if at + u64::from(gap) > MAX_BLOCKS {
                    return false;
                }
                self.gaps.push((at as u32, gap));
                at += u64::from(gap);
            }
            run.at = at as u32;
            at += u64::from(run.count);
            next = Some((source, block + run.count));
        }
        if at + u64::from(self.used) > MAX_BLOCKS {
            return !keep_gaps && u64::from(self.used) <= MAX_BLOCKS;
        }
        self.body = at as u32;
        self.xattrs = self.body + self.body_blocks;
        let mut at = self.xattrs + self.xattr_blocks;
        for run in &mut self.runs {
            match run.place {
                Place::Pack { .. } => {}
                Place::Body(block) => run.at = self.body + block,
                Place::Dense => {
                    run.at = at;
                    at += run.count;
                }
            }
        }
        self.end = at;
        true
    }

    /// The free runs of usable space before `end`.
    pub(super) fn gaps(&self) -> &[(u32, u32)] {
        &self.gaps
    }

    /// Blocks of all extent trees, the journal's included.
    pub(super) fn tree_blocks(&self, journal: u32, space: &Space) -> u32 {
        let mut list: Vec<FileExtent> = Vec::new();
        extents::append(&mut list, 0, 0, journal, space);
        let mut total = extents::tree_blocks(list.len());
        for runs in self.runs.chunk_by(|a, b| a.ino == b.ino) {
            list.clear();
            for run in runs {
                extents::append(&mut list, run.logical, journal + run.at, run.count, space);
            }
            total += extents::tree_blocks(list.len());
        }
        total
    }

    /// The volume that makes the most of `blocks` blocks, if all finds room.
    pub(super) fn fit(&self, blocks: u64, journal: u32, demand: &InodeDemand) -> Option<Fit> {
        let geometry = Geometry::new(blocks, demand)?;
        let space = Space::new(&geometry);
        let end = u64::from(journal) + u64::from(self.end);
        if end > u64::from(space.len()) {
            return None;
        }
        let trees = self.tree_blocks(journal, &space);
        (end + u64::from(trees) <= u64::from(space.len())).then_some(Fit {
            geometry,
            space,
            journal,
            trees,
        })
    }

    /// Blocks that the guest has for its ordinary users.
    pub(super) fn available(&self, fit: &Fit) -> u64 {
        let used = u64::from(fit.journal) + u64::from(self.used) + u64::from(fit.trees);
        let reserved = not_for_guests(u64::from(fit.geometry.blocks));
        u64::from(fit.space.len()).saturating_sub(used + reserved)
    }

    /// The fewest blocks in which everything (without gaps) finds room and
    /// `free` bytes' worth of blocks are left for the guest.
    pub(super) fn smallest(&mut self, goal: Goal, demand: &InodeDemand) -> Result<u64, TooLarge> {
        self.place(false);
        let groups = demand.least().div_ceil(u64::from(super::geometry::GROUP));
        let mut blocks = (u64::from(self.used) + goal.free())
            .max((groups.max(1) - 1) * u64::from(super::geometry::GROUP) + 1)
            .max(super::journal::MIN_BLOCKS);
        // What is needed grows with the size, so this ends at the smallest
        // size that holds what it needs.
        loop {
            match self.missing(blocks, goal, demand) {
                Some(0) => break,
                Some(missing) => blocks += missing,
                None => blocks += 1,
            }
            if blocks > u64::from(u32::MAX) {
                return Err(TooLarge);
            }
        }
        // But for rounding to whole blocks of inode tables.
        for _ in 0..MAX_STEPS_BACK {
            let less = match Geometry::new(blocks - 1, demand) {
                Some(geometry) => u64::from(geometry.blocks),
                None => break,
            };
            if less < super::journal::MIN_BLOCKS || self.missing(less, goal, demand) != Some(0) {
                break;
            }
            blocks = less;
        }
        Ok(blocks)
    }

    /// How many blocks a volume of this size is short of; none if it cannot
    /// exist at this very size.
    fn missing(&self, blocks: u64, goal: Goal, demand: &InodeDemand) -> Option<u64> {
        let geometry = Geometry::new(blocks, demand).filter(|g| u64::from(g.blocks) == blocks)?;
        let space = Space::new(&geometry);
        let journal = goal.journal(blocks);
        let trees = self.tree_blocks(journal, &space);
        let reserved = match goal {
            Goal::Bare => 0,
            Goal::Free(_) => not_for_guests(blocks),
        };
        let need =
            u64::from(journal) + u64::from(self.used) + u64::from(trees) + goal.free() + reserved;
        Some(need.saturating_sub(u64::from(space.len())))
    }
}

/// Enough for rounding; each step is a layout of its own.
const MAX_STEPS_BACK: u32 = 64;

/// What the smallest size is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Goal {
    /// The contents and the smallest journal.
    Bare,
    /// So many blocks available to the guest, and a journal as large as the
    /// size asks for.
    Free(u64),
}

impl Goal {
    fn free(self) -> u64 {
        match self {
            Self::Bare => 0,
            Self::Free(blocks) => blocks,
        }
    }

    fn journal(self, blocks: u64) -> u32 {
        match self {
            Self::Bare => super::journal::smallest(blocks),
            Self::Free(_) => super::journal::default(blocks),
        }
    }
}

/// Everything about the size of a volume.
#[derive(Debug)]
pub(super) struct Fit {
    pub(super) geometry: Geometry,
    pub(super) space: Space,
    /// Blocks of the journal.
    pub(super) journal: u32,
    /// Blocks of extent trees.
    pub(super) trees: u32,
}

/// Blocks kept for root: one in a hundred. Rounded up, so that the kernel's
/// percentage is not 0 when it grows the file system.
pub(super) fn root_blocks(blocks: u64) -> u64 {
    blocks.div_ceil(100)
}

/// Free blocks that `df` does not count as available: those for root, and
/// those that the kernel keeps for itself (`ext4_set_resv_clusters`).
pub(super) fn not_for_guests(blocks: u64) -> u64 {
    root_blocks(blocks) + (blocks / 50).min(4096)
}

fn pack_order(runs: &[Run]) -> Vec<u32> {
    let mut order: Vec<u32> = (0u32..)
        .zip(runs)
        .filter(|(_, run)| matches!(run.place, Place::Pack { .. }))
        .map(|(index, _)| index)
        .collect();
    order.sort_unstable_by_key(|&index| match runs[index as usize].place {
        Place::Pack { source, block } => (source, block, index),
        _ => (u32::MAX, u32::MAX, index),
    });
    order
}
