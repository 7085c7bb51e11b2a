//! What the tests of several back ends need: a disk to compare with, and
//! crashes.
//!
//! A crash test records what a back end does to its file, then looks at the
//! file as it would be had the machine stopped after each single step: all
//! that was synced is there, of the rest any part is, sector by sector. Each
//! such file must open and show, for each sector, what it held at the last
//! flush that returned, or something written to it since.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Backend, HostFile, SECTOR, read_at, write_at};

/// One thing done to a file, or said about it.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// These bytes were written at this offset.
    Write(u64, Vec<u8>),
    /// So many bytes at this offset became zeros.
    Zero(u64, u64),
    /// The file became so long.
    Grow(u64),
    /// All before is on stable storage.
    Sync,
    /// The guest starts to write this value to these sectors.
    Begin(Range<u64>, u32),
    /// The guest was told that it is done.
    Done(Range<u64>, u32),
    /// The guest was told that all that is done is safe.
    Flushed,
}

/// What was done to a file, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<Vec<Event>>>);

impl Journal {
    pub(crate) fn push(&self, event: Event) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event);
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        self.push(Event::Write(offset, bytes.to_vec()));
    }

    pub(crate) fn zero(&self, offset: u64, len: u64) {
        self.push(Event::Zero(offset, len));
    }

    pub(crate) fn sync(&self) {
        self.push(Event::Sync);
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Numbers that look random and are the same for the same seed.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `n`.
    pub(crate) fn roll(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % n
    }
}

/// A file of the given bytes that has no name.
pub(crate) fn file_of(bytes: &[u8]) -> HostFile {
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    HostFile::new(file, "test file")
}

/// A sector that holds `value`: zeros for 0.
pub(crate) fn sector(value: u32) -> Vec<u8> {
    value.to_le_bytes().repeat(SECTOR as usize / 4)
}

/// The value of a sector, `None` if it is mixed.
fn value(bytes: &[u8]) -> Option<u32> {
    let first = u32::from_le_bytes(*bytes.first_chunk().unwrap());
    (bytes == sector(first)).then_some(first)
}

/// Says whether a sector may hold these bytes.
pub(crate) type Good<'a> = &'a dyn Fn(u64, &[u8]) -> bool;

/// What the sectors of a disk hold.
pub(crate) type Model = BTreeMap<u64, u32>;

/// A disk whose sectors hold values: what `base` says, and what was written.
pub(crate) struct Rig<'a> {
    pub(crate) disk: &'a dyn Backend,
    pub(crate) journal: Journal,
    pub(crate) base: &'a dyn Fn(u64) -> u32,
    pub(crate) model: Model,
    /// Where the action is.
    pub(crate) spots: Vec<Range<u64>>,
    pub(crate) next: u32,
}

impl Rig<'_> {
    fn pick(&self, dice: &mut Dice) -> Range<u64> {
        let spot = &self.spots[dice.roll(self.spots.len() as u64) as usize];
        let len = match dice.roll(4) {
            0 => 1 + dice.roll(7),
            1 => 8,
            2 => 8 * (1 + dice.roll(16)),
            _ => 1 + dice.roll(200),
        };
        let mut start = spot.start + dice.roll(spot.end - spot.start);
        if dice.roll(2) == 0 {
            start = start / 8 * 8;
        }
        let start = start.max(spot.start);
        start..(start + len).min(spot.end)
    }

    fn done(&mut self, sectors: Range<u64>, value: u32) {
        for sector in sectors.clone() {
            self.model.insert(sector, value);
        }
        self.journal.push(Event::Done(sectors, value));
    }

    fn flush(&self) {
        self.disk.flush().unwrap();
        self.journal.push(Event::Flushed);
    }

    /// Does something to the disk.
    pub(crate) fn step(&mut self, dice: &mut Dice) {
        let sectors = self.pick(dice);
        let bytes = sectors.start * SECTOR..sectors.end * SECTOR;
        match dice.roll(12) {
            0..=4 => {
                let value = self.next;
                self.next += 1;
                self.journal.push(Event::Begin(sectors.clone(), value));
                let count = (sectors.end - sectors.start) as usize;
                write_at(self.disk, bytes.start, &sector(value).repeat(count)).unwrap();
                self.done(sectors, value);
            }
            5 => {
                // A flush while the write is on its way.
                let value = self.next;
                self.next += 1;
                self.journal.push(Event::Begin(sectors.clone(), value));
                let mut at = bytes.start;
                let mut runs = Vec::new();
                while at < bytes.end {
                    let run = self.disk.prepare_write(at..bytes.end).unwrap();
                    at += run.len;
                    runs.push((at - run.len, run));
                }
                let flush_at = dice.roll(runs.len() as u64 + 1) as usize;
                for (i, (at, run)) in runs.into_iter().enumerate() {
                    if i == flush_at {
                        self.flush();
                    }
                    let new = sector(value).repeat((run.len / SECTOR) as usize);
                    run.file.write_all_at(run.offset, &new).unwrap();
                    self.disk.written(at..at + run.len).unwrap();
                }
                self.done(sectors, value);
            }
            6 | 7 => {
                self.journal.push(Event::Begin(sectors.clone(), 0));
                let unmap = dice.roll(2) == 0;
                self.disk.write_zeroes(bytes, unmap).unwrap();
                self.done(sectors, 0);
            }
            8 => {
                self.journal.push(Event::Begin(sectors.clone(), 0));
                self.disk.discard(bytes.clone()).unwrap();
                // What is left is zeros or what was there.
                for sector in sectors {
                    let now = self.read(sector);
                    if now == 0 {
                        self.done(sector..sector + 1, 0);
                    } else {
                        assert_eq!(now, self.value(sector));
                        self.journal.push(Event::Begin(sector..sector + 1, now));
                        self.done(sector..sector + 1, now);
                    }
                }
            }
            9 => {
                for sector in sectors {
                    assert_eq!(self.read(sector), self.value(sector), "sector {sector}");
                }
            }
            _ => self.flush(),
        }
    }

    fn value(&self, sector: u64) -> u32 {
        let written = self.model.get(&sector).copied();
        written.unwrap_or_else(|| (self.base)(sector))
    }

    fn read(&self, at: u64) -> u32 {
        let mut bytes = [0; SECTOR as usize];
        read_at(self.disk, at * SECTOR, &mut bytes).unwrap();
        value(&bytes).unwrap_or_else(|| panic!("sector {at} is mixed"))
    }

    /// Compares all spots with the model.
    pub(crate) fn compare(&self) {
        for spot in &self.spots {
            let mut bytes = vec![0; ((spot.end - spot.start) * SECTOR) as usize];
            read_at(self.disk, spot.start * SECTOR, &mut bytes).unwrap();
            for (at, bytes) in spot.clone().zip(bytes.chunks(SECTOR as usize)) {
                assert_eq!(value(bytes), Some(self.value(at)), "sector {at}");
            }
        }
    }
}

/// The values that each sector may have after a crash, where it is not
/// `base`'s.
#[derive(Debug, Default)]
struct Allowed {
    /// Values in the order of their writing, with whether that was done.
    values: BTreeMap<u64, Vec<(u32, bool)>>,
}

impl Allowed {
    fn take(&mut self, event: &Event, base: &dyn Fn(u64) -> u32) {
        match event {
            Event::Begin(sectors, value) => {
                for sector in sectors.clone() {
                    let values = self.values.entry(sector);
                    let values = values.or_insert_with(|| vec![(base(sector), true)]);
                    values.push((*value, false));
                }
            }
            Event::Done(sectors, value) => {
                for sector in sectors.clone() {
                    for known in self.values.entry(sector).or_default() {
                        known.1 |= known.0 == *value;
                    }
                }
            }
            Event::Flushed => {
                for values in self.values.values_mut() {
                    let last = values.iter().rposition(|(_, done)| *done);
                    values.drain(..last.unwrap_or(0));
                }
            }
            _ => {}
        }
    }

    fn check(&self, sector: u64, found: Option<u32>, base: &dyn Fn(u64) -> u32) -> bool {
        match (self.values.get(&sector), found) {
            (_, None) => false,
            (Some(values), Some(found)) => values.iter().any(|(value, _)| *value == found),
            (None, Some(found)) => found == base(sector),
        }
    }
}

fn apply(image: &mut Vec<u8>, event: &Event, keep: &mut dyn FnMut() -> bool) {
    let (at, new): (u64, Vec<u8>) = match event {
        Event::Write(at, bytes) => (*at, bytes.clone()),
        Event::Zero(at, len) => (*at, vec![0; *len as usize]),
        Event::Grow(len) => {
            if image.len() < *len as usize && keep() {
                image.resize(*len as usize, 0);
            }
            return;
        }
        _ => return,
    };
    // Zeroing a range does not make a file longer.
    let grows = matches!(event, Event::Write(..));
    for (i, sector) in new.chunks(SECTOR as usize).enumerate() {
        let start = at as usize + i * SECTOR as usize;
        if !keep() {
            continue;
        }
        if image.len() < start + sector.len() {
            if !grows {
                continue;
            }
            image.resize(start + sector.len(), 0);
        }
        image[start..start + sector.len()].copy_from_slice(sector);
    }
}

/// Stops the machine after each of `events`, several ways, and has `look`
/// open the file: it gets the bytes and a function that says whether a
/// sector's value is one that it may have. Returns how many files it saw.
pub(crate) fn crash(
    initial: &[u8],
    events: &[Event],
    base: &dyn Fn(u64) -> u32,
    dice: &mut Dice,
    look: &mut dyn FnMut(&[u8], Good<'_>),
) -> usize {
    let mut safe = initial.to_vec();
    let mut pending: Vec<&Event> = Vec::new();
    let mut allowed = Allowed::default();
    let mut seen = 0;
    for event in events {
        let mut cut = true;
        match event {
            Event::Sync => {
                for event in pending.drain(..) {
                    apply(&mut safe, event, &mut || true);
                }
            }
            Event::Write(..) | Event::Zero(..) | Event::Grow(_) => pending.push(event),
            _ => {
                allowed.take(event, base);
                // Only the end of a flush tightens what is allowed.
                cut = matches!(event, Event::Flushed);
            }
        }
        if !cut {
            continue;
        }
        for way in 0..4 {
            let mut image = safe.clone();
            // All, none, whole events, or sectors of what was not synced.
            for event in &pending {
                let whole = dice.roll(2) == 0;
                apply(&mut image, event, &mut || match way {
                    0 => true,
                    1 => false,
                    2 => whole,
                    _ => dice.roll(2) == 0,
                });
            }
            look(&image, &|at, bytes| allowed.check(at, value(bytes), base));
            seen += 1;
        }
    }
    seen
}

/// Checks all `spots` of a disk that was opened after a crash.
pub(crate) fn check_spots(disk: &dyn Backend, spots: &[Range<u64>], good: Good<'_>) {
    for spot in spots {
        let mut bytes = vec![0; ((spot.end - spot.start) * SECTOR) as usize];
        read_at(disk, spot.start * SECTOR, &mut bytes).unwrap();
        for (at, bytes) in spot.clone().zip(bytes.chunks(SECTOR as usize)) {
            assert!(good(at, bytes), "sector {at} has {:?}", value(bytes));
        }
    }
}
