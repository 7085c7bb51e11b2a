//! The I/O ports, apart from those of devices in files of their own.

use std::sync::Mutex;
use std::sync::PoisonError;

use super::acpi::{self, Events};
use super::cpu_hotplug::{CpuHotplug, Effect};
use super::serial::SerialPort;
use crate::acpi::RESET_VALUE;
use crate::arch::layout;
use crate::pci::PciBus;

/// Bits of pvpanic's register ([QEMU, pvpanic]).
///
/// [QEMU, pvpanic]: https://www.qemu.org/docs/master/specs/pvpanic.html
const PANICKED: u8 = 1;
const CRASH_LOADED: u8 = 1 << 1;

/// The keyboard controller's command port and its command that pulses the
/// reset line: the one thing of it that kernels use without probing.
const I8042_COMMAND_PORT: u16 = 0x64;
const I8042_RESET: u8 = 0xfe;

/// What a guest's write asks of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// To be turned off.
    PowerOff,
    /// To be reset.
    Reset,
    /// Nothing: its kernel has panicked.
    Panicked,
    /// To take a processor away.
    Ejected(u8),
}

/// All devices behind ports.
#[derive(Debug)]
pub struct Ports {
    /// COM1.
    pub serial: SerialPort,
    /// The general event device.
    pub events: Events,
    /// Processors that come and go.
    pub cpus: Mutex<CpuHotplug>,
}

impl Ports {
    /// The guest reads from `port`. Where there is nothing, all bits are ones,
    /// as on a PC's bus.
    pub fn read(&self, port: u16, data: &mut [u8], pci: &PciBus) {
        data.fill(0xff);
        match port {
            layout::SERIAL_PORT..=0x3ff => {
                self.serial.read((port - layout::SERIAL_PORT) as u8, data);
            }
            layout::GED_PORT => data.fill(self.events.take()),
            layout::SLEEP_STATUS_PORT => data.fill(0),
            // Ready for a command: kernels wait for that before they reset.
            I8042_COMMAND_PORT => data.fill(0),
            layout::PVPANIC_PORT => data.fill(PANICKED | CRASH_LOADED),
            layout::PCI_CONFIG_PORT..=0xcff => {
                pci.read_port(port - layout::PCI_CONFIG_PORT, data);
            }
            port if cpu_hotplug(port).is_some() => {
                let offset = port - layout::CPU_HOTPLUG_PORT;
                self.cpus().read(offset, data);
            }
            _ => {}
        }
    }

    /// The guest writes to `port`.
    pub fn write(&self, port: u16, data: &[u8], pci: &PciBus) -> Option<Request> {
        let value = data.first().copied()?;
        match port {
            layout::SERIAL_PORT..=0x3ff => {
                self.serial.write((port - layout::SERIAL_PORT) as u8, data);
                None
            }
            layout::SLEEP_CONTROL_PORT if acpi::is_off(value) => Some(Request::PowerOff),
            layout::RESET_PORT if value == RESET_VALUE => Some(Request::Reset),
            I8042_COMMAND_PORT if value == I8042_RESET => Some(Request::Reset),
            // With a crash kernel loaded it goes on, and reboots by itself.
            layout::PVPANIC_PORT if value & PANICKED != 0 => Some(Request::Panicked),
            layout::PCI_CONFIG_PORT..=0xcff => {
                pci.write_port(port - layout::PCI_CONFIG_PORT, data);
                None
            }
            port if cpu_hotplug(port).is_some() => {
                let offset = port - layout::CPU_HOTPLUG_PORT;
                match self.cpus().write(offset, data) {
                    Effect::Ejected(cpu) => Some(Request::Ejected(cpu)),
                    Effect::None => None,
                }
            }
            _ => None,
        }
    }

    /// The processors' registers.
    pub fn cpus(&self) -> std::sync::MutexGuard<'_, CpuHotplug> {
        self.cpus.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cpu_hotplug(port: u16) -> Option<u16> {
    let offset = port.checked_sub(layout::CPU_HOTPLUG_PORT)?;
    (offset < layout::CPU_HOTPLUG_PORTS).then_some(offset)
}
