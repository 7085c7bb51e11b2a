//! passt: a process that turns the guest's frames into the host's sockets.
//!
//! Frames go over a stream socket, each after its length in four bytes, big
//! endian, as in QEMU's `-netdev stream`; there is no packet header, hence no
//! offloads but one: what comes over a socket of the host is not damaged, so
//! the guest need not verify checksums.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use vm_memory::GuestMemoryMmap;

use super::handler::{Backend, Received, Sent};
use super::receive::{Buffers, Fit};
use super::{HEADER, feature};
use crate::virtio::queue::{Chain, QueueError};

/// Lengths of frames that passt takes; at others it hangs up.
const FRAME: std::ops::RangeInclusive<usize> = 14..=65535;
/// Bytes of the length before a frame.
const PREFIX: usize = 4;
/// Room for a few of the longest frames: one system call reads many short ones.
const BUFFER: usize = 192 << 10;

/// `VIRTIO_NET_HDR_F_DATA_VALID`, 5.1.6.4.1.
const DATA_VALID: u8 = 2;

/// A connection to passt.
#[derive(Debug)]
pub struct Passt {
    socket: UnixStream,
    /// What is left to send of a frame that was sent in part.
    rest: Vec<u8>,
    rest_at: usize,
    /// What has been read: `buffer[start..end]`.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes yet to come of a frame that is too long for anything.
    skip: usize,
    checksums: bool,
}

impl Passt {
    /// One over a socket that is connected.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking.
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            rest: Vec::new(),
            rest_at: 0,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            skip: 0,
            checksums: false,
        })
    }

    /// Reads as much as there is room for.
    fn fill(&mut self) -> Received {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 && self.buffer.len() - self.end < BUFFER / 2 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        match self.socket.read(room) {
            Ok(0) => Received::Closed,
            Ok(n) => {
                self.end += n;
                Received::Bytes(0)
            }
            Err(error) if wait(&error) => Received::Nothing,
            Err(_) => Received::Closed,
        }
    }

    /// The next frame, if all of it has been read: its place in the buffer.
    fn frame(&mut self) -> Result<Option<std::ops::Range<usize>>, Received> {
        if self.skip > 0 {
            let now = self.skip.min(self.end - self.start);
            self.start += now;
            self.skip -= now;
            if self.skip > 0 {
                return Ok(None);
            }
        }
        let have = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some((prefix, _)) = have.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*prefix) as usize;
        if !FRAME.contains(&len) {
            // Not a frame; after it, there may be.
            self.start += PREFIX;
            self.skip = len;
            return Err(Received::Dropped);
        }
        if have.len() < PREFIX + len {
            return Ok(None);
        }
        let from = self.start + PREFIX;
        Ok(Some(from..from + len))
    }
}

impl Backend for Passt {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn features(&self) -> u64 {
        feature::GUEST_CSUM
    }

    fn start(&mut self, features: u64) -> io::Result<()> {
        self.checksums = features & feature::GUEST_CSUM != 0;
        Ok(())
    }

    fn send(&mut self, memory: &GuestMemoryMmap, chain: &Chain) -> Result<Sent, QueueError> {
        let len = (chain.readable_len() as usize).saturating_sub(HEADER);
        if !FRAME.contains(&len) {
            return Ok(Sent::Dropped);
        }
        match self.flush() {
            Sent::Bytes(_) => {}
            other => return Ok(other),
        }
        let prefix = (len as u32).to_be_bytes();
        let slices = chain.readable_slices(memory, HEADER as u32, len as u32)?;
        let total = PREFIX + len;
        match slices.write_to(&prefix, self.socket.as_fd()) {
            Ok(n) if n >= total => Ok(Sent::Bytes(len as u32)),
            Ok(n) => {
                // The stream must go on with the rest of this frame.
                self.rest.clear();
                self.rest
                    .extend_from_slice(prefix.get(n..).unwrap_or_default());
                let at = self.rest.len();
                let sent = n.saturating_sub(PREFIX);
                self.rest.resize(at + len - sent, 0);
                let rest = self.rest.get_mut(at..).unwrap_or_default();
                chain.read_at(memory, (HEADER + sent) as u32, rest)?;
                self.rest_at = 0;
                Ok(Sent::Bytes(len as u32))
            }
            Err(error) if wait(&error) => Ok(Sent::Blocked),
            Err(_) => Ok(Sent::Closed),
        }
    }

    fn flush(&mut self) -> Sent {
        while let Some(rest) = self.rest.get(self.rest_at..).filter(|r| !r.is_empty()) {
            match self.socket.write(rest) {
                Ok(n) => self.rest_at += n,
                Err(error) if wait(&error) => return Sent::Blocked,
                Err(_) => return Sent::Closed,
            }
        }
        Sent::Bytes(0)
    }

    fn frames_are_unseen(&self) -> bool {
        false
    }

    fn has_buffered(&self) -> bool {
        self.start < self.end
    }

    fn receive(
        &mut self,
        memory: &GuestMemoryMmap,
        buffers: &mut Buffers,
    ) -> Result<Received, QueueError> {
        let frame = loop {
            match self.frame() {
                Ok(Some(frame)) => break frame,
                Ok(None) => match self.fill() {
                    Received::Bytes(_) => {}
                    other => return Ok(other),
                },
                Err(other) => return Ok(other),
            }
        };
        match buffers.fits(frame.len()) {
            Fit::Later => return Ok(Received::NoBuffers),
            Fit::Never => {
                self.start = frame.end;
                return Ok(Received::Dropped);
            }
            Fit::Now => {}
        }
        let mut header = [0; HEADER];
        if self.checksums {
            header[0] = DATA_VALID;
        }
        self.start = frame.end;
        let data = self.buffer.get(frame).unwrap_or_default();
        buffers.write(memory, 0, &header)?;
        buffers.write(memory, HEADER, data)?;
        Ok(Received::Bytes(data.len() as u32))
    }
}

fn wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
