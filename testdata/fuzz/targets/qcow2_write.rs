//! A qcow2 file that a guest writes: as it was made, then with damage.
#![no_main]

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use bootwright_fuzz::block::{same, touch};
use bootwright_fuzz::scratch;
use bootwright_vmm::block::{Backend, HostFile, Qcow2Disk, RawDisk};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

static BACKING: LazyLock<Arc<dyn Backend>> = LazyLock::new(|| {
    let path = scratch("backing.raw");
    let bytes: Vec<u8> = (0..300 << 10).map(|i| (i / 512 % 250) as u8 + 1).collect();
    std::fs::write(&path, bytes).unwrap();
    Arc::new(RawDisk::open(&path, true).unwrap())
});

/// A file as `qemu-img create` makes it: header, refcount table and block, L1
/// table, each in a cluster.
fn image(bits: u32, order: u32, version: u32, size: u64, backed: bool) -> Vec<u8> {
    let cluster = 1usize << bits;
    let mut file = vec![0; 4 * cluster];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &version.to_be_bytes());
    put(20, &bits.to_be_bytes());
    put(24, &size.to_be_bytes());
    let covered = (cluster / 8 * cluster) as u64;
    put(36, &(size.div_ceil(covered) as u32).to_be_bytes());
    put(40, &(3 * cluster as u64).to_be_bytes());
    put(48, &(cluster as u64).to_be_bytes());
    put(56, &1u32.to_be_bytes());
    if version == 3 {
        put(96, &order.to_be_bytes());
        put(100, &104u32.to_be_bytes());
    }
    if backed {
        put(8, &200u64.to_be_bytes());
        put(16, &1u32.to_be_bytes());
        put(200, b"b");
    }
    put(cluster, &(2 * cluster as u64).to_be_bytes());
    for i in 0..4 {
        match order {
            0 => put(2 * cluster, &[0b1111]),
            1 => put(2 * cluster, &[0b0101_0101]),
            2 => put(2 * cluster, &[0x11, 0x11]),
            // The lowest byte of a big-endian number.
            _ => put(2 * cluster + ((i + 1) << (order - 3)) - 1, &[1]),
        }
    }
    file
}

fn open(path: &Path, backed: bool) -> Option<Qcow2Disk> {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let backing = backed.then(|| Arc::clone(&*BACKING));
    Qcow2Disk::from_file(HostFile::new(file, path), false, backing).ok()
}

fn go(u: &mut Unstructured) -> Result<()> {
    let bits = u.int_in_range(9..=16)?;
    let version = if u.ratio(1, 4)? { 2 } else { 3 };
    let order = if version == 2 {
        4
    } else {
        u.int_in_range(0..=6)?
    };
    let backed = u.arbitrary()?;
    // As far as one cluster of L1 entries leads, and at most 4 MiB.
    let size = (1u64 << (3 * bits - 6)).min((4 << 20) - 1536);
    let path = scratch("disk.qcow2");
    std::fs::write(&path, image(bits, order, version, size, backed)).unwrap();
    let mut model = vec![0; size as usize];
    if backed {
        let len = model.len().min(BACKING.size() as usize);
        bootwright_vmm::block::read_at(&**BACKING, 0, &mut model[..len]).unwrap();
    }
    for _ in 0..u.int_in_range(1..=3)? {
        let disk = open(&path, backed).expect("what was made opens");
        for _ in 0..u.int_in_range(1..=12)? {
            touch(u, &disk, Some(&mut model))?;
        }
        drop(disk);
        same(
            &open(&path, backed).expect("what was written opens"),
            &model,
        );
    }
    // Now the damage: entries of tables, mostly to what entries look like.
    let mut file = std::fs::read(&path).unwrap();
    for _ in 0..u.int_in_range(0..=4)? {
        let cluster = u.int_in_range(0..=7usize)? << bits;
        let at = (cluster + u.int_in_range(0..=63usize)? * 8) % (file.len() - 8);
        let value = match u.int_in_range(0..=3u8)? {
            0 => u.arbitrary()?,
            1 => u.int_in_range(0..=16u64)? << bits | 1 << 63,
            2 => u.int_in_range(0..=16u64)? << bits | u.int_in_range(0..=3u64)?,
            _ => 1 << 62 | u.int_in_range(0..=1u64 << 20)?,
        };
        file[at..at + 8].copy_from_slice(&u64::to_be_bytes(value));
    }
    std::fs::write(&path, &file).unwrap();
    if let Some(disk) = open(&path, backed) {
        for _ in 0..12 {
            touch(u, &disk, None)?;
        }
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| {
    let _ = go(&mut Unstructured::new(input));
});
