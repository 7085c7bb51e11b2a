//! The machine between two resets: KVM's side, the devices, the vCPUs.

use std::io::{self, Write};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kvm_bindings::CpuId;
use kvm_ioctls::VmFd;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::Event;
use super::config::Config;
use super::handle::{Command, ControlError, Shared, Status};
use super::kvm::{self, KvmError, KvmSlots};
use super::vcpu::{Bus, Vcpu};
use crate::arch::layout;
use crate::arch::x86_64::reset;
use crate::boot::{self, BootError};
use crate::devices::SerialPort;
use crate::devices::acpi::{EVENT_CPU, Events};
use crate::devices::cpu_hotplug::CpuHotplug;
use crate::devices::ports::Ports;
use crate::devices::serial::Output;
use crate::irq::{KvmRouter, Router};
use crate::memory::{self, MemoryError, Placement};
use crate::pci::virtio::VirtioPci;
use crate::pci::{PciBus, PciDevice, TooManyDevices};
use crate::virtio::mem::Slots;
use crate::virtio::{Memory, VirtioDevice};
use crate::worker::Worker;
use crate::{acpi, sandbox, smbios};

/// A machine that cannot be made or run.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// KVM refuses.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The memory cannot be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// There is nothing that could be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Strings for the guest are too long.
    #[error(transparent)]
    Smbios(#[from] smbios::SmbiosError),
    /// Tables do not fit.
    #[error(transparent)]
    Acpi(#[from] acpi::TooLarge),
    /// Too many devices.
    #[error(transparent)]
    Devices(#[from] TooManyDevices),
    /// Too few or too many processors.
    #[error("{cpus} vCPUs, {max} at most: there can be 1 to {limit}", limit = layout::MAX_CPUS)]
    Cpus {
        /// At boot.
        cpus: u8,
        /// Later.
        max: u8,
    },
    /// The host refuses.
    #[error("{what}: {error}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What it said.
        #[source]
        error: io::Error,
    },
    /// A reset failed before.
    #[error("the virtual machine has ended")]
    Ended,
}

fn host(what: &'static str) -> impl Fn(io::Error) -> VmError {
    move |error| VmError::Host { what, error }
}

/// An output that the machines before and after a reset share.
#[derive(Clone)]
pub(super) struct SharedOutput(Arc<Mutex<Output>>);

impl SharedOutput {
    pub(super) fn new(output: Output) -> Self {
        Self(Arc::new(Mutex::new(output)))
    }
}

impl std::fmt::Debug for SharedOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedOutput")
    }
}

impl Write for SharedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        output.flush()
    }
}

/// A machine. Dropped in the order of its fields: threads end before the
/// memory that they use goes.
pub(super) struct Machine {
    vcpus: Vec<Vcpu>,
    bus: Arc<Bus>,
    devices: Vec<Arc<VirtioPci>>,
    vm: Arc<VmFd>,
    events: Sender<Event>,
    shared: Arc<Shared>,
    supported: CpuId,
    max_cpus: u8,
    entry: u64,
    _memory: Memory,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("vcpus", &self.vcpus)
            .field("devices", &self.devices)
            .finish_non_exhaustive()
    }
}

impl Machine {
    pub(super) fn new(
        config: &Config,
        devices: Vec<Box<dyn VirtioDevice>>,
        serial: &SharedOutput,
        events: &Sender<Event>,
        shared: &Arc<Shared>,
    ) -> Result<Self, VmError> {
        let (cpus, max) = (config.cpus, config.max_cpus);
        if cpus == 0 || max < cpus || max > layout::MAX_CPUS {
            return Err(VmError::Cpus { cpus, max });
        }
        let placement = Placement::of(&config.memory)?;
        let kvm = kvm::open()?;
        let vm = Arc::new(kvm::create_vm(&kvm)?);
        let memory = memory::allocate(&placement, config.memory.huge_pages)?;
        kvm::set_memory(&vm, &memory, &placement)?;
        let entry = load(config, &memory, &placement)?;
        let stats = Arc::clone(&shared.stats);
        stats.mark(&stats.loaded_micros);
        let router = Arc::new(KvmRouter::new(Arc::clone(&vm)).map_err(host("interrupt routes"))?);
        let pin = |irq| router.pin(irq).map_err(host("an interrupt"));
        let ports = Arc::new(Ports {
            serial: SerialPort::new(pin(layout::SERIAL_IRQ)?, Box::new(serial.clone())),
            events: Events::new(pin(layout::GED_IRQ)?),
            cpus: Mutex::new(CpuHotplug::new(cpus, max)),
        });
        let slots: Arc<dyn Slots> = Arc::new(KvmSlots::new(&vm, &memory, &placement));
        let devices = attach(devices, &memory, &slots, &router, config.sandbox)?;
        let functions = devices.iter().map(|d| Arc::clone(d) as Arc<dyn PciDevice>);
        let bus = Arc::new(Bus {
            ports: Arc::clone(&ports),
            pci: PciBus::new(functions.collect())?,
            stats,
            sandbox: config.sandbox,
            kept: OnceLock::new(),
        });
        let mut machine = Self {
            vcpus: Vec::new(),
            bus,
            devices,
            vm,
            events: events.clone(),
            shared: Arc::clone(shared),
            supported: kvm::supported_cpuid(&kvm)?,
            max_cpus: max,
            entry,
            _memory: memory,
        };
        for id in 0..cpus {
            machine.add_vcpu(id)?;
        }
        if let Some(first) = machine.vcpus.first() {
            first.keep_writes(&machine.vm, &machine.bus)?;
        }
        shared.set_ports(Some(ports));
        shared.set_cpus(cpus);
        Ok(machine)
    }

    fn add_vcpu(&mut self, id: u8) -> Result<(), KvmError> {
        let supported = self.supported.as_slice();
        let vcpu = Vcpu::new(&self.vm, id, self.max_cpus, supported, self.entry)?;
        self.vcpus.push(vcpu);
        Ok(())
    }

    /// Starts all vCPUs, which wait to be resumed if they are `held`.
    pub(super) fn start(&mut self, held: bool) -> Result<(), VmError> {
        for vcpu in &mut self.vcpus {
            vcpu.start(Arc::clone(&self.bus), self.events.clone())
                .map_err(host("a thread for a vCPU"))?;
        }
        if held {
            self.shared.set_status(Status::Paused);
            return Ok(());
        }
        self.vcpus.iter().for_each(Vcpu::resume);
        self.shared.set_status(Status::Running);
        Ok(())
    }

    /// Ends the threads of all vCPUs.
    pub(super) fn stop(&mut self) {
        self.vcpus.iter().for_each(Vcpu::hold);
        self.vcpus.iter_mut().for_each(Vcpu::stop);
        self.shared.set_status(Status::Stopped);
    }

    pub(super) fn command(&mut self, command: Command) -> Result<(), ControlError> {
        match command {
            Command::Pause => {
                self.vcpus.iter().for_each(Vcpu::hold);
                self.vcpus.iter().for_each(Vcpu::settle);
                self.shared.set_status(Status::Paused);
                Ok(())
            }
            Command::Resume => {
                let started = self.vcpus.iter().filter(|v| v.is_started());
                started.for_each(Vcpu::resume);
                self.shared.set_status(Status::Running);
                Ok(())
            }
            Command::Cpus(count) => self.set_cpus(count),
            // The loop that calls this ends by itself.
            Command::Kill => Ok(()),
        }
    }

    fn set_cpus(&mut self, count: u8) -> Result<(), ControlError> {
        if count == 0 || count > self.max_cpus {
            return Err(ControlError::Cpus {
                wanted: count,
                max: self.max_cpus,
            });
        }
        let failed = |error: &dyn std::fmt::Display| ControlError::Host(error.to_string());
        let come = self.bus.ports.cpus().resize(count);
        for id in come {
            if !self.vcpus.iter().any(|v| v.id() == id) {
                self.add_vcpu(id).map_err(|e| failed(&e))?;
            }
            let bus = Arc::clone(&self.bus);
            let events = self.events.clone();
            if let Some(vcpu) = self.vcpus.iter_mut().find(|v| v.id() == id) {
                vcpu.start(bus, events).map_err(|e| failed(&e))?;
                vcpu.resume();
            }
        }
        self.shared.set_cpus(self.bus.ports.cpus().count());
        self.bus
            .ports
            .events
            .raise(EVENT_CPU)
            .map_err(|e| failed(&e))
    }

    /// The guest has let go of a processor: its thread ends. KVM cannot take
    /// the processor itself away; it waits to be used again.
    pub(super) fn ejected(&mut self, cpu: u8) {
        if let Some(vcpu) = self.vcpus.iter_mut().find(|v| v.id() == cpu) {
            vcpu.stop();
        }
        self.shared.set_cpus(self.bus.ports.cpus().count());
    }

    /// What outlives the machine.
    pub(super) fn into_devices(mut self) -> Vec<Box<dyn VirtioDevice>> {
        self.stop();
        self.shared.set_ports(None);
        self.bus.stats.count(&self.bus.stats.resets);
        let devices = std::mem::take(&mut self.devices).into_iter();
        devices.filter_map(VirtioPci::into_device).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
        self.shared.set_ports(None);
        for device in self.devices.drain(..) {
            drop(device.into_device());
        }
    }
}

/// Fills the memory: kernel, tables.
fn load(config: &Config, memory: &Memory, placement: &Placement) -> Result<u64, VmError> {
    let memory = memory.memory();
    let machine = acpi::Machine {
        cpus: config.cpus,
        max_cpus: config.max_cpus,
    };
    let write = |bytes: &[u8], at| {
        let written = memory.write_slice(bytes, GuestAddress(at));
        written.map_err(|error| VmError::Boot(error.into()))
    };
    write(&acpi::build(machine, layout::ACPI)?, layout::ACPI)?;
    let tables = smbios::build(&config.smbios, layout::SMBIOS)?;
    write(&tables, layout::SMBIOS)?;
    write(&reset::code(acpi::RESET_VALUE), layout::RESET_VECTOR)?;
    let cache = config.kernel_cache.as_ref();
    Ok(boot::load(
        &config.boot,
        cache,
        &memory,
        placement,
        layout::ACPI,
    )?)
}

/// Puts the devices on the bus.
fn attach(
    devices: Vec<Box<dyn VirtioDevice>>,
    memory: &Memory,
    slots: &Arc<dyn Slots>,
    router: &Arc<KvmRouter>,
    confined: bool,
) -> Result<Vec<Arc<VirtioPci>>, VmError> {
    let confine = sandbox::for_devices(confined, sandbox::Files::default());
    let worker = Worker::start(move || confine("devices"));
    let worker = Arc::new(worker.map_err(host("a thread for devices"))?);
    let mut attached = Vec::with_capacity(devices.len());
    for (index, mut device) in devices.into_iter().enumerate() {
        device.attach(slots);
        let device = VirtioPci::new(
            device,
            PciBus::bar(index),
            memory.clone(),
            Arc::clone(router) as Arc<dyn Router>,
            Arc::clone(&worker),
        )
        .map_err(host("a virtio device"))?;
        attached.push(Arc::new(device));
    }
    Ok(attached)
}
