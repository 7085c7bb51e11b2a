//! Files of the host that a disk shows, as a layer of their own.
//!
//! A plan may point at files that were added to the image's, as `--file` does.
//! Those stay behind when a disk travels, so their content becomes one more
//! pack: [`find`] says which ranges of the disk it is, [`only_packs`] gives the
//! plan over packs alone.

use std::collections::BTreeMap;

use bootwright_disk::{Content, Extent, Plan, PlanBuilder, Source, SourceId, SourceKind};
use bootwright_image::Digest;

use crate::error::DeliveryError;
use crate::raw_image::{BLOCK, FILE, Run};

/// What a plan shows of files of the host.
#[derive(Debug)]
pub(crate) struct HostFiles {
    /// The ranges of the disk, in the order of the pack.
    pub(crate) runs: Vec<Run>,
    /// Length of the pack.
    pub(crate) pack_len: u64,
}

/// Finds the files of the host that a plan shows; `None` if it shows none.
pub(crate) fn find(plan: &Plan) -> Option<HostFiles> {
    let runs: Vec<Run> = plan
        .extents()
        .iter()
        .filter(|extent| is_host_file(plan, extent))
        .map(|extent| Run {
            start: extent.start,
            // Blocks of the disk are blocks of the pack: what is behind the
            // file's end in its last block comes along and is not used.
            len: extent.len.next_multiple_of(BLOCK),
        })
        .collect();
    let pack_len = runs.iter().map(|run| run.len).sum();
    (!runs.is_empty()).then_some(HostFiles { runs, pack_len })
}

/// The plan over those of its packs that it uses and, where it shows files of
/// the host, a pack of those, whose diff id is given.
///
/// # Errors
/// None that is known.
pub(crate) fn only_packs(
    plan: &Plan,
    host_files: Option<(&HostFiles, &Digest)>,
) -> Result<Plan, DeliveryError> {
    let mut sources: Vec<Source> = Vec::new();
    let mut ids: BTreeMap<u32, SourceId> = BTreeMap::new();
    let mut next = |source: Source| {
        let id = SourceId(u32::try_from(sources.len()).unwrap_or(u32::MAX));
        sources.push(source);
        id
    };
    for extent in plan.extents() {
        if let Content::Source { id, .. } = extent.content
            && !is_host_file(plan, extent)
        {
            ids.insert(id.0, SourceId(0));
        }
    }
    for (id, new) in &mut ids {
        if let Some(source) = plan.sources().get(*id as usize) {
            *new = next(source.clone());
        }
    }
    let files = host_files.map(|(files, diff_id)| {
        next(Source {
            kind: SourceKind::Pack {
                diff_id: diff_id.to_string(),
            },
            path: FILE.into(),
            len: files.pack_len,
        })
    });
    let mut builder = PlanBuilder::new(sources);
    let mut at = 0;
    for extent in plan.extents() {
        let mut extent: Extent = extent.clone();
        if is_host_file(plan, &extent) {
            extent.content = Content::Source {
                id: files.unwrap_or(SourceId(u32::MAX)),
                offset: at,
            };
            at += extent.len.next_multiple_of(BLOCK);
        } else if let Content::Source { id, .. } = &mut extent.content
            && let Some(new) = ids.get(&id.0)
        {
            *id = *new;
        }
        builder.put(extent);
    }
    builder
        .finish(plan.size())
        .map_err(|e| DeliveryError::Plan(e.into()))
}

fn is_host_file(plan: &Plan, extent: &Extent) -> bool {
    let Content::Source { id, .. } = extent.content else {
        return false;
    };
    let source = plan.sources().get(id.0 as usize);
    source.is_some_and(|source| matches!(source.kind, SourceKind::HostFile { .. }))
}

/// Whether a plan shows any pack.
pub fn shows_packs(plan: &Plan) -> bool {
    plan.extents().iter().any(|extent| {
        matches!(extent.content, Content::Source { .. }) && !is_host_file(plan, extent)
    })
}
