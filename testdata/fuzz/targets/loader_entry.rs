//! Boot Loader Specification entries: files are parted by NUL, each is a name
//! in its first line and the rest; then the order of the menu.
#![no_main]

use bootwright_rootfs::boot::bls;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut entries = Vec::new();
    for file in input.split(|&b| b == 0).take(50) {
        let end = file.iter().position(|&b| b == b'\n').unwrap_or(file.len());
        let (name, text) = file.split_at(end);
        if let Ok(entry) = bls::parse(&String::from_utf8_lossy(name), text) {
            entries.push(entry);
        }
    }
    let count = entries.len();
    bls::sort(&mut entries);
    assert_eq!(entries.len(), count);
});
