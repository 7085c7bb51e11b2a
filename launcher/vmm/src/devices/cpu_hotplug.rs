//! The registers by which processors come and go.
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 4 | selects a processor |
//! | 4 | 1 | bit 0: it is there; 1: it has come; 2: it is to go; 3 (write): ejected |
//!
//! Bits 1 and 2 are cleared by writing ones to them.

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing that others need to know.
    None,
    /// The guest has let go of this processor.
    Ejected(u8),
}

const ENABLED: u8 = 1;
const INSERTING: u8 = 1 << 1;
const REMOVING: u8 = 1 << 2;
const EJECT: u8 = 1 << 3;

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    enabled: bool,
    inserting: bool,
    removing: bool,
}

/// The state of all processors.
#[derive(Debug, Clone)]
pub struct CpuHotplug {
    slots: Vec<Slot>,
    selected: u32,
}

impl CpuHotplug {
    /// `cpus` of `max_cpus` are there.
    pub fn new(cpus: u8, max_cpus: u8) -> Self {
        let slot = |cpu| Slot {
            enabled: cpu < cpus,
            ..Slot::default()
        };
        Self {
            slots: (0..max_cpus).map(slot).collect(),
            selected: 0,
        }
    }

    /// How many are there.
    pub fn count(&self) -> u8 {
        self.slots.iter().filter(|s| s.enabled).count() as u8
    }

    /// Makes the lowest ones come or the highest ones go until there are
    /// `count`; returns those that come. Those that go do so when the guest
    /// lets go of them. The first never goes.
    pub fn resize(&mut self, count: u8) -> Vec<u8> {
        let mut come = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let wanted = index < usize::from(count.max(1));
            slot.removing = slot.enabled && !wanted;
            if wanted && !slot.enabled {
                slot.enabled = true;
                slot.inserting = true;
                come.push(index as u8);
            }
        }
        come
    }

    /// The guest reads.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0);
        match (offset, data) {
            (0, data @ [_, _, _, _]) => data.copy_from_slice(&self.selected.to_le_bytes()),
            (4, [flags, ..]) => {
                let slot = self.selected().map_or(Slot::default(), |s| self.slots[s]);
                for (on, bit) in [
                    (slot.enabled, ENABLED),
                    (slot.inserting, INSERTING),
                    (slot.removing, REMOVING),
                ] {
                    *flags |= if on { bit } else { 0 };
                }
            }
            _ => {}
        }
    }

    /// The guest writes.
    pub fn write(&mut self, offset: u16, data: &[u8]) -> Effect {
        match (offset, data) {
            (0, &[a, b, c, d]) => self.selected = u32::from_le_bytes([a, b, c, d]),
            (4, &[flags]) => {
                let Some(index) = self.selected() else {
                    return Effect::None;
                };
                let slot = &mut self.slots[index];
                slot.inserting &= flags & INSERTING == 0;
                slot.removing &= flags & REMOVING == 0;
                // The first runs what writes this.
                if flags & EJECT != 0 && slot.enabled && index != 0 {
                    *slot = Slot::default();
                    return Effect::Ejected(index as u8);
                }
            }
            _ => {}
        }
        Effect::None
    }

    fn selected(&self) -> Option<usize> {
        let index = usize::try_from(self.selected).ok()?;
        (index < self.slots.len()).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(cpus: &mut CpuHotplug, cpu: u32) -> u8 {
        cpus.write(0, &cpu.to_le_bytes());
        let mut flags = [0];
        cpus.read(4, &mut flags);
        flags[0]
    }

    #[test]
    fn a_processor_comes_and_goes() {
        let mut cpus = CpuHotplug::new(1, 4);
        assert_eq!((flags(&mut cpus, 0), flags(&mut cpus, 1)), (1, 0));
        assert_eq!(cpus.resize(3), [1, 2]);
        assert_eq!(flags(&mut cpus, 2), 3);
        assert_eq!(cpus.write(4, &[INSERTING]), Effect::None);
        assert_eq!(flags(&mut cpus, 2), 1);
        assert!(cpus.resize(2).is_empty());
        assert_eq!((flags(&mut cpus, 2), flags(&mut cpus, 1)), (5, 3));
        assert_eq!(cpus.count(), 3, "it is there until the guest lets go");
        flags(&mut cpus, 2);
        cpus.write(4, &[REMOVING]);
        assert_eq!(cpus.write(4, &[EJECT]), Effect::Ejected(2));
        assert_eq!(cpus.write(4, &[EJECT]), Effect::None);
        assert_eq!(cpus.count(), 2);
    }

    #[test]
    fn the_first_processor_stays() {
        let mut cpus = CpuHotplug::new(2, 2);
        cpus.resize(0);
        assert_eq!(flags(&mut cpus, 0), 1);
        assert_eq!(cpus.write(4, &[EJECT]), Effect::None);
        assert_eq!(cpus.count(), 2);
    }

    proptest::proptest! {
        #[test]
        fn any_access_is_harmless(
            writes in proptest::collection::vec(
                (0u16..9, proptest::collection::vec(0u8..=255, 0..9)), 0..64),
        ) {
            let mut cpus = CpuHotplug::new(2, 3);
            for (offset, data) in writes {
                cpus.write(offset, &data);
                let mut data = data;
                cpus.read(offset, &mut data);
            }
            assert!(cpus.count() >= 1);
        }
    }
}
