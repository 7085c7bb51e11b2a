//! Reading qcow2, versions 2 and 3 (QEMU's docs/interop/qcow2.txt).
//!
//! Every number in the file is a stranger's. No table is taken into memory
//! whole: L1 entries are read when they are needed, L2 tables through a cache
//! of bounded size, and a compressed cluster expands to one cluster or is an
//! error. Refcounts matter to writers only and are not looked at.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flate2::{Decompress, FlushDecompress, Status};

use super::file::{DiskError, RawFile};
use super::{ReadAt, Run, checked_range};

pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Bytes of L2 tables and of expanded clusters that are kept.
const CACHE: usize = 8 << 20;

/// The sizes that QEMU accepts for a cluster, as powers of two.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;

/// The largest L1 table that QEMU opens, in bytes.
const MAX_L1: u64 = 32 << 20;

/// The largest window that a zstd frame may ask for, as a power of two: four
/// clusters of the largest size.
const MAX_ZSTD_WINDOW: u32 = 23;

/// Bits 9 to 55 of L1 and plain L2 entries: where in the file.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of a plain L2 entry in version 3: reads as zeros.
const ZERO: u64 = 1;

/// How far [`ReadAt::next_run`] looks for clusters that follow each other.
const MAX_RUN: u64 = 64 << 20;

#[derive(Debug, Clone, Copy)]
enum Method {
    Zlib,
    Zstd,
}

/// An open qcow2 file.
#[derive(Debug)]
pub(super) struct Qcow2 {
    file: RawFile,
    size: u64,
    version: u32,
    cluster_bits: u32,
    l1_offset: u64,
    method: Method,
    l2_tables: Mutex<Cache>,
    expanded: Mutex<Cache>,
}

/// Where a cluster's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Zeros,
    /// As they are, at this offset of the file.
    Plain(u64),
    /// Compressed: offset and length in the file.
    Compressed(u64, u64),
}

/// Parts of the file by their offset, the least recently used leaving first.
#[derive(Debug)]
struct Cache {
    limit: usize,
    clock: u64,
    parts: BTreeMap<u64, (u64, Arc<[u8]>)>,
}

impl Cache {
    fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            clock: 0,
            parts: BTreeMap::new(),
        }
    }

    fn get(&mut self, key: u64) -> Option<Arc<[u8]>> {
        self.clock += 1;
        let (used, part) = self.parts.get_mut(&key)?;
        *used = self.clock;
        Some(Arc::clone(part))
    }

    fn put(&mut self, key: u64, part: Arc<[u8]>) {
        while self.parts.len() >= self.limit {
            let oldest = self.parts.iter().min_by_key(|(_, (used, _))| *used);
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                break;
            };
            self.parts.remove(&oldest);
        }
        self.clock += 1;
        self.parts.insert(key, (self.clock, part));
    }
}

fn lock(cache: &Mutex<Cache>) -> MutexGuard<'_, Cache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The fields of a header, by their offset in it.
struct Header([u8; 112]);

impl Header {
    fn u32(&self, at: usize) -> u32 {
        self.0[at..]
            .first_chunk()
            .map_or(0, |b| u32::from_be_bytes(*b))
    }
    fn u64(&self, at: usize) -> u64 {
        self.0[at..]
            .first_chunk()
            .map_or(0, |b| u64::from_be_bytes(*b))
    }
}

impl Qcow2 {
    pub(super) fn open(file: RawFile) -> Result<Self, DiskError> {
        let path = file.path().to_owned();
        let damaged = |reason: String| DiskError::Damaged {
            path: path.clone(),
            format: "qcow2",
            reason,
        };
        let unsupported = |what: String| DiskError::Unsupported {
            path: path.clone(),
            what,
        };
        let mut header = Header([0; 112]);
        let present = file.len().min(header.0.len() as u64) as usize;
        let (head, _) = header.0.split_at_mut(present);
        file.read_exact_at(0, head).map_err(|error| DiskError::Io {
            path: path.clone(),
            error,
        })?;
        if present < 72 || !header.0.starts_with(&MAGIC) {
            return Err(damaged("it has no header".into()));
        }

        let version = header.u32(4);
        if !(2..=3).contains(&version) {
            return Err(unsupported(format!("a qcow2 of version {version}")));
        }
        if header.u64(8) != 0 {
            return Err(unsupported(
                "a qcow2 with a backing file, which is not followed; \
                 make it whole with qemu-img convert"
                    .into(),
            ));
        }
        if header.u32(32) != 0 {
            return Err(unsupported("an encrypted qcow2".into()));
        }
        let mut method = Method::Zlib;
        if version == 3 {
            if present < 104 || header.u32(100) < 104 {
                return Err(damaged("its header is too short".into()));
            }
            let features = header.u64(72);
            let features_read = 1 | 1 << 1 | 1 << 3;
            if features & (1 << 2) != 0 {
                return Err(unsupported(
                    "a qcow2 with an external data file, which is not followed; \
                     make it whole with qemu-img convert"
                        .into(),
                ));
            }
            if features & (1 << 1) != 0 {
                return Err(damaged("it is marked as corrupt".into()));
            }
            if features & !features_read != 0 {
                return Err(unsupported(format!(
                    "a qcow2 with incompatible features {:#x}; \
                     make a plain one with qemu-img convert",
                    features & !features_read
                )));
            }
            if features & (1 << 3) != 0 {
                method = match header.0[104] {
                    0 => Method::Zlib,
                    1 => Method::Zstd,
                    n => return Err(unsupported(format!("a qcow2 with compression type {n}"))),
                };
            }
        }

        let cluster_bits = header.u32(20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(damaged(format!("clusters of 2^{cluster_bits} bytes")));
        }
        let size = header.u64(24);
        // One L2 table covers a cluster of 8-byte entries, 2^39 bytes at most.
        let covered = 1u64 << (cluster_bits - 3 + cluster_bits);
        let l1_bytes = u64::from(header.u32(36)) * 8;
        if l1_bytes > MAX_L1 {
            return Err(damaged(format!("an L1 table of {l1_bytes} bytes")));
        }
        if size.div_ceil(covered) * 8 > l1_bytes {
            return Err(damaged(format!(
                "an L1 table of {l1_bytes} bytes is too small for a disk of {size}"
            )));
        }
        let l1_offset = header.u64(40);
        if l1_bytes > 0
            && l1_offset
                .checked_add(l1_bytes)
                .is_none_or(|end| end > file.len())
        {
            return Err(damaged(format!(
                "the L1 table at {l1_offset} reaches past the end of the file"
            )));
        }
        let cached = CACHE >> cluster_bits;
        Ok(Self {
            file,
            size,
            version,
            cluster_bits,
            l1_offset,
            method,
            l2_tables: Mutex::new(Cache::new(cached)),
            expanded: Mutex::new(Cache::new(cached.min(16))),
        })
    }

    pub(super) fn file(&self) -> &RawFile {
        &self.file
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// log2 of how many clusters an L2 table describes.
    fn l2_bits(&self) -> u32 {
        self.cluster_bits - 3
    }

    fn damaged(&self, reason: &str, at: u64) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{}: damaged qcow2: {reason}, for byte {at} of the disk",
                self.file.path().display()
            ),
        )
    }

    /// The L2 table for the cluster numbered `cluster`, if there is one.
    fn l2_table(&self, cluster: u64) -> io::Result<Option<Arc<[u8]>>> {
        let index = cluster >> self.l2_bits();
        let mut entry = [0; 8];
        self.file
            .read_exact_at(self.l1_offset + index * 8, &mut entry)?;
        let offset = u64::from_be_bytes(entry) & OFFSET;
        if offset == 0 {
            return Ok(None);
        }
        if let Some(table) = lock(&self.l2_tables).get(offset) {
            return Ok(Some(table));
        }
        if !offset.is_multiple_of(self.cluster()) || offset + self.cluster() > self.file.len() {
            let at = cluster << self.cluster_bits;
            return Err(self.damaged(&format!("there is no L2 table at {offset}"), at));
        }
        let mut table = vec![0; self.cluster() as usize];
        self.file.read_exact_at(offset, &mut table)?;
        let table: Arc<[u8]> = table.into();
        lock(&self.l2_tables).put(offset, Arc::clone(&table));
        Ok(Some(table))
    }

    fn place(&self, cluster: u64) -> io::Result<Place> {
        let Some(table) = self.l2_table(cluster)? else {
            return Ok(Place::Zeros);
        };
        self.place_in(&table, cluster)
    }

    /// Where the cluster is that `table` describes.
    fn place_in(&self, table: &[u8], cluster: u64) -> io::Result<Place> {
        let index = (cluster & ((1 << self.l2_bits()) - 1)) as usize;
        let entry = table
            .get(index * 8..)
            .and_then(|e| e.first_chunk())
            .map_or(0, |e| u64::from_be_bytes(*e));
        let at = cluster << self.cluster_bits;
        if entry & COMPRESSED != 0 {
            // "Compressed Clusters Descriptor": x bits of offset, and how
            // many further sectors the data may reach into.
            let offset_bits = 62 - (self.cluster_bits - 8);
            let offset = entry & ((1 << offset_bits) - 1);
            let sectors = (entry & (COMPRESSED - 1)) >> offset_bits;
            let end = ((offset & !511) + (sectors + 1) * 512).min(self.file.len());
            if offset >= end {
                return Err(self.damaged(&format!("no compressed data at {offset}"), at));
            }
            return Ok(Place::Compressed(offset, end - offset));
        }
        let offset = entry & OFFSET;
        if (self.version == 3 && entry & ZERO != 0) || offset == 0 {
            return Ok(Place::Zeros);
        }
        if !offset.is_multiple_of(self.cluster()) || offset >= self.file.len() {
            return Err(self.damaged(&format!("there is no cluster at {offset}"), at));
        }
        Ok(Place::Plain(offset))
    }

    /// The first cluster from `cluster` on that holds data, or does not, as
    /// against `data`; or how many clusters there are.
    fn skip(&self, mut cluster: u64, data: bool) -> io::Result<u64> {
        let clusters = self.size.div_ceil(self.cluster());
        while cluster < clusters {
            let end = (((cluster >> self.l2_bits()) + 1) << self.l2_bits()).min(clusters);
            match self.l2_table(cluster)? {
                None if data => return Ok(cluster),
                None => cluster = end,
                Some(table) => {
                    while cluster < end {
                        if (self.place_in(&table, cluster)? != Place::Zeros) != data {
                            return Ok(cluster);
                        }
                        cluster += 1;
                    }
                }
            }
        }
        Ok(clusters)
    }

    /// The whole cluster whose compressed data is at `offset`.
    fn expand(&self, offset: u64, len: u64, at: u64) -> io::Result<Arc<[u8]>> {
        if let Some(bytes) = lock(&self.expanded).get(offset) {
            return Ok(bytes);
        }
        // At most one cluster and a sector more, see `place_in`.
        let mut data = vec![0; len as usize];
        self.file.read_exact_at(offset, &mut data)?;
        let mut bytes = vec![0; self.cluster() as usize];
        let whole = match self.method {
            Method::Zlib => inflate(&data, &mut bytes),
            Method::Zstd => unzstd(&data, &mut bytes),
        };
        if !whole {
            let reason = format!("the compressed data at {offset} is no cluster");
            return Err(self.damaged(&reason, at));
        }
        let bytes: Arc<[u8]> = bytes.into();
        lock(&self.expanded).put(offset, Arc::clone(&bytes));
        Ok(bytes)
    }

    /// Reads a part of one cluster.
    fn read_part(&self, at: u64, part: &mut [u8]) -> io::Result<()> {
        let within = at & (self.cluster() - 1);
        match self.place(at >> self.cluster_bits)? {
            Place::Zeros => part.fill(0),
            Place::Plain(offset) => {
                // QEMU lets a file end inside its last cluster.
                let start = offset + within;
                let there = self.file.len().saturating_sub(start).min(part.len() as u64);
                let (there, past) = part.split_at_mut(there as usize);
                if !there.is_empty() {
                    self.file.read_exact_at(start, there)?;
                }
                past.fill(0);
            }
            Place::Compressed(offset, len) => {
                let bytes = self.expand(offset, len, at)?;
                let from = bytes.get(within as usize..).unwrap_or_default();
                for (to, from) in part.iter_mut().zip(from) {
                    *to = *from;
                }
            }
        }
        Ok(())
    }
}

/// Whether `data` inflates to all of `bytes`; what follows is padding.
fn inflate(data: &[u8], bytes: &mut [u8]) -> bool {
    let mut inflater = Decompress::new(false);
    let status = inflater.decompress(data, bytes, FlushDecompress::Finish);
    matches!(
        status,
        Ok(Status::StreamEnd | Status::Ok | Status::BufError)
    ) && inflater.total_out() == bytes.len() as u64
}

/// The same for zstd.
fn unzstd(data: &[u8], bytes: &mut [u8]) -> bool {
    let Ok(decoder) = zstd::stream::read::Decoder::with_buffer(data) else {
        return false;
    };
    let mut decoder = decoder.single_frame();
    decoder.window_log_max(MAX_ZSTD_WINDOW).is_ok() && decoder.read_exact(bytes).is_ok()
}

impl ReadAt for Qcow2 {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        checked_range(offset, buf.len(), self.size)?;
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let left = self.cluster() - (at & (self.cluster() - 1));
            let len = left.min(rest.len() as u64);
            let (part, tail) = rest.split_at_mut(len as usize);
            self.read_part(at, part)?;
            at += len;
            rest = tail;
        }
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let start = self.skip(from >> self.cluster_bits, false)?;
        let end = self.skip(start, true)?;
        let run = (start << self.cluster_bits).max(from)..(end << self.cluster_bits).min(self.size);
        Ok((run.start < run.end).then_some(run))
    }

    fn next_run(&self, range: Range<u64>) -> io::Result<Run> {
        let within = range.start & (self.cluster() - 1);
        let first = range.start >> self.cluster_bits;
        let place = self.place(first)?;
        let end = range.end.min(range.start.saturating_add(MAX_RUN));
        let mut next = first + 1;
        match place {
            Place::Plain(offset) => {
                while next << self.cluster_bits < end
                    && self.place(next)?
                        == Place::Plain(offset + ((next - first) << self.cluster_bits))
                {
                    next += 1;
                }
                let end = end.min(next << self.cluster_bits);
                let offset = offset + within;
                let len = (end - range.start).min(self.file.len().saturating_sub(offset));
                if len > 0 {
                    return Ok(self.file.run(offset, len));
                }
            }
            Place::Zeros | Place::Compressed(..) => {
                while next << self.cluster_bits < end
                    && !matches!(self.place(next)?, Place::Plain(_))
                {
                    next += 1;
                }
            }
        }
        Ok(Run::Read(end.min(next << self.cluster_bits) - range.start))
    }
}
