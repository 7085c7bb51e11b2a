//! Zeros, and finding them.

/// As many zeros as are written or compared at once.
pub(crate) static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Compared as slices, which the standard library does with memcmp.
    bytes
        .chunks(ZEROS.len())
        .all(|chunk| ZEROS.get(..chunk.len()).is_some_and(|z| z == chunk))
}
