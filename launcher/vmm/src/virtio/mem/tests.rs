use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use zerocopy::{FromBytes, IntoBytes};

use super::handler::{Answer, Request, answer, request};
use super::*;
use crate::memory::{MemoryConfig, Placement, allocate};
use crate::virtio::testing::{Driver, DriverQueue, Inline, no_sandbox, readable, taken, writable};

const MIB: u64 = 1 << 20;

/// Keeps which pieces are in reach, or refuses.
#[derive(Debug, Default)]
struct Seen {
    pieces: Mutex<std::collections::BTreeMap<u32, Range>>,
    refuse: std::sync::atomic::AtomicBool,
}

impl Slots for Seen {
    fn set(&self, number: u32, range: Range, reachable: bool) -> io::Result<()> {
        if self.refuse.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let mut pieces = self.pieces.lock().unwrap();
        match reachable {
            true => assert!(pieces.insert(number, range).is_none()),
            false => assert_eq!(pieces.remove(&number), Some(range)),
        }
        Ok(())
    }
}

impl Seen {
    /// Where the pieces in reach start, in blocks of the region of `guest`.
    fn starts(&self, guest: &Guest) -> Vec<u64> {
        let pieces = self.pieces.lock().unwrap();
        let blocks = pieces
            .values()
            .map(|r| (r.start - guest.region.start) / BLOCK);
        blocks.collect()
    }
}

/// A machine of 64 MiB with a region of 256 MiB, in memory as guests have it.
struct Guest {
    driver: Driver,
    device: Inline<MemHandler>,
    handle: MemHandle,
    region: Range,
}

impl Guest {
    fn new() -> Self {
        let placement = Placement::of(&MemoryConfig {
            size: 64 * MIB,
            hotplug: 256 * MIB,
            huge_pages: false,
        })
        .unwrap();
        let region = placement.hotplug.unwrap();
        let memory = allocate(&placement, false).unwrap();
        let mut driver = Driver::new(0x1_0000, QUEUES, features::COMMON);
        driver.queues = vec![DriverQueue::new(&memory, 0, QUEUES[0], 0)];
        driver.memory = memory;
        let shared = Mem::shared(region).unwrap();
        let handler = MemHandler::new(Arc::clone(&shared));
        let device = Inline::start(handler, driver.activation());
        Self {
            driver,
            device,
            handle: MemHandle(shared),
            region,
        }
    }

    fn ask(&mut self, kind: u16, address: u64, count: u16) -> Answer {
        let message = Request {
            kind: kind.into(),
            padding: [0xffff.into(); 3],
            address: address.into(),
            count: count.into(),
            padding_end: [0xffff.into(); 3],
        };
        let at = self.driver.free();
        let queue = &mut self.driver.queues[0];
        queue.write(at, message.as_bytes());
        queue.add(&[readable(at, 24), writable(at + 64, 10)]);
        self.device.event(0u16);
        assert_eq!(self.device.fault, None);
        let (_, len) = self.driver.queues[0].used().unwrap();
        assert_eq!(len, 10);
        Answer::read_from_bytes(&self.driver.queues[0].read(at + 64, 10)).unwrap()
    }

    /// The answer to a request for blocks from `block` of the region.
    fn blocks(&mut self, kind: u16, block: u64, count: u16) -> u16 {
        let at = self.region.start + block * BLOCK;
        self.ask(kind, at, count).kind.get()
    }

    fn state(&mut self, block: u64, count: u16) -> u16 {
        let at = self.region.start + block * BLOCK;
        let answer = self.ask(request::STATE, at, count);
        assert_eq!(answer.kind.get(), answer::ACK);
        answer.state.get()
    }

    fn plugged(&self) -> u64 {
        self.handle.metrics().plugged.get()
    }
}

#[test]
fn blocks_come_and_go_as_the_host_wants() {
    let mut guest = Guest::new();
    guest.handle.request(8 * BLOCK).unwrap();
    assert_eq!(guest.blocks(request::PLUG, 0, 4), answer::ACK);
    assert_eq!(guest.blocks(request::PLUG, 10, 4), answer::ACK);
    assert_eq!(guest.plugged(), 8 * BLOCK);
    assert_eq!(guest.state(0, 4), 0);
    assert_eq!(guest.state(4, 6), 1);
    assert_eq!(guest.state(3, 2), 2);
    // It has all that it is to have.
    assert_eq!(guest.blocks(request::PLUG, 20, 1), answer::NACK);
    assert_eq!(guest.blocks(request::UNPLUG, 1, 2), answer::ACK);
    assert_eq!(guest.blocks(request::PLUG, 127, 1), answer::ACK);
    assert_eq!(guest.plugged(), 7 * BLOCK);
    // The host wants less: more is not plugged, whatever goes.
    guest.handle.request(0).unwrap();
    assert_eq!(guest.blocks(request::UNPLUG, 10, 4), answer::ACK);
    assert_eq!(guest.blocks(request::PLUG, 10, 1), answer::NACK);
    assert_eq!(guest.ask(request::UNPLUG_ALL, 0, 0).kind.get(), answer::ACK);
    assert_eq!(guest.plugged(), 0);
    assert_eq!(guest.state(0, 128), 1);
    assert_eq!(guest.handle.metrics().refused.get(), 2);
}

#[test]
fn requests_that_cannot_be_met_are_errors() {
    let mut guest = Guest::new();
    guest.handle.request(256 * MIB).unwrap();
    assert_eq!(guest.blocks(request::PLUG, 4, 4), answer::ACK);
    let start = guest.region.start;
    for (kind, address, count) in [
        (request::PLUG, start + 4096, 1),
        (request::PLUG, start, 0),
        (request::PLUG, start, 5),
        (request::PLUG, start + 4 * BLOCK, 1),
        (request::PLUG, start + 127 * BLOCK, 2),
        (request::PLUG, start + 128 * BLOCK, 1),
        (request::PLUG, start - BLOCK, 1),
        (request::PLUG, 0, 1),
        (request::PLUG, u64::MAX - BLOCK + 1, 1),
        (request::UNPLUG, start, 1),
        (request::UNPLUG, start + 4 * BLOCK, 5),
        (request::STATE, start + 4096, 1),
        (request::STATE, start, 0),
        (4, start, 1),
        (u16::MAX, start, 1),
    ] {
        let answer = guest.ask(kind, address, count).kind.get();
        assert_eq!(answer, answer::ERROR, "{kind} {address:#x} {count}");
    }
    assert_eq!(guest.plugged(), 4 * BLOCK);
}

#[test]
fn what_is_unplugged_is_the_hosts_again() {
    let mut guest = Guest::new();
    guest.handle.request(256 * MIB).unwrap();
    assert_eq!(guest.blocks(request::PLUG, 0, 128), answer::ACK);
    let memory = guest.driver.memory.memory();
    let start = guest.region.start;
    let at = |block: u64| GuestAddress(start + block * BLOCK);
    for block in 0..128 {
        memory.write_slice(&[7; 4096], at(block)).unwrap();
    }
    let memory_of = guest.driver.memory.clone();
    let taken = || taken(&memory_of, at(0), 128 * BLOCK);
    let full = taken();
    assert!(full >= 128 * 4096);
    let (first, after) = (at(3), at(5));
    assert_eq!(guest.blocks(request::UNPLUG, 3, 2), answer::ACK);
    assert_eq!(full - taken(), 2 * full / 128);
    let read = |at| memory.read_obj::<u8>(at).unwrap();
    assert_eq!(read(after), 7);
    assert_eq!(read(first), 0);
    guest.ask(request::UNPLUG_ALL, 0, 0);
    assert_eq!(taken(), 0);
}

#[test]
fn the_guest_reaches_the_pieces_in_which_something_is_plugged() {
    let mut guest = Guest::new();
    let seen = Arc::new(Seen::default());
    let slots: Arc<dyn Slots> = seen.clone();
    guest.handle.0.reach().move_to(Some(slots));
    guest.handle.request(256 * MIB).unwrap();
    assert_eq!(guest.blocks(request::PLUG, 0, 1), answer::ACK);
    assert_eq!(seen.starts(&guest), [0]);
    // Over the border between the two pieces of 64 blocks.
    assert_eq!(guest.blocks(request::PLUG, 62, 4), answer::ACK);
    assert_eq!(seen.starts(&guest), [0, 64]);
    assert_eq!(guest.blocks(request::UNPLUG, 64, 2), answer::ACK);
    assert_eq!(seen.starts(&guest), [0]);
    assert_eq!(guest.blocks(request::UNPLUG, 0, 1), answer::ACK);
    assert_eq!(seen.starts(&guest), [0]);
    assert_eq!(guest.blocks(request::UNPLUG, 62, 2), answer::ACK);
    assert!(seen.starts(&guest).is_empty());
    // The host has no room for more.
    seen.refuse.store(true, Ordering::SeqCst);
    assert_eq!(guest.blocks(request::PLUG, 100, 1), answer::BUSY);
    assert_eq!(guest.plugged(), 0);
    seen.refuse.store(false, Ordering::SeqCst);
    assert_eq!(guest.blocks(request::PLUG, 100, 1), answer::ACK);
    // Empty is what counts: hidden is what the host can do beyond that.
    seen.refuse.store(true, Ordering::SeqCst);
    let all = guest.ask(request::UNPLUG_ALL, 0, 0);
    assert_eq!((all.kind.get(), guest.plugged()), (answer::ACK, 0));
    seen.refuse.store(false, Ordering::SeqCst);
    assert_eq!(guest.blocks(request::PLUG, 100, 1), answer::ACK);
    guest.ask(request::UNPLUG_ALL, 0, 0);
    assert!(seen.starts(&guest).is_empty());
}

#[test]
fn the_driver_is_told_what_the_host_wants() {
    let region = Range {
        start: 0x1_0000_0000,
        len: 256 * MIB,
    };
    let mut mem = Mem::new("mem0", region, &no_sandbox()).unwrap();
    let driver = Driver::new(0x10_0000, QUEUES, features::COMMON);
    let handle = mem.handle();
    handle.request(64 * MIB).unwrap();
    mem.activate(driver.activation()).unwrap();
    handle.request(128 * MIB).unwrap();
    assert_eq!(driver.interrupts.config.load(Ordering::SeqCst), 1);
    let mut config = [0; 64];
    mem.read_config(0, &mut config);
    let fields: Vec<_> = config
        .chunks(8)
        .map(|c| u64::from_le_bytes(c.try_into().unwrap()))
        .collect();
    let (start, len) = (region.start, region.len);
    assert_eq!(fields, [BLOCK, 0, start, len, len, 0, 128 * MIB, 0]);
    for size in [BLOCK + 1, 256 * MIB + BLOCK, u64::MAX] {
        let error = handle.request(size).unwrap_err().to_string();
        assert!(error.contains("268435456 at most"), "{error}");
    }
    mem.reset();
    handle.request(0).unwrap();
    assert_eq!(driver.interrupts.config.load(Ordering::SeqCst), 1);
}

#[test]
fn memory_stays_plugged_at_a_reset_and_goes_with_the_machine() {
    let region = Range {
        start: 16 * MIB,
        len: 16 * MIB,
    };
    let mut mem = Mem::new("mem0", region, &no_sandbox()).unwrap();
    let metrics = mem.metrics();
    mem.handle().request(16 * MIB).unwrap();
    for (kind, expected) in [
        (request::PLUG, answer::ACK),
        (request::UNPLUG, answer::ACK),
        (request::PLUG, answer::ACK),
    ] {
        let mut driver = Driver::new(32 << 20, QUEUES, features::COMMON);
        let free = driver.free();
        mem.activate(driver.activation()).unwrap();
        let queue = &mut driver.queues[0];
        let message = Request {
            kind: kind.into(),
            padding: [0.into(); 3],
            address: region.start.into(),
            count: 2.into(),
            padding_end: [0.into(); 3],
        };
        queue.write(free, message.as_bytes());
        queue.add(&[readable(free, 24), writable(free + 64, 10)]);
        queue.ring();
        queue.wait_used();
        assert_eq!(queue.read(free + 64, 2), expected.to_le_bytes());
        mem.reset();
    }
    assert_eq!(metrics.plugged.get(), 2 * BLOCK);
    mem.detach();
    assert_eq!(metrics.plugged.get(), 0);
    assert_eq!(metrics.requested.get(), 16 * MIB);
}

#[test]
fn memory_that_the_host_cannot_take_back_stays_plugged() {
    // The region is not in memory at all.
    let region = Range {
        start: 64 * MIB,
        len: 16 * MIB,
    };
    let shared = Mem::shared(region).unwrap();
    let mut guest = Guest::new();
    guest.device = Inline::start(
        MemHandler::new(Arc::clone(&shared)),
        guest.driver.activation(),
    );
    guest.handle = MemHandle(shared);
    guest.region = region;
    guest.handle.request(16 * MIB).unwrap();
    assert_eq!(guest.blocks(request::PLUG, 0, 1), answer::ACK);
    assert_eq!(guest.blocks(request::UNPLUG, 0, 1), answer::BUSY);
    assert_eq!(
        guest.ask(request::UNPLUG_ALL, 0, 0).kind.get(),
        answer::BUSY
    );
    assert_eq!(guest.plugged(), BLOCK);
}

#[test]
fn broken_requests_stop_the_device() {
    for pieces in [
        vec![readable(0x4000, 23), writable(0x5000, 10)],
        vec![readable(0x4000, 24), writable(0x5000, 9)],
        vec![readable(0x4000, 24)],
        vec![writable(0x5000, 10)],
    ] {
        let mut guest = Guest::new();
        guest.driver.queues[0].add(&pieces);
        guest.device.event(0u16);
        assert!(guest.device.fault.unwrap().contains("are needed"));
    }
}

#[test]
fn regions_of_no_whole_blocks_are_refused() {
    for (start, len) in [(1, BLOCK), (BLOCK, 4096), (u64::MAX - BLOCK + 1, 2 * BLOCK)] {
        let error = Mem::new("mem0", Range { start, len }, &no_sandbox()).unwrap_err();
        assert!(error.to_string().contains("cannot be plugged"));
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_the_guest_asks_for_is_harmless(
        bytes in proptest::collection::vec(0u8..=255, 0..2000),
    ) {
        random::play(&bytes);
    }
}
