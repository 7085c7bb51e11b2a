//! VMDK, stream-optimised (VMware's Virtual Disk Format 5.0).
//!
//! A sparse extent made to be written and read in one pass: grains of 64 KiB,
//! each compressed with zlib behind a marker that says which it is; a grain
//! table behind the grains that it describes; directory and footer at the
//! end. Grains of zeros are left out.

use super::compress::{BATCH, Compressor, Unit, compress_units};
use super::output::Output;
use super::parallel::in_order;
use super::units::{Units, in_batches};
use super::{Format, SinkError, ids};
use crate::reader::ReadAt;

/// All places and sizes are in sectors of this many bytes.
const SECTOR: u64 = 512;

/// Sectors of a grain.
const GRAIN_SECTORS: u64 = 128;

/// Grains of a grain table.
const TABLE_GRAINS: u64 = 512;

/// Sectors that are kept for the descriptor, which follows the header.
const DESCRIPTOR_SECTORS: u64 = 20;

/// Sectors before the first grain.
const OVERHEAD_SECTORS: u64 = 128;

/// Stands in the header for: the grain directory is named in the footer.
const GD_AT_END: u64 = u64::MAX;

/// Types of markers ("Stream-Optimized Compressed Sparse Extents").
const MARKER_EOS: u32 = 0;
const MARKER_GRAIN_TABLE: u32 = 1;
const MARKER_GRAIN_DIRECTORY: u32 = 2;
const MARKER_FOOTER: u32 = 3;

/// Writes `disk`.
pub(super) fn write(
    disk: &dyn ReadAt,
    output: &mut Output<'_>,
    threads: usize,
) -> Result<(), SinkError> {
    let monitor = output.monitor();
    let capacity = disk.size() / SECTOR;
    let mut start = header(capacity, GD_AT_END);
    start.extend(descriptor(capacity, ids(disk)?.number("content")).as_bytes());
    start.resize((OVERHEAD_SECTORS * SECTOR) as usize, 0);
    output.write(&start)?;

    let grain = GRAIN_SECTORS * SECTOR;
    let tables = capacity.div_ceil(GRAIN_SECTORS * TABLE_GRAINS);
    let mut extent = Extent {
        output,
        directory: vec![0; tables as usize],
        table: Vec::new(),
        table_index: 0,
    };
    in_order(
        threads,
        in_batches(Units::new(disk, grain), BATCH / grain),
        || Ok(Compressor::zlib()),
        |compressor, grains| {
            compress_units(disk, grain, grains, monitor, |plain| {
                compressor.compress(plain)
            })
        },
        |grains| extent.take(grains),
    )?;
    extent.finish(capacity)
}

/// `SparseExtentHeader`, one sector; also the footer.
fn header(capacity: u64, directory: u64) -> Vec<u8> {
    // Bit 0: the line ends below are right; 16: grains are compressed; 17:
    // there are markers.
    const FLAGS: u32 = 1 | 1 << 16 | 1 << 17;
    let mut bytes = Vec::with_capacity(SECTOR as usize);
    bytes.extend(b"KDMV");
    bytes.extend(3u32.to_le_bytes()); // version
    bytes.extend(FLAGS.to_le_bytes());
    for n in [capacity, GRAIN_SECTORS, 1, DESCRIPTOR_SECTORS] {
        bytes.extend(n.to_le_bytes());
    }
    bytes.extend((TABLE_GRAINS as u32).to_le_bytes());
    for n in [0, directory, OVERHEAD_SECTORS] {
        bytes.extend(n.to_le_bytes());
    }
    bytes.push(0); // shut down cleanly
    bytes.extend(b"\n \r\n"); // broken by transfers that meddle with line ends
    bytes.extend(1u16.to_le_bytes()); // deflate
    bytes.resize(SECTOR as usize, 0);
    bytes
}

/// "The Disk Descriptor". The extent's name means nothing inside the extent
/// itself, and must not depend on the output's.
fn descriptor(capacity: u64, content: u32) -> String {
    // As VMware's tools lay out SCSI disks of more than 2 GiB.
    const HEADS: u64 = 255;
    const SECTORS: u64 = 63;
    let cylinders = (capacity / (HEADS * SECTORS)).clamp(1, 65_535);
    format!(
        "# Disk DescriptorFile\n\
         version=1\n\
         CID={content:08x}\n\
         parentCID=ffffffff\n\
         createType=\"streamOptimized\"\n\
         \n\
         # Extent description\n\
         RW {capacity} SPARSE \"disk.vmdk\"\n\
         \n\
         # The Disk Data Base\n\
         #DDB\n\
         \n\
         ddb.adapterType = \"lsilogic\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{HEADS}\"\n\
         ddb.geometry.sectors = \"{SECTORS}\"\n\
         ddb.virtualHWVersion = \"4\"\n"
    )
}

/// The extent as it grows.
struct Extent<'e, 'o> {
    output: &'e mut Output<'o>,
    /// Where the grain tables are; 0 for those with no grain.
    directory: Vec<u32>,
    /// The grain table that is being filled, empty if there is none.
    table: Vec<u32>,
    table_index: u64,
}

impl Extent<'_, '_> {
    fn take(&mut self, grains: Vec<Unit>) -> Result<(), SinkError> {
        let mut pending = Vec::new();
        for grain in grains {
            let index = grain.number / TABLE_GRAINS;
            if index != self.table_index {
                self.close_table(&mut pending)?;
                self.table_index = index;
            }
            let at = self.sector(&pending)?;
            self.table.resize((grain.number % TABLE_GRAINS) as usize, 0);
            self.table.push(at);
            pending.extend((grain.number * GRAIN_SECTORS).to_le_bytes());
            pending.extend((grain.bytes.len() as u32).to_le_bytes());
            pending.extend(grain.bytes);
            fill_sector(&mut pending);
        }
        self.output.write(&pending)
    }

    /// The sector behind `pending`, which is in whole sectors.
    fn sector(&self, pending: &[u8]) -> Result<u32, SinkError> {
        let sector = (self.output.position() + pending.len() as u64) / SECTOR;
        u32::try_from(sector).map_err(|_| SinkError::Format {
            format: Format::Vmdk,
            reason: "the file would be larger than 2 TiB, which its tables cannot tell".into(),
        })
    }

    fn close_table(&mut self, pending: &mut Vec<u8>) -> Result<(), SinkError> {
        if self.table.is_empty() {
            return Ok(());
        }
        self.table.resize(TABLE_GRAINS as usize, 0);
        let bytes: Vec<u8> = self.table.drain(..).flat_map(u32::to_le_bytes).collect();
        marker(pending, bytes.len(), MARKER_GRAIN_TABLE);
        let at = self.sector(pending)?;
        if let Some(slot) = self.directory.get_mut(self.table_index as usize) {
            *slot = at;
        }
        pending.extend(bytes);
        Ok(())
    }

    fn finish(mut self, capacity: u64) -> Result<(), SinkError> {
        let mut pending = Vec::new();
        self.close_table(&mut pending)?;
        let mut bytes: Vec<u8> = self
            .directory
            .drain(..)
            .flat_map(u32::to_le_bytes)
            .collect();
        fill_sector(&mut bytes);
        marker(&mut pending, bytes.len(), MARKER_GRAIN_DIRECTORY);
        let directory = self.sector(&pending)?;
        pending.extend(bytes);
        marker(&mut pending, SECTOR as usize, MARKER_FOOTER);
        pending.extend(header(capacity, u64::from(directory)));
        marker(&mut pending, 0, MARKER_EOS);
        self.output.write(&pending)
    }
}

/// A marker for metadata of `len` bytes that follow in whole sectors.
fn marker(pending: &mut Vec<u8>, len: usize, kind: u32) {
    pending.extend((len as u64 / SECTOR).to_le_bytes());
    pending.extend(0u32.to_le_bytes());
    pending.extend(kind.to_le_bytes());
    fill_sector(pending);
}

fn fill_sector(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0);
}
