use std::sync::atomic::Ordering;
use std::time::Duration;

use vm_memory::GuestAddress;

use super::*;
use crate::memory::{MemoryConfig, Placement, allocate};
use crate::virtio::testing::{
    Driver, DriverQueue, Inline, RINGS, eventually, no_sandbox, readable, taken, writable,
};

const MIB: u64 = 1 << 20;
const ALL: u64 = features::COMMON | F_STATS_VQ | F_DEFLATE_ON_OOM | F_PAGE_REPORTING;

const CONFIG: Config = Config {
    most: 64 * MIB,
    deflate_on_oom: true,
    free_page_reporting: true,
};

/// A guest with 64 MiB, in memory as guests have it.
struct Guest {
    driver: Driver,
    device: Inline<BalloonHandler>,
    shared: Arc<Shared>,
}

impl Guest {
    /// One whose driver enables these of the queues.
    fn with(features: u64, enabled: &[usize]) -> Self {
        let placement = Placement::of(&MemoryConfig {
            size: 64 * MIB,
            hotplug: 0,
            huge_pages: false,
        })
        .unwrap();
        let mut driver = Driver::new(0x1_0000, &[], features);
        driver.memory = allocate(&placement, false).unwrap();
        driver.queues = (0..5)
            .map(|i| DriverQueue::new(&driver.memory, i, QUEUES[i as usize], u64::from(i) * RINGS))
            .collect();
        let mut activation = driver.activation();
        for (index, queue) in activation.queues.iter_mut().enumerate() {
            if !enabled.contains(&index) {
                *queue = None;
            }
        }
        let shared = Arc::new(Shared::default());
        let device = Inline::start(BalloonHandler::new(Arc::clone(&shared)), activation);
        Self {
            driver,
            device,
            shared,
        }
    }

    fn new() -> Self {
        Self::with(ALL, &[0, 1, 2, 4])
    }

    /// Names pages on a queue.
    fn pages(&mut self, queue: u16, pages: &[u32]) {
        let bytes: Vec<u8> = pages.iter().flat_map(|p| p.to_le_bytes()).collect();
        let at = self.driver.free();
        let driver = &mut self.driver.queues[usize::from(queue)];
        driver.write(at, &bytes);
        driver.add(&[readable(at, bytes.len() as u32)]);
        self.device.event(queue);
        assert_eq!(self.device.fault, None);
        assert_eq!(self.driver.queues[usize::from(queue)].used().unwrap().1, 0);
    }

    fn fill(&self, pages: std::ops::Range<u32>) {
        for page in pages {
            self.driver.queues[0].write(u64::from(page) * PAGE, &[7; PAGE as usize]);
        }
    }

    fn byte(&self, page: u32) -> u8 {
        self.driver.queues[0].read(u64::from(page) * PAGE + 9, 1)[0]
    }

    /// Bytes of the host that the pages from 0x1000 on take.
    fn taken(&self) -> u64 {
        taken(
            &self.driver.memory,
            GuestAddress(0x1000 * PAGE),
            0x200 * PAGE,
        )
    }
}

#[test]
fn pages_in_the_balloon_are_the_hosts() {
    let mut guest = Guest::new();
    guest.fill(0x1000..0x1100);
    let before = guest.taken();
    let pages: Vec<u32> = (0x1010..0x1090).rev().chain([0x10f0]).collect();
    guest.pages(INFLATE, &pages);
    // Of single pages within larger ones the host may free some later.
    assert!(before - guest.taken() > 100 * PAGE);
    assert_eq!(guest.shared.metrics.inflated.get(), 129 * PAGE);
    assert_eq!(guest.byte(0x100f), 7);
    assert_eq!(guest.byte(0x1010), 0);
    assert_eq!(guest.byte(0x108f), 0);
    assert_eq!(guest.byte(0x1090), 7);
    assert_eq!(guest.byte(0x10f0), 0);
    guest.pages(DEFLATE, &pages);
    assert_eq!(guest.shared.metrics.deflated.get(), 129 * PAGE);
    // And they can be used again.
    guest.fill(0x1010..0x1011);
    assert_eq!(guest.byte(0x1010), 7);
}

#[test]
fn pages_that_the_guest_does_not_have_are_dropped() {
    let mut guest = Guest::new();
    guest.fill(0x3fff..0x4000);
    guest.pages(INFLATE, &[0x4000, 0x3_0000, u32::MAX]);
    assert_eq!(guest.shared.metrics.inflated.get(), 0);
    assert_eq!(guest.shared.metrics.stats.dropped.get(), 3);
    assert_eq!(guest.byte(0x3fff), 7);
}

#[test]
fn free_pages_are_taken_when_they_are_reported() {
    let mut guest = Guest::new();
    guest.fill(0x1000..0x1040);
    let before = guest.taken();
    let pieces = [
        writable(0x1000 * PAGE, 0x10 * PAGE as u32),
        writable(0x1020 * PAGE, PAGE as u32),
        // Of these, whole pages only.
        writable(0x1030 * PAGE + 100, 2 * PAGE as u32),
        writable(0x1038 * PAGE + 1, PAGE as u32 - 1),
    ];
    guest.driver.queues[4].add(&pieces);
    guest.device.event(4u16);
    assert_eq!(guest.driver.queues[4].used(), Some((0, 0)));
    assert!(before - guest.taken() >= 0x10 * PAGE);
    assert_eq!(guest.shared.metrics.reported.get(), 0x12 * PAGE);
    assert_eq!((guest.byte(0x100f), guest.byte(0x1010)), (0, 7));
    assert_eq!((guest.byte(0x1030), guest.byte(0x1031)), (7, 0));
    assert_eq!(guest.byte(0x1038), 7);
}

#[test]
fn reports_are_heard_on_the_queue_that_the_driver_thinks_is_the_one() {
    for (features, enabled, queue) in [
        (ALL, &[0, 1, 2, 4][..], 4u16),
        (ALL, &[0, 1, 2, 3], 3),
        (ALL & !F_STATS_VQ, &[0, 1, 2], 2),
        (ALL & !F_STATS_VQ, &[0, 1, 4], 4),
    ] {
        let mut guest = Guest::with(features, enabled);
        guest.fill(0x1000..0x1001);
        guest.driver.queues[usize::from(queue)].add(&[writable(0x1000 * PAGE, PAGE as u32)]);
        guest.device.event(queue);
        assert!(guest.driver.queues[usize::from(queue)].used().is_some());
        assert_eq!(guest.byte(0x1000), 0, "queue {queue}");
    }
}

#[test]
fn the_guest_is_asked_how_it_is_doing() {
    let mut driver = Driver::new(0x10_0000, QUEUES, ALL);
    let free = driver.free();
    let mut balloon = Balloon::new("balloon0", CONFIG, &no_sandbox()).unwrap();
    let handle = balloon.handle().unwrap();
    handle.ask();
    balloon.activate(driver.activation()).unwrap();
    assert_eq!(handle.report(), None);
    let queue = &mut driver.queues[2];
    for (round, bytes) in [(0u64, 1000u64), (1, 2000)] {
        queue.write(free, &[4, 0]);
        queue.write(free + 2, &bytes.to_le_bytes());
        queue.add(&[readable(free, 10)]);
        queue.ring();
        eventually("statistics", || {
            handle.report().is_some_and(|r| r.0.free == Some(bytes))
        });
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(queue.used(), None, "the buffer is kept in round {round}");
        handle.ask();
        assert_eq!(queue.wait_used(), (round as u32, 0));
    }
    // Nothing to ask with.
    handle.ask();
    balloon.reset();
    assert!(handle.report().is_some());
    balloon.detach();
    assert!(handle.report().is_none());
    assert!(!driver.broken());
}

#[test]
fn the_driver_is_told_how_much_the_host_wants() {
    let mut balloon = Balloon::new("balloon0", CONFIG, &no_sandbox()).unwrap();
    let driver = Driver::new(0x10_0000, QUEUES, ALL);
    let handle = balloon.handle().unwrap();
    balloon.activate(driver.activation()).unwrap();
    handle.request(16 * MIB).unwrap();
    assert_eq!(driver.interrupts.config.load(Ordering::SeqCst), 1);
    let mut config = [0xff; 16];
    balloon.read_config(0, &mut config);
    assert_eq!(config[..4], 0x1000u32.to_le_bytes());
    assert_eq!(config[4..], [0; 12]);
    balloon.write_config(4, &0x800u32.to_le_bytes());
    assert_eq!(handle.metrics().actual.get(), 8 * MIB);
    // What is not for the driver to write, or not whole.
    for (offset, data) in [(0, &[1; 4][..]), (4, &[1; 2]), (6, &[1; 4]), (4, &[1; 8])] {
        balloon.write_config(offset, data);
        assert_eq!(handle.metrics().actual.get(), 8 * MIB);
        assert_eq!(handle.metrics().requested.get(), 16 * MIB);
    }
    for size in [1, 64 * MIB + PAGE, u64::MAX] {
        let error = handle.request(size).unwrap_err().to_string();
        assert!(error.contains("67108864 at most"), "{error}");
    }
    balloon.reset();
    assert_eq!(handle.metrics().actual.get(), 0);
}

#[test]
fn features_are_as_configured() {
    let features = |deflate_on_oom, free_page_reporting| {
        let config = Config {
            deflate_on_oom,
            free_page_reporting,
            ..CONFIG
        };
        let balloon = Balloon::new("balloon0", config, &no_sandbox()).unwrap();
        balloon.features() & !features::COMMON
    };
    assert_eq!(features(false, false), F_STATS_VQ);
    assert_eq!(features(true, false), F_STATS_VQ | F_DEFLATE_ON_OOM);
    assert_eq!(features(false, true), F_STATS_VQ | F_PAGE_REPORTING);
}

#[test]
fn bells_of_queues_that_nothing_was_agreed_for_fall_silent() {
    let mut guest = Guest::with(features::COMMON, &[0, 1, 2, 3, 4]);
    for queue in [2u16, 3, 4] {
        guest.driver.queues[usize::from(queue)].ring();
        guest.device.event(queue);
        let bell = &guest.driver.queues[usize::from(queue)].doorbell;
        assert!(bell.read().is_err(), "it was cleared");
    }
    assert_eq!(guest.device.fault, None);
}

#[test]
fn broken_requests_stop_the_device() {
    for (queue, pieces, why) in [
        (0u16, vec![readable(0x2_0000, 5)], "four bytes each"),
        (0, vec![writable(0x2_0000, 4)], "four bytes each"),
        (
            1,
            vec![readable(0x2_0000, 4), writable(0x2_0000, 4)],
            "four bytes each",
        ),
        (
            2,
            vec![writable(0x2_0000, 10)],
            "statistics that are writable",
        ),
        (4, vec![writable(1 << 40, 4096)], "not in memory"),
    ] {
        let mut guest = Guest::new();
        guest.driver.queues[usize::from(queue)].add(&pieces);
        guest.device.event(queue);
        let fault = guest.device.fault.unwrap();
        assert!(fault.contains(why), "{fault}");
    }
}

#[test]
fn a_queue_that_was_agreed_upon_and_is_missing_is_named() {
    let mut balloon = Balloon::new("balloon0", CONFIG, &no_sandbox()).unwrap();
    let driver = Driver::new(0x10_0000, QUEUES, ALL);
    for missing in [0, 1, 2] {
        let mut activation = driver.activation();
        activation.queues[usize::from(missing)] = None;
        let error = balloon.activate(activation).unwrap_err();
        assert!(matches!(error, ActivateError::MissingQueue(q) if q == missing));
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_the_guest_does_is_harmless(
        bytes in proptest::collection::vec(0u8..=255, 0..2000),
    ) {
        random::play(&bytes);
    }
}
