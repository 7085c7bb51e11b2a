//! The second half of a conversation ("Transmission").

use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;

use super::handshake::ALLOCATION_ID;
use super::reply::{DATA_START, Replies};
use super::wire::{Errno, Message, REQUEST_MAGIC, chunk, command, get, request};
use super::write::{self, Change, WriteAt};
use super::{Agreed, Export, MAX_READ, NbdError};
use crate::reader::ReadAt;

/// What is read and sent at once, and so the memory of a connection.
const CHUNK: u64 = 1 << 20;

/// What is told apart from zeros: smaller holes save nobody anything.
const BLOCK: u64 = 4096;

/// Extents in an answer about allocation; clients ask again for the rest.
const MAX_EXTENTS: usize = 4096;

/// How far an answer about allocation looks, in bytes: a length has 32 bits,
/// and so has the sum that some clients make.
const MAX_STATUS: u64 = 1 << 31;

/// Flags of the context `base:allocation`.
const HOLE_AND_ZERO: u32 = 1 | 2;

/// Answers requests until the client leaves.
pub(super) fn answer(
    input: &mut dyn Read,
    output: &mut dyn Write,
    export: &Export<'_>,
    agreed: Agreed,
) -> Result<(), NbdError> {
    let mut buffer = Vec::new();
    while let Some(request) = next(input)? {
        let mut server = Server {
            export,
            agreed,
            buffer: &mut buffer,
            replies: Replies {
                output,
                structured: agreed.structured,
                cookie: request.cookie,
            },
        };
        match request.kind {
            command::DISCONNECT => return Ok(()),
            command::READ => server.read(&request)?,
            command::BLOCK_STATUS => server.block_status(&request)?,
            command::FLUSH => server.flush()?,
            command::WRITE | command::TRIM | command::WRITE_ZEROES
                if let Some(disk) = export.writer =>
            {
                let change = Change {
                    kind: request.kind,
                    flags: request.flags,
                    range: request.offset..request.offset.saturating_add(u64::from(request.len)),
                };
                let size = export.disk.size();
                write::answer(input, disk, size, &change, &mut server.replies, export.warn)?;
            }
            command::WRITE => {
                // What it wants to write comes first.
                if request.len > MAX_READ {
                    return Err(NbdError::Protocol("a write of too many bytes"));
                }
                let len = u64::from(request.len);
                if io::copy(&mut (&mut *input).take(len), &mut io::sink())? < len {
                    return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
                }
                server.replies.simple(Some(Errno::Permission))?;
            }
            command::TRIM | command::WRITE_ZEROES => {
                server.replies.simple(Some(Errno::Permission))?;
            }
            _ => server.replies.simple(Some(Errno::Invalid))?,
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Request {
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: u64,
    len: u32,
}

/// The next request; `None` if the client hung up between two.
fn next(input: &mut dyn Read) -> Result<Option<Request>, NbdError> {
    let magic = match get::<u32>(input) {
        Ok(magic) => magic,
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    if magic != REQUEST_MAGIC {
        return Err(NbdError::Protocol("a request without its magic number"));
    }
    Ok(Some(Request {
        flags: get(input)?,
        kind: get(input)?,
        cookie: get(input)?,
        offset: get(input)?,
        len: get(input)?,
    }))
}

struct Server<'s, 'e> {
    export: &'s Export<'e>,
    agreed: Agreed,
    buffer: &'s mut Vec<u8>,
    replies: Replies<'s>,
}

impl Server<'_, '_> {
    /// The range that a request is about, if the disk has it.
    fn range(&self, request: &Request) -> Option<Range<u64>> {
        let end = request.offset.checked_add(u64::from(request.len))?;
        (end <= self.export.disk.size()).then_some(request.offset..end)
    }

    fn read(&mut self, request: &Request) -> Result<(), NbdError> {
        let Some(range) = self.range(request) else {
            let why = "the range reaches past the end";
            return self.replies.error(Errno::Invalid, why);
        };
        if request.len > MAX_READ {
            let why = "it is too much at once";
            return self.replies.error(Errno::Overflow, why);
        }
        let at_once = request.flags & request::DONT_FRAGMENT != 0;
        match self.agreed.structured {
            false => self.read_simple(range),
            true if at_once && u64::from(request.len) > CHUNK => {
                let why = "it is too much for one chunk";
                self.replies.error(Errno::Overflow, why)
            }
            true => self.read_structured(range, at_once),
        }
    }

    fn flush(&mut self) -> Result<(), NbdError> {
        // What is read-only is on stable storage before anybody asks.
        let done = self.export.writer.map_or(Ok(()), WriteAt::flush);
        if let Err(error) = &done {
            (self.export.warn)(&error.to_string());
        }
        self.replies.simple(done.err().map(|_| Errno::Io))
    }

    /// Reads `range` to where a chunk's data start in the buffer.
    fn fill(&mut self, range: &Range<u64>) -> bool {
        let len = (range.end - range.start) as usize;
        self.buffer.resize(DATA_START + len, 0);
        let data = self.buffer.get_mut(DATA_START..).unwrap_or_default();
        let done = self.export.disk.read_exact_at(range.start, data);
        if let Err(error) = &done {
            (self.export.warn)(&error.to_string());
        }
        done.is_ok()
    }

    fn read_simple(&mut self, range: Range<u64>) -> Result<(), NbdError> {
        let mut at = range.start;
        while at < range.end || range.is_empty() {
            let part = at..range.end.min(at + CHUNK);
            if !self.fill(&part) {
                // Once the reply has begun, there is no way to take it back.
                if at > range.start {
                    return Err(NbdError::Disk);
                }
                return self.replies.simple(Some(Errno::Io));
            }
            if at == range.start {
                self.replies.simple(None)?;
            }
            let data = self.buffer.get(DATA_START..).unwrap_or_default();
            self.replies.output.write_all(data)?;
            at = part.end;
            if range.is_empty() {
                break;
            }
        }
        Ok(())
    }

    fn read_structured(&mut self, range: Range<u64>, at_once: bool) -> Result<(), NbdError> {
        if range.is_empty() {
            return self.replies.chunk(chunk::NONE, true, &[]);
        }
        let mut at = range.start;
        while at < range.end {
            let Ok((mut end, zero)) = self.run(at..range.end) else {
                return self.replies.error(Errno::Io, "the disk cannot be read");
            };
            if zero && end - at >= BLOCK && !(at_once && end < range.end) {
                let hole = Message::default().u64(at).u32((end - at) as u32);
                self.replies.chunk(chunk::HOLE, end == range.end, &hole.0)?;
                at = end;
                continue;
            }
            end = end.min(at + CHUNK);
            if at_once {
                end = range.end;
            }
            if !self.fill(&(at..end)) {
                return self.replies.error(Errno::Io, "the disk cannot be read");
            }
            self.replies.data(at, end == range.end, self.buffer)?;
            at = end;
        }
        Ok(())
    }

    /// Where the run ends that starts `range`, and whether it is zeros.
    fn run(&self, range: Range<u64>) -> io::Result<(u64, bool)> {
        let found = run(self.export.disk, range);
        if let Err(error) = &found {
            (self.export.warn)(&error.to_string());
        }
        found
    }

    fn block_status(&mut self, request: &Request) -> Result<(), NbdError> {
        let range = self.range(request).filter(|r| !r.is_empty());
        let Some(range) = range.filter(|_| self.agreed.allocation) else {
            let why = "nothing was agreed on, or the range is none";
            return self.replies.error(Errno::Invalid, why);
        };
        let most = match request.flags & request::ONE_EXTENT {
            0 => MAX_EXTENTS,
            _ => 1,
        };
        let range = range.start..range.end.min(range.start + MAX_STATUS);
        let mut status = Message::default().u32(ALLOCATION_ID);
        let (mut at, mut extents) = (range.start, 0);
        while at < range.end && extents < most {
            let Ok((end, zero)) = self.run(at..range.end) else {
                return self.replies.error(Errno::Io, "the disk cannot be read");
            };
            let flags = if zero { HOLE_AND_ZERO } else { 0 };
            status = status.u32((end - at) as u32).u32(flags);
            (at, extents) = (end, extents + 1);
        }
        self.replies.chunk(chunk::BLOCK_STATUS, true, &status.0)
    }
}

/// Where the run ends that starts `range`, and whether it is zeros. Data that
/// are not whole blocks make their blocks data.
fn run(disk: &dyn ReadAt, range: Range<u64>) -> io::Result<(u64, bool)> {
    let block = range.start / BLOCK * BLOCK;
    let Some(first) = disk.next_data(block)? else {
        return Ok((range.end, true));
    };
    let start = first.start / BLOCK * BLOCK;
    if start > range.start {
        return Ok((start.min(range.end), true));
    }
    let mut end = first.end.next_multiple_of(BLOCK);
    // Runs that touch the same block are one.
    while end < range.end {
        match disk.next_data(end)? {
            Some(more) if more.start / BLOCK * BLOCK <= end => {
                end = more.end.next_multiple_of(BLOCK);
            }
            _ => break,
        }
    }
    Ok((end.min(range.end), false))
}
