//! A plan as a file: how plans travel and are kept.
//!
//! [`encode`] writes a plan whose sources are layer packs; [`decode`] reads
//! one that comes from a stranger and checks all of it. The packs are named
//! by diff id and length; whoever decodes says where they lie. The format is
//! specified in docs/src/formats/plan.md.

use std::io::{self, Write};
use std::path::PathBuf;

use bytes::Bytes;

use crate::plan::{Content, Extent, Plan, PlanBuilder, PlanError, Source, SourceId, SourceKind};

/// First bytes of a plan file.
pub const MAGIC: [u8; 8] = *b"bw-plan\0";
/// The version of the format that is written and read.
pub const VERSION: u32 = 1;
/// Length of the header in bytes.
const HEADER: usize = 56;
/// Length of an extent's record in bytes.
const RECORD: usize = 32;
/// In a record's source field: the content is a literal.
const LITERAL: u32 = u32::MAX;
/// Longest name of a pack in bytes.
const MAX_NAME: usize = 256;

/// A pack that a plan file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackName {
    /// The layer's diff id.
    pub diff_id: String,
    /// Length of the pack in bytes.
    pub len: u64,
}

/// A plan read from a file, its packs not yet found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPlan {
    /// The disk's identifier.
    pub guid: [u8; 16],
    /// Size of the disk in bytes.
    pub size: u64,
    /// The packs, in the order of the plan's sources.
    pub packs: Vec<PackName>,
    extents: Vec<Extent>,
}

/// Bytes that are no plan, or a plan that cannot be a file.
#[derive(Debug, thiserror::Error)]
pub enum PlanFileError {
    /// Not a plan file.
    #[error("not a disk plan: {0}")]
    Malformed(&'static str),
    /// Made by a newer version of this program.
    #[error("disk plan of version {0}; this program reads version {VERSION}: update bootwright")]
    NewerVersion(u32),
    /// The sum over the file is wrong.
    #[error("the disk plan is corrupt: checksum {found:08x}, expected {expected:08x}")]
    Checksum {
        /// The sum of what was read.
        found: u32,
        /// The sum that the header has.
        expected: u32,
    },
    /// Extents that break a plan's rules.
    #[error("bad disk plan: {0}")]
    Plan(#[from] PlanError),
    /// Only packs can travel.
    #[error("the plan uses {0} of this host, which cannot be part of a plan file")]
    HostFile(PathBuf),
    /// The plan could not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes `plan` for the disk `guid`.
///
/// # Errors
/// A source is a file of the host, or `out` cannot be written.
pub fn encode(plan: &Plan, guid: [u8; 16], out: &mut dyn Write) -> Result<(), PlanFileError> {
    let mut names = Vec::new();
    for source in plan.sources() {
        let SourceKind::Pack { diff_id } = &source.kind else {
            return Err(PlanFileError::HostFile(source.path.clone()));
        };
        let len = u32::try_from(diff_id.len())
            .ok()
            .filter(|len| *len as usize <= MAX_NAME)
            .ok_or(PlanFileError::Malformed("the name of a pack is too long"))?;
        names.extend(source.len.to_le_bytes());
        names.extend(len.to_le_bytes());
        names.extend(diff_id.as_bytes());
    }
    let mut records = Vec::with_capacity(plan.extents().len() * RECORD);
    let mut literals: u64 = 0;
    for extent in plan.extents() {
        let (source, offset) = match &extent.content {
            Content::Literal(bytes) => {
                let offset = literals;
                literals += bytes.len() as u64;
                (LITERAL, offset)
            }
            Content::Source { id, offset } => (id.0, *offset),
        };
        records.extend(extent.start.to_le_bytes());
        records.extend(extent.len.to_le_bytes());
        records.extend(offset.to_le_bytes());
        records.extend(source.to_le_bytes());
        records.extend(0u32.to_le_bytes());
    }

    let mut header = Vec::with_capacity(HEADER);
    header.extend(MAGIC);
    header.extend(VERSION.to_le_bytes());
    header.extend(0u32.to_le_bytes());
    header.extend(guid);
    header.extend(plan.size().to_le_bytes());
    header.extend((plan.sources().len() as u32).to_le_bytes());
    header.extend((names.len() as u32).to_le_bytes());
    header.extend((plan.extents().len() as u64).to_le_bytes());
    let mut sum = [&header[16..], &names, &records]
        .iter()
        .fold(0, |sum, part| crc32c::crc32c_append(sum, part));
    for extent in plan.extents() {
        if let Content::Literal(bytes) = &extent.content {
            sum = crc32c::crc32c_append(sum, bytes);
        }
    }
    header[12..16].copy_from_slice(&sum.to_le_bytes());
    out.write_all(&header)?;
    out.write_all(&names)?;
    out.write_all(&records)?;
    for extent in plan.extents() {
        if let Content::Literal(bytes) = &extent.content {
            out.write_all(bytes)?;
        }
    }
    Ok(())
}

/// Takes numbers and strings off the front of bytes.
struct Cursor(Bytes);

impl Cursor {
    fn take(&mut self, len: usize) -> Result<Bytes, PlanFileError> {
        if len > self.0.len() {
            return Err(PlanFileError::Malformed("it is cut short"));
        }
        Ok(self.0.split_to(len))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PlanFileError> {
        let mut array = [0; N];
        array.copy_from_slice(&self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, PlanFileError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, PlanFileError> {
        self.array().map(u64::from_le_bytes)
    }
}

/// Reads a plan; `bytes` is the whole file.
///
/// # Errors
/// Anything but a whole, valid plan.
pub fn decode(bytes: Bytes) -> Result<StoredPlan, PlanFileError> {
    let mut cursor = Cursor(bytes.clone());
    if cursor.array()? != MAGIC {
        return Err(PlanFileError::Malformed("it begins with other bytes"));
    }
    let version = cursor.u32()?;
    if version > VERSION {
        return Err(PlanFileError::NewerVersion(version));
    }
    let expected = cursor.u32()?;
    let found = crc32c::crc32c(&cursor.0);
    if found != expected {
        return Err(PlanFileError::Checksum { found, expected });
    }
    let guid = cursor.array()?;
    let size = cursor.u64()?;
    let sources = cursor.u32()?;
    let names = cursor.u32()? as usize;
    let extents = cursor.u64()?;

    let mut names = Cursor(cursor.take(names)?);
    let mut packs = Vec::new();
    for _ in 0..sources {
        let len = names.u64()?;
        let name = names.u32()? as usize;
        let diff_id = std::str::from_utf8(&names.take(name)?)
            .ok()
            .filter(|name| name.len() <= MAX_NAME)
            .ok_or(PlanFileError::Malformed("a pack has a bad name"))?
            .to_owned();
        packs.push(PackName { diff_id, len });
    }
    if !names.0.is_empty() {
        return Err(PlanFileError::Malformed(
            "there is more after the packs' names",
        ));
    }
    let table = usize::try_from(extents)
        .ok()
        .and_then(|n| n.checked_mul(RECORD))
        .ok_or(PlanFileError::Malformed("it has too many extents"))?;
    let mut records = Cursor(cursor.take(table)?);
    let mut literals = cursor;
    let mut list = Vec::with_capacity(extents as usize);
    let mut literal_offset: u64 = 0;
    let mut last = 0;
    for _ in 0..extents {
        let (start, len, offset) = (records.u64()?, records.u64()?, records.u64()?);
        if start < last {
            return Err(PlanFileError::Malformed("its extents are not in order"));
        }
        last = start;
        let source = records.u32()?;
        if records.u32()? != 0 {
            return Err(PlanFileError::Malformed("a reserved field is set"));
        }
        let content = if source == LITERAL {
            if offset != literal_offset {
                return Err(PlanFileError::Malformed("literals are not in order"));
            }
            let take = usize::try_from(len)
                .map_err(|_| PlanFileError::Malformed("a literal is too long"))?;
            let bytes = literals.take(take)?;
            // What is there fits, so the sum does too.
            literal_offset += len;
            Content::Literal(bytes)
        } else {
            Content::Source {
                id: SourceId(source),
                offset,
            }
        };
        list.push(Extent {
            start,
            len,
            content,
        });
    }
    if !literals.0.is_empty() {
        return Err(PlanFileError::Malformed("there is more after the literals"));
    }
    let stored = StoredPlan {
        guid,
        size,
        packs,
        extents: list,
    };
    // All rules are checked here, so that finding the packs cannot fail later.
    stored.clone().locate(|pack| PathBuf::from(&pack.diff_id))?;
    Ok(stored)
}

impl StoredPlan {
    /// The plan over packs that lie where `path` says.
    ///
    /// # Errors
    /// None for what [`decode`] gave.
    pub fn locate(self, mut path: impl FnMut(&PackName) -> PathBuf) -> Result<Plan, PlanError> {
        let sources = self
            .packs
            .iter()
            .map(|pack| Source {
                kind: SourceKind::Pack {
                    diff_id: pack.diff_id.clone(),
                },
                path: path(pack),
                len: pack.len,
            })
            .collect();
        let mut builder = PlanBuilder::new(sources);
        self.extents.into_iter().for_each(|e| builder.put(e));
        builder.finish(self.size)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan() -> Plan {
        let pack = |diff_id: &str, len| Source {
            kind: SourceKind::Pack {
                diff_id: diff_id.into(),
            },
            path: PathBuf::new(),
            len,
        };
        let mut builder = PlanBuilder::new(vec![pack("sha256:aa", 8192), pack("sha256:bb", 4096)]);
        builder.put(Extent::literal(0, &b"boot"[..]));
        builder.put(Extent::source(4096, 4096, SourceId(0), 4096));
        builder.put(Extent::literal(8192, &b"more"[..]));
        builder.put(Extent::source(9000, 10, SourceId(1), 1));
        builder.finish(1 << 20).unwrap()
    }

    fn encoded() -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&plan(), [7; 16], &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_plan_reads_back_as_written() {
        let stored = decode(encoded().into()).unwrap();
        assert_eq!(stored.guid, [7; 16]);
        assert_eq!(stored.locate(|_| PathBuf::new()).unwrap(), plan());
    }

    #[test]
    fn a_newer_version_says_so() {
        let mut bytes = encoded();
        bytes[8] = 2;
        assert!(matches!(
            decode(bytes.into()),
            Err(PlanFileError::NewerVersion(2))
        ));
    }

    #[test]
    fn a_literal_of_impossible_length_is_an_error() {
        let mut bytes = encoded();
        let names = 2 * (12 + "sha256:aa".len());
        // The length of the third extent, which is the second literal.
        let at = HEADER + names + 2 * RECORD + 8;
        assert_eq!(bytes[at..at + 8], 4u64.to_le_bytes());
        bytes[at..at + 8].fill(0xff);
        let sum = crc32c::crc32c(&bytes[16..]);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        let error = decode(bytes.into()).unwrap_err();
        assert!(error.to_string().contains("cut short"), "{error}");
    }

    #[test]
    fn a_plan_over_files_of_the_host_does_not_travel() {
        let source = Source {
            kind: SourceKind::HostFile {
                device: 1,
                inode: 1,
                mtime_ns: 0,
            },
            path: "/x".into(),
            len: 1,
        };
        let plan = PlanBuilder::new(vec![source]).finish(512).unwrap();
        let error = encode(&plan, [0; 16], &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("/x"), "{error}");
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_a_bad_plan_is_an_error(
            at in 0usize..encoded().len(),
            value: u8,
            cut in 0usize..encoded().len(),
            fix_sum: bool,
        ) {
            let mut bytes = encoded();
            bytes[at] = value;
            if value % 3 == 0 {
                bytes.truncate(cut);
            }
            if fix_sum && bytes.len() >= 16 {
                let sum = crc32c::crc32c(&bytes[16..]);
                bytes[12..16].copy_from_slice(&sum.to_le_bytes());
            }
            if let Ok(stored) = decode(bytes.into()) {
                prop_assert!(stored.locate(|_| PathBuf::new()).is_ok());
            }
        }
    }
}
