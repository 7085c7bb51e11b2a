//! A stored plan, its checksum set right.
#![no_main]

use bootwright_disk::plan_file;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut input = input.to_vec();
    if let Some((header, rest)) = input.split_at_mut_checked(16) {
        header[12..].copy_from_slice(&crc32c::crc32c(rest).to_le_bytes());
    }
    if let Ok(stored) = plan_file::decode(Bytes::from(input)) {
        stored.locate(|_| "/nowhere".into()).unwrap();
    }
});
