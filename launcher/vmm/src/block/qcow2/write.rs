//! Writing: where bytes go, and what that changes in the tables.

use std::io;
use std::ops::Range;
use std::sync::PoisonError;

use super::entry::{COPIED, Place, ZERO};
use super::{Qcow2Disk, State};
use crate::block::{FileRun, HostFile, read_at};

/// The most clusters that one write claims at once, in bytes.
const MAX_CLAIM: u64 = 16 << 20;

/// How many zeros are written at once where the tables cannot say it.
const ZEROS: [u8; 4096] = [0; 4096];

/// What to do to make a part of a cluster zeros.
enum Zeroing {
    /// Nothing, or nothing that would be easy.
    Nothing,
    /// Zero so many bytes of the file.
    InPlace(Range<u64>),
    /// Write zeros as the guest would.
    Bytes,
}

impl State {
    /// Changes the L2 entry of a cluster of the disk.
    fn set(&mut self, file: &HostFile, cluster: u64, entry: u64) -> io::Result<()> {
        let Self {
            tables, refcounts, ..
        } = self;
        tables.set(file, refcounts, cluster, entry)
    }

    /// The references of `old` go when the file has none of them any more.
    fn release(&mut self, old: Place, bits: u32) {
        let clusters = match old {
            Place::Plain { offset, .. } => offset >> bits..(offset >> bits) + 1,
            // "Compressed Clusters Descriptor": it counts for each cluster
            // that its sectors lie in.
            Place::Compressed { offset, end } => offset >> bits..((end - 1) >> bits) + 1,
            Place::Unallocated | Place::Zeros(_) => return,
        };
        self.refcounts.released.extend(clusters);
    }
}

impl Qcow2Disk {
    /// Writes what is in memory if that is too much.
    pub(super) fn make_room(&self) -> io::Result<()> {
        let overfull = self.state().tables.overfull();
        if overfull { self.commit() } else { Ok(()) }
    }

    /// Where to write `range` from its start on.
    pub(super) fn place_write(&self, range: &Range<u64>) -> io::Result<FileRun> {
        let (first, within) = (range.start >> self.bits(), range.start % self.cluster());
        let mut state = self.state();
        if state.claimed.contains_key(&first) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let old = state.tables.place(&self.file, first)?;
        let len = range.end - range.start;
        match old {
            Place::Plain { offset, own: true } => {
                self.check_inside(&state, offset)?;
                let mut clusters = 1;
                while (first + clusters) << self.bits() < range.end {
                    let next = first + clusters;
                    let follows = Place::Plain {
                        offset: offset + (clusters << self.bits()),
                        own: true,
                    };
                    let place = state.tables.place(&self.file, next);
                    if place.ok() != Some(follows)
                        || state.claimed.contains_key(&next)
                        || self
                            .check_inside(&state, offset + (clusters << self.bits()))
                            .is_err()
                    {
                        break;
                    }
                    clusters += 1;
                }
                let len = len.min((clusters << self.bits()) - within);
                Ok(FileRun::new(&self.file, offset + within, len))
            }
            old if within == 0 && len >= self.cluster() => {
                let want = self.claimable(&mut state, first, len >> self.bits());
                self.claim(&mut state, first, old, want)
            }
            old => {
                let offset = self.fill(&mut state, first, old)?;
                let len = len.min(self.cluster() - within);
                Ok(FileRun::new(&self.file, offset + within, len))
            }
        }
    }

    /// A cluster that is written in place has to be in the file already.
    fn check_inside(&self, state: &State, offset: u64) -> io::Result<()> {
        if offset >= state.end {
            return Err(self.damaged(&format!("there is no cluster at {offset}")));
        }
        Ok(())
    }

    /// How many clusters from `first` on, at most `max`, have no place that
    /// they could be written to.
    fn claimable(&self, state: &mut State, first: u64, max: u64) -> u64 {
        let max = max.min((MAX_CLAIM >> self.bits()).max(1));
        let mut count = 1;
        while count < max {
            let next = first + count;
            let taken = state.claimed.contains_key(&next);
            match state.tables.place(&self.file, next) {
                Ok(Place::Plain { own: true, .. } | Place::Zeros(Some(_))) | Err(_) => break,
                Ok(_) if taken => break,
                Ok(_) => count += 1,
            }
        }
        count
    }

    /// Sets clusters of the file aside for clusters that are written as a
    /// whole. The tables lead to them when they are.
    fn claim(&self, state: &mut State, first: u64, old: Place, want: u64) -> io::Result<FileRun> {
        let (offset, count) = match old {
            Place::Zeros(Some(offset)) => {
                self.check_inside(state, offset)?;
                (offset, 1)
            }
            _ => self.allocate(state, want)?,
        };
        for i in 0..count {
            let place = offset + (i << self.bits());
            state.claimed.insert(first + i, place);
        }
        let len = count << self.bits();
        Ok(FileRun::new(&self.file, offset, len))
    }

    /// Clusters of the file that nothing uses: where, and how many. Their
    /// bytes are anything.
    fn allocate(&self, state: &mut State, want: u64) -> io::Result<(u64, u64)> {
        let (cluster, count) = state.refcounts.allocate(&self.file, want)?;
        let end = (cluster + count) << self.bits();
        if end > state.end {
            if let Err(error) = self.file.grow(end) {
                state.refcounts.released.extend(cluster..cluster + count);
                return Err(error);
            }
            state.end = end;
        }
        Ok((cluster << self.bits(), count))
    }

    /// Gives a cluster a place of its own that holds what it shows now, and
    /// returns that.
    fn fill(&self, state: &mut State, cluster: u64, old: Place) -> io::Result<u64> {
        let new_end = state.end;
        let offset = match old {
            Place::Zeros(Some(offset)) => {
                self.check_inside(state, offset)?;
                self.file.zero(offset, self.cluster(), false)?;
                offset
            }
            _ => self.allocate(state, 1)?.0,
        };
        let fresh = offset >= new_end;
        let filled = (self.copy(cluster, old, offset, fresh))
            .and_then(|()| state.set(&self.file, cluster, offset | COPIED));
        match (filled, old) {
            (Ok(()), _) => {
                state.release(old, self.bits());
                Ok(offset)
            }
            (Err(error), Place::Zeros(Some(_))) => Err(error),
            (Err(error), _) => {
                state.refcounts.released.push(offset >> self.bits());
                Err(error)
            }
        }
    }

    /// Copies what `old` shows to `offset`; if that is `fresh`, it is zeros.
    fn copy(&self, cluster: u64, old: Place, offset: u64, fresh: bool) -> io::Result<()> {
        let start = cluster << self.bits();
        let mut bytes = Vec::new();
        match old {
            Place::Zeros(Some(_)) => return Ok(()),
            Place::Zeros(None) => {}
            Place::Unallocated => {
                if let Some(backing) = &self.backing {
                    let len = backing.size().saturating_sub(start).min(self.cluster());
                    bytes.resize(len as usize, 0);
                    if len > 0 {
                        read_at(&**backing, start, &mut bytes)?;
                    }
                }
            }
            Place::Plain { offset, .. } => {
                bytes.resize(self.cluster() as usize, 0);
                self.file.read_sparse_at(offset, &mut bytes)?;
            }
            Place::Compressed { offset, end } => {
                bytes.extend_from_slice(&self.expand(offset, end)?);
            }
        }
        if !fresh && (bytes.len() as u64) < self.cluster() {
            self.file.zero(offset, self.cluster(), true)?;
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(offset, &bytes)
    }

    /// A write is done: its clusters are the disk's if it was `good`.
    pub(super) fn settle(&self, range: &Range<u64>, good: bool) -> io::Result<()> {
        let mut state = self.state();
        if state.claimed.is_empty() {
            return Ok(());
        }
        let clusters = range.start >> self.bits()..range.end.div_ceil(self.cluster());
        let done: Vec<(u64, u64)> = (state.claimed.range(clusters))
            .map(|(cluster, offset)| (*cluster, *offset))
            .collect();
        let mut result = Ok(());
        for &(cluster, offset) in &done {
            state.claimed.remove(&cluster);
            result = result.and(self.settle_one(&mut state, cluster, offset, good));
        }
        drop(state);
        if !done.is_empty() {
            let (count, wake) = &self.settled;
            *count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            wake.notify_all();
        }
        result
    }

    fn settle_one(
        &self,
        state: &mut State,
        cluster: u64,
        offset: u64,
        good: bool,
    ) -> io::Result<()> {
        let old = state.tables.place(&self.file, cluster)?;
        if good {
            state.set(&self.file, cluster, offset | COPIED)?;
            state.release(old, self.bits());
        } else if old != Place::Zeros(Some(offset)) {
            state.refcounts.released.push(offset >> self.bits());
        }
        Ok(())
    }

    /// Makes `range` zeros; if not `all`, only where it is easy.
    pub(super) fn zero(&self, range: &Range<u64>, unmap: bool, all: bool) -> io::Result<()> {
        // Parts of the file that follow each other are zeroed at once.
        let mut waiting: Option<Range<u64>> = None;
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / self.cluster() + 1) * self.cluster());
            self.make_room()?;
            let zeroing = self.zero_part(at..end)?;
            match (&mut waiting, zeroing) {
                (Some(run), Zeroing::InPlace(part)) if run.end == part.start => run.end = part.end,
                (_, Zeroing::InPlace(part)) => {
                    if let Some(run) = waiting.replace(part) {
                        self.file.zero(run.start, run.end - run.start, unmap)?;
                    }
                }
                (_, Zeroing::Bytes) if all => self.write_zero_bytes(at..end)?,
                (_, Zeroing::Bytes | Zeroing::Nothing) => {}
            }
            at = end;
        }
        match waiting {
            Some(run) => self.file.zero(run.start, run.end - run.start, unmap),
            None => Ok(()),
        }
    }

    /// Makes a part of one cluster zeros as far as the tables can say it.
    fn zero_part(&self, part: Range<u64>) -> io::Result<Zeroing> {
        let (cluster, within) = (part.start >> self.bits(), part.start % self.cluster());
        let len = part.end - part.start;
        let whole = within == 0 && (len == self.cluster() || part.end == self.size);
        let mut state = self.state();
        if state.claimed.contains_key(&cluster) {
            // Of a write and this at the same time either may be the last.
            return Ok(if whole {
                Zeroing::Nothing
            } else {
                Zeroing::Bytes
            });
        }
        let old = state.tables.place(&self.file, cluster)?;
        let backed = (self.backing.as_ref()).is_some_and(|backing| part.start < backing.size());
        let entry = match old {
            Place::Plain { offset, own: true } => {
                self.check_inside(&state, offset)?;
                let start = offset + within;
                return Ok(Zeroing::InPlace(start..start + len));
            }
            Place::Zeros(_) => return Ok(Zeroing::Nothing),
            Place::Unallocated if !backed => return Ok(Zeroing::Nothing),
            _ if !whole => return Ok(Zeroing::Bytes),
            _ if self.header.version >= 3 => ZERO,
            // Version 2 has no entry for zeros over a backing file.
            _ if self.backing.is_none() => 0,
            _ => return Ok(Zeroing::Bytes),
        };
        state.set(&self.file, cluster, entry)?;
        state.release(old, self.bits());
        Ok(Zeroing::Nothing)
    }

    /// Writes zeros like any other bytes; waits for clusters that are being
    /// written. Only the device's helper thread may come here.
    fn write_zero_bytes(&self, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + ZEROS.len() as u64);
            let (count, wake) = &self.settled;
            let seen = *count.lock().unwrap_or_else(PoisonError::into_inner);
            match self.place_write(&(at..end)) {
                Ok(run) => {
                    let zeros = ZEROS.get(..run.len as usize).unwrap_or_default();
                    self.file.write_all_at(run.offset, zeros)?;
                    self.settle(&(at..at + run.len), true)?;
                    at += run.len;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let guard = count.lock().unwrap_or_else(PoisonError::into_inner);
                    drop(wake.wait_while(guard, |now| *now == seen));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
