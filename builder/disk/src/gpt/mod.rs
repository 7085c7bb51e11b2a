//! GUID partition tables: laying out and reading them.
//!
//! [`layout()`] places partitions of given lengths on a disk and gives the
//! extents of the protective MBR and of both copies of the table; [`read()`]
//! turns a disk that somebody else wrote into a [`Table`]. The format is
//! clause 5 of the UEFI specification (2.10), the partition types are those
//! of UAPI.2, the Discoverable Partitions Specification.

mod header;
mod layout;
mod partition_reader;
mod read;
pub mod types;

use uuid::Uuid;

pub use layout::{Layout, LayoutError, NewPartition, Options, layout, smallest_disk, space_left};
pub use partition_reader::PartitionReader;
pub use read::{Fault, ReadError, read};

/// Size in bytes of the sectors of the disks that [`layout()`] makes.
pub const SECTOR: u64 = 512;

/// Where partitions start: a multiple of this many bytes (1 MiB), which suits
/// every physical sector, erase block and stripe in use.
pub const ALIGNMENT: u64 = 1 << 20;

/// Bits of [`Partition::attributes`].
pub mod attributes {
    /// The platform needs this partition; tools must not remove it
    /// (UEFI 2.10, table 5.8).
    pub const REQUIRED: u64 = 1 << 0;
    /// The firmware shall not offer the partition (UEFI 2.10, table 5.8).
    pub const NO_BLOCK_IO: u64 = 1 << 1;
    /// A legacy BIOS may boot from it (UEFI 2.10, table 5.8).
    pub const LEGACY_BIOS_BOOTABLE: u64 = 1 << 2;
    /// The file system is grown to its partition when it is mounted (UAPI.2).
    pub const GROW_FILE_SYSTEM: u64 = 1 << 59;
    /// The partition is mounted read-only (UAPI.2).
    pub const READ_ONLY: u64 = 1 << 60;
    /// The partition is not mounted automatically (UAPI.2).
    pub const NO_AUTO: u64 = 1 << 63;
}

/// A partition of a [`Table`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its place in the table, from 1; Linux names devices by it.
    pub number: u32,
    /// What the partition is for; see [`types`].
    pub type_guid: Uuid,
    /// The partition's own identifier (`PARTUUID`).
    pub guid: Uuid,
    /// Its name, at most 36 UTF-16 code units. Names that were read can hold
    /// any character but NUL; what was no UTF-16 is U+FFFD.
    pub name: String,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// See [`attributes`].
    pub attributes: u64,
}

impl Partition {
    /// The first byte after the partition.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// A disk's partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The disk's identifier.
    pub disk_guid: Uuid,
    /// Size of the disk's logical sectors in bytes: 512 or 4096.
    pub sector_size: u64,
    /// Which copy the table was read from.
    pub copy: Copy,
    /// The partitions in order of their numbers; they do not overlap.
    pub partitions: Vec<Partition>,
}

impl Table {
    /// The first partition of the given type, in order of numbers.
    pub fn find(&self, type_guid: Uuid) -> Option<&Partition> {
        self.partitions.iter().find(|p| p.type_guid == type_guid)
    }
}

/// One of the two copies of a partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// The one at the start of the disk.
    Primary,
    /// The one at the end of the disk.
    Backup,
}
