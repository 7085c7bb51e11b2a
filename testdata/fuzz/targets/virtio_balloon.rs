//! What a guest does with a balloon.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bootwright_vmm::virtio::balloon::random::play(input));
