//! Real devices behind the transport, with a driver that does what it wants.

use std::os::unix::net::UnixStream;
use std::path::Path;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory::Range;
use crate::pci::msix::tests::Recorder;
use crate::virtio::balloon::{self, Balloon};
use crate::virtio::console::{Console, Size, Streams};
use crate::virtio::mem::Mem;
use crate::virtio::net::{self, Net, Peer};
use crate::virtio::rng::Rng;
use crate::virtio::testing::{eventually, memory, no_sandbox};
use crate::virtio::vsock::Vsock;

const BAR: u64 = 0xd000_0000;
const NEEDS_RESET: u8 = 64;

/// A driver of one device, as far as registers go.
struct Driver {
    device: Arc<VirtioPci>,
    memory: Memory,
}

impl Driver {
    fn new(device: Box<dyn VirtioDevice>) -> Self {
        let memory = memory(0x40_0000);
        let router = Arc::new(Recorder::default());
        let worker = Arc::new(Worker::start(|| Ok(())).unwrap());
        let device = VirtioPci::new(device, BAR, memory.clone(), router, worker).unwrap();
        Self {
            device: Arc::new(device),
            memory,
        }
    }

    fn write(&self, register: u64, value: u64, len: usize) {
        self.device
            .write_bar(COMMON + register, &value.to_le_bytes()[..len]);
    }

    fn status(&self) -> u8 {
        let mut status = [0];
        self.device.read_bar(COMMON + 20, &mut status);
        status[0]
    }

    /// Sets up all queues, each with a page for each of its rings.
    fn start(&self) {
        self.write(20, 3, 1);
        for half in [0, 1] {
            let mut offered = [0; 4];
            self.write(0, half, 4);
            self.device.read_bar(COMMON + 4, &mut offered);
            self.write(8, half, 4);
            self.write(12, u32::from_le_bytes(offered).into(), 4);
        }
        self.write(20, 11, 1);
        let mut count = [0; 2];
        self.device.read_bar(COMMON + 18, &mut count);
        for queue in 0..u64::from(u16::from_le_bytes(count)) {
            self.write(22, queue, 2);
            self.write(24, 16, 2);
            self.place(rings(queue));
            self.write(28, 1, 2);
        }
        let zeros = vec![0; 0x10_0000];
        let memory = self.memory.memory();
        memory.write_slice(&zeros, GuestAddress(0)).unwrap();
        self.write(20, 15, 1);
        assert_eq!(self.status(), 15);
    }

    /// Writes the addresses of the rings.
    fn place(&self, base: u64) {
        for (register, at) in [(32, base), (40, base + 0x1000), (48, base + 0x2000)] {
            self.write(register, at, 8);
        }
    }

    /// Makes descriptor `head` available as the first, in the rings at `base`.
    fn publish(&self, base: u64, head: u16) {
        let memory = self.memory.memory();
        let available = GuestAddress(base + 0x1000);
        let ring = [0, 0, 1, 0, head as u8, (head >> 8) as u8];
        memory.write_slice(&ring, available).unwrap();
    }

    fn ring(&self, queue: u64) {
        let offset = NOTIFY + queue * u64::from(NOTIFY_STRIDE);
        self.device.write_bar(offset, &(queue as u16).to_le_bytes());
    }

    fn used(&self, base: u64) -> u16 {
        let memory = self.memory.memory();
        memory.read_obj(GuestAddress(base + 0x2002)).unwrap()
    }
}

/// Where the rings of a queue are.
fn rings(queue: u64) -> u64 {
    0x1_0000 * (queue + 1)
}

fn boxed(device: impl VirtioDevice + 'static) -> Box<dyn VirtioDevice> {
    Box::new(device)
}

/// Every device, with a queue that it looks at as soon as it is told.
fn devices(dir: &Path) -> Vec<(Box<dyn VirtioDevice>, u64)> {
    let on_start = no_sandbox();
    let config = net::Config {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: None,
    };
    let (passt, _) = UnixStream::pair().unwrap();
    let balloon = balloon::Config {
        most: 0x40_0000,
        deflate_on_oom: true,
        free_page_reporting: true,
    };
    let region = Range {
        start: 0x1_0000_0000,
        len: 128 << 20,
    };
    let console = Console::new("c", Streams::default(), Size::default(), &on_start);
    let net = Net::new("n", config, Peer::Passt(passt), &on_start);
    let vsock = Vsock::new("v", 3, &dir.join("v"), &on_start);
    let balloons = || boxed(Balloon::new("b", balloon, &on_start).unwrap());
    vec![
        (boxed(Rng::new("r", &on_start).unwrap()), 0),
        (boxed(console.unwrap()), 1),
        (boxed(net.unwrap()), 1),
        (boxed(vsock.unwrap()), 1),
        (boxed(Mem::new("m", region, &on_start).unwrap()), 0),
        (balloons(), 0),
        (balloons(), 2),
        (balloons(), 3),
    ]
}

#[test]
fn a_broken_queue_has_every_device_ask_for_a_reset_and_work_after_it() {
    let dir = tempfile::tempdir().unwrap();
    for (device, queue) in devices(dir.path()) {
        let name = format!("{} (queue {queue})", device.name());
        let driver = Driver::new(device);
        for round in 0..2 {
            driver.start();
            driver.publish(rings(queue), 999);
            driver.ring(queue);
            eventually(&format!("{name} gives up in round {round}"), || {
                driver.status() == 15 | NEEDS_RESET
            });
            // 2.1.2: nothing until it is reset.
            driver.ring(queue);
            assert_eq!(driver.used(rings(queue)), 0, "{name}");
            driver.write(20, 0, 1);
            assert_eq!(driver.status(), 0, "{name}");
        }
        assert!(driver.device.into_device().is_some());
    }
}

#[test]
fn a_device_keeps_its_queue_whatever_is_written_to_the_registers() {
    let driver = Driver::new(Box::new(Rng::new("r", &no_sandbox()).unwrap()));
    driver.start();
    let (own, other) = (rings(0), 0x20_0000);
    driver.write(22, 0, 2);
    driver.write(24, 2, 2);
    driver.place(other);
    driver.write(28, 0, 2);
    driver.write(20, 15, 1);
    // In both, a buffer of 8 bytes.
    for (base, buffer) in [(own, 0x30_0000u64), (other, 0x30_1000)] {
        let memory = driver.memory.memory();
        let mut descriptor = buffer.to_le_bytes().to_vec();
        descriptor.extend([8, 0, 0, 0, 2, 0, 0, 0]);
        memory
            .write_slice(&descriptor, GuestAddress(base + 5 * 16))
            .unwrap();
        driver.publish(base, 5);
    }
    driver.ring(0);
    eventually("its own buffer is used", || driver.used(own) == 1);
    assert_eq!(driver.used(other), 0);
    let memory = driver.memory.memory();
    let bytes: u64 = memory.read_obj(GuestAddress(0x30_1000)).unwrap();
    assert_eq!(bytes, 0);
    assert_eq!(driver.status(), 15);
}
