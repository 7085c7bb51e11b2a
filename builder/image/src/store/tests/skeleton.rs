//! The tar comes out of the store as it went in.

use std::io::{self, Read as _};

use proptest::prelude::*;

use super::{add, content, files, store, tar};
use crate::digest::Digest;

fn read_back(layer: &super::Layer) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    layer.tar().unwrap().read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file of 20 KiB with two runs of data, as GNU tar 1.0 and as old GNU
/// sparse files are written.
fn sparse() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("sparse").unwrap();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_size(600);
    let gnu = header.as_gnu_mut().unwrap();
    for (entry, (offset, len)) in gnu.sparse.iter_mut().zip([(100, 500), (9000, 100)]) {
        entry.set_offset(offset);
        entry.set_length(len);
    }
    gnu.set_real_size(20_480);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend([7; 600]);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend([0; 1024]);
    bytes
}

#[test]
fn a_tar_comes_out_byte_for_byte() {
    let path = "long/".repeat(60) + "name";
    let mut trailing = tar(&[("a", b"1")]);
    trailing.extend(b"what follows the end is part of the digest");
    let mut no_end = tar(&[("a", b"1"), ("b", &[3; 5000])]);
    no_end.truncate(no_end.len() - 1024);
    let cases: [(&str, Vec<u8>); 8] = [
        ("nothing at all", Vec::new()),
        ("only the end", vec![0; 1024]),
        ("an empty file", tar(&[("empty", b"")])),
        ("small files", tar(&[("a", b"1"), ("b", &[2; 512])])),
        ("a long name", tar(&[(&path, &[9; 100_000])])),
        ("a sparse file", sparse()),
        ("no end", no_end),
        ("bytes behind the end", trailing),
    ];
    for (name, tar) in cases {
        let (_dir, store) = store();
        let layer = add(&store, &tar, &tar).unwrap();
        assert_eq!(read_back(&layer).unwrap(), tar, "{name}");
        let again = store.layer(&Digest::sha256(&tar)).unwrap().unwrap();
        assert_eq!(read_back(&again).unwrap(), tar, "{name}, found again");

        let pack = std::fs::read(layer.pack_path()).unwrap();
        for run in layer.tar_runs().unwrap() {
            let (tar_at, pack_at) = (run.tar_offset as usize, run.pack_offset as usize);
            let len = run.len as usize;
            assert_eq!(tar[tar_at..][..len], pack[pack_at..][..len], "{name}");
        }
    }
}

#[test]
fn a_layer_without_its_skeleton_is_added_anew() {
    let (_dir, store) = store();
    let tar = tar(&[("a", b"1")]);
    let id = Digest::sha256(&tar);
    add(&store, &tar, &tar).unwrap();
    let skeleton = files(&store).into_iter().find(|f| f.ends_with(".skeleton"));
    std::fs::remove_file(store.path().join(skeleton.unwrap())).unwrap();
    assert!(store.layer(&id).unwrap().is_none());
    let layer = add(&store, &tar, &tar).unwrap();
    assert_eq!(content(&layer, b"a"), b"1");
    assert_eq!(read_back(&layer).unwrap(), tar);
}

proptest! {
    #[test]
    fn a_wrong_skeleton_is_an_error_or_a_tar_of_the_same_length(at in 0usize..1 << 16, value: u8) {
        let (_dir, store) = store();
        let tar = tar(&[("a", b"some content"), ("b", &[2; 70_000])]);
        let layer = add(&store, &tar, &tar).unwrap();
        let path = files(&store).into_iter().find(|f| f.ends_with(".skeleton")).unwrap();
        let path = store.path().join(path);
        let file = std::fs::read(&path).unwrap();
        let mut records = zstd::decode_all(&file[8..]).unwrap();
        let at = at % records.len();
        records[at] = value;
        let mut bad = file[..8].to_vec();
        bad.extend(zstd::encode_all(&records[..], 1).unwrap());
        std::fs::write(&path, bad).unwrap();
        let _ = layer.tar_runs();
        if let Ok(back) = read_back(&layer) {
            prop_assert_eq!(back.len(), tar.len());
        }
    }
}
