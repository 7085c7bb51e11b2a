//! A qcow2 file.
#![no_main]

use bootwright_disk::reader::{DiskFormat, open_disk_as};
use bootwright_fuzz::{read_some, scratch};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let path = scratch("disk.qcow2");
    std::fs::write(&path, input).unwrap();
    let Ok(disk) = open_disk_as(&path, DiskFormat::Qcow2) else {
        return;
    };
    read_some(&disk);
});
