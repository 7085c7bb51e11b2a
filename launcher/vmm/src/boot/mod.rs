//! From a kernel file to a guest that can run it.
//!
//! A kernel comes as a bzImage or as an ELF; its payload is decompressed on the
//! host ([`payload`]), once if there is a [`cache`], and its segments are
//! loaded where they say ([`elf`]). The guest enters it through PVH ([`pvh`]),
//! so the decompressor in the bzImage and all real-mode code stay unused.

pub mod blob;
pub mod bzimage;
pub mod cache;
pub mod elf;
pub mod kernel;
pub mod payload;
pub mod pvh;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub use blob::Blob;
pub use cache::KernelCache;
pub use kernel::{Kernel, KernelError};

use crate::arch::layout;
use crate::arch::x86_64::regs;
use crate::memory::Placement;

/// What a guest is booted from.
#[derive(Debug, Clone)]
pub struct BootSource {
    /// The kernel: a bzImage or an ELF with a PVH entry.
    pub kernel: Blob,
    /// Parts of the initial RAM disk, put one after the other.
    pub initrd: Vec<Blob>,
    /// The kernel's command line.
    pub command_line: String,
}

/// A guest's memory that cannot be filled.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel is none, or not one for this machine.
    #[error("kernel: {0}")]
    Kernel(#[from] KernelError),
    /// The initrd cannot be read.
    #[error("cannot read the initrd: {0}")]
    Initrd(std::io::Error),
    /// Kernel and initrd take more memory than there is.
    #[error(
        "an initrd of {initrd} bytes does not fit: the kernel ends at {kernel_end:#x} and memory at {memory_end:#x}; give the guest more memory"
    )]
    InitrdTooLarge {
        /// The initrd's size.
        initrd: u64,
        /// The first address after the kernel.
        kernel_end: u64,
        /// The first address after the memory below 4 GiB.
        memory_end: u64,
    },
    /// The command line does not fit.
    #[error("a command line of {0} bytes: the kernel takes at most {limit}", limit = layout::COMMAND_LINE_SIZE - 1)]
    CommandLineTooLong(usize),
    /// The command line cannot be passed on.
    #[error("the command line holds a NUL or a line break")]
    CommandLineControl,
    /// Something lies outside of the memory.
    #[error("the guest's memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// Fills the memory for the kernel's entry; returns where that is.
///
/// # Errors
/// If the kernel cannot be used or does not fit.
pub fn load(
    source: &BootSource,
    cache: Option<&KernelCache>,
    memory: &GuestMemoryMmap,
    placement: &Placement,
    rsdp: u64,
) -> Result<u64, BootError> {
    let line = command_line(&source.command_line)?;
    let kernel = Kernel::open(&source.kernel, cache)?;
    let memory_end = placement.low_end();
    let loaded = kernel.load(memory, memory_end)?;
    memory.write_slice(&line, GuestAddress(layout::COMMAND_LINE))?;
    let initrd = place_initrd(&source.initrd, memory, loaded.end, memory_end)?;
    for (index, entry) in regs::GDT.iter().enumerate() {
        memory.write_obj(*entry, GuestAddress(layout::GDT + 8 * index as u64))?;
    }
    pvh::write(memory, placement, initrd, rsdp)?;
    Ok(loaded.entry)
}

/// The command line as the kernel reads it.
fn command_line(line: &str) -> Result<Vec<u8>, BootError> {
    if line.len() >= layout::COMMAND_LINE_SIZE {
        return Err(BootError::CommandLineTooLong(line.len()));
    }
    if line.contains(['\0', '\n']) {
        return Err(BootError::CommandLineControl);
    }
    Ok([line.as_bytes(), b"\0"].concat())
}

/// Puts the initrd at the end of the memory below the hole, on a page.
///
/// Parts are padded to four bytes, as the kernel's unpacker has it between
/// archives (Documentation/driver-api/early-userspace/buffer-format.rst).
fn place_initrd(
    parts: &[Blob],
    memory: &GuestMemoryMmap,
    kernel_end: u64,
    memory_end: u64,
) -> Result<Option<(u64, u64)>, BootError> {
    let mut size = 0u64;
    for part in parts {
        let len = part.len().map_err(BootError::Initrd)?;
        size = size.next_multiple_of(4).saturating_add(len);
    }
    if size == 0 {
        return Ok(None);
    }
    let start = memory_end.checked_sub(size).map(|s| s & !0xfff);
    let start = match start {
        Some(start) if start >= kernel_end => start,
        _ => {
            return Err(BootError::InitrdTooLarge {
                initrd: size,
                kernel_end,
                memory_end,
            });
        }
    };
    let mut offset = 0u64;
    for part in parts {
        offset = offset.next_multiple_of(4);
        let at = GuestAddress(start + offset);
        offset += part.put(memory, at).map_err(BootError::Initrd)?;
    }
    Ok(Some((start, size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap()
    }

    #[test]
    fn command_lines_that_do_not_fit_are_refused() {
        assert_eq!(command_line("quiet").unwrap(), b"quiet\0");
        assert!(command_line(&"x".repeat(2047)).is_ok());
        assert!(matches!(
            command_line(&"x".repeat(2048)),
            Err(BootError::CommandLineTooLong(2048))
        ));
        assert!(command_line("a\0b").is_err());
        assert!(command_line("a\nb").is_err());
    }

    #[test]
    fn parts_of_an_initrd_follow_each_other_on_words() {
        let memory = memory();
        let parts = [Blob::from(&b"abcde"[..]), Blob::from(&b"xyz"[..])];
        let placed = place_initrd(&parts, &memory, 1 << 20, 2 << 20).unwrap();
        assert_eq!(placed, Some(((2 << 20) - 4096, 11)));
        let mut bytes = [0; 12];
        let at = GuestAddress(placed.unwrap().0);
        memory.read_slice(&mut bytes, at).unwrap();
        assert_eq!(&bytes, b"abcde\0\0\0xyz\0");
    }

    #[test]
    fn an_initrd_never_lands_on_the_kernel() {
        let memory = memory();
        let part = [Blob::from(vec![1u8; 8192])];
        assert!(place_initrd(&part, &memory, (2 << 20) - 8192, 2 << 20).is_ok());
        for (kernel_end, memory_end) in [((2 << 20) - 8191, 2 << 20), (0, 4096)] {
            assert!(matches!(
                place_initrd(&part, &memory, kernel_end, memory_end),
                Err(BootError::InitrdTooLarge { .. })
            ));
        }
        assert_eq!(place_initrd(&[], &memory, 0, 0).unwrap(), None);
    }
}
