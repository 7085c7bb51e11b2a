//! What a byte through passt costs the host: processor time of the device's
//! thread and of passt, in both directions, with large and with small frames.
//!
//! `cargo run --release -p bootwright-vmm --features testing --example net_cost`
//! prints a line of JSON for each. The guest is the tests' driver, which costs
//! next to nothing; its own time is not counted.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bootwright_vmm::virtio::net::{Config, Net, Peer};
use bootwright_vmm::virtio::testing::{Driver, no_sandbox, readable, writable};
use bootwright_vmm::virtio::{Stats, VirtioDevice};
use rustix::io::{FdFlags, fcntl_setfd};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const GUEST: [u8; 4] = [192, 0, 2, 2];
const GATEWAY: [u8; 4] = [192, 0, 2, 1];
/// Each measurement takes as long.
const TIME: Duration = Duration::from_secs(3);
const BUFFER: u64 = 0x1_1000;

struct Passt(Child);

impl Drop for Passt {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn passt(port: u16) -> (Passt, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let fd = theirs.as_raw_fd();
    // passt gets the descriptor under the number that it has here.
    fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
    let arguments = format!(
        "--foreground --quiet --fd {fd} -a 192.0.2.2 -n 24 -g 192.0.2.1 -D none -m 65520 -u {port}"
    );
    let child = Command::new("passt")
        .args(arguments.split(' '))
        .stderr(Stdio::null())
        .spawn()
        .expect("passt (apt-get install passt)");
    (Passt(child), ours)
}

/// Nanoseconds on a processor, from the first field of a schedstat file.
fn spent(path: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// The device's thread, by its name.
fn thread_of(name: &str) -> String {
    fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| fs::read_to_string(path.join("comm")).unwrap().trim() == name)
        .map(|path| format!("{}/schedstat", path.display()))
        .expect("the device has a thread")
}

/// A datagram from the guest to the host, behind the gateway's address.
fn datagram(port: u16, len: usize) -> Vec<u8> {
    let mut packet = vec![0; 12];
    packet.extend([0xff; 6]);
    packet.extend(MAC);
    packet.extend([8, 0, 0x45, 0]);
    packet.extend(((28 + len) as u16).to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(GUEST);
    packet.extend(GATEWAY);
    let mut sum: u32 = packet[26..46]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    packet[36..38].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet.extend(5000u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend(((8 + len) as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.resize(packet.len() + len, 7);
    packet
}

/// Runs `step` for a while and prints what the bytes cost that `count` counts.
fn measure(
    what: &str,
    size: usize,
    files: [&str; 2],
    count: &dyn Fn() -> u64,
    step: &mut dyn FnMut(),
) {
    let before = files.map(spent);
    let bytes = count();
    let start = Instant::now();
    while start.elapsed() < TIME {
        step();
    }
    let seconds = start.elapsed().as_secs_f64();
    let bytes = (count() - bytes) as f64;
    let [device, passt] = files.map(spent);
    let each = |now, before| (now - before) as f64 / bytes;
    println!(
        "{{\"direction\": \"{what}\", \"datagram\": {size}, \"megabytes_per_second\": {:.1}, \
         \"device_ns_per_byte\": {:.4}, \"passt_ns_per_byte\": {:.4}}}",
        bytes / seconds / 1e6,
        each(device, before[0]),
        each(passt, before[1]),
    );
}

/// Measures datagrams of `size` bytes.
fn cost(size: usize) {
    let host = UdpSocket::bind("127.0.0.1:0").unwrap();
    host.set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let port = host.local_addr().unwrap().port();
    // A port that was free a moment ago.
    let forwarded = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let (passt, socket) = passt(forwarded);
    let config = Config {
        mac: MAC,
        mtu: Some(65520),
    };
    let mut net = Net::new("net0", config, Peer::Passt(socket), &no_sandbox()).unwrap();
    let mut driver = Driver::new(0x200_0000, &[256, 256], net.features());
    let free = driver.free();
    net.activate(driver.activation()).unwrap();
    let stats = net.stats();
    let files = [
        thread_of("net0"),
        format!("/proc/{}/schedstat", passt.0.id()),
    ];
    let files = [files[0].as_str(), files[1].as_str()];
    let done = AtomicBool::new(false);

    thread::scope(|scope| {
        // Whoever receives on the host throws it away.
        scope.spawn(|| {
            let mut buffer = vec![0; 0x1_0000];
            while !done.load(Ordering::Relaxed) {
                let _ = host.recv(&mut buffer);
            }
        });
        let packet = datagram(port, size);
        for slot in 0..64 {
            driver.queues[1].write(free + slot * BUFFER, &packet);
        }
        let sent = |stats: &Stats| stats.from_guest_bytes.get();
        let mut slot = 0;
        measure("to host", size, files, &|| sent(&stats), &mut || {
            let queue = &mut driver.queues[1];
            while queue.used().is_some() {}
            while queue.available_index.wrapping_sub(queue.seen) < 64 {
                let at = free + slot % 64 * BUFFER;
                slot += 1;
                queue.add(&[
                    readable(at, 12),
                    readable(at + 12, packet.len() as u32 - 12),
                ]);
            }
            queue.ring();
            thread::sleep(Duration::from_micros(50));
        });
        done.store(true, Ordering::Relaxed);
    });

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let data = vec![7; size];
            let to = ("127.0.0.1", forwarded);
            let from = UdpSocket::bind("127.0.0.1:0").unwrap();
            while !done.load(Ordering::Relaxed) {
                let _ = from.send_to(&data, to);
            }
        });
        let received = |stats: &Stats| stats.to_guest_bytes.get();
        let mut slot = 0;
        measure("to guest", size, files, &|| received(&stats), &mut || {
            let queue = &mut driver.queues[0];
            while queue.used().is_some() {}
            while queue.available_index.wrapping_sub(queue.seen) < 250 {
                queue.add(&[writable(free + slot % 256 * BUFFER, BUFFER as u32)]);
                slot += 1;
            }
            queue.ring();
            thread::sleep(Duration::from_micros(50));
        });
        done.store(true, Ordering::Relaxed);
    });
    net.reset();
    drop(passt);
}

fn main() {
    for size in [60_000, 1400] {
        cost(size);
    }
}
