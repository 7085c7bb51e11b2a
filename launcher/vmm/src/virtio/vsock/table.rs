//! All connections of a device, and what is to be said of them to the guest.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_memory::GuestMemoryMmap;

use super::connection::{Connection, Fate, Unsent};
use super::host::{Greeted, Greeting, Host};
use super::packet::{self, Header, NOTHING, Ports, op};
use super::{HOST_CID, VsockMetrics};
use crate::virtio::queue::{Chain, QueueError};
use crate::virtio::worker::{EventSet, Poll, Token};

/// The most connections, those included that have only begun or have only
/// bytes left to write.
pub(super) const MOST: usize = 256;
/// The most packets that wait for room in the receive queue and belong to no
/// connection; with more, no packets of the guest are taken.
const MOST_RESETS: usize = 256;
/// How long a host may take for its greeting, and a guest for its answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The first port of the host that is given to who connects from there; those
/// below are for who listens.
const FIRST_PORT: u32 = 1 << 30;

#[derive(Debug)]
enum Entry {
    /// Someone on the host who has not said where to.
    Greeting(UnixStream, Greeting),
    Open(Connection),
    /// Over for the guest, but the host has not read everything.
    Rest(UnixStream, Unsent),
}

impl Entry {
    fn stream(&self) -> &UnixStream {
        match self {
            Self::Greeting(stream, _) | Self::Rest(stream, _) => stream,
            Self::Open(connection) => connection.stream(),
        }
    }
}

#[derive(Debug)]
struct Slot {
    entry: Entry,
    deadline: Option<Instant>,
}

/// The connections.
#[derive(Debug)]
pub(super) struct Table {
    cid: u64,
    slots: HashMap<Token, Slot>,
    by_ports: HashMap<Ports, Token>,
    /// Who has something to say, each once.
    queue: VecDeque<Token>,
    resets: VecDeque<Header>,
    deadlines: BTreeSet<(Instant, Token)>,
    /// Never used twice, so that no event can be of another.
    next_token: Token,
    next_port: u32,
    metrics: Arc<VsockMetrics>,
}

impl Table {
    /// An empty one, whose events have tokens from `first_token` on.
    pub(super) fn new(cid: u64, first_token: Token, metrics: Arc<VsockMetrics>) -> Self {
        Self {
            cid,
            slots: HashMap::new(),
            by_ports: HashMap::new(),
            queue: VecDeque::new(),
            resets: VecDeque::new(),
            deadlines: BTreeSet::new(),
            next_token: first_token,
            next_port: FIRST_PORT,
            metrics,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.slots.len() >= MOST
    }

    /// Whether another packet of the guest can be taken.
    pub(super) fn can_answer(&self) -> bool {
        self.resets.len() < MOST_RESETS
    }

    /// Whether there is something to say to the guest.
    pub(super) fn has_packet(&self) -> bool {
        !self.resets.is_empty() || !self.queue.is_empty()
    }

    /// When to call [`expire`](Self::expire).
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|first| first.0)
    }

    /// Ends what has taken too long.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((at, token)) = self.deadlines.first().copied() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            self.end(token, Fate::Reset);
        }
    }

    /// Takes in someone from the host; only if there is room for it.
    pub(super) fn greet(&mut self, stream: UnixStream, poll: &Poll) {
        let entry = Entry::Greeting(stream, Greeting::default());
        self.insert(entry, Some(Instant::now() + PATIENCE), poll);
    }

    fn insert(&mut self, entry: Entry, deadline: Option<Instant>, poll: &Poll) -> Option<Token> {
        let token = self.next_token;
        self.next_token += 1;
        // Edge-triggered: each side is looked at until it would block, and no
        // call is needed when one of them cannot go on.
        let events =
            EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        if poll.add(entry.stream().as_raw_fd(), token, events).is_err() {
            return None;
        }
        self.slots.insert(token, Slot { entry, deadline });
        if let Some(at) = deadline {
            self.deadlines.insert((at, token));
        }
        self.count();
        Some(token)
    }

    fn count(&self) {
        self.metrics.connections.set(self.slots.len() as u64);
    }

    fn remove(&mut self, token: Token) -> Option<Entry> {
        let slot = self.slots.remove(&token)?;
        if let Some(at) = slot.deadline {
            self.deadlines.remove(&(at, token));
        }
        if let Entry::Open(connection) = &slot.entry {
            self.by_ports.remove(&connection.ports);
        }
        self.count();
        Some(slot.entry)
    }

    /// Has `token` say what it has to say.
    fn enqueue(&mut self, token: Token) {
        if let Some(Slot {
            entry: Entry::Open(connection),
            ..
        }) = self.slots.get_mut(&token)
            && !connection.queued
            && connection.has_packet()
        {
            connection.queued = true;
            self.queue.push_back(token);
        }
    }

    /// Ends a connection; what the guest sent before is still delivered.
    fn end(&mut self, token: Token, fate: Fate) {
        if fate == Fate::Lives {
            return;
        }
        let connection = match self.remove(token) {
            Some(Entry::Open(connection)) => connection,
            _ => return self.metrics.refused.add(1),
        };
        if !connection.is_established() {
            self.metrics.refused.add(1);
        }
        if connection.queued {
            self.queue.retain(|queued| *queued != token);
        }
        if fate == Fate::Reset && connection.is_known() {
            let reset = self.header(connection.ports, (op::RST, 0, 0), (0, 0));
            self.resets.push_back(reset);
        }
        let (stream, unsent) = connection.into_rest();
        if !unsent.is_empty() {
            // It is waited for already, under its old token.
            let slot = Slot {
                entry: Entry::Rest(stream, unsent),
                deadline: None,
            };
            self.slots.insert(token, slot);
            self.count();
        }
    }

    fn expect_end(&mut self, token: Token) {
        let at = Instant::now() + PATIENCE;
        if let Some(slot) = self.slots.get_mut(&token)
            && slot.deadline.is_none()
        {
            slot.deadline = Some(at);
            self.deadlines.insert((at, token));
        }
    }

    fn header(
        &self,
        ports: Ports,
        (op, flags, len): (u16, u32, u32),
        (buffer, forwarded): (u32, u32),
    ) -> Header {
        Header {
            src_cid: HOST_CID.into(),
            dst_cid: self.cid.into(),
            src_port: ports.host.into(),
            dst_port: ports.guest.into(),
            len: len.into(),
            kind: packet::STREAM.into(),
            op: op.into(),
            flags: flags.into(),
            buf_alloc: buffer.into(),
            fwd_cnt: forwarded.into(),
        }
    }

    /// Something happened at a socket.
    pub(super) fn ready(&mut self, token: Token, ready: EventSet) {
        let Some(slot) = self.slots.get_mut(&token) else {
            return;
        };
        match &mut slot.entry {
            Entry::Greeting(stream, greeting) => match greeting.read(&*stream) {
                Greeted::Partly => {}
                Greeted::Port(port) => self.request(token, port),
                Greeted::No => {
                    self.metrics.refused.add(1);
                    self.remove(token);
                }
            },
            Entry::Open(connection) => {
                connection.ready(ready);
                match connection.is_given_up() {
                    true => self.end(token, Fate::Reset),
                    false => self.enqueue(token),
                }
            }
            Entry::Rest(stream, unsent) => {
                if unsent.flush(stream).is_err() || unsent.is_empty() {
                    self.remove(token);
                }
            }
        }
    }

    /// Asks the guest for a connection to its `port`.
    fn request(&mut self, token: Token, port: u32) {
        let Some(Entry::Greeting(stream, _)) = self.remove(token) else {
            return;
        };
        let ports = loop {
            let ports = Ports {
                host: self.next_port,
                guest: port,
            };
            self.next_port = self.next_port.wrapping_add(1);
            if self.next_port == u32::MAX || self.next_port < FIRST_PORT {
                self.next_port = FIRST_PORT;
            }
            // There are fewer connections than ports.
            if !self.by_ports.contains_key(&ports) {
                break ports;
            }
        };
        let deadline = Some(Instant::now() + PATIENCE);
        let entry = Entry::Open(Connection::asked_by_host(ports, stream));
        self.slots.insert(token, Slot { entry, deadline });
        self.deadlines.extend(deadline.map(|at| (at, token)));
        self.by_ports.insert(ports, token);
        self.count();
        self.enqueue(token);
    }

    /// A packet of the guest's with as much data as it says.
    pub(super) fn packet(
        &mut self,
        header: &Header,
        memory: &GuestMemoryMmap,
        chain: &Chain,
        host: &Host,
        poll: &Poll,
    ) -> Result<(), QueueError> {
        // 5.10.6.4.1: the guest goes by its own address, and nobody can be told
        // if it does not.
        if header.src_cid.get() != self.cid {
            self.metrics.stats.dropped.add(1);
            return Ok(());
        }
        // 5.10.6.4.2: unknown types are answered with a reset.
        if header.dst_cid.get() != HOST_CID || header.kind.get() != packet::STREAM {
            self.refuse(header);
            return Ok(());
        }
        let ports = Ports {
            host: header.dst_port.get(),
            guest: header.src_port.get(),
        };
        let Some(token) = self.by_ports.get(&ports).copied() else {
            match header.op.get() {
                op::REQUEST => self.connect(ports, header, host, poll),
                _ => self.refuse(header),
            }
            return Ok(());
        };
        let Some(slot) = self.slots.get_mut(&token) else {
            return Ok(());
        };
        let Entry::Open(connection) = &mut slot.entry else {
            return Ok(());
        };
        let new = !connection.is_established();
        let fate = connection.packet(header, memory, chain)?;
        if new
            && connection.is_established()
            && let Some(at) = slot.deadline.take()
        {
            self.deadlines.remove(&(at, token));
            self.metrics.to_guest.add(1);
        }
        self.end(token, fate);
        self.enqueue(token);
        Ok(())
    }

    fn refuse(&mut self, header: &Header) {
        // No reset is answered, or two could go on for ever.
        if header.op.get() != op::RST {
            self.metrics.refused.add(1);
            self.resets.push_back(header.reset());
        }
    }

    /// The guest wants to reach a port of the host.
    fn connect(&mut self, ports: Ports, header: &Header, host: &Host, poll: &Poll) {
        if self.is_full() {
            return self.refuse(header);
        }
        let Ok(stream) = host.connect(ports.host) else {
            return self.refuse(header);
        };
        let entry = Entry::Open(Connection::asked_by_guest(ports, stream, header));
        match self.insert(entry, None, poll) {
            Some(token) => {
                self.by_ports.insert(ports, token);
                self.metrics.to_host.add(1);
                self.enqueue(token);
            }
            None => self.refuse(header),
        }
    }

    /// The next packet to the guest, its data already in `chain`.
    pub(super) fn next(
        &mut self,
        memory: &GuestMemoryMmap,
        chain: &Chain,
    ) -> Result<Option<Header>, QueueError> {
        if let Some(reset) = self.resets.pop_front() {
            return Ok(Some(reset));
        }
        while let Some(token) = self.queue.pop_front() {
            let Some(Slot {
                entry: Entry::Open(connection),
                ..
            }) = self.slots.get_mut(&token)
            else {
                continue;
            };
            connection.queued = false;
            let packet = connection.next(memory, chain)?;
            let Some(packet) = packet else {
                continue;
            };
            let room = connection.tell();
            let ports = connection.ports;
            if packet.0 == op::SHUTDOWN && packet.1 == NOTHING {
                // 5.10.6.5: a reset that does not come in time is sent.
                self.expect_end(token);
            }
            // Behind the others.
            self.enqueue(token);
            return Ok(Some(self.header(ports, packet, room)));
        }
        Ok(None)
    }
}
