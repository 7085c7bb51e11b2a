//! Statistics of the guest's memory, section 5.5.6.3.

/// What the guest says of its memory; none of it need be true, and all is
/// optional. Bytes and counts are since it booted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Bytes read back from swap.
    pub swap_in: Option<u64>,
    /// Bytes written to swap.
    pub swap_out: Option<u64>,
    /// Page faults that needed input or output.
    pub major_faults: Option<u64>,
    /// Other page faults.
    pub minor_faults: Option<u64>,
    /// Bytes that nothing uses.
    pub free: Option<u64>,
    /// Bytes in all.
    pub total: Option<u64>,
    /// Bytes that could be used without swapping.
    pub available: Option<u64>,
    /// Bytes of caches that can be dropped.
    pub caches: Option<u64>,
    /// Huge pages allocated.
    pub huge_pages: Option<u64>,
    /// Huge pages that could not be.
    pub huge_page_failures: Option<u64>,
}

/// Size of `struct virtio_balloon_stat`: a tag of two bytes and a value of
/// eight.
const ENTRY: usize = 10;

/// The most bytes that are looked at: several times what there are tags for.
pub(super) const MOST: usize = 64 * ENTRY;

impl MemoryReport {
    /// Reads entries; in any order, and unknown ones are skipped (5.5.6.3.2).
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut report = Self::default();
        for entry in bytes.chunks_exact(ENTRY) {
            let (Some(tag), Some(value)) = (entry.first_chunk(), entry.last_chunk()) else {
                continue;
            };
            let field = match u16::from_le_bytes(*tag) {
                0 => &mut report.swap_in,
                1 => &mut report.swap_out,
                2 => &mut report.major_faults,
                3 => &mut report.minor_faults,
                4 => &mut report.free,
                5 => &mut report.total,
                6 => &mut report.available,
                7 => &mut report.caches,
                8 => &mut report.huge_pages,
                9 => &mut report.huge_page_failures,
                _ => continue,
            };
            *field = Some(u64::from_le_bytes(*value));
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_in_any_order_and_unknown_ones_are_skipped() {
        let mut bytes = Vec::new();
        for (tag, value) in [(5u16, 100u64), (0xffff, 1), (4, u64::MAX), (0, 7), (9, 3)] {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend([6, 0, 1]);
        let expected = MemoryReport {
            total: Some(100),
            free: Some(u64::MAX),
            swap_in: Some(7),
            huge_page_failures: Some(3),
            ..MemoryReport::default()
        };
        assert_eq!(MemoryReport::parse(&bytes), expected);
    }
}
