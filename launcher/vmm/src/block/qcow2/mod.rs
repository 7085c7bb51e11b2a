//! A qcow2 file, read and written.
//!
//! Like every back end it says where the bytes of the disk are in the file;
//! what it changes in the file's tables it keeps in memory until a flush takes
//! it there, in an order that a crash at any point cannot harm. A cluster that
//! the guest gives back stays its own and becomes a hole in the file, so that
//! nothing in flight can hit what was put in its place.
//!
//! Not imago, the library for this: it writes refcounts and the tables that
//! rely on them without a sync between, so that a crash can leave clusters in
//! use that count as free; it holds a table's lock while the guest's data is
//! written, which an asynchronous engine cannot; it reads no zstd.

mod commit;
mod entry;
mod expand;
mod header;
mod refcounts;
mod tables;
mod write;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use self::entry::Place;
use self::expand::Expanded;
use self::header::Header;
use self::refcounts::Refcounts;
use self::tables::Tables;
use super::host_file::Use;
use super::{
    Backend, BaseId, FileRun, HostFile, Limits, OpenError, Run, SECTOR, checked, read_only,
};

/// The longest run that a read returns.
const MAX_RUN: u64 = 1 << 20;

/// A qcow2 disk.
#[derive(Debug)]
pub struct Qcow2Disk {
    file: Arc<HostFile>,
    header: Header,
    size: u64,
    read_only: bool,
    backing: Option<Arc<dyn Backend>>,
    state: Mutex<State>,
    /// Held during a commit.
    committing: Mutex<()>,
    /// A flush has failed: what is in the file nobody knows.
    failed: AtomicBool,
    expanded: Expanded,
    /// Counts what was written, for those who wait for a cluster.
    settled: (Mutex<u64>, Condvar),
}

/// What is in memory of the file's tables.
#[derive(Debug)]
struct State {
    tables: Tables,
    refcounts: Refcounts,
    /// Clusters of the disk that are being written as a whole, and the place
    /// in the file that will be theirs.
    claimed: BTreeMap<u64, u64>,
    /// Where the file ends.
    end: u64,
}

impl Qcow2Disk {
    /// Opens and locks the file `path`.
    ///
    /// A file with a backing file is opened only if that is given, as a disk
    /// that somebody chose to open: the name in the header is the image
    /// maker's, who has no business in naming files of this host.
    ///
    /// # Errors
    /// It cannot be opened or is in use, is damaged, needs what is not
    /// supported (encryption, an external data file, extended L2 entries), or
    /// has a backing file that is not given, or none although one is.
    pub fn open(
        path: &Path,
        read_only: bool,
        backing: Option<Arc<dyn Backend>>,
    ) -> Result<Self, OpenError> {
        let usage = if read_only { Use::Read } else { Use::Write };
        Self::from_file(HostFile::open(path, usage)?, read_only, backing)
    }

    /// The name of the backing file that is in the header of the file `path`,
    /// if there is one; what a terminal might obey is escaped in it.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn backing_name(path: &Path) -> Result<Option<String>, OpenError> {
        let file = HostFile::open(path, Use::Read)?;
        Ok(Header::read(&file)?.backing)
    }

    /// Serves a file that is open already, and locked if it needs to be.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn from_file(
        file: HostFile,
        read_only: bool,
        backing: Option<Arc<dyn Backend>>,
    ) -> Result<Self, OpenError> {
        let header = Header::read(&file)?;
        let unsupported = |what: String| OpenError::Unsupported {
            path: file.path().into(),
            what,
        };
        let io = |error| OpenError::Io {
            path: file.path().into(),
            error,
        };
        match (&header.backing, &backing) {
            (Some(name), None) => {
                return Err(unsupported(format!(
                    "a qcow2 over the backing file \"{name}\", which is not opened unless it \
                     is asked for; name it, or make one file of both with qemu-img convert"
                )));
            }
            (None, Some(_)) => {
                return Err(unsupported(
                    "a backing file was given, but this qcow2 has none".into(),
                ));
            }
            _ => {}
        }
        if header.dirty && !read_only {
            return Err(unsupported(
                "a qcow2 that was not closed, whose refcounts may be wrong; \
                 run qemu-img check -r all on it first"
                    .into(),
            ));
        }
        let size = header.size / SECTOR * SECTOR;
        if size == 0 {
            return Err(unsupported(format!("a disk of {} bytes", header.size)));
        }
        let refcounts = if read_only {
            Refcounts::none(&header)
        } else {
            Refcounts::load(&file, &header)?
        };
        if header.autoclear != 0 && !read_only {
            // What they vouch for will not be kept.
            file.write_all_at(header::AUTOCLEAR_FIELD, &[0; 8])
                .and_then(|()| file.sync())
                .map_err(io)?;
        }
        let state = State {
            tables: Tables::load(&file, &header).map_err(io)?,
            refcounts,
            claimed: BTreeMap::new(),
            end: file.len().map_err(io)?,
        };
        Ok(Self {
            file: Arc::new(file),
            header,
            size,
            read_only,
            backing,
            state: Mutex::new(state),
            committing: Mutex::new(()),
            failed: AtomicBool::new(false),
            expanded: Expanded::default(),
            settled: Default::default(),
        })
    }

    /// What an overlay over this disk remembers of it.
    ///
    /// # Errors
    /// The file cannot be asked.
    pub fn identity(&self) -> io::Result<BaseId> {
        BaseId::of_file(&self.file)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn one_commit(&self) -> MutexGuard<'_, ()> {
        self.committing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn check_alive(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier flush failed"));
        }
        Ok(())
    }

    fn give_up(&self) {
        self.failed.store(true, Ordering::Release);
    }

    fn writable(&self, range: &Range<u64>) -> io::Result<()> {
        checked(range, self.size)?;
        if self.read_only {
            return Err(read_only());
        }
        self.check_alive()
    }

    fn damaged(&self, reason: &str) -> io::Error {
        let path = self.file.path().display();
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{path}: damaged qcow2: {reason}"),
        )
    }

    fn bits(&self) -> u32 {
        self.header.cluster_bits
    }

    fn cluster(&self) -> u64 {
        1 << self.header.cluster_bits
    }

    /// The backing file's run at `range.start`; past its end, and without
    /// one, are zeros.
    fn backing_run(&self, range: Range<u64>) -> io::Result<Run> {
        let Some(backing) = &self.backing else {
            return Ok(Run::Zeros(range.end - range.start));
        };
        let end = range.end.min(backing.size());
        if range.start >= end {
            return Ok(Run::Zeros(range.end - range.start));
        }
        backing.read(range.start..end)
    }

    /// The whole cluster whose compressed data is at `offset`.
    fn expand(&self, offset: u64, end: u64) -> io::Result<Bytes> {
        if let Some(bytes) = self.expanded.get(offset) {
            return Ok(bytes);
        }
        // At most two clusters and a sector, see `Place::decode`.
        let end = end.min(self.file.len()?);
        if offset >= end {
            return Err(self.damaged(&format!("there is no compressed data at {offset}")));
        }
        let mut data = vec![0; (end - offset) as usize];
        self.file.read_exact_at(offset, &mut data)?;
        let bytes = expand::expand(self.header.method, &data, self.cluster() as usize).ok_or_else(
            || self.damaged(&format!("the compressed data at {offset} is no cluster")),
        )?;
        let bytes = Bytes::from(bytes);
        self.expanded.put(offset, bytes.clone());
        Ok(bytes)
    }
}

impl Backend for Qcow2Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn limits(&self) -> Limits {
        if self.read_only {
            return Limits::READ_ONLY;
        }
        Limits {
            read_only: false,
            physical_block: 4096,
            discard: Some(4096),
        }
    }

    fn read(&self, range: Range<u64>) -> io::Result<Run> {
        checked(&range, self.size)?;
        let limit = range.end.min(range.start.saturating_add(MAX_RUN));
        let (first, within) = (range.start >> self.bits(), range.start % self.cluster());
        let mut state = self.state();
        let found = state.tables.place(&self.file, first)?;
        let mut next = first + 1;
        let same = |place: Place, next: u64| match (found, place) {
            (Place::Plain { offset, .. }, Place::Plain { offset: other, .. }) => {
                offset.checked_add((next - first) << self.bits()) == Some(other)
            }
            (Place::Zeros(_), Place::Zeros(_)) | (Place::Unallocated, Place::Unallocated) => true,
            _ => false,
        };
        while next << self.bits() < limit {
            // What is damaged there is an error when it is read.
            let Ok(place) = state.tables.place(&self.file, next) else {
                break;
            };
            if !same(place, next) {
                break;
            }
            next += 1;
        }
        drop(state);
        let end = limit.min(next << self.bits());
        let len = end - range.start;
        match found {
            Place::Unallocated => self.backing_run(range.start..end),
            Place::Zeros(_) => Ok(Run::Zeros(len)),
            // QEMU lets a file end inside its last cluster.
            Place::Plain { offset, .. } => Ok(Run::File(
                FileRun::new(&self.file, offset + within, len).sparse(),
            )),
            Place::Compressed { offset, end } => {
                let bytes = self.expand(offset, end)?;
                let from = within as usize;
                let to = bytes.len().min(from.saturating_add(len as usize));
                Ok(Run::Literal(bytes.slice(from..to)))
            }
        }
    }

    fn check(&self, run: &FileRun) -> io::Result<()> {
        match &self.backing {
            Some(backing) if run.source.is_some() => backing.check(run),
            _ => Ok(()),
        }
    }

    fn prepare_write(&self, range: Range<u64>) -> io::Result<FileRun> {
        self.writable(&range)?;
        self.make_room()?;
        self.place_write(&range)
    }

    fn written(&self, range: Range<u64>) -> io::Result<()> {
        checked(&range, self.size)?;
        self.settle(&range, true)
    }

    fn abandoned(&self, range: Range<u64>) {
        // What fails here fails again at the next flush.
        let _ = self.settle(&range, false);
    }

    fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> io::Result<()> {
        self.writable(&range)?;
        self.zero(&range, unmap, true)
    }

    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        self.writable(&range)?;
        self.zero(&range, true, false)
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.commit()
    }
}

impl Drop for Qcow2Disk {
    fn drop(&mut self) {
        if !self.read_only {
            // The second time takes back what the first made unused.
            let _ = self.commit().and_then(|()| self.commit());
        }
    }
}
