//! Compressed clusters: one after the other, the tables behind them.

use super::{COMPRESSED, COPIED, Compression, Geometry, REFCOUNT, Tables, append, header, table};
use crate::reader::ReadAt;
use crate::sink::SinkError;
use crate::sink::compress::{BATCH, Compressor, Unit, compress_units};
use crate::sink::output::Output;
use crate::sink::parallel::in_order;
use crate::sink::units::{Units, in_batches};

/// QEMU inflates with a window of 4 KiB (`windowBits` -12).
const WINDOW_BITS: u8 = 12;

/// A sector of a compressed cluster's descriptor.
const SECTOR: u64 = 512;

pub(super) fn write(
    disk: &dyn ReadAt,
    output: &mut Output<'_>,
    geometry: &Geometry,
    method: Compression,
    threads: usize,
) -> Result<(), SinkError> {
    let monitor = output.monitor();
    // Place for the header, which is known last.
    output.zeros(geometry.cluster)?;
    let mut file = File {
        geometry,
        output,
        refcounts: vec![1],
        l1: vec![0; geometry.l1_entries() as usize],
        l2: Vec::new(),
        l2_index: 0,
    };
    in_order(
        threads,
        in_batches(Units::new(disk, geometry.cluster), BATCH / geometry.cluster),
        || match method {
            Compression::Zstd => Compressor::zstd(),
            Compression::Zlib | Compression::None => Ok(Compressor::deflate(WINDOW_BITS)),
        },
        |compressor, clusters| {
            compress_units(disk, geometry.cluster, clusters, monitor, |plain| {
                let bytes = compressor.compress(plain)?;
                // As they are if that makes them no less.
                let shorter = bytes.len() < plain.len();
                Ok(if shorter { bytes } else { plain.into() })
            })
        },
        |clusters| file.take(clusters),
    )?;
    let tables = file.finish()?;
    output.patch(&header(geometry, &tables, method))
}

/// The file as it grows.
struct File<'f, 'o> {
    geometry: &'f Geometry,
    output: &'f mut Output<'o>,
    /// How often each of the file's clusters is used.
    refcounts: Vec<u16>,
    l1: Vec<u64>,
    /// The L2 table that is being filled, empty if there is none.
    l2: Vec<u64>,
    l2_index: u64,
}

impl File<'_, '_> {
    fn take(&mut self, clusters: Vec<Unit>) -> Result<(), SinkError> {
        let mut pending = Vec::new();
        for cluster in clusters {
            self.open_l2(cluster.number, &mut pending)?;
            let entry = if (cluster.bytes.len() as u64) < self.geometry.cluster {
                self.place_compressed(&cluster.bytes, &mut pending)
            } else {
                self.place_whole(&cluster.bytes, &mut pending) | COPIED
            };
            self.l2
                .resize((cluster.number % self.geometry.l2_entries()) as usize, 0);
            self.l2.push(entry);
        }
        self.output.write(&pending)
    }

    /// The position behind `pending`.
    fn position(&self, pending: &[u8]) -> u64 {
        self.output.position() + pending.len() as u64
    }

    /// Makes sure that the L2 table that describes `cluster` is the one being
    /// filled; the one before it is finished then.
    fn open_l2(&mut self, cluster: u64, pending: &mut Vec<u8>) -> Result<(), SinkError> {
        let index = cluster / self.geometry.l2_entries();
        if index != self.l2_index {
            self.close_l2(pending);
            self.l2_index = index;
        }
        Ok(())
    }

    fn close_l2(&mut self, pending: &mut Vec<u8>) {
        if self.l2.is_empty() {
            return;
        }
        self.l2.resize(self.geometry.l2_entries() as usize, 0);
        let bytes = append(Vec::new(), &self.l2);
        self.l2.clear();
        let entry = self.place_whole(&bytes, pending) | COPIED;
        if let Some(slot) = self.l1.get_mut(self.l2_index as usize) {
            *slot = entry;
        }
    }

    /// Puts whole clusters at the next cluster boundary and counts them.
    fn place_whole(&mut self, bytes: &[u8], pending: &mut Vec<u8>) -> u64 {
        self.align(pending);
        let offset = self.position(pending);
        pending.extend(bytes);
        for n in 0..self.geometry.clusters(bytes.len() as u64) {
            self.count(offset / self.geometry.cluster + n);
        }
        offset
    }

    /// Section "Compressed Clusters Descriptor": the data lies anywhere, and
    /// the entry says how many further sectors it reaches into. QEMU counts a
    /// use of every cluster that those sectors touch.
    fn place_compressed(&mut self, bytes: &[u8], pending: &mut Vec<u8>) -> u64 {
        let cluster = self.geometry.cluster;
        let offset = self.position(pending);
        let last = offset + bytes.len() as u64 - 1;
        let more_sectors = last / SECTOR - offset / SECTOR;
        pending.extend(bytes);
        let end = (last / SECTOR + 1) * SECTOR - 1;
        for n in offset / cluster..=end / cluster {
            self.count(n);
        }
        // Of 62 bits, `cluster_bits - 8` are for the sectors.
        let offset_bits = 62 - (cluster.trailing_zeros() - 8);
        COMPRESSED | more_sectors << offset_bits | offset
    }

    fn align(&self, pending: &mut Vec<u8>) {
        let cluster = self.geometry.cluster;
        let gap = self.position(pending).next_multiple_of(cluster) - self.position(pending);
        pending.resize(pending.len() + gap as usize, 0);
    }

    fn count(&mut self, cluster: u64) {
        let index = cluster as usize;
        if self.refcounts.len() <= index {
            self.refcounts.resize(index + 1, 0);
        }
        if let Some(count) = self.refcounts.get_mut(index) {
            // Cannot reach the limit: 2 MiB take at least 70 bytes in zstd,
            // so 30,000 clusters share one at the most.
            *count = count.saturating_add(1);
        }
    }

    /// Writes what is left: the last L2 table, L1, refcounts.
    fn finish(mut self) -> Result<Tables, SinkError> {
        let cluster = self.geometry.cluster;
        let mut pending = Vec::new();
        self.close_l2(&mut pending);
        let l1_table = table(&self.l1, self.geometry);
        let l1 = self.place_whole(&l1_table, &mut pending);
        self.align(&mut pending);
        let first = self.position(&pending) / cluster;
        let (blocks, table_clusters) = self.geometry.refcount_clusters(first)?;
        for n in first..first + blocks + table_clusters {
            self.count(n);
        }
        let per_block = (cluster / REFCOUNT) as usize;
        for block in self.refcounts.chunks(per_block) {
            let mut bytes: Vec<u8> = block.iter().flat_map(|n| n.to_be_bytes()).collect();
            bytes.resize(cluster as usize, 0);
            pending.extend(bytes);
        }
        let addresses: Vec<u64> = (first..first + blocks).map(|n| n * cluster).collect();
        pending.extend(table(&addresses, self.geometry));
        self.output.write(&pending)?;
        Ok(Tables {
            l1,
            refcount_table: (first + blocks) * cluster,
            refcount_table_clusters: table_clusters,
        })
    }
}
