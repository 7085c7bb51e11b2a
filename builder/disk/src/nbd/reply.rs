//! Replies to requests ("Simple reply message", "Structured reply chunk
//! message").

use std::io::Write;

use super::NbdError;
use super::wire::{Errno, Message, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk};

/// Bytes before the payload of a chunk.
const CHUNK_HEADER: usize = 20;

/// The place for replies to one request.
pub(super) struct Replies<'a> {
    pub(super) output: &'a mut dyn Write,
    pub(super) structured: bool,
    pub(super) cookie: u64,
}

impl Replies<'_> {
    /// A reply without chunks, or the start of one with data.
    pub(super) fn simple(&mut self, error: Option<Errno>) -> Result<(), NbdError> {
        let message = Message::default()
            .u32(SIMPLE_REPLY_MAGIC)
            .u32(error.map_or(0, |e| e as u32))
            .u64(self.cookie);
        Ok(self.output.write_all(&message.0)?)
    }

    /// Says that the request failed, in the form that the client expects.
    pub(super) fn error(&mut self, error: Errno, why: &str) -> Result<(), NbdError> {
        if !self.structured {
            return self.simple(Some(error));
        }
        let payload = Message::default()
            .u32(error as u32)
            .u16(why.len() as u16)
            .bytes(why.as_bytes());
        self.chunk(chunk::ERROR, true, &payload.0)
    }

    pub(super) fn chunk(&mut self, kind: u16, last: bool, payload: &[u8]) -> Result<(), NbdError> {
        let header = self.header(kind, last, payload.len());
        Ok(self.output.write_all(&header.bytes(payload).0)?)
    }

    fn header(&self, kind: u16, last: bool, len: usize) -> Message {
        Message::default()
            .u32(STRUCTURED_REPLY_MAGIC)
            .u16(if last { chunk::DONE } else { 0 })
            .u16(kind)
            .u64(self.cookie)
            .u32(len as u32)
    }

    /// A chunk of data whose bytes start at [`DATA_START`] of `buffer`, which
    /// is written at once.
    pub(super) fn data(
        &mut self,
        offset: u64,
        last: bool,
        buffer: &mut [u8],
    ) -> Result<(), NbdError> {
        let header = self.header(chunk::DATA, last, buffer.len() - CHUNK_HEADER);
        for (to, from) in buffer.iter_mut().zip(header.u64(offset).0) {
            *to = from;
        }
        Ok(self.output.write_all(buffer)?)
    }
}

/// Where in a buffer the data of a chunk start.
pub(super) const DATA_START: usize = CHUNK_HEADER + 8;
