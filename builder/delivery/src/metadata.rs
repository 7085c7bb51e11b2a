//! The metadata layer of a disk image: the disk's description, its plan, and
//! the tables of the layers that it uses.
//!
//! It is the topmost layer, a tar of three kinds of files: small, and the
//! only one that changes with each disk. [`Metadata::read`] takes it from a
//! stranger. The format is specified in docs/src/formats/disk-image.md.

use std::collections::BTreeMap;
use std::io::{self, Read};

use bootwright_disk::plan_file::{self, StoredPlan};
use bootwright_disk::reader::MAX_DISK_SIZE;
use bootwright_disk::{Content, Extent, Plan, ReadAt, SourceId};
use bootwright_image::Digest;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::DeliveryError;
use crate::oci::{from_text, json, to_text};
use crate::table::LayerTable;
use crate::tarball;

/// The version of the format that is written and read.
pub const VERSION: u32 = 1;

/// Most bytes of a metadata layer: the file system's own structures are
/// literals of the plan, some 300 bytes a file.
pub const MAX_METADATA: u64 = 1 << 30;

const DISK: &str = "bootwright/disk.json";
const PLAN: &str = "bootwright/plan";
const LAYERS: &str = "bootwright/layers/";

/// What is known of a disk beside its plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskInfo {
    /// Version of the format, [`VERSION`].
    pub version: u32,
    /// The disk's identifier.
    pub guid: Uuid,
    /// Size of the disk in bytes.
    pub size: u64,
    /// What made the image: `bootwright 0.1.0`.
    pub tool: String,
    /// The partitions, in their order on the disk.
    #[serde(default)]
    pub partitions: Vec<PartitionInfo>,
    /// How it boots, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootInfo>,
    /// The image that it was made from, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceImage>,
    /// Options that shaped the disk, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// The layers that the plan uses, in the order of its sources. Filled in
    /// when the image is written.
    #[serde(default)]
    pub layers: Vec<LayerInfo>,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionInfo {
    /// Its number in the table.
    pub number: u32,
    /// Its type.
    pub type_guid: Uuid,
    /// Its identifier.
    pub guid: Uuid,
    /// Its name.
    pub name: String,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
    /// `vfat`, `ext4`; `None` if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_system: Option<String>,
    /// UUID of the file system, as blkid(8) shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
}

/// How a disk boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootInfo {
    /// The kernel's version, as `uname -r` says it.
    pub kernel_version: String,
    /// The kernel command line.
    pub command_line: String,
    /// Where on the disk the kernel is; `None` if nowhere as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<FileOnDisk>,
    /// Where the initramfs is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<FileOnDisk>,
}

/// Where the bytes of a file are on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileOnDisk {
    /// Length of the file in bytes.
    pub size: u64,
    /// Its parts, in order; what lies between them is zeros.
    pub parts: Vec<FilePart>,
}

impl FileOnDisk {
    /// The file's bytes, read from `disk`.
    ///
    /// # Errors
    /// It has more than `limit` bytes
    /// ([`FileTooLarge`](io::ErrorKind::FileTooLarge)), or the disk cannot be
    /// read.
    pub fn read(&self, disk: &dyn ReadAt, limit: u64) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.size).ok();
        let Some(len) = len.filter(|_| self.size <= limit) else {
            let message = format!("{} bytes; at most {limit} are read", self.size);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        };
        let mut bytes = vec![0; len];
        for part in &self.parts {
            let end = part.offset.checked_add(part.len);
            let range = end.map(|end| part.offset as usize..end as usize);
            let to = range.and_then(|range| bytes.get_mut(range));
            disk.read_exact_at(part.disk_offset, to.ok_or(io::ErrorKind::InvalidData)?)?;
        }
        Ok(bytes)
    }
}

/// A part of a file on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FilePart {
    /// Byte offset in the file.
    pub offset: u64,
    /// Byte offset on the disk.
    pub disk_offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// The image that a disk was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceImage {
    /// Its reference, in full.
    pub reference: String,
    /// The digest of its manifest; `None` from sources without manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// A digest over its diff ids and its platform.
    pub identity: String,
}

/// A layer that the plan uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerInfo {
    /// Its diff id.
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    pub diff_id: Digest,
    /// The digest of its blob, which its table is about.
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
}

/// All that the metadata layer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The description.
    pub info: DiskInfo,
    /// The plan, its packs not yet found.
    pub plan: StoredPlan,
    /// A table for each layer of the description, in its order.
    pub tables: Vec<LayerTable>,
}

/// The tar of a metadata layer.
pub(crate) fn tar(
    info: &DiskInfo,
    plan: &Plan,
    tables: &[LayerTable],
) -> Result<Vec<u8>, DeliveryError> {
    let mut encoded = Vec::new();
    plan_file::encode(plan, info.guid.into_bytes(), &mut encoded)?;
    let mut files = vec![
        (DISK.to_owned(), json("disk.json", info)?),
        (PLAN.to_owned(), encoded),
    ];
    files.extend(tables.iter().enumerate().map(|(n, table)| {
        let path = format!("{LAYERS}{n:04}");
        (path, table.encode())
    }));
    tarball::small_files(&files).map_err(DeliveryError::io("metadata layer"))
}

impl Metadata {
    /// Reads the tar of a metadata layer.
    ///
    /// # Errors
    /// It cannot be read, or is no valid metadata of a version that is known.
    pub fn read(tar: &mut dyn Read) -> Result<Self, DeliveryError> {
        let mut files = tarball::read_small_files("metadata layer", tar, MAX_METADATA)?;
        let mut take = |name: &str| {
            files
                .remove(name)
                .ok_or_else(|| DeliveryError::malformed("metadata layer", format!("no {name}")))
        };
        let info = info(&take(DISK)?)?;
        let plan = plan_file::decode(take(PLAN)?.into())?;
        let tables = info
            .layers
            .iter()
            .enumerate()
            .map(|(n, layer)| {
                LayerTable::decode(&take(&format!("{LAYERS}{n:04}"))?).map_err(|error| {
                    DeliveryError::Table {
                        diff_id: layer.diff_id.clone(),
                        error,
                    }
                })
            })
            .collect::<Result<_, _>>()?;
        if let Some(name) = files.keys().next() {
            let reason = format!("an unexpected file {name:?}");
            return Err(DeliveryError::malformed("metadata layer", reason));
        }
        let metadata = Self { info, plan, tables };
        metadata.check()?;
        Ok(metadata)
    }

    /// The parts must speak of the same disk.
    fn check(&self) -> Result<(), DeliveryError> {
        let malformed = |reason: &str| Err(DeliveryError::malformed("metadata layer", reason));
        let Self { info, plan, tables } = self;
        if plan.guid != info.guid.into_bytes() || plan.size != info.size {
            return malformed("disk.json and plan are of different disks");
        }
        if plan.size > MAX_DISK_SIZE {
            return malformed("the disk is larger than 64 TiB");
        }
        if plan.packs.len() != info.layers.len() {
            return malformed("disk.json and plan have different numbers of layers");
        }
        for ((pack, layer), table) in plan.packs.iter().zip(&info.layers).zip(tables) {
            if pack.diff_id != layer.diff_id.to_string() || pack.len != table.pack_len() {
                return malformed("plan and tables are of different layers");
            }
            let blob = table.blob_range(0..table.frames().len());
            if blob.is_none_or(|blob| blob.end > layer.size) {
                return malformed("a table has frames outside its blob");
            }
        }
        let boot = info.boot.iter();
        for file in boot.flat_map(|b| b.kernel.iter().chain(&b.initrd)) {
            let mut last = 0;
            for part in &file.parts {
                let end = part.disk_offset.checked_add(part.len);
                if end.is_none_or(|end| end > info.size) {
                    return malformed("a file of the boot is outside the disk");
                }
                let end = part.offset.checked_add(part.len);
                last = match end.filter(|&end| part.offset >= last && end <= file.size) {
                    Some(end) => end,
                    None => return malformed("a file of the boot has parts out of order"),
                };
            }
        }
        Ok(())
    }
}

fn info(bytes: &[u8]) -> Result<DiskInfo, DeliveryError> {
    #[derive(Deserialize)]
    struct Probe {
        version: u32,
    }
    let malformed = |e: serde_json::Error| DeliveryError::malformed("disk.json", e.to_string());
    let Probe { version } = serde_json::from_slice(bytes).map_err(malformed)?;
    if version != VERSION {
        return Err(DeliveryError::Newer {
            found: version,
            known: VERSION,
        });
    }
    serde_json::from_slice(bytes).map_err(malformed)
}

/// Finds a file of the image on the disk, by the ranges of packs that both
/// show. `None` if part of it is nowhere on the disk as it is.
pub fn locate(plan: &Plan, size: u64, extents: &[Extent]) -> Option<FileOnDisk> {
    // All places on the disk that show a pack, by pack and offset in it.
    let mut shown: Vec<(SourceId, u64, u64, u64)> = plan
        .extents()
        .iter()
        .filter_map(|extent| match extent.content {
            Content::Source { id, offset } => Some((id, offset, extent.len, extent.start)),
            Content::Literal(_) => None,
        })
        .collect();
    shown.sort_unstable();
    // Packs are shown twice where a file is on two partitions, so what ends
    // behind a byte need not begin near it: look back over the longest.
    let longest = shown.iter().map(|s| s.2).max()?;
    let mut parts: Vec<FilePart> = Vec::new();
    for extent in extents {
        let Content::Source { id, offset } = extent.content else {
            return None;
        };
        let (mut at, end) = (offset, offset.checked_add(extent.len)?);
        while at < end {
            let first = shown.partition_point(|s| (s.0, s.1) < (id, at.saturating_sub(longest)));
            let found = shown.get(first..)?.iter();
            let (_, start, len, disk) = found
                .take_while(|s| s.0 == id && s.1 <= at)
                .filter(|s| s.1 + s.2 > at)
                .max_by_key(|s| (s.1 + s.2, std::cmp::Reverse(s.3)))?;
            let len = (start + len).min(end) - at;
            let part = FilePart {
                offset: extent.start + (at - offset),
                disk_offset: disk + (at - start),
                len,
            };
            match parts.last_mut() {
                Some(last)
                    if last.offset + last.len == part.offset
                        && last.disk_offset + last.len == part.disk_offset =>
                {
                    last.len += part.len;
                }
                _ => parts.push(part),
            }
            at += len;
        }
    }
    Some(FileOnDisk { size, parts })
}
