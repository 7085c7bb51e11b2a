//! A thread that does for the vCPUs what they may not do themselves.
//!
//! Starting and stopping a device opens files and starts threads. Threads
//! inherit the system call filter of the one that starts them, and that of a
//! vCPU allows next to nothing.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;

type Job = Box<dyn FnOnce() + Send>;

/// The thread's other end. It ends when this is dropped.
#[derive(Debug)]
pub struct Worker {
    jobs: Mutex<Sender<Job>>,
}

impl Worker {
    /// Starts the thread; `prepare` is what it does first.
    ///
    /// # Errors
    /// If there can be no more threads, or `prepare` fails.
    pub fn start(prepare: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (prepared, result) = mpsc::channel();
        thread::Builder::new()
            .name("devices".into())
            .spawn(move || {
                let prepare = prepare();
                let go = prepare.is_ok();
                let _ = prepared.send(prepare);
                if go {
                    queue.into_iter().for_each(|job| job());
                }
            })?;
        let gone = |_| io::Error::other("the thread for devices has ended");
        result.recv().map_err(gone)??;
        Ok(Self {
            jobs: Mutex::new(jobs),
        })
    }

    /// Has it run `job` and waits for the result; `None` if it panicked.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (sender, receiver) = mpsc::channel();
        let job: Job = Box::new(move || {
            let _ = sender.send(job());
        });
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.send(job).ok()?;
        drop(jobs);
        receiver.recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_back_from_the_other_thread() {
        let worker = Worker::start(|| Ok(())).unwrap();
        let here = thread::current().id();
        let there = worker.run(|| thread::current().id()).unwrap();
        assert_ne!(here, there);
        assert_eq!(worker.run(|| thread::current().id()), Some(there));
    }
}
