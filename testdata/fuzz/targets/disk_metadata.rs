//! The metadata layer of a disk image: lengths of plan and table (2 bytes
//! each), the plan, the table, and the description; checksums set right. What
//! is accepted is read from blobs that are all zeros.
#![no_main]

use std::io;
use std::ops::Range;

use bootwright_delivery::lazy::{LazyDisk, RangeRead};
use bootwright_delivery::metadata::Metadata;
use bootwright_delivery::oci::Descriptor;
use bootwright_fuzz::{read_some, seal, tar_of};
use libfuzzer_sys::fuzz_target;

#[derive(Debug)]
struct Zeros;

impl RangeRead for Zeros {
    fn read_range(&self, blob: &Descriptor, range: Range<u64>) -> io::Result<Vec<u8>> {
        assert!(range.start < range.end && range.end <= blob.size);
        let len = range.end - range.start;
        assert!(len <= 20 << 20, "{len} bytes at once");
        Ok(vec![0; len as usize])
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((lengths, rest)) = input.split_first_chunk::<4>() else {
        return;
    };
    let len = |at: usize| usize::from(u16::from_le_bytes([lengths[at], lengths[at + 1]]));
    let (plan, rest) = rest.split_at(len(0).min(rest.len()));
    let (table, info) = rest.split_at(len(2).min(rest.len()));
    let tar = tar_of(&[
        ("bootwright/disk.json", info),
        ("bootwright/plan", &seal(plan)),
        ("bootwright/layers/0000", &seal(table)),
    ]);
    let Ok(metadata) = Metadata::read(&mut &tar[..]) else {
        return;
    };
    let boot = metadata.info.boot.clone();
    let disk = LazyDisk::new(metadata, Zeros, 4 << 20).expect("it was accepted");
    read_some(&disk);
    for file in boot.iter().flat_map(|b| b.kernel.iter().chain(&b.initrd)) {
        let _ = file.read(&disk, 1 << 20);
    }
});
