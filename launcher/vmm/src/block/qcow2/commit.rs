//! Taking what changed in memory to the file, in steps of which each leaves
//! it whole: no table ever leads to what is not there, and no cluster that
//! something leads to is ever counted as free. A crash between them leaves
//! clusters that are counted and not used, no worse.

use std::io;

use super::entry::to_bytes;
use super::header::REFTABLE_FIELD;
use super::{Qcow2Disk, State};
use crate::block::HostFile;

/// Bytes, and where they go.
type Writes = Vec<(u64, Vec<u8>)>;

/// What has to be written, step by step.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Refcounts, and what nothing leads to yet.
    first: Writes,
    /// What leads to new refcounts.
    second: Writes,
    /// What leads to new tables and to the guest's data.
    third: Writes,
    /// References that are in the file no more when all is done.
    gone: Vec<u64>,
}

impl Change {
    fn is_empty(&self) -> bool {
        self.first.is_empty()
            && self.second.is_empty()
            && self.third.is_empty()
            && self.gone.is_empty()
    }
}

/// Writes `writes`; returns whether there were any.
fn write(file: &HostFile, writes: &Writes) -> io::Result<bool> {
    for (offset, bytes) in writes {
        file.write_all_at(*offset, bytes)?;
    }
    Ok(!writes.is_empty())
}

impl State {
    /// Collects all that changed, and counts it as being written.
    fn begin(&mut self, l1_offset: u64) -> Change {
        let mut change = Change {
            gone: std::mem::take(&mut self.refcounts.released),
            ..Change::default()
        };
        let refcounts = &mut self.refcounts;
        let offsets: Vec<(u64, Option<u64>)> = (refcounts.blocks.iter())
            .filter(|(_, block)| block.dirty)
            .map(|(index, _)| (*index, refcounts.block_offset(*index)))
            .collect();
        for (index, offset) in offsets {
            if let (Some(block), Some(offset)) = (refcounts.blocks.get_mut(&index), offset) {
                change.first.push((offset, block.bytes.clone()));
                block.dirty = false;
                block.writing = true;
            }
        }
        let entries = std::mem::take(&mut refcounts.table_dirty);
        if std::mem::take(&mut refcounts.table_moved) {
            // The one place that leads to it is the header.
            let bytes = to_bytes(&refcounts.table);
            change.first.push((refcounts.table_offset, bytes));
            let mut field = refcounts.table_offset.to_be_bytes().to_vec();
            field.extend((refcounts.table_clusters as u32).to_be_bytes());
            change.second.push((REFTABLE_FIELD, field));
        } else {
            for index in entries {
                if let Some(entry) = refcounts.table.get(index as usize) {
                    let at = refcounts.table_offset + index * 8;
                    change.second.push((at, entry.to_be_bytes().to_vec()));
                }
            }
        }
        let tables = &mut self.tables;
        for table in tables.l2.values_mut() {
            let dirty = table.dirty.take();
            if table.fresh {
                change.first.push((table.offset, to_bytes(&table.entries)));
            } else if let Some(dirty) = dirty {
                let at = table.offset + dirty.start as u64 * 8;
                let entries = table.entries.get(dirty).unwrap_or_default();
                change.third.push((at, to_bytes(entries)));
            } else {
                continue;
            }
            table.writing = true;
        }
        for index in std::mem::take(&mut tables.l1_dirty) {
            if let Some(entry) = tables.l1.get(index) {
                let at = l1_offset + index as u64 * 8;
                change.third.push((at, entry.to_be_bytes().to_vec()));
            }
        }
        change
    }

    /// Takes note that all is written.
    fn end(&mut self, file: &HostFile, gone: &[u64]) -> io::Result<()> {
        for block in self.refcounts.blocks.values_mut() {
            block.writing = false;
        }
        for table in self.tables.l2.values_mut() {
            if std::mem::take(&mut table.writing) {
                table.fresh = false;
            }
        }
        self.tables.make_room();
        self.refcounts.drop_released(file, gone)
    }
}

impl Qcow2Disk {
    /// Makes the file what memory is. Returns when all is on stable storage.
    pub(super) fn commit(&self) -> io::Result<()> {
        let _one = self.one_commit();
        self.check_alive()?;
        let result = self.try_commit();
        result.inspect_err(|_| self.give_up())
    }

    fn try_commit(&self) -> io::Result<()> {
        let file = &*self.file;
        let change = self.state().begin(self.header.l1_offset);
        if change.is_empty() {
            return file.sync();
        }
        write(file, &change.first)?;
        // With it the guest's data, before something leads to it.
        file.sync()?;
        if write(file, &change.second)? {
            file.sync()?;
        }
        if write(file, &change.third)? {
            file.sync()?;
        }
        self.state().end(file, &change.gone)
    }
}
