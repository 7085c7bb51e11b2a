//! The rings of a queue as they come: table, available ring and indirect
//! tables are the input's, in the memory of a block device's driver.
#![no_main]

use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use bootwright_fuzz::scratch;
use bootwright_vmm::block::RawDisk;
use bootwright_vmm::virtio::VirtioDevice;
use bootwright_vmm::virtio::block::{Block, BlockEngine, BlockOptions};
use bootwright_vmm::virtio::testing::Driver;
use libfuzzer_sys::fuzz_target;

const MEMORY: usize = 64 << 10;
const ENTRIES: usize = 16;

static BLOCK: LazyLock<Mutex<Block>> = LazyLock::new(|| {
    let path = scratch("disk.raw");
    std::fs::write(&path, vec![0; 64 << 10]).unwrap();
    let disk = Arc::new(RawDisk::open(&path, false).unwrap());
    let options = BlockOptions {
        name: "fuzz".into(),
        serial: String::new(),
        queues: 1,
        engine: BlockEngine::Auto,
        on_thread: None,
    };
    Mutex::new(Block::new(disk, options).unwrap())
});

fuzz_target!(|input: &[u8]| {
    // Two bytes of index, then heads, descriptors, and what they lead to.
    let Some(([index, mask], rest)) = input.split_first_chunk() else {
        return;
    };
    let (heads, rest) = rest.split_at(rest.len().min(ENTRIES));
    let mut block = BLOCK.lock().unwrap();
    let mut driver = Driver::new(MEMORY, &[ENTRIES as u16], block.features());
    block.activate(driver.activation()).unwrap();
    let queue = &mut driver.queues[0];
    for (i, raw) in rest.chunks_exact(8).take(ENTRIES).enumerate() {
        // Short forms of addresses and lengths, so that most lead somewhere.
        let [a, b, c, d, e, f, g, h] = *raw.first_chunk().unwrap();
        let wild = mask & 1 != 0 && h == 0xff;
        let address = if wild {
            u64::from_le_bytes([a, b, c, d, e, f, g, h])
        } else {
            u64::from(u16::from_le_bytes([a, b]))
        };
        let len = if wild {
            u32::from_le_bytes([c, d, e, f])
        } else {
            u32::from(c) | u32::from(d & 15) << 8
        };
        queue.descriptor(
            queue.table,
            i as u16,
            address,
            len,
            u16::from(e & 7),
            u16::from(f % 18),
        );
    }
    let free = rest.get(ENTRIES * 8..).unwrap_or_default();
    let room = free.len().min(MEMORY - 0x2000);
    queue.write(0x2000, &free[..room]);
    for (i, head) in heads.iter().enumerate() {
        let head = u16::from(*head) % (ENTRIES as u16 + u16::from(mask & 1));
        queue.write(queue.available + 4 + i as u64 * 2, &head.to_le_bytes());
    }
    let index = if mask & 2 != 0 {
        u16::from(*index)
    } else {
        u16::from(index % 17)
    };
    queue.write(queue.available + 2, &index.to_le_bytes());
    queue.ring();
    let start = Instant::now();
    let mut answers = 0;
    // An answer may land on the ring itself, so what is counted is a guess.
    while !driver.broken() && answers < index && start.elapsed() < Duration::from_millis(20) {
        match driver.queues[0].used() {
            Some(_) => answers += 1,
            None => std::thread::yield_now(),
        }
    }
    block.reset();
    // And the device is as good as new.
    let mut driver = Driver::new(MEMORY, &[ENTRIES as u16], block.features());
    block.activate(driver.activation()).unwrap();
    let queue = &mut driver.queues[0];
    queue.write(0x4000, &[0; 16]);
    queue.add(&[
        bootwright_vmm::virtio::testing::readable(0x4000, 16),
        bootwright_vmm::virtio::testing::writable(0x5000, 512),
        bootwright_vmm::virtio::testing::writable(0x6000, 1),
    ]);
    queue.ring();
    assert_eq!(queue.wait_used(), (0, 513));
    block.reset();
});
