//! What a guest and the host do with a console.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bootwright_vmm::virtio::console::random::play(input));
