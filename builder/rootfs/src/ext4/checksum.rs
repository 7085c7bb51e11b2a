//! The checksums of the `metadata_csum` feature: CRC-32C without the final
//! inversion, seeded by what the block belongs to.
//! See the kernel's `Documentation/filesystems/ext4/checksums.rst`.

/// CRC-32C of `data` continued from `seed`, as the kernel's `ext4_chksum`.
pub(super) fn crc(seed: u32, data: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, data)
}

/// The seed of everything in a file system but the superblock.
pub(super) fn volume_seed(uuid: &[u8; 16]) -> u32 {
    crc(!0, uuid)
}

/// The seed of an inode, its directory blocks and its extent blocks; all
/// inodes have generation 0.
pub(super) fn inode_seed(volume_seed: u32, ino: u32) -> u32 {
    crc(crc(volume_seed, &ino.to_le_bytes()), &[0; 4])
}

/// Writes `value` in little-endian order at `at`.
pub(super) fn put16(buf: &mut [u8], at: usize, value: u16) {
    buf[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// Writes `value` in little-endian order at `at`.
pub(super) fn put32(buf: &mut [u8], at: usize, value: u32) {
    buf[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_is_castagnoli_without_final_inversion() {
        // The check value of CRC-32C is 0xe3069283, inverted at the end.
        assert_eq!(crc(!0, b"123456789"), !0xe306_9283);
        assert_eq!(crc(crc(!0, b"1234"), b"56789"), !0xe306_9283);
    }
}
