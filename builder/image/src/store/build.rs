//! Building the index of a layer while its tar is read.

use std::collections::HashMap;

use zerocopy::IntoBytes;

use super::index::{
    BootId, EntryRecord, Header, MAGIC, SUMMED_FROM, SegmentRecord, Text, VERSION, XattrRecord,
    kind,
};
use crate::digest::Digest;
use crate::layer::Segment;
use crate::tar::{Limits, Member, MemberKind, TarError};

/// Longest extended attribute that is looked for among those of earlier
/// entries; longer ones hardly ever repeat.
const MAX_SHARED: usize = 256;

/// The tables of an index in the making.
#[derive(Debug, Default)]
pub(super) struct IndexBuilder {
    entries: Vec<EntryRecord>,
    segments: Vec<SegmentRecord>,
    xattrs: Vec<XattrRecord>,
    strings: Vec<u8>,
    /// Names and values of extended attributes that are in `strings` already:
    /// on a labelled file system they are few. Only looked up, never gone
    /// through, so its order shows nowhere.
    shared: HashMap<Box<[u8]>, Text>,
}

/// What an index says of the whole layer.
#[derive(Debug)]
pub(super) struct Summary<'a> {
    pub(super) diff_id: &'a Digest,
    pub(super) blob: &'a Digest,
    pub(super) blob_len: u64,
    pub(super) tar_len: u64,
    pub(super) pack_len: u64,
    pub(super) chunk_sums: &'a [u32],
    pub(super) skeleton_sum: u32,
    pub(super) written_under: BootId,
}

impl IndexBuilder {
    /// Adds an entry.
    pub(super) fn add(
        &mut self,
        member: &Member,
        segments: &[Segment],
        limits: &Limits,
    ) -> Result<(), TarError> {
        let first_segment = self.segments.len() as u32;
        let first_xattr = self.xattrs.len() as u32;
        self.segments.extend(segments.iter().map(|s| SegmentRecord {
            file_offset: s.file_offset.into(),
            pack_offset: s.pack_offset.into(),
            len: s.len.into(),
        }));
        for (name, value) in &member.xattrs {
            let record = XattrRecord {
                name: self.shared(name),
                value: self.shared(value),
            };
            self.xattrs.push(record);
        }
        let first_xattr = self.share_xattrs(first_xattr as usize, member.xattrs.len());
        let path = self.string(&member.path);
        let target = match member.target.as_slice() {
            [] => Text::default(),
            target => self.string(target),
        };
        let (kind, major, minor) = match member.kind {
            MemberKind::Regular => (kind::REGULAR, 0, 0),
            MemberKind::Directory => (kind::DIRECTORY, 0, 0),
            MemberKind::Symlink => (kind::SYMLINK, 0, 0),
            MemberKind::Hardlink => (kind::HARDLINK, 0, 0),
            MemberKind::CharDevice { major, minor } => (kind::CHAR_DEVICE, major, minor),
            MemberKind::BlockDevice { major, minor } => (kind::BLOCK_DEVICE, major, minor),
            MemberKind::Fifo => (kind::FIFO, 0, 0),
        };
        self.entries.push(EntryRecord {
            path,
            target,
            size: member.size.into(),
            mtime_secs: member.mtime.secs.into(),
            mtime_nanos: member.mtime.nanos.into(),
            uid: member.uid.into(),
            gid: member.gid.into(),
            major: major.into(),
            minor: minor.into(),
            first_segment: first_segment.into(),
            segments: (segments.len() as u32).into(),
            first_xattr: first_xattr.into(),
            xattrs: u16::try_from(member.xattrs.len())
                .map_err(|_| TarError::entry(&member.path, "it has too many extended attributes"))?
                .into(),
            mode: member.mode.into(),
            kind,
            reserved: [0; 3],
        });
        // Offsets and counts are of 32 bits.
        let limit = limits.max_index_bytes.min(u32::MAX.into());
        if self.len() > limit {
            return Err(TarError::Limit {
                limit,
                what: "bytes of names and attributes",
                option: "--max-index-size",
            });
        }
        Ok(())
    }

    /// Length of the index in bytes, but for the sums of chunks.
    fn len(&self) -> u64 {
        let tables = self.entries.as_bytes().len()
            + self.segments.as_bytes().len()
            + self.xattrs.as_bytes().len()
            + self.strings.len();
        (size_of::<Header>() + tables) as u64
    }

    fn string(&mut self, string: &[u8]) -> Text {
        let text = Text {
            at: (self.strings.len() as u32).into(),
            len: (string.len() as u32).into(),
        };
        self.strings.extend_from_slice(string);
        text
    }

    fn shared(&mut self, string: &[u8]) -> Text {
        if let Some(&text) = self.shared.get(string) {
            return text;
        }
        let text = self.string(string);
        if string.len() <= MAX_SHARED && self.shared.len() < 10_000 {
            self.shared.insert(string.into(), text);
        }
        text
    }

    /// Where the last entry's attributes, the records from `first` on, are the
    /// same as those before, takes them back. Says where they begin.
    fn share_xattrs(&mut self, first: usize, count: usize) -> u32 {
        if count == 0 {
            return 0;
        }
        if let Some(before) = first.checked_sub(count)
            && self.xattrs.get(before..first) == self.xattrs.get(first..)
        {
            self.xattrs.truncate(first);
            return before as u32;
        }
        first as u32
    }

    /// The whole index.
    pub(super) fn finish(self, summary: &Summary<'_>) -> Vec<u8> {
        let chunks: Vec<u8> = summary
            .chunk_sums
            .iter()
            .flat_map(|sum| sum.to_le_bytes())
            .collect();
        let mut header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            sum: 0.into(),
            written_under: summary.written_under,
            file_len: (self.len() + chunks.len() as u64).into(),
            pack_len: summary.pack_len.into(),
            tar_len: summary.tar_len.into(),
            blob_len: summary.blob_len.into(),
            diff_id: digest_field(summary.diff_id),
            blob: digest_field(summary.blob),
            entries: (self.entries.len() as u32).into(),
            segments: (self.segments.len() as u32).into(),
            xattrs: (self.xattrs.len() as u32).into(),
            chunks: (summary.chunk_sums.len() as u32).into(),
            strings: (self.strings.len() as u32).into(),
            skeleton_sum: summary.skeleton_sum.into(),
        };
        let tables = [
            self.entries.as_bytes(),
            self.segments.as_bytes(),
            self.xattrs.as_bytes(),
            &chunks,
            &self.strings,
        ];
        let first = header.as_bytes().get(SUMMED_FROM..).unwrap_or_default();
        let sum = tables.iter().fold(crc32c::crc32c(first), |sum, table| {
            crc32c::crc32c_append(sum, table)
        });
        header.sum = sum.into();
        let mut bytes = Vec::with_capacity(self.len() as usize + chunks.len());
        bytes.extend_from_slice(header.as_bytes());
        tables
            .iter()
            .for_each(|table| bytes.extend_from_slice(table));
        bytes
    }
}

fn digest_field(digest: &Digest) -> [u8; 136] {
    let mut field = [0; 136];
    for (to, from) in field.iter_mut().zip(digest.to_string().bytes()) {
        *to = from;
    }
    field
}
