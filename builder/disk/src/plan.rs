//! The disk plan: a sorted list of extents over literals and files.
//!
//! Formatters produce extents relative to the start of their volume;
//! [`PlanBuilder`] places the volumes on a disk, checks that nothing overlaps
//! or sticks out, and yields the [`Plan`] that sinks, servers and the virtual
//! machine monitor read.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

/// What one of a plan's files is; decides how far it can be trusted to stay
/// as it was when the plan was made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// A layer pack of the store, named by the layer's diff id
    /// (`sha256:…`). Packs never change once they carry their name.
    Pack {
        /// The diff id, as in the image's config.
        diff_id: String,
    },
    /// A file of the host. It must still be the same file when it is read:
    /// same device, inode, size and modification time.
    HostFile {
        /// `st_dev` when the plan was made.
        device: u64,
        /// `st_ino` when the plan was made.
        inode: u64,
        /// Modification time in nanoseconds since 1970 when the plan was made.
        mtime_ns: i128,
    },
}

impl SourceKind {
    /// Whether nobody ever changes the file.
    pub fn is_fixed(&self) -> bool {
        matches!(self, Self::Pack { .. })
    }
}

/// A file that extents of a plan point into.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// What the file is.
    pub kind: SourceKind,
    /// Where the file lies on the host.
    pub path: PathBuf,
    /// The file's length in bytes; extents must lie inside it.
    pub len: u64,
}

/// Names a [`Source`] by its place in the plan's table of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub u32);

/// What the bytes of an [`Extent`] are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// These bytes; exactly as many as the extent is long.
    Literal(Bytes),
    /// A range of a source file that starts at `offset` (bytes).
    Source {
        /// The file.
        id: SourceId,
        /// Byte offset in the file.
        offset: u64,
    },
}

/// A run of bytes in some address space (a disk, a volume or a file) and what
/// they are. Bytes that no extent covers read as zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// First byte in the address space. No alignment is implied.
    pub start: u64,
    /// Length in bytes, greater than 0.
    pub len: u64,
    /// What the bytes are.
    pub content: Content,
}

impl Extent {
    /// An extent of literal bytes at `start`.
    pub fn literal(start: u64, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            start,
            len: bytes.len() as u64,
            content: Content::Literal(bytes),
        }
    }

    /// An extent of `len` bytes at `start` that shows `id` from `offset` on.
    pub fn source(start: u64, len: u64, id: SourceId, offset: u64) -> Self {
        Self {
            start,
            len,
            content: Content::Source { id, offset },
        }
    }

    /// The first byte after the extent. Extents of a [`Plan`] never overflow;
    /// for others this saturates.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// The part of this extent inside `range`, if any, with its content cut
    /// to match.
    pub fn slice(&self, range: std::ops::Range<u64>) -> Option<Extent> {
        let start = self.start.max(range.start);
        let end = self.end().min(range.end);
        if start >= end {
            return None;
        }
        let skip = start - self.start;
        let len = end - start;
        let content = match &self.content {
            Content::Literal(bytes) => {
                Content::Literal(bytes.slice(skip as usize..(skip + len) as usize))
            }
            Content::Source { id, offset } => Content::Source {
                id: *id,
                offset: offset + skip,
            },
        };
        Some(Extent {
            start,
            len,
            content,
        })
    }
}

/// Why a set of extents is no plan.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// Two extents claim the same byte.
    #[error(
        "extents overlap at disk offset {offset}: [{first_start}, {first_end}) is followed by one at {offset}"
    )]
    Overlap {
        /// Where the second extent starts.
        offset: u64,
        /// Start of the first extent.
        first_start: u64,
        /// End of the first extent.
        first_end: u64,
    },
    /// An extent reaches past the end of the disk.
    #[error("extent [{start}, +{len}) reaches past the end of the disk at {size}")]
    OutOfBounds {
        /// Start of the extent.
        start: u64,
        /// Length of the extent.
        len: u64,
        /// Size of the disk in bytes.
        size: u64,
    },
    /// An extent points outside its source.
    #[error(
        "extent at {start} points at bytes {offset} to {offset}+{len} of {path}, which has {source_len}"
    )]
    OutsideSource {
        /// Start of the extent on the disk.
        start: u64,
        /// Offset in the source.
        offset: u64,
        /// Length of the extent.
        len: u64,
        /// The source's path.
        path: PathBuf,
        /// The source's length in bytes.
        source_len: u64,
    },
    /// An extent names a source that the plan does not have.
    #[error("extent at {start} names source {id}, but there are {sources}")]
    UnknownSource {
        /// Start of the extent on the disk.
        start: u64,
        /// The source it names.
        id: u32,
        /// How many sources there are.
        sources: usize,
    },
    /// A literal whose length is not the extent's, or an empty extent.
    #[error("extent at {start} has length {len}, which does not fit its content")]
    BadLength {
        /// Start of the extent on the disk.
        start: u64,
        /// Length of the extent.
        len: u64,
    },
}

/// What every byte of a disk is.
///
/// Invariants, checked by [`PlanBuilder::finish`]: extents are sorted, do not
/// overlap, are not empty, lie inside the disk and point inside their source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    size: u64,
    sources: Arc<[Source]>,
    extents: Vec<Extent>,
}

impl Plan {
    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The files that extents point into; [`SourceId`] indexes this.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The same for who keeps them.
    pub fn shared_sources(&self) -> Arc<[Source]> {
        Arc::clone(&self.sources)
    }

    /// All extents, sorted by start.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The extents that touch `range`, in order; the first and the last may
    /// stick out of it.
    pub fn extents_in(&self, range: std::ops::Range<u64>) -> &[Extent] {
        let first = self.extents.partition_point(|e| e.end() <= range.start);
        let last = self.extents.partition_point(|e| e.start < range.end);
        &self.extents[first..last.max(first)]
    }
}

/// Collects extents in any order and makes a [`Plan`] of them.
#[derive(Debug, Default)]
pub struct PlanBuilder {
    sources: Vec<Source>,
    extents: Vec<Extent>,
}

impl PlanBuilder {
    /// Starts a plan over the given sources.
    pub fn new(sources: Vec<Source>) -> Self {
        Self {
            sources,
            extents: Vec::new(),
        }
    }

    /// Adds one extent at its own start.
    pub fn put(&mut self, extent: Extent) {
        self.extents.push(extent);
    }

    /// Adds the extents of a volume that starts at byte `base` of the disk.
    pub fn put_volume(&mut self, base: u64, extents: impl IntoIterator<Item = Extent>) {
        self.extents.extend(extents.into_iter().map(|mut e| {
            e.start = e.start.saturating_add(base);
            e
        }));
    }

    /// Sorts, checks and joins the extents into a plan of `size` bytes.
    ///
    /// Neighbours that continue each other in the same source become one
    /// extent, so the plan is the same however its parts were cut.
    ///
    /// # Errors
    /// Any violation of [`Plan`]'s invariants.
    pub fn finish(self, size: u64) -> Result<Plan, PlanError> {
        let Self {
            sources,
            mut extents,
        } = self;
        extents.sort_by_key(|e| e.start);
        let mut joined: Vec<Extent> = Vec::with_capacity(extents.len());
        for extent in extents {
            check(&extent, &sources, size)?;
            let Some(last) = joined.last_mut() else {
                joined.push(extent);
                continue;
            };
            if extent.start < last.end() {
                return Err(PlanError::Overlap {
                    offset: extent.start,
                    first_start: last.start,
                    first_end: last.end(),
                });
            }
            match (&last.content, &extent.content) {
                (
                    Content::Source { id: a, offset },
                    Content::Source {
                        id: b,
                        offset: next,
                    },
                ) if a == b && last.end() == extent.start && offset + last.len == *next => {
                    last.len += extent.len;
                }
                _ => joined.push(extent),
            }
        }
        joined.shrink_to_fit();
        Ok(Plan {
            size,
            sources: sources.into(),
            extents: joined,
        })
    }
}

fn check(extent: &Extent, sources: &[Source], size: u64) -> Result<(), PlanError> {
    let &Extent { start, len, .. } = extent;
    if len == 0 {
        return Err(PlanError::BadLength { start, len });
    }
    if start.checked_add(len).is_none_or(|end| end > size) {
        return Err(PlanError::OutOfBounds { start, len, size });
    }
    match &extent.content {
        Content::Literal(bytes) if bytes.len() as u64 != len => {
            Err(PlanError::BadLength { start, len })
        }
        Content::Literal(_) => Ok(()),
        Content::Source { id, offset } => {
            let source = sources.get(id.0 as usize).ok_or(PlanError::UnknownSource {
                start,
                id: id.0,
                sources: sources.len(),
            })?;
            if offset.checked_add(len).is_none_or(|end| end > source.len) {
                return Err(PlanError::OutsideSource {
                    start,
                    offset: *offset,
                    len,
                    path: source.path.clone(),
                    source_len: source.len,
                });
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(len: u64) -> Source {
        Source {
            kind: SourceKind::Pack {
                diff_id: "sha256:00".into(),
            },
            path: "pack".into(),
            len,
        }
    }

    #[test]
    fn neighbours_that_continue_each_other_are_joined() {
        let mut b = PlanBuilder::new(vec![pack(100)]);
        b.put(Extent::source(30, 10, SourceId(0), 20));
        b.put(Extent::source(10, 20, SourceId(0), 0));
        b.put(Extent::literal(40, &b"x"[..]));
        let plan = b.finish(64).unwrap();
        assert_eq!(
            plan.extents(),
            [
                Extent::source(10, 30, SourceId(0), 0),
                Extent::literal(40, &b"x"[..])
            ]
        );
        assert_eq!(plan.extents_in(0..10), []);
        assert_eq!(plan.extents_in(39..41).len(), 2);
    }

    #[test]
    fn what_breaks_an_invariant_is_refused() {
        let cases: [(Vec<Extent>, &str); 5] = [
            (
                vec![
                    Extent::literal(0, &b"ab"[..]),
                    Extent::literal(1, &b"c"[..]),
                ],
                "overlap",
            ),
            (vec![Extent::literal(63, &b"ab"[..])], "past the end"),
            (
                vec![Extent::source(u64::MAX, 2, SourceId(0), 0)],
                "past the end",
            ),
            (vec![Extent::source(0, 2, SourceId(0), 99)], "which has 100"),
            (vec![Extent::source(0, 2, SourceId(1), 0)], "source 1"),
        ];
        for (extents, message) in cases {
            let mut b = PlanBuilder::new(vec![pack(100)]);
            extents.into_iter().for_each(|e| b.put(e));
            let error = b.finish(64).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn a_slice_cuts_its_content() {
        let e = Extent::literal(10, &b"hello"[..]);
        assert_eq!(e.slice(12..13), Some(Extent::literal(12, &b"l"[..])));
        assert_eq!(e.slice(15..20), None);
    }
}
