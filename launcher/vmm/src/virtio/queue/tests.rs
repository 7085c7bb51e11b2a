use std::sync::Arc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use vm_memory::GuestAddressSpace;

use super::*;
use crate::virtio::testing::{Driver, DriverQueue, Interrupts, RINGS, memory, readable, writable};

const MEMORY: usize = 0x10_0000;
/// Free memory after the rings.
const DATA: u64 = RINGS;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

fn queue(driver: &Driver) -> Virtqueue {
    let interrupt: Arc<dyn Interrupt> = Arc::clone(&driver.interrupts) as _;
    Virtqueue::new(driver.queues[0].active(), driver.features, interrupt)
}

fn driver(size: u16) -> Driver {
    Driver::new(MEMORY, &[size], features::COMMON)
}

#[test]
fn a_chain_is_split_into_what_is_read_and_what_is_written() {
    let mut driver = driver(8);
    let mut queue = queue(&driver);
    let memory = driver.memory.memory();
    assert!(queue.pop(&memory).unwrap().is_none());

    let q = &mut driver.queues[0];
    q.write(DATA, b"hello ");
    q.write(DATA + 0x100, b"world");
    let head = q.add(&[
        readable(DATA, 6),
        readable(DATA + 0x100, 5),
        writable(DATA + 0x200, 3),
        writable(DATA + 0x300, 4),
    ]);
    let chain = queue.pop(&memory).unwrap().unwrap();
    assert_eq!(chain.head(), head);
    assert_eq!((chain.readable_len(), chain.writable_len()), (11, 7));
    let mut text = [0; 8];
    chain.read_at(&memory, 3, &mut text).unwrap();
    assert_eq!(&text, b"lo world");
    assert!(chain.read_at(&memory, 4, &mut text).is_err());
    chain.write_at(&memory, 1, b"abcdef").unwrap();
    assert!(chain.write_at(&memory, 2, b"abcdef").is_err());
    assert_eq!(q.read(DATA + 0x200, 4), b"\0ab\0");
    assert_eq!(q.read(DATA + 0x300, 4), b"cdef");
    queue.complete(&memory, chain, 7).unwrap();
    queue.notify(&memory).unwrap();
    assert_eq!(q.used(), Some((head.into(), 7)));
    assert_eq!(driver.interrupts.count.load(Ordering::SeqCst), 1);
}

#[test]
fn slices_go_through_system_calls() {
    let mut driver = driver(8);
    let mut queue = queue(&driver);
    let memory = driver.memory.memory();
    let q = &mut driver.queues[0];
    q.write(DATA, b"one");
    q.write(DATA + 0x100, b"two");
    q.add(&[
        readable(DATA, 3),
        readable(DATA + 0x100, 3),
        writable(DATA + 0x200, 2),
        writable(DATA + 0x300, 9),
    ]);
    let chain = queue.pop(&memory).unwrap().unwrap();
    let (host, device) = std::os::unix::net::UnixStream::pair().unwrap();
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    let slices = chain.readable_slices(&memory, 1, 100).unwrap();
    assert_eq!(slices.len(), 5);
    assert_eq!(slices.write_to(b"<>", device.as_fd()).unwrap(), 7);
    let mut got = [0; 7];
    (&host).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"<>netwo");
    (&host).write_all(b"abcdefgh").unwrap();
    let slices = chain.writable_slices(&memory, 0, 7).unwrap();
    assert_eq!(slices.read_from(device.as_fd()).unwrap(), 7);
    assert_eq!(q.read(DATA + 0x200, 2), b"ab");
    assert_eq!(q.read(DATA + 0x300, 6), b"cdefg\0");
}

#[test]
fn an_indirect_table_is_followed() {
    let mut driver = driver(8);
    let mut queue = queue(&driver);
    let memory = driver.memory.memory();
    let q = &mut driver.queues[0];
    // More descriptors than the queue has: Linux does so.
    let pieces: Vec<_> = (0..20)
        .map(|i| writable(DATA + 0x1000 + i * 16, 16))
        .collect();
    let head = q.add_indirect(DATA, &pieces);
    let chain = queue.pop(&memory).unwrap().unwrap();
    assert_eq!(chain.head(), head);
    assert_eq!(chain.writable().len(), 20);
    // An ordinary descriptor before the table.
    q.descriptor(q.table, 5, DATA + 0x800, 4, NEXT, 6);
    q.descriptor(q.table, 6, DATA, 16, INDIRECT, 0);
    q.publish(5);
    let mixed = queue.pop(&memory).unwrap_err();
    assert!(matches!(mixed, QueueError::Next { .. }), "{mixed}");
    q.descriptor(q.table, 6, DATA, 320, INDIRECT, 0);
    q.publish(5);
    let chain = queue.pop(&memory).unwrap().unwrap();
    assert_eq!((chain.readable().len(), chain.writable().len()), (1, 20));
}

/// One bad chain and how it is named.
type Case = (&'static str, fn(&mut DriverQueue), &'static str);

#[test]
fn hostile_chains_are_refused_by_name() {
    let cases: &[Case] = &[
        (
            "head beyond the table",
            |q| q.publish(8),
            "head 8 is beyond",
        ),
        (
            "head far beyond",
            |q| q.publish(0xffff),
            "head 65535 is beyond",
        ),
        (
            "next beyond the table",
            |q| {
                q.descriptor(q.table, 0, DATA, 1, NEXT, 8);
                q.publish(0);
            },
            "descriptor 8 is beyond",
        ),
        (
            "a chain that leads to itself",
            |q| {
                q.descriptor(q.table, 0, DATA, 1, NEXT, 0);
                q.publish(0);
            },
            "more than 8 descriptors",
        ),
        (
            "a loop of two",
            |q| {
                q.descriptor(q.table, 0, DATA, 1, NEXT, 1);
                q.descriptor(q.table, 1, DATA, 1, NEXT, 0);
                q.publish(0);
            },
            "more than 8 descriptors",
        ),
        (
            "out of memory",
            |q| {
                q.add(&[readable(MEMORY as u64, 1)]);
            },
            "1 bytes at 0x100000 are not in memory",
        ),
        (
            "over the end of memory",
            |q| {
                q.add(&[writable(MEMORY as u64 - 4, 5)]);
            },
            "5 bytes at 0xffffc are not in memory",
        ),
        (
            "over the end of the address space",
            |q| {
                q.add(&[writable(u64::MAX - 3, 16)]);
            },
            "not in memory",
        ),
        (
            "a zero length",
            |q| {
                q.add(&[readable(DATA, 0)]);
            },
            "length zero",
        ),
        (
            "readable after writable",
            |q| {
                q.add(&[writable(DATA, 1), readable(DATA, 1)]);
            },
            "readable buffer after a writable",
        ),
        (
            "an indirect table in an indirect table",
            |q| {
                q.descriptor(DATA, 0, DATA, 16, INDIRECT, 0);
                q.descriptor(q.table, 0, DATA, 16, INDIRECT, 0);
                q.publish(0);
            },
            "inside another",
        ),
        (
            "an indirect table with a next",
            |q| {
                q.descriptor(q.table, 0, DATA, 16, INDIRECT | NEXT, 1);
                q.publish(0);
            },
            "not the last",
        ),
        (
            "an empty indirect table",
            |q| {
                q.descriptor(q.table, 0, DATA, 0, INDIRECT, 0);
                q.publish(0);
            },
            "whole number",
        ),
        (
            "half a descriptor",
            |q| {
                q.descriptor(q.table, 0, DATA, 24, INDIRECT, 0);
                q.publish(0);
            },
            "whole number",
        ),
        (
            "an indirect table out of memory",
            |q| {
                q.descriptor(q.table, 0, MEMORY as u64 - 8, 16, INDIRECT, 0);
                q.publish(0);
            },
            "16 bytes at 0xffff8 are not in memory",
        ),
        (
            "an indirect table at the end of the address space",
            |q| {
                q.descriptor(DATA, 0, DATA, 1, 0, 0);
                q.descriptor(q.table, 0, u64::MAX - 15, 0x8000_0000, INDIRECT, 0);
                q.publish(0);
            },
            "not in memory",
        ),
        (
            "a loop in an indirect table",
            |q| {
                q.descriptor(DATA, 0, DATA, 1, NEXT | WRITE, 1);
                q.descriptor(DATA, 1, DATA, 1, NEXT | WRITE, 0);
                q.descriptor(q.table, 0, DATA, 32, INDIRECT, 0);
                q.publish(0);
            },
            "more than 1024 descriptors",
        ),
        (
            "an available index that ran away",
            |q| {
                q.descriptor(q.table, 0, DATA, 1, 0, 0);
                q.available_index = q.available_index.wrapping_add(8);
                q.publish(0);
            },
            "ring:",
        ),
    ];
    for (name, make, want) in cases {
        let mut driver = driver(8);
        let mut queue = queue(&driver);
        let memory = driver.memory.memory();
        make(&mut driver.queues[0]);
        let error = queue.pop(&memory).expect_err(name).to_string();
        assert!(error.contains(want), "{name}: {error}");
    }
}

#[test]
fn four_gib_in_one_chain_are_too_many() {
    // The same buffer over and over adds up without needing the memory.
    let memory_len = 0x200_0000;
    let mut driver = Driver::new(memory_len, &[256], features::COMMON);
    let mut queue = queue(&driver);
    let memory = driver.memory.memory();
    let q = &mut driver.queues[0];
    let pieces: Vec<_> = (0..256).map(|_| readable(0x100_0000, 0x100_0000)).collect();
    q.add(&pieces);
    let error = queue.pop(&memory).unwrap_err();
    assert!(matches!(error, QueueError::TooManyBytes), "{error}");
    q.add(&pieces[1..]);
    let chain = queue.pop(&memory).unwrap().unwrap();
    assert_eq!(chain.readable_len(), 0xff00_0000);
}

#[test]
fn indirect_tables_are_refused_unless_negotiated() {
    let mut driver = Driver::new(MEMORY, &[8], features::VERSION_1);
    let mut queue = queue(&driver);
    let memory = driver.memory.memory();
    driver.queues[0].add_indirect(DATA, &[readable(DATA + 64, 1)]);
    let error = queue.pop(&memory).unwrap_err();
    assert!(matches!(error, QueueError::Indirect("not negotiated")));
}

#[test]
fn the_used_ring_may_be_the_end_of_memory() {
    let space = memory(0x1_0000);
    let mut q = DriverQueue::new(&space, 0, 8, 0);
    // flags, index, 8 elements of 8 bytes, avail_event.
    q.used = 0x1_0000 - (4 + 8 * 8 + 2);
    // The used ring is to lie at a multiple of 4.
    q.used -= q.used % 4;
    let interrupts = Arc::new(Interrupts::default());
    let mut queue = Virtqueue::new(q.active(), features::COMMON, interrupts);
    let memory = space.memory();
    for _ in 0..20 {
        let head = q.add(&[writable(DATA, 1)]);
        let chain = queue.pop(&memory).unwrap().unwrap();
        queue.complete(&memory, chain, 1).unwrap();
        queue.notify(&memory).unwrap();
        assert_eq!(q.used(), Some((head.into(), 1)));
        queue.listen(&memory).unwrap();
    }
}

#[test]
fn a_driver_without_event_idx_can_ask_for_silence() {
    let mut driver = Driver::new(MEMORY, &[8], features::VERSION_1);
    let mut queue = queue(&driver);
    let memory = driver.memory.memory();
    let q = &mut driver.queues[0];
    let mut serve = |q: &mut DriverQueue| {
        q.add(&[writable(DATA, 1)]);
        queue
            .drain::<QueueError, _>(&memory, |_| Ok(Served::Used(1)))
            .unwrap();
    };
    serve(q);
    assert_eq!(driver.interrupts.count.load(Ordering::SeqCst), 1);
    q.write(q.available, &NO_INTERRUPT.to_le_bytes());
    serve(q);
    assert_eq!(driver.interrupts.count.load(Ordering::SeqCst), 1);
    q.write(q.available, &[0, 0]);
    serve(q);
    assert_eq!(driver.interrupts.count.load(Ordering::SeqCst), 2);
    // Done serving: the device wants to hear of buffers again.
    assert_eq!(q.read(q.used, 2), [0, 0]);
}

#[test]
fn what_cannot_be_served_stays_available() {
    let mut driver = driver(8);
    let mut queue = queue(&driver);
    let memory = driver.memory.memory();
    let q = &mut driver.queues[0];
    q.add(&[writable(DATA, 1)]);
    q.add(&[writable(DATA, 2)]);
    queue
        .drain::<QueueError, _>(&memory, |_| Ok(Served::Later))
        .unwrap();
    assert_eq!(q.used(), None);
    assert!(queue.has_available(&memory).unwrap());
    let mut lens = Vec::new();
    queue
        .drain::<QueueError, _>(&memory, |chain| {
            lens.push(chain.writable_len());
            Ok(Served::Used(0))
        })
        .unwrap();
    assert_eq!(lens, [1, 2]);
    assert!(!queue.has_available(&memory).unwrap());
}

#[test]
fn others_have_their_turn() {
    // A driver on another CPU that refills the ring as fast as it is served.
    let mut driver = driver(8);
    let mut queue = queue(&driver);
    let memory = driver.memory.memory();
    let q = &mut driver.queues[0];
    q.add(&[writable(DATA, 1)]);
    let mut served = 0;
    queue
        .drain::<QueueError, _>(&memory, |_| {
            served += 1;
            q.add(&[writable(DATA, 1)]);
            Ok(Served::Used(0))
        })
        .unwrap();
    assert_eq!(served, BUDGET);
    assert_eq!(q.doorbell.read().unwrap(), 1, "it rings its own doorbell");
}

proptest! {
    /// Whatever the indexes start at and however the driver and the device take
    /// turns, each chain comes back once, in order, and the driver is
    /// interrupted exactly when the specification's `vring_need_event` says so
    /// (section 2.7.7.2).
    #[test]
    fn indexes_wrap(
        start: u16,
        log_size in 0u32..=8,
        rounds in prop::collection::vec((1usize..300, 0u16..400), 1..40),
    ) {
        let size = 1u16 << log_size;
        let mut driver = driver(size);
        driver.queues[0].available_index = start;
        driver.queues[0].seen = start;
        // What is there was not put there by `add`.
        let q = &mut driver.queues[0];
        q.write(q.available + 2, &start.to_le_bytes());
        q.write(q.used + 2, &start.to_le_bytes());
        let mut queue = queue(&driver);
        let memory = driver.memory.memory();
        let q = &mut driver.queues[0];
        let mut told = 0;
        for (count, ahead) in rounds {
            let count = count.min(size.into());
            let old = q.seen;
            let event = old.wrapping_add(ahead);
            q.set_used_event(event);
            let heads: Vec<_> = (0..count).map(|_| q.add(&[writable(DATA, 1)])).collect();
            queue.drain::<QueueError, _>(&memory, |_| Ok(Served::Used(1))).unwrap();
            if q.doorbell.read().is_ok() {
                // It has had its turn and finds nothing in the next.
                queue.drain::<QueueError, _>(&memory, |_| Ok(Served::Used(1))).unwrap();
            }
            for head in heads {
                prop_assert_eq!(q.used(), Some((head.into(), 1)));
            }
            prop_assert_eq!(q.used(), None);
            let new = q.seen;
            let need = new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old);
            told += u32::from(need);
            prop_assert_eq!(driver.interrupts.count.load(Ordering::SeqCst), told);
            prop_assert_eq!(q.avail_event(), q.available_index);
        }
    }

    /// Reading and writing through a chain is the same as through one buffer.
    #[test]
    fn offsets_into_chains(
        lens in prop::collection::vec(1u32..200, 1..8),
        offset in 0u32..1000,
        len in 0usize..1000,
    ) {
        let mut driver = driver(8);
        let mut queue = queue(&driver);
        let memory = driver.memory.memory();
        let q = &mut driver.queues[0];
        let total: u32 = lens.iter().sum();
        let content: Vec<u8> = (0..total).map(|i| (i * 7) as u8).collect();
        let mut at = 0;
        let pieces: Vec<_> = lens.iter().enumerate().map(|(i, len)| {
            let address = DATA + i as u64 * 0x200;
            q.write(address, &content[at as usize..(at + len) as usize]);
            at += len;
            readable(address, *len)
        }).collect();
        q.add(&pieces);
        let chain = queue.pop(&memory).unwrap().unwrap();
        let mut data = vec![0; len];
        let fits = offset as usize + len <= total as usize;
        prop_assert_eq!(chain.read_at(&memory, offset, &mut data).is_ok(), fits);
        if fits {
            prop_assert_eq!(&data[..], &content[offset as usize..][..len]);
        }
        let slices = chain.readable_slices(&memory, offset, len as u32).unwrap();
        let want = (total as usize).saturating_sub(offset as usize).min(len);
        prop_assert_eq!(slices.len(), want);
    }
}
