//! Drivers that break the rules.

use std::time::Duration;

use proptest::prelude::*;
use virtio_bindings::bindings::virtio_blk as blk;

use super::driver::{DATA, Desc, Driver, END, INDIRECT, NEXT, QUEUE_SIZE, WRITE};
use super::{BlockEngine, OK, device, raw};
use crate::virtio::VirtioDevice;

type Case = (&'static str, fn(&mut Driver));

const HEADER: u64 = DATA + 0x10_0000;

#[test]
fn a_chain_that_cannot_be_answered_needs_a_reset_which_then_helps() {
    let cases: [Case; 11] = [
        ("no header", |d| {
            d.offer(0, &[Desc(DATA, 512, WRITE)]);
        }),
        ("half a header", |d| {
            d.offer(0, &[Desc(HEADER, 8, 0), Desc(DATA, 1, WRITE)]);
        }),
        ("no status", |d| {
            d.offer(0, &[Desc(HEADER, 16, 0)]);
        }),
        ("readable after writable", |d| {
            let chain = [
                Desc(HEADER, 16, 0),
                Desc(DATA, 512, WRITE),
                Desc(DATA, 512, 0),
                Desc(DATA, 1, WRITE),
            ];
            d.offer(0, &chain);
        }),
        ("memory that is not there", |d| {
            let chain = [
                Desc(HEADER, 16, 0),
                Desc(END - 100, 512, WRITE),
                Desc(DATA, 1, WRITE),
            ];
            d.offer(0, &chain);
        }),
        ("an address that overflows", |d| {
            let chain = [
                Desc(HEADER, 16, 0),
                Desc(u64::MAX - 10, 512, WRITE),
                Desc(DATA, 1, WRITE),
            ];
            d.offer(0, &chain);
        }),
        ("a head outside the table", |d| {
            d.make_available(0, QUEUE_SIZE)
        }),
        ("a chain in a circle", |d| {
            d.write_desc(0x1000, 0, &Desc(HEADER, 16, NEXT), 0);
            d.make_available(0, 0);
        }),
        ("a chain to outside the table", |d| {
            d.write_desc(0x1000, 0, &Desc(HEADER, 16, NEXT), 999);
            d.make_available(0, 0);
        }),
        ("an indirect table in an indirect table", |d| {
            d.write_desc(DATA, 0, &Desc(DATA, 32, INDIRECT), 0);
            d.offer(0, &[Desc(DATA, 32, INDIRECT)]);
        }),
        ("more available than the queue holds", |d| {
            d.set_avail_index(0, 300)
        }),
    ];
    for (name, break_it) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let (mut block, mut driver) = device(raw(&path, false), BlockEngine::Auto);
        let before = std::fs::read(&path).unwrap();
        break_it(&mut driver);
        driver.ring(0);
        assert!(driver.needs_reset(), "{name}");
        assert_eq!(driver.used(0, Duration::from_millis(1)), None, "{name}");
        block.reset();
        let features = block.features();
        driver.activate(&mut block, features);
        let answer = driver.request(0, blk::VIRTIO_BLK_T_IN, 0, &[(DATA, 512)], true);
        assert_eq!(answer.0, OK, "{name}");
        assert_eq!(std::fs::read(&path).unwrap(), before, "{name}");
    }
}

#[test]
fn a_chain_of_the_queues_length_in_an_indirect_table_works_and_a_longer_one_does_not() {
    for (segments, good) in [(254u32, true), (255, false)] {
        let dir = tempfile::tempdir().unwrap();
        let (_block, mut driver) = device(raw(&dir.path().join("disk"), false), BlockEngine::Auto);
        let table = DATA;
        let mut header = [0; 16];
        header[0] = blk::VIRTIO_BLK_T_OUT as u8;
        driver.put(HEADER, &header);
        driver.write_desc(table, 0, &Desc(HEADER, 16, NEXT), 1);
        for i in 0..segments {
            let at = DATA + 0x20_0000 + u64::from(i) * 512;
            let i = i as u16;
            driver.write_desc(table, i + 1, &Desc(at, 512, NEXT), i + 2);
        }
        let end = segments as u16 + 1;
        driver.write_desc(table, end, &Desc(HEADER + 16, 1, WRITE), 0);
        driver.offer(0, &[Desc(table, (segments + 2) * 16, INDIRECT)]);
        driver.ring(0);
        if good {
            assert!(driver.used(0, Duration::from_secs(20)).is_some());
            assert_eq!(driver.get(HEADER + 16, 1), [OK]);
        } else {
            assert!(driver.needs_reset());
        }
    }
}

/// A chain as a driver gone mad makes it: mostly valid, rarely not.
#[derive(Debug, Clone)]
struct Mad {
    kind: u32,
    sector: u64,
    descs: Vec<(u64, u32, u16)>,
    header_len: u32,
    status_len: u32,
}

fn mad() -> impl Strategy<Value = Mad> {
    let kind = prop_oneof![
        8 => prop::sample::select(vec![0u32, 1, 4, 8, 11, 13]),
        1 => any::<u32>(),
    ];
    let sector = prop_oneof![8 => 0..16384u64, 1 => any::<u64>()];
    let at = prop_oneof![20 => DATA..DATA + 0x10_0000, 1 => any::<u64>(), 1 => END - 5000..END];
    let len = prop_oneof![
        10 => (1..20u32).prop_map(|n| n * 512),
        2 => 0..5000u32,
        1 => any::<u32>()
    ];
    let flags =
        prop_oneof![20 => Just(WRITE), 20 => Just(0u16), 1 => Just(INDIRECT), 1 => any::<u16>()];
    let usual = |n: u32| prop_oneof![30 => Just(n), 1 => 0..40u32];
    (
        kind,
        sector,
        prop::collection::vec((at, len, flags), 0..6),
        any::<bool>(),
        usual(16),
        usual(1),
    )
        .prop_map(|(kind, sector, mut descs, tidy, header_len, status_len)| {
            if tidy {
                // All data one way, as the kind of request wants it.
                let flags = if kind == 0 || kind == 8 { WRITE } else { 0 };
                descs.iter_mut().for_each(|d| d.2 = flags);
            }
            Mad {
                kind,
                sector,
                descs,
                header_len,
                status_len,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_mad_driver_gets_answers_or_a_reset(
        batches in prop::collection::vec(prop::collection::vec(mad(), 1..20), 1..8),
        event_idx in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut block, mut driver) = device(raw(&dir.path().join("disk"), false), BlockEngine::Auto);
        block.reset();
        let features = block.features() & !(u64::from(!event_idx) << 29);
        driver.activate(&mut block, features);
        for batch in batches {
            let mut offered = 0;
            for (i, mad) in batch.into_iter().enumerate() {
                let at = HEADER + i as u64 * 64;
                let mut header = [0; 16];
                header[..4].copy_from_slice(&mad.kind.to_le_bytes());
                header[8..].copy_from_slice(&mad.sector.to_le_bytes());
                driver.put(at, &header);
                let mut chain = vec![Desc(at, mad.header_len, 0)];
                chain.extend(mad.descs.iter().map(|d| Desc(d.0, d.1, d.2)));
                chain.push(Desc(at + 40, mad.status_len, WRITE));
                driver.offer(0, &chain);
                offered += 1;
            }
            driver.ring(0);
            while offered > 0 && driver.interrupts.resets.load(std::sync::atomic::Ordering::Acquire) == 0 {
                if driver.used(0, Duration::from_millis(50)).is_some() {
                    offered -= 1;
                }
            }
            if offered > 0 {
                block.reset();
                driver.interrupts.resets.store(0, std::sync::atomic::Ordering::Release);
                driver.activate(&mut block, features);
            }
            // Whatever happened, an honest request is served again.
            let answer = driver.request(0, blk::VIRTIO_BLK_T_IN, 1, &[(DATA, 512)], true);
            prop_assert_eq!(answer.0, OK);
        }
        block.reset();
    }
}
