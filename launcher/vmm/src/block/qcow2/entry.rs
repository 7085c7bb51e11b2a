//! L1 and L2 entries ("Cluster mapping" in QEMU's docs/interop/qcow2).

/// Bits 9 to 55: where in the file.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 63: the refcount is exactly one, so that it may be written in place.
pub(super) const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of a plain L2 entry in version 3: reads as zeros.
pub(super) const ZERO: u64 = 1;

/// What an L2 entry says of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing: it is the backing file's, or zeros.
    Unallocated,
    /// It is zeros. A cluster may be set aside for it, which nobody else has.
    Zeros(Option<u64>),
    /// It is in the file at `offset`, and nobody else's if `own`.
    Plain { offset: u64, own: bool },
    /// It is in the file compressed; the data ends before `end`.
    Compressed { offset: u64, end: u64 },
}

/// The entry makes no sense.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Nonsense(pub(super) u64);

impl Place {
    pub(super) fn decode(entry: u64, version: u32, cluster_bits: u32) -> Result<Self, Nonsense> {
        if entry & COMPRESSED != 0 {
            // "Compressed Clusters Descriptor": x bits of offset, and how
            // many further sectors the data may reach into.
            let bits = 62 - (cluster_bits - 8);
            let offset = entry & ((1 << bits) - 1);
            let sectors = (entry & (COMPRESSED - 1)) >> bits;
            let end = (offset & !511) + (sectors + 1) * 512;
            return Ok(Self::Compressed { offset, end });
        }
        let (offset, own) = (entry & OFFSET, entry & COPIED != 0);
        if !offset.is_multiple_of(1 << cluster_bits) {
            return Err(Nonsense(entry));
        }
        if entry & ZERO != 0 {
            if version < 3 {
                return Err(Nonsense(entry));
            }
            return Ok(Self::Zeros((own && offset != 0).then_some(offset)));
        }
        Ok(match offset {
            0 => Self::Unallocated,
            offset => Self::Plain { offset, own },
        })
    }
}

/// Where an L1 or refcount table entry leads, if anywhere.
pub(super) fn table_offset(entry: u64, cluster_bits: u32) -> Result<Option<u64>, Nonsense> {
    let offset = entry & OFFSET;
    if !offset.is_multiple_of(1 << cluster_bits) {
        return Err(Nonsense(entry));
    }
    Ok((offset != 0).then_some(offset))
}

/// Entries as they are in the file.
pub(super) fn to_bytes(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|e| e.to_be_bytes()).collect()
}

/// The entries that are in `bytes`.
pub(super) fn from_bytes(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks_exact(8)
        .map(|e| e.first_chunk().map_or(0, |e| u64::from_be_bytes(*e)))
        .collect()
}
