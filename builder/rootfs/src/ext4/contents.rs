//! From a file's content in bytes to runs of blocks, and from placed runs to
//! the volume's extents.
//!
//! A [`Run`] says which blocks of a file need room, and whether they show
//! whole blocks of a pack and can so be placed with the rest of it. Bytes are
//! looked at again only when the runs have their place.

use bootwright_disk::{Content, Extent, Source, SourceId, SourceKind};

use super::blocks::Extents;
use super::geometry::{BLOCK, Space};
use crate::tree::FileContent;

/// A run of an inode's blocks that need room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The inode; runs are sorted by it, then by `logical`.
    pub(super) ino: u32,
    /// First block in the file.
    pub(super) logical: u32,
    /// How many blocks, more than 0.
    pub(super) count: u32,
    /// Where the blocks go.
    pub(super) place: Place,
    /// Number of the first block in usable space after the journal.
    pub(super) at: u32,
}

/// What decides where a [`Run`] goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Blocks of a pack from this one on; they go where the pack goes.
    Pack { source: u32, block: u32 },
    /// Directory blocks and link targets, from this one of theirs on.
    Body(u32),
    /// Contents from elsewhere.
    Dense,
}

impl Run {
    fn end(&self) -> u32 {
        self.logical + self.count
    }
}

/// The largest file in bytes: 2^32 - 1 blocks.
pub(super) const MAX_FILE: u64 = u32::MAX as u64 * BLOCK;

/// Whether the extents are sorted, do not overlap, lie inside the file and
/// have the content that they claim.
pub(super) fn is_sound(file: &FileContent, sources: &[Source]) -> bool {
    let mut end = 0;
    file.extents.iter().all(|extent| {
        let start = extent.start;
        let Some(next) = start.checked_add(extent.len) else {
            return false;
        };
        let ordered = start >= end && extent.len > 0 && next <= file.size;
        end = next;
        ordered
            && match &extent.content {
                Content::Literal(bytes) => bytes.len() as u64 == extent.len,
                Content::Source { id, offset } => {
                    sources.get(id.0 as usize).is_some_and(|source| {
                        offset
                            .checked_add(extent.len)
                            .is_some_and(|end| end <= source.len)
                    })
                }
            }
    })
}

/// Adds the runs of a sound file of at most [`MAX_FILE`] bytes.
pub(super) fn add_runs(ino: u32, file: &FileContent, sources: &[Source], runs: &mut Vec<Run>) {
    let first_run = runs.len();
    for extent in &file.extents {
        let mut logical = (extent.start / BLOCK) as u32;
        let end = extent.end().div_ceil(BLOCK) as u32;
        let mut place = place(extent, sources);
        if let Some(last) = runs[first_run..].last_mut()
            && last.end() > logical
        {
            // One block shows the end of one extent and the start of another.
            if !continues(last, logical, place) {
                last.count -= 1;
                let empty = last.count == 0;
                let shared = Run {
                    ino,
                    logical,
                    count: 1,
                    place: Place::Dense,
                    at: 0,
                };
                if empty {
                    runs.pop();
                }
                push(runs, first_run, shared);
            }
            logical += 1;
            if let Place::Pack { block, .. } = &mut place {
                *block += 1;
            }
        }
        if logical < end {
            let run = Run {
                ino,
                logical,
                count: end - logical,
                place,
                at: 0,
            };
            push(runs, first_run, run);
        }
    }
}

fn push(runs: &mut Vec<Run>, first: usize, run: Run) {
    match runs[first..].last_mut() {
        Some(last) if last.end() == run.logical && continues(last, run.logical, run.place) => {
            last.count += run.count;
        }
        _ => runs.push(run),
    }
}

/// Whether block `logical` at `place` is what `run` has or would have there.
fn continues(run: &Run, logical: u32, place: Place) -> bool {
    match (run.place, place) {
        (Place::Dense, Place::Dense) => true,
        (
            Place::Pack { source, block },
            Place::Pack {
                source: next_source,
                block: next,
            },
        ) => source == next_source && block.checked_add(logical - run.logical) == Some(next),
        _ => false,
    }
}

fn place(extent: &Extent, sources: &[Source]) -> Place {
    if let Content::Source { id, offset } = extent.content
        && let Some(source) = sources.get(id.0 as usize)
        && matches!(source.kind, SourceKind::Pack { .. })
        && offset % BLOCK == extent.start % BLOCK
        // So that block numbers fit; no pack is that large.
        && source.len < MAX_FILE
    {
        return Place::Pack {
            source: id.0,
            block: (offset / BLOCK) as u32,
        };
    }
    Place::Dense
}

/// Puts the bytes of a run's blocks at their place. `start` is the run's
/// first block in usable space.
pub(super) fn emit(
    file: &FileContent,
    sources: &[Source],
    run: &Run,
    start: u32,
    space: &Space,
    out: &mut Extents,
) {
    let mut from = u64::from(run.logical) * BLOCK;
    let mut next = file.extents.partition_point(|e| e.end() <= from);
    for (block, count) in space.pieces(start, run.count) {
        let to = from + u64::from(count) * BLOCK;
        let target = u64::from(block) * BLOCK;
        while let Some(extent) = file.extents.get(next) {
            if extent.start >= to {
                break;
            }
            let padded = with_padding(extent, file.size, sources);
            if let Some(mut part) = padded.slice(from..to) {
                part.start = target + (part.start - from);
                out.put(part);
            }
            if padded.end() > to {
                break;
            }
            next += 1;
        }
        from = to;
    }
}

/// Contents in a pack are padded with zeros to whole blocks, so a file's last
/// block can show the pack's whole block. Neighbours in the pack become
/// neighbours in the volume, and their extents one.
fn with_padding(extent: &Extent, size: u64, sources: &[Source]) -> Extent {
    let mut extent = extent.clone();
    if extent.end() == size
        && let Place::Pack { source, .. } = place(&extent, sources)
        && let Content::Source { offset, .. } = extent.content
    {
        let len = (offset + extent.len).next_multiple_of(BLOCK) - offset;
        if sources
            .get(SourceId(source).0 as usize)
            .is_some_and(|s| offset + len <= s.len)
        {
            extent.len = len;
        }
    }
    extent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Vec<Source> {
        vec![Source {
            kind: SourceKind::Pack {
                diff_id: "sha256:00".into(),
            },
            path: "pack".into(),
            len: 100 * BLOCK,
        }]
    }

    fn runs(size: u64, extents: Vec<Extent>) -> Vec<(u32, u32, Place)> {
        let file = FileContent { size, extents };
        assert!(is_sound(&file, &sources()));
        let mut runs = Vec::new();
        add_runs(12, &file, &sources(), &mut runs);
        runs.iter().map(|r| (r.logical, r.count, r.place)).collect()
    }

    fn pack(block: u32) -> Place {
        Place::Pack { source: 0, block }
    }

    #[test]
    fn extents_become_runs_of_blocks() {
        let source = |start, len, offset| Extent::source(start, len, SourceId(0), offset);
        let literal = |start, len: usize| Extent::literal(start, vec![1; len]);
        // A file of one extent, also where it starts inside a block.
        assert_eq!(runs(5000, vec![source(0, 5000, 8192)]), [(0, 2, pack(2))]);
        assert_eq!(runs(5000, vec![source(100, 4900, 8292)]), [(0, 2, pack(2))]);
        // Not congruent with the pack's blocks.
        assert_eq!(
            runs(5000, vec![source(0, 5000, 8193)]),
            [(0, 2, Place::Dense)]
        );
        // Holes between blocks and inside one block of the pack.
        assert_eq!(
            runs(
                40_000,
                vec![
                    source(0, 10, 0),
                    source(20, 5000, 20),
                    source(20_480, 1, 8192)
                ]
            ),
            [(0, 2, pack(0)), (5, 1, pack(2))]
        );
        // A block that shows two things belongs to neither.
        assert_eq!(
            runs(
                5 * BLOCK,
                vec![
                    source(0, 5000, 0),
                    literal(5000, 3),
                    source(5003, 10_000, 9099)
                ]
            ),
            [(0, 1, pack(0)), (1, 1, Place::Dense), (2, 2, pack(3))]
        );
        assert_eq!(
            runs(
                4096,
                vec![literal(0, 10), literal(20, 10), source(50, 10, 50)]
            ),
            [(0, 1, Place::Dense)]
        );
    }

    #[test]
    fn unsound_extents_are_found() {
        let cases = [
            (10, vec![Extent::source(0, 11, SourceId(0), 0)]),
            (10, vec![Extent::source(0, 10, SourceId(1), 0)]),
            (
                10,
                vec![Extent::source(0, 10, SourceId(0), 100 * BLOCK - 9)],
            ),
            (10, vec![Extent::source(u64::MAX, 10, SourceId(0), 0)]),
            (10, vec![Extent::source(0, 10, SourceId(0), u64::MAX)]),
            (10, vec![Extent::source(0, 0, SourceId(0), 0)]),
            (
                10,
                vec![
                    Extent::source(0, 2, SourceId(0), 0),
                    Extent::source(1, 2, SourceId(0), 0),
                ],
            ),
        ];
        for (size, extents) in cases {
            let file = FileContent { size, extents };
            assert!(!is_sound(&file, &sources()), "{file:?}");
        }
    }
}
