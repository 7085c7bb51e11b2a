//! A guest and a host that use a socket device as bytes say.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use zerocopy::{FromBytes, IntoBytes};

use super::packet::{self, Header, STREAM, op};
use super::{HOST_CID, QUEUES, RECEIVE, TRANSMIT, Vsock, port_path, table};
use crate::virtio::features;
use crate::virtio::testing::script::{self, Actor, Input, Request};
use crate::virtio::testing::{Driver, Inline};

const CID: u32 = 3;
/// The port of the host that is served.
const SERVED: u32 = 1;
/// A guest that says so has room for everything.
const ENDLESS: u32 = 1 << 30;

#[derive(Debug)]
struct Both {
    path: PathBuf,
    listener: UnixListener,
    hosts: Vec<UnixStream>,
    /// Guest's and host's ports of connections, and bytes that came.
    known: Vec<(u32, u32)>,
    came: HashMap<(u32, u32), u32>,
}

impl Actor for Both {
    fn request(&mut self, queue: u16, input: &mut Input<'_>) -> Request {
        match queue {
            RECEIVE => Request {
                readable: Vec::new(),
                writable: packet::LEN + input.pick(&[64, 4096, 0x1_0000, 1]),
            },
            TRANSMIT => Request {
                readable: self.packet(input),
                writable: 0,
            },
            _ => Request {
                readable: Vec::new(),
                writable: 8,
            },
        }
    }

    fn host(&mut self, input: &mut Input<'_>) {
        let which = input.below(4) as usize;
        let Some(host) = self.hosts.get_mut(which) else {
            if input.below(2) == 0
                && let Ok((host, _)) = self.listener.accept()
            {
                host.set_nonblocking(true).unwrap();
                self.hosts.push(host);
            } else if let Ok(mut host) = UnixStream::connect(&self.path) {
                host.set_nonblocking(true).unwrap();
                let line = match input.rarely() {
                    true => "GET / HTTP/1.1\r\n",
                    false => "CONNECT 5\nmore",
                };
                let _ = host.write(&line.as_bytes()[..line.len() - input.below(8) as usize]);
                self.hosts.push(host);
            }
            return;
        };
        match input.below(6) {
            0 => drop(host.shutdown(Shutdown::Write)),
            1 => drop(host.shutdown(Shutdown::Read)),
            2 => drop(self.hosts.swap_remove(which)),
            3 => drop(host.read(&mut vec![0; input.u16().into()])),
            _ => drop(host.write(&input.data(0x2_0000))),
        }
    }

    fn answered(&mut self, queue: u16, bytes: &[u8]) {
        if queue != RECEIVE {
            return;
        }
        let (header, data) = Header::read_from_prefix(bytes).unwrap();
        assert_eq!(header.len.get() as usize, data.len());
        let ports = (header.dst_port.get(), header.src_port.get());
        if header.op.get() != op::RST {
            assert_eq!(header.src_cid.get(), HOST_CID);
        }
        match header.op.get() {
            op::REQUEST | op::RESPONSE => {
                self.known.retain(|known| *known != ports);
                self.known.push(ports);
                self.came.insert(ports, 0);
            }
            op::RST => self.known.retain(|known| *known != ports),
            op::RW => *self.came.entry(ports).or_default() += data.len() as u32,
            _ => {}
        }
    }
}

impl Both {
    fn packet(&mut self, input: &mut Input<'_>) -> Vec<u8> {
        let new = (input.below(4), SERVED);
        let which = input.below(8) as usize;
        let (ports, op) = match self.known.get(which) {
            Some(known) => (
                *known,
                match input.below(16) {
                    0 => op::RESPONSE,
                    1 => op::SHUTDOWN,
                    2 => op::CREDIT_REQUEST,
                    3 => op::CREDIT_UPDATE,
                    4 if input.rarely() => input.u16(),
                    4 => op::RST,
                    // The first answer to a request of the host.
                    5..=7 if !self.came.contains_key(known) => op::RESPONSE,
                    _ => op::RW,
                },
            ),
            None if input.rarely() => ((input.u32(), input.u32()), op::RW),
            None => (new, op::REQUEST),
        };
        let data = match op {
            op::RW => input.data(0x1_0000),
            _ => Vec::new(),
        };
        let mut header = Header {
            src_cid: u64::from(CID).into(),
            dst_cid: HOST_CID.into(),
            src_port: ports.0.into(),
            dst_port: ports.1.into(),
            len: (data.len() as u32).into(),
            kind: STREAM.into(),
            op: op.into(),
            flags: input.below(4).into(),
            buf_alloc: input.pick(&[ENDLESS, ENDLESS, 4096, 0]).into(),
            fwd_cnt: self.came.get(&ports).copied().unwrap_or_default().into(),
        };
        if input.rarely() {
            match input.below(5) {
                0 => header.src_cid = input.u64().into(),
                1 => header.dst_cid = input.u64().into(),
                2 => header.len = input.u32().into(),
                3 => header.kind = input.u16().into(),
                _ => header.fwd_cnt = input.u32().into(),
            }
        }
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(data);
        bytes
    }
}

/// Plays it.
///
/// # Panics
/// If the device does what it must not.
pub fn play(bytes: &[u8]) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("bw-vsock-{}-{count}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let path = dir.join("v");
    let listener = UnixListener::bind(port_path(&path, SERVED)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let metrics = Arc::default();
    let handler = Vsock::handler(CID, &path, Arc::clone(&metrics)).unwrap();
    let mut both = Both {
        path,
        listener,
        hosts: Vec::new(),
        known: Vec::new(),
        came: HashMap::new(),
    };
    let mut driver = Driver::new(script::MEMORY, QUEUES, features::COMMON);
    let mut device = Inline::start(handler, driver.activation());
    script::play(&mut driver, &mut device, &mut Input::new(bytes), &mut both);
    assert!(metrics.connections.get() <= table::MOST as u64);
    if device.fault.is_some() {
        assert_eq!(metrics.connections.get(), 0, "all ended with the device");
    }
    fs::remove_dir_all(dir).unwrap();
}
