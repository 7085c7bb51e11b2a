//! A plan as files of a machine's folder.
//!
//! Unlike the plan file that travels (`bootwright_disk::plan_file`), this one
//! is for the same host and user: it keeps where packs and host files lie.
//! Literal bytes go to a file of their own, which the plan that is read back
//! has as one more source, so that they take no memory while a guest runs.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bootwright_disk::{Content, Extent, Plan, PlanBuilder, Source, SourceId, SourceKind};
use bootwright_vmm::block::BaseId;
use serde::{Deserialize, Serialize};

/// The plan's file.
const PLAN: &str = "plan.json";
/// The literal bytes.
const LITERALS: &str = "literals";

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    size: u64,
    /// What an overlay over the disk knows it by.
    id: [u8; 32],
    sources: Vec<StoredSource>,
    /// Start, length, source, offset in the source.
    extents: Vec<(u64, u64, u32, u64)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredSource {
    path: PathBuf,
    len: u64,
    kind: StoredKind,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredKind {
    Pack {
        diff_id: String,
    },
    File {
        device: u64,
        inode: u64,
        /// Nanoseconds; JSON's numbers have too few bits in some programs.
        mtime: String,
    },
}

/// Writes `plan` into the folder `dir`.
pub(crate) fn save(plan: &Plan, dir: &Path) -> anyhow::Result<()> {
    let path = dir.join(LITERALS);
    let context = || format!("cannot write {}", path.display());
    let mut literals = BufWriter::new(File::create(&path).with_context(context)?);
    let mut len = 0u64;
    let mut sources: Vec<_> = plan.sources().iter().map(stored).collect();
    let own = u32::try_from(sources.len()).context("the plan has too many sources")?;
    let mut extents = Vec::with_capacity(plan.extents().len());
    for extent in plan.extents() {
        let (source, offset) = match &extent.content {
            Content::Source { id, offset } => (id.0, *offset),
            Content::Literal(bytes) => {
                literals.write_all(bytes).with_context(context)?;
                len += bytes.len() as u64;
                (own, len - bytes.len() as u64)
            }
        };
        extents.push((extent.start, extent.len, source, offset));
    }
    literals.flush().with_context(context)?;
    sources.push(StoredSource {
        path: path.clone(),
        len,
        // As a pack it is opened at once and kept open.
        kind: StoredKind::Pack {
            diff_id: LITERALS.to_owned(),
        },
    });
    let stored = Stored {
        size: plan.size(),
        id: BaseId::of_plan(plan).0,
        sources,
        extents,
    };
    super::place::write_whole(&dir.join(PLAN), &serde_json::to_vec(&stored)?)
}

/// Reads the plan in the folder `dir`, and what an overlay knows it by.
pub(crate) fn load(dir: &Path) -> anyhow::Result<(Plan, BaseId)> {
    let path = dir.join(PLAN);
    let context = || format!("cannot read {}", path.display());
    let bytes = fs::read(&path).with_context(context)?;
    let stored: Stored = serde_json::from_slice(&bytes).with_context(context)?;
    let sources = stored.sources.into_iter().map(source);
    let mut builder = PlanBuilder::new(sources.collect::<anyhow::Result<_>>()?);
    for (start, len, id, offset) in stored.extents {
        builder.put(Extent::source(start, len, SourceId(id), offset));
    }
    let plan = builder.finish(stored.size).with_context(context)?;
    Ok((plan, BaseId(stored.id)))
}

fn stored(source: &Source) -> StoredSource {
    StoredSource {
        path: source.path.clone(),
        len: source.len,
        kind: match &source.kind {
            SourceKind::Pack { diff_id } => StoredKind::Pack {
                diff_id: diff_id.clone(),
            },
            SourceKind::HostFile {
                device,
                inode,
                mtime_ns,
            } => StoredKind::File {
                device: *device,
                inode: *inode,
                mtime: mtime_ns.to_string(),
            },
        },
    }
}

fn source(stored: StoredSource) -> anyhow::Result<Source> {
    Ok(Source {
        path: stored.path,
        len: stored.len,
        kind: match stored.kind {
            StoredKind::Pack { diff_id } => SourceKind::Pack { diff_id },
            StoredKind::File {
                device,
                inode,
                mtime,
            } => SourceKind::HostFile {
                device,
                inode,
                mtime_ns: mtime.parse().context("a time in the plan")?,
            },
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bootwright_disk::{PlanReader, ReadAt as _};

    use super::*;

    #[test]
    fn a_plan_reads_the_same_after_it_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        let pack = dir.path().join("pack");
        fs::write(&pack, vec![7; 8192]).unwrap();
        let mut builder = PlanBuilder::new(vec![Source {
            path: pack,
            len: 8192,
            kind: SourceKind::Pack {
                diff_id: "sha256:00".to_owned(),
            },
        }]);
        builder.put(Extent::literal(512, &b"first"[..]));
        builder.put(Extent::source(4096, 4096, SourceId(0), 4096));
        builder.put(Extent::literal(12_288, &b"second"[..]));
        let plan = builder.finish(65_536).unwrap();
        let id = BaseId::of_plan(&plan);
        save(&plan, dir.path()).unwrap();
        let (back, back_id) = load(dir.path()).unwrap();
        assert_eq!(back_id, id);
        let read = |plan| {
            let mut bytes = vec![1; 65_536];
            PlanReader::new(plan).read_exact_at(0, &mut bytes).unwrap();
            bytes
        };
        assert!(read(plan) == read(back));
    }
}
