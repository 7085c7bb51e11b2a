//! What a disk boots. The first byte says what the rest is: a disk, or an
//! EFI system partition whose GPT is in order. Zeros follow it.
#![no_main]

use std::io;
use std::sync::Arc;

use bootwright_disk::ReadAt;
use bootwright_disk::gpt::{self, NewPartition, types};
use bootwright_disk::{Extent, PlanBuilder, PlanReader};
use bootwright_rootfs::boot::Architecture;
use bootwright_rootfs::boot::discover::discover;
use libfuzzer_sys::fuzz_target;

/// The input, and zeros up to this many bytes.
const LEN: u64 = 8 << 20;

#[derive(Debug)]
struct Padded(Vec<u8>);

impl ReadAt for Padded {
    fn size(&self) -> u64 {
        LEN
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if offset
            .checked_add(buf.len() as u64)
            .is_none_or(|end| end > LEN)
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let known = self.0.get(offset as usize..).unwrap_or_default();
        let n = known.len().min(buf.len());
        buf[..n].copy_from_slice(&known[..n]);
        buf[n..].fill(0);
        Ok(())
    }
}

fn in_gpt(bytes: &[u8]) -> Option<Arc<dyn ReadAt>> {
    let esp = NewPartition {
        type_guid: types::ESP,
        guid: types::ESP,
        name: String::new(),
        len: LEN,
        attributes: 0,
    };
    let options = gpt::Options {
        disk_guid: types::ESP,
        disk_size: None,
        alignment: gpt::ALIGNMENT,
    };
    let layout = gpt::layout(&[esp], &options).ok()?;
    let mut plan = PlanBuilder::new(Vec::new());
    layout.extents.into_iter().for_each(|e| plan.put(e));
    let start = layout.table.partitions.first()?.start;
    plan.put(Extent::literal(start, bytes.to_vec()));
    Some(Arc::new(PlanReader::new(
        plan.finish(layout.disk_size).ok()?,
    )))
}

fuzz_target!(|input: &[u8]| {
    let Some((&flags, bytes)) = input.split_first() else {
        return;
    };
    if bytes.is_empty() || bytes.len() as u64 > LEN {
        return;
    }
    let disk = match flags & 1 {
        0 => Arc::new(Padded(bytes.to_vec())) as Arc<dyn ReadAt>,
        _ => match in_gpt(bytes) {
            Some(disk) => disk,
            None => return,
        },
    };
    if let Ok(mut found) = discover(disk, Architecture::X86_64) {
        assert!(found.default_entry().is_some());
        for entry in found.entries.clone().iter().take(3) {
            let _ = found.load(entry);
        }
    }
});
