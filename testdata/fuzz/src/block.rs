//! Doing to a disk what a guest does, beside a model of it.

use bootwright_vmm::block::{Backend, SECTOR, read_at, write_at};
use libfuzzer_sys::arbitrary::{Result, Unstructured};

/// Does one thing to `disk`; with a `model` all must succeed and be as it
/// says, else errors are as good.
pub fn touch(u: &mut Unstructured, disk: &dyn Backend, mut model: Option<&mut [u8]>) -> Result<()> {
    let sectors = disk.size() / SECTOR;
    let start = if u.ratio(1, 4)? {
        // Near a border of something.
        let border = 1u64 << u.int_in_range(9..=17)?;
        (u.int_in_range(0..=64u64)? * border / SECTOR).min(sectors - 1)
    } else {
        u.int_in_range(0..=sectors.min(1 << 12) - 1)?
    };
    let count = u.int_in_range(1..=200u64)?.min(sectors - start);
    let range = start * SECTOR..(start + count) * SECTOR;
    let bytes = range.start as usize..range.end as usize;
    let result = match u.int_in_range(0..=9u8)? {
        0..=3 => {
            let seed: u8 = u.arbitrary()?;
            let new: Vec<u8> = (0..bytes.len())
                .map(|i| seed.wrapping_add((i / 512) as u8))
                .collect();
            if let Some(model) = &mut model {
                model[bytes].copy_from_slice(&new);
            }
            write_at(disk, range.start, &new)
        }
        4 => {
            if let Some(model) = &mut model {
                model[bytes].fill(0);
            }
            disk.write_zeroes(range, u.arbitrary()?)
        }
        5 => {
            let result = disk.discard(range.clone());
            if let (Some(model), Ok(())) = (&mut model, &result) {
                // Zeros, or what was there.
                let mut now = vec![0; bytes.len()];
                read_at(disk, range.start, &mut now).expect("what was discarded can be read");
                for (new, old) in now.chunks(512).zip(model[bytes].chunks_mut(512)) {
                    assert!(new == old || new.iter().all(|b| *b == 0));
                    old.copy_from_slice(new);
                }
            }
            result
        }
        6 => disk.flush(),
        _ => {
            let mut now = vec![0; bytes.len()];
            let result = read_at(disk, range.start, &mut now);
            if let (Some(model), Ok(())) = (&model, &result) {
                assert!(now == model[bytes], "read something else than was written");
            }
            result
        }
    };
    assert!(model.is_none() || result.is_ok(), "{result:?}");
    Ok(())
}

/// Asserts that `disk` is `model`.
pub fn same(disk: &dyn Backend, model: &[u8]) {
    let mut now = vec![0; disk.size() as usize];
    read_at(disk, 0, &mut now).expect("it can be read");
    assert!(now == model);
}
