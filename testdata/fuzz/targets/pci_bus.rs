//! What a guest does to PCI: configuration space by ECAM and by ports, and the
//! BARs of two virtio devices.
#![no_main]

use std::sync::{Arc, LazyLock};

use bootwright_fuzz::machine::{Recorder, accesses};
use bootwright_vmm::arch::layout;
use bootwright_vmm::pci::PciBus;
use bootwright_vmm::pci::virtio::VirtioPci;
use bootwright_vmm::virtio::{ActivateError, Activation, Memory, VirtioDevice};
use bootwright_vmm::worker::Worker;
use libfuzzer_sys::fuzz_target;
use vm_memory::{GuestAddress, GuestMemoryMmap};

const MEMORY: u64 = 1 << 20;

static WORLD: LazyLock<(Memory, Arc<Worker>)> = LazyLock::new(|| {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
    let worker = Worker::start(|| Ok(())).unwrap();
    (Memory::new(memory), Arc::new(worker))
});

/// A device that keeps what it is given and asserts what it relies on.
#[derive(Debug)]
struct Device {
    sizes: Vec<u16>,
    activation: Option<Activation>,
}

impl VirtioDevice for Device {
    fn id(&self) -> u16 {
        2
    }

    fn name(&self) -> &str {
        "fuzzed"
    }

    fn features(&self) -> u64 {
        1 << 32 | 1 << 29 | 1
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(offset as u8);
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        use virtio_queue::QueueT;
        assert!(self.activation.is_none(), "activated twice");
        assert_eq!(activation.features & !self.features(), 0);
        assert_ne!(activation.features & 1 << 32, 0);
        assert_eq!(activation.queues.len(), self.sizes.len());
        for (queue, size) in activation.queues.iter().zip(&self.sizes) {
            let Some(queue) = queue else { continue };
            let queue = &queue.queue;
            assert!(queue.size() <= *size && queue.size().is_power_of_two());
            let entries = u64::from(queue.size());
            // Virtio 1.2, section 2.7: the size of each part.
            for (start, len) in [
                (queue.desc_table(), 16 * entries),
                (queue.avail_ring(), 6 + 2 * entries),
                (queue.used_ring(), 6 + 8 * entries),
            ] {
                assert!(start.checked_add(len).is_some_and(|end| end <= MEMORY));
            }
        }
        self.activation = Some(activation);
        Ok(())
    }

    fn reset(&mut self) {
        self.activation = None;
    }
}

fuzz_target!(|input: &[u8]| {
    let (memory, worker) = &*WORLD;
    let recorder = Arc::new(Recorder::default());
    let devices: Vec<_> = [vec![256], vec![64, 128, 8]]
        .into_iter()
        .enumerate()
        .map(|(index, sizes)| {
            let device = Box::new(Device {
                sizes,
                activation: None,
            });
            let (bar, memory) = (PciBus::bar(index), memory.clone());
            let router = recorder.clone();
            Arc::new(VirtioPci::new(device, bar, memory, router, worker.clone()).unwrap())
        })
        .collect();
    let functions = devices.iter().map(|d| d.clone() as _).collect();
    let bus = PciBus::new(functions).unwrap();
    for access in accesses(input) {
        // Mostly the two devices; rarely slots and bars that nobody has.
        let device = u64::from(access.kind >> 2) % 3;
        let mut data = access.data.to_vec();
        let address = match access.kind % 4 {
            0 => layout::ECAM + ((device + 1) << 15) + u64::from(access.offset % 4096),
            // Common configuration, doorbells and tables are small.
            1 => PciBus::bar(device as usize) + u64::from(access.offset & 0x703f),
            2 => PciBus::bar(device as usize) + u64::from(access.offset),
            _ => {
                let offset = access.offset % 8;
                match access.write {
                    true => bus.write_port(offset, &data),
                    false => bus.read_port(offset, &mut data),
                }
                continue;
            }
        };
        match access.write {
            true => bus.write_memory(address, &data),
            false => bus.read_memory(address, &mut data),
        }
    }
    // Who a device is does not change.
    for slot in 1..=2u64 {
        let mut id = [0; 4];
        bus.read_memory(layout::ECAM + (slot << 15), &mut id);
        assert_eq!(id, [0xf4, 0x1a, 0x42, 0x10]);
    }
    drop(bus);
    for device in devices {
        let device = device.into_device();
        assert!(device.is_some());
    }
    assert_eq!(recorder.doorbells(), 0, "doorbells outlive their device");
});
