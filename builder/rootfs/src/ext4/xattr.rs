//! Extended attributes: which of them an inode holds itself, which go into a
//! block, and how both are written.
//! See the kernel's `Documentation/filesystems/ext4/attributes.rst`.

use std::borrow::Cow;

use super::acl::{self, AclError};
use super::blocks::{Block, ZERO};
use super::checksum::{crc, put16, put32};
use super::geometry::BLOCK;
use crate::tree::Xattrs;

/// An attribute in ext4's terms. The order of the fields is the order that
/// blocks have to be in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Attr<'a> {
    /// Stands for the prefix of the name.
    index: u8,
    name_len: u8,
    name: &'a [u8],
    value: Cow<'a, [u8]>,
}

/// An inode's attributes, divided.
#[derive(Debug, Default)]
pub(super) struct Split<'a> {
    body: Vec<Attr<'a>>,
    block: Vec<Attr<'a>>,
    /// Names of those that ext4 has no place for.
    pub(super) left_out: Vec<&'a [u8]>,
}

/// Why an inode's attributes cannot be stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum XattrError<'a> {
    /// More than inode and block hold; with the bytes that the block would
    /// need.
    TooLarge(usize),
    /// Not an ACL.
    Acl(&'a [u8], AclError),
}

/// Bytes after the fixed part of an inode for attributes and their magic.
pub(super) const BODY: usize = 96;
const MAGIC: u32 = 0xea02_0000;
/// Bytes of the header of an attribute block.
const HEADER: usize = 32;
/// Zeros after the last entry.
const END: usize = 4;
/// For entries and values.
const BODY_CAPACITY: usize = BODY - 4 - END;
const BLOCK_CAPACITY: usize = BLOCK as usize - HEADER - END;
/// How many inodes may share a block; the kernel's `EXT4_XATTR_REFCOUNT_MAX`.
pub(super) const MAX_SHARED: u32 = 1024;

impl Attr<'_> {
    fn entry_len(&self) -> usize {
        16 + self.name.len().next_multiple_of(4)
    }

    fn len(&self) -> usize {
        self.entry_len() + self.value.len().next_multiple_of(4)
    }

    /// `e_hash`: of name and value, bytes of the name taken as unsigned.
    fn hash(&self) -> u32 {
        let mut hash = 0u32;
        for &byte in self.name {
            hash = hash.rotate_left(5) ^ u32::from(byte);
        }
        for chunk in self.value.chunks(4) {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = hash.rotate_left(16) ^ u32::from_le_bytes(word);
        }
        hash
    }
}

/// The index of an attribute's prefix and the rest of its name.
fn namespace(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => return Some((2, b"")),
        b"system.posix_acl_default" => return Some((3, b"")),
        _ => {}
    }
    [(1, &b"user."[..]), (4, b"trusted."), (6, b"security.")]
        .into_iter()
        .find_map(|(index, prefix)| Some((index, name.strip_prefix(prefix)?)))
        .filter(|(_, rest)| !rest.is_empty() && name.len() <= 255)
}

/// Divides an inode's attributes: as many into the inode as fit.
pub(super) fn split<'a>(
    xattrs: &'a Xattrs,
    directory: bool,
    symlink: bool,
) -> Result<Split<'a>, XattrError<'a>> {
    let mut split = Split::default();
    let mut all = Vec::with_capacity(xattrs.len());
    for (full, value) in xattrs.iter() {
        let Some((index, name)) = namespace(full) else {
            split.left_out.push(full);
            continue;
        };
        let value = match index {
            2 if symlink => None,
            3 if !directory => None,
            2 | 3 => match acl::to_ext4(value) {
                Ok(Some(list)) => Some(Cow::Owned(list)),
                // No entries: as if it were not there.
                Ok(None) => continue,
                Err(error) => return Err(XattrError::Acl(full, error)),
            },
            _ => Some(Cow::Borrowed(value)),
        };
        match value {
            Some(value) => all.push(Attr {
                index,
                name_len: name.len() as u8,
                name,
                value,
            }),
            None => split.left_out.push(full),
        }
    }
    all.sort_unstable();
    let mut room = BODY_CAPACITY;
    for attr in all {
        if attr.len() <= room {
            room -= attr.len();
            split.body.push(attr);
        } else {
            split.block.push(attr);
        }
    }
    let need: usize = split.block.iter().map(Attr::len).sum();
    if need > BLOCK_CAPACITY {
        return Err(XattrError::TooLarge(need));
    }
    Ok(split)
}

impl Split<'_> {
    /// Whether there are attributes that need a block.
    pub(super) fn needs_block(&self) -> bool {
        !self.block.is_empty()
    }

    /// The part inside of the inode.
    pub(super) fn body(&self) -> [u8; BODY] {
        let mut area = [0; BODY];
        if !self.body.is_empty() {
            put32(&mut area, 0, MAGIC);
            // Inside an inode the kernel leaves hashes 0.
            encode(&self.body, &mut area[4..], 0, false);
        }
        area
    }

    /// The block, which is block `number` of the volume and belongs to
    /// `shared` inodes.
    pub(super) fn block(&self, number: u32, shared: u32, volume_seed: u32) -> Block {
        let mut block = ZERO;
        put32(&mut block, 0, MAGIC);
        put32(&mut block, 4, shared);
        put32(&mut block, 8, 1);
        let hash = self
            .block
            .iter()
            .fold(0u32, |hash, attr| hash.rotate_left(16) ^ attr.hash());
        // A block in which any entry's hash is 0 is not shared by the kernel.
        let shareable = self.block.iter().all(|attr| attr.hash() != 0);
        put32(&mut block, 12, if shareable { hash } else { 0 });
        encode(&self.block, &mut block[HEADER..], HEADER, true);
        let seed = crc(volume_seed, &u64::from(number).to_le_bytes());
        let checksum = crc(seed, &block);
        put32(&mut block, 16, checksum);
        block
    }
}

/// Entries from the front, values from the back; offsets of values count
/// from `base` before the area.
fn encode(attrs: &[Attr<'_>], area: &mut [u8], base: usize, hashes: bool) {
    let mut at = 0;
    let mut end = area.len();
    for attr in attrs {
        let value = &attr.value;
        let mut offset = 0;
        if !value.is_empty() {
            end -= value.len().next_multiple_of(4);
            area[end..end + value.len()].copy_from_slice(value);
            offset = base + end;
        }
        let entry = &mut area[at..at + attr.entry_len()];
        entry[0] = attr.name_len;
        entry[1] = attr.index;
        put16(entry, 2, offset as u16);
        put32(entry, 8, value.len() as u32);
        put32(entry, 12, if hashes { attr.hash() } else { 0 });
        entry[16..16 + attr.name.len()].copy_from_slice(attr.name);
        at += attr.entry_len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xattrs(pairs: &[(&str, usize)]) -> Xattrs {
        pairs
            .iter()
            .map(|&(name, len)| (name.as_bytes(), vec![7; len]))
            .collect()
    }

    #[test]
    fn as_many_as_fit_go_into_the_inode() {
        // 16 + 4 + 68 bytes fill it, one value byte more does not fit.
        for (len, in_block) in [(0, false), (68, false), (69, true)] {
            let x = xattrs(&[("user.abcd", len)]);
            assert_eq!(split(&x, false, false).unwrap().needs_block(), in_block);
        }
    }

    #[test]
    fn what_fits_into_no_block_is_refused() {
        let x = xattrs(&[("user.abcd", 4040)]);
        assert!(split(&x, false, false).unwrap().needs_block());
        let x = xattrs(&[("user.abcd", 4041)]);
        assert_eq!(
            split(&x, false, false).unwrap_err(),
            XattrError::TooLarge(4064)
        );
    }

    #[test]
    fn names_that_ext4_has_no_prefix_for_are_left_out() {
        let x = xattrs(&[
            ("com.apple.provenance", 1),
            ("security.x", 1),
            ("system.data", 1),
            ("user.", 1),
        ]);
        let split = split(&x, false, false).unwrap();
        let names = [&b"com.apple.provenance"[..], b"system.data", b"user."];
        assert_eq!(split.left_out, names);
        assert_eq!(split.body.len(), 1);
    }
}
