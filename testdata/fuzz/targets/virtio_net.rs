//! What a guest and passt do with a network device.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bootwright_vmm::virtio::net::random::play(input));
