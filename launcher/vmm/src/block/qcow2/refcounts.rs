//! Which clusters of the file are in use ("Host cluster management").
//!
//! Asked for clusters, [`Refcounts`] finds free ones and counts them in
//! memory; a commit takes what changed to the file. What is released stays out
//! of use until the file is opened again, so that no transfer that is under
//! way can hit what was put in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::entry::{from_bytes, table_offset};
use super::header::{Header, MAX_REFTABLE, damaged};
use crate::block::{HostFile, OpenError};

/// Bytes of refcount blocks that are kept beyond those that changed.
const CACHE: usize = 4 << 20;

/// The refcount numbered `index` of a block.
pub(super) fn get(block: &[u8], order: u32, index: usize) -> u64 {
    if order < 3 {
        let bits = index << order;
        let byte = block.get(bits / 8).copied().unwrap_or(0);
        return u64::from(byte >> (bits % 8)) & ((1 << (1 << order)) - 1);
    }
    let bytes = 1 << (order - 3);
    let at = index * bytes;
    let field = block.get(at..at + bytes).unwrap_or_default();
    field.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// Sets the refcount numbered `index` of a block.
pub(super) fn set(block: &mut [u8], order: u32, index: usize, value: u64) {
    if order < 3 {
        let bits = index << order;
        let mask = ((1u16 << (1 << order)) - 1) as u8;
        if let Some(byte) = block.get_mut(bits / 8) {
            let shift = bits % 8;
            *byte = *byte & !(mask << shift) | (value as u8 & mask) << shift;
        }
        return;
    }
    let bytes = 1 << (order - 3);
    let at = index * bytes;
    let value = value.to_be_bytes();
    let value = value.get(8 - bytes..).unwrap_or_default();
    if let Some(field) = block.get_mut(at..at + bytes) {
        field.copy_from_slice(value);
    }
}

/// A refcount block.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    pub(super) dirty: bool,
    /// A commit is writing it.
    pub(super) writing: bool,
    used: u64,
}

/// The refcounts of a file.
#[derive(Debug)]
pub(super) struct Refcounts {
    order: u32,
    cluster_bits: u32,
    /// The refcount table, as it is in memory.
    pub(super) table: Vec<u64>,
    pub(super) table_offset: u64,
    pub(super) table_clusters: u64,
    /// Entries of the table that are not in the file.
    pub(super) table_dirty: BTreeSet<u64>,
    /// The table has another place than the header says.
    pub(super) table_moved: bool,
    pub(super) blocks: BTreeMap<u64, Block>,
    clock: u64,
    /// All clusters before this one are in use, or were.
    cursor: u64,
    /// Where the clusters end that were counted here: those of tables are in
    /// the file only after a commit.
    reached: u64,
    /// What became free behind the cursor.
    retired: BTreeSet<u64>,
    /// References that are gone from memory, but not from the file.
    pub(super) released: Vec<u64>,
}

impl Refcounts {
    /// Those of a file that is not written: nobody asks for them.
    pub(super) fn none(header: &Header) -> Self {
        Self {
            order: header.refcount_order,
            cluster_bits: header.cluster_bits,
            table: Vec::new(),
            table_offset: header.reftable_offset,
            table_clusters: header.reftable_clusters.into(),
            table_dirty: BTreeSet::new(),
            table_moved: false,
            blocks: BTreeMap::new(),
            clock: 0,
            cursor: 0,
            reached: 0,
            retired: BTreeSet::new(),
            released: Vec::new(),
        }
    }

    /// Reads the table of `file`, and checks that what may never be
    /// overwritten is in use.
    pub(super) fn load(file: &HostFile, header: &Header) -> Result<Self, OpenError> {
        let io = |error| OpenError::Io {
            path: file.path().into(),
            error,
        };
        let len = (header.reftable_clusters as usize) << header.cluster_bits;
        let mut bytes = vec![0; len];
        file.read_sparse_at(header.reftable_offset, &mut bytes)
            .map_err(io)?;
        let mut refcounts = Self::none(header);
        refcounts.table = from_bytes(&bytes);
        let cluster = 1u64 << header.cluster_bits;
        let clusters = |offset: u64, len: u64| {
            let first = offset >> header.cluster_bits;
            first..first + len.div_ceil(cluster)
        };
        let never = [
            ("header", clusters(0, cluster)),
            (
                "L1 table",
                clusters(header.l1_offset, header.l1_entries * 8),
            ),
            (
                "refcount table",
                clusters(header.reftable_offset, len as u64),
            ),
        ];
        for (what, range) in never {
            for cluster in range {
                if refcounts.count(file, cluster).map_err(io)? == 0 {
                    let reason = format!(
                        "its refcounts say that its {what} is free space; \
                         qemu-img check -r all may help"
                    );
                    return Err(damaged(file.path(), reason));
                }
            }
        }
        Ok(refcounts)
    }

    /// log2 of how many clusters a block describes.
    fn block_bits(&self) -> u32 {
        self.cluster_bits + 3 - self.order
    }

    fn max(&self) -> u64 {
        u64::MAX >> (64 - (1u32 << self.order))
    }

    fn invalid(&self, file: &HostFile, what: String) -> io::Error {
        let what = format!("{}: damaged qcow2: {what}", file.path().display());
        io::Error::new(io::ErrorKind::InvalidData, what)
    }

    /// The block numbered `index`, if there is one.
    fn block(&mut self, file: &HostFile, index: u64) -> io::Result<Option<&mut Block>> {
        self.clock += 1;
        let clock = self.clock;
        if !self.blocks.contains_key(&index) {
            let entry = self.table.get(index as usize).copied().unwrap_or(0);
            let offset = table_offset(entry, self.cluster_bits)
                .map_err(|e| self.invalid(file, format!("refcount table entry {:#x}", e.0)))?;
            let Some(offset) = offset else {
                return Ok(None);
            };
            let mut bytes = vec![0; 1 << self.cluster_bits];
            file.read_exact_at(offset, &mut bytes)?;
            self.make_room();
            let block = Block {
                bytes,
                dirty: false,
                writing: false,
                used: clock,
            };
            self.blocks.insert(index, block);
        }
        let mut block = self.blocks.get_mut(&index);
        if let Some(block) = &mut block {
            block.used = clock;
        }
        Ok(block)
    }

    fn make_room(&mut self) {
        let limit = (CACHE >> self.cluster_bits).max(4);
        if self.blocks.len() < limit {
            return;
        }
        let clean = self.blocks.iter().filter(|(_, b)| !b.dirty && !b.writing);
        let mut clean: Vec<(u64, u64)> = clean.map(|(index, b)| (b.used, *index)).collect();
        clean.sort_unstable();
        for (_, index) in clean.iter().take(limit.div_ceil(4)) {
            self.blocks.remove(index);
        }
    }

    /// The refcount of a cluster.
    pub(super) fn count(&mut self, file: &HostFile, cluster: u64) -> io::Result<u64> {
        let (bits, order) = (self.block_bits(), self.order);
        let within = (cluster & ((1 << bits) - 1)) as usize;
        let block = self.block(file, cluster >> bits)?;
        Ok(block.map_or(0, |block| get(&block.bytes, order, within)))
    }

    /// Sets the refcount of a cluster whose block is there.
    fn put(&mut self, file: &HostFile, cluster: u64, count: u64) -> io::Result<()> {
        let (bits, order) = (self.block_bits(), self.order);
        let within = (cluster & ((1 << bits) - 1)) as usize;
        if let Some(block) = self.block(file, cluster >> bits)? {
            set(&mut block.bytes, order, within, count);
            block.dirty = true;
        }
        Ok(())
    }

    /// Finds between 1 and `want` free clusters in a row and counts them as
    /// used once; returns the first and how many.
    pub(super) fn allocate(&mut self, file: &HostFile, want: u64) -> io::Result<(u64, u64)> {
        loop {
            let index = self.cursor >> self.block_bits();
            if self.block(file, index)?.is_none() {
                self.new_blocks(file, index)?;
                continue;
            }
            let end = (index + 1) << self.block_bits();
            let mut first = self.cursor;
            // Space past the end of the file is free, so that the search is
            // no longer than the file, whatever the table says.
            let past = (file.len()?.div_ceil(1 << self.cluster_bits)).max(self.reached);
            if first > past && first.is_multiple_of(1 << self.block_bits()) {
                let what = "clusters past the end of the file are in use".into();
                return Err(self.invalid(file, what));
            }
            while first < end && !self.is_free(file, first)? {
                first += 1;
            }
            self.cursor = first;
            let mut count = 0;
            while first + count < end && count < want && self.is_free(file, first + count)? {
                self.put(file, first + count, 1)?;
                count += 1;
            }
            self.cursor += count;
            if count > 0 {
                self.reached = self.reached.max(self.cursor);
                return Ok((first, count));
            }
        }
    }

    fn is_free(&mut self, file: &HostFile, cluster: u64) -> io::Result<bool> {
        Ok(self.count(file, cluster)? == 0 && !self.retired.contains(&cluster))
    }

    /// Makes the block numbered `index`, in the first of the clusters that it
    /// describes: all of them are free. If the table is full, a longer one
    /// comes after it.
    fn new_blocks(&mut self, file: &HostFile, index: u64) -> io::Result<()> {
        let (bits, cluster) = (self.block_bits(), 1u64 << self.cluster_bits);
        let first = index << bits;
        let room = self.table.len() as u64;
        let (mut blocks, mut table) = (1, 0);
        if index >= room {
            // Blocks that count the table and themselves, and a table that
            // leads to them; each makes the other longer.
            loop {
                let entries = (index + blocks) * 3 / 2 + 1;
                table = (entries * 8).div_ceil(cluster);
                let needed = (table + blocks).div_ceil(1 << bits);
                if needed <= blocks {
                    break;
                }
                blocks = needed;
            }
            if table << self.cluster_bits > MAX_REFTABLE {
                return Err(file.naming(io::ErrorKind::StorageFull.into()));
            }
        }
        if (first + blocks + table) << self.cluster_bits > i64::MAX as u64 {
            return Err(file.naming(io::ErrorKind::StorageFull.into()));
        }
        if table > 0 {
            let old = self.table_offset >> self.cluster_bits;
            self.released.extend(old..old + self.table_clusters);
            self.table_offset = (first + blocks) << self.cluster_bits;
            self.table_clusters = table;
            let entries = (table << self.cluster_bits) / 8;
            self.table.resize(entries as usize, 0);
            self.table_moved = true;
        }
        for block in 0..blocks {
            self.make_room();
            let entry = self.table.get_mut((index + block) as usize);
            let entry = entry.ok_or(io::ErrorKind::StorageFull)?;
            *entry = (first + block) << self.cluster_bits;
            self.table_dirty.insert(index + block);
            let new = Block {
                bytes: vec![0; cluster as usize],
                dirty: true,
                writing: false,
                used: self.clock,
            };
            self.blocks.insert(index + block, new);
        }
        for cluster in first..first + blocks + table {
            self.put(file, cluster, 1)?;
        }
        self.reached = self.reached.max(first + blocks + table);
        Ok(())
    }

    /// Takes back references that are not in the file any more.
    pub(super) fn drop_released(&mut self, file: &HostFile, gone: &[u64]) -> io::Result<()> {
        for &cluster in gone {
            // Counts at their maximum stay: nobody knows how many there are.
            let count = self.count(file, cluster)?;
            if count == 0 || (count == self.max() && self.order > 0) {
                continue;
            }
            self.put(file, cluster, count - 1)?;
            if count == 1 && cluster >= self.cursor {
                self.retired.insert(cluster);
            }
        }
        Ok(())
    }

    /// The file offset of a block that is in memory.
    pub(super) fn block_offset(&self, index: u64) -> Option<u64> {
        let entry = self.table.get(index as usize).copied()?;
        table_offset(entry, self.cluster_bits).ok().flatten()
    }
}
