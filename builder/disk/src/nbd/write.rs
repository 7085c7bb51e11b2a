//! Writing, where an export allows it.

use std::fmt::Debug;
use std::io::{self, Read};
use std::ops::Range;

use super::reply::Replies;
use super::wire::{Errno, command, request};
use super::{MAX_READ, NbdError};

/// What clients of a writable export must keep to, in bytes.
pub const SECTOR: u32 = 512;

/// What is taken in and written at once, and so the memory of a connection.
const CHUNK: usize = 1 << 20;

/// A disk that can be written at any sector, by several threads at once.
/// Ranges are not empty, in whole sectors and inside the disk.
pub trait WriteAt: Debug + Send + Sync {
    /// Writes `bytes` at byte `offset`.
    ///
    /// # Errors
    /// They cannot be written.
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes `range` read as zeros; `unmap` allows to give its space back.
    ///
    /// # Errors
    /// They cannot be written.
    fn write_zeroes(&self, range: Range<u64>, unmap: bool) -> io::Result<()>;

    /// Gives the space of `range` back, or of what part of it is easy.
    ///
    /// # Errors
    /// The disk cannot be changed.
    fn discard(&self, range: Range<u64>) -> io::Result<()>;

    /// Returns when all that was written before is on stable storage.
    ///
    /// # Errors
    /// It may not be.
    fn flush(&self) -> io::Result<()>;
}

/// A request that changes the disk.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) range: Range<u64>,
}

/// Does what `change` asks for and answers. `disk` has `size` bytes.
pub(super) fn answer(
    input: &mut dyn Read,
    disk: &dyn WriteAt,
    size: u64,
    change: &Change,
    replies: &mut Replies<'_>,
    warn: &(dyn Fn(&str) + Sync),
) -> Result<(), NbdError> {
    let Change { kind, flags, range } = change;
    let len = range.end.saturating_sub(range.start);
    let sectors = |n: u64| n.is_multiple_of(u64::from(SECTOR));
    let valid = range.end <= size && len > 0 && sectors(range.start) && sectors(len);
    let mut result = if valid {
        Ok(())
    } else {
        Err((Errno::Invalid, None))
    };
    let mut note = |done: io::Result<()>| {
        if let (Ok(()), Err(error)) = (&result, done) {
            let no_space = error.kind() == io::ErrorKind::StorageFull;
            let errno = if no_space { Errno::NoSpace } else { Errno::Io };
            result = Err((errno, Some(error)));
        }
    };
    match *kind {
        command::WRITE => {
            if len > u64::from(MAX_READ) {
                return Err(NbdError::Protocol("a write of too many bytes"));
            }
            // All of it is taken in, whatever becomes of it: requests follow.
            let mut buffer = vec![0; CHUNK.min(len as usize)];
            let mut at = range.start;
            while at < range.end {
                let count = buffer.len().min((range.end - at) as usize);
                let (part, _) = buffer.split_at_mut(count);
                input.read_exact(part)?;
                if valid {
                    note(disk.write_all_at(at, part));
                }
                at += count as u64;
            }
        }
        command::WRITE_ZEROES if valid => {
            let unmap = flags & request::NO_HOLE == 0;
            note(disk.write_zeroes(range.clone(), unmap));
        }
        command::TRIM if valid => note(disk.discard(range.clone())),
        _ => {}
    }
    if valid && flags & request::FUA != 0 {
        note(disk.flush());
    }
    match result {
        Ok(()) => replies.simple(None),
        Err((errno, error)) => {
            if let Some(error) = error {
                warn(&error.to_string());
            }
            replies.simple(Some(errno))
        }
    }
}
