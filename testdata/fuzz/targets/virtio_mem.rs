//! What a guest does with a memory device.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| bootwright_vmm::virtio::mem::random::play(input));
