//! A store that several processes share, some of which are killed.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bootwright_image::store::{BlobInfo, Layer, Limits, PrunePolicy, Store};
use bootwright_image::{Digest, EntryKind};

/// A tar with one file of so many bytes that do not repeat.
fn layer_tar(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let data: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    })
    .take(len)
    .collect();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(len as u64);
    tar.append_data(&mut header, "data", &data[..]).unwrap();
    tar.into_inner().unwrap()
}

fn add(store: &Store, tar: &[u8], reader: impl Read + Send) -> Layer {
    let digest = Digest::sha256(tar);
    let blob = BlobInfo {
        digest: Some(digest.clone()),
        size: Some(tar.len() as u64),
    };
    store
        .add_layer(&digest, &blob, reader, &Limits::default(), &|_| ())
        .unwrap()
}

fn check(layer: &Layer, tar: &[u8]) {
    let entry = layer.entries().next().unwrap();
    let EntryKind::Regular { size, .. } = entry.kind else {
        panic!("{entry:?}");
    };
    let pack = fs::read(layer.pack_path()).unwrap();
    assert!(pack[..size as usize] == tar[512..512 + size as usize]);
}

fn temporaries(store: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(store.join("tmp")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Runs [`child`] in a process of its own.
fn start(store: &Path, what: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("TEST_STORE", store)
        .env("TEST_ACTION", what)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the child says so.
fn wait_for(child: &mut Child, word: &str) {
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap().contains(word)),
        "the child never said {word}"
    );
}

const LEN: usize = 5_000_000;

/// Gives half of the bytes, says so, and hangs.
struct Hanging<'a>(&'a [u8]);

impl Read for Hanging<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.0.len() <= LEN / 2 {
            println!("halfway");
            std::thread::sleep(Duration::from_secs(600));
        }
        self.0.read(buf)
    }
}

#[test]
#[ignore = "runs inside the other tests' child processes"]
fn child() {
    let dir = std::env::var_os("TEST_STORE").unwrap();
    let store = Store::open(Some(Path::new(&dir))).unwrap();
    let tar = layer_tar(LEN);
    match std::env::var("TEST_ACTION").unwrap().as_str() {
        "add" => check(&add(&store, &tar, &tar[..]), &tar),
        "hang" => check(&add(&store, &tar, Hanging(&tar)), &tar),
        "hold" => {
            let layer = store.layer(&Digest::sha256(&tar)).unwrap().unwrap();
            println!("holding");
            let _ = io::stdin().read(&mut [0]);
            check(&layer, &tar);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_killed_process_leaves_a_usable_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let tar = layer_tar(LEN);
    let mut child = start(&path, "hang");
    wait_for(&mut child, "halfway");
    // What a living process is writing stays.
    let store = Store::open(Some(&path)).unwrap();
    assert!(store.layer(&Digest::sha256(&tar)).unwrap().is_none());
    let writing = temporaries(&path).len();
    assert!(writing >= 2);
    store.prune(PrunePolicy::All, false).unwrap();
    assert_eq!(temporaries(&path).len(), writing);

    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(temporaries(&path).len(), writing);
    let store = Store::open(Some(&path)).unwrap();
    assert_eq!(temporaries(&path), Vec::<PathBuf>::new());
    check(&add(&store, &tar, &tar[..]), &tar);
}

#[test]
fn who_waits_for_a_process_that_is_killed_adds_the_layer_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let tar = layer_tar(LEN);
    let mut child = start(&path, "hang");
    wait_for(&mut child, "halfway");
    let store = Store::open(Some(&path)).unwrap();
    let layer = std::thread::scope(|scope| {
        let adding = scope.spawn(|| add(&store, &tar, &tar[..]));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!adding.is_finished());
        child.kill().unwrap();
        child.wait().unwrap();
        adding.join().unwrap()
    });
    check(&layer, &tar);
}

#[test]
fn many_processes_add_the_same_layer_while_another_prunes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let tar = layer_tar(LEN);
    let store = Store::open(Some(&path)).unwrap();
    let mut children: Vec<Child> = (0..4).map(|_| start(&path, "add")).collect();
    let mut running = true;
    while running {
        store.prune(PrunePolicy::All, false).unwrap();
        if let Some(layer) = store.layer(&Digest::sha256(&tar)).unwrap() {
            check(&layer, &tar);
        }
        running = children.iter_mut().any(|c| c.try_wait().unwrap().is_none());
    }
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(temporaries(&path), Vec::<PathBuf>::new());
    assert!(store.verify(false, &|_| ()).unwrap().bad.is_empty());
}

#[test]
fn prune_leaves_what_another_process_uses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let tar = layer_tar(LEN);
    let store = Store::open(Some(&path)).unwrap();
    drop(add(&store, &tar, &tar[..]));
    let mut child = start(&path, "hold");
    wait_for(&mut child, "holding");
    for policy in [
        PrunePolicy::All,
        PrunePolicy::OlderThan(Duration::ZERO),
        PrunePolicy::KeepSize(0),
    ] {
        let report = store.prune(policy, false).unwrap();
        assert_eq!(report.in_use, [Digest::sha256(&tar)]);
        assert_eq!(report.removed, []);
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let report = store.prune(PrunePolicy::All, false).unwrap();
    assert_eq!(report.removed, [Digest::sha256(&tar)]);
    assert!(report.freed >= LEN as u64 && report.left == 0);
}
