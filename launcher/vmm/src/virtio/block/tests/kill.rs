//! Killing the process while a guest writes: what was flushed is there.
//!
//! The process is this test's own program, started again for the one test that
//! is ignored otherwise; it writes through the device, with both engines, and
//! tells when a flush has been answered.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use virtio_bindings::bindings::virtio_blk as blk;

use super::driver::{DATA, Driver};
use super::{Block, BlockEngine, OK, options};
use crate::block::testing::{Dice, file_of, sector};
use crate::block::{Backend, BaseId, Overlay, Qcow2Disk, RawDisk, read_at};
use crate::virtio::VirtioDevice;

const SIZE: u64 = 4 << 20;
const ID: BaseId = BaseId([3; 32]);
const PLACE: &str = "BOOTWRIGHT_TEST_KILL";
const CHILD: &str = "virtio::block::tests::kill::the_guest_that_will_be_killed";

fn base() -> Arc<dyn Backend> {
    let bytes = vec![0; SIZE as usize];
    Arc::new(RawDisk::from_file(file_of(&bytes), true).unwrap())
}

fn open(path: &Path) -> Arc<dyn Backend> {
    if path.ends_with("overlay") {
        Arc::new(Overlay::open(path, base(), ID).unwrap())
    } else {
        Arc::new(Qcow2Disk::open(path, false, None).unwrap())
    }
}

/// What is written in a round: sectors, and the value.
fn writes(round: u32) -> Vec<(u64, u32)> {
    let mut dice = Dice::new(round.into());
    (0..20)
        .map(|i| {
            let at = dice.roll(SIZE / 512 - 64);
            let len = [1, 8, 9, 64][dice.roll(4) as usize];
            (0..len)
                .map(|n| (at + n, round * 32 + i + 1))
                .collect::<Vec<_>>()
        })
        .collect::<Vec<_>>()
        .concat()
}

#[test]
#[ignore = "started by the test below, which kills it"]
fn the_guest_that_will_be_killed() {
    let Some(path) = std::env::var_os(PLACE).map(PathBuf::from) else {
        return;
    };
    let engine = if std::process::id().is_multiple_of(2) {
        BlockEngine::Auto
    } else {
        BlockEngine::Synchronous
    };
    let mut block = Block::new(open(&path), options(1, engine)).unwrap();
    let mut driver = Driver::new(1);
    let features = block.features();
    driver.activate(&mut block, features);
    for round in 0.. {
        // All at once, except what touches the same sectors again.
        let mut under_way = 0;
        let mut touched = std::collections::BTreeSet::new();
        let writes = writes(round);
        for part in writes.chunk_by(|a, b| a.1 == b.1) {
            let (first, last) = (part[0].0, part[part.len() - 1].0);
            let again = touched.range(first..=last).next().is_some();
            if again {
                for _ in 0..std::mem::take(&mut under_way) {
                    driver.used(0, Duration::from_secs(20)).expect("an answer");
                }
                touched.clear();
            }
            touched.extend(first..=last);
            let at = DATA + u64::from(part[0].1 % 32) * 0x8000;
            driver.put(at, &sector(part[0].1).repeat(part.len()));
            let data = [(at, part.len() as u32 * 512)];
            driver.submit(0, blk::VIRTIO_BLK_T_OUT, first, &data, false);
            driver.ring(0);
            under_way += 1;
        }
        for _ in 0..under_way {
            driver.used(0, Duration::from_secs(20)).expect("an answer");
        }
        let answer = driver.request(0, blk::VIRTIO_BLK_T_FLUSH, 0, &[], false);
        assert_eq!(answer, (OK, 1));
        println!("\nflushed {round}");
        std::io::stdout().flush().unwrap();
    }
}

/// Lets it run for `time` and returns the last round that was flushed.
fn run_and_kill(path: &Path, time: Duration) -> Option<u32> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--ignored", "--nocapture"])
        .env(PLACE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let lines = std::thread::spawn(move || {
        let lines = output.lines().map_while(Result::ok);
        let rounds = lines.filter_map(|line| line.strip_prefix("flushed ")?.parse().ok());
        rounds.last()
    });
    std::thread::sleep(time);
    child.kill().unwrap();
    child.wait().unwrap();
    lines.join().unwrap()
}

#[test]
fn what_was_flushed_is_there_after_a_kill() {
    let mut flushed = 0;
    for i in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let path = if i % 2 == 0 {
            let path = dir.path().join("overlay");
            drop(Overlay::create(&path, base(), ID, SIZE).unwrap());
            path
        } else {
            let path = dir.path().join("qcow2");
            let args = ["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "4M"];
            let made = Command::new("qemu-img").args(args).status();
            assert!(made.is_ok_and(|s| s.success()), "qemu-img create");
            path
        };
        let last = run_and_kill(&path, Duration::from_millis(150 + i * 61));
        flushed += u32::from(last.is_some());
        let mut allowed: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for round in 0..=last.map_or(0, |last| last + 1) {
            for (at, value) in writes(round) {
                let values = allowed.entry(at).or_insert_with(|| vec![0]);
                if last.is_some_and(|last| round <= last) {
                    values.clear();
                }
                values.push(value);
            }
        }
        let disk = open(&path);
        let mut bytes = vec![0; SIZE as usize];
        read_at(&*disk, 0, &mut bytes).unwrap();
        for (at, bytes) in (0..).zip(bytes.chunks(512)) {
            let good = allowed.get(&at).map_or(&[0][..], |values| values);
            assert!(
                good.iter().any(|value| bytes == sector(*value)),
                "after {last:?}: sector {at} has {:?}, not one of {good:?}",
                &bytes[..4]
            );
        }
    }
    assert!(flushed > 0, "not one flush was answered in time");
}
