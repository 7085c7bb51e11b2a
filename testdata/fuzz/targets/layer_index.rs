//! A layer's index in the store, its length and checksum set right.
#![no_main]

use bootwright_image::store::Index;
use bootwright_image::tar::normalise;
use bootwright_image::{Entry, EntryKind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut bytes = input.to_vec();
    let len = bytes.len() as u64;
    if let Some(field) = bytes.get_mut(32..40) {
        field.copy_from_slice(&len.to_le_bytes());
    }
    let sum = bytes.get(32..).map(crc32c::crc32c);
    if let (Some(field), Some(sum)) = (bytes.get_mut(12..16), sum) {
        field.copy_from_slice(&sum.to_le_bytes());
    }
    let Ok(index) = Index::parse(bytes) else {
        return;
    };
    let mut free = 0;
    for entry in index.entries() {
        check(&entry);
        if let EntryKind::Regular { size, segments } = &entry.kind {
            for segment in segments {
                assert!(segment.len > 0 && segment.pack_offset >= free);
                assert_eq!(segment.pack_offset % 4096, segment.file_offset % 4096);
                assert!(segment.file_offset.checked_add(segment.len).unwrap() <= *size);
                free = segment.pack_offset.checked_add(segment.len).unwrap();
            }
        }
    }
    assert!(free <= index.pack_len());
});

fn check(entry: &Entry<'_>) {
    let is_normal = |path: &[u8]| {
        let mut out = Vec::new();
        normalise(path, &mut out).is_ok() && out == path
    };
    assert!(is_normal(entry.path));
    if let EntryKind::Hardlink { target } = entry.kind {
        assert!(is_normal(target));
    }
    assert!(entry.mode <= 0o7777);
    assert!(entry.xattrs.is_sorted_by(|a, b| a.0 < b.0));
}
