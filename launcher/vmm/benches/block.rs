//! Host processor time of block requests, without a guest.
//!
//! A driver on this thread keeps requests under way in a queue of the device;
//! what all other threads of the process and the kernel's workers take is the
//! price of the requests. `qemu-img bench` reads the same files beside it.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, unsafe_code)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bootwright_disk::plan::{Extent, PlanBuilder, Source, SourceId, SourceKind};
use bootwright_vmm::block::{Backend, Overlay, PlanDisk, Qcow2Disk, RawDisk};
use bootwright_vmm::virtio::VirtioDevice;
use bootwright_vmm::virtio::block::{Block, BlockEngine, BlockOptions};
use bootwright_vmm::virtio::testing::{Driver, readable, writable};

/// Size of the disk: fits in the page cache, which is what is measured.
const SIZE: u64 = 256 << 20;
/// Requests under way at once.
const DEPTH: usize = 32;
/// Memory of the driver: rings, then a header page for each request, and one
/// buffer for all, as `qemu-img bench` has: what the processor's caches keep of
/// it is a large part of what copying costs.
const HEADERS: u64 = 0x1_0000;
const DATA: u64 = 0x10_0000;
const MEMORY: usize = DATA as usize + (1 << 20);

/// What is asked for.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    len: u64,
    count: u64,
    random: bool,
}

const LOADS: [Load; 2] = [
    Load {
        name: "4 KiB random",
        len: 4096,
        count: 200_000,
        random: true,
    },
    Load {
        name: "1 MiB sequential",
        len: 1 << 20,
        count: 4096,
        random: false,
    },
];

fn usage(who: libc::c_int) -> Duration {
    // SAFETY: the struct is plain data and outlives the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(who, &mut usage);
        usage
    };
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Processor time of all threads but this one.
fn others() -> Duration {
    usage(libc::RUSAGE_SELF).saturating_sub(usage(libc::RUSAGE_THREAD))
}

/// Does `load` and returns processor and wall time of one request, and the
/// engine's name.
fn measure(
    disk: Arc<dyn Backend>,
    engine: BlockEngine,
    load: Load,
) -> (Duration, Duration, &'static str) {
    let options = BlockOptions {
        name: "bench".into(),
        serial: String::new(),
        queues: 1,
        engine,
        on_thread: None,
    };
    let mut block = Block::new(disk, options).unwrap();
    let name = block.engine();
    let mut driver = Driver::new(MEMORY, &[256], block.features());
    block.activate(driver.activation()).unwrap();
    let queue = &mut driver.queues[0];
    let mut dice = 0x9e37_79b9_7f4a_7c15u64;
    let mut sent = 0;
    let mut add = |queue: &mut bootwright_vmm::virtio::testing::DriverQueue, slot: u64| {
        let units = SIZE / load.len;
        let unit = if load.random {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice % units
        } else {
            sent % units
        };
        sent += 1;
        let header = HEADERS + slot * 0x1000;
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&(unit * load.len / 512).to_le_bytes());
        queue.write(header, &bytes);
        queue.next = slot as u16 * 8;
        queue.add(&[
            readable(header, 16),
            writable(DATA, load.len as u32),
            writable(header + 16, 1),
        ]);
    };
    // Once for the caches, then for the clock.
    let mut result = (Duration::ZERO, Duration::ZERO);
    for count in [load.count / 10, load.count] {
        let (cpu, wall) = (others(), Instant::now());
        for slot in 0..DEPTH as u64 {
            add(queue, slot);
        }
        queue.ring();
        let (mut done, mut started) = (0, DEPTH as u64);
        while done < count {
            let mut more = false;
            while let Some((head, len)) = queue.used() {
                assert_eq!(u64::from(len), load.len + 1);
                done += 1;
                if started < count {
                    add(queue, u64::from(head) / 8);
                    started += 1;
                    more = true;
                }
            }
            if more {
                queue.ring();
            } else {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
        let each = |time: Duration| time / count as u32;
        result = (each(others().saturating_sub(cpu)), each(wall.elapsed()));
    }
    block.reset();
    (result.0, result.1, name)
}

/// What `qemu-img bench` takes for the same.
fn qemu(path: &Path, format: &str, load: Load) -> Option<Duration> {
    let before = usage(libc::RUSAGE_CHILDREN);
    // Random is a stride that is coprime to the number of units.
    let step = if load.random {
        load.len * 7919
    } else {
        load.len
    };
    let status = Command::new("qemu-img")
        .args(["bench", "-f", format, "-i", "io_uring", "-t", "writeback"])
        .args(["-d", &DEPTH.to_string(), "-c", &load.count.to_string()])
        .args(["-s", &load.len.to_string(), "-S", &step.to_string()])
        .arg(path)
        .stdout(std::process::Stdio::null())
        .status();
    let took = usage(libc::RUSAGE_CHILDREN) - before;
    (status.is_ok_and(|s| s.success())).then(|| took / load.count as u32)
}

fn plan(pack: &Path) -> PlanDisk {
    let source = Source {
        kind: SourceKind::Pack {
            diff_id: "sha256:bench".into(),
        },
        path: pack.into(),
        len: SIZE,
    };
    let mut builder = PlanBuilder::new(vec![source]);
    // As a real plan: runs of a pack, with a block of literals between them.
    let run = 1 << 20;
    for start in (0..SIZE).step_by(run as usize) {
        builder.put(Extent::literal(start, vec![1; 4096]));
        builder.put(Extent::source(
            start + 4096,
            run - 4096,
            SourceId(0),
            start + 4096,
        ));
    }
    PlanDisk::new(builder.finish(SIZE).unwrap()).unwrap()
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    let bytes: Vec<u8> = (0..SIZE).map(|i| (i / 512 % 251) as u8 + 1).collect();
    std::fs::write(&raw, bytes).unwrap();
    let qcow2 = dir.path().join("disk.qcow2");
    let convert = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .args([&raw, &qcow2])
        .status();
    assert!(convert.is_ok_and(|s| s.success()), "qemu-img convert");

    println!("host CPU per request, in microseconds (wall time in brackets)\n");
    println!("| load | disk | io_uring | plain calls | qemu-img bench |");
    println!("|---|---|---|---|---|");
    for load in LOADS {
        for name in ["plan", "plan under an overlay", "raw", "qcow2"] {
            let disk = || -> Arc<dyn Backend> {
                match name {
                    "plan" => Arc::new(plan(&raw)),
                    "raw" => Arc::new(RawDisk::open(&raw, true).unwrap()),
                    "qcow2" => Arc::new(Qcow2Disk::open(&qcow2, true, None).unwrap()),
                    _ => Arc::new(Overlay::ephemeral(None, Arc::new(plan(&raw)), SIZE).unwrap()),
                }
            };
            let mut cells = Vec::new();
            for engine in [BlockEngine::Auto, BlockEngine::Synchronous] {
                let (cpu, wall, used) = measure(disk(), engine, load);
                let micros = |d: Duration| d.as_nanos() as f64 / 1000.0;
                let note = match (engine, used) {
                    (BlockEngine::Auto, "synchronous") => ", no io_uring here",
                    _ => "",
                };
                cells.push(format!("{:.2} ({:.2}{note})", micros(cpu), micros(wall)));
            }
            let peer = match name {
                "raw" => qemu(&raw, "raw", load),
                "qcow2" => qemu(&qcow2, "qcow2", load),
                _ => None,
            };
            cells.push(peer.map_or("–".into(), |d| {
                format!("{:.2}", d.as_nanos() as f64 / 1000.0)
            }));
            println!("| {} | {name} | {} |", load.name, cells.join(" | "));
        }
    }
}
