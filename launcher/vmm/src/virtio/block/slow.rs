//! The thread for what cannot be done without waiting: flushes, discards and
//! write-zeroes of all queues of a device. Flushes that wait at the same time
//! are one.

use std::io;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::block::Backend;

/// Something that takes its time.
#[derive(Debug)]
pub(crate) enum Task {
    Flush,
    Discard(Vec<Range<u64>>),
    WriteZeroes(Vec<(Range<u64>, bool)>),
}

/// A task, whose it is, and where the result goes.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) slot: usize,
    pub(crate) task: Task,
    pub(crate) results: Arc<Mailbox>,
}

/// Results for one queue.
#[derive(Debug)]
pub(crate) struct Mailbox {
    results: Mutex<Vec<(usize, io::Result<()>)>>,
    event: EventFd,
}

impl Mailbox {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            results: Mutex::default(),
            event: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        })
    }

    fn put(&self, slot: usize, result: io::Result<()>) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.push((slot, result));
        // Fails only if the counter is full, and then it is readable.
        let _ = self.event.write(1);
    }

    /// Takes all results that are there.
    pub(crate) fn take(&self) -> Vec<(usize, io::Result<()>)> {
        let _ = self.event.read();
        std::mem::take(&mut *self.results.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Readable while there are results.
    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }
}

/// Makes the two ends of the way to the thread.
pub(crate) fn lane() -> (Sender<Job>, Receiver<Job>) {
    // Not bounded by itself: each job belongs to a request, and queues bound
    // those.
    channel()
}

/// Works until all senders are gone.
pub(crate) fn run(backend: &dyn Backend, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut flushes = Vec::new();
        for job in std::iter::once(first).chain(jobs.try_iter()) {
            let result = match job.task {
                Task::Flush => {
                    flushes.push(job);
                    continue;
                }
                Task::Discard(ranges) => ranges.into_iter().try_for_each(|r| backend.discard(r)),
                Task::WriteZeroes(ranges) => ranges
                    .into_iter()
                    .try_for_each(|(range, unmap)| backend.write_zeroes(range, unmap)),
            };
            job.results.put(job.slot, result);
        }
        if flushes.is_empty() {
            continue;
        }
        let result = backend.flush();
        for job in flushes {
            let copy = result
                .as_ref()
                .copied()
                .map_err(|e| io::Error::new(e.kind(), e.to_string()));
            job.results.put(job.slot, copy);
        }
    }
}
