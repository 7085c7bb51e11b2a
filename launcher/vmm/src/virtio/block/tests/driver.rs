//! The driver's side of a queue, as simple as can be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use crate::virtio::{Activation, ActiveQueue, Interrupt, Memory, VirtioDevice};

pub(crate) const QUEUE_SIZE: u16 = 256;
const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x3000;
const USED: u64 = 0x4000;
/// What each queue takes for its rings.
const QUEUE_AREA: u64 = 0x8000;
/// Where headers and statuses go, one page a request.
const HEADERS: u64 = 0x10_0000;
/// Where data may go.
pub(crate) const DATA: u64 = 0x40_0000;
/// Two regions, so that buffers can span them.
const SPLIT: u64 = 0x80_0000;
pub(crate) const END: u64 = 0x400_0000;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

#[derive(Debug, Default)]
pub(crate) struct Interrupts {
    pub(crate) queues: AtomicU64,
    pub(crate) resets: AtomicUsize,
}

impl Interrupt for Interrupts {
    fn queue(&self, _index: u16) -> std::io::Result<()> {
        self.queues.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
    fn config(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn needs_reset(&self) {
        self.resets.fetch_add(1, Ordering::AcqRel);
    }
}

pub(crate) struct Driver {
    pub(crate) memory: Memory,
    pub(crate) mem: GuestMemoryMmap,
    pub(crate) interrupts: Arc<Interrupts>,
    queues: Vec<Ring>,
}

struct Ring {
    base: u64,
    doorbell: EventFd,
    avail: u16,
    seen: u16,
    next_desc: u16,
}

pub(crate) struct Desc(pub(crate) u64, pub(crate) u32, pub(crate) u16);

impl Driver {
    pub(crate) fn new(queues: usize) -> Self {
        let mem = GuestMemoryMmap::from_ranges(&[
            (GuestAddress(0), SPLIT as usize),
            (GuestAddress(SPLIT), (END - SPLIT) as usize),
        ])
        .unwrap();
        Self {
            memory: Memory::new(mem.clone()),
            mem,
            interrupts: Arc::default(),
            queues: (0..queues as u64)
                .map(|i| Ring {
                    base: i * QUEUE_AREA,
                    doorbell: EventFd::new(libc::EFD_NONBLOCK).unwrap(),
                    avail: 0,
                    seen: 0,
                    next_desc: 0,
                })
                .collect(),
        }
    }

    /// Makes the device ready with the given features.
    pub(crate) fn activate(&mut self, device: &mut dyn VirtioDevice, features: u64) {
        let queues = self
            .queues
            .iter_mut()
            .enumerate()
            .map(|(i, ring)| {
                (ring.avail, ring.seen, ring.next_desc) = (0, 0, 0);
                for at in [AVAIL, USED] {
                    self.mem
                        .write_slice(&[0; 0x1000], GuestAddress(ring.base + at))
                        .unwrap();
                }
                let mut queue = Queue::new(QUEUE_SIZE).unwrap();
                queue.set_size(QUEUE_SIZE);
                queue.set_desc_table_address(Some((ring.base + DESC) as u32), Some(0));
                queue.set_avail_ring_address(Some((ring.base + AVAIL) as u32), Some(0));
                queue.set_used_ring_address(Some((ring.base + USED) as u32), Some(0));
                queue.set_ready(true);
                assert!(queue.is_valid(&self.mem));
                Some(ActiveQueue {
                    index: i as u16,
                    queue,
                    doorbell: ring.doorbell.try_clone().unwrap(),
                })
            })
            .collect();
        device
            .activate(Activation {
                memory: self.memory.clone(),
                features,
                queues,
                interrupt: Arc::clone(&self.interrupts) as Arc<dyn Interrupt>,
            })
            .unwrap();
    }

    /// Writes a descriptor into the table of `queue`.
    pub(crate) fn write_desc(&self, table: u64, index: u16, desc: &Desc, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&desc.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&desc.1.to_le_bytes());
        bytes[12..14].copy_from_slice(&desc.2.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.mem
            .write_slice(&bytes, GuestAddress(table + u64::from(index) * 16))
            .unwrap();
    }

    /// Puts a chain into the queue, flags as given except for NEXT; returns
    /// its head.
    pub(crate) fn offer(&mut self, queue: usize, descs: &[Desc]) -> u16 {
        let base = self.queues[queue].base;
        let head = self.queues[queue].next_desc;
        for (i, desc) in descs.iter().enumerate() {
            let index = (head + i as u16) % QUEUE_SIZE;
            let more = if i + 1 < descs.len() { NEXT } else { 0 };
            let desc = Desc(desc.0, desc.1, desc.2 | more);
            self.write_desc(base + DESC, index, &desc, (index + 1) % QUEUE_SIZE);
        }
        self.queues[queue].next_desc = (head + descs.len() as u16) % QUEUE_SIZE;
        self.make_available(queue, head);
        head
    }

    pub(crate) fn make_available(&mut self, queue: usize, head: u16) {
        let ring = &mut self.queues[queue];
        let at = ring.base + AVAIL + 4 + u64::from(ring.avail % QUEUE_SIZE) * 2;
        self.mem.write_obj(head, GuestAddress(at)).unwrap();
        ring.avail = ring.avail.wrapping_add(1);
        let idx = GuestAddress(ring.base + AVAIL + 2);
        self.mem.store(ring.avail, idx, Ordering::Release).unwrap();
    }

    pub(crate) fn set_avail_index(&self, queue: usize, index: u16) {
        let idx = GuestAddress(self.queues[queue].base + AVAIL + 2);
        self.mem.store(index, idx, Ordering::Release).unwrap();
    }

    pub(crate) fn ring(&self, queue: usize) {
        self.queues[queue].doorbell.write(1).unwrap();
    }

    /// The next used buffer, head and length, if it comes in time.
    pub(crate) fn used(&mut self, queue: usize, wait: Duration) -> Option<(u16, u32)> {
        let ring = &mut self.queues[queue];
        let start = Instant::now();
        loop {
            let idx = GuestAddress(ring.base + USED + 2);
            let idx: u16 = self.mem.load(idx, Ordering::Acquire).unwrap();
            if idx != ring.seen {
                let at = ring.base + USED + 4 + u64::from(ring.seen % QUEUE_SIZE) * 8;
                let head: u32 = self.mem.read_obj(GuestAddress(at)).unwrap();
                let len: u32 = self.mem.read_obj(GuestAddress(at + 4)).unwrap();
                ring.seen = ring.seen.wrapping_add(1);
                return Some((head as u16, len));
            }
            if start.elapsed() > wait {
                return None;
            }
            std::thread::yield_now();
        }
    }

    /// Waits until the device has asked for a reset.
    pub(crate) fn needs_reset(&self) -> bool {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            if self.interrupts.resets.load(Ordering::Acquire) > 0 {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    fn header_at(head: u16) -> u64 {
        HEADERS + u64::from(head) * 0x1000
    }

    /// Offers a request with data at `data` (address, length); `device_writes`
    /// says who fills it.
    pub(crate) fn submit(
        &mut self,
        queue: usize,
        kind: u32,
        sector: u64,
        data: &[(u64, u32)],
        device_writes: bool,
    ) -> u16 {
        let at = Self::header_at(self.queues[queue].next_desc) + queue as u64 * 0x800;
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.mem.write_slice(&header, GuestAddress(at)).unwrap();
        self.mem.write_obj(0xffu8, GuestAddress(at + 16)).unwrap();
        let mut descs = vec![Desc(at, 16, 0)];
        let flags = if device_writes { WRITE } else { 0 };
        descs.extend(data.iter().map(|(at, len)| Desc(*at, *len, flags)));
        descs.push(Desc(at + 16, 1, WRITE));
        self.offer(queue, &descs)
    }

    pub(crate) fn status(&self, queue: usize, head: u16) -> u8 {
        let at = Self::header_at(head) + queue as u64 * 0x800 + 16;
        self.mem.read_obj(GuestAddress(at)).unwrap()
    }

    /// Does one request and returns its status and used length.
    pub(crate) fn request(
        &mut self,
        queue: usize,
        kind: u32,
        sector: u64,
        data: &[(u64, u32)],
        device_writes: bool,
    ) -> (u8, u32) {
        let head = self.submit(queue, kind, sector, data, device_writes);
        self.ring(queue);
        let (used, len) = self
            .used(queue, Duration::from_secs(20))
            .expect("an answer");
        assert_eq!(used, head);
        (self.status(queue, head), len)
    }

    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        self.mem.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    pub(crate) fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }
}
