//! The common configuration: features, status and queues.
//!
//! [Section 4.1.4.3] for the registers, [section 3.1] for the order in which a
//! driver uses them. A device is in one of two phases. While it is set up, the
//! registers of its queues can be written. Once the driver is ready they are
//! moved into the device and what is left here are copies to be read.
//!
//! [Section 4.1.4.3]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-1270003
//! [section 3.1]: https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html#x1-1060001

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::interrupt::Vectors;

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;
const FAILED: u8 = 128;

const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;

/// What the driver says of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueSetup {
    max_size: u16,
    size: u16,
    enabled: bool,
    descriptors: u64,
    available: u64,
    used: u64,
}

impl QueueSetup {
    fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            enabled: false,
            descriptors: 0,
            available: 0,
            used: 0,
        }
    }

    /// The queue, if the driver enabled it and it lies within the memory.
    ///
    /// # Errors
    /// If it does not.
    pub(super) fn build(
        &self,
        memory: &GuestMemoryMmap,
        features: u64,
    ) -> Result<Option<Queue>, BadQueue> {
        if !self.enabled {
            return Ok(None);
        }
        let words = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        let mut queue = Queue::new(self.max_size).map_err(|_| BadQueue)?;
        queue.set_size(self.size);
        let (low, high) = words(self.descriptors);
        queue.set_desc_table_address(low, high);
        let (low, high) = words(self.available);
        queue.set_avail_ring_address(low, high);
        let (low, high) = words(self.used);
        queue.set_used_ring_address(low, high);
        queue.set_event_idx(features & EVENT_IDX != 0);
        queue.set_ready(true);
        // The setters ignore what is not aligned or no power of two.
        let taken = queue.size() == self.size
            && queue.desc_table() == self.descriptors
            && queue.avail_ring() == self.available
            && queue.used_ring() == self.used;
        match taken && queue.is_valid(memory) {
            true => Ok(Some(queue)),
            false => Err(BadQueue),
        }
    }
}

/// A queue that lies outside of the memory, or is not aligned.
#[derive(Debug)]
pub(super) struct BadQueue;

/// What the transport has to do after a write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    None,
    /// Hand the queues to the device.
    Activate {
        features: u64,
        queues: Vec<QueueSetup>,
    },
    /// Take them away.
    Reset,
}

#[derive(Debug)]
enum Phase {
    SetUp(Vec<QueueSetup>),
    Active(Vec<QueueSetup>),
}

/// The registers.
#[derive(Debug)]
pub(super) struct Common {
    offered: u64,
    accepted: u64,
    offered_select: u32,
    accepted_select: u32,
    status: u8,
    queue_select: u16,
    sizes: Vec<u16>,
    phase: Phase,
}

impl Common {
    pub(super) fn new(offered: u64, sizes: &[u16]) -> Self {
        Self {
            offered,
            accepted: 0,
            offered_select: 0,
            accepted_select: 0,
            status: 0,
            queue_select: 0,
            sizes: sizes.to_vec(),
            phase: Phase::SetUp(sizes.iter().map(|s| QueueSetup::new(*s)).collect()),
        }
    }

    fn queues(&self) -> &[QueueSetup] {
        match &self.phase {
            Phase::SetUp(queues) | Phase::Active(queues) => queues,
        }
    }

    fn selected(&self) -> Option<&QueueSetup> {
        self.queues().get(usize::from(self.queue_select))
    }

    /// Reads; registers of up to eight bytes can be read in halves.
    pub(super) fn read(&self, offset: u64, data: &mut [u8], vectors: &Vectors) {
        data.fill(0);
        let Some((start, size)) = register(offset) else {
            return;
        };
        let value = self.value(start, vectors).to_le_bytes();
        let skip = (offset - start) as usize;
        for (byte, value) in data.iter_mut().zip(&value[skip.min(size)..size]) {
            *byte = *value;
        }
    }

    fn value(&self, register: u64, vectors: &Vectors) -> u64 {
        let half = |word: u64, select: u32| match select {
            0 => word & 0xffff_ffff,
            1 => word >> 32,
            _ => 0,
        };
        let queue = self.selected();
        let of_queue = |field: fn(&QueueSetup) -> u64| queue.map_or(0, field);
        match register {
            0 => self.offered_select.into(),
            4 => half(self.offered, self.offered_select),
            8 => self.accepted_select.into(),
            12 => half(self.accepted, self.accepted_select),
            16 => vectors.vector(None).into(),
            18 => self.sizes.len() as u64,
            20 => self.status(vectors).into(),
            21 => vectors.generation().into(),
            22 => self.queue_select.into(),
            24 => of_queue(|q| q.size.into()),
            26 => vectors.vector(Some(self.queue_select)).into(),
            28 => of_queue(|q| q.enabled.into()),
            30 => self.queue_select.into(),
            32 => of_queue(|q| q.descriptors),
            40 => of_queue(|q| q.available),
            48 => of_queue(|q| q.used),
            _ => 0,
        }
    }

    fn status(&self, vectors: &Vectors) -> u8 {
        match vectors.is_broken() {
            true => self.status | NEEDS_RESET,
            false => self.status,
        }
    }

    /// Writes. Section 4.1.3.1: drivers access registers as wide as they are,
    /// and 64-bit ones in halves; anything else is ignored.
    pub(super) fn write(&mut self, offset: u64, data: &[u8], vectors: &Vectors) -> Action {
        let mut bytes = [0; 8];
        let Some(value) = bytes.get_mut(..data.len()) else {
            return Action::None;
        };
        value.copy_from_slice(data);
        let value = u64::from_le_bytes(bytes);
        match (offset, data.len()) {
            (0, 4) => self.offered_select = value as u32,
            (8, 4) => self.accepted_select = value as u32,
            (12, 4) => self.accept(value),
            (16, 2) => vectors.set_vector(None, value as u16),
            (20, 1) => return self.set_status(value as u8),
            (22, 2) => self.queue_select = value as u16,
            (26, 2) => vectors.set_vector(Some(self.queue_select), value as u16),
            _ => self.write_queue(offset, data.len(), value),
        }
        Action::None
    }

    /// Section 3.1.1: features are settled once `FEATURES_OK` is set.
    fn accept(&mut self, value: u64) {
        if self.status & FEATURES_OK != 0 {
            return;
        }
        match self.accepted_select {
            0 => self.accepted = self.accepted & !0xffff_ffff | value,
            1 => self.accepted = self.accepted & 0xffff_ffff | value << 32,
            _ => {}
        }
    }

    fn write_queue(&mut self, offset: u64, len: usize, value: u64) {
        let Phase::SetUp(queues) = &mut self.phase else {
            return;
        };
        let Some(queue) = queues.get_mut(usize::from(self.queue_select)) else {
            return;
        };
        // Section 4.1.4.3.2: not changed once it is enabled.
        if queue.enabled {
            return;
        }
        let half = |field: &mut u64, high: bool| match high {
            false => *field = *field & !0xffff_ffff | value & 0xffff_ffff,
            true => *field = *field & 0xffff_ffff | value << 32,
        };
        match (offset, len) {
            (24, 2) => {
                let size = value as u16;
                if size.is_power_of_two() && size <= queue.max_size {
                    queue.size = size;
                }
            }
            (28, 2) => queue.enabled = value == 1,
            (32, 8) => queue.descriptors = value,
            (40, 8) => queue.available = value,
            (48, 8) => queue.used = value,
            (32 | 36, 4) => half(&mut queue.descriptors, offset == 36),
            (40 | 44, 4) => half(&mut queue.available, offset == 44),
            (48 | 52, 4) => half(&mut queue.used, offset == 52),
            _ => {}
        }
    }

    fn set_status(&mut self, value: u8) -> Action {
        if value == 0 {
            return Action::Reset;
        }
        // Bits are only ever added (section 2.1.1), and NEEDS_RESET is ours.
        let mut added = value & !self.status & !NEEDS_RESET;
        if added & FEATURES_OK != 0 && !self.features_agree() {
            added &= !FEATURES_OK;
        }
        self.status |= added & (ACKNOWLEDGE | DRIVER | FEATURES_OK | FAILED);
        if added & DRIVER_OK == 0 || self.status & FEATURES_OK == 0 {
            return Action::None;
        }
        let Phase::SetUp(queues) = &mut self.phase else {
            return Action::None;
        };
        let queues = std::mem::take(queues);
        self.phase = Phase::Active(queues.clone());
        self.status |= DRIVER_OK;
        Action::Activate {
            features: self.accepted,
            queues,
        }
    }

    fn features_agree(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & VERSION_1 != 0
    }

    /// As when the machine was turned on.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.offered, &self.sizes);
    }
}

/// The register that `offset` is in: its start and size.
fn register(offset: u64) -> Option<(u64, usize)> {
    let registers = [
        (0, 4),
        (4, 4),
        (8, 4),
        (12, 4),
        (16, 2),
        (18, 2),
        (20, 1),
        (21, 1),
        (22, 2),
        (24, 2),
        (26, 2),
        (28, 2),
        (30, 2),
        (32, 8),
        (40, 8),
        (48, 8),
    ];
    registers
        .into_iter()
        .find(|(start, size)| (*start..*start + *size as u64).contains(&offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::msix::{Msix, tests::Recorder};
    use std::sync::Arc;
    use vm_memory::GuestAddress;

    fn set_up() -> (Common, Vectors) {
        let msix = Msix::new(Arc::new(Recorder::default()), 3).unwrap();
        (
            Common::new(VERSION_1 | EVENT_IDX | 1, &[256, 128]),
            Vectors::new(msix, 2),
        )
    }

    fn read(common: &Common, vectors: &Vectors, offset: u64, len: usize) -> u64 {
        let mut bytes = [0; 8];
        common.read(offset, &mut bytes[..len], vectors);
        u64::from_le_bytes(bytes)
    }

    /// What a driver does, up to `DRIVER_OK`; with queue 0 only.
    fn drive(common: &mut Common, vectors: &Vectors) -> Action {
        let mut write = |offset, value: u64, len: usize| {
            common.write(offset, &value.to_le_bytes()[..len], vectors)
        };
        write(20, 1, 1);
        write(20, 3, 1);
        write(8, 1, 4);
        write(12, 1, 4);
        write(20, 11, 1);
        write(22, 0, 2);
        write(24, 64, 2);
        write(26, 1, 2);
        write(32, 0x1000, 8);
        write(40, 0x2000, 4);
        write(44, 0, 4);
        write(48, 0x3000, 8);
        write(28, 1, 2);
        write(20, 15, 1)
    }

    #[test]
    fn a_driver_gets_its_queue() {
        let (mut common, vectors) = set_up();
        let Action::Activate { features, queues } = drive(&mut common, &vectors) else {
            unreachable!("not activated");
        };
        assert_eq!(features, VERSION_1);
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let queue = queues[0].build(&memory, features).unwrap().unwrap();
        assert_eq!((queue.size(), queue.used_ring()), (64, 0x3000));
        assert!(queues[1].build(&memory, features).unwrap().is_none());
        assert_eq!(read(&common, &vectors, 20, 1), 15);
        assert_eq!(vectors.vector(Some(0)), 1);
    }

    #[test]
    fn nothing_of_a_queue_changes_after_activation() {
        let (mut common, vectors) = set_up();
        drive(&mut common, &vectors);
        for (offset, len) in [(24, 2), (28, 2), (32, 8), (36, 4), (40, 8), (48, 8)] {
            let before = read(&common, &vectors, offset, len);
            let action = common.write(offset, &[2; 8][..len], &vectors);
            assert_eq!(action, Action::None);
            assert_eq!(read(&common, &vectors, offset, len), before, "{offset}");
        }
        assert_eq!(common.write(20, &[15], &vectors), Action::None, "twice");
    }

    #[test]
    fn features_not_on_offer_are_not_agreed_to() {
        for (low, high) in [(2u32, 1u32), (1, 0)] {
            let (mut common, vectors) = set_up();
            common.write(12, &low.to_le_bytes(), &vectors);
            common.write(8, &1u32.to_le_bytes(), &vectors);
            common.write(12, &high.to_le_bytes(), &vectors);
            common.write(20, &[11], &vectors);
            assert_eq!(read(&common, &vectors, 20, 1), 3);
            assert_eq!(common.write(20, &[15], &vectors), Action::None);
        }
    }

    #[test]
    fn queues_outside_of_memory_are_refused() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x3100)]).unwrap();
        let (mut common, vectors) = set_up();
        let Action::Activate { queues, .. } = drive(&mut common, &vectors) else {
            unreachable!("not activated");
        };
        assert!(queues[0].build(&memory, VERSION_1).is_err());
        let unaligned = QueueSetup {
            descriptors: 0x1001,
            ..queues[0]
        };
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        assert!(unaligned.build(&memory, VERSION_1).is_err());
    }

    #[test]
    fn a_broken_device_says_so_until_it_is_reset() {
        use crate::virtio::Interrupt;
        let (mut common, vectors) = set_up();
        drive(&mut common, &vectors);
        let generation = read(&common, &vectors, 21, 1);
        vectors.needs_reset();
        assert_eq!(read(&common, &vectors, 20, 1), 15 | 64);
        assert_eq!(read(&common, &vectors, 21, 1), generation + 1);
        assert_eq!(common.write(20, &[0], &vectors), Action::Reset);
        common.reset();
        vectors.reset();
        assert_eq!(read(&common, &vectors, 20, 1), 0);
        assert_eq!(read(&common, &vectors, 24, 2), 256);
    }

    #[test]
    fn a_vector_that_does_not_exist_reads_back_as_none() {
        let (mut common, vectors) = set_up();
        common.write(16, &7u16.to_le_bytes(), &vectors);
        assert_eq!(read(&common, &vectors, 16, 2), 0xffff);
        common.write(16, &2u16.to_le_bytes(), &vectors);
        assert_eq!(read(&common, &vectors, 16, 2), 2);
    }

    proptest::proptest! {
        #[test]
        fn any_access_is_harmless(
            accesses in proptest::collection::vec(
                (0u64..70, proptest::collection::vec(0u8..=255, 0..10)), 0..64),
        ) {
            let (mut common, vectors) = set_up();
            let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
            for (offset, mut data) in accesses {
                match common.write(offset, &data, &vectors) {
                    Action::Activate { features, queues } => {
                        queues.iter().for_each(|q| drop(q.build(&memory, features)));
                    }
                    Action::Reset => common.reset(),
                    Action::None => {}
                }
                common.read(offset, &mut data, &vectors);
            }
        }
    }
}
