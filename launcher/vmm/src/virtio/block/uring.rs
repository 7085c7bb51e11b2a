//! Transfers through io_uring: a whole batch of requests costs one system
//! call, and none of them waits for another.
//!
//! Transfers come in one by one, go to the kernel together when the engine is
//! kicked, and come out in the order in which they are done. Whether the
//! kernel allows io_uring is found out when the ring is made; should it refuse
//! later, what is left is done with plain system calls.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, types};

use super::engine::{Engine, Op};

/// Transfers that the kernel has at once; others wait.
const DEPTH: u32 = 256;

/// How long the kernel is given when it is out of memory.
const BREATH: Duration = Duration::from_millis(1);

/// A ring, and what is in it.
pub(crate) struct Uring {
    ring: IoUring,
    /// Transfers that are in the ring, at the number that the kernel returns.
    ops: Vec<Option<Op>>,
    free: Vec<usize>,
    /// Transfers that are in no ring yet.
    backlog: VecDeque<Op>,
    /// Those in the ring that the kernel has not taken yet, in order.
    untaken: VecDeque<usize>,
    done: VecDeque<(Op, io::Result<()>)>,
    /// The kernel refuses: all is done with plain system calls.
    refused: bool,
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("backlog", &self.backlog.len())
            .field("busy", &(self.ops.len() - self.free.len()))
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

/// Lets the ring read and write, and nothing else, for good.
///
/// What goes through a ring is no system call, so no filter sees it: without
/// this, a thread that may not open files could still do so here.
fn restrict(ring: &IoUring) -> io::Result<()> {
    let allowed = [opcode::Nop::CODE, opcode::Readv::CODE, opcode::Writev::CODE];
    let mut rules = allowed.map(Restriction::sqe_op);
    ring.submitter().register_restrictions(&mut rules)?;
    ring.submitter().register_enable_rings()
}

impl Uring {
    /// Makes a ring and has the kernel do nothing once, to see that it does.
    ///
    /// # Errors
    /// The kernel has no io_uring or one that is too old, or does not let this
    /// process use it (`kernel.io_uring_disabled`, seccomp).
    pub(crate) fn new() -> io::Result<Self> {
        // Since 5.19 the kernel need not interrupt a thread that will soon
        // look by itself.
        let ring = IoUring::builder()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_r_disabled()
            .build(DEPTH)
            .or_else(|_| IoUring::builder().setup_r_disabled().build(DEPTH))?;
        restrict(&ring)?;
        let params = ring.params();
        // Linux 5.5 and 5.7: no completion is lost, the pieces of a transfer
        // need not outlive the call, and files are read without a thread each.
        if !params.is_feature_nodrop()
            || !params.is_feature_submit_stable()
            || !params.is_feature_fast_poll()
        {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut uring = Self {
            ring,
            ops: (0..DEPTH).map(|_| None).collect(),
            free: (0..DEPTH as usize).rev().collect(),
            backlog: VecDeque::new(),
            untaken: VecDeque::new(),
            done: VecDeque::new(),
            refused: false,
        };
        // SAFETY: a NOP has no buffers.
        unsafe { uring.ring.submission().push(&opcode::Nop::new().build()) }
            .map_err(|_| io::ErrorKind::Unsupported)?;
        uring.ring.submit_and_wait(1)?;
        let done = uring.ring.completion().next();
        if done.is_none_or(|done| done.result() != 0) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(uring)
    }

    /// Moves what fits from the backlog into the ring.
    fn fill(&mut self) {
        while let Some(op) = self.backlog.pop_front() {
            let Some(id) = self.free.pop() else {
                self.backlog.push_front(op);
                return;
            };
            let (fd, offset) = (types::Fd(op.run.file.raw_fd()), op.file_offset());
            let (at, count) = (op.rest().as_ptr(), op.rest().len() as u32);
            let entry = if op.write {
                opcode::Writev::new(fd, at, count).offset(offset).build()
            } else {
                opcode::Readv::new(fd, at, count).offset(offset).build()
            };
            let entry = entry.user_data(id as u64);
            // The vector of pieces stays where it is when the op moves.
            if let Some(place) = self.ops.get_mut(id) {
                *place = Some(op);
            }
            // SAFETY: the op stays in `ops`, and with it its file, its pieces
            // and the memory that they lie in, until the kernel has returned
            // it; `drop` waits for that.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            if pushed.is_err() {
                // As many entries as ops: cannot be, and does no harm.
                self.free.push(id);
                let op = self.ops.get_mut(id).and_then(Option::take);
                self.backlog.extend(op);
                return;
            }
            self.untaken.push_back(id);
        }
    }

    /// Whether the kernel has transfers that it has not returned.
    fn busy(&self) -> bool {
        self.ops.len() - self.free.len() > self.untaken.len()
    }

    /// Does with plain calls what the kernel does not take.
    fn do_without(&mut self) {
        self.refused = true;
        while let Some(id) = self.untaken.pop_front() {
            self.free.push(id);
            let op = self.ops.get_mut(id).and_then(Option::take);
            self.backlog.extend(op);
        }
        while let Some(op) = self.backlog.pop_front() {
            self.done.push_back(op.run_now());
        }
    }

    /// Takes what the kernel has returned.
    fn collect(&mut self) {
        let mut again = Vec::new();
        for completion in self.ring.completion() {
            let id = completion.user_data() as usize;
            let Some(mut op) = self.ops.get_mut(id).and_then(Option::take) else {
                continue;
            };
            self.free.push(id);
            match op.progress(completion.result()) {
                Some(result) => self.done.push_back((op, result)),
                None => again.push(op),
            }
        }
        if again.is_empty() || self.refused {
            self.done.extend(again.into_iter().map(Op::run_now));
            return;
        }
        for op in again.into_iter().rev() {
            self.backlog.push_front(op);
        }
        // Started here, because nothing else would wake the queue. Should the
        // kernel refuse, they are in `done`.
        let _ = self.kick();
    }

    /// Waits until the kernel has returned something; gives it nothing new.
    fn wait(&self) {
        const GETEVENTS: u32 = 1; // IORING_ENTER_GETEVENTS
        // SAFETY: no signal mask is passed.
        let result =
            unsafe { (self.ring.submitter()).enter::<libc::sigset_t>(0, 1, GETEVENTS, None) };
        if result.is_err() {
            std::thread::sleep(BREATH);
        }
    }
}

impl Engine for Uring {
    fn push(&mut self, op: Op) {
        if self.refused {
            self.done.push_back(op.run_now());
        } else {
            self.backlog.push_back(op);
        }
    }

    fn kick(&mut self) -> io::Result<()> {
        if self.refused {
            return Ok(());
        }
        loop {
            self.fill();
            if self.untaken.is_empty() {
                return Ok(());
            }
            match self.ring.submit() {
                Ok(taken) => {
                    self.untaken.drain(..taken.min(self.untaken.len()));
                    if taken > 0 && self.untaken.is_empty() {
                        return Ok(());
                    }
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => {
                        // The next that is done makes room; if there is none,
                        // nobody would wake us.
                        if self.busy() {
                            return Ok(());
                        }
                        std::thread::sleep(BREATH);
                    }
                    _ => {
                        self.do_without();
                        return Err(error);
                    }
                },
            }
        }
    }

    fn pop(&mut self) -> Option<(Op, io::Result<()>)> {
        if self.done.is_empty() {
            self.collect();
        }
        self.done.pop_front()
    }

    fn event(&self) -> Option<RawFd> {
        // A ring can be polled itself, which saves an event for each batch.
        Some(self.ring.as_raw_fd())
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // What the kernel still has points into the guest's memory; what it
        // has not taken it will not get.
        self.refused = true;
        while self.busy() {
            self.wait();
            self.collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_does_nothing_but_read_and_write() {
        // Containers often have no io_uring.
        let Ok(mut uring) = Uring::new() else { return };
        let socket = opcode::Socket::new(libc::AF_UNIX, libc::SOCK_STREAM, 0).build();
        // SAFETY: making a socket takes no buffers.
        unsafe { uring.ring.submission().push(&socket) }.unwrap();
        uring.ring.submit_and_wait(1).unwrap();
        let done = uring.ring.completion().next().unwrap();
        assert_eq!(done.result(), -libc::EACCES);
    }
}
