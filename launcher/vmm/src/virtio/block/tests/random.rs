//! Random requests through the device against a plain copy of the disk.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use virtio_bindings::bindings::virtio_blk as blk;

use super::driver::{DATA, Driver};
use super::{BlockEngine, OK, SIZE, options, range, raw};
use crate::block::{Backend, BaseId, Overlay, Qcow2Disk, read_at};
use crate::virtio::VirtioDevice;
use crate::virtio::block::Block;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Read,
    Write(u8),
    Zero(bool),
    Discard,
    Flush,
}

pub(super) fn steps() -> impl Strategy<Value = Vec<(Step, u64, u64, usize)>> {
    let step = prop_oneof![
        4 => Just(Step::Read),
        4 => any::<u8>().prop_map(Step::Write),
        1 => any::<bool>().prop_map(Step::Zero),
        1 => Just(Step::Discard),
        1 => Just(Step::Flush),
    ];
    let len = prop_oneof![4 => 1..32u64, 1 => 1..600u64];
    let step = (step, 0..SIZE / 512, len, 0..2usize)
        .prop_map(|(step, at, len, queue)| (step, at, len.min(SIZE / 512 - at), queue));
    prop::collection::vec(step, 1..60)
}

/// Queue, head, and for reads where the data comes and what it must be.
type Waiting = (usize, u16, Option<(u64, std::ops::Range<usize>)>);

/// Does random requests, several at a time where they do not touch each other.
pub(super) fn run(
    backend: Arc<dyn Backend>,
    engine: BlockEngine,
    steps: &[(Step, u64, u64, usize)],
    model: &mut [u8],
) {
    let discards = backend.limits().discard.is_some();
    let mut block = Block::new(backend, options(2, engine)).unwrap();
    let mut driver = Driver::new(2);
    let features = block.features();
    driver.activate(&mut block, features);
    for batch in steps.chunks(6) {
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut touched: Vec<std::ops::Range<u64>> = Vec::new();
        for (i, (step, sector, count, queue)) in batch.iter().enumerate() {
            let sectors = *sector..*sector + *count;
            if touched
                .iter()
                .any(|t| t.start < sectors.end && sectors.start < t.end)
            {
                continue;
            }
            touched.push(sectors);
            let at = DATA + i as u64 * 0x8_0000;
            let bytes = (*sector as usize * 512)..((*sector + *count) as usize * 512);
            let len = bytes.len() as u32;
            // In two pieces, the first of an odd length.
            let data = [
                (at, len / 2 - 1),
                (at + u64::from(len / 2 - 1), len - len / 2 + 1),
            ];
            let (kind, data, device_writes, expect) = match step {
                Step::Read => (blk::VIRTIO_BLK_T_IN, data.to_vec(), true, Some((at, bytes))),
                Step::Write(seed) => {
                    let new: Vec<u8> = (0..len)
                        .map(|i| seed.wrapping_add((i / 512) as u8))
                        .collect();
                    driver.put(at, &new);
                    model[bytes].copy_from_slice(&new);
                    (blk::VIRTIO_BLK_T_OUT, data.to_vec(), false, None)
                }
                Step::Zero(unmap) => {
                    driver.put(at, &range(*sector, *count as u32, u32::from(*unmap)));
                    model[bytes].fill(0);
                    (blk::VIRTIO_BLK_T_WRITE_ZEROES, vec![(at, 16)], false, None)
                }
                Step::Discard if discards => {
                    // What a discard leaves behind is not promised, so all of
                    // it is made zeros, too.
                    driver.put(at, &range(*sector, *count as u32, 0));
                    let answer =
                        driver.submit(*queue, blk::VIRTIO_BLK_T_DISCARD, 0, &[(at, 16)], false);
                    driver.ring(*queue);
                    waiting.push((*queue, answer, None));
                    continue;
                }
                Step::Discard | Step::Flush => (blk::VIRTIO_BLK_T_FLUSH, vec![], false, None),
            };
            let head = driver.submit(*queue, kind, *sector, &data, device_writes);
            driver.ring(*queue);
            waiting.push((*queue, head, expect));
        }
        while !waiting.is_empty() {
            let queue = waiting[0].0;
            let (head, _) = driver
                .used(queue, Duration::from_secs(20))
                .expect("an answer");
            let at = waiting
                .iter()
                .position(|w| (w.0, w.1) == (queue, head))
                .unwrap();
            let (_, _, expect) = waiting.remove(at);
            assert_eq!(driver.status(queue, head), OK);
            if let Some((at, bytes)) = expect {
                let got = driver.get(at, bytes.len());
                assert!(got == model[bytes], "read something else than was written");
            }
        }
        // Discards settle only what reads as zeros now.
        for (step, sector, count, _) in batch {
            if matches!(step, Step::Discard) {
                let bytes = (*sector as usize * 512)..((*sector + *count) as usize * 512);
                let data = [(DATA, bytes.len() as u32)];
                assert_eq!(
                    driver
                        .request(0, blk::VIRTIO_BLK_T_IN, *sector, &data, true)
                        .0,
                    OK
                );
                let got = driver.get(DATA, bytes.len());
                for (new, old) in got.chunks(512).zip(model[bytes.clone()].chunks_mut(512)) {
                    assert!(new == old || new.iter().all(|b| *b == 0));
                    old.copy_from_slice(new);
                }
            }
        }
    }
    block.reset();
    assert_eq!(block.metrics().last_error(), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_raw_disk_is_what_was_written(steps in steps(), engine in 0..2usize) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let backend = raw(&path, false);
        let mut model = std::fs::read(&path).unwrap();
        run(backend, super::engines()[engine], &steps, &mut model);
        prop_assert!(std::fs::read(&path).unwrap() == model);
    }

    #[test]
    fn an_overlay_is_what_was_written(steps in steps(), engine in 0..2usize) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let base = raw(&path, false);
        let mut model = std::fs::read(&path).unwrap();
        let (path, id) = (dir.path().join("overlay"), BaseId([5; 32]));
        let overlay = Overlay::create(&path, Arc::clone(&base), id, SIZE).unwrap();
        run(Arc::new(overlay), super::engines()[engine], &steps, &mut model);
        prop_assert!(all_of(&Overlay::open(&path, base, id).unwrap()) == model);
    }

    #[test]
    fn a_qcow2_disk_is_what_was_written(
        steps in steps(),
        engine in 0..2usize,
        cluster in prop_oneof![Just("512"), Just("4k"), Just("64k"), Just("2M")],
        backed in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("below");
        let base = raw(&below, true);
        let path = dir.path().join("disk");
        let (name, size) = (path.to_str().unwrap(), SIZE.to_string());
        let options = format!("cluster_size={cluster}");
        let mut args = vec!["create", "-q", "-f", "qcow2", "-o", &options];
        let mut model = vec![0; SIZE as usize];
        if backed {
            args.extend(["-b", below.to_str().unwrap(), "-F", "raw"]);
            model = std::fs::read(&below).unwrap();
        }
        args.extend([name, &size]);
        let qemu_img = |args: &[&str]| std::process::Command::new("qemu-img").args(args).status();
        assert!(qemu_img(&args).unwrap().success());
        let open = || Qcow2Disk::open(&path, false, backed.then(|| Arc::clone(&base))).unwrap();
        run(Arc::new(open()), super::engines()[engine], &steps, &mut model);
        prop_assert!(all_of(&open()) == model);
        drop(base);
        prop_assert!(qemu_img(&["check", "-q", name]).unwrap().success());
    }
}

fn all_of(disk: &dyn Backend) -> Vec<u8> {
    let mut bytes = vec![0; disk.size() as usize];
    read_at(disk, 0, &mut bytes).unwrap();
    bytes
}
