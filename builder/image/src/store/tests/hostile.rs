//! Layers that would fill the memory or the disk.

use std::io::{self, Read};

use super::*;
use crate::store::StoreError;
use crate::tar::TarError;

/// The same bytes over and over.
struct Endless {
    bytes: Vec<u8>,
    at: usize,
    given: u64,
}

impl Endless {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            at: 0,
            given: 0,
        }
    }
}

impl Read for Endless {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = (&self.bytes[self.at..]).read(buf)?;
        self.at = (self.at + len) % self.bytes.len();
        self.given += len as u64;
        Ok(len)
    }
}

fn added(reader: impl Read + Send, limits: &Limits) -> StoreError {
    let (_dir, store) = store();
    let info = BlobInfo::default();
    let error = store
        .add_layer(&Digest::sha256(b""), &info, reader, limits, &|_| ())
        .unwrap_err();
    assert_eq!(files(&store), ["version"]);
    error
}

fn is_limit(error: &StoreError, option: &str) -> bool {
    matches!(error, StoreError::Tar { error: TarError::Limit { option: o, .. }, .. } if *o == option)
}

#[test]
fn a_gzip_that_inflates_without_end_is_stopped() {
    // Members follow each other as one stream.
    let mut header = ::tar::Header::new_gnu();
    header.set_path("bomb").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    let first = gzip(header.as_bytes());
    let zeros = gzip(&vec![0; 4 << 20]);
    let limits = Limits {
        max_layer_bytes: 128 << 20,
        ..Limits::default()
    };
    let error = added((&first[..]).chain(Endless::new(zeros.clone())), &limits);
    assert!(is_limit(&error, "--max-layer-size"), "{error}");
    // A size that is believable does not help.
    let mut header = ::tar::Header::new_gnu();
    header.set_path("bomb").unwrap();
    header.set_size(1 << 20);
    header.set_cksum();
    let file = [header.as_bytes().to_vec(), vec![0; 1 << 20]].concat();
    let limits = Limits {
        max_layer_bytes: 32 << 20,
        ..Limits::default()
    };
    let error = added(Endless::new(gzip(&file)), &limits);
    assert!(is_limit(&error, "--max-layer-size"), "{error}");
    // Nor does an end of the archive with zeros after it.
    let error = added(Endless::new(zeros), &limits);
    assert!(is_limit(&error, "--max-layer-size"), "{error}");
}

#[test]
fn small_files_that_each_take_a_block_count_as_what_they_take() {
    let one = tar(&[("x", b"1")]);
    let limits = Limits {
        max_layer_bytes: 4 << 20,
        ..Limits::default()
    };
    // 1 KiB of tar makes 4 KiB of pack.
    let mut stream = Endless::new(one[..1024].to_vec());
    let error = added(&mut stream, &limits);
    assert!(is_limit(&error, "--max-layer-size"), "{error}");
    // A fourth of the limit, and what is on its way between the threads.
    assert!(stream.given < 4 << 20, "{}", stream.given);
}

#[test]
fn entries_without_end_are_stopped() {
    let limits = Limits {
        max_entries: 20_000,
        ..Limits::default()
    };
    let one = tar(&[("x", b"")]);
    let error = added(Endless::new(gzip(&one[..512])), &limits);
    assert!(is_limit(&error, "--max-entries"), "{error}");

    // Long names fill the memory sooner.
    let mut tar = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_size(0);
    tar.append_data(&mut header, "d/".repeat(2000), io::empty())
        .unwrap();
    let long = tar.into_inner().unwrap();
    let limits = Limits {
        max_index_bytes: 2 << 20,
        ..Limits::default()
    };
    let error = added(Endless::new(long[..long.len() - 1024].to_vec()), &limits);
    assert!(is_limit(&error, "--max-index-size"), "{error}");
}

#[test]
fn a_zstd_window_over_the_limit_is_refused() {
    let tar = tar(&[("x", &[9; 100_000])]);
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(25).unwrap();
    io::copy(&mut &tar[..], &mut encoder).unwrap();
    let blob = encoder.finish().unwrap();
    let (_dir, store) = store();
    let with = |max_zstd_window_log| {
        let limits = Limits {
            max_zstd_window_log,
            ..Limits::default()
        };
        store.add_layer(
            &Digest::sha256(&tar),
            &info(&blob),
            &blob[..],
            &limits,
            &|_| (),
        )
    };
    let error = with(24).unwrap_err();
    assert!(matches!(error, StoreError::Compression { .. }), "{error}");
    with(25).unwrap();
}

#[test]
fn whose_fault_it_is_is_said() {
    let tar = tar(&[("a", &[7; 100_000]), ("b", b"c")]);
    let gz = gzip(&tar);
    let digest = Digest::sha256(&tar);
    let add = |blob: &[u8], info: &BlobInfo, diff_id: &Digest| {
        let (_dir, store) = store();
        let result = store.add_layer(diff_id, info, blob, &Limits::default(), &|_| ());
        assert_eq!(files(&store), ["version"]);
        result.unwrap_err()
    };
    // The right bytes that make the wrong tar.
    let error = add(&gz, &info(&gz), &Digest::sha256(b"other"));
    assert!(matches!(error, StoreError::DiffId { .. }), "{error}");
    assert!(error.to_string().contains(digest.hex()), "{error}");
    let error = add(&tar, &info(&tar), &Digest::sha256(b"other"));
    assert!(matches!(error, StoreError::DiffId { .. }), "{error}");
    // The right bytes that cannot be decompressed.
    let mut broken = gz.clone();
    let middle = broken.len() / 2;
    broken[middle] ^= 0xff;
    let cut = gz[..gz.len() - 20].to_vec();
    let trailing = [&gz[..], b"garbage"].concat();
    let cut_zstd = {
        let all = zstd::encode_all(&tar[..], 1).unwrap();
        all[..all.len() - 5].to_vec()
    };
    let xz = b"\xfd7zXZ\0\0\x04".to_vec();
    for blob in [broken, cut, trailing, cut_zstd, xz] {
        let error = add(&blob, &info(&blob), &digest);
        assert!(matches!(error, StoreError::Compression { .. }), "{error}");
    }
    // The right bytes that are no tar.
    let text = b"not a tar at all".repeat(100);
    let error = add(&text, &info(&text), &Digest::sha256(&text));
    assert!(matches!(error, StoreError::Tar { .. }), "{error}");
    // The wrong bytes, whatever they make.
    for blob in [gzip(b"x"), text, gz[..100].to_vec()] {
        let wrong = BlobInfo {
            digest: Some(Digest::sha256(&gz)),
            size: None,
        };
        let error = add(&blob, &wrong, &digest);
        assert!(matches!(error, StoreError::BlobDigest { .. }), "{error}");
    }
    // A source that fails.
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("connection reset"))
        }
    }
    let (_dir, store) = store();
    let reader = (&gz[..500]).chain(Failing);
    let error = store
        .add_layer(&digest, &info(&gz), reader, &Limits::default(), &|_| ())
        .unwrap_err();
    assert!(error.to_string().contains("connection reset"), "{error}");
}
