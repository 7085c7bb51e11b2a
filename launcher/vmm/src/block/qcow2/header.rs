//! The header of a qcow2 file (QEMU's [docs/interop/qcow2], "Header").
//!
//! In goes the file; out come the numbers that all else depends on, each
//! checked, or a message that says what the file asks for and what can be
//! done. Names of other files that it contains are shown and never opened.
//!
//! [docs/interop/qcow2]: https://www.qemu.org/docs/master/interop/qcow2.html

use std::path::Path;

use crate::block::{HostFile, OpenError};

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Length of a version 2 header.
const V2_LEN: usize = 72;
/// Length of a version 3 header without the additional fields.
const V3_LEN: usize = 104;
/// Where the offset of the refcount table is; its length in clusters follows.
pub(super) const REFTABLE_FIELD: u64 = 48;
/// Where the autoclear features are.
pub(super) const AUTOCLEAR_FIELD: u64 = 88;

/// The sizes that QEMU accepts for a cluster, as powers of two.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// The largest L1 and refcount tables that QEMU opens, in bytes.
const MAX_L1: u64 = 32 << 20;
pub(super) const MAX_REFTABLE: u64 = 8 << 20;
/// The largest disk: what a signed offset can say, with room to round up.
const MAX_SIZE: u64 = 1 << 62;

/// Incompatible features.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;

/// How clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Zlib,
    Zstd,
}

/// What the header says.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    /// Size of the disk in bytes.
    pub(super) size: u64,
    pub(super) l1_offset: u64,
    /// Entries of the L1 table that the disk needs; there may be more.
    pub(super) l1_entries: u64,
    pub(super) reftable_offset: u64,
    pub(super) reftable_clusters: u32,
    /// A refcount has 2 to the power of this many bits.
    pub(super) refcount_order: u32,
    pub(super) method: Method,
    /// Refcounts may be wrong.
    pub(super) dirty: bool,
    pub(super) autoclear: u64,
    /// The name of the backing file, as it is in the header.
    pub(super) backing: Option<String>,
}

struct Fields([u8; 112]);

impl Fields {
    fn u32(&self, at: usize) -> u32 {
        let field = self.0.get(at..).and_then(|b| b.first_chunk());
        field.map_or(0, |b| u32::from_be_bytes(*b))
    }
    fn u64(&self, at: usize) -> u64 {
        let field = self.0.get(at..).and_then(|b| b.first_chunk());
        field.map_or(0, |b| u64::from_be_bytes(*b))
    }
}

pub(super) fn damaged(path: &Path, reason: impl Into<String>) -> OpenError {
    OpenError::Damaged {
        path: path.into(),
        format: "qcow2",
        reason: reason.into(),
    }
}

fn unsupported(path: &Path, what: impl Into<String>) -> OpenError {
    OpenError::Unsupported {
        path: path.into(),
        what: what.into(),
    }
}

impl Header {
    /// Reads and checks the header of `file`.
    pub(super) fn read(file: &HostFile) -> Result<Self, OpenError> {
        let path = file.path();
        let io = |error| OpenError::Io {
            path: path.into(),
            error,
        };
        let file_len = file.len().map_err(io)?;
        let mut fields = Fields([0; 112]);
        file.read_sparse_at(0, &mut fields.0).map_err(io)?;
        if file_len < V2_LEN as u64 || !fields.0.starts_with(&MAGIC) {
            return Err(damaged(path, "it has no header"));
        }
        let version = fields.u32(4);
        if !(2..=3).contains(&version) {
            return Err(unsupported(path, format!("a qcow2 of version {version}")));
        }
        if fields.u32(32) != 0 {
            return Err(unsupported(path, "an encrypted qcow2"));
        }
        let cluster_bits = fields.u32(20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            let reason = format!("clusters of 2^{cluster_bits} bytes");
            return Err(damaged(path, reason));
        }
        let mut header = Self {
            version,
            cluster_bits,
            size: fields.u64(24),
            l1_offset: fields.u64(40),
            l1_entries: 0,
            reftable_offset: fields.u64(REFTABLE_FIELD as usize),
            reftable_clusters: fields.u32(56),
            refcount_order: 4,
            method: Method::Zlib,
            dirty: false,
            autoclear: 0,
            backing: None,
        };
        if version == 3 {
            header.features(path, &fields, file_len)?;
        }
        header.tables(path, u64::from(fields.u32(36)), file_len)?;
        if fields.u64(8) != 0 {
            header.backing = Some(backing_name(file, &fields, 1 << cluster_bits)?);
        }
        Ok(header)
    }

    /// The fields of version 3.
    fn features(&mut self, path: &Path, fields: &Fields, file_len: u64) -> Result<(), OpenError> {
        let len = fields.u32(100);
        if file_len < V3_LEN as u64 || (len as usize) < V3_LEN || len > 1 << self.cluster_bits {
            return Err(damaged(path, format!("a header of {len} bytes")));
        }
        let features = fields.u64(72);
        if features & EXTERNAL_DATA != 0 {
            return Err(unsupported(
                path,
                "a qcow2 with an external data file, which is not opened; \
                 make it whole with qemu-img convert",
            ));
        }
        if features & CORRUPT != 0 {
            return Err(damaged(
                path,
                "it is marked as corrupt; try qemu-img check -r all",
            ));
        }
        let unknown = features & !(DIRTY | CORRUPT | COMPRESSION);
        if unknown != 0 {
            return Err(unsupported(
                path,
                format!(
                    "a qcow2 with incompatible features {unknown:#x}; \
                     make a plain one with qemu-img convert"
                ),
            ));
        }
        self.dirty = features & DIRTY != 0;
        self.autoclear = fields.u64(AUTOCLEAR_FIELD as usize);
        self.refcount_order = fields.u32(96);
        if self.refcount_order > 6 {
            let reason = format!("refcounts of 2^{} bits", self.refcount_order);
            return Err(damaged(path, reason));
        }
        if features & COMPRESSION != 0 {
            self.method = match fields.0.get(V3_LEN) {
                Some(0) => Method::Zlib,
                Some(1) if len as usize > V3_LEN => Method::Zstd,
                other => {
                    let other = other.copied().unwrap_or_default();
                    let what = format!("a qcow2 with compression type {other}");
                    return Err(unsupported(path, what));
                }
            };
        }
        Ok(())
    }

    /// The tables must be where they can be, and large enough.
    fn tables(&mut self, path: &Path, l1_size: u64, file_len: u64) -> Result<(), OpenError> {
        let cluster = 1u64 << self.cluster_bits;
        if self.size > MAX_SIZE {
            return Err(damaged(path, format!("a disk of {} bytes", self.size)));
        }
        // One L2 table is a cluster of 8-byte entries.
        let covered = cluster << (self.cluster_bits - 3);
        self.l1_entries = self.size.div_ceil(covered);
        if l1_size * 8 > MAX_L1 || self.l1_entries > l1_size {
            let reason = format!(
                "an L1 table of {l1_size} entries for a disk of {}",
                self.size
            );
            return Err(damaged(path, reason));
        }
        let inside = |offset: u64, len: u64| {
            let end = offset.checked_add(len);
            offset.is_multiple_of(cluster) && end.is_some_and(|end| end <= file_len)
        };
        if !inside(self.l1_offset, self.l1_entries * 8)
            || (self.l1_entries > 0 && self.l1_offset == 0)
        {
            let reason = format!("there is no L1 table at {}", self.l1_offset);
            return Err(damaged(path, reason));
        }
        let reftable = u64::from(self.reftable_clusters) << self.cluster_bits;
        if reftable == 0
            || reftable > MAX_REFTABLE
            || self.reftable_offset == 0
            || !inside(self.reftable_offset, 0)
        {
            let reason = format!("there is no refcount table at {}", self.reftable_offset);
            return Err(damaged(path, reason));
        }
        Ok(())
    }
}

/// The name of the backing file, for messages.
fn backing_name(file: &HostFile, fields: &Fields, cluster: u64) -> Result<String, OpenError> {
    let (offset, len) = (fields.u64(8), fields.u32(16));
    if len == 0 || len > 1023 || offset.saturating_add(len.into()) > cluster {
        let reason = format!("the name of its backing file has {len} bytes at {offset}");
        return Err(damaged(file.path(), reason));
    }
    let mut name = vec![0; len as usize];
    file.read_sparse_at(offset, &mut name)
        .map_err(|error| OpenError::Io {
            path: file.path().into(),
            error,
        })?;
    // For people: a name is bytes, and may hold what a terminal obeys.
    let name = String::from_utf8_lossy(&name);
    Ok(name.escape_debug().to_string())
}
