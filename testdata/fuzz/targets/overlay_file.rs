//! An overlay that a guest writes: as it was made, then with damage, its
//! checksums set right.
#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use bootwright_fuzz::block::{same, touch};
use bootwright_fuzz::scratch;
use bootwright_vmm::block::{Backend, BaseId, Overlay, RawDisk};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const ID: BaseId = BaseId([1; 32]);
const NODE: usize = 4096;

static BASE: LazyLock<Arc<dyn Backend>> = LazyLock::new(|| {
    let path = scratch("base.raw");
    let bytes: Vec<u8> = (0..300 << 10).map(|i| (i / 512 % 250) as u8 + 1).collect();
    std::fs::write(&path, bytes).unwrap();
    Arc::new(RawDisk::open(&path, true).unwrap())
});

fn u64_at(file: &[u8], at: usize) -> u64 {
    let field = file.get(at..at.saturating_add(8)).unwrap_or(&[0; 8]);
    u64::from_le_bytes(*field.first_chunk().unwrap())
}

/// Sets the sums of all nodes below one right and returns its own.
fn seal_node(file: &mut [u8], at: u64, level: u32, index: u64, budget: &mut u32) -> u32 {
    let start = usize::try_from(at).unwrap_or(usize::MAX);
    if *budget == 0 || start.checked_add(NODE).is_none_or(|end| end > file.len()) {
        return 0;
    }
    *budget -= 1;
    if level > 0 {
        for entry in 0..NODE as u64 / 16 {
            let slot = start + entry as usize * 16;
            let child = u64_at(file, slot);
            if child != 0 {
                let below = index.wrapping_mul(256).wrapping_add(entry);
                let sum = seal_node(file, child, level - 1, below, budget);
                file[slot + 8..slot + 12].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }
    let sum = crc32c::crc32c(&level.to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &index.to_le_bytes());
    crc32c::crc32c_append(sum, &file[start..start + NODE])
}

fn seal(file: &mut [u8]) {
    for at in [0, NODE] {
        if file.len() < at + NODE {
            return;
        }
        let levels = file[at + 12];
        let root = u64_at(file, at + 64);
        if root != 0 {
            let level = u32::from(levels.clamp(1, 8)) - 1;
            let sum = seal_node(file, root, level, 0, &mut 300);
            file[at + 72..at + 76].copy_from_slice(&sum.to_le_bytes());
        }
        let sum = crc32c::crc32c(&file[at..at + NODE - 4]);
        file[at + NODE - 4..at + NODE].copy_from_slice(&sum.to_le_bytes());
    }
}

fn open(path: &Path) -> Option<Overlay> {
    Overlay::open(path, Arc::clone(&*BASE), ID).ok()
}

fn go(u: &mut Unstructured) -> Result<()> {
    let path = scratch("overlay");
    let _ = std::fs::remove_file(&path);
    // Mostly one level of nodes, now and then two.
    let size = if u.ratio(1, 8)? {
        17 << 20
    } else {
        (2 << 20) - 1536
    };
    let base = Arc::clone(&*BASE);
    let mut model = vec![0; size as usize];
    let len = base.size() as usize;
    bootwright_vmm::block::read_at(&*base, 0, &mut model[..len]).unwrap();
    drop(Overlay::create(&path, base, ID, size).unwrap());
    for _ in 0..u.int_in_range(1..=3)? {
        let disk = open(&path).expect("what was made opens");
        for _ in 0..u.int_in_range(1..=12)? {
            touch(u, &disk, Some(&mut model))?;
        }
        drop(disk);
        same(&open(&path).expect("what was written opens"), &model);
    }
    let mut file = std::fs::read(&path).unwrap();
    let root = u64_at(&file, 64) as usize;
    for _ in 0..u.int_in_range(0..=4)? {
        // A superblock, the root, or a node near it.
        let node = match u.int_in_range(0..=3u8)? {
            0 => 0,
            1 => NODE,
            2 => root,
            _ => root.saturating_sub(u.int_in_range(0..=4usize)? * NODE),
        };
        let at = (node + u.int_in_range(0..=80usize)? * 4) % (file.len() - 8);
        match u.int_in_range(0..=2u8)? {
            0 => file[at] = u.arbitrary()?,
            1 => file[at..at + 4].copy_from_slice(&u.arbitrary::<[u8; 4]>()?),
            _ => {
                let place = u.int_in_range(0..=64u64)? * NODE as u64;
                file[at..at + 8].copy_from_slice(&place.to_le_bytes());
            }
        }
    }
    if u.ratio(1, 8)? {
        file.truncate(u.choose_index(file.len())?);
    }
    seal(&mut file);
    std::fs::write(&path, &file).unwrap();
    if let Some(disk) = open(&path) {
        for _ in 0..12 {
            touch(u, &disk, None)?;
        }
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| {
    let _ = go(&mut Unstructured::new(input));
});
