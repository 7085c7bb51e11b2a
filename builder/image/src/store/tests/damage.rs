//! What is damaged, on purpose or by a crash, is found.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::*;
use crate::store::index::WRITTEN_UNDER_AT;
use crate::store::{BootId, PrunePolicy};

const OTHER_BOOT: BootId = [7; 16];

/// A store with one layer, and what was put into it.
fn filled() -> (tempfile::TempDir, Store, Digest, PathBuf, PathBuf) {
    let (dir, store) = store();
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8 + 1).collect();
    let tar = tar(&[("data", &data), ("small", b"abc")]);
    let layer = add(&store, &tar, &gzip(&tar)).unwrap();
    let digest = layer.diff_id().clone();
    let (pack, index) = (store.pack_path(&digest), store.index_path(&digest));
    (dir, store, digest, pack, index)
}

fn flip(path: &std::path::Path, at: u64) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn assert_removed(store: &Store, digest: &Digest, reason: &str) {
    assert!(store.layer(digest).unwrap().is_none(), "{reason}");
    let warnings = store.take_warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains(reason), "{warnings:?}");
    assert!(warnings[0].contains(&digest.to_string()), "{warnings:?}");
    assert_eq!(files(store), ["version"]);
    // Once is enough.
    assert!(store.layer(digest).unwrap().is_none());
    assert!(store.take_warnings().is_empty());
}

#[test]
fn a_pack_of_the_wrong_length_is_removed_at_once() {
    for len in [0, 4096, 3_010_560] {
        let (_dir, store, digest, pack, _) = filled();
        fs::File::options()
            .write(true)
            .open(pack)
            .unwrap()
            .set_len(len)
            .unwrap();
        assert_removed(&store, &digest, "bytes instead of");
    }
}

#[test]
fn an_index_with_any_flipped_byte_is_removed_at_once() {
    let (_dir, store, digest, _, index) = filled();
    let good = fs::read(&index).unwrap();
    drop(store);
    for at in (0..good.len()).filter(|at| !(16..32).contains(at)) {
        let (_dir, store, digest, _, index) =
            if at == 0 || at == 40 || at == 1000.min(good.len() - 1) {
                filled()
            } else {
                // Parsing alone is enough for the rest.
                let mut bad = good.clone();
                bad[at] ^= 0x10;
                assert!(Index::parse(bad).is_err(), "byte {at}");
                continue;
            };
        flip(&index, at as u64);
        assert_removed(&store, &digest, "its index is unusable");
    }
    let _ = digest;
}

#[test]
fn a_truncated_or_foreign_index_is_removed_at_once() {
    let (_dir, store, digest, _, index) = filled();
    fs::File::options()
        .write(true)
        .open(&index)
        .unwrap()
        .set_len(500)
        .unwrap();
    assert_removed(&store, &digest, "truncated");

    let (_dir, store, digest, pack, index) = filled();
    let other = Digest::sha256(b"other");
    fs::rename(pack, store.pack_path(&other)).unwrap();
    fs::rename(index, store.index_path(&other)).unwrap();
    fs::rename(store.skeleton_path(&digest), store.skeleton_path(&other)).unwrap();
    assert_removed(&store, &other, &format!("that of {digest}"));
}

#[test]
fn damage_in_a_pack_is_found_by_the_first_use_after_another_boot() {
    let (_dir, mut store, digest, pack, _) = filled();
    flip(&pack, 2_000_000);
    // Under the same boot the page cache has what was written.
    assert!(store.layer(&digest).unwrap().is_some());
    store.boot = Some(OTHER_BOOT);
    assert_removed(&store, &digest, "damaged between bytes 1048576 and 2097152");
}

#[test]
fn damage_in_a_skeleton_is_found_by_the_first_use_after_another_boot() {
    let (_dir, mut store, digest, _, _) = filled();
    flip(&store.skeleton_path(&digest), 30);
    assert!(store.layer(&digest).unwrap().is_some());
    assert_eq!(store.verify(false, &|_| ()).unwrap().bad.len(), 1);
    store.boot = Some(OTHER_BOOT);
    assert_removed(&store, &digest, "its skeleton is unusable");

    let (_dir, store, digest, _, _) = filled();
    fs::remove_file(store.skeleton_path(&digest)).unwrap();
    assert_removed(&store, &digest, "its skeleton is missing");
}

#[test]
fn a_pack_that_outlived_a_boot_is_checked_only_once() {
    let (_dir, mut store, digest, pack, index) = filled();
    let written_under = |index: &PathBuf| {
        let mut id = BootId::default();
        let file = fs::File::open(index).unwrap();
        file.read_exact_at(&mut id, WRITTEN_UNDER_AT).unwrap();
        id
    };
    assert_eq!(Some(written_under(&index)), store.boot);
    store.boot = Some(OTHER_BOOT);
    assert!(store.layer(&digest).unwrap().is_some());
    assert_eq!(written_under(&index), BootId::default());
    // Not looked at again, whatever the boot.
    flip(&pack, 0);
    assert!(store.layer(&digest).unwrap().is_some());
    store.boot = Some([8; 16]);
    assert!(store.layer(&digest).unwrap().is_some());
    assert!(store.take_warnings().is_empty());
}

#[test]
fn without_a_boot_id_packs_are_on_the_disk_before_they_have_their_name() {
    let (_dir, mut store) = store();
    store.boot = None;
    let tar = tar(&[("a", b"b")]);
    let layer = add(&store, &tar, &tar).unwrap();
    assert_eq!(layer.index().written_under(), BootId::default());
    assert_eq!(content(&layer, b"a"), b"b");
}

#[test]
fn verify_finds_damage_under_any_boot() {
    let (_dir, store, digest, pack, _) = filled();
    let blob = Digest::sha256(b"{}");
    store.put_blob(&blob, b"{}").unwrap();
    let report = store.verify(false, &|_| ()).unwrap();
    assert_eq!((report.checked, report.bad), (2, vec![]));

    flip(&pack, 3_000_000);
    flip(&under(store.blobs(), &blob, ""), 0);
    let read = std::sync::atomic::AtomicU64::new(0);
    let progress = |n| {
        read.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
    };
    let report = store.verify(false, &progress).unwrap();
    assert_eq!(report.checked, 2);
    assert!(read.into_inner() >= 2 << 20);
    let bad: Vec<&Digest> = report.bad.iter().map(|(digest, _)| digest).collect();
    assert_eq!(bad, [&digest, &blob]);
    // Only on request is it removed.
    assert!(store.layer(&digest).unwrap().is_some());
    assert_eq!(store.verify(true, &|_| ()).unwrap().bad.len(), 2);
    assert_eq!(store.verify(true, &|_| ()).unwrap().checked, 0);
    assert!(store.layer(&digest).unwrap().is_none());
}

#[test]
fn small_blobs_are_verified_both_ways() {
    let (_dir, store) = store();
    let digest = Digest::sha256(b"{}");
    assert_eq!(store.blob(&digest).unwrap(), None);
    assert!(store.put_blob(&digest, b"[]").is_err());
    assert!(
        store
            .put_blob(&Digest::sha256(&vec![0; 9 << 20]), &vec![0; 9 << 20])
            .is_err()
    );
    store.put_blob(&digest, b"{}").unwrap();
    store.put_blob(&digest, b"{}").unwrap();
    assert_eq!(store.blob(&digest).unwrap().unwrap(), b"{}");
    flip(&under(store.blobs(), &digest, ""), 1);
    assert_eq!(store.blob(&digest).unwrap(), None);
    assert_eq!(store.take_warnings().len(), 1);
    assert_eq!(files(&store), ["version"]);
}

#[test]
fn packs_without_an_index_are_pruned() {
    let (_dir, store, digest, _, index) = filled();
    fs::remove_file(index).unwrap();
    assert!(store.layer(&digest).unwrap().is_none());
    store.prune(PrunePolicy::KeepSize(u64::MAX), false).unwrap();
    assert_eq!(files(&store), ["version"]);
}
