//! The format's test vectors, and that blobs depend on nothing but layers.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bootwright_delivery::disk_image::{self, Disk, Pushed};
use bootwright_delivery::layout::Layout;
use bootwright_delivery::metadata::Metadata;
use bootwright_delivery::{BlobSink, Codec, Work, layer};
use bootwright_image::Digest;
use common::servers::image::{layer as tar_of, noise};
use common::{Sample, disk_in};

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../testdata/disk-image/v1")
        .join(name)
}

/// A tar of some MiB that is small when compressed.
fn tar() -> Vec<u8> {
    let text = noise(5, 5_000).repeat(600);
    tar_of(&[
        ("etc/hello", b"hello\n"),
        ("usr/large", &text),
        ("usr/empty", b""),
        ("usr/last", b"the last file"),
    ])
}

fn push_to(layout: &Path, disk: &Disk<'_>, threads: usize) -> Pushed {
    let sink = Layout::create(layout, Some("x")).unwrap();
    let cancel = AtomicBool::new(false);
    let work = Work {
        threads,
        progress: &|_| (),
        cancel: &cancel,
    };
    disk_image::push(disk, 3, &sink, true, &work).unwrap()
}

fn blob(layout: &Path, pushed: &Pushed, number: usize) -> Vec<u8> {
    let digest = &pushed.layers[number].descriptor.digest;
    fs::read(layout.join("blobs/sha256").join(digest.hex())).unwrap()
}

#[test]
fn the_vectors_are_what_is_written_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let write = std::env::var_os("BOOTWRIGHT_WRITE_VECTORS").is_some();
    let tar = match write {
        true => tar(),
        false => zstd::decode_all(File::open(vector("layer.tar.zst")).unwrap()).unwrap(),
    };
    let sample = Sample::of(&[tar]);
    let pushed = push_to(&layout, &sample.disk(), 2);
    let sum = Digest::sha256(&disk_in(&layout)).hex().to_owned();
    if write {
        fs::write(vector("layer.tar.zst"), blob(&layout, &pushed, 0)).unwrap();
        fs::write(vector("metadata.tar.zst"), blob(&layout, &pushed, 1)).unwrap();
        fs::write(vector("disk.sha256"), format!("{sum}\n")).unwrap();
    }
    let expected = fs::read(vector("layer.tar.zst")).unwrap();
    assert!(blob(&layout, &pushed, 0) == expected, "another layer");
    let expected = fs::read(vector("metadata.tar.zst")).unwrap();
    assert!(
        blob(&layout, &pushed, 1) == expected,
        "another metadata layer"
    );
    let expected = fs::read_to_string(vector("disk.sha256")).unwrap();
    assert_eq!(sum, expected.trim());
    let metadata = zstd::decode_all(File::open(vector("metadata.tar.zst")).unwrap()).unwrap();
    let metadata = Metadata::read(&mut &metadata[..]).unwrap();
    assert_eq!(metadata.tables[0].frames().len(), 3);
    assert_eq!(metadata.info.options["karg"], "quiet");
}

#[test]
fn a_layer_is_the_same_blob_on_any_number_of_threads_and_from_any_store() {
    let plain = tar();
    let other = Sample::of(&[tar_of(&[("x", b"y")]), plain.clone()]);
    let samples = [(Sample::of(std::slice::from_ref(&plain)), 0), (other, 1)];
    let mut digests = Vec::new();
    for (sample, number) in &samples {
        for threads in [1, 2, 3, 8, 100] {
            let cancel = AtomicBool::new(false);
            let work = Work {
                threads,
                progress: &|_| (),
                cancel: &cancel,
            };
            let mut bytes = Vec::new();
            let layer = &sample.layers[*number];
            let written = layer::write(layer, &mut bytes, Codec::default(), &work).unwrap();
            assert_eq!(written.digest, Digest::sha256(&bytes));
            assert_eq!(written.plain_digest, Digest::sha256(&plain));
            digests.push(written.digest);
        }
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "{digests:?}");
}

#[test]
fn what_the_store_remembers_is_what_would_be_made() {
    let sample = Sample::new(41);
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("a"), dir.path().join("b"));
    let made = push_to(&first, &sample.disk(), 2);
    // Everything but the metadata layer is known now, so nothing is made.
    let known = push_to(&first, &sample.disk(), 2);
    assert_eq!(made, known);
    // Known, but not there.
    assert_eq!(push_to(&second, &sample.disk(), 1), made);
    assert!(disk_in(&second) == sample.bytes());
    // A note that lies about nothing but is damaged is not believed.
    let notes = sample.dir.path().join("store");
    let mut damaged = 0;
    for entry in walk(&notes) {
        if entry.extension().is_some_and(|e| e == "note") {
            let mut bytes = fs::read(&entry).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&entry, bytes).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 3);
    let third = dir.path().join("c");
    assert_eq!(push_to(&third, &sample.disk(), 2), made);
    let layout = Layout::create(&third, None).unwrap();
    assert!(layout.has(&made.layers[0].descriptor).unwrap());
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(walk(&path)),
            false => found.push(path),
        }
    }
    found
}
