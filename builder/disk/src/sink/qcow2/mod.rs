//! qcow2, version 3 (QEMU's docs/interop/qcow2.txt).
//!
//! Plain disks are laid out before anything is written, so header, tables and
//! clusters follow in one pass, also into a stream. Compressed ones place
//! each cluster where the one before ended and their tables behind what they
//! point to; only the header, which says where the tables are, is written
//! last. Clusters of zeros are not allocated.

mod compressed;
mod plain;

use super::output::Output;
use super::{Compression, Format, Options, SinkError};
use crate::reader::ReadAt;

/// The sizes that QEMU accepts for a cluster, as powers of two.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;

/// The largest L1 table that QEMU opens, in bytes (`QCOW_MAX_L1_SIZE`).
const MAX_L1: u64 = 32 << 20;

/// The largest refcount table that QEMU opens, in bytes
/// (`QCOW_MAX_REFTABLE_SIZE`).
const MAX_REFCOUNT_TABLE: u64 = 8 << 20;

/// Bit 63 of L1 and L2 entries: the refcount is exactly one.
const COPIED: u64 = 1 << 63;

/// Bit 62 of an L2 entry: the cluster is compressed.
const COMPRESSED: u64 = 1 << 62;

/// Bytes of a refcount: 16 bits, `refcount_order` 4, as QEMU's own default.
const REFCOUNT: u64 = 2;
const REFCOUNT_ORDER: u32 = 4;

/// Writes `disk` as `options` say.
pub(super) fn write(
    disk: &dyn ReadAt,
    output: &mut Output<'_>,
    options: &Options,
) -> Result<(), SinkError> {
    let geometry = Geometry::new(disk.size(), options)?;
    match options.compression {
        Compression::None => plain::write(disk, output, &geometry),
        method => compressed::write(disk, output, &geometry, method, options.threads),
    }
}

/// What follows from the sizes of the disk and of a cluster.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    disk_size: u64,
    cluster: u64,
}

impl Geometry {
    fn new(disk_size: u64, options: &Options) -> Result<Self, SinkError> {
        let cluster = u64::from(options.cluster_size);
        if !cluster.is_power_of_two() || !CLUSTER_BITS.contains(&cluster.trailing_zeros()) {
            return Err(bad(format!(
                "clusters have 512 bytes to 2 MiB, a power of two, not {cluster}"
            )));
        }
        let geometry = Self { disk_size, cluster };
        if geometry.l1_entries().saturating_mul(8) > MAX_L1 {
            return Err(bad(format!(
                "{disk_size} bytes need larger clusters than {cluster}"
            )));
        }
        Ok(geometry)
    }

    /// How many clusters one L2 table describes.
    fn l2_entries(&self) -> u64 {
        self.cluster / 8
    }

    fn l1_entries(&self) -> u64 {
        self.disk_size.div_ceil(self.cluster * self.l2_entries())
    }

    /// How many clusters `bytes` take.
    fn clusters(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster)
    }

    /// Clusters of refcount blocks and of the refcount table for a file of
    /// `others` clusters and those.
    fn refcount_clusters(&self, others: u64) -> Result<(u64, u64), SinkError> {
        let per_block = self.cluster / REFCOUNT;
        let (mut blocks, mut table) = (0, 0);
        // They count themselves: grows to a fixed point, and is one after a
        // few rounds, because a block counts thousands of clusters.
        loop {
            let next_blocks = (others + blocks + table).div_ceil(per_block);
            let next_table = self.clusters(next_blocks * 8);
            if (next_blocks, next_table) == (blocks, table) {
                break;
            }
            (blocks, table) = (next_blocks, next_table);
        }
        if table * self.cluster > MAX_REFCOUNT_TABLE {
            return Err(bad(format!(
                "so much content needs larger clusters than {}",
                self.cluster
            )));
        }
        Ok((blocks, table))
    }
}

fn bad(reason: String) -> SinkError {
    SinkError::Format {
        format: Format::Qcow2,
        reason,
    }
}

/// Where a file's tables are.
#[derive(Debug, Clone, Copy)]
struct Tables {
    l1: u64,
    refcount_table: u64,
    refcount_table_clusters: u64,
}

/// Section "Header" of the specification; one cluster.
fn header(geometry: &Geometry, tables: &Tables, compression: Compression) -> Vec<u8> {
    // Bit 3: the compression type is another than zlib.
    let (incompatible, compression_type) = match compression {
        Compression::None | Compression::Zlib => (0u64, 0u8),
        Compression::Zstd => (1 << 3, 1),
    };
    const LENGTH: u32 = 112;
    let mut bytes = Vec::with_capacity(geometry.cluster as usize);
    let mut u32_at_end = |n: u32| bytes.extend(n.to_be_bytes());
    u32_at_end(u32::from_be_bytes(*b"QFI\xfb"));
    u32_at_end(3); // version
    u32_at_end(0); // backing file: none
    u32_at_end(0);
    u32_at_end(0);
    u32_at_end(geometry.cluster.trailing_zeros());
    let mut bytes = append(bytes, &[geometry.disk_size]);
    bytes.extend(0u32.to_be_bytes()); // not encrypted
    bytes.extend((geometry.l1_entries() as u32).to_be_bytes());
    let mut bytes = append(bytes, &[tables.l1, tables.refcount_table]);
    bytes.extend((tables.refcount_table_clusters as u32).to_be_bytes());
    bytes.extend(0u32.to_be_bytes()); // snapshots: none
    let mut bytes = append(
        bytes,
        &[
            0, // snapshots: none
            incompatible,
            0, // compatible features
            0, // autoclear features
        ],
    );
    bytes.extend(REFCOUNT_ORDER.to_be_bytes());
    bytes.extend(LENGTH.to_be_bytes());
    bytes.push(compression_type);
    // Padding of the header, and the end of the header extensions.
    bytes.resize(geometry.cluster as usize, 0);
    bytes
}

fn append(mut bytes: Vec<u8>, numbers: &[u64]) -> Vec<u8> {
    bytes.extend(numbers.iter().flat_map(|n| n.to_be_bytes()));
    bytes
}

/// A table of big-endian numbers in whole clusters.
fn table(numbers: &[u64], geometry: &Geometry) -> Vec<u8> {
    let mut bytes = append(Vec::new(), numbers);
    let len = geometry.clusters(bytes.len() as u64) * geometry.cluster;
    bytes.resize(len as usize, 0);
    bytes
}
