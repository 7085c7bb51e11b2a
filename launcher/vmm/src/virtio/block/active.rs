//! A request on its way: what has been asked, moved and gone wrong so far.

use std::io;
use std::ops::Range;

use super::buffers::{Buffers, GuestByte};
use super::engine::Op;
use super::request::{Kind, Request};
use crate::block::{Backend, Run, overlong};

/// The most transfers that one request has going at once: bounds what a
/// request over many small extents costs.
const MAX_OPS: u32 = 32;

/// How it stands with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Transfers are going.
    Going,
    /// It has to wait for somebody else's.
    Stalled,
    /// Nothing is going, and nothing is left to do.
    Quiet,
}

/// A request that is not answered yet.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) head: u16,
    pub(crate) kind: Kind,
    buffers: Buffers,
    pub(crate) status: GuestByte,
    /// Bytes of data that the back end has been asked about.
    next: u64,
    /// Transfers that are going.
    ops: u32,
    /// What went wrong first.
    pub(crate) error: Option<io::Error>,
    /// All that was to be done has been.
    pub(crate) settled: bool,
}

impl Active {
    pub(crate) fn new(request: Request) -> Self {
        Self {
            head: request.head,
            kind: request.kind,
            buffers: request.buffers,
            status: request.status,
            next: 0,
            ops: 0,
            error: None,
            settled: false,
        }
    }

    /// The buffers, to fill them by other means.
    pub(crate) fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// The range of the disk whose bytes are moved; empty for requests that
    /// move none.
    pub(crate) fn range(&self) -> Range<u64> {
        match &self.kind {
            Kind::Read(range) | Kind::Write(range) => range.clone(),
            _ => 0..0,
        }
    }

    /// Moves on as far as possible, giving transfers to `push`.
    pub(crate) fn advance(
        &mut self,
        slot: usize,
        backend: &dyn Backend,
        mut push: impl FnMut(Op),
    ) -> Progress {
        let range = self.range();
        while self.next < range.end - range.start && self.ops < MAX_OPS && self.error.is_none() {
            match self.step(slot, backend, range.start + self.next..range.end) {
                Ok(Some(op)) => {
                    self.ops += 1;
                    push(op);
                }
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Progress::Stalled;
                }
                Err(error) => self.error = Some(error),
            }
        }
        if self.ops == 0 {
            Progress::Quiet
        } else {
            Progress::Going
        }
    }

    fn step(
        &mut self,
        slot: usize,
        backend: &dyn Backend,
        rest: Range<u64>,
    ) -> io::Result<Option<Op>> {
        let (start, max) = (rest.start, rest.end - rest.start);
        let write = matches!(self.kind, Kind::Write(_));
        let run = if write {
            Run::File(backend.prepare_write(rest)?)
        } else {
            backend.read(rest)?
        };
        let (at, len) = (self.next, run.len());
        if len == 0 || len > max {
            if write {
                backend.abandoned(start..start + max);
            }
            return Err(overlong());
        }
        self.next += len;
        Ok(match run {
            Run::Zeros(_) => {
                self.buffers.clear(at, len);
                None
            }
            Run::Literal(bytes) => {
                self.buffers.copy_in(at, &bytes);
                None
            }
            Run::File(run) => {
                let pieces = self.buffers.slice(at, len);
                let memory = self.buffers.memory();
                Some(Op::new(slot, at, run, write, pieces, memory))
            }
        })
    }

    /// Takes a transfer back.
    pub(crate) fn done(&mut self, op: &Op, result: io::Result<()>, backend: &dyn Backend) {
        self.ops = self.ops.saturating_sub(1);
        for gap in &op.run.gaps {
            self.buffers.clear(op.at + gap.start, gap.end - gap.start);
        }
        let start = self.range().start + op.at;
        let range = start..start + op.run.len;
        let result = match result {
            Ok(()) if op.write => backend.written(range),
            Ok(()) => backend.check(&op.run),
            Err(error) => {
                if op.write {
                    backend.abandoned(range);
                }
                Err(error)
            }
        };
        if let Err(error) = result {
            self.error.get_or_insert(error);
        }
    }

    /// Bytes that the device has written into the buffers, the status apart.
    pub(crate) fn used(&self) -> u32 {
        match &self.kind {
            _ if self.error.is_some() => 0,
            Kind::Read(range) => (range.end - range.start) as u32,
            Kind::GetId => virtio_bindings::bindings::virtio_blk::VIRTIO_BLK_ID_BYTES,
            _ => 0,
        }
    }
}
