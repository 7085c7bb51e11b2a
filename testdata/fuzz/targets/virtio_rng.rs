//! What a guest does with an entropy device.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bootwright_vmm::virtio::rng::random::play(input));
