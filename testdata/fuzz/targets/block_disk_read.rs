//! A VHD or, if the first byte is odd, a VHDX, whose parts follow each other
//! in the input. Their checksums are set right.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;

use bootwright_disk::reader::{DiskFormat, open_disk_as};
use bootwright_fuzz::{read_some, scratch};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((first, input)) = input.split_first() else {
        return;
    };
    let path = scratch("disk");
    let (format, parts) = if first % 2 == 0 {
        (DiskFormat::Vhd, vhd(input))
    } else {
        (DiskFormat::Vhdx, vhdx(input))
    };
    let file = File::create(&path).unwrap();
    for (at, bytes) in parts {
        file.write_all_at(&bytes, at).unwrap();
    }
    // Where blocks may be.
    file.set_len(8 << 20).unwrap();
    if let Ok(disk) = open_disk_as(&path, format) {
        read_some(&disk);
    }
});

type Parts = Vec<(u64, Vec<u8>)>;

fn vhd(input: &[u8]) -> Parts {
    let mut bytes = input.to_vec();
    if let Some(footer) = bytes.get_mut(..512) {
        footer[..8].copy_from_slice(b"conectix");
        footer[64..68].fill(0);
        let sum: u32 = footer.iter().map(|b| u32::from(*b)).sum();
        footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    }
    vec![(0, bytes)]
}

/// Header, region table, metadata table, metadata items, block table.
fn vhdx(mut input: &[u8]) -> Parts {
    let mut part = |len: usize| {
        let (head, rest) = input.split_at(len.min(input.len()));
        input = rest;
        head.to_vec()
    };
    let header = checked(b"head", part(80), 4096);
    let regions = checked(b"regi", part(112), 65536);
    vec![
        (64 << 10, header),
        (192 << 10, regions),
        (2 << 20, [b"metadata".to_vec(), part(184)].concat()),
        ((2 << 20) + (64 << 10), part(32)),
        (3 << 20, part(4096)),
    ]
}

fn checked(signature: &[u8; 4], mut bytes: Vec<u8>, len: usize) -> Vec<u8> {
    bytes.resize(len, 0);
    bytes[..4].copy_from_slice(signature);
    bytes[4..8].fill(0);
    let sum = crc32c::crc32c(&bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}
