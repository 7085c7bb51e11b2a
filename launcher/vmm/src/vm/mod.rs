//! A virtual machine: what it is made of, its life, and its end.
//!
//! [`Vm::new`] checks the configuration and makes the machine; [`Vm::run`] lets
//! the guest run on threads of its own and returns when it ends. A guest that
//! asks for a reset ends, too: [`Vm::reset`] makes a fresh machine around the
//! same devices, and [`Vm::run`] goes on. A [`Handle`] controls it from other
//! threads.

mod config;
mod exit;
mod handle;
mod kept;
mod kvm;
mod machine;
mod stats;
mod vcpu;

pub use config::{Config, Parts};
pub use exit::{Crash, Exit};
pub use handle::{ControlError, Handle, Status};
pub use kvm::KvmError;
pub use machine::VmError;
pub use stats::{Snapshot, Stats};

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use handle::{Command, Shared};
use machine::{Machine, SharedOutput};

/// What the thread that runs the machine is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// A vCPU met the guest's end.
    Exit(Exit),
    /// The guest has let go of a processor.
    Ejected(u8),
    /// A handle asks for something.
    Command(Command, Sender<Result<(), ControlError>>),
}

/// A virtual machine.
#[derive(Debug)]
pub struct Vm {
    config: Config,
    serial: SharedOutput,
    machine: Option<Machine>,
    shared: Arc<Shared>,
    events: Receiver<Event>,
    sender: Sender<Event>,
    held: bool,
}

impl Vm {
    /// Makes a machine and loads its kernel; nothing runs yet.
    ///
    /// # Errors
    /// If the configuration makes no machine, the kernel cannot be booted, or
    /// KVM refuses.
    pub fn new(config: Config, parts: Parts) -> Result<Self, VmError> {
        let (sender, events) = mpsc::channel();
        let shared = Arc::new(Shared::new(sender.clone(), config.cpus));
        let mut vm = Self {
            config,
            serial: SharedOutput::new(parts.serial),
            machine: None,
            shared,
            events,
            sender,
            held: false,
        };
        let machine = Machine::new(
            &vm.config,
            parts.devices,
            &vm.serial,
            &vm.sender,
            &vm.shared,
        )?;
        vm.machine = Some(machine);
        Ok(vm)
    }

    /// Controls the machine from other threads, for as long as it exists.
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared))
    }

    /// What the machine is booted from; to be changed before a
    /// [`reset`](Self::reset) if the guest has installed another kernel.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// Has the next [`run`](Self::run) begin with the guest held: before its
    /// first instruction, it waits for [`Handle::resume`].
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// Runs the guest until it ends. All its threads have ended when this
    /// returns; only the devices live on, and do nothing.
    ///
    /// # Errors
    /// If vCPUs cannot be made or started.
    pub fn run(&mut self) -> Result<Exit, VmError> {
        let Some(machine) = &mut self.machine else {
            return Err(VmError::Ended);
        };
        machine.start(std::mem::take(&mut self.held))?;
        let exit = loop {
            match self.events.recv() {
                Ok(Event::Exit(exit)) => break exit,
                Ok(Event::Ejected(cpu)) => machine.ejected(cpu),
                Ok(Event::Command(Command::Kill, reply)) => {
                    let _ = reply.send(Ok(()));
                    break Exit::Killed;
                }
                Ok(Event::Command(command, reply)) => {
                    let _ = reply.send(machine.command(command));
                }
                // This holds a sender itself.
                Err(mpsc::RecvError) => break Exit::Killed,
            }
        };
        machine.stop();
        // Other vCPUs may have met the end at the same time.
        let mut waiting = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            if let Event::Command(..) = event {
                waiting.push(event);
            }
        }
        for event in waiting {
            let _ = self.sender.send(event);
        }
        Ok(exit)
    }

    /// Makes a fresh machine around the same devices, as a reset does. Memory
    /// is new, so nothing of the last guest's is left in it.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn reset(&mut self) -> Result<(), VmError> {
        let machine = self.machine.take().ok_or(VmError::Ended)?;
        let devices = machine.into_devices();
        self.machine = Some(Machine::new(
            &self.config,
            devices,
            &self.serial,
            &self.sender,
            &self.shared,
        )?);
        Ok(())
    }
}
