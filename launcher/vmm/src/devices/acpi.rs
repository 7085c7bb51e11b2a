//! Registers of hardware-reduced ACPI: events, sleep and reset.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// A processor comes or is to go.
pub const EVENT_CPU: u8 = 1;
/// The power button was pressed.
pub const EVENT_POWER_BUTTON: u8 = 1 << 3;

/// The sleep type of S5, which is off.
pub const SLEEP_TYPE_OFF: u8 = 5;
/// [Section 4.8.3.7], "Sleep Control Register": type in bits 2 to 4, then
/// enable.
///
/// [Section 4.8.3.7]: https://uefi.org/specs/ACPI/6.5/04_ACPI_Hardware_Specification.html#sleep-control-and-status-registers
const SLEEP_ENABLE: u8 = 1 << 5;

/// Whether what was written to the sleep control register turns the machine
/// off.
pub fn is_off(value: u8) -> bool {
    value & SLEEP_ENABLE != 0 && value >> 2 & 7 == SLEEP_TYPE_OFF
}

/// The general event device.
#[derive(Debug)]
pub struct Events {
    pending: AtomicU8,
    interrupt: EventFd,
}

impl Events {
    /// One that raises `interrupt`.
    pub fn new(interrupt: EventFd) -> Self {
        Self {
            pending: AtomicU8::new(0),
            interrupt,
        }
    }

    /// Tells the guest of `event`.
    ///
    /// # Errors
    /// If the interrupt cannot be raised.
    pub fn raise(&self, event: u8) -> io::Result<()> {
        self.pending.fetch_or(event, Ordering::AcqRel);
        self.interrupt.write(1)
    }

    /// The guest reads the register, which clears it.
    pub fn take(&self) -> u8 {
        self.pending.swap(0, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_type_that_is_off_turns_off() {
        let off: Vec<u8> = (0..=255).filter(|v| is_off(*v)).collect();
        assert!(off.contains(&0x34));
        assert!(off.iter().all(|v| v & 0x3c == 0x34), "{off:x?}");
    }

    #[test]
    fn events_gather_until_they_are_read() {
        let interrupt = EventFd::new(0).unwrap();
        let events = Events::new(interrupt.try_clone().unwrap());
        events.raise(EVENT_CPU).unwrap();
        events.raise(EVENT_POWER_BUTTON).unwrap();
        assert_eq!(interrupt.read().unwrap(), 2);
        assert_eq!((events.take(), events.take()), (9, 0));
    }
}
