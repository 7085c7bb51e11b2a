//! A driver to test devices with: it owns the rings, as a guest would, and can
//! break every rule.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

pub mod script;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use virtio_queue::{Queue, QueueT};
#[cfg(test)]
use vm_memory::GuestMemoryBackend as _;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::epoll::EpollEvent;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::worker::{EventSet, Handler, OnStart, Poll, Token, Work};
use super::{Activation, ActiveQueue, Interrupt, Memory, features};

/// A thread without a filter.
pub fn no_sandbox() -> OnStart {
    Arc::new(|_| Ok(()))
}

/// Memory of `len` bytes from 0 on.
pub fn memory(len: usize) -> Memory {
    Memory::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), len)]).unwrap())
}

/// Bytes of the host that the `len` at `start` of the guest's memory take
/// (mincore(2)).
#[cfg(test)]
pub fn taken(memory: &Memory, start: GuestAddress, len: u64) -> u64 {
    const PAGE: u64 = 4096;
    let memory = memory.memory();
    let slice = memory.get_slice(start, len as usize).unwrap();
    let mut pages = vec![0; len.div_ceil(PAGE) as usize];
    let at = slice.ptr_guard_mut();
    // SAFETY: the range is mapped, and there is a byte for each of its pages.
    let result = unsafe { libc::mincore(at.as_ptr().cast(), at.len(), pages.as_mut_ptr()) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    pages.iter().filter(|page| **page & 1 == 1).count() as u64 * PAGE
}

/// Counts what the device says.
#[derive(Debug, Default)]
pub struct Interrupts {
    /// Bit n is queue n.
    pub queues: AtomicU64,
    pub count: AtomicU32,
    pub config: AtomicU32,
    pub broken: AtomicBool,
}

impl Interrupt for Interrupts {
    fn queue(&self, index: u16) -> io::Result<()> {
        self.queues.fetch_or(1 << index, Ordering::SeqCst);
        self.count.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn config(&self) -> io::Result<()> {
        self.config.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn needs_reset(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }
}

/// A buffer of a request.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    pub address: u64,
    pub len: u32,
    pub write: bool,
}

pub const fn readable(address: u64, len: u32) -> Piece {
    Piece {
        address,
        len,
        write: false,
    }
}

pub const fn writable(address: u64, len: u32) -> Piece {
    Piece {
        address,
        len,
        write: true,
    }
}

/// A queue, as its driver sees it.
#[derive(Debug)]
pub struct DriverQueue {
    pub memory: Memory,
    pub index: u16,
    pub size: u16,
    pub table: u64,
    pub available: u64,
    pub used: u64,
    pub doorbell: EventFd,
    /// The next descriptor to fill.
    pub next: u16,
    pub available_index: u16,
    pub seen: u16,
    pub features: u64,
}

/// Bytes to set aside for the rings of a queue of at most 256 descriptors.
pub const RINGS: u64 = 0x2000;

impl DriverQueue {
    /// A queue whose rings lie in the [`RINGS`] bytes at `base`.
    pub fn new(memory: &Memory, index: u16, size: u16, base: u64) -> Self {
        Self {
            memory: memory.clone(),
            index,
            size,
            table: base,
            available: base + 0x1000,
            used: base + 0x1400,
            doorbell: EventFd::new(EFD_NONBLOCK).unwrap(),
            next: 0,
            available_index: 0,
            seen: 0,
            features: features::COMMON,
        }
    }

    /// The device's side of it.
    pub fn active(&self) -> ActiveQueue {
        let mut queue = Queue::new(self.size).unwrap();
        let parts = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        let (low, high) = parts(self.table);
        queue.set_desc_table_address(low, high);
        let (low, high) = parts(self.available);
        queue.set_avail_ring_address(low, high);
        let (low, high) = parts(self.used);
        queue.set_used_ring_address(low, high);
        queue.set_next_avail(self.available_index);
        queue.set_next_used(self.seen);
        queue.set_ready(true);
        assert!(queue.is_valid(&*self.memory.memory()), "rings in memory");
        ActiveQueue {
            index: self.index,
            queue,
            doorbell: self.doorbell.try_clone().unwrap(),
        }
    }

    /// Writes descriptor `index` of the table at `table`.
    pub fn descriptor(
        &self,
        table: u64,
        index: u16,
        address: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) {
        let mut raw = [0u8; 16];
        raw[..8].copy_from_slice(&address.to_le_bytes());
        raw[8..12].copy_from_slice(&len.to_le_bytes());
        raw[12..14].copy_from_slice(&flags.to_le_bytes());
        raw[14..].copy_from_slice(&next.to_le_bytes());
        self.write(table + u64::from(index) * 16, &raw);
    }

    /// Puts descriptor `head` into the available ring.
    pub fn publish(&mut self, head: u16) {
        let slot = u64::from(self.available_index % self.size);
        self.write(self.available + 4 + slot * 2, &head.to_le_bytes());
        self.available_index = self.available_index.wrapping_add(1);
        self.memory
            .memory()
            .store(
                self.available_index.to_le(),
                GuestAddress(self.available + 2),
                Ordering::Release,
            )
            .unwrap();
    }

    /// Makes a chain of `pieces` available; returns its head.
    pub fn add(&mut self, pieces: &[Piece]) -> u16 {
        let head = self.next % self.size;
        for (i, piece) in pieces.iter().enumerate() {
            let last = i + 1 == pieces.len();
            let index = self.next % self.size;
            self.next = (self.next + 1) % self.size;
            let flags = u16::from(!last) | if piece.write { 2 } else { 0 };
            let next = self.next;
            self.descriptor(self.table, index, piece.address, piece.len, flags, next);
        }
        self.publish(head);
        head
    }

    /// Makes a chain available whose descriptors are at `table`.
    pub fn add_indirect(&mut self, table: u64, pieces: &[Piece]) -> u16 {
        for (i, piece) in pieces.iter().enumerate() {
            let last = i + 1 == pieces.len();
            let flags = u16::from(!last) | if piece.write { 2 } else { 0 };
            let index = i as u16;
            self.descriptor(table, index, piece.address, piece.len, flags, index + 1);
        }
        let head = self.next % self.size;
        self.next = (self.next + 1) % self.size;
        self.descriptor(self.table, head, table, pieces.len() as u32 * 16, 4, 0);
        self.publish(head);
        head
    }

    pub fn ring(&self) {
        self.doorbell.write(1).unwrap();
    }

    /// The next used chain: its head and the bytes written.
    pub fn used(&mut self) -> Option<(u32, u32)> {
        let memory = self.memory.memory();
        let index: u16 = memory
            .load(GuestAddress(self.used + 2), Ordering::Acquire)
            .unwrap();
        if u16::from_le(index) == self.seen {
            return None;
        }
        let slot = u64::from(self.seen % self.size);
        let at = self.used + 4 + slot * 8;
        let head: u32 = memory.read_obj(GuestAddress(at)).unwrap();
        let len: u32 = memory.read_obj(GuestAddress(at + 4)).unwrap();
        self.seen = self.seen.wrapping_add(1);
        Some((head, len))
    }

    /// Waits for the next used chain.
    pub fn wait_used(&mut self) -> (u32, u32) {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if let Some(used) = self.used() {
                return used;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        panic!("queue {}: nothing used for 20 s", self.index);
    }

    /// With EVENT_IDX: interrupt when this used index is passed.
    pub fn set_used_event(&self, index: u16) {
        let at = self.available + 4 + u64::from(self.size) * 2;
        self.write(at, &index.to_le_bytes());
    }

    /// With EVENT_IDX: the available index at which the device wants to hear.
    pub fn avail_event(&self) -> u16 {
        let at = self.used + 4 + u64::from(self.size) * 8;
        self.memory.memory().read_obj(GuestAddress(at)).unwrap()
    }

    pub fn write(&self, address: u64, data: &[u8]) {
        self.memory
            .memory()
            .write_slice(data, GuestAddress(address))
            .unwrap();
    }

    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory
            .memory()
            .read_slice(&mut data, GuestAddress(address))
            .unwrap();
        data
    }
}

/// Waits until `what` is so.
pub fn eventually(what: &str, mut f: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !f() {
        assert!(Instant::now() < end, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Everything of a device but the device: memory with the rings at its start.
#[derive(Debug)]
pub struct Driver {
    pub memory: Memory,
    pub queues: Vec<DriverQueue>,
    pub interrupts: Arc<Interrupts>,
    pub features: u64,
}

impl Driver {
    /// A driver of queues of these sizes (at most 256) in `len` bytes.
    pub fn new(len: usize, sizes: &[u16], features: u64) -> Self {
        let memory = memory(len);
        let queues = (0..)
            .zip(sizes)
            .map(|(i, size)| DriverQueue::new(&memory, i, *size, u64::from(i) * RINGS))
            .collect();
        Self {
            memory,
            queues,
            interrupts: Arc::default(),
            features,
        }
    }

    /// Where free memory starts.
    pub fn free(&self) -> u64 {
        self.queues.len() as u64 * RINGS
    }

    pub fn activation(&self) -> Activation {
        Activation {
            memory: self.memory.clone(),
            features: self.features,
            queues: self.queues.iter().map(|q| Some(q.active())).collect(),
            interrupt: Arc::clone(&self.interrupts) as Arc<dyn Interrupt>,
        }
    }

    pub fn broken(&self) -> bool {
        self.interrupts.broken.load(Ordering::SeqCst)
    }
}

/// A handler on the caller's own thread, for tests that leave nothing to the
/// scheduler.
#[derive(Debug)]
pub struct Inline<H> {
    pub handler: H,
    pub poll: Poll,
    /// Set when the handler failed; it is stopped then.
    pub fault: Option<String>,
}

impl<H: Handler> Inline<H> {
    pub fn start(mut handler: H, activation: Activation) -> Self {
        let poll = Poll::new().unwrap();
        handler.start(Work::from(activation), &poll).unwrap();
        Self {
            handler,
            poll,
            fault: None,
        }
    }

    /// One event for the handler, unless it has failed.
    pub fn event(&mut self, token: impl Into<Token>) {
        self.event_with(token, EventSet::IN | EventSet::OUT);
    }

    /// Hands on what its descriptors have for it, until that is nothing.
    pub fn settle(&mut self) {
        let mut events = [EpollEvent::default(); 32];
        for _ in 0..10_000 {
            let now = Some(Duration::ZERO);
            let count = self.poll.wait(&mut events, now).unwrap();
            for event in &events[..count] {
                let ready = EventSet::from_bits_truncate(event.events());
                self.event_with(event.data(), ready);
            }
            if count == 0 || self.fault.is_some() {
                return;
            }
        }
        panic!("its descriptors are never done");
    }

    pub fn event_with(&mut self, token: impl Into<Token>, ready: EventSet) {
        if self.fault.is_some() {
            return;
        }
        if let Err(error) = self.handler.event(token.into(), ready, &self.poll) {
            self.fault = Some(error.to_string());
            self.handler.stop(&self.poll);
        }
    }
}
