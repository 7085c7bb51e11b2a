//! How a volume is divided: reserved sectors, two FATs, clusters.

use super::{FatError, MIN_SIZE};

pub(super) const SECTOR: u64 = 512;
/// Sectors before the first FAT. With FATs of whole 4 KiB the clusters lie on
/// 4 KiB too, whatever the disk's physical sectors.
pub(super) const RESERVED: u64 = 32;
pub(super) const FATS: u64 = 2;
/// The root directory's first cluster, and the first there is.
pub(super) const ROOT_CLUSTER: u32 = 2;
const MEDIA: u8 = 0xf8;
const FSINFO_SECTOR: u16 = 1;
const BACKUP_SECTOR: u16 = 6;
/// Fewer clusters make a volume FAT16; the 16 extra are what fatgen103
/// (page 16) asks for because drivers are off by a few.
const MIN_CLUSTERS: u64 = 65_525 + 16;
/// End of a chain (fatgen103, page 18).
pub(super) const END_OF_CHAIN: u32 = 0x0fff_ffff;

/// A volume's division.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Bytes.
    pub(super) size: u64,
    /// Bytes.
    pub(super) cluster: u64,
    /// Sectors of one FAT, a multiple of 8.
    pub(super) fat_sectors: u64,
    /// Clusters for directories and files.
    pub(super) clusters: u64,
}

impl Geometry {
    /// The division of a volume of `size` bytes: the largest clusters up to
    /// 4 KiB that leave it FAT32, beyond 8 GiB those of fatgen103's table
    /// (page 20).
    pub(super) fn new(size: u64) -> Result<Self, FatError> {
        let bad = FatError::BadSize { size };
        if !size.is_multiple_of(4096) || size < MIN_SIZE || size / SECTOR > u64::from(u32::MAX) {
            return Err(bad);
        }
        const GIB: u64 = 1 << 30;
        let clusters: &[u64] = match size.div_ceil(GIB) {
            0..=8 => &[4096, 2048, 1024, 512],
            9..=16 => &[8192],
            17..=32 => &[16384],
            _ => &[32768],
        };
        clusters
            .iter()
            .map(|&cluster| Self::with_cluster(size, cluster))
            .find(|geometry| geometry.clusters >= MIN_CLUSTERS)
            .ok_or(bad)
    }

    fn with_cluster(size: u64, cluster: u64) -> Self {
        let room = size - RESERVED * SECTOR;
        // As if the FATs took no room: a few entries too many do no harm.
        let fat_bytes = (room / cluster + 2) * 4;
        let fat_sectors = fat_bytes.next_multiple_of(4096) / SECTOR;
        let clusters = room.saturating_sub(FATS * fat_sectors * SECTOR) / cluster;
        Self {
            size,
            cluster,
            fat_sectors,
            clusters,
        }
    }

    /// First byte of a FAT, 0 or 1.
    pub(super) fn fat(&self, n: u64) -> u64 {
        (RESERVED + n * self.fat_sectors) * SECTOR
    }

    /// First byte of a cluster, from [`ROOT_CLUSTER`].
    pub(super) fn offset(&self, cluster: u32) -> u64 {
        self.fat(FATS) + u64::from(cluster - ROOT_CLUSTER) * self.cluster
    }

    /// The first 4 KiB of the volume: boot sector, FSInfo, and the backups of
    /// both (fatgen103, pages 9 to 12 and 21 to 22).
    pub(super) fn boot_sectors(&self, volume_id: u32, label: &[u8; 11], used: u32) -> Vec<u8> {
        let boot = self.boot_sector(volume_id, label);
        let fsinfo = self.fsinfo(used);
        let mut out = vec![0; 4096];
        for first in [0, BACKUP_SECTOR] {
            let at = usize::from(first) * 512;
            out[at..at + 512].copy_from_slice(&boot);
            out[at + 512..at + 1024].copy_from_slice(&fsinfo);
        }
        out
    }

    fn boot_sector(&self, volume_id: u32, label: &[u8; 11]) -> [u8; 512] {
        let mut b = [0; 512];
        b[0..3].copy_from_slice(&[0xeb, 0x58, 0x90]);
        b[3..11].copy_from_slice(b"MSWIN4.1"); // what fatgen103 recommends
        b[11..13].copy_from_slice(&(SECTOR as u16).to_le_bytes());
        b[13] = (self.cluster / SECTOR) as u8;
        b[14..16].copy_from_slice(&(RESERVED as u16).to_le_bytes());
        b[16] = FATS as u8;
        b[21] = MEDIA;
        b[24..26].copy_from_slice(&63u16.to_le_bytes()); // sectors per track
        b[26..28].copy_from_slice(&255u16.to_le_bytes()); // heads
        b[32..36].copy_from_slice(&((self.size / SECTOR) as u32).to_le_bytes());
        b[36..40].copy_from_slice(&(self.fat_sectors as u32).to_le_bytes());
        b[44..48].copy_from_slice(&ROOT_CLUSTER.to_le_bytes());
        b[48..50].copy_from_slice(&FSINFO_SECTOR.to_le_bytes());
        b[50..52].copy_from_slice(&BACKUP_SECTOR.to_le_bytes());
        b[64] = 0x80; // drive number
        b[66] = 0x29; // the next three fields are present
        b[67..71].copy_from_slice(&volume_id.to_le_bytes());
        b[71..82].copy_from_slice(label);
        b[82..90].copy_from_slice(b"FAT32   ");
        // A BIOS that starts this is told to try the next device: int 18h,
        // hlt, jmp to hlt.
        b[90..95].copy_from_slice(&[0xcd, 0x18, 0xf4, 0xeb, 0xfd]);
        b[510..].copy_from_slice(&[0x55, 0xaa]);
        b
    }

    fn fsinfo(&self, used: u32) -> [u8; 512] {
        let mut b = [0; 512];
        b[0..4].copy_from_slice(&0x4161_5252_u32.to_le_bytes());
        b[484..488].copy_from_slice(&0x6141_7272_u32.to_le_bytes());
        let free = self.clusters as u32 - used;
        let next = match free {
            0 => u32::MAX, // unknown
            _ => ROOT_CLUSTER + used,
        };
        b[488..492].copy_from_slice(&free.to_le_bytes());
        b[492..496].copy_from_slice(&next.to_le_bytes());
        b[508..512].copy_from_slice(&0xaa55_0000_u32.to_le_bytes());
        b
    }
}

/// The used start of a FAT on which the given numbers of clusters are taken
/// one after the other (fatgen103, pages 17 to 19).
pub(super) fn fat(runs: impl Iterator<Item = u32>) -> Vec<u8> {
    // The first entry repeats the media type, the second says that the volume
    // was unmounted cleanly and has seen no error.
    let mut entries = vec![0x0fff_ff00 | u32::from(MEDIA), END_OF_CHAIN];
    for len in runs.filter(|&len| len > 0) {
        let first = entries.len() as u32;
        entries.extend(first + 1..first + len);
        entries.push(END_OF_CHAIN);
    }
    entries
        .iter()
        .flat_map(|entry| entry.to_le_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_as_large_as_fat32_allows() {
        const MIB: u64 = 1 << 20;
        let cases = [
            (33, 512),
            (64, 512),
            (65, 1024),
            (131, 2048),
            (258, 4096),
            (512, 4096),
            (8192, 4096),
            (8193, 8192),
            (16385, 16384),
            (40000, 32768),
        ];
        for (mib, cluster) in cases {
            let g = Geometry::new(mib * MIB).unwrap();
            assert_eq!(g.cluster, cluster, "{mib} MiB");
            assert_eq!(g.fat(FATS) % 4096, 0);
            assert!(g.fat_sectors * SECTOR / 4 >= g.clusters + 2);
            assert!(g.fat(FATS) + g.clusters * g.cluster <= g.size);
        }
        let largest = (1 << 41) - 4096;
        assert!(Geometry::new(largest).is_ok());
        for size in [
            0,
            MIN_SIZE - 4096,
            512 * MIB + 512,
            largest + 4096,
            u64::MAX,
        ] {
            assert_eq!(Geometry::new(size), Err(FatError::BadSize { size }));
        }
    }
}
