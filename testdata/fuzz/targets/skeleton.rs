//! A layer's skeleton in the store, as it is before compression.
#![no_main]

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::LazyLock;

use bootwright_fuzz::scratch;
use bootwright_image::Digest;
use bootwright_image::store::{BlobInfo, Layer, Limits, Store};
use libfuzzer_sys::fuzz_target;

/// A layer whose skeleton is replaced, and where that is.
static LAYER: LazyLock<(Layer, PathBuf)> = LazyLock::new(|| {
    let tar = include_bytes!("../seeds/tar/gnu")[1..].to_vec();
    let store = Store::open(Some(&scratch("store"))).unwrap();
    let (id, info) = (Digest::sha256(&tar), BlobInfo::default());
    let layer = store.add_layer(&id, &info, &tar[..], &Limits::default(), &|_| ());
    let layer = layer.unwrap();
    let path = layer.pack_path().with_extension("skeleton");
    (layer, path)
});

fuzz_target!(|input: &[u8]| {
    let (layer, path) = &*LAYER;
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(b"bw-skel\x01").unwrap();
    let frame = zstd::bulk::compress(input, -5).unwrap();
    file.write_all(&frame).unwrap();
    drop(file);

    let tar_len = layer.index().tar_len();
    let Ok(runs) = layer.tar_runs() else {
        assert!(layer.tar().unwrap().read_to_end(&mut Vec::new()).is_err());
        return;
    };
    let mut end = 0;
    for run in &runs {
        assert!(run.len > 0 && run.tar_offset >= end);
        assert!(run.pack_offset + run.len <= layer.pack_len());
        end = run.tar_offset + run.len;
    }
    assert!(end <= tar_len);
    let mut tar = Vec::new();
    if layer.tar().unwrap().read_to_end(&mut tar).is_ok() {
        assert_eq!(tar.len() as u64, tar_len);
    }
});
