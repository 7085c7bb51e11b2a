use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use tempfile::TempDir;
use zerocopy::{FromBytes, IntoBytes};

use super::credit::BUFFER;
use super::packet::{Header, NO_RECEIVE, NO_SEND, NOTHING, STREAM, op};
use super::*;
use crate::virtio::testing::{Driver, Inline, eventually, no_sandbox, readable, writable};
use crate::virtio::worker::Handler;

const CID: u32 = 3;
const HEADER: u32 = packet::LEN;
/// Room for data in each of the guest's buffers.
const EACH: u32 = 4096;
/// The guest's room, as it says.
const ROOM: u32 = 64 << 10;

/// A guest that has the device in its hands.
struct Guest {
    driver: Driver,
    device: Inline<VsockHandler>,
    metrics: Arc<VsockMetrics>,
    dir: TempDir,
    /// Buffers are used in order.
    given: u64,
    sent: u64,
    forwarded: u32,
}

/// Buffers that its queue has room for.
const GIVEN: u64 = 128;
/// Slots for packets of the guest, of 128 KiB each.
const SLOTS: u64 = 16;
const SLOT: u64 = 0x3_0000;

impl Guest {
    fn new() -> Self {
        let driver = Driver::new(0x60_0000, QUEUES, features::COMMON);
        let dir = tempfile::tempdir().unwrap();
        let metrics = Arc::new(VsockMetrics::default());
        let handler = Vsock::handler(CID, &dir.path().join("v"), Arc::clone(&metrics)).unwrap();
        let device = Inline::start(handler, driver.activation());
        Self {
            driver,
            device,
            metrics,
            dir,
            given: 0,
            sent: 0,
            forwarded: 0,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("v")
    }

    /// Gives the device `count` buffers to receive in.
    fn give(&mut self, count: u64) {
        let free = self.driver.free();
        for _ in 0..count {
            let at = free + self.given % GIVEN * 0x2000;
            self.given += 1;
            self.driver.queues[0].add(&[writable(at, HEADER), writable(at + 64, EACH)]);
        }
        self.device.event(RECEIVE);
        self.device.settle();
    }

    fn header(&self, op: u16, ports: (u32, u32)) -> Header {
        Header {
            src_cid: u64::from(CID).into(),
            dst_cid: HOST_CID.into(),
            src_port: ports.0.into(),
            dst_port: ports.1.into(),
            len: 0.into(),
            kind: STREAM.into(),
            op: op.into(),
            flags: 0.into(),
            buf_alloc: ROOM.into(),
            fwd_cnt: self.forwarded.into(),
        }
    }

    fn put(&mut self, header: &Header, data: &[u8]) {
        let at = self.driver.free() + GIVEN * 0x2000 + self.sent % SLOTS * SLOT;
        self.sent += 1;
        let queue = &mut self.driver.queues[1];
        queue.write(at, header.as_bytes());
        queue.write(at + 64, data);
        match data.len() {
            0 => queue.add(&[readable(at, HEADER)]),
            len => queue.add(&[readable(at, HEADER), readable(at + 64, len as u32)]),
        };
        self.device.event(TRANSMIT);
        self.device.settle();
        while self.driver.queues[1].used().is_some() {}
    }

    /// Sends a packet from a port of the guest to one of the host.
    fn send(&mut self, op: u16, ports: (u32, u32), flags: u32, data: &[u8]) {
        let mut header = self.header(op, ports);
        header.flags = flags.into();
        header.len = (data.len() as u32).into();
        self.put(&header, data);
    }

    /// The next packet from the device.
    fn next(&mut self) -> Option<(Header, Vec<u8>)> {
        self.device.settle();
        let (head, len) = self.driver.queues[0].used()?;
        let at = self.driver.free() + u64::from(head) / 2 * 0x2000;
        let bytes = self.driver.queues[0].read(at, HEADER as usize);
        let header = Header::read_from_bytes(&bytes).unwrap();
        assert_eq!(len, HEADER + header.len.get());
        assert_eq!(header.src_cid.get(), HOST_CID);
        assert_eq!(header.dst_cid.get(), u64::from(CID));
        let data = self.driver.queues[0].read(at + 64, header.len.get() as usize);
        Some((header, data))
    }

    /// The next packet, which has this operation; with its flags and data.
    fn expect(&mut self, op: u16) -> (Header, Vec<u8>) {
        let (header, data) = self.next().expect("a packet");
        assert_eq!(header.op.get(), op, "{header:?}");
        (header, data)
    }

    fn silent(&mut self) {
        let next = self.next();
        assert!(next.is_none(), "{next:?}");
        assert_eq!(self.device.fault, None);
    }

    /// A host that connects to `port` of the guest, which agrees; and the port
    /// of the host.
    fn connected(&mut self, port: u32) -> (UnixStream, u32) {
        let mut host = self.call(port);
        let (header, _) = self.expect(op::REQUEST);
        assert_eq!(header.dst_port.get(), port);
        assert_eq!(header.buf_alloc.get(), BUFFER);
        let own = header.src_port.get();
        self.send(op::RESPONSE, (port, own), 0, &[]);
        let answer = format!("OK {own}\n");
        let mut got = vec![0; answer.len()];
        host.read_exact(&mut got).unwrap();
        assert_eq!(got, answer.as_bytes());
        (host, own)
    }

    /// Time passes.
    fn pass(&mut self, time: Duration) {
        self.device.handler.expire(Instant::now() + time);
        self.device.event(RECEIVE);
        self.device.settle();
    }

    fn call(&mut self, port: u32) -> UnixStream {
        let mut host = UnixStream::connect(self.path()).unwrap();
        host.set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        writeln!(host, "CONNECT {port}").unwrap();
        self.device.settle();
        host
    }

    fn reads(&self) -> u64 {
        self.metrics.stats.to_guest_bytes.get()
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 7) as u8 ^ (i >> 9) as u8).collect()
}

/// Reads what is there; true at the end.
fn drain(host: &mut UnixStream, into: &mut Vec<u8>) -> bool {
    host.set_nonblocking(true).unwrap();
    let result = host.read_to_end(into);
    host.set_nonblocking(false).unwrap();
    match result {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    }
}

#[test]
fn the_host_reaches_a_port_of_the_guest() {
    let mut guest = Guest::new();
    guest.give(64);
    let (mut host, port) = guest.connected(22);
    assert!(port >= 1 << 30);
    host.write_all(b"SSH-2.0-host\r\n").unwrap();
    let (header, data) = guest.expect(op::RW);
    assert_eq!(data, b"SSH-2.0-host\r\n");
    assert_eq!((header.src_port.get(), header.dst_port.get()), (port, 22));
    assert_eq!(header.kind.get(), STREAM);
    guest.send(op::RW, (22, port), 0, b"SSH-2.0-guest\r\n");
    let mut got = [0; 15];
    host.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"SSH-2.0-guest\r\n");
    assert_eq!(guest.metrics.connections.get(), 1);
    assert_eq!(guest.metrics.to_guest.get(), 1);
    // The host hangs up, and the guest agrees.
    drop(host);
    let (header, _) = guest.expect(op::SHUTDOWN);
    assert_eq!(header.flags.get(), NOTHING);
    guest.send(op::RST, (22, port), 0, &[]);
    guest.silent();
    assert_eq!(guest.metrics.connections.get(), 0);
    assert_eq!(guest.metrics.stats.from_guest_bytes.get(), 15);
    assert_eq!(guest.reads(), 14);
}

#[test]
fn what_a_host_says_before_the_guest_accepts_arrives_afterwards() {
    let mut guest = Guest::new();
    guest.give(8);
    let mut host = UnixStream::connect(guest.path()).unwrap();
    host.write_all(b"CONN").unwrap();
    guest.silent();
    host.write_all(b"ECT 80\nGET /").unwrap();
    let (header, _) = guest.expect(op::REQUEST);
    guest.silent();
    guest.send(op::RESPONSE, (80, header.src_port.get()), 0, &[]);
    let (_, data) = guest.expect(op::RW);
    assert_eq!(data, b"GET /");
}

#[test]
fn a_port_of_the_guest_without_a_listener_closes_the_socket() {
    let mut guest = Guest::new();
    guest.give(8);
    let mut host = guest.call(23);
    let (header, _) = guest.expect(op::REQUEST);
    guest.send(op::RST, (23, header.src_port.get()), 0, &[]);
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
    guest.silent();
    assert_eq!(guest.metrics.connections.get(), 0);
}

#[test]
fn who_does_not_greet_is_shown_out() {
    let mut guest = Guest::new();
    guest.give(8);
    let mut rude = UnixStream::connect(guest.path()).unwrap();
    rude.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let silent = UnixStream::connect(guest.path()).unwrap();
    guest.silent();
    assert_eq!(guest.metrics.connections.get(), 1);
    assert!(matches!(rude.read(&mut [0]), Ok(0) | Err(_)));
    assert_eq!(guest.metrics.refused.get(), 1);
    drop(silent);
    guest.silent();
    assert_eq!(guest.metrics.connections.get(), 0);
    assert_eq!(guest.device.handler.deadline(), None);
}

#[test]
fn time_runs_out_for_requests_and_for_ends_that_the_guest_does_not_answer() {
    let mut guest = Guest::new();
    guest.give(16);
    let mut host = guest.call(22);
    guest.expect(op::REQUEST);
    assert!(guest.device.handler.deadline().is_some());
    guest.pass(table::PATIENCE);
    guest.expect(op::RST);
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
    // A connection has all the time in the world, until its host closes it.
    let (host, _) = guest.connected(22);
    assert_eq!(guest.device.handler.deadline(), None);
    drop(host);
    guest.expect(op::SHUTDOWN);
    guest.pass(table::PATIENCE);
    guest.expect(op::RST);
    guest.silent();
    assert_eq!(guest.metrics.connections.get(), 0);
    // And nobody waits for who does not greet.
    let mut silent = UnixStream::connect(guest.path()).unwrap();
    guest.silent();
    guest.pass(table::PATIENCE);
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_host_that_gives_up_takes_its_request_back() {
    let mut guest = Guest::new();
    // Before the guest has heard of it, and after.
    drop(guest.call(22));
    guest.device.settle();
    assert_eq!(guest.metrics.connections.get(), 0);
    guest.give(8);
    guest.silent();
    let host = guest.call(22);
    guest.expect(op::REQUEST);
    drop(host);
    guest.expect(op::RST);
    guest.silent();
}

#[test]
fn the_guest_reaches_a_socket_of_the_host() {
    let mut guest = Guest::new();
    guest.give(64);
    let listener = UnixListener::bind(port_path(&guest.path(), 9999)).unwrap();
    guest.send(op::REQUEST, (1024, 9999), 0, &[]);
    let (mut host, _) = listener.accept().unwrap();
    let (header, _) = guest.expect(op::RESPONSE);
    assert_eq!((header.src_port.get(), header.dst_port.get()), (9999, 1024));
    guest.send(op::RW, (1024, 9999), 0, b"READY=1\n");
    guest.send(op::SHUTDOWN, (1024, 9999), NOTHING, &[]);
    guest.expect(op::RST);
    let mut got = String::new();
    host.read_to_string(&mut got).unwrap();
    assert_eq!(got, "READY=1\n");
    assert_eq!(guest.metrics.to_host.get(), 1);
    assert_eq!(guest.metrics.connections.get(), 0);
    // The same ports can be used again.
    guest.send(op::REQUEST, (1024, 9999), 0, &[]);
    guest.expect(op::RESPONSE);
}

#[test]
fn a_port_of_the_host_that_nobody_serves_is_refused() {
    let mut guest = Guest::new();
    guest.give(8);
    guest.send(op::REQUEST, (1024, 80), 0, &[]);
    let (header, _) = guest.expect(op::RST);
    assert_eq!((header.src_port.get(), header.dst_port.get()), (80, 1024));
    // One that has ended is as good as none, and one that is busy must not
    // keep the device waiting.
    drop(UnixListener::bind(port_path(&guest.path(), 81)).unwrap());
    guest.send(op::REQUEST, (1024, 81), 0, &[]);
    guest.expect(op::RST);
    let busy = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let address = SocketAddrUnix::new(port_path(&guest.path(), 82)).unwrap();
    rustix::net::bind(&busy, &address).unwrap();
    rustix::net::listen(&busy, 0).unwrap();
    guest.send(op::REQUEST, (1024, 82), 0, &[]);
    guest.expect(op::RESPONSE);
    guest.send(op::REQUEST, (1025, 82), 0, &[]);
    guest.expect(op::RST);
}

#[test]
fn each_direction_ends_by_itself() {
    let mut guest = Guest::new();
    guest.give(64);
    let (mut host, port) = guest.connected(7);
    // The host has said all, and listens.
    host.write_all(b"question").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.expect(op::RW).1, b"question");
    let (header, _) = guest.expect(op::SHUTDOWN);
    assert_eq!(header.flags.get(), NO_SEND);
    guest.send(op::RW, (7, port), 0, b"answer");
    guest.send(op::SHUTDOWN, (7, port), NO_SEND, &[]);
    let mut got = Vec::new();
    host.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"answer");
    assert_eq!(guest.expect(op::SHUTDOWN).0.flags.get(), NOTHING);
    guest.send(op::RST, (7, port), 0, &[]);
    assert_eq!(guest.metrics.connections.get(), 0);
    // And the other way around.
    let (mut host, port) = guest.connected(8);
    guest.send(op::SHUTDOWN, (8, port), NO_SEND, &[]);
    assert_eq!(host.read(&mut [0]).unwrap(), 0);
    host.write_all(b"still here").unwrap();
    assert_eq!(guest.expect(op::RW).1, b"still here");
    // Hints add up (5.10.6.5).
    guest.send(op::SHUTDOWN, (8, port), NO_RECEIVE, &[]);
    guest.expect(op::RST);
    assert!(host.write_all(b"nobody").is_err());
}

#[test]
fn what_the_guest_does_not_receive_the_host_cannot_write() {
    let mut guest = Guest::new();
    guest.give(64);
    let (mut host, port) = guest.connected(7);
    guest.send(op::SHUTDOWN, (7, port), NO_RECEIVE, &[]);
    assert_eq!(host.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    guest.send(op::RW, (7, port), 0, b"more");
    let mut got = [0; 4];
    host.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"more");
}

#[test]
fn a_host_that_reads_no_more_is_reported_and_costs_nothing() {
    let mut guest = Guest::new();
    guest.give(64);
    let (host, port) = guest.connected(7);
    host.shutdown(Shutdown::Read).unwrap();
    guest.send(op::RW, (7, port), 0, b"in vain");
    let (header, _) = guest.expect(op::SHUTDOWN);
    assert_eq!(header.flags.get(), NO_RECEIVE);
    // More than would fit, if it were kept.
    for _ in 0..2 * BUFFER / 0x8000 {
        guest.send(op::RW, (7, port), 0, &[1; 0x8000]);
        while guest.next().is_some() {}
        guest.give(1);
    }
    assert_eq!(guest.metrics.connections.get(), 1);
}

#[test]
fn a_slow_host_reader_gets_everything_and_slows_down_the_guest() {
    let mut guest = Guest::new();
    guest.give(100);
    let (mut host, port) = guest.connected(7);
    let data = pattern(3_000_000);
    let mut got = Vec::new();
    let (mut sent, mut granted, mut waits) = (0usize, BUFFER as usize, 0);
    while sent < data.len() {
        let len = (granted - sent).min(65536).min(data.len() - sent);
        if len > 0 {
            guest.send(op::RW, (7, port), 0, &data[sent..sent + len]);
            sent += len;
        } else {
            waits += 1;
            drain(&mut host, &mut got);
        }
        while let Some((header, _)) = guest.next() {
            assert_eq!(header.op.get(), op::CREDIT_UPDATE);
            granted = header.fwd_cnt.get() as usize + header.buf_alloc.get() as usize;
            guest.give(1);
        }
    }
    // The guest closes while the host is still reading.
    guest.send(op::SHUTDOWN, (7, port), NOTHING, &[]);
    guest.expect(op::RST);
    while !drain(&mut host, &mut got) {
        guest.device.settle();
    }
    assert!(waits > 0, "it had to wait");
    assert!(got == data);
    guest.silent();
    assert_eq!(guest.metrics.connections.get(), 0);
}

#[test]
fn the_guest_is_never_sent_more_than_it_has_room_for() {
    let mut guest = Guest::new();
    guest.give(100);
    let (mut host, port) = guest.connected(7);
    let data = pattern(300_000);
    host.set_nonblocking(true).unwrap();
    let (mut written, mut got, mut asked) = (0, Vec::new(), 0);
    while got.len() < data.len() {
        if let Ok(n) = host.write(&data[written..]) {
            written += n;
        }
        while let Some((header, more)) = guest.next() {
            match header.op.get() {
                op::RW => got.extend(more),
                op::CREDIT_REQUEST => asked += 1,
                other => unreachable!("operation {other}"),
            }
            guest.give(1);
        }
        let there = got.len() as u32 - guest.forwarded;
        assert!(there <= ROOM);
        guest.forwarded = got.len() as u32;
        guest.send(op::CREDIT_UPDATE, (7, port), 0, &[]);
    }
    assert!(got == data);
    assert!(asked >= 3, "credit ran out {asked} times");
}

#[test]
fn a_guest_that_asks_for_credit_is_told() {
    let mut guest = Guest::new();
    guest.give(8);
    let (_host, port) = guest.connected(7);
    guest.send(op::RW, (7, port), 0, b"abc");
    guest.silent();
    guest.send(op::CREDIT_REQUEST, (7, port), 0, &[]);
    let (header, _) = guest.expect(op::CREDIT_UPDATE);
    assert_eq!((header.fwd_cnt.get(), header.buf_alloc.get()), (3, BUFFER));
    guest.silent();
}

#[test]
fn more_than_was_granted_ends_the_connection() {
    let mut guest = Guest::new();
    guest.give(64);
    let (_host, port) = guest.connected(7);
    let mut sent = 0;
    // The socket takes some, then the buffer what was granted.
    let over = loop {
        guest.send(op::RW, (7, port), 0, &[7; 0x1_0000]);
        sent += 0x1_0000;
        assert!(sent < 0x100_0000, "it takes everything");
        let next = guest.next();
        if next.as_ref().is_some_and(|n| n.0.op.get() == op::RST) {
            break sent;
        }
    };
    assert!(over > BUFFER);
    guest.silent();
    // What was accepted is delivered nevertheless.
    assert_eq!(guest.metrics.connections.get(), 1);
}

#[test]
fn packets_to_nobody_are_reset_once() {
    let mut guest = Guest::new();
    guest.give(32);
    guest.send(op::RW, (1, 2), 0, b"hello");
    let (header, _) = guest.expect(op::RST);
    assert_eq!((header.src_port.get(), header.dst_port.get()), (2, 1));
    guest.send(op::RST, (1, 2), 0, &[]);
    guest.silent();
    // 5.10.6.4.2: unknown types.
    let mut header = guest.header(op::REQUEST, (1, 2));
    header.kind = 2.into();
    guest.put(&header, &[]);
    assert_eq!(guest.expect(op::RST).0.kind.get(), 2);
    // Another guest, which only the host could reach.
    let mut header = guest.header(op::REQUEST, (1, 2));
    header.dst_cid = 4.into();
    guest.put(&header, &[]);
    guest.device.settle();
    let (_, len) = guest.driver.queues[0].used().unwrap();
    assert_eq!(len, HEADER);
    // Who is not who it says is not answered.
    let mut header = guest.header(op::REQUEST, (1, 2));
    header.src_cid = 4.into();
    guest.put(&header, &[]);
    guest.silent();
    assert_eq!(guest.metrics.stats.dropped.get(), 1);
}

#[test]
fn operations_at_the_wrong_time_end_the_connection() {
    for op in [op::REQUEST, op::RESPONSE, 0, 8, 0xffff] {
        let mut guest = Guest::new();
        guest.give(8);
        let (mut host, port) = guest.connected(7);
        guest.send(op, (7, port), 0, &[]);
        guest.expect(op::RST);
        assert_eq!(host.read(&mut [0]).unwrap(), 0, "{op}");
    }
    for op in [op::RW, op::SHUTDOWN, op::CREDIT_UPDATE] {
        let mut guest = Guest::new();
        guest.give(8);
        let mut host = guest.call(7);
        let port = guest.expect(op::REQUEST).0.src_port.get();
        guest.send(op, (7, port), NOTHING, &[]);
        guest.expect(op::RST);
        assert_eq!(host.read(&mut [0]).unwrap(), 0, "{op}");
    }
}

#[test]
fn a_guest_that_takes_no_answers_gives_no_more_packets() {
    let mut guest = Guest::new();
    let free = guest.driver.free() + GIVEN * 0x2000;
    let header = guest.header(op::RW, (1, 2));
    guest.driver.queues[1].write(free, header.as_bytes());
    let mut served = 0;
    for _ in 0..10 {
        for _ in 0..100 {
            guest.driver.queues[1].add(&[readable(free, HEADER)]);
            if guest.driver.queues[1].available_index as usize - served >= 200 {
                break;
            }
        }
        guest.device.event(TRANSMIT);
        while guest.driver.queues[1].used().is_some() {
            served += 1;
        }
    }
    assert!((200..400).contains(&served), "{served}");
    let waiting = usize::from(guest.driver.queues[1].available_index) - served;
    assert!(waiting > 0);
    // With room for answers it goes on by itself.
    let mut answers = 0;
    while answers < served + waiting {
        guest.give(50);
        while guest.next().is_some() {
            answers += 1;
        }
    }
    guest.silent();
}

#[test]
fn connections_have_a_limit_and_others_wait() {
    let mut guest = Guest::new();
    let listener = UnixListener::bind(port_path(&guest.path(), 1)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut hosts = Vec::new();
    for port in 0..table::MOST as u32 {
        guest.give(1);
        guest.send(op::REQUEST, (port, 1), 0, &[]);
        guest.expect(op::RESPONSE);
        hosts.push(listener.accept().unwrap().0);
    }
    guest.give(4);
    guest.send(op::REQUEST, (5000, 1), 0, &[]);
    guest.expect(op::RST);
    let mut late = guest.call(22);
    guest.silent();
    guest.send(op::SHUTDOWN, (0, 1), NOTHING, &[]);
    guest.expect(op::RST);
    let (header, _) = guest.expect(op::REQUEST);
    guest.send(op::RESPONSE, (22, header.src_port.get()), 0, &[]);
    let mut got = [0; 3];
    late.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"OK ");
}

#[test]
fn two_connections_share_the_queue() {
    let mut guest = Guest::new();
    guest.give(2);
    let (mut a, _) = guest.connected(1);
    let (mut b, _) = guest.connected(2);
    a.write_all(&pattern(20_000)).unwrap();
    b.write_all(&pattern(20_000)).unwrap();
    guest.silent();
    let mut turns = Vec::new();
    guest.give(10);
    while let Some((header, data)) = guest.next() {
        if !data.is_empty() {
            turns.push(header.dst_port.get());
        }
    }
    assert!(
        turns.windows(3).any(|w| w[0] != w[1] && w[1] != w[2]),
        "{turns:?}"
    );
}

#[test]
fn broken_packets_stop_the_device() {
    let break_with = |f: &dyn Fn(&mut Guest)| {
        let mut guest = Guest::new();
        guest.give(8);
        let (_host, port) = guest.connected(7);
        let header = guest.header(op::RW, (7, port));
        let at = guest.driver.free() + GIVEN * 0x2000;
        guest.driver.queues[1].write(at, header.as_bytes());
        f(&mut guest);
        guest.device.event(TRANSMIT);
        guest.device.event(RECEIVE);
        assert_eq!(guest.metrics.connections.get(), 0);
        guest.device.fault.clone().unwrap()
    };
    let at = Guest::new().driver.free() + GIVEN * 0x2000;
    for (why, pieces) in [
        ("44 are needed", vec![readable(at, 43)]),
        ("writable", vec![readable(at, HEADER), writable(at, 8)]),
        (
            "not in memory",
            vec![readable(at, HEADER), readable(1 << 40, 8)],
        ),
    ] {
        let fault = break_with(&|guest| {
            guest.driver.queues[1].add(&pieces);
        });
        assert!(fault.contains(why), "{fault}");
    }
    // More data than the chain has.
    let fault = break_with(&|guest| {
        let len = guest.driver.queues[1].read(at, 44);
        let mut header = Header::read_from_bytes(&len).unwrap();
        header.len = u32::MAX.into();
        guest.driver.queues[1].write(at, header.as_bytes());
        guest.driver.queues[1].add(&[readable(at, HEADER + 8)]);
    });
    assert!(fault.contains("4294967339 are needed"), "{fault}");
    // Receive buffers without room, once there is something to receive.
    for pieces in [vec![writable(at, HEADER)], vec![readable(at, 100)]] {
        let mut guest = Guest::new();
        guest.driver.queues[0].add(&pieces);
        guest.send(op::RW, (1, 2), 0, &[]);
        assert!(guest.device.fault.unwrap().contains("room for a header"));
    }
}

#[test]
fn the_device_works_on_its_own_thread_and_again_after_a_reset() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsock");
    let mut vsock = Vsock::new("vsock0", 77, &path, &no_sandbox()).unwrap();
    let mut config = [0; 12];
    vsock.read_config(0, &mut config);
    assert_eq!(config, [77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for round in 0..2 {
        let mut driver = Driver::new(0x10_0000, QUEUES, features::COMMON);
        let free = driver.free();
        // Connecting works before there is a driver.
        let mut host = UnixStream::connect(&path).unwrap();
        host.write_all(b"CONNECT 5\n").unwrap();
        vsock.activate(driver.activation()).unwrap();
        driver.queues[2].ring();
        driver.queues[0].add(&[writable(free, 4096)]);
        driver.queues[0].ring();
        assert_eq!(driver.queues[0].wait_used(), (0, HEADER));
        let bytes = driver.queues[0].read(free, HEADER as usize);
        let mut answer = Header::read_from_bytes(&bytes).unwrap().reset();
        assert_eq!(answer.src_cid.get(), 77);
        answer.op = op::RESPONSE.into();
        driver.queues[1].write(free, answer.as_bytes());
        driver.queues[1].add(&[readable(free, HEADER)]);
        driver.queues[1].ring();
        driver.queues[1].wait_used();
        let mut got = [0; 3];
        host.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"OK ", "round {round}");
        if round == 1 {
            driver.queues[1].publish(700);
            driver.queues[1].ring();
            eventually("it gives up", || driver.broken());
        }
        vsock.reset();
        assert_eq!(vsock.metrics().connections.get(), 0);
        // All connections have ended.
        let mut rest = Vec::new();
        host.read_to_end(&mut rest).unwrap();
        assert!(driver.interrupts.count.load(Ordering::SeqCst) > 0);
    }
    drop(vsock);
    assert!(!path.exists());
}

#[test]
fn addresses_that_are_not_a_guests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for cid in [0, 1, 2, u32::MAX] {
        let error = Vsock::new("vsock0", cid, &dir.path().join("v"), &no_sandbox()).unwrap_err();
        assert!(error.to_string().contains("no address of a guest"));
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_guest_and_host_do_is_harmless(
        bytes in proptest::collection::vec(0u8..=255, 0..3000),
    ) {
        random::play(&bytes);
    }
}
