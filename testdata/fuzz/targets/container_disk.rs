//! The layers of a containerDisk, as tars that follow each other, headers'
//! checksums set right. The file that is found is read.
#![no_main]

use bootwright_delivery::container_disk;
use bootwright_disk::PlanReader;
use bootwright_fuzz::{read_some, scratch, seal_tar};
use bootwright_image::Digest;
use bootwright_image::store::{BlobInfo, Limits, Store};
use libfuzzer_sys::fuzz_target;

/// What divides the layers.
const NEXT: &[u8] = b"<next layer>";

fuzz_target!(|input: &[u8]| {
    let place = scratch("store");
    let store = Store::open(Some(&place)).expect("a store");
    let mut layers = Vec::new();
    let mut rest = input;
    for _ in 0..4 {
        let end = rest.windows(NEXT.len()).position(|w| w == NEXT);
        let mut tar = rest[..end.unwrap_or(rest.len())].to_vec();
        seal_tar(&mut tar);
        let limits = Limits {
            max_layer_bytes: 1 << 20,
            ..Limits::default()
        };
        let (diff_id, blob) = (Digest::sha256(&tar), BlobInfo::default());
        let added = store.add_layer(&diff_id, &blob, &mut &tar[..], &limits, &|_| ());
        layers.extend(added);
        match end {
            Some(end) => rest = &rest[end + NEXT.len()..],
            None => break,
        }
    }
    let is_one = container_disk::is_container_disk(&layers);
    match container_disk::find(&layers) {
        Ok(found) => {
            assert!(found.name.starts_with("disk/"));
            read_some(&PlanReader::new(found.file.clone()));
            if let Ok(disk) = found.open(Some(scratch(""))) {
                read_some(&**disk.disk());
            }
        }
        Err(_) => assert!(!is_one),
    }
    drop(layers);
    let _ = std::fs::remove_dir_all(place);
});
