//! Ring indexes: they only ever grow, and wrap at 65536.

use std::sync::Arc;

use proptest::prelude::*;
use virtio_bindings::bindings::virtio_blk as blk;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::{Block, BlockEngine, options};
use crate::block::RawDisk;
use crate::block::testing::file_of;
use crate::virtio::VirtioDevice;
use crate::virtio::testing::{Driver, readable, writable};

const HEADER: u64 = 0x8000;
const STATUS: u64 = 0x9000;
const DATA: u64 = 0x1_0000;

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn requests_are_answered_at_any_index_and_over_the_wrap(
        start in prop_oneof![any::<u16>(), 65_500..=u16::MAX, Just(0)],
        size in (2..=8u32).prop_map(|bits| 1u16 << bits),
        batches in prop::collection::vec(1..40u16, 1..12),
        event_idx in any::<bool>(),
    ) {
        let bytes: Vec<u8> = (0..64 << 10).map(|i| (i / 512) as u8).collect();
        let disk = Arc::new(RawDisk::from_file(file_of(&bytes), false).unwrap());
        let mut block = Block::new(disk, options(1, BlockEngine::Auto)).unwrap();
        let mut features = block.features();
        if !event_idx {
            features &= !(1 << VIRTIO_RING_F_EVENT_IDX);
        }
        let mut driver = Driver::new(1 << 20, &[size], features);
        let queue = &mut driver.queues[0];
        (queue.available_index, queue.seen) = (start, start);
        queue.write(queue.available + 2, &start.to_le_bytes());
        queue.write(queue.used + 2, &start.to_le_bytes());
        block.activate(driver.activation()).unwrap();
        let mut done = 0u16;
        for batch in batches {
            // As many at once as have descriptors.
            let batch = batch.min(size / 3).max(1);
            let queue = &mut driver.queues[0];
            let mut heads = Vec::new();
            for i in 0..batch {
                let sector = u64::from((done + i) % 128);
                let header = HEADER + u64::from(i) * 16;
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&blk::VIRTIO_BLK_T_IN.to_le_bytes());
                bytes[8..].copy_from_slice(&sector.to_le_bytes());
                queue.write(header, &bytes);
                let data = DATA + u64::from(i) * 512;
                queue.write(STATUS + u64::from(i), &[0xff]);
                let head = queue.add(&[
                    readable(header, 16),
                    writable(data, 512),
                    writable(STATUS + u64::from(i), 1),
                ]);
                heads.push((u32::from(head), i, sector));
            }
            queue.ring();
            for _ in 0..batch {
                let (head, len) = queue.wait_used();
                let at = heads.iter().position(|h| h.0 == head);
                prop_assert!(at.is_some(), "head {head} was not offered");
                let (_, i, sector) = heads.swap_remove(at.unwrap());
                prop_assert_eq!(len, 513);
                prop_assert_eq!(queue.read(STATUS + u64::from(i), 1), [0]);
                let data = queue.read(DATA + u64::from(i) * 512, 512);
                prop_assert!(data.iter().all(|b| *b == sector as u8));
            }
            done += batch;
            prop_assert_eq!(queue.used(), None);
            prop_assert_eq!(queue.seen, start.wrapping_add(done));
        }
        block.reset();
        prop_assert!(!driver.broken());
    }
}
