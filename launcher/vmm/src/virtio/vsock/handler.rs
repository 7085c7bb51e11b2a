//! The queues of the device, on its thread.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_memory::{GuestAddressSpace, GuestMemoryMmap};
use zerocopy::{FromBytes, IntoBytes};

use super::host::Host;
use super::packet::{self, Header, op};
use super::table::Table;
use super::{EVENT, RECEIVE, TRANSMIT, VsockMetrics};
use crate::virtio::queue::{Chain, QueueError, Served, Virtqueue};
use crate::virtio::worker::{EventSet, FIRST_TOKEN, Handler, Poll, Token, Work};
use crate::virtio::{ActivateError, Memory};

const LISTENER: Token = FIRST_TOKEN;
const FIRST_CONNECTION: Token = FIRST_TOKEN + 1;

/// Packets moved to the guest before other events get a turn.
const BUDGET: usize = 256;

/// How long nobody can connect after the host could not accept.
const RETRY: Duration = Duration::from_millis(200);

/// The half on the thread.
#[derive(Debug)]
pub struct VsockHandler {
    cid: u64,
    host: Host,
    metrics: Arc<VsockMetrics>,
    active: Option<Active>,
    /// Whether the listener is waited for.
    listening: bool,
    /// When to try again, after the host could not accept a connection.
    retry: Option<Instant>,
}

#[derive(Debug)]
struct Active {
    memory: Memory,
    receive: Virtqueue,
    transmit: Virtqueue,
    /// Its buffers are kept: a device that is never moved to another host has
    /// nothing to tell there (5.10.6.7).
    event: Virtqueue,
    table: Table,
    /// Packets of the guest wait until there is room for answers.
    blocked: bool,
}

impl VsockHandler {
    pub(super) fn new(cid: u64, host: Host, metrics: Arc<VsockMetrics>) -> Self {
        Self {
            cid,
            host,
            metrics,
            active: None,
            listening: false,
            retry: None,
        }
    }

    /// Takes packets of the guest.
    fn transmit(&mut self, poll: &Poll) -> Result<(), QueueError> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let memory = active.memory.memory();
        let Active {
            transmit,
            table,
            blocked,
            ..
        } = active;
        *blocked = false;
        transmit.drain(&memory, |chain| {
            if !table.can_answer() {
                *blocked = true;
                return Ok(Served::Later);
            }
            let header = read_header(&memory, chain)?;
            if header.op.get() == op::RW {
                self.metrics.stats.received(header.len.get().into());
            }
            table.packet(&header, &memory, chain, &self.host, poll)?;
            Ok(Served::Used(0))
        })
    }

    /// Gives packets to the guest.
    fn receive(&mut self) -> Result<(), QueueError> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let memory = active.memory.memory();
        let Active { receive, table, .. } = active;
        receive.ignore(&memory)?;
        let mut budget = BUDGET;
        while table.has_packet() {
            if budget == 0 {
                receive.ring();
                break;
            }
            budget -= 1;
            let Some(chain) = receive.pop(&memory)? else {
                if receive.listen(&memory)? {
                    receive.ignore(&memory)?;
                    continue;
                }
                break;
            };
            // Without room for data, no data would ever arrive.
            if chain.readable_len() != 0 || chain.writable_len() <= packet::LEN {
                return Err(QueueError::Malformed(
                    "a receive buffer needs room for a header and data, and nothing to read",
                ));
            }
            let Some(header) = table.next(&memory, &chain)? else {
                receive.undo(chain);
                break;
            };
            chain.write_at(&memory, 0, header.as_bytes())?;
            let len = header.len.get();
            if header.op.get() == op::RW {
                self.metrics.stats.delivered(len.into());
            }
            receive.complete(&memory, chain, packet::LEN + len)?;
        }
        receive.notify(&memory)
    }

    /// Whatever happened, goes on with both directions as far as possible.
    fn go_on(&mut self, transmit: bool, poll: &Poll) -> Result<(), QueueError> {
        if transmit {
            self.transmit(poll)?;
        }
        self.receive()?;
        while let Some(active) = &self.active
            && active.blocked
            && active.table.can_answer()
        {
            self.transmit(poll)?;
            self.receive()?;
        }
        self.listen(poll)
    }

    /// Waits for others to connect as long as there is room for them.
    fn listen(&mut self, poll: &Poll) -> Result<(), QueueError> {
        let wanted =
            self.retry.is_none() && self.active.as_ref().is_some_and(|a| !a.table.is_full());
        if wanted == self.listening {
            return Ok(());
        }
        let fd = self.host.listener().as_raw_fd();
        self.listening = wanted;
        if !wanted {
            poll.remove(fd);
            return Ok(());
        }
        poll.add(fd, LISTENER, EventSet::IN)
            .map_err(|error| QueueError::Host {
                what: "waiting for connections",
                error,
            })
    }

    /// Ends what has not ended by `now`.
    pub(super) fn expire(&mut self, now: Instant) {
        if let Some(active) = &mut self.active {
            active.table.expire(now);
            self.retry = self.retry.filter(|at| *at > now);
        }
    }

    fn accept(&mut self, poll: &Poll) {
        let Some(active) = &mut self.active else {
            return;
        };
        while !active.table.is_full() {
            match self.host.accept() {
                Ok(Some(stream)) => active.table.greet(stream, poll),
                Ok(None) => break,
                Err(error) => {
                    // Such as too many open files: the others go on.
                    self.retry = Some(Instant::now() + RETRY);
                    crate::log::warn(format_args!("vsock: accepting a connection: {error}"));
                    break;
                }
            }
        }
    }
}

/// Reads the header of a packet whose data is all there.
fn read_header(memory: &GuestMemoryMmap, chain: &Chain) -> Result<Header, QueueError> {
    if chain.writable_len() != 0 {
        return Err(QueueError::Malformed("a packet to send that is writable"));
    }
    let mut bytes = [0; packet::LEN as usize];
    chain.read_at(memory, 0, &mut bytes)?;
    let header = Header::read_from_bytes(&bytes)
        .map_err(|_| QueueError::Malformed("a packet without a header"))?;
    let need = u64::from(packet::LEN) + u64::from(header.len.get());
    let have = chain.readable_len().into();
    if need > have {
        return Err(QueueError::TooShort {
            what: "readable",
            need,
            have,
        });
    }
    Ok(header)
}

impl Handler for VsockHandler {
    fn start(&mut self, mut work: Work, poll: &Poll) -> Result<(), ActivateError> {
        let metrics = Arc::clone(&self.metrics);
        self.active = Some(Active {
            memory: work.memory.clone(),
            receive: work.take(RECEIVE)?,
            transmit: work.take(TRANSMIT)?,
            event: work.take(EVENT)?,
            table: Table::new(self.cid, FIRST_CONNECTION, metrics),
            blocked: false,
        });
        self.listen(poll).map_err(|error| ActivateError::Host {
            what: "vsock",
            error: std::io::Error::other(error),
        })
    }

    fn event(&mut self, token: Token, ready: EventSet, poll: &Poll) -> Result<(), QueueError> {
        const RECEIVE_BELL: Token = RECEIVE as Token;
        const TRANSMIT_BELL: Token = TRANSMIT as Token;
        const EVENT_BELL: Token = EVENT as Token;
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        match token {
            RECEIVE_BELL => active.receive.answer(),
            TRANSMIT_BELL => active.transmit.answer(),
            EVENT_BELL => active.event.answer(),
            LISTENER => self.accept(poll),
            connection => active.table.ready(connection, ready),
        }
        self.go_on(token == TRANSMIT_BELL, poll)
    }

    fn deadline(&self) -> Option<Instant> {
        let table = self.active.as_ref()?.table.deadline();
        table.into_iter().chain(self.retry).min()
    }

    fn timeout(&mut self, poll: &Poll) -> Result<(), QueueError> {
        self.expire(Instant::now());
        self.go_on(false, poll)
    }

    fn stop(&mut self, poll: &Poll) {
        self.active = None;
        self.metrics.connections.set(0);
        // Removes the listener from the poll.
        let _ = self.listen(poll);
    }
}
