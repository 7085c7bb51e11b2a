//! An os-release file.
#![no_main]

use bootwright_rootfs::boot::OsRelease;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = OsRelease::parse(input);
});
