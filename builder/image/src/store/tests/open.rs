//! Opening a store, and what goes when it is pruned.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::*;
use crate::store::{PrunePolicy, StoreError, VERSION};

#[test]
fn a_store_is_made_for_its_user_alone() {
    let (_dir, store) = store();
    let mode = fs::metadata(store.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    let version = fs::read_to_string(store.path().join("version")).unwrap();
    assert_eq!(version, format!("bootwright store {VERSION}\n"));
    assert!(Store::open(Some(store.path())).is_ok());
}

#[test]
fn a_newer_store_is_refused_and_left_alone() {
    let (_dir, store) = store();
    let tar = tar(&[("a", b"b")]);
    add(&store, &tar, &tar).unwrap();
    fs::write(store.path().join("version"), "bootwright store 4000\n").unwrap();
    let before = files(&store);
    let error = Store::open(Some(store.path())).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 4000, .. }));
    assert!(error.to_string().contains("newer version"), "{error}");
    assert_eq!(files(&store), before);
}

#[test]
fn an_older_store_is_emptied() {
    let (_dir, store) = store();
    let tar = tar(&[("a", b"b")]);
    let diff_id = add(&store, &tar, &tar).unwrap().diff_id().clone();
    fs::write(store.path().join("version"), "bootwright store 0\n").unwrap();
    let store = Store::open(Some(store.path())).unwrap();
    assert!(store.layer(&diff_id).unwrap().is_none());
    assert_eq!(files(&store), ["version"]);
    add(&store, &tar, &tar).unwrap();
}

#[test]
fn a_directory_of_other_things_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.odt"), b"").unwrap();
    let error = Store::open(Some(dir.path())).unwrap_err();
    assert!(matches!(error, StoreError::NotAStore(_)), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    fs::write(dir.path().join("version"), b"2.0\n").unwrap();
    assert!(Store::open(Some(dir.path())).is_err());
    // A file is none either.
    assert!(Store::open(Some(&dir.path().join("version"))).is_err());
}

#[test]
fn many_can_make_the_same_store_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/store");
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| Store::open(Some(&path)).unwrap());
        }
    });
}

fn used_at(store: &Store, diff_id: &Digest, secs_ago: u64) {
    let time = SystemTime::now() - Duration::from_secs(secs_ago);
    let index = fs::File::options()
        .write(true)
        .open(store.index_path(diff_id))
        .unwrap();
    index.set_modified(time).unwrap();
}

#[test]
fn the_least_recently_used_goes_first() {
    let (_dir, store) = store();
    let mut ids = Vec::new();
    for n in 1..=4u8 {
        let tar = tar(&[("data", &[n; 1_000_000])]);
        ids.push(add(&store, &tar, &tar).unwrap().diff_id().clone());
    }
    for (id, days) in ids.iter().zip([1, 4, 3, 2]) {
        used_at(&store, id, days * 86_400);
    }
    let listed = store.list().unwrap();
    assert_eq!(listed.len(), 4);
    assert!(
        listed
            .iter()
            .all(|layer| layer.entries == 1 && layer.stored >= 1_000_000)
    );

    let total: u64 = listed.iter().map(|layer| layer.stored).sum();
    let policy = PrunePolicy::KeepSize(total / 2);
    let dry = store.prune(policy, true).unwrap();
    assert_eq!(store.list().unwrap(), listed);
    let report = store.prune(policy, false).unwrap();
    assert_eq!(report, dry);
    assert_eq!(report.removed, [ids[1].clone(), ids[2].clone()]);
    assert_eq!(report.freed + report.left, total);

    let policy = PrunePolicy::OlderThan(Duration::from_secs(86_400 + 3600));
    assert_eq!(
        store.prune(policy, false).unwrap().removed,
        [ids[3].clone()]
    );
    // Using it makes it young.
    used_at(&store, &ids[0], 1_000_000);
    store.layer(&ids[0]).unwrap().unwrap();
    assert_eq!(store.prune(policy, false).unwrap().removed, []);
    assert_eq!(
        store.prune(PrunePolicy::All, false).unwrap().removed,
        [ids[0].clone()]
    );
    assert_eq!(files(&store), ["version"]);
}

#[test]
fn a_layer_in_hand_is_not_pruned() {
    let (_dir, store) = store();
    let tar = tar(&[("a", b"b")]);
    let layer = add(&store, &tar, &tar).unwrap();
    let id = layer.diff_id().clone();
    let clone = layer.clone();
    drop(layer);
    assert_eq!(
        store.prune(PrunePolicy::All, false).unwrap().in_use,
        std::slice::from_ref(&id)
    );
    drop(clone);
    let again = store.layer(&id).unwrap().unwrap();
    assert_eq!(
        store.prune(PrunePolicy::All, false).unwrap().in_use,
        std::slice::from_ref(&id)
    );
    drop(again);
    assert_eq!(store.prune(PrunePolicy::All, false).unwrap().removed, [id]);
}

#[test]
fn an_interrupt_ends_adding_and_waiting() {
    let (_dir, store) = store();
    let path = store.path().to_owned();
    let flag = Arc::new(AtomicBool::new(false));
    let store = store.interruptible(Arc::clone(&flag));
    let tar = tar(&[("a", &[1; 1_000_000])]);
    let id = Digest::sha256(&tar);
    let raise = |n| {
        if n > 0 {
            flag.store(true, Ordering::Relaxed);
        }
    };
    let result = store.add_layer(&id, &info(&tar), &tar[..], &Limits::default(), &raise);
    assert!(matches!(result, Err(StoreError::Interrupted)), "{result:?}");
    assert_eq!(files(&store), ["version"]);

    let other = Store::open(Some(&path)).unwrap();
    let _held = super::super::lock::TempFile::try_create(&other.lock_path(&id))
        .unwrap()
        .unwrap();
    let result = add(&store, &tar, &tar);
    assert!(matches!(result, Err(StoreError::Interrupted)), "{result:?}");
}
