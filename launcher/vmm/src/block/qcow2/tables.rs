//! The L1 table, and the L2 tables that are in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;

use super::entry::{COPIED, Nonsense, Place, from_bytes, table_offset};
use super::header::Header;
use super::refcounts::Refcounts;
use crate::block::HostFile;

/// Bytes of L2 tables that are kept beyond those that changed.
const CACHE: usize = 16 << 20;

/// An L2 table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) entries: Vec<u64>,
    /// Where it is in the file.
    pub(super) offset: u64,
    /// Entries that are not in the file.
    pub(super) dirty: Option<Range<usize>>,
    /// Nothing in the file leads to it yet.
    pub(super) fresh: bool,
    /// A commit is writing it.
    pub(super) writing: bool,
    used: u64,
}

impl Table {
    /// Whether the file has all that is in it.
    fn is_clean(&self) -> bool {
        self.dirty.is_none() && !self.fresh && !self.writing
    }

    /// Changes an entry.
    pub(super) fn set(&mut self, index: usize, entry: u64) {
        if let Some(place) = self.entries.get_mut(index) {
            *place = entry;
            let dirty = self.dirty.take().unwrap_or(index..index + 1);
            self.dirty = Some(dirty.start.min(index)..dirty.end.max(index + 1));
        }
    }
}

/// Both levels.
#[derive(Debug)]
pub(super) struct Tables {
    version: u32,
    cluster_bits: u32,
    pub(super) l1: Vec<u64>,
    pub(super) l1_dirty: BTreeSet<usize>,
    /// By their index in the L1 table.
    pub(super) l2: BTreeMap<usize, Table>,
    clock: u64,
}

impl Tables {
    pub(super) fn load(file: &HostFile, header: &Header) -> io::Result<Self> {
        // As long as the header's check allows, and as the disk needs.
        let mut bytes = vec![0; header.l1_entries as usize * 8];
        file.read_exact_at(header.l1_offset, &mut bytes)?;
        Ok(Self {
            version: header.version,
            cluster_bits: header.cluster_bits,
            l1: from_bytes(&bytes),
            l1_dirty: BTreeSet::new(),
            l2: BTreeMap::new(),
            clock: 0,
        })
    }

    /// log2 of how many clusters an L2 table describes.
    pub(super) fn l2_bits(&self) -> u32 {
        self.cluster_bits - 3
    }

    /// Index in the L1 table, and in the L2 table, of a cluster of the disk.
    pub(super) fn split(&self, cluster: u64) -> (usize, usize) {
        let bits = self.l2_bits();
        (
            (cluster >> bits) as usize,
            (cluster & ((1 << bits) - 1)) as usize,
        )
    }

    fn damaged(&self, file: &HostFile, what: &str, entry: Nonsense) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{}: damaged qcow2: {what} entry {:#x}",
                file.path().display(),
                entry.0
            ),
        )
    }

    /// The L2 table numbered `index`, if there is one.
    pub(super) fn table(
        &mut self,
        file: &HostFile,
        index: usize,
    ) -> io::Result<Option<&mut Table>> {
        self.clock += 1;
        let clock = self.clock;
        if !self.l2.contains_key(&index) {
            let entry = self.l1.get(index).copied().unwrap_or(0);
            let offset =
                table_offset(entry, self.cluster_bits).map_err(|e| self.damaged(file, "L1", e))?;
            let Some(offset) = offset else {
                return Ok(None);
            };
            let mut bytes = vec![0; 1 << self.cluster_bits];
            file.read_exact_at(offset, &mut bytes)?;
            self.insert(index, from_bytes(&bytes), offset, false);
        }
        let mut table = self.l2.get_mut(&index);
        if let Some(table) = &mut table {
            table.used = clock;
        }
        Ok(table)
    }

    /// Lets go of the quarter of the tables that was not used for longest, if
    /// there are too many.
    pub(super) fn make_room(&mut self) {
        let limit = (CACHE >> self.cluster_bits).max(4);
        if self.l2.len() < limit {
            return;
        }
        let clean = self.l2.iter().filter(|(_, table)| table.is_clean());
        let mut clean: Vec<(u64, usize)> =
            clean.map(|(index, table)| (table.used, *index)).collect();
        clean.sort_unstable();
        for (_, index) in clean
            .iter()
            .take(limit.div_ceil(4).max(self.l2.len() - limit))
        {
            self.l2.remove(index);
        }
    }

    fn insert(&mut self, index: usize, entries: Vec<u64>, offset: u64, fresh: bool) {
        self.make_room();
        let table = Table {
            entries,
            offset,
            dirty: None,
            fresh,
            writing: false,
            used: self.clock,
        };
        self.l2.insert(index, table);
    }

    /// Whether so much has changed that it should be written.
    pub(super) fn overfull(&self) -> bool {
        let limit = ((2 * CACHE) >> self.cluster_bits).max(8);
        self.l2.len() >= limit
    }

    /// The same, to be changed: made if there is none, copied if it is shared
    /// with a snapshot.
    pub(super) fn table_mut(
        &mut self,
        file: &HostFile,
        refcounts: &mut Refcounts,
        index: usize,
    ) -> io::Result<&mut Table> {
        let entry = self.l1.get(index).copied().unwrap_or(0);
        let old = self.table(file, index)?;
        let replaced = match old {
            Some(_) if entry & COPIED != 0 => None,
            Some(table) => Some((table.entries.clone(), Some(table.offset))),
            None => Some((vec![0; 1 << (self.cluster_bits - 3)], None)),
        };
        if let Some((entries, shared)) = replaced {
            let (cluster, _) = refcounts.allocate(file, 1)?;
            let offset = cluster << self.cluster_bits;
            let place = self.l1.get_mut(index);
            *place.ok_or(io::ErrorKind::InvalidInput)? = offset | COPIED;
            self.l1_dirty.insert(index);
            self.l2.remove(&index);
            self.insert(index, entries, offset, true);
            let shared = shared.map(|offset| offset >> self.cluster_bits);
            refcounts.released.extend(shared);
        }
        let table = self.l2.get_mut(&index);
        table.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Where a cluster of the disk is.
    pub(super) fn place(&mut self, file: &HostFile, cluster: u64) -> io::Result<Place> {
        let (index, within) = self.split(cluster);
        let (version, bits) = (self.version, self.cluster_bits);
        let Some(table) = self.table(file, index)? else {
            return Ok(Place::Unallocated);
        };
        let entry = table.entries.get(within).copied().unwrap_or(0);
        Place::decode(entry, version, bits).map_err(|e| self.damaged(file, "L2", e))
    }

    /// Changes the entry of a cluster of the disk.
    pub(super) fn set(
        &mut self,
        file: &HostFile,
        refcounts: &mut Refcounts,
        cluster: u64,
        entry: u64,
    ) -> io::Result<()> {
        let (index, within) = self.split(cluster);
        self.table_mut(file, refcounts, index)?.set(within, entry);
        Ok(())
    }
}
