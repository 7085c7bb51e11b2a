//! What reading and writing VHDX (Microsoft's MS-VHDX) share.

use uuid::{Uuid, uuid};

/// What a file starts with.
pub(crate) const SIGNATURE: [u8; 8] = *b"vhdxfile";

/// Section 2.2: places in the header section, and what is there.
pub(crate) const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
pub(crate) const HEADER_LEN: usize = 4096;
pub(crate) const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
pub(crate) const REGION_TABLE_LEN: usize = 64 << 10;

/// Section 2.2.3.2, "Region Table Entry".
pub(crate) const TABLE_REGION: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
pub(crate) const METADATA_REGION: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");

/// Section 2.6.2, "Known Metadata Items".
pub(crate) const FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
pub(crate) const DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
pub(crate) const DISK_ID: Uuid = uuid!("beca12ab-b2e6-4523-93ef-c309e000c746");
pub(crate) const LOGICAL_SECTOR_SIZE: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
pub(crate) const PHYSICAL_SECTOR_SIZE: Uuid = uuid!("cda348c7-445d-4471-9cc9-e9885251c556");

/// Bytes of the table in front of the metadata items.
pub(crate) const METADATA_TABLE_LEN: usize = 64 << 10;

/// Of a metadata item: a reader must know it.
pub(crate) const IS_REQUIRED: u32 = 4;

/// The smallest and the largest block (section 2.6.2.1).
pub(crate) const MIN_BLOCK: u64 = 1 << 20;
pub(crate) const MAX_BLOCK: u64 = 256 << 20;

/// Section 2.5.1.1, `PAYLOAD_BLOCK_FULLY_PRESENT`. One that is not present
/// has state 0.
pub(crate) const FULLY_PRESENT: u64 = 6;

/// The checksum of a header or a region table, which is at the same place in
/// both and is taken as 0.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    let (head, rest) = bytes.split_at(bytes.len().min(8));
    let signature = head.get(..4).unwrap_or_default();
    crc32c::crc32c_append(
        crc32c::crc32c_append(crc32c::crc32c(signature), &[0; 4]),
        rest,
    )
}

/// How many blocks have their entries in the block allocation table before
/// one for a bitmap, which only differencing disks use (section 2.5).
pub(crate) fn chunk_ratio(logical_sector: u32, block: u64) -> u64 {
    (u64::from(logical_sector) << 23) / block
}
