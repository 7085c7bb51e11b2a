//! What a boot sector says of its volume (fatgen103, pages 7 to 17).

use super::ReadError;

/// Bytes of an entry of the FAT, which give the format its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Fat12,
    Fat16,
    Fat32,
}

/// Where the parts of a volume lie. All sums that follow from these fields fit
/// 64 bits: each is a number of 32 bits of sectors of at most 4096 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) width: Width,
    /// First byte of the FAT in use.
    pub(super) fat: u64,
    /// Bytes.
    pub(super) cluster_size: u64,
    /// First byte of cluster 2.
    pub(super) data: u64,
    /// One more than the last cluster.
    pub(super) end: u32,
    pub(super) root: Root,
    pub(super) volume_id: Option<u32>,
    pub(super) label: Option<[u8; 11]>,
}

/// Where the root directory lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    /// In clusters, as on FAT32.
    Cluster(u32),
    /// In a place of its own.
    Fixed { offset: u64, len: u64 },
}

impl Layout {
    pub(super) fn decode(b: &[u8; 512]) -> Result<Self, ReadError> {
        let u8_at = |at: usize| u64::from(b[at]);
        let u16_at = |at: usize| u64::from(u16::from_le_bytes([b[at], b[at + 1]]));
        let u32_at = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let not_zero = |short: u64, long: u32| if short != 0 { short } else { long.into() };
        let check = |good, reason| {
            if good {
                Ok(())
            } else {
                Err(ReadError::NotFat(reason))
            }
        };

        check(b[510..] == [0x55, 0xaa], "no boot sector signature")?;
        let sector = u16_at(11);
        let sectors_per_cluster = u8_at(13);
        let reserved = u16_at(14);
        let fats = u8_at(16);
        let root_entries = u16_at(17);
        let media = b[21];
        let fat32 = u16_at(22) == 0;
        let fat_sectors = not_zero(u16_at(22), u32_at(36));
        let sectors = not_zero(u16_at(19), u32_at(32));
        check(
            [512, 1024, 2048, 4096].contains(&sector),
            "bytes per sector",
        )?;
        check(sectors_per_cluster.is_power_of_two(), "sectors per cluster")?;
        check(reserved > 0, "no reserved sectors")?;
        check(fats > 0, "no FAT")?;
        check(fat_sectors > 0, "an empty FAT")?;
        check(media == 0xf0 || media >= 0xf8, "media type")?;
        check(fat32 == (root_entries == 0), "root directory entries")?;

        let root_sector = reserved + fats * fat_sectors;
        let root_len = root_entries * 32;
        let data_sector = root_sector + root_len.div_ceil(sector);
        check(data_sector < sectors, "fewer sectors than it needs")?;
        let clusters = (sectors - data_sector) / sectors_per_cluster;
        let width = match clusters {
            _ if fat32 => Width::Fat32,
            0..4085 => Width::Fat12,
            _ => Width::Fat16,
        };
        let bits = match width {
            Width::Fat12 => 12,
            Width::Fat16 => 16,
            Width::Fat32 => 32,
        };
        // Clusters that the FAT has no entry for cannot be in a chain.
        let entries = fat_sectors * sector * 8 / bits;
        let end = (clusters + 2).min(entries).min(0x0fff_fff7) as u32;

        // FAT32 can name one of its FATs as the one in use.
        let flags = u16_at(40);
        let active = match fat32 && flags & 0x80 != 0 {
            true => flags & 0x0f,
            false => 0,
        };
        check(active < fats, "active FAT")?;
        let (root, extended) = match fat32 {
            true => (Root::Cluster(u32_at(44)), 66),
            false => {
                let offset = root_sector * sector;
                let len = root_len;
                (Root::Fixed { offset, len }, 38)
            }
        };
        let has_extended = b[extended] == 0x29;
        let mut label = [0; 11];
        label.copy_from_slice(&b[extended + 5..extended + 16]);
        Ok(Self {
            width,
            fat: (reserved + active * fat_sectors) * sector,
            cluster_size: sectors_per_cluster * sector,
            data: data_sector * sector,
            end,
            root,
            volume_id: has_extended.then(|| u32_at(extended + 1)),
            label: (has_extended && label != *b"NO NAME    ").then_some(label),
        })
    }
}
