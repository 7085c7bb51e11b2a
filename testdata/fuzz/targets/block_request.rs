//! Requests to a block device: most are right, some break one rule.
#![no_main]

use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use bootwright_fuzz::scratch;
use bootwright_vmm::block::RawDisk;
use bootwright_vmm::virtio::VirtioDevice;
use bootwright_vmm::virtio::block::{Block, BlockEngine, BlockOptions};
use bootwright_vmm::virtio::testing::{Driver, Piece, readable, writable};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const SIZE: usize = 128 << 10;
const HEADER: u64 = 0x8000;
const STATUS: u64 = 0x9000;
const TABLE: u64 = 0xa000;
const DATA: u64 = 0x1_0000;
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

static BLOCK: LazyLock<Mutex<Block>> = LazyLock::new(|| {
    let path = scratch("disk.raw");
    std::fs::write(&path, vec![0; SIZE]).unwrap();
    let disk = Arc::new(RawDisk::open(&path, false).unwrap());
    let options = BlockOptions {
        name: "fuzz".into(),
        serial: "serial".into(),
        queues: 1,
        engine: BlockEngine::Auto,
        on_thread: None,
    };
    Mutex::new(Block::new(disk, options).unwrap())
});

/// What the driver and the disk are expected to be.
struct Rig {
    driver: Driver,
    /// The disk, as long as it is known.
    model: Option<Vec<u8>>,
    broken: bool,
}

impl Rig {
    /// Splits `len` bytes at [`DATA`] into pieces.
    fn pieces(u: &mut Unstructured, len: u32, write: bool) -> Result<Vec<Piece>> {
        let (mut at, mut left, mut pieces) = (DATA, len, Vec::new());
        while left > 0 && pieces.len() < 5 {
            let n = if pieces.len() == 4 || u.ratio(1, 3)? {
                left
            } else {
                u.int_in_range(1..=left)?
            };
            pieces.push(if write {
                writable(at, n)
            } else {
                readable(at, n)
            });
            at += u64::from(n);
            left -= n;
        }
        Ok(pieces)
    }

    fn step(&mut self, u: &mut Unstructured) -> Result<()> {
        let kind = *u.choose(&[IN, IN, OUT, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES])?;
        let count = u.int_in_range(1..=24u64)?;
        let sector = u.int_in_range(0..=SIZE as u64 / 512 - count)?;
        let range = sector as usize * 512..(sector + count) as usize * 512;
        let queue = &mut self.driver.queues[0];
        let seed: u8 = u.arbitrary()?;
        let unmap = kind == WRITE_ZEROES && u.arbitrary()?;
        let data: Vec<u8> = match kind {
            OUT => (0..range.len())
                .map(|i| seed.wrapping_add((i / 512) as u8))
                .collect(),
            DISCARD | WRITE_ZEROES => {
                let mut entry = sector.to_le_bytes().to_vec();
                entry.extend((count as u32).to_le_bytes());
                entry.extend(u32::from(unmap).to_le_bytes());
                entry
            }
            _ => Vec::new(),
        };
        queue.write(DATA, &data);
        let len = match kind {
            IN => range.len() as u32,
            GET_ID => 20,
            _ => data.len() as u32,
        };
        let device_writes = matches!(kind, IN | GET_ID);
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        let mut chain = vec![readable(HEADER, 16)];
        chain.extend(Self::pieces(u, len, device_writes)?);
        chain.push(writable(STATUS, 1));
        let rule = if u.ratio(1, 12)? {
            u.int_in_range(1..=9u8)?
        } else {
            0
        };
        let victim = u.choose_index(chain.len())?;
        match rule {
            1 => chain[victim].address = u.arbitrary()?,
            2 => chain[victim].len = u.arbitrary()?,
            3 => chain[victim].write ^= true,
            4 => drop(chain.remove(victim)),
            5 => header[..4].copy_from_slice(&u.arbitrary::<[u8; 4]>()?),
            6 => header[8..].copy_from_slice(&u.arbitrary::<[u8; 8]>()?),
            7 => {
                let at = u.choose_index(data.len().max(1))? as u64;
                queue.write(DATA + at, &u.arbitrary::<[u8; 4]>()?);
            }
            8 => chain.swap(victim, 0),
            _ => {}
        }
        queue.write(HEADER, &header);
        queue.write(STATUS, &[0xff]);
        if chain.is_empty() {
            return Ok(());
        }
        let head = if u.ratio(1, 4)? {
            queue.add_indirect(TABLE, &chain)
        } else {
            queue.add(&chain)
        };
        if rule == 9 {
            // A chain that bites its tail, or leads anywhere.
            let next: u16 = u.arbitrary()?;
            queue.descriptor(
                queue.table,
                head,
                HEADER,
                16,
                1 | u.arbitrary::<u16>()? & 6,
                next,
            );
        }
        queue.ring();
        let used = self.wait();
        let queue = &self.driver.queues[0];
        let Some((used, written)) = used else {
            assert!(rule != 0, "a right request broke the device");
            self.broken = true;
            return Ok(());
        };
        if rule != 0 {
            // It may have written anywhere.
            self.model = None;
            return Ok(());
        }
        assert_eq!(used, u32::from(head));
        assert_eq!(queue.read(STATUS, 1), [0], "kind {kind} was refused");
        assert_eq!(written, if device_writes { len + 1 } else { 1 });
        let Some(model) = &mut self.model else {
            return Ok(());
        };
        match kind {
            IN => assert!(queue.read(DATA, range.len()) == model[range]),
            OUT => model[range].copy_from_slice(&data),
            // A file in memory can do all of it.
            WRITE_ZEROES | DISCARD => model[range].fill(0),
            GET_ID => assert!(queue.read(DATA, 20).starts_with(b"serial\0")),
            _ => {}
        }
        Ok(())
    }

    /// Waits for the answer; `None` if the device asks for a reset instead.
    fn wait(&mut self) -> Option<(u32, u32)> {
        let start = Instant::now();
        loop {
            let broken = self.driver.broken();
            if let Some(used) = self.driver.queues[0].used() {
                return Some(used);
            }
            if broken {
                return None;
            }
            assert!(start.elapsed() < Duration::from_secs(8), "no answer");
            std::thread::yield_now();
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut block = BLOCK.lock().unwrap();
    std::fs::write(scratch("disk.raw"), vec![0; SIZE]).unwrap();
    let mut rig = Rig {
        driver: Driver::new(1 << 20, &[16], block.features()),
        model: Some(vec![0; SIZE]),
        broken: false,
    };
    block.activate(rig.driver.activation()).unwrap();
    let mut u = Unstructured::new(input);
    for _ in 0..32 {
        if u.is_empty() || rig.broken || rig.step(&mut u).is_err() {
            break;
        }
    }
    block.reset();
    if let Some(model) = rig.model {
        assert!(std::fs::read(scratch("disk.raw")).unwrap() == model);
    }
});
