//! Disks that lie.

use std::sync::Arc;

use bootwright_disk::reader::DiskCursor;
use bootwright_disk::{Extent, PlanBuilder, PlanReader, ReadAt};
use bootwright_rootfs::boot::Architecture;
use bootwright_rootfs::boot::discover::discover;
use proptest::prelude::*;
use std::io::Read as _;
use std::sync::OnceLock;

use crate::workshop::{bare_disk, ext4, kernel};

/// A small file system with everything that is looked at.
fn good() -> &'static [u8] {
    static GOOD: OnceLock<Vec<u8>> = OnceLock::new();
    GOOD.get_or_init(|| {
        let disk = bare_disk(ext4(&[
            (
                "boot/grub/grub.cfg",
                b"menuentry x { linux /boot/vmlinuz-1 a\n }\n",
            ),
            ("boot/loader/entries/a.conf", b"linux /boot/vmlinuz-1\n"),
            ("boot/vmlinuz-1", &kernel("1")),
        ]));
        let mut bytes = Vec::new();
        DiskCursor::new(disk).read_to_end(&mut bytes).unwrap();
        bytes
    })
}

fn disk(bytes: Vec<u8>) -> Arc<dyn ReadAt> {
    let size = bytes.len() as u64;
    let mut plan = PlanBuilder::new(Vec::new());
    plan.put(Extent::literal(0, bytes));
    Arc::new(PlanReader::new(plan.finish(size).unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_damaged_file_system_is_read_or_refused(
        damage in prop::collection::vec((0usize..200_000, any::<u8>()), 1..40),
        head in prop::collection::vec((1024usize..2048, any::<u8>()), 0..4),
    ) {
        let mut bytes = good().to_vec();
        for (at, value) in damage.into_iter().chain(head) {
            bytes[at] = value;
        }
        if let Ok(mut found) = discover(disk(bytes), Architecture::X86_64) {
            for entry in found.entries.clone() {
                let _ = found.load(&entry);
            }
        }
    }
}

#[test]
fn a_superblock_that_promises_too_much_is_refused() {
    // Blocks, blocks in a group, size of a block; with the checksum feature
    // switched off, so that the lie is not seen by its sum.
    for (at, value) in [(0x04, u32::MAX), (0x20, 0), (0x18, 60)] {
        let mut bytes = good().to_vec();
        bytes[1024 + at..][..4].copy_from_slice(&value.to_le_bytes());
        bytes[1024 + 0x64..][..4].fill(0);
        let error = discover(disk(bytes), Architecture::X86_64).unwrap_err();
        assert!(error.to_string().contains("ext4"), "{at}: {error}");
    }
}
