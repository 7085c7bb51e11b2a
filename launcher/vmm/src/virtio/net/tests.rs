mod offload;

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;
use crate::virtio::testing::{
    Driver, DriverQueue, Inline, eventually, no_sandbox, readable, writable,
};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const MERGE: u64 = features::COMMON | feature::MRG_RXBUF | feature::GUEST_CSUM;

fn config() -> Config {
    Config {
        mac: MAC,
        mtu: Some(65520),
    }
}

fn driver(features: u64) -> Driver {
    Driver::new(0x80_0000, &[256, 256], features)
}

/// passt's end, and a device at the other.
fn device(driver: &Driver) -> (UnixStream, Inline<NetHandler<Passt>>) {
    let (host, guest) = UnixStream::pair().unwrap();
    host.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let handler = NetHandler::alone(Passt::new(guest).unwrap(), Arc::default());
    (host, Inline::start(handler, driver.activation()))
}

fn put(host: &mut UnixStream, frame: &[u8]) {
    let mut bytes = (frame.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(frame);
    host.write_all(&bytes).unwrap();
}

fn get(host: &mut UnixStream) -> Vec<u8> {
    let mut len = [0; 4];
    host.read_exact(&mut len).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(len) as usize];
    host.read_exact(&mut frame).unwrap();
    frame
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i / 3) as u8 ^ seed).collect()
}

/// Makes a packet with an empty header available.
fn send(queue: &mut DriverQueue, at: u64, frame: &[u8]) {
    queue.write(at, &[0; HEADER]);
    queue.write(at + HEADER as u64, frame);
    // Header and frame apart, as Linux does for most.
    queue.add(&[
        readable(at, HEADER as u32),
        readable(at + HEADER as u64, frame.len() as u32),
    ]);
}

/// Collects a packet from its buffers, of `len` bytes at `at` by head.
fn take(queue: &mut DriverQueue, at: u64, each: u64) -> Option<(Vec<u8>, Vec<u8>)> {
    let (head, len) = queue.used()?;
    let mut packet = queue.read(at + u64::from(head) * each, len as usize);
    let buffers = u16::from_le_bytes([packet[10], packet[11]]);
    for _ in 1..buffers {
        let (head, len) = queue.used().expect("all of a packet is used at once");
        packet.extend(queue.read(at + u64::from(head) * each, len as usize));
    }
    let frame = packet.split_off(HEADER);
    Some((packet, frame))
}

#[test]
fn frames_go_to_passt_with_their_length() {
    let mut driver = driver(MERGE);
    let free = driver.free();
    let (mut host, mut device) = device(&driver);
    for len in [14, 60, 1514, 65535] {
        let frame = pattern(len, 1);
        send(&mut driver.queues[1], free, &frame);
        device.event(1u16);
        assert!(driver.queues[1].used().is_some());
        assert!(get(&mut host) == frame, "{len}");
    }
    // What passt would hang up at is not sent.
    for len in [13, 65536] {
        send(&mut driver.queues[1], free, &pattern(len, 2));
    }
    send(&mut driver.queues[1], free + 0x2_0000, &pattern(20, 3));
    device.event(1u16);
    assert_eq!(get(&mut host), pattern(20, 3));
    assert_eq!(device.fault, None);
}

#[test]
fn a_peer_that_does_not_read_stops_the_guest_and_loses_nothing() {
    let mut driver = driver(MERGE);
    let free = driver.free();
    let (mut host, mut device) = device(&driver);
    let frames: Vec<_> = (0..60).map(|i| pattern(20_000 + i * 7, i as u8)).collect();
    for (i, frame) in frames.iter().enumerate() {
        send(&mut driver.queues[1], free + i as u64 * 0x8000, frame);
    }
    device.event(1u16);
    let mut done = 0;
    while driver.queues[1].used().is_some() {
        done += 1;
    }
    assert!(done < frames.len(), "the socket holds them all");
    for (i, frame) in frames.iter().enumerate() {
        // Reading makes room, for the rest of a frame first.
        assert!(get_while(&mut host, &mut device) == *frame, "frame {i}");
    }
    assert_eq!(device.fault, None);
}

fn get_while(host: &mut UnixStream, device: &mut Inline<NetHandler<Passt>>) -> Vec<u8> {
    host.set_nonblocking(true).unwrap();
    let mut bytes = vec![0; 4];
    let mut at = 0;
    while at < bytes.len() {
        match host.read(&mut bytes[at..]) {
            Ok(n) => at += n,
            Err(_) => device.event(handler::PEER),
        }
        if at == 4 {
            let len = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            bytes.resize(4 + len as usize, 0);
        }
    }
    bytes.split_off(4)
}

#[test]
fn a_frame_is_spread_over_merged_buffers() {
    let mut driver = driver(MERGE);
    let free = driver.free();
    let (mut host, mut device) = device(&driver);
    let frames = [pattern(60, 1), pattern(9000, 2), pattern(65535, 3)];
    for frame in &frames {
        put(&mut host, frame);
    }
    device.event(handler::PEER);
    assert_eq!(driver.queues[0].used(), None, "no buffers yet");
    for i in 0..64 {
        driver.queues[0].add(&[writable(free + i * 1536, 1536)]);
    }
    device.event(0u16);
    for frame in &frames {
        // The socket may not hold the longest at once.
        device.event(handler::PEER);
        let (header, got) = take(&mut driver.queues[0], free, 1536).expect("a packet");
        assert!(got == *frame);
        assert_eq!(header[0], 2, "its checksum need not be verified");
        let buffers = (frame.len() + HEADER).div_ceil(1536) as u8;
        assert_eq!(header[10], buffers);
    }
    assert_eq!(device.fault, None);
}

#[test]
fn without_merging_a_frame_has_one_buffer() {
    let mut driver = driver(features::COMMON);
    let free = driver.free();
    let (mut host, mut device) = device(&driver);
    for i in 0..4 {
        driver.queues[0].add(&[writable(free + i * 2048, 1526)]);
    }
    for frame in [pattern(1514, 1), pattern(1515, 2), pattern(100, 3)] {
        put(&mut host, &frame);
    }
    device.event(handler::PEER);
    let (header, got) = take(&mut driver.queues[0], free, 2048).unwrap();
    assert_eq!(
        (header, got),
        (vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], pattern(1514, 1))
    );
    let (_, got) = take(&mut driver.queues[0], free, 2048).unwrap();
    assert_eq!(got, pattern(100, 3), "the one that is too long is dropped");
    assert_eq!(device.fault, None);
}

#[test]
fn a_frame_that_is_longer_than_all_buffers_does_not_block() {
    let mut driver = Driver::new(0x10_0000, &[4, 4], MERGE);
    let free = driver.free();
    let (mut host, mut device) = device(&driver);
    for i in 0..4 {
        driver.queues[0].add(&[writable(free + i * 256, 256)]);
    }
    put(&mut host, &pattern(2000, 1));
    put(&mut host, &pattern(500, 2));
    device.event(handler::PEER);
    let (_, got) = take(&mut driver.queues[0], free, 256).unwrap();
    assert_eq!(got, pattern(500, 2));
}

#[test]
fn nonsense_on_the_socket_is_skipped() {
    let mut driver = driver(MERGE);
    let free = driver.free();
    let (mut host, mut device) = device(&driver);
    driver.queues[0].add(&[writable(free, 2048)]);
    put(&mut host, b"short");
    put(&mut host, b"");
    put(&mut host, &pattern(70_000, 1));
    put(&mut host, &pattern(64, 2));
    for _ in 0..4 {
        device.event(handler::PEER);
    }
    let (_, got) = take(&mut driver.queues[0], free, 2048).unwrap();
    assert_eq!(got, pattern(64, 2));
}

#[test]
fn when_the_peer_is_gone_the_link_is_down() {
    let mut driver = driver(MERGE);
    let free = driver.free();
    let (host, guest) = UnixStream::pair().unwrap();
    let mut net = Net::new("net0", config(), Peer::Passt(guest), &no_sandbox()).unwrap();
    let mut settings = [0; 12];
    net.read_config(0, &mut settings);
    assert_eq!(
        settings,
        [0x52, 0x54, 0, 0x12, 0x34, 0x56, 1, 0, 1, 0, 0xf0, 0xff]
    );
    net.activate(driver.activation()).unwrap();
    driver.queues[0].add(&[writable(free, 2048)]);
    driver.queues[0].ring();
    drop(host);
    eventually("the link is down", || {
        net.read_config(6, &mut settings[..1]);
        settings[0] == 0
    });
    let interrupts = Arc::clone(&driver.interrupts);
    eventually("the driver is told", || {
        interrupts.config.load(Ordering::SeqCst) == 1
    });
    // Frames go nowhere, and the driver gets its buffers back.
    send(&mut driver.queues[1], free, &pattern(60, 1));
    driver.queues[1].ring();
    driver.queues[1].wait_used();
    net.reset();
}

#[test]
fn bad_packets_break_the_queue() {
    type Case = (u16, fn(&mut DriverQueue), &'static str);
    let cases: &[Case] = &[
        (
            0,
            |q| {
                q.add(&[writable(0x8000, 11)]);
            },
            "room for a header",
        ),
        (
            0,
            |q| {
                q.add(&[readable(0x8000, 20)]);
            },
            "room for a header",
        ),
        (
            1,
            |q| {
                q.add(&[readable(0x8000, 11)]);
            },
            "12 are needed",
        ),
        (
            1,
            |q| {
                q.add(&[readable(0x8000, 64), writable(0x8000, 64)]);
            },
            "writable",
        ),
    ];
    for (index, make, want) in cases {
        let mut driver = driver(MERGE);
        let (mut host, mut device) = device(&driver);
        put(&mut host, &pattern(60, 0));
        make(&mut driver.queues[usize::from(*index)]);
        device.event(*index);
        assert!(
            device.fault.as_ref().unwrap().contains(want),
            "{:?}",
            device.fault
        );
    }
}

#[test]
fn after_a_reset_frames_are_whole() {
    // A reset in the middle of a frame must not shift the stream.
    let mut driver = driver(MERGE);
    let free = driver.free();
    let (mut host, mut device) = device(&driver);
    let frame = pattern(60_000, 9);
    for _ in 0..10 {
        send(&mut driver.queues[1], free, &frame);
    }
    device.event(1u16);
    use crate::virtio::worker::Handler;
    device.handler.stop(&device.poll);
    let mut driver = self::driver(MERGE);
    let mut device = Inline::start(device.handler, driver.activation());
    send(&mut driver.queues[1], free, &pattern(99, 5));
    device.event(1u16);
    for _ in 0..11 {
        let got = get_while(&mut host, &mut device);
        if got == pattern(99, 5) {
            return;
        }
        assert!(got == frame);
    }
    panic!("the last frame did not come");
}

/// passt on a socket of ours; ended with the test.
struct RealPasst(Child);

impl Drop for RealPasst {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn passt() -> (RealPasst, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let fd = theirs.as_raw_fd();
    // SAFETY: clears close-on-exec of a descriptor that is open.
    #[allow(unsafe_code)]
    unsafe {
        libc::fcntl(fd, libc::F_SETFD, 0);
    }
    let child = Command::new("passt")
        .args(["--foreground", "--quiet", "--no-map-gw", "--fd"])
        .arg(fd.to_string())
        .args([
            "-a",
            "192.0.2.2",
            "-n",
            "24",
            "-g",
            "192.0.2.1",
            "-D",
            "none",
        ])
        .stderr(Stdio::null())
        .spawn()
        .expect("passt (apt-get install passt)");
    (RealPasst(child), ours)
}

/// Who has 192.0.2.`last`? Tell 192.0.2.2.
fn arp(last: u8) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(MAC);
    frame.extend([192, 0, 2, 2, 0, 0, 0, 0, 0, 0, 192, 0, 2, last]);
    frame
}

#[test]
fn passt_answers() {
    let (_passt, socket) = passt();
    let mut driver = driver(MERGE);
    let free = driver.free();
    let mut net = Net::new("net0", config(), Peer::Passt(socket), &no_sandbox()).unwrap();
    net.activate(driver.activation()).unwrap();
    for i in 0..16 {
        driver.queues[0].add(&[writable(free + i * 2048, 2048)]);
    }
    driver.queues[0].ring();
    send(&mut driver.queues[1], free + 0x2_0000, &arp(1));
    driver.queues[1].ring();
    let (head, len) = driver.queues[0].wait_used();
    let packet = driver.queues[0].read(free + u64::from(head) * 2048, len as usize);
    let frame = &packet[HEADER..];
    assert_eq!(frame[..6], MAC);
    assert_eq!(frame[12..14], [8, 6]);
    assert_eq!(frame[20..22], [0, 2], "a reply");
    assert_eq!(frame[28..32], [192, 0, 2, 1]);
    assert_eq!(net.stats().from_guest.get(), 1);
    net.reset();
}

/// A tap in a network of the test's own thread, with the host at 192.0.2.1; no
/// tap where that is not allowed.
fn tap(queues: usize) -> Option<Vec<OwnedFd>> {
    // SAFETY: a new network namespace for this thread only.
    #[allow(unsafe_code)]
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
        eprintln!("not allowed to make a network namespace: not tested");
        return None;
    }
    let fds = match tap::open("tap0", queues) {
        Ok(fds) => fds,
        Err(error) => {
            eprintln!("no tap here ({error}): not tested");
            return None;
        }
    };
    for args in [
        &["address", "add", "192.0.2.1/24", "dev", "tap0"][..],
        &["link", "set", "tap0", "up"],
    ] {
        let status = Command::new("ip").args(args).status().unwrap();
        assert!(status.success());
    }
    Some(fds)
}

#[test]
fn the_host_answers_over_a_tap() {
    let Some(fds) = tap(1) else { return };
    let features = MERGE | feature::GUEST_TSO4 | feature::GUEST_TSO6 | feature::CSUM;
    let mut driver = driver(features);
    let free = driver.free();
    let mut net = Net::new("net0", config(), Peer::Tap(fds), &no_sandbox()).unwrap();
    assert_eq!(net.queue_sizes().len(), 2);
    assert_eq!(net.features() & features, features);
    net.activate(driver.activation()).unwrap();
    for i in 0..128 {
        driver.queues[0].add(&[writable(free + i * 2048, 1536)]);
    }
    driver.queues[0].ring();
    send(&mut driver.queues[1], free + 0x10_0000, &arp(1));
    driver.queues[1].ring();
    eventually("an answer", || {
        // The host says things of its own as well.
        while let Some((header, frame)) = take(&mut driver.queues[0], free, 2048) {
            assert_eq!(header[10..], [1, 0]);
            if frame[12..14] == [8, 6] && frame[20..22] == [0, 2] {
                assert_eq!(frame[28..32], [192, 0, 2, 1]);
                return true;
            }
        }
        false
    });
    net.reset();
}

#[test]
fn queues_of_a_tap_are_used_as_the_driver_says() {
    let Some(fds) = tap(4) else { return };
    let features = MERGE | feature::MQ | feature::CTRL_VQ;
    let mut driver = Driver::new(0x80_0000, &[256; 9], features);
    let free = driver.free();
    let mut net = Net::new("net0", config(), Peer::Tap(fds), &no_sandbox()).unwrap();
    assert_eq!(net.queue_sizes().len(), 9);
    let mut pairs = [0; 2];
    net.read_config(8, &mut pairs);
    assert_eq!(pairs, [4, 0]);
    for _ in 0..2 {
        net.activate(driver.activation()).unwrap();
        let control = &mut driver.queues[8];
        for (command, answer) in [
            ([4, 0, 4, 0], 0),
            ([4, 0, 2, 0], 0),
            ([4, 0, 0, 0], 1),
            ([4, 0, 5, 0], 1),
            ([4, 1, 1, 0], 1),
            ([0, 0, 1, 0], 1),
        ] {
            control.write(free, &command);
            control.write(free + 8, &[0xff]);
            control.add(&[
                readable(free, 2),
                readable(free + 2, 2),
                writable(free + 8, 1),
            ]);
            control.ring();
            control.wait_used();
            assert_eq!(control.read(free + 8, 1), [answer], "{command:?}");
        }
        // Each pair sends.
        for pair in 0..4usize {
            let queue = &mut driver.queues[pair * 2 + 1];
            send(queue, free, &arp(1));
            queue.ring();
            queue.wait_used();
        }
        net.reset();
        driver = Driver::new(0x80_0000, &[256; 9], features);
    }
    assert_eq!(net.stats().fault(), None);
    assert_eq!(net.stats().from_guest.get() + net.stats().dropped.get(), 8);
}

#[test]
fn what_is_no_tap_is_refused() {
    let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    assert!(Net::new("net0", config(), Peer::Tap(vec![null]), &no_sandbox()).is_err());
    assert!(Net::new("net0", config(), Peer::Tap(vec![]), &no_sandbox()).is_err());
    assert!(tap::open("a-name-that-is-too-long", 1).is_err());
    let low = Config {
        mac: MAC,
        mtu: Some(60),
    };
    let (socket, _) = UnixStream::pair().unwrap();
    assert!(Net::new("net0", low, Peer::Passt(socket), &no_sandbox()).is_err());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_guest_and_passt_do_is_harmless(
        bytes in proptest::collection::vec(0u8..=255, 0..3000),
    ) {
        random::play(&bytes);
    }
}
