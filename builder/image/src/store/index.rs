//! The binary index of a layer: its format, and reading it.
//!
//! An index file is a [`Header`], five tables without gaps, and nothing else;
//! docs/src/formats/store.md describes it. It is read at once into memory and
//! validated once ([`Index::parse`]); after that going through its entries
//! cannot fail. Nothing in it is trusted before it is validated.

use std::mem::size_of;
use std::ops::Range;

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::pack::CHUNK;
use crate::digest::Digest;
use crate::layer::{Entry, EntryKind, PACK_BLOCK, Segment, Timestamp};
use crate::tar::{MAX_SYMLINK, is_normal};

/// First bytes of an index file.
pub(super) const MAGIC: [u8; 8] = *b"bw-index";
/// Version of the format that is written and read.
pub(super) const VERSION: u32 = 1;
/// Where the sum's coverage begins: after `written_under`, which is changed in
/// place.
pub(super) const SUMMED_FROM: usize = 32;
/// Where [`Header::written_under`] lies in the file.
pub(super) const WRITTEN_UNDER_AT: u64 = 16;

/// A boot of a machine: the kernel's boot id. All zeros: none, the pack is
/// known to be on the disk.
pub(super) type BootId = [u8; 16];

#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub(super) magic: [u8; 8],
    pub(super) version: U32,
    /// CRC32C of the file from [`SUMMED_FROM`] on.
    pub(super) sum: U32,
    /// The boot under which the pack was written and might not have reached
    /// the disk.
    pub(super) written_under: BootId,
    /// Length of the index file.
    pub(super) file_len: U64,
    pub(super) pack_len: U64,
    /// Length of the uncompressed tar.
    pub(super) tar_len: U64,
    /// Length of the blob as read.
    pub(super) blob_len: U64,
    /// Digests as text, padded with NULs.
    pub(super) diff_id: [u8; 136],
    pub(super) blob: [u8; 136],
    pub(super) entries: U32,
    pub(super) segments: U32,
    pub(super) xattrs: U32,
    pub(super) chunks: U32,
    pub(super) strings: U32,
    /// CRC32C of the skeleton's file.
    pub(super) skeleton_sum: U32,
}

/// A run of bytes in the table of strings.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub(super) struct Text {
    pub(super) at: U32,
    pub(super) len: U32,
}

#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct EntryRecord {
    pub(super) path: Text,
    /// Of links.
    pub(super) target: Text,
    /// Of regular files.
    pub(super) size: U64,
    pub(super) mtime_secs: I64,
    pub(super) mtime_nanos: U32,
    pub(super) uid: U32,
    pub(super) gid: U32,
    /// Of devices.
    pub(super) major: U32,
    pub(super) minor: U32,
    /// Its segments follow those of the entry before.
    pub(super) first_segment: U32,
    pub(super) segments: U32,
    /// Entries may share a run of the table.
    pub(super) first_xattr: U32,
    pub(super) xattrs: U16,
    pub(super) mode: U16,
    pub(super) kind: u8,
    pub(super) reserved: [u8; 3],
}

#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SegmentRecord {
    pub(super) file_offset: U64,
    pub(super) pack_offset: U64,
    pub(super) len: U64,
}

#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct XattrRecord {
    pub(super) name: Text,
    pub(super) value: Text,
}

/// Values of [`EntryRecord::kind`]; those of a tar's type flags.
pub(super) mod kind {
    pub(crate) const REGULAR: u8 = b'0';
    pub(crate) const HARDLINK: u8 = b'1';
    pub(crate) const SYMLINK: u8 = b'2';
    pub(crate) const CHAR_DEVICE: u8 = b'3';
    pub(crate) const BLOCK_DEVICE: u8 = b'4';
    pub(crate) const DIRECTORY: u8 = b'5';
    pub(crate) const FIFO: u8 = b'6';
}

/// An index that has been validated.
#[derive(Debug)]
pub struct Index {
    bytes: Vec<u8>,
    header: Header,
    diff_id: Digest,
    blob: Digest,
    entries: Range<usize>,
    segments: Range<usize>,
    xattrs: Range<usize>,
    chunks: Range<usize>,
    strings: Range<usize>,
}

/// Bytes that are no valid index.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IndexError {
    /// Not an index at all.
    #[error("it is no index")]
    Magic,
    /// Written by another version.
    #[error("its format is version {0}; this program reads version {VERSION}")]
    Version(u32),
    /// Its length is not what it says, or its tables do not fit it.
    #[error("it is truncated or has the wrong length")]
    Length,
    /// Its sum is wrong.
    #[error("its checksum is wrong")]
    Sum,
    /// A field of the header is not valid.
    #[error("its header has an invalid {0}")]
    Header(&'static str),
    /// A record is not valid.
    #[error("its {table} {number} has an invalid {field}")]
    Record {
        /// In which table.
        table: &'static str,
        /// Which record, from 0.
        number: usize,
        /// Which field.
        field: &'static str,
    },
}

impl Index {
    /// Validates an index.
    ///
    /// # Errors
    /// See [`IndexError`]; any bytes give an error or a usable index.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, IndexError> {
        let (header, _) = Header::read_from_prefix(&bytes).map_err(|_| IndexError::Magic)?;
        if header.magic != MAGIC {
            return Err(IndexError::Magic);
        }
        if header.version != VERSION {
            return Err(IndexError::Version(header.version.get()));
        }
        if header.file_len.get() != bytes.len() as u64 {
            return Err(IndexError::Length);
        }
        let summed = bytes.get(SUMMED_FROM..).unwrap_or_default();
        if header.sum != crc32c::crc32c(summed) {
            return Err(IndexError::Sum);
        }
        let mut end = size_of::<Header>();
        let mut table = |count: U32, size: usize| {
            let start = end;
            let len = usize::try_from(count.get()).ok()?.checked_mul(size)?;
            end = start.checked_add(len)?;
            Some(start..end)
        };
        let mut tables = || {
            Some((
                table(header.entries, size_of::<EntryRecord>())?,
                table(header.segments, size_of::<SegmentRecord>())?,
                table(header.xattrs, size_of::<XattrRecord>())?,
                table(header.chunks, size_of::<U32>())?,
                table(header.strings, 1)?,
            ))
        };
        let (entries, segments, xattrs, chunks, strings) = tables().ok_or(IndexError::Length)?;
        if strings.end != bytes.len() {
            return Err(IndexError::Length);
        }
        let index = Self {
            diff_id: digest(&header.diff_id).ok_or(IndexError::Header("diff id"))?,
            blob: digest(&header.blob).ok_or(IndexError::Header("blob digest"))?,
            bytes,
            header,
            entries,
            segments,
            xattrs,
            chunks,
            strings,
        };
        index.validate()?;
        Ok(index)
    }

    fn validate(&self) -> Result<(), IndexError> {
        let pack_len = self.pack_len();
        if !pack_len.is_multiple_of(PACK_BLOCK) {
            return Err(IndexError::Header("pack length"));
        }
        if self.chunk_sums().len() as u64 != pack_len.div_ceil(CHUNK as u64) {
            return Err(IndexError::Header("number of chunks"));
        }
        for (number, xattr) in self.xattr_records().iter().enumerate() {
            let error = |field| record("extended attribute", number, field);
            let name = self.checked(xattr.name).ok_or(error("name"))?;
            if name.is_empty() || name.len() > 255 || name.contains(&0) {
                return Err(error("name"));
            }
            self.checked(xattr.value).ok_or(error("value"))?;
        }
        // Segments of all files lie in the pack in order, no two in one block.
        let mut free = 0;
        for (number, segment) in self.segment_records().iter().enumerate() {
            let error = |field| record("segment", number, field);
            let (at, len) = (segment.pack_offset.get(), segment.len.get());
            let end = at
                .checked_add(len)
                .filter(|&end| end <= pack_len && len > 0);
            let end = end.ok_or(error("length"))?;
            if at < free {
                return Err(error("pack offset"));
            }
            if at % PACK_BLOCK != segment.file_offset.get() % PACK_BLOCK {
                return Err(error("alignment"));
            }
            free = end.next_multiple_of(PACK_BLOCK);
        }
        let mut next_segment = 0;
        for (number, entry) in self.entry_records().iter().enumerate() {
            self.validate_entry(entry, &mut next_segment)
                .map_err(|field| record("entry", number, field))?;
        }
        if next_segment != self.segment_records().len() {
            return Err(IndexError::Header("number of segments"));
        }
        Ok(())
    }

    fn validate_entry(
        &self,
        entry: &EntryRecord,
        next_segment: &mut usize,
    ) -> Result<(), &'static str> {
        let path = self.checked(entry.path).ok_or("path")?;
        let target = self.checked(entry.target).ok_or("target")?;
        if !is_normal(path) || path.is_empty() && entry.kind != kind::DIRECTORY {
            return Err("path");
        }
        match entry.kind {
            kind::SYMLINK if target.is_empty() || target.len() > MAX_SYMLINK => {
                return Err("target");
            }
            kind::SYMLINK if target.contains(&0) => return Err("target"),
            kind::HARDLINK if target.is_empty() || !is_normal(target) => return Err("target"),
            kind::SYMLINK | kind::HARDLINK => {}
            kind::REGULAR..=kind::FIFO if target.is_empty() => {}
            kind::REGULAR..=kind::FIFO => return Err("target"),
            _ => return Err("kind"),
        }
        if entry.mode.get() > 0o7777 {
            return Err("mode");
        }
        if entry.mtime_nanos.get() >= 1_000_000_000 {
            return Err("time");
        }
        if entry.kind != kind::REGULAR && (entry.size != 0 || entry.segments != 0) {
            return Err("size");
        }
        let xattrs = self.xattrs_of(entry).ok_or("extended attributes")?;
        let names = xattrs.iter().map(|x| self.text(x.name));
        if !names.is_sorted_by(|a, b| a < b) {
            return Err("order of extended attributes");
        }
        if usize::try_from(entry.first_segment.get()) != Ok(*next_segment) {
            return Err("first segment");
        }
        let segments = self.segments_of(entry).ok_or("number of segments")?;
        *next_segment += segments.len();
        let mut free = 0;
        for segment in segments {
            let at = segment.file_offset.get();
            let end = at.checked_add(segment.len.get());
            let end = end.filter(|&end| at >= free && end <= entry.size.get());
            free = end
                .and_then(|end| end.checked_next_multiple_of(PACK_BLOCK))
                .ok_or("segment")?;
        }
        Ok(())
    }

    /// The diff id of the layer.
    pub fn diff_id(&self) -> &Digest {
        &self.diff_id
    }

    /// The digest of the blob that the layer was read from.
    pub fn blob(&self) -> &Digest {
        &self.blob
    }

    /// The length in bytes of the blob that the layer was read from.
    pub fn blob_len(&self) -> u64 {
        self.header.blob_len.get()
    }

    /// The length of the uncompressed tar in bytes.
    pub fn tar_len(&self) -> u64 {
        self.header.tar_len.get()
    }

    /// The length of the pack in bytes, a multiple of 4096.
    pub fn pack_len(&self) -> u64 {
        self.header.pack_len.get()
    }

    /// The index as it is in its file.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn written_under(&self) -> BootId {
        self.header.written_under
    }

    /// CRC32C of the skeleton's file.
    pub(super) fn skeleton_sum(&self) -> u32 {
        self.header.skeleton_sum.get()
    }

    /// CRC32C of each MiB of the pack; the last may be shorter.
    pub(super) fn chunk_sums(&self) -> &[U32] {
        self.table(&self.chunks)
    }

    /// The entries in tar order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry<'_>> + '_ {
        self.entry_records().iter().map(|record| self.entry(record))
    }

    fn entry<'a>(&'a self, entry: &EntryRecord) -> Entry<'a> {
        let target = self.text(entry.target);
        let (major, minor) = (entry.major.get(), entry.minor.get());
        let kind = match entry.kind {
            kind::DIRECTORY => EntryKind::Directory,
            kind::SYMLINK => EntryKind::Symlink { target },
            kind::HARDLINK => EntryKind::Hardlink { target },
            kind::CHAR_DEVICE => EntryKind::CharDevice { major, minor },
            kind::BLOCK_DEVICE => EntryKind::BlockDevice { major, minor },
            kind::FIFO => EntryKind::Fifo,
            _ => EntryKind::Regular {
                size: entry.size.get(),
                segments: self
                    .segments_of(entry)
                    .unwrap_or_default()
                    .iter()
                    .map(|s| Segment {
                        file_offset: s.file_offset.get(),
                        pack_offset: s.pack_offset.get(),
                        len: s.len.get(),
                    })
                    .collect(),
            },
        };
        let xattrs = self.xattrs_of(entry).unwrap_or_default().iter();
        Entry {
            path: self.text(entry.path),
            kind,
            mode: entry.mode.get(),
            uid: entry.uid.get(),
            gid: entry.gid.get(),
            mtime: Timestamp {
                secs: entry.mtime_secs.get(),
                nanos: entry.mtime_nanos.get(),
            },
            xattrs: xattrs
                .map(|x| (self.text(x.name), self.text(x.value)))
                .collect(),
        }
    }

    fn entry_records(&self) -> &[EntryRecord] {
        self.table(&self.entries)
    }

    fn segment_records(&self) -> &[SegmentRecord] {
        self.table(&self.segments)
    }

    fn xattr_records(&self) -> &[XattrRecord] {
        self.table(&self.xattrs)
    }

    fn segments_of(&self, entry: &EntryRecord) -> Option<&[SegmentRecord]> {
        run(self.segment_records(), entry.first_segment, entry.segments)
    }

    fn xattrs_of(&self, entry: &EntryRecord) -> Option<&[XattrRecord]> {
        let count = U32::new(entry.xattrs.get().into());
        run(self.xattr_records(), entry.first_xattr, count)
    }

    fn table<T: FromBytes + Immutable + Unaligned>(&self, range: &Range<usize>) -> &[T]
    where
        [T]: FromBytes + KnownLayout,
    {
        let bytes = self.bytes.get(range.clone()).unwrap_or_default();
        <[T]>::ref_from_bytes(bytes).unwrap_or_default()
    }

    fn checked(&self, Text { at, len }: Text) -> Option<&[u8]> {
        let strings = self.bytes.get(self.strings.clone())?;
        run(strings, at, len)
    }

    fn text(&self, text: Text) -> &[u8] {
        self.checked(text).unwrap_or_default()
    }
}

fn run<T>(table: &[T], first: U32, count: U32) -> Option<&[T]> {
    let first = usize::try_from(first.get()).ok()?;
    let count = usize::try_from(count.get()).ok()?;
    table.get(first..first.checked_add(count)?)
}

fn record(table: &'static str, number: usize, field: &'static str) -> IndexError {
    IndexError::Record {
        table,
        number,
        field,
    }
}

fn digest(field: &[u8]) -> Option<Digest> {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    let (text, rest) = field.split_at_checked(end)?;
    if rest.iter().any(|&b| b != 0) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}
