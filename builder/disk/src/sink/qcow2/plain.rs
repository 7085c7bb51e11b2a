//! Clusters as they are: header, refcounts, L1, L2, then the clusters.

use std::ops::Range;

use super::{COPIED, Compression, Geometry, REFCOUNT, Tables, append, header, table};
use crate::reader::ReadAt;
use crate::sink::SinkError;
use crate::sink::output::Output;
use crate::sink::units::Units;

pub(super) fn write(
    disk: &dyn ReadAt,
    output: &mut Output<'_>,
    geometry: &Geometry,
) -> Result<(), SinkError> {
    let cluster = geometry.cluster;
    let runs: Vec<Range<u64>> = Units::new(disk, cluster).collect::<Result<_, _>>()?;
    let data: u64 = runs.iter().map(|r| r.end - r.start).sum();
    let l2_tables = L2Tables::of(&runs, geometry).len() as u64;
    let l1_clusters = geometry.clusters(geometry.l1_entries() * 8);
    let (blocks, table_clusters) =
        geometry.refcount_clusters(1 + l1_clusters + l2_tables + data)?;

    // In clusters, in the order of the file.
    let refcount_table = 1;
    let refcount_blocks = refcount_table + table_clusters;
    let l1 = refcount_blocks + blocks;
    let l2 = l1 + l1_clusters;
    let first_data = l2 + l2_tables;
    let total = first_data + data;

    let tables = Tables {
        l1: l1 * cluster,
        refcount_table: refcount_table * cluster,
        refcount_table_clusters: table_clusters,
    };
    output.write(&header(geometry, &tables, Compression::None))?;
    let addresses: Vec<u64> = (refcount_blocks..l1).map(|n| n * cluster).collect();
    output.write(&table(&addresses, geometry))?;
    write_refcounts(output, geometry, total, blocks)?;

    let mut l1_table = vec![0u64; geometry.l1_entries() as usize];
    for (n, index) in L2Tables::of(&runs, geometry).indices.iter().enumerate() {
        if let Some(entry) = l1_table.get_mut(*index as usize) {
            *entry = ((l2 + n as u64) * cluster) | COPIED;
        }
    }
    output.write(&table(&l1_table, geometry))?;
    write_l2(output, geometry, &runs, first_data)?;

    for run in runs {
        let bytes = run.start * cluster..(run.end * cluster).min(disk.size());
        let padding = (run.end - run.start) * cluster - (bytes.end - bytes.start);
        output.copy(disk, bytes)?;
        output.zeros(padding)?;
    }
    Ok(())
}

/// The L2 tables that are needed, by their place in the L1 table.
struct L2Tables {
    indices: Vec<u64>,
}

impl L2Tables {
    fn of(runs: &[Range<u64>], geometry: &Geometry) -> Self {
        let per_table = geometry.l2_entries();
        let mut indices: Vec<u64> = Vec::new();
        for run in runs {
            let first = run.start / per_table;
            let last = (run.end - 1) / per_table;
            let next = indices.last().map_or(0, |last| last + 1);
            indices.extend(first.max(next)..=last);
        }
        Self { indices }
    }

    fn len(&self) -> usize {
        self.indices.len()
    }
}

/// Every cluster of the file is used once.
fn write_refcounts(
    output: &mut Output<'_>,
    geometry: &Geometry,
    total: u64,
    blocks: u64,
) -> Result<(), SinkError> {
    let per_block = geometry.cluster / REFCOUNT;
    for block in 0..blocks {
        let used = (total - block * per_block).min(per_block);
        let mut bytes = [0, 1].repeat(used as usize);
        bytes.resize(geometry.cluster as usize, 0);
        output.write(&bytes)?;
    }
    Ok(())
}

fn write_l2(
    output: &mut Output<'_>,
    geometry: &Geometry,
    runs: &[Range<u64>],
    first_data: u64,
) -> Result<(), SinkError> {
    let per_table = geometry.l2_entries();
    let mut index = None;
    let mut entries: Vec<u64> = Vec::new();
    for (host, cluster) in (first_data..).zip(runs.iter().cloned().flatten()) {
        let wanted = cluster / per_table;
        if index.is_some_and(|index| index != wanted) {
            entries.resize(per_table as usize, 0);
            output.write(&append(Vec::new(), &entries))?;
            entries.clear();
        }
        index = Some(wanted);
        entries.resize((cluster % per_table) as usize, 0);
        entries.push((host * geometry.cluster) | COPIED);
    }
    if index.is_some() {
        entries.resize(per_table as usize, 0);
        output.write(&append(Vec::new(), &entries))?;
    }
    Ok(())
}
