//! What the kernel is told at its PVH entry.
//!
//! `struct hvm_start_info`, version 1: xen/include/public/arch-x86/hvm/start_info.h.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::arch::layout;
use crate::memory::{Placement, Range};

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;

/// Kinds of memory, by their numbers in E820.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Free to use.
    Memory = 1,
    /// Not memory, or not free.
    Reserved = 2,
}

/// The guest's memory map.
pub fn memory_map(placement: &Placement) -> Vec<(Range, Kind)> {
    let range = |start, end: u64| Range {
        start,
        len: end - start,
    };
    let mut map = vec![
        (range(0, layout::LOW_MEMORY_END), Kind::Memory),
        (
            range(layout::LOW_MEMORY_END, layout::HIGH_MEMORY),
            Kind::Reserved,
        ),
        (
            range(layout::HIGH_MEMORY, placement.low_end()),
            Kind::Memory,
        ),
        // Linux trusts ECAM only where the map or ACPI reserves it.
        (
            range(layout::ECAM, layout::ECAM + layout::ECAM_SIZE),
            Kind::Reserved,
        ),
        (
            range(layout::KVM_IDENTITY_MAP, layout::KVM_TSS + 0x3000),
            Kind::Reserved,
        ),
    ];
    map.extend(placement.boot.iter().skip(1).map(|r| (*r, Kind::Memory)));
    map
}

/// Writes the start info for a command line that is in its place already.
///
/// # Errors
/// If the memory does not reach that far.
pub fn write(
    memory: &GuestMemoryMmap,
    placement: &Placement,
    initrd: Option<(u64, u64)>,
    rsdp: u64,
) -> Result<(), GuestMemoryError> {
    let map = memory_map(placement);
    let info: Vec<u8> = [
        u64::from(MAGIC) | u64::from(VERSION) << 32,
        // Flags, and the number of modules.
        u64::from(initrd.is_some()) << 32,
        match initrd {
            Some(_) => layout::PVH_MODULES,
            None => 0,
        },
        layout::COMMAND_LINE,
        rsdp,
        layout::PVH_MEMORY_MAP,
        map.len() as u64,
    ]
    .into_iter()
    .flat_map(u64::to_le_bytes)
    .collect();
    memory.write_slice(&info, GuestAddress(layout::PVH_INFO))?;
    if let Some((start, size)) = initrd {
        // paddr, size, cmdline_paddr, reserved.
        let module: Vec<u8> = [start, size, 0, 0]
            .into_iter()
            .flat_map(u64::to_le_bytes)
            .collect();
        memory.write_slice(&module, GuestAddress(layout::PVH_MODULES))?;
    }
    let entries: Vec<u8> = map
        .into_iter()
        .flat_map(|(range, kind)| [range.start, range.len, kind as u64])
        .flat_map(u64::to_le_bytes)
        .collect();
    memory.write_slice(&entries, GuestAddress(layout::PVH_MEMORY_MAP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryConfig;

    #[test]
    fn the_map_has_all_memory_once_and_nothing_overlaps() {
        let size = 4 << 30;
        let placement = Placement::of(&MemoryConfig {
            size,
            hotplug: 128 << 20,
            huge_pages: false,
        })
        .unwrap();
        let map = memory_map(&placement);
        let free: u64 = map
            .iter()
            .filter(|(_, kind)| *kind == Kind::Memory)
            .map(|(range, _)| range.len)
            .sum();
        assert_eq!(free, size - (layout::HIGH_MEMORY - layout::LOW_MEMORY_END));
        for pair in map.windows(2) {
            assert!(pair[0].0.end() <= pair[1].0.start, "{pair:?}");
        }
    }

    #[test]
    fn start_info_points_at_everything() {
        let placement = Placement::of(&MemoryConfig {
            size: 64 << 20,
            hotplug: 0,
            huge_pages: false,
        })
        .unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write(&memory, &placement, Some((0x300_0000, 77)), layout::ACPI).unwrap();
        let word = |at| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
        assert_eq!(word(layout::PVH_INFO), 0x1_336e_c578);
        assert_eq!(word(layout::PVH_INFO + 8), 1 << 32);
        assert_eq!(word(layout::PVH_INFO + 24), layout::COMMAND_LINE);
        assert_eq!(word(layout::PVH_INFO + 32), layout::ACPI);
        assert_eq!(word(layout::PVH_MODULES), 0x300_0000);
        assert_eq!(word(layout::PVH_MODULES + 8), 77);
        assert_eq!(word(layout::PVH_MEMORY_MAP + 16), 1);
    }
}
