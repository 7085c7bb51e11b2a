//! Directory records, and Rock Ridge's entries in them.
//!
//! Rock Ridge (IEEE P1282, "RRIP") puts what POSIX has beyond ECMA-119 into
//! the *system use* of records, as entries of the System Use Sharing Protocol
//! (IEEE P1281, "SUSP").

use super::date::Date;

/// The longest record.
const MAX_RECORD: usize = 254;

/// Length of a record before its name.
const HEAD: usize = 33;

/// Length of a `CE` entry.
const CONTINUATION: usize = 28;

/// Where something is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Its first sector.
    pub(super) sector: u32,
    /// Its length in bytes.
    pub(super) len: u32,
}

/// A number in both orders of bytes (ECMA-119, 7.3.3).
pub(super) fn both32(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// The same of 16 bits (ECMA-119, 7.2.3).
pub(super) fn both16(number: u16) -> [u8; 4] {
    let [a, b] = number.to_le_bytes();
    [a, b, b, a]
}

/// Bytes of system use for which a record with this name has room.
pub(super) fn room(name: &[u8]) -> usize {
    MAX_RECORD - (HEAD + name.len()).next_multiple_of(2)
}

/// A directory record (ECMA-119, 9.1).
pub(super) fn record(
    name: &[u8],
    place: Place,
    directory: bool,
    date: Date,
    susp: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    bytes.extend(both32(place.sector));
    bytes.extend(both32(place.len));
    bytes.extend(date.short());
    bytes.extend([if directory { 2 } else { 0 }, 0, 0]);
    bytes.extend(both16(1));
    bytes.push(name.len() as u8);
    bytes.extend(name);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes.extend(susp);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes[0] = bytes.len() as u8;
    bytes
}

/// An entry that says where the others are (SUSP, 5.1).
pub(super) fn continued(sector: u32, offset: u32, len: u32) -> Vec<u8> {
    let mut bytes = b"CE\x1c\x01".to_vec();
    for number in [sector, offset, len] {
        bytes.extend(both32(number));
    }
    debug_assert_eq!(bytes.len(), CONTINUATION);
    bytes
}

/// Which name a record has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named<'a> {
    /// The root's own, where Rock Ridge says that it is there.
    Root,
    /// A directory's own.
    Own,
    /// The parent's.
    Parent,
    /// This one.
    Name(&'a str),
}

/// What Rock Ridge says in a record.
#[derive(Debug)]
pub(super) struct Susp<'a> {
    pub(super) root: bool,
    pub(super) directory: bool,
    pub(super) links: u32,
    pub(super) name: Named<'a>,
}

impl Susp<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.root {
            // SUSP, 5.3.
            bytes.extend(b"SP\x07\x01\xbe\xef\x00");
        }
        // RRIP, 4.1.1: mode, links, user, group. All can read, as nobody
        // knows who is to.
        let mode = if self.directory { 0o040_555 } else { 0o100_444 };
        bytes.extend(b"PX\x24\x01");
        for number in [mode, self.links, 0, 0] {
            bytes.extend(both32(number));
        }
        if let Named::Name(name) = self.name {
            // RRIP, 4.1.4. An entry has 255 bytes at most.
            for (index, part) in name.as_bytes().chunks(250).enumerate() {
                let more = (index + 1) * 250 < name.len();
                bytes.extend(b"NM");
                bytes.extend([5 + part.len() as u8, 1, u8::from(more)]);
                bytes.extend(part);
            }
        }
        if self.root {
            // SUSP, 5.5: identifier, description, source.
            let texts: [&[u8]; 3] = [
                b"RRIP_1991A",
                b"THE ROCK RIDGE INTERCHANGE PROTOCOL",
                b"IEEE P1282",
            ];
            let len = 8 + texts.iter().map(|text| text.len()).sum::<usize>();
            bytes.extend([b'E', b'R', len as u8, 1]);
            bytes.extend(texts.map(|text| text.len() as u8));
            bytes.push(1);
            texts.iter().for_each(|text| bytes.extend(*text));
        }
        bytes
    }
}
