//! What a machine counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of a machine, since it was made.
        #[derive(Debug)]
        pub struct Stats {
            started: Instant,
            $(pub(crate) $name: AtomicU64,)*
        }

        /// The counters at one time.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Snapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            pub(crate) fn new() -> Self {
                Self { started: Instant::now(), $($name: AtomicU64::new(0),)* }
            }

            /// The counters now.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Reads from ports.
    port_reads,
    /// Writes to ports.
    port_writes,
    /// Reads from memory that is none.
    memory_reads,
    /// Writes to memory that is none; doorbells are not among them.
    memory_writes,
    /// Returns from the guest for a signal.
    interruptions,
    /// Microseconds from the start to the kernel in memory.
    loaded_micros,
    /// Microseconds from the start to the guest's first instruction.
    entered_micros,
    /// Resets so far.
    resets,
}

impl Stats {
    pub(crate) fn count(&self, counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes how long it took to get here, the first time.
    pub(crate) fn mark(&self, stage: &AtomicU64) {
        let micros = self.started.elapsed().as_micros() as u64;
        let _ = stage.compare_exchange(0, micros, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Time since the machine was made.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }
}
