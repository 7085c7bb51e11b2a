//! The configuration space of a function.
//!
//! PCI Local Bus Specification 3.0, section 6.1 "Configuration Space
//! Organization" and 6.7 "Capabilities List".

/// Registers, and which of their bits the guest can change. What lies past 256
/// bytes reads as zeros: no extended capabilities.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; 256],
    writable: [u8; 256],
    next_capability: u8,
    last_link: u8,
}

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES: u8 = 0x34;
const INTERRUPT_PIN: usize = 0x3d;

/// Memory space, bus master, interrupt disable.
const COMMAND_BITS: u16 = 1 << 1 | 1 << 2 | 1 << 10;
const STATUS_CAPABILITIES: u8 = 1 << 4;

/// Who made a function, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor and device.
    pub id: (u16, u16),
    /// Subsystem vendor and subsystem.
    pub subsystem: (u16, u16),
    /// Class, subclass and programming interface.
    pub class: [u8; 3],
    /// Revision.
    pub revision: u8,
}

impl ConfigSpace {
    /// A function of type 0 without BARs and capabilities.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; 256],
            writable: [0; 256],
            next_capability: 0x40,
            last_link: CAPABILITIES,
        };
        let [class, subclass, interface] = identity.class;
        space.put(0, &identity.id.0.to_le_bytes());
        space.put(2, &identity.id.1.to_le_bytes());
        space.put(8, &[identity.revision, interface, subclass, class]);
        space.put(SUBSYSTEM, &identity.subsystem.0.to_le_bytes());
        space.put(SUBSYSTEM + 2, &identity.subsystem.1.to_le_bytes());
        space.writable[COMMAND..COMMAND + 2].copy_from_slice(&COMMAND_BITS.to_le_bytes());
        // Cache line size and interrupt line are scratch registers.
        space.writable[0x0c] = 0xff;
        space.writable[0x3c] = 0xff;
        space.bytes[INTERRUPT_PIN] = 0;
        space
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Sets BAR 0: `size` bytes of 32-bit memory at `address`, which is
    /// enabled as firmware would leave it.
    ///
    /// Section 6.2.5.1: the address bits below the size cannot be written,
    /// which is how the guest learns it.
    pub fn set_bar0(&mut self, address: u32, size: u32) {
        debug_assert!(size.is_power_of_two() && address.is_multiple_of(size));
        self.put(BAR0, &address.to_le_bytes());
        self.writable[BAR0..BAR0 + 4].copy_from_slice(&(!(size - 1)).to_le_bytes());
        self.bytes[COMMAND] |= 1 << 1;
    }

    /// Adds a capability of `id` with `body` after the link; `writable` says
    /// which bits of the body can be changed. Returns its offset.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[(usize, u8)]) -> u8 {
        let at = self.next_capability;
        let start = usize::from(at);
        self.bytes[usize::from(self.last_link)] = at;
        self.bytes[start] = id;
        self.put(start + 2, body);
        for (offset, bits) in writable {
            self.writable[start + offset] = *bits;
        }
        self.bytes[STATUS] |= STATUS_CAPABILITIES;
        self.last_link = at + 1;
        self.next_capability = (at + 2 + body.len() as u8).next_multiple_of(4);
        at
    }

    /// The guest reads.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = self.bytes.get(offset + index).copied().unwrap_or(0);
        }
    }

    /// The guest writes.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (at, value) in (offset..self.bytes.len()).zip(data) {
            let mask = self.writable[at];
            self.bytes[at] = self.bytes[at] & !mask | value & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        ConfigSpace::new(Identity {
            id: (0x1af4, 0x1042),
            subsystem: (0x1af4, 0x1100),
            class: [1, 0x80, 0],
            revision: 1,
        })
    }

    fn word(space: &ConfigSpace, at: usize) -> u32 {
        let mut bytes = [0; 4];
        space.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn identity_cannot_be_written() {
        let mut space = space();
        for at in [0, 8, 0x2c, 0x34, 0x40] {
            let before = word(&space, at);
            space.write(at, &[0xff; 4]);
            assert_eq!(word(&space, at), before, "{at:#x}");
        }
        assert_eq!(word(&space, 0), 0x1042_1af4);
        assert_eq!(word(&space, 8), 0x0180_0001);
    }

    #[test]
    fn a_bar_shows_its_size() {
        let mut space = space();
        space.set_bar0(0xc000_8000, 0x8000);
        space.write(0x10, &u32::MAX.to_le_bytes());
        assert_eq!(word(&space, 0x10), 0xffff_8000);
        space.write(0x10, &0xc000_8000u32.to_le_bytes());
        assert_eq!(word(&space, 0x10), 0xc000_8000);
        space.write(0x14, &u32::MAX.to_le_bytes());
        assert_eq!(word(&space, 0x14), 0);
    }

    #[test]
    fn capabilities_are_a_list() {
        let mut space = space();
        assert_eq!(word(&space, 4) >> 20 & 1, 0);
        space.add_capability(9, &[16, 1], &[]);
        space.add_capability(0x11, &[0; 10], &[(3, 0xc0)]);
        assert_eq!(word(&space, 4) >> 20 & 1, 1);
        let first = word(&space, 0x34) as usize;
        assert_eq!(word(&space, first) & 0xff, 9);
        let second = (word(&space, first) >> 8 & 0xff) as usize;
        assert_eq!(word(&space, second) & 0xffff, 0x11);
        space.write(second, &[0xff; 4]);
        assert_eq!(word(&space, second), 0xc000_0011);
    }
}
