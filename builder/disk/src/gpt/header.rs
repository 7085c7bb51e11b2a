//! A table's header and entries as bytes (UEFI 2.10, clauses 5.3.2 and 5.3.3).

use uuid::Uuid;

pub(super) const SIGNATURE: &[u8; 8] = b"EFI PART";
pub(super) const REVISION: u32 = 0x0001_0000;
pub(super) const HEADER_SIZE: usize = 92;
pub(super) const ENTRY_SIZE: usize = 128;
/// Entries of the tables that we write; also the least that UEFI asks for.
pub(super) const ENTRY_COUNT: usize = 128;
/// Code units that fit a partition's name.
pub(super) const NAME_UNITS: usize = 36;

/// The fields of a header that vary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) my_lba: u64,
    pub(super) alternate_lba: u64,
    pub(super) first_usable_lba: u64,
    pub(super) last_usable_lba: u64,
    pub(super) disk_guid: Uuid,
    pub(super) entries_lba: u64,
    pub(super) entry_count: u32,
    pub(super) entry_size: u32,
    pub(super) entries_crc: u32,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut b = [0; HEADER_SIZE];
        b[0..8].copy_from_slice(SIGNATURE);
        b[8..12].copy_from_slice(&REVISION.to_le_bytes());
        b[12..16].copy_from_slice(&(HEADER_SIZE as u32).to_le_bytes());
        b[24..32].copy_from_slice(&self.my_lba.to_le_bytes());
        b[32..40].copy_from_slice(&self.alternate_lba.to_le_bytes());
        b[40..48].copy_from_slice(&self.first_usable_lba.to_le_bytes());
        b[48..56].copy_from_slice(&self.last_usable_lba.to_le_bytes());
        b[56..72].copy_from_slice(&self.disk_guid.to_bytes_le());
        b[72..80].copy_from_slice(&self.entries_lba.to_le_bytes());
        b[80..84].copy_from_slice(&self.entry_count.to_le_bytes());
        b[84..88].copy_from_slice(&self.entry_size.to_le_bytes());
        b[88..92].copy_from_slice(&self.entries_crc.to_le_bytes());
        // The checksum is taken over the header with its own field zero.
        let crc = crc32fast::hash(&b);
        b[16..20].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// The fields, unchecked.
    pub(super) fn decode(b: &[u8; HEADER_SIZE]) -> Self {
        Self {
            my_lba: u64_at(b, 24),
            alternate_lba: u64_at(b, 32),
            first_usable_lba: u64_at(b, 40),
            last_usable_lba: u64_at(b, 48),
            disk_guid: guid_at(b, 56),
            entries_lba: u64_at(b, 72),
            entry_count: u32_at(b, 80),
            entry_size: u32_at(b, 84),
            entries_crc: u32_at(b, 88),
        }
    }
}

/// An entry of the table, in sectors as it is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) type_guid: Uuid,
    pub(super) guid: Uuid,
    pub(super) first_lba: u64,
    /// Inclusive.
    pub(super) last_lba: u64,
    pub(super) attributes: u64,
    pub(super) name: String,
}

impl Entry {
    pub(super) fn encode(&self) -> [u8; ENTRY_SIZE] {
        let mut b = [0; ENTRY_SIZE];
        b[0..16].copy_from_slice(&self.type_guid.to_bytes_le());
        b[16..32].copy_from_slice(&self.guid.to_bytes_le());
        b[32..40].copy_from_slice(&self.first_lba.to_le_bytes());
        b[40..48].copy_from_slice(&self.last_lba.to_le_bytes());
        b[48..56].copy_from_slice(&self.attributes.to_le_bytes());
        let (units, _) = b[56..].as_chunks_mut::<2>();
        for (place, unit) in units.iter_mut().zip(self.name.encode_utf16()) {
            *place = unit.to_le_bytes();
        }
        b
    }

    pub(super) fn decode(b: &[u8; ENTRY_SIZE]) -> Self {
        let (units, _) = b[56..].as_chunks::<2>();
        let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
        let name = char::decode_utf16(units.take_while(|&unit| unit != 0))
            .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect();
        Self {
            type_guid: guid_at(b, 0),
            guid: guid_at(b, 16),
            first_lba: u64_at(b, 32),
            last_lba: u64_at(b, 40),
            attributes: u64_at(b, 48),
            name,
        }
    }
}

// Offsets below are constants within fixed-size arrays.

fn array_at<const N: usize, const M: usize>(b: &[u8; M], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&b[at..at + N]);
    out
}

pub(super) fn u64_at<const M: usize>(b: &[u8; M], at: usize) -> u64 {
    u64::from_le_bytes(array_at(b, at))
}

pub(super) fn u32_at<const M: usize>(b: &[u8; M], at: usize) -> u32 {
    u32::from_le_bytes(array_at(b, at))
}

fn guid_at<const M: usize>(b: &[u8; M], at: usize) -> Uuid {
    Uuid::from_bytes_le(array_at(b, at))
}
