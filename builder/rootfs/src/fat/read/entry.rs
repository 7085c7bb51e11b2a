//! A directory's bytes as entries (fatgen103, pages 22 to 33).

use super::super::directory::{
    ATTR_DIRECTORY, ATTR_LONG_NAME, ATTR_VOLUME_ID, ENTRY, LAST_LONG_ENTRY, UNIT_OFFSETS,
};
use super::super::name::{self, ShortName};

/// A file or a directory as its directory describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawEntry {
    /// The long name if there is a sound one, else the short one.
    pub(super) name: String,
    pub(super) short_name: String,
    pub(super) is_directory: bool,
    pub(super) cluster: u32,
    /// Bytes; 0 for directories.
    pub(super) size: u32,
    pub(super) date: u16,
    pub(super) time: u16,
}

/// The files and directories in a directory, less `.` and `..`, and the
/// volume's label if it is the root.
pub(super) fn decode(bytes: &[u8], wide: bool) -> (Vec<RawEntry>, Option<ShortName>) {
    let mut entries = Vec::new();
    let mut label = None;
    let mut long = LongName::default();
    let (records, _) = bytes.as_chunks::<ENTRY>();
    for b in records {
        let attributes = b[11] & 0x3f;
        match b[0] {
            0 => break,
            0xe5 => {
                long = LongName::default();
                continue;
            }
            _ if attributes == ATTR_LONG_NAME => {
                long.push(b);
                continue;
            }
            _ => {}
        }
        let mut stored = [0; 11];
        stored.copy_from_slice(&b[..11]);
        let long_name = std::mem::take(&mut long).finish(name::checksum(&stored));
        if attributes & ATTR_VOLUME_ID != 0 {
            label.get_or_insert(stored);
            continue;
        }
        if b[0] == b'.' {
            continue; // `.` and `..`; no other short name starts so
        }
        let u16_at = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        let high = if wide { u16_at(20) } else { 0 };
        let is_directory = attributes & ATTR_DIRECTORY != 0;
        let short_name = short_name(stored, b[12]);
        entries.push(RawEntry {
            name: long_name.unwrap_or_else(|| short_name.clone()),
            short_name,
            is_directory,
            cluster: u32::from(high) << 16 | u32::from(u16_at(26)),
            size: match is_directory {
                true => 0,
                false => u32::from_le_bytes([b[28], b[29], b[30], b[31]]),
            },
            date: u16_at(24),
            time: u16_at(22),
        });
    }
    (entries, label)
}

/// What stands for characters that a name cannot hold: a path made of such
/// names shall not lead elsewhere.
fn tame(c: char) -> char {
    match c {
        '/' | '\\' => char::REPLACEMENT_CHARACTER,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

fn short_name(mut stored: ShortName, case: u8) -> String {
    if stored[0] == 0x05 {
        stored[0] = 0xe5; // which alone would mark a deleted entry
    }
    // Windows NT stores names all in lower case with these bits.
    let (base, extension) = stored.split_at_mut(8);
    if case & 0x08 != 0 {
        base.make_ascii_lowercase();
    }
    if case & 0x10 != 0 {
        extension.make_ascii_lowercase();
    }
    name::display(&stored).chars().map(tame).collect()
}

/// A long name in the making.
#[derive(Debug, Default)]
struct LongName {
    /// Parts in the order in which they are stored, the last one first.
    parts: Vec<[u16; 13]>,
    checksum: u8,
    /// Parts still to come, if all were sound so far.
    missing: u8,
}

impl LongName {
    fn push(&mut self, b: &[u8; ENTRY]) {
        let order = b[0] & !LAST_LONG_ENTRY;
        if b[0] & LAST_LONG_ENTRY != 0 {
            *self = Self::default();
            self.missing = order;
            self.checksum = b[13];
        }
        if order == 0 || order > 20 || order != self.missing || b[13] != self.checksum {
            *self = Self::default();
            return;
        }
        self.missing -= 1;
        self.parts
            .push(UNIT_OFFSETS.map(|at| u16::from_le_bytes([b[at], b[at + 1]])));
    }

    /// The name, if it is whole and belongs to a short name of the checksum.
    fn finish(self, checksum: u8) -> Option<String> {
        if self.missing != 0 || self.checksum != checksum {
            return None;
        }
        let units = self.parts.into_iter().rev().flatten();
        let name: String = char::decode_utf16(units.take_while(|&unit| unit != 0))
            .map(|c| tame(c.unwrap_or(char::REPLACEMENT_CHARACTER)))
            .collect();
        (!["", ".", ".."].contains(&name.as_str())).then_some(name)
    }
}
