//! A guest that has the device in its hands, and what it does.

mod flow;
mod hostile;
mod life;

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
