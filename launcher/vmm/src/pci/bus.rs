//! The bus: who answers where.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::config::{ConfigSpace, Identity};
use crate::arch::layout;

/// Devices on the bus, the host bridge not counted.
const MAX_DEVICES: usize = 31;

/// A device with one function.
pub trait PciDevice: Send + Sync + fmt::Debug {
    /// The guest reads its configuration space.
    fn read_config(&self, offset: usize, data: &mut [u8]);
    /// The guest writes its configuration space.
    fn write_config(&self, offset: usize, data: &[u8]);
    /// The guest reads BAR 0.
    fn read_bar(&self, offset: u64, data: &mut [u8]);
    /// The guest writes BAR 0.
    fn write_bar(&self, offset: u64, data: &[u8]);
}

/// More devices than a bus has slots.
#[derive(Debug, thiserror::Error)]
#[error("a machine has room for {MAX_DEVICES} devices")]
pub struct TooManyDevices;

/// The bus and its host bridge.
#[derive(Debug)]
pub struct PciBus {
    bridge: Mutex<ConfigSpace>,
    devices: Vec<Arc<dyn PciDevice>>,
    /// What was last written to the configuration address port.
    address: Mutex<u32>,
}

impl PciBus {
    /// Bytes that each device has for its BAR.
    pub const BAR_SIZE: u64 = 0x8000;

    /// A bus with `devices` in slots 1 and up.
    ///
    /// # Errors
    /// If there are too many.
    pub fn new(devices: Vec<Arc<dyn PciDevice>>) -> Result<Self, TooManyDevices> {
        if devices.len() > MAX_DEVICES {
            return Err(TooManyDevices);
        }
        // A bridge that needs no driver, as QEMU's and cloud-hypervisor's.
        let bridge = ConfigSpace::new(Identity {
            id: (0x8086, 0x0d57),
            subsystem: (0, 0),
            class: [6, 0, 0],
            revision: 0,
        });
        Ok(Self {
            bridge: Mutex::new(bridge),
            devices,
            address: Mutex::new(0),
        })
    }

    /// Where the BAR of the device at `index` is.
    pub fn bar(index: usize) -> u64 {
        layout::BARS + Self::BAR_SIZE * index as u64
    }

    /// The guest reads memory below 4 GiB that is none.
    pub fn read_memory(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((device, offset)) = self.in_bar(address, data.len()) {
            device.read_bar(offset, data);
        } else if let Some((slot, offset)) = in_ecam(address, data.len()) {
            self.read_config(slot, offset, data);
        }
    }

    /// The guest writes memory that is none.
    pub fn write_memory(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.in_bar(address, data.len()) {
            device.write_bar(offset, data);
        } else if let Some((slot, offset)) = in_ecam(address, data.len()) {
            self.write_config(slot, offset, data);
        }
    }

    fn in_bar(&self, address: u64, len: usize) -> Option<(&dyn PciDevice, u64)> {
        let offset = address.checked_sub(layout::BARS)?;
        let (index, offset) = (offset / Self::BAR_SIZE, offset % Self::BAR_SIZE);
        let device = self.devices.get(usize::try_from(index).ok()?)?;
        (offset + len as u64 <= Self::BAR_SIZE).then_some((device.as_ref(), offset))
    }

    /// `slot` is device and function, as ECAM numbers them.
    fn read_config(&self, slot: usize, offset: usize, data: &mut [u8]) {
        match slot {
            0 => lock(&self.bridge).read(offset, data),
            _ if !slot.is_multiple_of(8) => {}
            _ => {
                if let Some(device) = self.devices.get(slot / 8 - 1) {
                    device.read_config(offset, data);
                }
            }
        }
    }

    fn write_config(&self, slot: usize, offset: usize, data: &[u8]) {
        match slot {
            0 => lock(&self.bridge).write(offset, data),
            _ if !slot.is_multiple_of(8) => {}
            _ => {
                if let Some(device) = self.devices.get(slot / 8 - 1) {
                    device.write_config(offset, data);
                }
            }
        }
    }

    /// PCI 3.0, section 3.2.2.3.2: address at 0, data at 4.
    pub fn read_port(&self, offset: u16, data: &mut [u8]) {
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&lock(&self.address).to_le_bytes()),
            (4..8, len) if usize::from(offset) + len <= 8 => {
                if let Some((slot, register)) = self.selected() {
                    self.read_config(slot, register + usize::from(offset - 4), data);
                }
            }
            _ => {}
        }
    }

    /// See [`read_port`](Self::read_port).
    pub fn write_port(&self, offset: u16, data: &[u8]) {
        match (offset, data) {
            (0, &[a, b, c, d]) => *lock(&self.address) = u32::from_le_bytes([a, b, c, d]),
            (4..8, data) if usize::from(offset) + data.len() <= 8 => {
                if let Some((slot, register)) = self.selected() {
                    self.write_config(slot, register + usize::from(offset - 4), data);
                }
            }
            _ => {}
        }
    }

    /// Slot and register that the address port selects, on bus 0 only.
    fn selected(&self) -> Option<(usize, usize)> {
        let address = *lock(&self.address) as usize;
        let (enabled, bus) = (address >> 31 == 1, address >> 16 & 0xff);
        (enabled && bus == 0).then_some((address >> 8 & 0xff, address & 0xfc))
    }
}

/// Slot and offset of an address in ECAM (PCI Express 5.0, section 7.2.2).
fn in_ecam(address: u64, len: usize) -> Option<(usize, usize)> {
    let offset = address.checked_sub(layout::ECAM)? as usize;
    if offset as u64 + len as u64 > layout::ECAM_SIZE {
        return None;
    }
    Some((offset >> 12, offset & 0xfff))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Answers(u8);

    impl PciDevice for Answers {
        fn read_config(&self, offset: usize, data: &mut [u8]) {
            data.fill(self.0.wrapping_add(offset as u8));
        }
        fn write_config(&self, _: usize, _: &[u8]) {}
        fn read_bar(&self, offset: u64, data: &mut [u8]) {
            data.fill(self.0.wrapping_add(offset as u8));
        }
        fn write_bar(&self, _: u64, _: &[u8]) {}
    }

    fn bus() -> PciBus {
        PciBus::new(vec![Arc::new(Answers(0x10)), Arc::new(Answers(0x20))]).unwrap()
    }

    fn read(bus: &PciBus, address: u64) -> u32 {
        let mut data = [0; 4];
        bus.read_memory(address, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn ecam_reaches_bridge_and_devices_and_nothing_else() {
        let bus = bus();
        assert_eq!(read(&bus, layout::ECAM), 0x0d57_8086);
        assert_eq!(read(&bus, layout::ECAM + (1 << 15)), 0x1010_1010);
        assert_eq!(read(&bus, layout::ECAM + (2 << 15) + 4), 0x2424_2424);
        for absent in [3 << 15, 1 << 12, layout::ECAM_SIZE - 4, layout::ECAM_SIZE] {
            assert_eq!(read(&bus, layout::ECAM + absent), u32::MAX, "{absent:#x}");
        }
    }

    #[test]
    fn ports_reach_the_same_as_ecam() {
        let bus = bus();
        let mut data = [0; 2];
        bus.write_port(0, &(1u32 << 31 | 1 << 11 | 4).to_le_bytes());
        bus.read_port(6, &mut data);
        assert_eq!(data, [0x16; 2]);
        bus.write_port(0, &(1u32 << 31 | 1 << 16).to_le_bytes());
        let mut data = [0xff; 4];
        bus.read_port(4, &mut data);
        assert_eq!(data, [0xff; 4], "there is no bus 1");
    }

    #[test]
    fn bars_end_where_they_end() {
        let bus = bus();
        assert_eq!(read(&bus, PciBus::bar(1) + 8), 0x2828_2828);
        assert_eq!(read(&bus, PciBus::bar(1) - 2), u32::MAX);
        assert_eq!(read(&bus, PciBus::bar(2)), u32::MAX);
        assert_eq!(read(&bus, 0), u32::MAX);
        assert_eq!(read(&bus, u64::MAX - 3), u32::MAX);
    }

    #[test]
    fn a_full_bus_takes_no_more() {
        let device = || Arc::new(Answers(0)) as Arc<dyn PciDevice>;
        assert!(PciBus::new((0..31).map(|_| device()).collect()).is_ok());
        assert!(PciBus::new((0..32).map(|_| device()).collect()).is_err());
    }
}
