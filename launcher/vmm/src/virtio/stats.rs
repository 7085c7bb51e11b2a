//! What a device has done, for metrics.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// What it has come to.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// It is `n` now.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// What it is.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a device has done since it was made; resets do not clear it.
#[derive(Debug, Default)]
pub struct Stats {
    /// Requests, packets or frames that came from the guest and were served.
    pub from_guest: Counter,
    /// Their bytes, headers left out.
    pub from_guest_bytes: Counter,
    /// Requests, packets or frames handed to the guest.
    pub to_guest: Counter,
    /// Their bytes, headers left out.
    pub to_guest_bytes: Counter,
    /// What had to be dropped: nowhere to go, or no room for it.
    pub dropped: Counter,
    /// Times that the device met a broken queue and stopped.
    pub faults: Counter,
    /// The last of them.
    fault: Mutex<Option<String>>,
}

impl Stats {
    /// Counts `len` bytes from the guest.
    pub fn received(&self, len: u64) {
        self.from_guest.add(1);
        self.from_guest_bytes.add(len);
    }

    /// Counts `len` bytes to the guest.
    pub fn delivered(&self, len: u64) {
        self.to_guest.add(1);
        self.to_guest_bytes.add(len);
    }

    /// Notes why the device stopped.
    pub fn fail(&self, error: &dyn Display) {
        self.faults.add(1);
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    }

    /// Why the device stopped last, if it ever did.
    pub fn fault(&self) -> Option<String> {
        self.fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
