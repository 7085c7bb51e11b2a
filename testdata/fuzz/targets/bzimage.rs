//! Kernels: bzImages and ELFs. If the first byte is odd, the header of a
//! bzImage is put before the rest, which is its payload then.
#![no_main]

use std::sync::LazyLock;

use bootwright_vmm::boot::{Blob, Kernel};
use libfuzzer_sys::fuzz_target;
use vm_memory::{GuestAddress, GuestMemoryMmap};

const MEMORY: u64 = 64 << 20;

static GUEST: LazyLock<GuestMemoryMmap> =
    LazyLock::new(|| GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap());

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    let file = match first % 2 {
        0 => rest.to_vec(),
        _ => bzimage(rest),
    };
    let Ok(kernel) = Kernel::open(&Blob::from(file), None) else {
        return;
    };
    if let Ok(loaded) = kernel.load(&GUEST, MEMORY) {
        assert!(loaded.end <= MEMORY);
    }
});

/// Linux, Documentation/arch/x86/boot.rst: one setup sector after the first,
/// protocol 2.15, and a payload that follows at once.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[..2].copy_from_slice(b"MZ");
    file[0x1f1] = 1;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend(payload);
    file
}
