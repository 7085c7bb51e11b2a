//! Tests of the store as a whole.

mod damage;
mod hostile;
mod layers;
mod open;
mod round_trip;
mod skeleton;

use std::io::Write as _;

use flate2::write::GzEncoder;

use super::{BlobInfo, Index, Layer, Limits, Store, StoreError, under};
use crate::digest::Digest;
use crate::layer::EntryKind;

/// A store in a directory that goes with it.
pub(super) fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Some(&dir.path().join("store"))).unwrap();
    (dir, store)
}

/// A tar of regular files.
pub(super) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

pub(super) fn info(blob: &[u8]) -> BlobInfo {
    BlobInfo {
        digest: Some(Digest::sha256(blob)),
        size: Some(blob.len() as u64),
    }
}

/// Adds a blob of a tar.
pub(super) fn add(store: &Store, tar: &[u8], blob: &[u8]) -> Result<Layer, StoreError> {
    store.add_layer(
        &Digest::sha256(tar),
        &info(blob),
        blob,
        &Limits::default(),
        &|_| (),
    )
}

/// The content of a regular file of the layer.
pub(super) fn content(layer: &Layer, path: &[u8]) -> Vec<u8> {
    let pack = std::fs::read(layer.pack_path()).unwrap();
    let entry = layer.entries().find(|e| e.path == path).unwrap();
    let EntryKind::Regular { size, segments } = entry.kind else {
        panic!("no regular file: {entry:?}");
    };
    let mut content = vec![0; size as usize];
    for s in segments {
        let (to, from, len) = (
            s.file_offset as usize,
            s.pack_offset as usize,
            s.len as usize,
        );
        content[to..to + len].copy_from_slice(&pack[from..from + len]);
    }
    content
}

/// Names of all files under the store's directory.
pub(super) fn files(store: &Store) -> Vec<String> {
    let mut names = Vec::new();
    let mut dirs = vec![store.path().to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(entry.path()),
                false => {
                    let path = entry.path();
                    let path = path.strip_prefix(store.path()).unwrap();
                    names.push(path.to_str().unwrap().to_owned());
                }
            }
        }
    }
    names.sort();
    names
}
