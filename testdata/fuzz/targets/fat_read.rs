//! A FAT volume: the input, then zeros up to 64 MiB.
#![no_main]

use bootwright_fuzz::Disk;
use bootwright_rootfs::fat::Reader;
use bootwright_rootfs::fat::read::{MAX_ENTRIES, MAX_PATH_LEN};
use libfuzzer_sys::fuzz_target;

const LIMIT: u64 = 1 << 16;

fuzz_target!(|input: &[u8]| {
    let Ok(mut reader) = Reader::open(Disk::new(input, 64 << 20)) else {
        return;
    };
    let _ = reader.label();
    let Ok(entries) = reader.list() else {
        return;
    };
    assert!(entries.len() <= MAX_ENTRIES);
    for entry in entries.iter().take(50) {
        assert!(entry.path.len() <= MAX_PATH_LEN);
        assert!(!entry.path.contains(|c: char| c.is_control() || c == '\\'));
        assert!(
            !entry
                .path
                .split('/')
                .any(|name| name == "." || name == "..")
        );
        if let Ok(bytes) = reader.read_file(&entry.path, LIMIT) {
            assert!(bytes.len() as u64 <= LIMIT);
        }
    }
});
