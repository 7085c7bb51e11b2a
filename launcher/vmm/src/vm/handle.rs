//! Control of a machine from other threads.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Event;
use super::stats::{Snapshot, Stats};
use crate::arch::layout;
use crate::devices::acpi::EVENT_POWER_BUTTON;
use crate::devices::ports::Ports;

/// What a machine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// It has been made, but does not run: not yet, between resets, or no more.
    Stopped,
    /// It runs.
    Running,
    /// It is held.
    Paused,
}

/// What the thread that runs the machine can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Hold all vCPUs.
    Pause,
    /// Let them go on.
    Resume,
    /// Have this many vCPUs.
    Cpus(u8),
    /// End it now.
    Kill,
}

/// A request that cannot be met.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no machine any more.
    #[error("the virtual machine does not run")]
    NotRunning,
    /// Too few or too many.
    #[error("{wanted} vCPUs: this virtual machine can have 1 to {max}")]
    Cpus {
        /// What was asked for.
        wanted: u8,
        /// What is possible.
        max: u8,
    },
    /// The host refused.
    #[error("{0}")]
    Host(String),
}

/// What handles and the machine share.
#[derive(Debug)]
pub(crate) struct Shared {
    events: Mutex<Sender<Event>>,
    /// Those of the machine as it is after the last reset.
    ports: Mutex<Option<Arc<Ports>>>,
    status: AtomicU8,
    cpus: AtomicU8,
    pub(crate) stats: Arc<Stats>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(events: Sender<Event>, cpus: u8) -> Self {
        Self {
            events: Mutex::new(events),
            ports: Mutex::new(None),
            status: AtomicU8::new(Status::Stopped as u8),
            cpus: AtomicU8::new(cpus),
            stats: Arc::new(Stats::new()),
        }
    }

    pub(super) fn set_ports(&self, ports: Option<Arc<Ports>>) {
        *lock(&self.ports) = ports;
    }

    pub(super) fn set_status(&self, status: Status) {
        self.status.store(status as u8, Ordering::Release);
    }

    pub(super) fn set_cpus(&self, cpus: u8) {
        self.cpus.store(cpus, Ordering::Release);
    }
}

/// Controls a machine.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn request(&self, command: Command) -> Result<(), ControlError> {
        let (sender, reply) = mpsc::channel();
        lock(&self.shared.events)
            .send(Event::Command(command, sender))
            .map_err(|_| ControlError::NotRunning)?;
        // The sender goes away with the machine.
        reply.recv().map_err(|_| ControlError::NotRunning)?
    }

    fn ports(&self) -> Result<Arc<Ports>, ControlError> {
        lock(&self.shared.ports)
            .clone()
            .ok_or(ControlError::NotRunning)
    }

    /// What the machine is doing.
    pub fn status(&self) -> Status {
        match self.shared.status.load(Ordering::Acquire) {
            1 => Status::Running,
            2 => Status::Paused,
            _ => Status::Stopped,
        }
    }

    /// Holds the guest: no vCPU runs when this returns.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&self) -> Result<(), ControlError> {
        self.request(Command::Pause)
    }

    /// Lets a held guest go on.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&self) -> Result<(), ControlError> {
        self.request(Command::Resume)
    }

    /// Ends the guest now, or as soon as it would run:
    /// [`run`](super::Vm::run) returns [`Killed`](super::Exit::Killed). Does not
    /// wait for that, so that the thread that will call `run` can ask, too.
    ///
    /// # Errors
    /// If there is no machine any more.
    pub fn kill(&self) -> Result<(), ControlError> {
        let (sender, _) = mpsc::channel();
        lock(&self.shared.events)
            .send(Event::Command(Command::Kill, sender))
            .map_err(|_| ControlError::NotRunning)
    }

    /// Presses the power button. What comes of it is up to the guest.
    ///
    /// # Errors
    /// If it does not run.
    pub fn power_button(&self) -> Result<(), ControlError> {
        self.ports()?
            .events
            .raise(EVENT_POWER_BUTTON)
            .map_err(|error| ControlError::Host(error.to_string()))
    }

    /// Has the guest use `count` vCPUs. New ones are there when this returns,
    /// but the guest has to bring them online; others go when it lets go of
    /// them.
    ///
    /// # Errors
    /// If it does not run or cannot have as many.
    pub fn set_cpus(&self, count: u8) -> Result<(), ControlError> {
        self.request(Command::Cpus(count.min(layout::MAX_CPUS + 1)))
    }

    /// vCPUs that are there.
    pub fn cpus(&self) -> u8 {
        self.shared.cpus.load(Ordering::Acquire)
    }

    /// Types on the serial port, waiting for room up to `patience`; returns how
    /// much of `input` was taken.
    ///
    /// # Errors
    /// If there is no machine.
    pub fn serial_input(&self, input: &[u8], patience: Duration) -> Result<usize, ControlError> {
        Ok(self.ports()?.serial.input(input, patience))
    }

    /// Bytes that the guest has written to the serial port since the last
    /// reset.
    pub fn serial_written(&self) -> u64 {
        self.ports().map_or(0, |ports| ports.serial.written())
    }

    /// Counters.
    pub fn stats(&self) -> Snapshot {
        self.shared.stats.snapshot()
    }

    /// Time since the machine was made.
    pub fn age(&self) -> Duration {
        self.shared.stats.age()
    }
}
