//! A unified kernel image: the first two bytes say how many bytes the file
//! has beyond its head, the rest is the head.
#![no_main]

use bootwright_rootfs::boot::{pe, uki};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some(([low, high], head)) = input.split_first_chunk::<2>() else {
        return;
    };
    let len = head.len() as u64 + u64::from(u16::from_le_bytes([*low, *high]));
    let _ = pe::parse(head, len);
    let _ = uki::parse(head, len);
});
