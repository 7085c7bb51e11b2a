//! The device as its driver sees it.

mod driver;
mod engines;
mod hostile;
mod index;
mod kill;
mod random;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use virtio_bindings::bindings::virtio_blk as blk;

use self::driver::{DATA, Driver};
use super::{Block, BlockEngine, BlockOptions};
use crate::block::{Backend, RawDisk};
use crate::virtio::VirtioDevice;

const OK: u8 = blk::VIRTIO_BLK_S_OK as u8;
const IOERR: u8 = blk::VIRTIO_BLK_S_IOERR as u8;
const UNSUPP: u8 = blk::VIRTIO_BLK_S_UNSUPP as u8;
const SIZE: u64 = 8 << 20;

fn options(queues: u16, engine: BlockEngine) -> BlockOptions {
    BlockOptions {
        name: "block0".into(),
        serial: "root".into(),
        queues,
        engine,
        on_thread: None,
    }
}

fn raw(path: &Path, read_only: bool) -> Arc<dyn Backend> {
    if !path.exists() {
        let bytes: Vec<u8> = (0..SIZE).map(|i| (i / 512 % 251) as u8).collect();
        std::fs::write(path, bytes).unwrap();
    }
    Arc::new(RawDisk::open(path, read_only).unwrap())
}

fn device(backend: Arc<dyn Backend>, engine: BlockEngine) -> (Block, Driver) {
    let mut block = Block::new(backend, options(1, engine)).unwrap();
    let mut driver = Driver::new(1);
    let features = block.features();
    driver.activate(&mut block, features);
    (block, driver)
}

fn engines() -> Vec<BlockEngine> {
    vec![BlockEngine::Synchronous, BlockEngine::Auto]
}

#[test]
fn reads_and_writes_reach_the_file() {
    for engine in engines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let (mut block, mut driver) = device(raw(&path, false), engine);
        // A read into pieces of odd sizes, over the border of two regions.
        let pieces = [(DATA + 3, 100), (0x7f_ffff, 412), (DATA + 4096, 512)];
        let (status, used) = driver.request(0, blk::VIRTIO_BLK_T_IN, 7, &pieces, true);
        assert_eq!((status, used), (OK, 1025));
        let mut bytes = driver.get(DATA + 3, 100);
        bytes.extend(driver.get(0x7f_ffff, 412));
        bytes.extend(driver.get(DATA + 4096, 512));
        assert_eq!(bytes, [[7; 512], [8; 512]].concat());

        driver.put(DATA, &[0xab; 1024]);
        let data = [(DATA, 1000), (DATA + 1000, 24)];
        let (status, used) = driver.request(0, blk::VIRTIO_BLK_T_OUT, 3, &data, false);
        assert_eq!((status, used), (OK, 1));
        assert_eq!(
            driver.request(0, blk::VIRTIO_BLK_T_FLUSH, 0, &[], false),
            (OK, 1)
        );
        let file = std::fs::read(&path).unwrap();
        assert_eq!(
            &file[1024..3072],
            [[2; 512], [0xab; 512], [0xab; 512], [5; 512]].concat()
        );
        block.reset();
        assert_eq!(
            block
                .metrics()
                .writes
                .load(std::sync::atomic::Ordering::Relaxed),
            1
        );
    }
}

#[test]
fn the_serial_number_is_told_and_padded() {
    let dir = tempfile::tempdir().unwrap();
    let (_block, mut driver) = device(raw(&dir.path().join("disk"), false), BlockEngine::Auto);
    driver.put(DATA, &[0xff; 20]);
    let answer = driver.request(0, blk::VIRTIO_BLK_T_GET_ID, 0, &[(DATA, 20)], true);
    assert_eq!(answer, (OK, 21));
    assert_eq!(
        driver.get(DATA, 20),
        *b"root\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    );
    let answer = driver.request(0, blk::VIRTIO_BLK_T_GET_ID, 0, &[(DATA, 19)], true);
    assert_eq!(answer, (IOERR, 1));
}

fn range(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    [
        &sector.to_le_bytes()[..],
        &count.to_le_bytes(),
        &flags.to_le_bytes(),
    ]
    .concat()
}

#[test]
fn discard_and_write_zeroes_leave_zeros_and_give_space_back() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let (_block, mut driver) = device(raw(&path, false), BlockEngine::Auto);
    let blocks = std::fs::metadata(&path).unwrap().blocks();
    driver.put(DATA, &[range(8, 2048, 0), range(4096, 8, 0)].concat());
    let answer = driver.request(0, blk::VIRTIO_BLK_T_DISCARD, 0, &[(DATA, 32)], false);
    assert_eq!(answer, (OK, 1));
    driver.put(DATA, &[range(1, 1, 0), range(5001, 3, 1)].concat());
    let answer = driver.request(0, blk::VIRTIO_BLK_T_WRITE_ZEROES, 0, &[(DATA, 32)], false);
    assert_eq!(answer, (OK, 1));
    let file = std::fs::read(&path).unwrap();
    let zero = |from: usize, n: usize| file[from * 512..(from + n) * 512].iter().all(|b| *b == 0);
    assert!(zero(8, 2048) && zero(4096, 8) && zero(1, 1) && zero(5001, 3));
    assert!(!zero(7, 1) && !zero(2056, 1) && !zero(2, 1) && !zero(5000, 1) && !zero(5004, 1));
    assert!(std::fs::metadata(&path).unwrap().blocks() < blocks);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_block, mut driver) = device(raw(&dir.path().join("disk"), false), BlockEngine::Auto);
    let last = SIZE / 512 - 1;
    let cases: [(&str, u32, u64, u32, bool, u8); 11] = [
        ("the last sector", blk::VIRTIO_BLK_T_IN, last, 512, true, OK),
        (
            "one sector too far",
            blk::VIRTIO_BLK_T_IN,
            last,
            1024,
            true,
            IOERR,
        ),
        (
            "beyond the end",
            blk::VIRTIO_BLK_T_OUT,
            last + 1,
            512,
            false,
            IOERR,
        ),
        (
            "a sector that overflows",
            blk::VIRTIO_BLK_T_IN,
            u64::MAX,
            512,
            true,
            IOERR,
        ),
        (
            "a sector that overflows in bytes",
            blk::VIRTIO_BLK_T_OUT,
            1 << 55,
            512,
            false,
            IOERR,
        ),
        ("half a sector", blk::VIRTIO_BLK_T_IN, 0, 256, true, IOERR),
        ("no data", blk::VIRTIO_BLK_T_OUT, 0, 0, false, IOERR),
        (
            "a command of SCSI",
            blk::VIRTIO_BLK_T_SCSI_CMD,
            0,
            512,
            true,
            UNSUPP,
        ),
        ("a command that nobody knows", 77, 0, 512, false, UNSUPP),
        (
            "half a range",
            blk::VIRTIO_BLK_T_DISCARD,
            0,
            8,
            false,
            IOERR,
        ),
        (
            "too many ranges",
            blk::VIRTIO_BLK_T_WRITE_ZEROES,
            0,
            33 * 16,
            false,
            IOERR,
        ),
    ];
    for (name, kind, sector, len, device_writes, status) in cases {
        let data = [(DATA, len)];
        let data = if len == 0 { &[][..] } else { &data };
        let answer = driver.request(0, kind, sector, data, device_writes);
        assert_eq!(answer.0, status, "{name}");
    }
    let ranges = [
        (
            "a discard that says unmap",
            blk::VIRTIO_BLK_T_DISCARD,
            range(0, 8, 1),
            UNSUPP,
        ),
        (
            "unknown flags",
            blk::VIRTIO_BLK_T_WRITE_ZEROES,
            range(0, 8, 2),
            UNSUPP,
        ),
        (
            "a range beyond the end",
            blk::VIRTIO_BLK_T_DISCARD,
            range(last, 2, 0),
            IOERR,
        ),
        (
            "an empty range",
            blk::VIRTIO_BLK_T_DISCARD,
            range(0, 0, 0),
            IOERR,
        ),
        (
            "a range that overflows",
            blk::VIRTIO_BLK_T_WRITE_ZEROES,
            range(u64::MAX, 1, 0),
            IOERR,
        ),
    ];
    for (name, kind, bytes, status) in ranges {
        driver.put(DATA, &bytes);
        assert_eq!(
            driver.request(0, kind, 0, &[(DATA, 16)], false).0,
            status,
            "{name}"
        );
    }
    assert!(
        !driver
            .interrupts
            .resets
            .load(std::sync::atomic::Ordering::Relaxed)
            > 0
    );
}

#[test]
fn a_read_only_device_says_so_and_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    drop(raw(&path, false));
    let (block, mut driver) = device(raw(&path, true), BlockEngine::Auto);
    assert_ne!(block.features() & (1 << blk::VIRTIO_BLK_F_RO), 0);
    let before = std::fs::read(&path).unwrap();
    driver.put(DATA, &[1; 512]);
    let answer = driver.request(0, blk::VIRTIO_BLK_T_OUT, 0, &[(DATA, 512)], false);
    assert_eq!(answer.0, IOERR);
    let answer = driver.request(0, blk::VIRTIO_BLK_T_DISCARD, 0, &[(DATA, 16)], false);
    assert_eq!(answer.0, UNSUPP);
    let answer = driver.request(0, blk::VIRTIO_BLK_T_FLUSH, 0, &[], false);
    assert_eq!(answer.0, OK);
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn the_configuration_is_the_specifications() {
    let dir = tempfile::tempdir().unwrap();
    let mut block = Block::new(
        raw(&dir.path().join("disk"), false),
        options(4, BlockEngine::Auto),
    )
    .unwrap();
    assert_eq!(block.id(), 2);
    assert_eq!(block.queue_sizes(), [256; 4]);
    let field = |at: u64, len: usize| {
        let mut bytes = [0; 8];
        block.read_config(at, &mut bytes[..len]);
        u64::from_le_bytes(bytes)
    };
    assert_eq!(field(0, 8), SIZE / 512);
    assert_eq!(field(8, 4), 256 << 10);
    assert_eq!(field(12, 4), 254);
    assert_eq!(field(20, 4), 512);
    assert_eq!(field(24, 1), 3, "4 KiB physical blocks");
    assert_eq!(field(34, 2), 4);
    assert_eq!(field(36, 4), 2 << 20);
    assert_eq!(field(44, 4), 8);
    assert_eq!(field(56, 1), 1);
    assert_eq!((field(58, 8), field(60, 8), field(u64::MAX, 8)), (0, 0, 0));
    block.write_config(0, &[0xff; 8]);
    let mut capacity = [0; 8];
    block.read_config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), SIZE / 512);
}

#[test]
fn a_device_can_be_reset_and_activated_again_and_again() {
    for engine in engines() {
        let dir = tempfile::tempdir().unwrap();
        let backend = raw(&dir.path().join("disk"), false);
        let mut block = Block::new(backend, options(2, engine)).unwrap();
        let mut driver = Driver::new(2);
        for round in 0..20u8 {
            let features = block.features();
            driver.activate(&mut block, features);
            driver.put(DATA, &[round; 4096]);
            let mut waiting = Vec::new();
            for i in 0..40 {
                let queue = i % 2;
                let data = [(DATA, 4096)];
                driver.submit(queue, blk::VIRTIO_BLK_T_OUT, i as u64 * 8, &data, false);
                driver.ring(queue);
                waiting.push(queue);
            }
            if round % 3 != 0 {
                // Otherwise reset with requests in flight.
                for queue in waiting {
                    driver
                        .used(queue, Duration::from_secs(20))
                        .expect("an answer");
                }
            }
            block.reset();
            let rings = driver.get(0, 0x1_0000);
            std::thread::sleep(Duration::from_millis(1));
            assert_eq!(
                driver.get(0, 0x1_0000),
                rings,
                "nothing moves after a reset"
            );
        }
        block.reset();
        assert_eq!(block.metrics().last_error(), None);
    }
}

#[test]
fn without_the_flush_feature_each_write_is_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let counting = Arc::new(Counting {
        inner: raw(&dir.path().join("disk"), false),
        flushes: Default::default(),
    });
    let backend: Arc<dyn Backend> = Arc::clone(&counting) as _;
    let mut block = Block::new(backend, options(1, BlockEngine::Auto)).unwrap();
    let mut driver = Driver::new(1);
    let features = block.features() & !(1 << blk::VIRTIO_BLK_F_FLUSH);
    driver.activate(&mut block, features);
    for i in 1..4 {
        let answer = driver.request(0, blk::VIRTIO_BLK_T_OUT, i, &[(DATA, 512)], false);
        assert_eq!(answer, (OK, 1));
        let flushes = counting.flushes.load(std::sync::atomic::Ordering::Acquire);
        assert_eq!(flushes as u64, i);
    }
    assert_eq!(
        driver.request(0, blk::VIRTIO_BLK_T_FLUSH, 0, &[], false).0,
        UNSUPP
    );
}

/// Counts flushes.
#[derive(Debug)]
struct Counting {
    inner: Arc<dyn Backend>,
    flushes: std::sync::atomic::AtomicUsize,
}

impl Backend for Counting {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn limits(&self) -> crate::block::Limits {
        self.inner.limits()
    }
    fn read(&self, range: std::ops::Range<u64>) -> std::io::Result<crate::block::Run> {
        self.inner.read(range)
    }
    fn prepare_write(&self, range: std::ops::Range<u64>) -> std::io::Result<crate::block::FileRun> {
        self.inner.prepare_write(range)
    }
    fn write_zeroes(&self, range: std::ops::Range<u64>, unmap: bool) -> std::io::Result<()> {
        self.inner.write_zeroes(range, unmap)
    }
    fn discard(&self, range: std::ops::Range<u64>) -> std::io::Result<()> {
        self.inner.discard(range)
    }
    fn flush(&self) -> std::io::Result<()> {
        self.flushes
            .fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        self.inner.flush()
    }
}
