//! The on-disk inode.
//! See the kernel's `Documentation/filesystems/ext4/inodes.rst`.

use bootwright_image::Timestamp;

use super::checksum::{crc, inode_seed, put16, put32};
use super::geometry::INODE;
use super::xattr::BODY;

/// What an inode says.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// Type and permissions, as `st_mode`.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) links: u16,
    /// Blocks of 4096 bytes, with those of extent tree and attributes.
    pub(super) blocks: u64,
    pub(super) flags: u32,
    pub(super) time: Timestamp,
    /// Extents, a device's numbers or a short link's target.
    pub(super) block: [u8; 60],
    /// Block of the attributes, or 0.
    pub(super) xattr_block: u32,
    pub(super) xattrs: [u8; BODY],
}

/// Content is described by an extent tree.
pub(super) const EXTENTS: u32 = 0x8_0000;
/// A directory with an index.
pub(super) const INDEX: u32 = 0x1000;

/// File types of `st_mode`.
pub(super) mod mode {
    /// The bits that hold the type.
    pub(in super::super) const TYPE: u16 = 0o170_000;
    pub(in super::super) const FIFO: u16 = 0o010_000;
    pub(in super::super) const CHAR: u16 = 0o020_000;
    pub(in super::super) const DIRECTORY: u16 = 0o040_000;
    pub(in super::super) const BLOCK: u16 = 0o060_000;
    pub(in super::super) const REGULAR: u16 = 0o100_000;
    pub(in super::super) const SYMLINK: u16 = 0o120_000;
}

/// Bytes in use after the first 128: up to `i_projid`.
pub(super) const EXTRA: u16 = 32;

/// The first and the last second that an inode can hold (1901 and 2446).
const FIRST: i64 = -0x8000_0000;
const LAST: i64 = 0x3_7fff_ffff;

/// A time as its low 32 bits and the two extra bits with the nanoseconds;
/// times out of range become the nearest in it.
fn time(time: Timestamp) -> (u32, u32) {
    let secs = time.secs.clamp(FIRST, LAST);
    let nanos = match secs == time.secs {
        true => time.nanos.min(999_999_999),
        false => 0,
    };
    // The low word is signed, so the epoch counts from -2^31.
    let epoch = ((secs - FIRST) >> 32) as u32;
    (secs as u32, nanos << 2 | epoch)
}

/// Writes inode `ino` into its 256 bytes of the table.
pub(super) fn write(record: &Record, ino: u32, volume_seed: u32, buf: &mut [u8]) {
    debug_assert_eq!(buf.len(), INODE as usize);
    let sectors = record.blocks * 8;
    let (seconds, extra) = time(record.time);
    put16(buf, 0x00, record.mode);
    put16(buf, 0x02, record.uid as u16);
    put32(buf, 0x04, record.size as u32);
    for at in [0x08, 0x0c, 0x10, 0x90] {
        put32(buf, at, seconds);
    }
    put16(buf, 0x18, record.gid as u16);
    put16(buf, 0x1a, record.links);
    put32(buf, 0x1c, sectors as u32);
    put32(buf, 0x20, record.flags);
    buf[0x28..0x64].copy_from_slice(&record.block);
    put32(buf, 0x68, record.xattr_block);
    put32(buf, 0x6c, (record.size >> 32) as u32);
    put16(buf, 0x74, (sectors >> 32) as u16);
    put16(buf, 0x78, (record.uid >> 16) as u16);
    put16(buf, 0x7a, (record.gid >> 16) as u16);
    put16(buf, 0x80, EXTRA);
    for at in [0x84, 0x88, 0x8c, 0x94] {
        put32(buf, at, extra);
    }
    buf[0xa0..].copy_from_slice(&record.xattrs);
    let checksum = crc(inode_seed(volume_seed, ino), buf);
    put16(buf, 0x7c, checksum as u16);
    put16(buf, 0x82, (checksum >> 16) as u16);
}

/// The largest numbers that Linux gives a device: 12 and 20 bits.
pub(super) const MAX_MAJOR: u32 = 0xfff;
/// See [`MAX_MAJOR`].
pub(super) const MAX_MINOR: u32 = 0xf_ffff;

/// A device's numbers where the extents would be: in the old form where they
/// fit, else in the new.
pub(super) fn device(major: u32, minor: u32) -> [u8; 60] {
    let mut block = [0; 60];
    if major < 256 && minor < 256 {
        put32(&mut block, 0, major << 8 | minor);
    } else {
        put32(
            &mut block,
            4,
            minor & 0xff | major << 8 | (minor & !0xff) << 12,
        );
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_from_1901_to_2446_and_clamped_beyond() {
        let cases = [
            (0, 5, (0, 20)),
            (-1, 0, (0xffff_ffff, 0)),
            (FIRST, 1, (0x8000_0000, 4)),
            (FIRST - 1, 1, (0x8000_0000, 0)),
            (0x7fff_ffff, 0, (0x7fff_ffff, 0)),
            (0x8000_0000, 0, (0x8000_0000, 1)),
            (0x1_8000_0000, 0, (0x8000_0000, 2)),
            (LAST, 999_999_999, (0x7fff_ffff, 999_999_999 << 2 | 3)),
            (i64::MAX, 9, (0x7fff_ffff, 3)),
            (i64::MIN, 9, (0x8000_0000, 0)),
        ];
        for (secs, nanos, want) in cases {
            assert_eq!(time(Timestamp { secs, nanos }), want, "{secs}");
        }
    }
}
