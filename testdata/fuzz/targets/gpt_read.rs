//! A disk's partition table. The first byte says whether checksums are set
//! right, which hides nothing from a liar; the rest is the disk.
#![no_main]

use std::io::Cursor;

use bootwright_disk::gpt;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&flags, disk)) = input.split_first() else {
        return;
    };
    let mut disk = disk.to_vec();
    if flags & 1 == 0 {
        for sector in [512, 4096] {
            seal(&mut disk, sector, 1);
            let last = (disk.len() / sector).saturating_sub(1);
            seal(&mut disk, sector, last);
        }
    }
    let len = disk.len() as u64;
    let Ok(table) = gpt::read(&mut Cursor::new(disk)) else {
        return;
    };
    let mut partitions = table.partitions;
    partitions.sort_by_key(|p| p.start);
    for p in &partitions {
        assert!(p.len > 0 && p.end() <= len && p.number > 0);
        assert!(p.name.chars().count() <= 36 && !p.name.contains('\0'));
    }
    assert!(
        partitions
            .windows(2)
            .all(|pair| pair[0].end() <= pair[1].start)
    );
});

/// Sets the checksums of the header in a sector right, if it is one.
fn seal(disk: &mut [u8], sector: usize, lba: usize) -> Option<()> {
    let header = lba.checked_mul(sector)?;
    let field = |disk: &[u8], at: usize| {
        let bytes = disk.get(header + at..header + at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    if disk.get(header..header + 8)? != b"EFI PART" {
        return None;
    }
    let entries = field(disk, 72)?.checked_mul(sector)?;
    let len = field(disk, 80)?.checked_mul(field(disk, 84)?)?;
    if let Some(entries) = disk.get(entries..entries.checked_add(len)?) {
        let crc = crc32fast::hash(entries).to_le_bytes();
        disk.get_mut(header + 88..header + 92)?
            .copy_from_slice(&crc);
    }
    disk.get_mut(header + 16..header + 20)?.fill(0);
    let len = field(disk, 12)?;
    let crc = crc32fast::hash(disk.get(header..header.checked_add(len)?)?);
    disk[header + 16..header + 20].copy_from_slice(&crc.to_le_bytes());
    Some(())
}
