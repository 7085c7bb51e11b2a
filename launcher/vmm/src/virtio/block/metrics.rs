//! What a device has done, for metrics.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::request::Kind;

/// Counters of a block device; all only grow.
#[derive(Debug, Default)]
pub struct BlockMetrics {
    /// Reads that succeeded.
    pub reads: AtomicU64,
    /// Bytes read.
    pub read_bytes: AtomicU64,
    /// Writes that succeeded.
    pub writes: AtomicU64,
    /// Bytes written.
    pub written_bytes: AtomicU64,
    /// Flushes that succeeded.
    pub flushes: AtomicU64,
    /// Discards and write-zeroes that succeeded.
    pub discards: AtomicU64,
    /// Requests answered with an error because the host failed.
    pub errors: AtomicU64,
    /// Requests refused because they made no sense.
    pub refused: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl BlockMetrics {
    pub(crate) fn count(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn succeeded(&self, kind: &Kind) {
        match kind {
            Kind::Read(range) => {
                Self::count(&self.reads, 1);
                Self::count(&self.read_bytes, range.end - range.start);
            }
            Kind::Write(range) => {
                Self::count(&self.writes, 1);
                Self::count(&self.written_bytes, range.end - range.start);
            }
            Kind::Flush => Self::count(&self.flushes, 1),
            Kind::Discard(_) | Kind::WriteZeroes(_) => Self::count(&self.discards, 1),
            Kind::GetId | Kind::Refuse(_) => {}
        }
    }

    pub(crate) fn failed(&self, error: &io::Error) {
        Self::count(&self.errors, 1);
        let mut last = self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = Some(error.to_string());
    }

    /// What went wrong last on the host's side; the guest only sees `IOERR`.
    pub fn last_error(&self) -> Option<String> {
        let last = self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }
}
