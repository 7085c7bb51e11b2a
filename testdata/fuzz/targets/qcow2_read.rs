//! A qcow2 file.
#![no_main]

use bootwright_disk::reader::{DiskFormat, ReadAt, open_disk_as};
use bootwright_fuzz::scratch;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let path = scratch("disk.qcow2");
    std::fs::write(&path, input).unwrap();
    let Ok(disk) = open_disk_as(&path, DiskFormat::Qcow2) else {
        return;
    };
    let mut from = 0;
    for _ in 0..20 {
        let Ok(Some(data)) = disk.next_data(from) else {
            break;
        };
        assert!(data.start >= from && data.start < data.end && data.end <= disk.size());
        let mut bytes = vec![0; (data.end - data.start).min(1 << 20) as usize];
        let _ = disk.read_exact_at(data.start, &mut bytes);
        from = data.end;
    }
    let mut sector = [0; 512];
    let _ = disk.read_exact_at(disk.size().saturating_sub(512), &mut sector);
});
