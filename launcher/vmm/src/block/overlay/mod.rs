//! A copy-on-write file over a disk that is never written.
//!
//! The disk is the base, except for the 4 KiB blocks that were written: those
//! are in the file, which a tree of checksummed nodes leads to. Data clusters
//! are never used for anything else once they are given out, so that nothing
//! in flight can hit what was put in their place; nodes are never changed in
//! place. After a crash the file is exactly what the last flush made it, plus
//! any part of what was written over blocks that were in the file before it.

mod commit;
mod format;
mod load;
mod map;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use self::format::{BLOCK, CLUSTER, MAX_SIZE, SUPERBLOCKS, Superblock, depth};
use self::map::{Map, Where, mask};
use super::host_file::Use;
use super::{Backend, BaseId, FileRun, HostFile, Limits, OpenError, Run, SECTOR, checked, read_at};

/// The longest run that a read returns.
const MAX_RUN: u64 = 1 << 20;

/// A disk that is a base and what was written over it.
#[derive(Debug)]
pub struct Overlay {
    base: Arc<dyn Backend>,
    file: Arc<HostFile>,
    size: u64,
    /// Whether flushes reach the file; not for one that nobody can find.
    durable: bool,
    map: RwLock<Map>,
    /// The superblock in the file; held while it changes.
    superblock: Mutex<Superblock>,
    /// A flush has failed: what is in the file nobody knows.
    failed: AtomicBool,
    /// Counts what was written, for those who wait for a block.
    settled: (Mutex<u64>, Condvar),
}

impl Overlay {
    /// Makes the overlay `path` of `size` bytes over `base`, which is known
    /// by `id`. It may be larger than the base: the rest is zeros.
    ///
    /// # Errors
    /// The file exists or cannot be made, or the size is not a whole number
    /// of sectors, is less than the base's or more than 64 TiB.
    pub fn create(
        path: &Path,
        base: Arc<dyn Backend>,
        id: BaseId,
        size: u64,
    ) -> Result<Self, OpenError> {
        check_size(path, &*base, size)?;
        let io = |error| OpenError::Io {
            path: path.into(),
            error,
        };
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        let file = HostFile::new(file, path);
        file.lock(Use::Write)?;
        let overlay = Self::make(file, base, id, size, true).map_err(io)?;
        // The name must be as safe as the file.
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))
            .and_then(|dir| dir.sync_all())
            .map_err(io)?;
        Ok(overlay)
    }

    /// Opens the overlay `path` over `base`.
    ///
    /// # Errors
    /// The file is in use, is not an overlay over `id`, or is damaged.
    pub fn open(path: &Path, base: Arc<dyn Backend>, id: BaseId) -> Result<Self, OpenError> {
        Self::from_file(HostFile::open(path, Use::Write)?, base, id)
    }

    /// An overlay that is gone when it is closed: a file without a name in
    /// `dir`, or in memory. Flushing it does nothing.
    ///
    /// # Errors
    /// The file cannot be made, or as for [`create`](Self::create).
    pub fn ephemeral(
        dir: Option<&Path>,
        base: Arc<dyn Backend>,
        size: u64,
    ) -> Result<Self, OpenError> {
        let path = dir.unwrap_or(Path::new("overlay in memory"));
        check_size(path, &*base, size)?;
        let io = |error| OpenError::Io {
            path: path.into(),
            error,
        };
        let file = match dir {
            Some(dir) => File::options()
                .read(true)
                .write(true)
                .mode(0o600)
                .custom_flags(libc::O_TMPFILE)
                .open(dir),
            None => memory_file(),
        };
        let file = HostFile::new(file.map_err(io)?, path);
        Self::make(file, base, BaseId([0; 32]), size, false).map_err(io)
    }

    fn make(
        file: HostFile,
        base: Arc<dyn Backend>,
        id: BaseId,
        size: u64,
        durable: bool,
    ) -> io::Result<Self> {
        let superblock = Superblock {
            generation: 1,
            size,
            base: id,
            root: None,
        };
        if durable {
            file.file().set_len(CLUSTER)?;
            for at in SUPERBLOCKS.into_iter().rev() {
                file.write_all_at(at, &superblock.encode())?;
            }
            file.sync()?;
        }
        let mut map = Map {
            places: (0..depth(size)).map(|_| Default::default()).collect(),
            ..Map::default()
        };
        map.space.end = CLUSTER;
        Ok(Self::assemble(file, base, superblock, map, durable))
    }

    /// Opens a file that is open and locked already.
    pub(crate) fn from_file(
        file: HostFile,
        base: Arc<dyn Backend>,
        id: BaseId,
    ) -> Result<Self, OpenError> {
        let superblock = load::superblock(&file)?;
        if superblock.base != id {
            return Err(OpenError::Unsupported {
                path: file.path().into(),
                what: format!(
                    "it belongs to another disk: it was made over {} and this is {id}",
                    superblock.base
                ),
            });
        }
        check_size(file.path(), &*base, superblock.size)?;
        let map = load::load(&file, &superblock)?;
        Ok(Self::assemble(file, base, superblock, map, true))
    }

    fn assemble(
        file: HostFile,
        base: Arc<dyn Backend>,
        superblock: Superblock,
        map: Map,
        durable: bool,
    ) -> Self {
        Self {
            base,
            file: Arc::new(file),
            size: superblock.size,
            durable,
            map: RwLock::new(map),
            superblock: Mutex::new(superblock),
            failed: AtomicBool::new(false),
            settled: Default::default(),
        }
    }

    /// What is underneath.
    pub fn base(&self) -> &Arc<dyn Backend> {
        &self.base
    }

    fn map(&self) -> std::sync::RwLockReadGuard<'_, Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn map_mut(&self) -> std::sync::RwLockWriteGuard<'_, Map> {
        self.map.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn superblock(&self) -> MutexGuard<'_, Superblock> {
        self.superblock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn check_alive(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier flush failed"));
        }
        Ok(())
    }

    /// The base's run at `range.start`; past its end are zeros.
    fn base_run(&self, range: Range<u64>) -> io::Result<Run> {
        let end = range.end.min(self.base.size());
        if range.start >= end {
            return Ok(Run::Zeros(range.end - range.start));
        }
        self.base.read(range.start..end)
    }

    /// Fills the block at byte `start` of the disk with what it shows now.
    fn fill(&self, start: u64, at: u64, zero: bool) -> io::Result<()> {
        let len = self.size.saturating_sub(start).min(BLOCK);
        let mut bytes = [0; BLOCK as usize];
        let (bytes, _) = bytes.split_at_mut(len as usize);
        let there = self.base.size().saturating_sub(start).min(len);
        if !zero && there > 0 {
            let (bytes, _) = bytes.split_at_mut(there as usize);
            read_at(&*self.base, start, bytes)?;
        }
        self.file.write_all_at(at, bytes)
    }

    /// Gives the blocks of `part`, which lies in one cluster, a place to be
    /// written to, and returns where `part` starts there.
    fn place(&self, part: &Part) -> io::Result<u64> {
        let entry = self.map().entry(part.cluster);
        if entry.valid & part.touched == part.touched {
            return Ok(entry.offset + part.within);
        }
        let mut map = self.map_mut();
        let entry = *map.entry_mut(part.cluster)?;
        let new = part.touched & !entry.valid;
        if new & entry.claimed != 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let offset = match entry.offset {
            0 => map.space.cluster()?,
            offset => offset,
        };
        // Remembered before what can fail, lest the cluster be lost.
        map.entry_mut(part.cluster)?.offset = offset;
        let partial = new & !part.covered & !entry.filled;
        for block in (0..16).filter(|block| partial & (1 << block) != 0) {
            let within = block * BLOCK;
            let zero = entry.zero & (1 << block) != 0;
            self.fill(part.start + within, offset + within, zero)?;
        }
        let entry = map.entry_mut(part.cluster)?;
        entry.filled |= partial;
        entry.claimed |= new & part.covered & !entry.filled;
        Ok(offset + part.within)
    }

    /// Makes `part` zeros.
    fn zero(&self, part: &Part, unmap: bool) -> io::Result<()> {
        let mut map = self.map_mut();
        let entry = *map.entry_mut(part.cluster)?;
        // Whole blocks that are in the file, or will be when a write to a
        // part of them is done, become zeros there.
        let there = part.covered & (entry.valid | entry.filled);
        let mut block = 0;
        while block < 16 {
            let run = (u32::from(there) >> block).trailing_ones();
            if run > 0 {
                let (first, end) = (u64::from(block) * BLOCK, u64::from(block + run) * BLOCK);
                let len = end.min(self.size - part.start) - first;
                self.file.zero(entry.offset + first, len, unmap)?;
            }
            block += run.max(1);
        }
        let zero = part.covered & !entry.valid & !entry.zero;
        if zero != 0 && !self.base_is_zero(part) {
            map.entry_mut(part.cluster)?.zero |= zero;
            map.touch(part.cluster);
        }
        Ok(())
    }

    fn base_is_zero(&self, part: &Part) -> bool {
        let range = part.start + part.within..part.start + part.within + part.len;
        matches!(self.base_run(range), Ok(Run::Zeros(len)) if len >= part.len)
    }

    /// Writes zeros like any other bytes; waits for blocks that are being
    /// written. Only the device's helper thread may come here.
    fn write_zero_bytes(&self, range: Range<u64>) -> io::Result<()> {
        let zeros = [0; BLOCK as usize];
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at / BLOCK * BLOCK + BLOCK);
            let seen = *self
                .settled
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            match self.prepare_write(at..end) {
                Ok(run) => {
                    let zeros = zeros.get(..run.len as usize).unwrap_or_default();
                    self.file.write_all_at(run.offset, zeros)?;
                    self.written(at..at + run.len)?;
                    at += run.len;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let guard = self
                        .settled
                        .0
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    drop(self.settled.1.wait_while(guard, |now| *now == seen));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn parts(&self, range: &Range<u64>) -> impl Iterator<Item = Part> + use<> {
        let (range, size) = (range.clone(), self.size);
        let first = range.start / CLUSTER;
        let end = range.end.div_ceil(CLUSTER);
        (first..end).map(move |cluster| Part::new(cluster, &range, size))
    }

    fn settle(&self, range: &Range<u64>, good: bool) -> io::Result<()> {
        let mut changed = false;
        for part in self.parts(range) {
            let entry = self.map().entry(part.cluster);
            if entry.valid & part.touched == part.touched {
                continue;
            }
            changed = true;
            let mut map = self.map_mut();
            let entry = map.entry_mut(part.cluster)?;
            if good {
                entry.valid |= part.touched;
                entry.zero &= !part.touched;
                entry.filled &= !part.touched;
            }
            entry.claimed &= !part.touched;
            if good {
                map.touch(part.cluster);
            }
        }
        if changed {
            let (count, wake) = &self.settled;
            *count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            wake.notify_all();
        }
        Ok(())
    }
}

/// The part of a range that lies in one cluster.
#[derive(Debug)]
struct Part {
    cluster: u64,
    /// Where the cluster starts on the disk.
    start: u64,
    /// Where the part starts in the cluster, and its length.
    within: u64,
    len: u64,
    /// Blocks that it touches, and that it covers.
    touched: u16,
    covered: u16,
}

impl Part {
    fn new(cluster: u64, range: &Range<u64>, size: u64) -> Self {
        let start = cluster * CLUSTER;
        let from = range.start.max(start) - start;
        let to = range.end.min(start + CLUSTER) - start;
        // The end of the disk ends its last block.
        let covered_to = if range.end >= size {
            to.next_multiple_of(BLOCK)
        } else {
            to
        };
        Self {
            cluster,
            start,
            within: from,
            len: to - from,
            touched: mask((from / BLOCK) as u32, to.div_ceil(BLOCK) as u32),
            covered: mask(from.div_ceil(BLOCK) as u32, (covered_to / BLOCK) as u32),
        }
    }
}

fn check_size(path: &Path, base: &dyn Backend, size: u64) -> Result<(), OpenError> {
    if size < base.size() || !size.is_multiple_of(SECTOR) || size > MAX_SIZE {
        return Err(OpenError::Unsupported {
            path: path.into(),
            what: format!(
                "an overlay of {size} bytes over a disk of {}; it has to be in whole sectors, not smaller, and at most {MAX_SIZE}",
                base.size()
            ),
        });
    }
    Ok(())
}

#[allow(unsafe_code)]
fn memory_file() -> io::Result<File> {
    // SAFETY: the name is a constant that ends in a zero.
    let fd = unsafe { libc::memfd_create(c"overlay".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call returned it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

impl Backend for Overlay {
    fn size(&self) -> u64 {
        self.size
    }

    fn limits(&self) -> Limits {
        Limits {
            read_only: false,
            physical_block: BLOCK as u32,
            discard: Some(BLOCK as u32),
        }
    }

    fn read(&self, range: Range<u64>) -> io::Result<Run> {
        checked(&range, self.size)?;
        let map = self.map();
        // Not further than a run is likely to reach, because the base may
        // cut it and the same is looked at again.
        let limit = range.end.min(range.start.saturating_add(MAX_RUN));
        let mut found: Option<Where> = None;
        let mut at = range.start;
        while at < limit {
            let cluster = at / CLUSTER;
            let within = at % CLUSTER;
            let missing = map.missing(cluster);
            let (place, end) = if missing > 0 {
                (Where::Base, (cluster + missing) * CLUSTER)
            } else {
                let first = within / BLOCK;
                let (place, blocks) = map.entry(cluster).span(first as u32);
                let end = cluster * CLUSTER + (first + u64::from(blocks)) * BLOCK;
                let place = match place {
                    Where::File(offset) => Where::File(offset + within % BLOCK),
                    other => other,
                };
                (place, end)
            };
            let continues = match (found, place) {
                (None, _) => {
                    found = Some(place);
                    true
                }
                (Some(Where::File(first)), Where::File(next)) => first + (at - range.start) == next,
                (Some(a), b) => a == b && !matches!(a, Where::File(_)),
            };
            if !continues {
                break;
            }
            at = end.min(limit);
        }
        drop(map);
        let len = at - range.start;
        match found {
            Some(Where::File(offset)) => Ok(Run::File(FileRun::new(&self.file, offset, len))),
            Some(Where::Zeros) => Ok(Run::Zeros(len)),
            Some(Where::Base) | None => self.base_run(range.start..at),
        }
    }

    fn check(&self, run: &FileRun) -> io::Result<()> {
        self.base.check(run)
    }

    fn prepare_write(&self, range: Range<u64>) -> io::Result<FileRun> {
        checked(&range, self.size)?;
        self.check_alive()?;
        let part = Part::new(range.start / CLUSTER, &range, self.size);
        let offset = self.place(&part)?;
        let mut run = FileRun::new(&self.file, offset, part.len);
        // Clusters that follow each other in the file are one run.
        for part in self.parts(&(range.start + run.len..range.end)) {
            let entry = self.map().entry(part.cluster);
            let known = entry.valid & part.touched == part.touched;
            if !known || entry.offset != run.offset + run.len {
                break;
            }
            run.len += part.len;
        }
        Ok(run)
    }

    fn written(&self, range: Range<u64>) -> io::Result<()> {
        checked(&range, self.size)?;
        self.settle(&range, true)
    }

    fn abandoned(&self, range: Range<u64>) {
        // Nothing that can fail is asked for.
        let _ = self.settle(&range, false);
    }

    fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> io::Result<()> {
        checked(&range, self.size)?;
        self.check_alive()?;
        for part in self.parts(&range) {
            if part.covered != 0 {
                self.zero(&part, unmap)?;
            }
            // The edges are written, at most two in each cluster.
            let edges = part.touched & !part.covered;
            for block in (0..16u64).filter(|block| edges & (1 << block) != 0) {
                let start = part.start + block * BLOCK;
                let edge = start.max(range.start)..(start + BLOCK).min(range.end);
                self.write_zero_bytes(edge)?;
            }
        }
        Ok(())
    }

    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        checked(&range, self.size)?;
        self.check_alive()?;
        for part in self.parts(&range).filter(|part| part.covered != 0) {
            self.zero(&part, true)?;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        if !self.durable {
            return Ok(());
        }
        let mut superblock = self.superblock();
        self.check_alive()?;
        let result = (|| {
            let change = commit::prepare(&mut self.map_mut())?;
            let Some(change) = change else {
                return self.file.sync();
            };
            *superblock = self.commit(&change, &superblock)?;
            Self::retire(&mut self.map_mut(), change);
            Ok(())
        })();
        result.inspect_err(|_| self.failed.store(true, Ordering::Release))
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // What was written and not flushed is kept if nothing goes wrong;
        // nobody was promised that.
        let _ = self.flush();
    }
}
