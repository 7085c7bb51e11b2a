//! One connection between a port of the guest and a unix socket of the host.
//!
//! Packets of the guest come in, its data goes out to the socket; what the
//! socket has goes out in packets. Data that the socket has no room for waits
//! here, never more than the guest was granted.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use vm_memory::GuestMemoryMmap;

use super::credit::Credit;
use super::packet::{self, Header, NO_RECEIVE, NO_SEND, NOTHING, Ports, op};
use crate::virtio::queue::{Chain, QueueError};
use crate::virtio::worker::EventSet;

/// Bytes for the host that wait until its socket has room.
#[derive(Debug, Default)]
pub(super) struct Unsent(VecDeque<u8>);

impl Unsent {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes what it can; returns how much that was.
    pub(super) fn flush(&mut self, mut stream: &UnixStream) -> io::Result<u32> {
        let mut written = 0;
        while !self.0.is_empty() {
            let (first, second) = self.0.as_slices();
            let vectors = [io::IoSlice::new(first), io::IoSlice::new(second)];
            match stream.write_vectored(&vectors) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.0.drain(..n);
                    written += n as u32;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if self.0.is_empty() {
            // Most connections never need it again.
            self.0 = VecDeque::new();
        }
        Ok(written)
    }
}

/// What becomes of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    Lives,
    /// The guest is told that it is over.
    Reset,
    /// The guest knows.
    Over,
}

/// A packet to the guest: its operation, flags and bytes of data.
pub(super) type Packet = (u16, u32, u32);

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) ports: Ports,
    stream: UnixStream,
    /// The guest has agreed, or was the one to ask.
    established: bool,
    credit: Credit,
    unsent: Unsent,
    /// What is to be said first.
    first: Option<u16>,
    /// The socket may have data, or an end.
    readable: bool,
    /// The host has closed its socket.
    hung_up: bool,
    /// What the host does no more, as flags of a shutdown.
    host_ended: u32,
    /// What the guest knows of that.
    told_ended: u32,
    /// What the guest does no more.
    guest_ended: u32,
    /// The guest wants to know its credit.
    asked: bool,
    /// The guest was asked for credit and has not answered.
    asking: bool,
    /// Its handler knows that it has something to send.
    pub(super) queued: bool,
}

impl Connection {
    /// One that the host asks the guest for.
    pub(super) fn asked_by_host(ports: Ports, stream: UnixStream) -> Self {
        Self {
            ports,
            stream,
            established: false,
            credit: Credit::default(),
            unsent: Unsent::default(),
            first: Some(op::REQUEST),
            readable: false,
            hung_up: false,
            host_ended: 0,
            told_ended: 0,
            guest_ended: 0,
            asked: false,
            asking: false,
            queued: false,
        }
    }

    /// One that the guest asked for with `request`, and gets.
    pub(super) fn asked_by_guest(ports: Ports, stream: UnixStream, request: &Header) -> Self {
        let mut connection = Self::asked_by_host(ports, stream);
        connection.established = true;
        connection.readable = true;
        connection.first = Some(op::RESPONSE);
        let (buffer, forwarded) = (request.buf_alloc.get(), request.fwd_cnt.get());
        connection.credit.update(buffer, forwarded);
        connection
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub(super) fn is_established(&self) -> bool {
        self.established
    }

    /// Whether the guest has ever heard of it.
    pub(super) fn is_known(&self) -> bool {
        self.first != Some(op::REQUEST)
    }

    /// The socket, and what is still to be written to it.
    pub(super) fn into_rest(self) -> (UnixStream, Unsent) {
        (self.stream, self.unsent)
    }

    /// A packet of the guest's.
    pub(super) fn packet(
        &mut self,
        header: &Header,
        memory: &GuestMemoryMmap,
        chain: &Chain,
    ) -> Result<Fate, QueueError> {
        let (buffer, forwarded) = (header.buf_alloc.get(), header.fwd_cnt.get());
        self.credit.update(buffer, forwarded);
        self.asking &= self.credit.may_send() == 0;
        Ok(match (header.op.get(), self.established) {
            (op::RST, _) => Fate::Over,
            (op::RESPONSE, false) => self.establish(),
            (op::RW, true) => return self.data(header.len.get(), memory, chain),
            (op::SHUTDOWN, true) => self.shutdown(header.flags.get()),
            (op::CREDIT_UPDATE, true) => Fate::Lives,
            (op::CREDIT_REQUEST, true) => {
                self.asked = true;
                Fate::Lives
            }
            _ => Fate::Reset,
        })
    }

    /// The guest has agreed to what the host asked for.
    fn establish(&mut self) -> Fate {
        let line = format!("OK {}\n", self.ports.host);
        // There is room for so little in a socket that nothing was written to.
        if !matches!((&self.stream).write(line.as_bytes()), Ok(n) if n == line.len()) {
            return Fate::Reset;
        }
        self.established = true;
        // What it had before was not looked at.
        self.readable = true;
        Fate::Lives
    }

    fn data(
        &mut self,
        len: u32,
        memory: &GuestMemoryMmap,
        chain: &Chain,
    ) -> Result<Fate, QueueError> {
        // 5.10.6.3.1: no more than there is room for; and what is over is over.
        if self.guest_ended & NO_SEND != 0 || !self.credit.receive(len) {
            return Ok(Fate::Reset);
        }
        if self.host_ended & NO_RECEIVE != 0 {
            self.credit.forward(len);
            return Ok(Fate::Lives);
        }
        let mut written = 0;
        if self.unsent.is_empty() {
            let slices = chain.readable_slices(memory, packet::LEN, len)?;
            if !slices.is_empty() {
                match slices.write_to(&[], self.stream.as_fd()) {
                    Ok(n) => written = (n as u32).min(len),
                    Err(error) if retry(&error) => {}
                    Err(_) => {
                        self.host_reads_no_more();
                        return Ok(Fate::Lives);
                    }
                }
            }
            self.credit.forward(written);
        }
        if written < len {
            // As long as the granted room at most.
            let mut rest = vec![0; (len - written) as usize];
            chain.read_at(memory, packet::LEN + written, &mut rest)?;
            self.unsent.0.extend(&rest);
            // Room that there is already makes no event.
            self.flush();
        }
        Ok(Fate::Lives)
    }

    /// 5.10.6.5: what was said stays said, and both are the end.
    fn shutdown(&mut self, flags: u32) -> Fate {
        self.guest_ended |= flags & NOTHING;
        if self.guest_ended == NOTHING {
            return Fate::Reset;
        }
        if self.guest_ended & NO_RECEIVE != 0 {
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        self.pass_on_end();
        Fate::Lives
    }

    /// Ends writing to the socket after the guest's last byte.
    fn pass_on_end(&self) {
        if self.guest_ended & NO_SEND != 0 && self.unsent.is_empty() {
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    fn host_reads_no_more(&mut self) {
        self.host_ended |= NO_RECEIVE;
        self.unsent = Unsent::default();
        let held = self.credit.held();
        self.credit.forward(held);
    }

    /// Something happened at the socket.
    pub(super) fn ready(&mut self, ready: EventSet) {
        if ready.contains(EventSet::HANG_UP) || ready.contains(EventSet::ERROR) {
            self.hung_up = true;
            if self.established {
                self.host_reads_no_more();
            }
        }
        self.readable |= ready != EventSet::OUT;
        if ready.contains(EventSet::OUT) && !self.unsent.is_empty() {
            self.flush();
            self.pass_on_end();
        }
    }

    fn flush(&mut self) {
        match self.unsent.flush(&self.stream) {
            Ok(written) => self.credit.forward(written),
            Err(_) => self.host_reads_no_more(),
        }
    }

    /// Whether the host is gone before the guest has answered.
    pub(super) fn is_given_up(&self) -> bool {
        self.hung_up && !self.established
    }

    fn can_read(&self) -> bool {
        self.established
            && self.readable
            && self.host_ended & NO_SEND == 0
            && self.guest_ended & NO_RECEIVE == 0
    }

    /// Whether there is something to say to the guest.
    pub(super) fn has_packet(&self) -> bool {
        self.first.is_some()
            || self.asked
            || self.host_ended != self.told_ended
            || self.credit.update_due()
            || (self.can_read() && (self.credit.may_send() > 0 || !self.asking))
    }

    /// The next packet to the guest, its data written to `chain`.
    pub(super) fn next(
        &mut self,
        memory: &GuestMemoryMmap,
        chain: &Chain,
    ) -> Result<Option<Packet>, QueueError> {
        if let Some(op) = self.first.take() {
            return Ok(Some((op, 0, 0)));
        }
        if self.can_read() {
            let room = self.credit.may_send();
            if room > 0 {
                let read = self.read(memory, chain, room)?;
                if read > 0 {
                    self.credit.send(read);
                    return Ok(Some((op::RW, 0, read)));
                }
            } else if !self.asking {
                self.asking = true;
                return Ok(Some((op::CREDIT_REQUEST, 0, 0)));
            }
        }
        if self.host_ended != self.told_ended {
            self.told_ended = self.host_ended;
            return Ok(Some((op::SHUTDOWN, self.host_ended, 0)));
        }
        if self.asked || self.credit.update_due() {
            return Ok(Some((op::CREDIT_UPDATE, 0, 0)));
        }
        Ok(None)
    }

    /// Reads from the socket to `chain`; 0 if there is nothing.
    fn read(
        &mut self,
        memory: &GuestMemoryMmap,
        chain: &Chain,
        room: u32,
    ) -> Result<u32, QueueError> {
        let slices = chain.writable_slices(memory, packet::LEN, room)?;
        match slices.read_from(self.stream.as_fd()) {
            Ok(0) => self.host_ended |= NO_SEND,
            Ok(n) => return Ok((n as u32).min(room)),
            Err(error) if retry(&error) => self.readable = false,
            Err(_) => {
                self.host_ended |= NO_SEND;
                self.host_reads_no_more();
            }
        }
        Ok(0)
    }

    /// What every packet says of the room here.
    pub(super) fn tell(&mut self) -> (u32, u32) {
        self.asked = false;
        self.credit.tell()
    }
}

fn retry(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
