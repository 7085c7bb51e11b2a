//! The guest's memory: files in memory (memfd) mapped around the device hole.
//!
//! A memfd and not anonymous memory, so that a helper process can be given it
//! (vhost-user) and so that balloon and hot-unplug can punch holes in it. Pages
//! of files can lie over it: the kernel and the initrd need not be
//! copied, and guests of the same kernel share what none of them writes to.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;

use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MemoryRegionAddress, mmap::MmapRegionBuilder,
};

use crate::arch::layout;
use crate::virtio::Memory;

/// Size of a page.
const PAGE: u64 = 4096;

/// Size of a huge page.
const HUGE_PAGE: u64 = 2 << 20;

/// Says whether files in memory come in huge pages.
pub(crate) const SHMEM_HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// What memory a guest is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Bytes at boot, a multiple of 2 MiB.
    pub size: u64,
    /// Bytes that can be plugged in later, a multiple of
    /// [`HOTPLUG_ALIGNMENT`](layout::HOTPLUG_ALIGNMENT).
    pub hotplug: u64,
    /// Whether to take it from the host's huge pages.
    pub huge_pages: bool,
}

/// Memory that a guest cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Too little or too much.
    #[error("{size} bytes of memory: it has to be between {least} and {most}", least = layout::MIN_MEMORY, most = layout::MAX_MEMORY)]
    Size {
        /// What was asked for.
        size: u64,
    },
    /// Not whole pages.
    #[error("{size} bytes of memory: it has to be a multiple of {multiple}")]
    Multiple {
        /// What was asked for.
        size: u64,
        /// What it has to be a multiple of.
        multiple: u64,
    },
    /// The host cannot give it.
    #[error("cannot reserve {size} bytes of memory{hint}: {error}")]
    Host {
        /// What was asked for.
        size: u64,
        /// What may help.
        hint: &'static str,
        /// What the host said.
        error: io::Error,
    },
    /// It cannot be mapped.
    #[error("cannot map {size} bytes of memory: {error}")]
    Map {
        /// What was asked for.
        size: u64,
        /// What the crate said.
        error: String,
    },
}

/// A run of guest-physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Its first address.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
}

impl Range {
    /// The address after its last.
    pub fn end(self) -> u64 {
        self.start + self.len
    }
}

/// Where a guest's memory lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// What is there at boot: one run, or two around the hole.
    pub boot: Vec<Range>,
    /// Where memory can be plugged in.
    pub hotplug: Option<Range>,
}

impl Placement {
    /// Lays out what was asked for.
    ///
    /// # Errors
    /// If that is too little, too much, or no whole number of pages.
    pub fn of(config: &MemoryConfig) -> Result<Self, MemoryError> {
        let MemoryConfig { size, hotplug, .. } = *config;
        if !(layout::MIN_MEMORY..=layout::MAX_MEMORY).contains(&size) {
            return Err(MemoryError::Size { size });
        }
        for (size, multiple) in [(size, HUGE_PAGE), (hotplug, layout::HOTPLUG_ALIGNMENT)] {
            if size % multiple != 0 {
                return Err(MemoryError::Multiple { size, multiple });
            }
        }
        if hotplug > layout::MAX_MEMORY {
            return Err(MemoryError::Size { size: hotplug });
        }
        let low = size.min(layout::HOLE);
        let mut boot = vec![Range { start: 0, len: low }];
        let mut end = layout::HOLE_END;
        if size > low {
            let high = size - low;
            boot.push(Range {
                start: end,
                len: high,
            });
            end += high;
        }
        let hotplug = (hotplug > 0).then(|| Range {
            start: end.next_multiple_of(layout::HOTPLUG_ALIGNMENT),
            len: hotplug,
        });
        Ok(Self { boot, hotplug })
    }

    /// The end of the memory below the hole.
    pub fn low_end(&self) -> u64 {
        self.boot.first().map_or(0, |r| r.end())
    }
}

/// Makes the memory; nothing of it takes up the host's until it is used.
///
/// # Errors
/// If the host has no room or no huge pages for it.
pub fn allocate(placement: &Placement, huge_pages: bool) -> Result<Memory, MemoryError> {
    let ranges = placement.boot.iter().chain(&placement.hotplug);
    let regions = ranges.map(|range| region(*range, huge_pages));
    let regions = regions.collect::<Result<Vec<_>, _>>()?;
    let size = regions.iter().map(|r| r.len()).sum();
    let memory = GuestMemoryMmap::from_regions(regions).map_err(|error| MemoryError::Map {
        size,
        error: error.to_string(),
    })?;
    Ok(Memory::new(memory))
}

fn region(range: Range, huge_pages: bool) -> Result<GuestRegionMmap, MemoryError> {
    let size = range.len;
    let file = memfd(c"guest-memory", huge_pages)
        .and_then(|file| file.set_len(size).map(|()| file))
        .map_err(|error| MemoryError::Host {
            size,
            hint: "",
            error,
        })?;
    let map_error = |error: String| MemoryError::Map { size, error };
    let mapping = MmapRegionBuilder::new(size as usize)
        .with_file_offset(FileOffset::from_arc(Arc::new(file), 0))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        // Without NORESERVE, huge pages are set aside now, and a lack of them
        // is an error here rather than a SIGBUS in the guest.
        .with_mmap_flags(match huge_pages {
            true => libc::MAP_SHARED,
            false => libc::MAP_SHARED | libc::MAP_NORESERVE,
        })
        .with_hugetlbfs(huge_pages)
        .build()
        .map_err(|error| match error {
            vm_memory::mmap::MmapRegionError::Mmap(error) => MemoryError::Host {
                size,
                hint: match huge_pages {
                    true => " in huge pages (/proc/sys/vm/nr_hugepages says how many there are)",
                    false => "",
                },
                error,
            },
            other => map_error(other.to_string()),
        })?;
    GuestRegionMmap::new(mapping, GuestAddress(range.start))
        .ok_or_else(|| map_error("it reaches past the address space".into()))
}

/// Puts those of the `len` bytes at `offset` of `file` that are whole pages into
/// the guest, the first byte meant for `at`, by mapping them over its memory;
/// writes do not reach the file. Returns which of the bytes are there: none where
/// pages of the file are not pages of the guest, or its memory has huge ones. The file must not become shorter
/// while the guest runs, which would end the process.
///
/// # Errors
/// The bytes do not lie in one region, or the host refuses.
pub(crate) fn map_file(
    memory: &GuestMemoryMmap,
    at: GuestAddress,
    file: &File,
    offset: u64,
    len: u64,
) -> io::Result<std::ops::Range<u64>> {
    let none = Ok(0..0);
    let first = at.0.next_multiple_of(PAGE) - at.0;
    let Some(whole) = len.checked_sub(first).map(|len| len / PAGE * PAGE) else {
        return none;
    };
    if whole == 0 || !(offset + first).is_multiple_of(PAGE) {
        return none;
    }
    let outside = || io::Error::new(io::ErrorKind::InvalidInput, "not in memory");
    let start = GuestAddress(at.0 + first);
    let region = memory.find_region(start).ok_or_else(outside)?;
    // A huge page is mapped as a whole or not at all; and a kernel in huge pages
    // is worth more in the long run than one that need not be copied.
    if region.get_mmap().is_hugetlbfs() == Some(true) || comes_in_huge_pages() {
        return none;
    }
    let within = MemoryRegionAddress(start.0 - region.start_addr().0);
    let size = usize::try_from(whole).map_err(io::Error::other)?;
    let slice = region.get_slice(within, size).map_err(io::Error::other)?;
    let guard = slice.ptr_guard_mut();
    let offset = i64::try_from(offset + first).map_err(io::Error::other)?;
    // SAFETY: the slice says that these pages are mapped, and they are the
    // guest's: no Rust reference leads there. They stay mapped, readable and
    // writable, and go with the rest of the region.
    let mapped = unsafe {
        libc::mmap(
            guard.as_ptr().cast(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            offset,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(first..first + whole)
}

/// Whether the host gives files in memory huge pages by itself
/// (Documentation/admin-guide/mm/transhuge.rst, `shmem_enabled`).
fn comes_in_huge_pages() -> bool {
    let policy = std::fs::read_to_string(SHMEM_HUGE_PAGES).unwrap_or_default();
    let huge = ["[always]", "[within_size]", "[force]"];
    huge.iter().any(|chosen| policy.contains(chosen))
}

/// A file in memory.
pub(crate) fn memfd(name: &CStr, huge_pages: bool) -> io::Result<File> {
    let mut flags = libc::MFD_CLOEXEC;
    if huge_pages {
        flags |= libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
    }
    // SAFETY: the name is NUL-terminated and outlives the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and only us.
    Ok(unsafe { File::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestAddressSpace};

    const GIB: u64 = 1 << 30;

    fn config(size: u64, hotplug: u64) -> MemoryConfig {
        MemoryConfig {
            size,
            hotplug,
            huge_pages: false,
        }
    }

    #[test]
    fn memory_goes_around_the_hole() {
        let small = Placement::of(&config(256 << 20, 0)).unwrap();
        assert_eq!(
            small.boot,
            [Range {
                start: 0,
                len: 256 << 20
            }]
        );
        let large = Placement::of(&config(5 * GIB, GIB)).unwrap();
        assert_eq!(
            large.boot[0],
            Range {
                start: 0,
                len: 3 * GIB
            }
        );
        assert_eq!(
            large.boot[1],
            Range {
                start: 4 * GIB,
                len: 2 * GIB
            }
        );
        assert_eq!(
            large.hotplug,
            Some(Range {
                start: 6 * GIB,
                len: GIB
            })
        );
        let little_over = Placement::of(&config(3 * GIB + (2 << 20), 128 << 20)).unwrap();
        assert_eq!(little_over.hotplug.unwrap().start, 4 * GIB + (128 << 20));
    }

    #[test]
    fn sizes_that_make_no_machine_are_refused() {
        for (size, hotplug) in [
            (0, 0),
            (1 << 20, 0),
            (u64::MAX, 0),
            (GIB + 1, 0),
            (GIB, 1 << 20),
        ] {
            assert!(
                Placement::of(&config(size, hotplug)).is_err(),
                "{size} {hotplug}"
            );
        }
        assert!(Placement::of(&config(GIB, u64::MAX - (u64::MAX % (128 << 20)))).is_err());
    }

    #[test]
    fn both_ends_of_all_runs_hold_what_is_written() {
        let placement = Placement::of(&config(4 * GIB, 128 << 20)).unwrap();
        let memory = allocate(&placement, false).unwrap();
        let memory = memory.memory();
        for range in placement.boot.iter().chain(&placement.hotplug) {
            for address in [range.start, range.end() - 8] {
                memory.write_obj(address, GuestAddress(address)).unwrap();
                let read: u64 = memory.read_obj(GuestAddress(address)).unwrap();
                assert_eq!(read, address);
            }
        }
        assert!(memory.read_obj::<u8>(GuestAddress(layout::HOLE)).is_err());
    }
}
