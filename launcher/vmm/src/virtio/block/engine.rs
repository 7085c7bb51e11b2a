//! Moving bytes between files and the guest's memory.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use crate::block::FileRun;

/// One transfer.
#[derive(Debug)]
pub(crate) struct Op {
    /// Whose it is.
    pub(crate) slot: usize,
    /// Where in the request's data it starts.
    pub(crate) at: u64,
    /// From or to which part of which file.
    pub(crate) run: FileRun,
    /// Whether the file is written.
    pub(crate) write: bool,
    /// To or from where.
    pieces: Vec<libc::iovec>,
    /// The first of `pieces` that is not done.
    first: usize,
    /// Bytes that are done.
    done: u64,
    /// Keeps the pieces mapped.
    _memory: Arc<GuestMemoryMmap>,
}

impl Op {
    /// A transfer of `run` from or to `pieces`, which lie in `memory` and are
    /// as long.
    pub(crate) fn new(
        slot: usize,
        at: u64,
        run: FileRun,
        write: bool,
        pieces: Vec<libc::iovec>,
        memory: &Arc<GuestMemoryMmap>,
    ) -> Self {
        Self {
            slot,
            at,
            run,
            write,
            pieces,
            first: 0,
            done: 0,
            _memory: Arc::clone(memory),
        }
    }

    /// What is left to do.
    pub(crate) fn rest(&self) -> &[libc::iovec] {
        let rest = self.pieces.get(self.first..).unwrap_or_default();
        // As many as one call takes.
        rest.get(..rest.len().min(libc::UIO_MAXIOV as usize))
            .unwrap_or_default()
    }

    /// Where in the file the rest starts.
    pub(crate) fn file_offset(&self) -> u64 {
        self.run.offset + self.done
    }

    /// Takes note of what a call returned; `None` if there is more to do.
    pub(crate) fn progress(&mut self, result: i32) -> Option<io::Result<()>> {
        match usize::try_from(result) {
            Err(_) if result == -libc::EINTR || result == -libc::EAGAIN => None,
            Err(_) => Some(Err(self
                .run
                .file
                .naming(io::Error::from_raw_os_error(-result)))),
            Ok(0) if self.run.sparse_end && !self.write => {
                self.clear_rest();
                Some(Ok(()))
            }
            Ok(0) => Some(Err(self.run.file.naming(if self.write {
                io::ErrorKind::WriteZero.into()
            } else {
                io::ErrorKind::UnexpectedEof.into()
            }))),
            Ok(n) => {
                self.skip(n);
                (self.first >= self.pieces.len()).then_some(Ok(()))
            }
        }
    }

    fn skip(&mut self, mut n: usize) {
        self.done += n as u64;
        while let Some(piece) = self.pieces.get_mut(self.first) {
            if n < piece.iov_len {
                piece.iov_base = piece.iov_base.cast::<u8>().wrapping_add(n).cast();
                piece.iov_len -= n;
                break;
            }
            n -= piece.iov_len;
            self.first += 1;
        }
    }

    fn clear_rest(&mut self) {
        for piece in self.pieces.get(self.first..).unwrap_or_default() {
            // SAFETY: the piece lies in the memory that is held.
            unsafe { std::ptr::write_bytes(piece.iov_base.cast::<u8>(), 0, piece.iov_len) }
        }
    }

    /// Does all of it, here and now.
    pub(crate) fn run_now(mut self) -> (Self, io::Result<()>) {
        loop {
            if let Some(result) = self.step() {
                return (self, result);
            }
        }
    }

    /// Does one call's worth of it.
    fn step(&mut self) -> Option<io::Result<()>> {
        let Ok(offset) = i64::try_from(self.file_offset()) else {
            return Some(Err(io::ErrorKind::InvalidInput.into()));
        };
        let (fd, rest) = (self.run.file.raw_fd(), self.rest());
        let (at, count) = (rest.as_ptr(), rest.len() as i32);
        // SAFETY: the pieces lie in the memory that is held, and the array
        // outlives the call.
        let n = unsafe {
            if self.write {
                libc::pwritev(fd, at, count, offset)
            } else {
                libc::preadv(fd, at, count, offset)
            }
        };
        let result = if n < 0 {
            -io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO)
        } else {
            // The kernel moves at most 2 GiB less a page at once.
            i32::try_from(n).unwrap_or(i32::MAX)
        };
        self.progress(result)
    }
}

/// A way to do transfers.
pub(crate) trait Engine: Send + std::fmt::Debug {
    /// Takes a transfer on. It may start at once or at [`kick`](Self::kick).
    fn push(&mut self, op: Op);

    /// Starts what was pushed.
    ///
    /// # Errors
    /// The kernel does not take them; they are done by other means.
    fn kick(&mut self) -> io::Result<()>;

    /// A transfer that is done, and how it went.
    fn pop(&mut self) -> Option<(Op, io::Result<()>)>;

    /// A descriptor that can be read when there is something to
    /// [`pop`](Self::pop); `None` if all is done when `kick` returns.
    fn event(&self) -> Option<RawFd> {
        None
    }
}

/// Does each transfer at once, with `preadv` and `pwritev`.
#[derive(Debug, Default)]
pub(crate) struct Synchronous {
    done: std::collections::VecDeque<(Op, io::Result<()>)>,
}

// SAFETY: the pointers in an op lead into memory that it keeps mapped and that
// any thread may use.
unsafe impl Send for Op {}

impl Engine for Synchronous {
    fn push(&mut self, op: Op) {
        self.done.push_back(op.run_now());
    }

    fn kick(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn pop(&mut self) -> Option<(Op, io::Result<()>)> {
        self.done.pop_front()
    }
}
