//! Guests made from bytes, for fuzzing and random tests.
//!
//! The bytes decide what a guest and the host do with a device: mostly what
//! they may do, rarely something that breaks a rule. What the requests look
//! like is up to the device's own [`Actor`].

use super::{Driver, Inline, Piece, readable, writable};
use crate::virtio::worker::Handler;

/// The bytes that decide; zeros once there are no more.
#[derive(Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    /// Less than `limit`, which is at least 1.
    pub fn below(&mut self, limit: u32) -> u32 {
        match limit {
            0..=256 => u32::from(self.byte()) % limit,
            257..=65536 => u32::from(self.u16()) % limit,
            _ => self.u32() % limit,
        }
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u32) as usize]
    }

    /// True for one byte in 32.
    pub fn rarely(&mut self) -> bool {
        self.byte() >= 248
    }

    /// At most `most` bytes, all alike in most: long data needs no long input.
    pub fn data(&mut self, most: u32) -> Vec<u8> {
        let len = self.below(most + 1) as usize;
        vec![self.byte(); len]
    }
}

/// What a guest asks of a device in one chain.
#[derive(Debug, Default)]
pub struct Request {
    /// What the device reads.
    pub readable: Vec<u8>,
    /// Bytes that the device may write.
    pub writable: u32,
}

/// What is particular to a device.
pub trait Actor {
    /// A request for `queue`.
    fn request(&mut self, queue: u16, input: &mut Input<'_>) -> Request;

    /// The host does something at its end.
    fn host(&mut self, input: &mut Input<'_>);

    /// A request of the queue came back with these bytes written to it.
    fn answered(&mut self, queue: u16, bytes: &[u8]) {
        let _ = (queue, bytes);
    }
}

/// Memory for a guest of [`play`].
pub const MEMORY: usize = 0x40_0000;

/// Room for the buffers of one request, and how many have room at once.
const ROOM: u64 = 0x2_4000;
const ROOMS: u64 = 24;

/// Where in its room the device writes.
const ANSWER: u64 = 0x1_1000;

/// Has a guest use `device` as `input` says, until the input ends or the device
/// has had enough.
///
/// # Panics
/// If the device says it wrote more than there was room for.
pub fn play<H: Handler>(
    driver: &mut Driver,
    device: &mut Inline<H>,
    input: &mut Input<'_>,
    actor: &mut dyn Actor,
) {
    let queues = driver.queues.len() as u32;
    // By queue and head: where what the device writes is.
    let mut waiting = vec![vec![None; 256]; queues as usize];
    let mut slot = 0;
    // After a broken rule the device may have written anywhere: it must come
    // back, and nothing else.
    let mut wild = false;
    while !input.is_empty() && device.fault.is_none() {
        let index = input.below(queues);
        match input.below(8) {
            0..=3 => {
                let queue = &driver.queues[index as usize];
                let there = queue.available_index.wrapping_sub(queue.seen);
                let free = driver.free();
                // Not over a request of either queue that is still there.
                let room = (slot..slot + ROOMS)
                    .map(|slot| free + slot % ROOMS * ROOM)
                    .find(|at| {
                        let taken = |w: &Option<(u64, u32)>| w.is_some_and(|w| w.0 == at + ANSWER);
                        !waiting.iter().flatten().any(taken)
                    });
                if let Some(at) = room.filter(|_| there < queue.size / 8) {
                    slot += 1;
                    let waiting = &mut waiting[index as usize];
                    wild |= add(driver, index as u16, at, waiting, input, actor);
                }
            }
            4 | 5 => {
                device.event(index as u16);
                device.settle();
            }
            6 => {
                actor.host(input);
                device.settle();
            }
            _ if input.rarely() => {
                violate(driver, index as u16, input);
                wild = true;
            }
            _ => {}
        }
        for queue in &mut driver.queues {
            while let Some((head, len)) = queue.used() {
                let entry = waiting[usize::from(queue.index)].get_mut(head as usize);
                if let Some((at, room)) = entry.and_then(Option::take)
                    && !wild
                {
                    assert!(len <= room, "{len} bytes written to {room}");
                    let bytes = queue.read(at, len as usize);
                    actor.answered(queue.index, &bytes);
                }
            }
        }
    }
}

/// Makes a request available; true if it breaks a rule.
fn add(
    driver: &mut Driver,
    index: u16,
    at: u64,
    waiting: &mut [Option<(u64, u32)>],
    input: &mut Input<'_>,
    actor: &mut dyn Actor,
) -> bool {
    let request = actor.request(index, input);
    let queue = &mut driver.queues[usize::from(index)];
    let len = request.readable.len().min(ANSWER as usize);
    queue.write(at, &request.readable[..len]);
    let room = request.writable.min(0x1_2000);
    let answer = at + ANSWER;
    let mut pieces = split(at, len as u32, input, readable);
    pieces.extend(split(answer, room, input, writable));
    let spoilt = input.rarely();
    if spoilt {
        spoil(&mut pieces, input);
    }
    if pieces.is_empty() {
        return spoilt;
    }
    let head = if input.rarely() {
        let table = at + ROOM - 0x100;
        queue.add_indirect(table, &pieces)
    } else {
        queue.add(&pieces)
    };
    waiting[usize::from(head)] = Some((answer, room));
    spoilt
}

/// One to three pieces.
fn split(at: u64, len: u32, input: &mut Input<'_>, piece: fn(u64, u32) -> Piece) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut done = 0;
    for last in [false, false, true] {
        let left = len - done;
        if left == 0 {
            break;
        }
        let now = if last || input.below(2) == 0 {
            left
        } else {
            1 + input.below(left)
        };
        pieces.push(piece(at + u64::from(done), now));
        done += now;
    }
    pieces
}

/// Breaks a rule of chains.
fn spoil(pieces: &mut Vec<Piece>, input: &mut Input<'_>) {
    let which = input.below(pieces.len() as u32 + 1) as usize;
    let Some(piece) = pieces.get_mut(which) else {
        pieces.reverse();
        return;
    };
    match input.below(4) {
        0 => piece.address = input.u64(),
        1 => piece.len = input.u32(),
        2 => piece.write = !piece.write,
        _ => {
            pieces.remove(which);
        }
    }
}

/// Breaks a rule of rings.
fn violate(driver: &mut Driver, index: u16, input: &mut Input<'_>) {
    let queue = &mut driver.queues[usize::from(index)];
    match input.below(3) {
        0 => queue.publish(input.u16()),
        1 => {
            let at = input.below(u32::from(queue.size)) as u16;
            let (address, len) = (input.u64(), input.u32());
            queue.descriptor(queue.table, at, address, len, input.u16(), input.u16());
        }
        _ => queue.write(queue.available + 2, &input.u16().to_le_bytes()),
    }
}
