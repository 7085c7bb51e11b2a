//! Where two disks differ.
//!
//! Two [`ReadAt`]s go in, the ranges in which their bytes differ come out.
//! What both know to be zeros is not read, nor is what the caller knows to be
//! the same; of the rest every byte is compared.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::plan::{Content, Plan};
use crate::reader::ReadAt;

/// Bytes compared at once.
const PIECE: u64 = 1 << 20;

/// Differences are told in blocks of so many bytes.
const BLOCK: usize = 4096;

/// Blocks that follow each other and differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The blocks, multiples of 4096 but for the end of the disk.
    pub range: Range<u64>,
    /// The first byte that differs.
    pub first: u64,
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Comparison {
    /// The first differences in their order, no more than asked for.
    pub differences: Vec<Difference>,
    /// Bytes in all blocks that differ.
    pub bytes: u64,
}

/// How a comparison is made.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Most differences that are kept. The others are only counted.
    pub max: usize,
    /// How many bytes from an offset on are known to be the same; 0 if that
    /// is not known.
    pub same: &'a dyn Fn(u64) -> u64,
    /// Told how many more bytes are done, zeros not counted.
    pub progress: &'a dyn Fn(u64),
    /// Ends it with [`Interrupted`](io::ErrorKind::Interrupted) soon after it
    /// becomes true.
    pub cancel: &'a AtomicBool,
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("max", &self.max)
            .finish_non_exhaustive()
    }
}

/// Compares two disks as far as both go.
///
/// # Errors
/// One of them cannot be read.
pub fn compare(a: &dyn ReadAt, b: &dyn ReadAt, options: Options<'_>) -> io::Result<Comparison> {
    let size = a.size().min(b.size());
    let mut found = Comparison::default();
    let mut buffers = (vec![0; PIECE as usize], vec![0; PIECE as usize]);
    let mut at = 0;
    while at < size {
        if options.cancel.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let Some(data) = next(a, b, at)?.filter(|data| data.start < size) else {
            break;
        };
        at = data.start;
        let same = (options.same)(at).min(size - at);
        if same > 0 {
            (options.progress)(same);
            at += same;
            continue;
        }
        // To the next whole piece, so that blocks are not cut.
        let end = data.end.next_multiple_of(BLOCK as u64);
        let end = end.min(at / PIECE * PIECE + PIECE).min(size);
        let start = at / BLOCK as u64 * BLOCK as u64;
        let len = (end - start) as usize;
        let ((one, _), (other, _)) = (buffers.0.split_at_mut(len), buffers.1.split_at_mut(len));
        a.read_exact_at(start, one)?;
        b.read_exact_at(start, other)?;
        if one != other {
            found.add(start, one, other, options.max);
        }
        (options.progress)(end - at);
        at = end;
    }
    Ok(found)
}

/// The next run in which one of the two may have something else than zeros.
fn next(a: &dyn ReadAt, b: &dyn ReadAt, from: u64) -> io::Result<Option<Range<u64>>> {
    let runs = a.next_data(from)?.into_iter().chain(b.next_data(from)?);
    Ok(runs.min_by_key(|run| (run.start, std::cmp::Reverse(run.end))))
}

impl Comparison {
    fn add(&mut self, start: u64, one: &[u8], other: &[u8], max: usize) {
        let blocks = one.chunks(BLOCK).zip(other.chunks(BLOCK));
        for (n, (one, other)) in blocks.enumerate() {
            let Some(byte) = one.iter().zip(other).position(|(a, b)| a != b) else {
                continue;
            };
            let at = start + (n * BLOCK) as u64;
            let range = at..at + one.len() as u64;
            self.bytes += one.len() as u64;
            let kept = self.differences.len();
            match self.differences.last_mut() {
                Some(last) if last.range.end == at => last.range.end = range.end,
                _ if kept < max => self.differences.push(Difference {
                    range,
                    first: at + byte as u64,
                }),
                _ => {}
            }
        }
    }
}

/// How many bytes from `at` on are the same part of the same pack in both
/// plans, and so the same bytes; 0 if that is not known.
pub fn same_pack(a: &Plan, b: &Plan, at: u64) -> u64 {
    let part = |plan: &Plan| {
        let extent = plan.extents_in(at..at.saturating_add(1)).first()?.clone();
        let Content::Source { id, offset } = extent.content else {
            return None;
        };
        let source = plan.sources().get(id.0 as usize)?;
        let skip = at.checked_sub(extent.start)?;
        Some((
            source.kind.clone(),
            source.len,
            offset + skip,
            extent.len - skip,
        ))
    };
    match (part(a), part(b)) {
        (Some(a), Some(b)) if (&a.0, a.1, a.2) == (&b.0, b.1, b.2) => match a.0 {
            crate::plan::SourceKind::Pack { .. } => a.3.min(b.3),
            crate::plan::SourceKind::HostFile { .. } => 0,
        },
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::{Extent, PlanBuilder};
    use crate::{PlanReader, Source, SourceId, SourceKind};

    const SIZE: u64 = 3 << 20;

    fn disk(literals: &[(u64, u8, usize)]) -> PlanReader {
        let mut builder = PlanBuilder::new(Vec::new());
        for (at, byte, len) in literals {
            builder.put(Extent::literal(*at, vec![*byte; *len]));
        }
        PlanReader::new(builder.finish(SIZE).unwrap())
    }

    fn options(max: usize) -> Options<'static> {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Options {
            max,
            same: &|_| 0,
            progress: &|_| (),
            cancel: &NEVER,
        }
    }

    #[test]
    fn equal_disks_do_not_differ_whatever_they_are_made_of() {
        let a = disk(&[(0, 1, 5000), (9000, 2, 100)]);
        let b = disk(&[(0, 1, 100), (100, 1, 4900), (8990, 0, 10), (9000, 2, 100)]);
        assert_eq!(compare(&a, &b, options(9)).unwrap(), Comparison::default());
    }

    #[test]
    fn differences_are_told_in_blocks_with_their_first_byte() {
        let a = disk(&[(0, 1, 5000), (1 << 20, 7, 4096)]);
        let b = disk(&[(0, 1, 4999), (2 << 20, 7, 1)]);
        let found = compare(&a, &b, options(9)).unwrap();
        let told: Vec<_> = found
            .differences
            .iter()
            .map(|d| (d.range.start, d.range.end, d.first))
            .collect();
        let (one, two) = (1 << 20, 2 << 20);
        let expected = [
            (4096, 8192, 4999),
            (one, one + 4096, one),
            (two, two + 4096, two),
        ];
        assert_eq!(told, expected);
        assert_eq!(found.bytes, 3 * 4096);
        let few = compare(&a, &b, options(1)).unwrap();
        assert_eq!((few.differences.len(), few.bytes), (1, 3 * 4096));
    }

    #[test]
    fn what_is_the_same_part_of_a_pack_is_not_read() {
        let pack = |diff_id: &str| Source {
            kind: SourceKind::Pack {
                diff_id: diff_id.into(),
            },
            path: "/nowhere".into(),
            len: 1 << 20,
        };
        let plan = |packs: Vec<Source>, offset| {
            let id = SourceId(packs.len() as u32 - 1);
            let mut builder = PlanBuilder::new(packs);
            builder.put(Extent::source(4096, 8192, id, offset));
            builder.finish(SIZE).unwrap()
        };
        let a = plan(vec![pack("sha256:aa")], 4096);
        let b = plan(vec![pack("sha256:bb"), pack("sha256:aa")], 4096);
        assert_eq!(same_pack(&a, &b, 4096), 8192);
        assert_eq!(same_pack(&a, &b, 5000), 8192 - 904);
        assert_eq!(same_pack(&a, &b, 0), 0);
        let other = plan(vec![pack("sha256:aa")], 0);
        assert_eq!(same_pack(&a, &other, 4096), 0);
        let (one, two) = (PlanReader::new(a.clone()), PlanReader::new(b.clone()));
        let same = |at| same_pack(&a, &b, at);
        let options = Options {
            same: &same,
            ..options(1)
        };
        // The packs do not exist.
        assert_eq!(compare(&one, &two, options).unwrap(), Comparison::default());
    }

    proptest! {
        // Each compares megabytes, which takes its time without optimisation.
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn a_changed_byte_is_found(at in 0..SIZE, n in 0usize..4) {
            let base = [(0, 1, 5000), (70_000, 2, 100_000), (2 << 20, 3, 1 << 20)];
            let mut changed = base[..3].to_vec();
            changed.push((at, 9, 1));
            let a = disk(&base);
            let mut bytes = vec![0; SIZE as usize];
            a.read_exact_at(0, &mut bytes).unwrap();
            bytes[at as usize] = 9;
            let mut builder = PlanBuilder::new(Vec::new());
            // Cut somewhere, so that runs of both differ.
            let cut = (n * 777_777).min(bytes.len() - 1);
            builder.put(Extent::literal(0, bytes[..cut.max(1)].to_vec()));
            builder.put(Extent::literal(cut.max(1) as u64, bytes[cut.max(1)..].to_vec()));
            let b = PlanReader::new(builder.finish(SIZE).unwrap());
            for (a, b) in [(&a, &b), (&b, &a)] {
                let found = compare(a, b, options(9)).unwrap();
                prop_assert_eq!(found.differences.len(), 1);
                prop_assert_eq!(found.differences[0].first, at);
                prop_assert_eq!(found.bytes, 4096);
            }
        }
    }
}
