//! How bytes are moved, and what happens where the kernel does not let them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};
use virtio_bindings::bindings::virtio_blk as blk;

use super::driver::{DATA, Driver};
use super::{Block, BlockEngine, IOERR, OK, SIZE, options, raw};
use crate::block::testing::file_of;
use crate::block::{Backend, FileRun, HostFile, Limits, Run};
use crate::virtio::VirtioDevice;
use crate::virtio::block::uring::Uring;

/// Whether this machine lets us use io_uring: containers often do not.
fn allowed() -> bool {
    io_uring::IoUring::new(8).is_ok()
}

#[test]
fn io_uring_is_used_where_the_kernel_allows_it() {
    let dir = tempfile::tempdir().unwrap();
    let backend = raw(&dir.path().join("disk"), false);
    let block = Block::new(Arc::clone(&backend), options(1, BlockEngine::Auto)).unwrap();
    let expect = if allowed() { "io_uring" } else { "synchronous" };
    assert_eq!(block.engine(), expect);
    let block = Block::new(backend, options(1, BlockEngine::Synchronous)).unwrap();
    assert_eq!(block.engine(), "synchronous");
}

/// Forbids a system call to this thread and those that it starts.
fn forbid(call: i64, errno: i32) {
    let filter = SeccompFilter::new(
        BTreeMap::from([(call, vec![])]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        TargetArch::x86_64,
    )
    .unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    apply_filter(&program).unwrap();
}

#[test]
fn without_io_uring_plain_calls_do_the_same() {
    // What an old kernel says, what seccomp and io_uring_disabled do.
    for errno in [libc::ENOSYS, libc::EPERM] {
        let alone = std::thread::spawn(move || {
            forbid(libc::SYS_io_uring_setup, errno);
            let dir = tempfile::tempdir().unwrap();
            let (block, mut driver) =
                super::device(raw(&dir.path().join("disk"), false), BlockEngine::Auto);
            assert_eq!(block.engine(), "synchronous");
            let answer = driver.request(0, blk::VIRTIO_BLK_T_IN, 9, &[(DATA, 512)], true);
            assert_eq!(answer, (OK, 513));
            assert_eq!(driver.get(DATA, 512), [9; 512]);
        });
        alone.join().unwrap();
    }
}

#[test]
fn a_ring_that_stops_working_loses_no_request() {
    if !allowed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut opts = options(1, BlockEngine::Auto);
    // The ring is made before; its use is forbidden to the thread that needs it.
    opts.on_thread = Some(Arc::new(|| {
        forbid(libc::SYS_io_uring_enter, libc::EPERM);
        Ok(())
    }));
    let mut block = Block::new(raw(&dir.path().join("disk"), false), opts).unwrap();
    assert_eq!(block.engine(), "io_uring");
    let mut driver = Driver::new(1);
    let features = block.features();
    driver.activate(&mut block, features);
    for sector in 1..20u64 {
        let answer = driver.request(0, blk::VIRTIO_BLK_T_IN, sector, &[(DATA, 512)], true);
        assert_eq!(answer, (OK, 513));
        assert_eq!(driver.get(DATA, 512), [sector as u8; 512]);
    }
    assert!(block.metrics().last_error().unwrap().contains("permitted"));
}

/// A disk of which each sector is a run of its own, backwards in the file.
#[derive(Debug)]
struct Shredded(Arc<HostFile>);

impl Backend for Shredded {
    fn size(&self) -> u64 {
        SIZE
    }
    fn limits(&self) -> Limits {
        Limits {
            read_only: false,
            physical_block: 512,
            discard: None,
        }
    }
    fn read(&self, range: Range<u64>) -> std::io::Result<Run> {
        self.prepare_write(range).map(Run::File)
    }
    fn prepare_write(&self, range: Range<u64>) -> std::io::Result<FileRun> {
        let len = (range.end - range.start).min(512);
        Ok(FileRun::new(&self.0, SIZE - 512 - range.start, len))
    }
    fn write_zeroes(&self, _range: Range<u64>, _unmap: bool) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
    fn discard(&self, _range: Range<u64>) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn requests_of_more_transfers_than_a_ring_holds_are_done() {
    for engine in super::engines() {
        let bytes: Vec<u8> = (0..SIZE).map(|i| (i / 512 % 251) as u8).collect();
        let (mut block, mut driver) =
            super::device(Arc::new(Shredded(Arc::new(file_of(&bytes)))), engine);
        // 40 requests of 128 transfers each, all at once.
        let mut waiting = Vec::new();
        for i in 0..40u64 {
            let data = [(DATA + i * 0x1_0000, 0x1_0000)];
            waiting.push((
                driver.submit(0, blk::VIRTIO_BLK_T_IN, i * 128, &data, true),
                i,
            ));
        }
        driver.ring(0);
        for _ in 0..waiting.len() {
            let (head, len) = driver.used(0, Duration::from_secs(20)).expect("an answer");
            assert_eq!((driver.status(0, head), len), (OK, 0x1_0001));
            let at = waiting.iter().position(|w| w.0 == head).unwrap();
            let (_, i) = waiting.swap_remove(at);
            let got = driver.get(DATA + i * 0x1_0000, 0x1_0000);
            for (sector, got) in (i * 128..).zip(got.chunks(512)) {
                let value = ((SIZE / 512 - 1 - sector) % 251) as u8;
                assert!(got.iter().all(|b| *b == value), "sector {sector}");
            }
        }
        block.reset();
        assert_eq!(block.metrics().last_error(), None);
    }
}

#[test]
fn a_file_that_became_shorter_is_an_error_of_that_request_only() {
    for engine in super::engines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let (block, mut driver) = super::device(raw(&path, false), engine);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(SIZE / 2).unwrap();
        let last = SIZE / 512 - 8;
        let answer = driver.request(0, blk::VIRTIO_BLK_T_IN, last, &[(DATA, 4096)], true);
        assert_eq!(answer, (IOERR, 1));
        let message = block.metrics().last_error().unwrap();
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        // A read over the new end gets the bytes before it, then fails, too.
        let answer = driver.request(0, blk::VIRTIO_BLK_T_IN, last / 2 + 3, &[(DATA, 4096)], true);
        assert_eq!(answer, (IOERR, 1));
        let answer = driver.request(0, blk::VIRTIO_BLK_T_IN, 1, &[(DATA, 512)], true);
        assert_eq!(answer, (OK, 513));
    }
}

#[test]
fn a_ring_can_be_dropped_unused() {
    if let Ok(uring) = Uring::new() {
        assert!(format!("{uring:?}").contains("busy: 0"));
    }
}
