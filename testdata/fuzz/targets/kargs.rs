//! A file of kernel arguments (`/usr/lib/bootc/kargs.d`).
#![no_main]

use bootwright_rootfs::boot::{Architecture, kargs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = kargs::parse("fuzz.toml", input, Architecture::X86_64);
});
