//! The guest's memory, around the device hole.
//!
//! It is anonymous memory, which hosts give huge pages as the guest touches it:
//! with pages of 4 KiB a guest is left four times as often until it has booted.
//! Files in memory (memfd) have none on most hosts (`shmem_enabled` is `never`);
//! they are used for huge pages that are asked for, which come from the host's
//! reserve of them.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::ptr;
use std::sync::Arc;

use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
    mmap::MmapRegionBuilder,
};

use crate::arch::layout;
use crate::virtio::Memory;

/// Size of a huge page.
const HUGE_PAGE: u64 = 2 << 20;

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
    let map_error = |error: String| MemoryError::Map { size, error };
    let builder = MmapRegionBuilder::new(size as usize)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_hugetlbfs(huge_pages);
    let mapping = match huge_pages {
        true => {
            let file = memfd(c"guest-memory", true)
                .and_then(|file| file.set_len(size).map(|()| file))
                .map_err(|error| MemoryError::Host {
                    size,
                    hint: "",
                    error,
                })?;
            // Without NORESERVE, huge pages are set aside now, and a lack of
            // them is an error here rather than a SIGBUS in the guest.
            builder
                .with_file_offset(FileOffset::from_arc(Arc::new(file), 0))
                .with_mmap_flags(libc::MAP_SHARED)
                .build()
        }
        false => {
            let _rest = Place::before_next_mapping(size);
            builder
                .with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE)
                .build()
        }
    };
    let mapping = mapping.map_err(|error| match error {
        vm_memory::mmap::MmapRegionError::Mmap(error) => MemoryError::Host {
            size,
            hint: match huge_pages {
                true => " in huge pages (/proc/sys/vm/nr_hugepages says how many there are)",
                false => " (where vm.overcommit_memory is 2, what may be plugged in counts, too)",
            },
            error,
        },
        other => map_error(other.to_string()),
    })?;
    if !huge_pages {
        prefer_huge_pages(&mapping);
    }
    GuestRegionMmap::new(mapping, GuestAddress(range.start))
        .ok_or_else(|| map_error("it reaches past the address space".into()))
}

/// Has what the host gives for the mapping come in huge pages where it has some
/// (Documentation/admin-guide/mm/transhuge.rst); any other host does without.
fn prefer_huge_pages(mapping: &MmapRegion) {
    // SAFETY: the range is that of the mapping, which holds nothing yet.
    unsafe { libc::madvise(mapping.as_ptr().cast(), mapping.size(), libc::MADV_HUGEPAGE) };
}

/// Addresses that are taken so that the mapping made next ends, and with it
/// begins, where a huge page does: Linux looks for a place from the top, and
/// before 6.7 for one that suits small pages.
struct Place {
    start: *mut libc::c_void,
    len: usize,
}

impl Place {
    /// For a mapping of `size` bytes, a multiple of a huge page. If the host has
    /// other places for that, it is only slower.
    fn before_next_mapping(size: u64) -> Option<Self> {
        let (size, unit) = (usize::try_from(size).ok()?, HUGE_PAGE as usize);
        let whole = size.checked_add(unit)?;
        let flags = libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        // SAFETY: a mapping of its own, at an address that the kernel chooses.
        let start = unsafe { libc::mmap(ptr::null_mut(), whole, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        let before = start.align_offset(unit).min(unit) + size;
        // SAFETY: this part of the mapping above is nobody's.
        unsafe { libc::munmap(start, before) };
        Some(Self {
            start: start.wrapping_byte_add(before),
            len: whole - before,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: it is the rest of the mapping that was made for this, which
            // nothing refers to.
            unsafe { libc::munmap(self.start, self.len) };
        }
    }
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
    fn the_place_for_a_mapping_ends_where_a_huge_page_does() {
        for size in [HUGE_PAGE, 256 << 20, GIB] {
            let place = Place::before_next_mapping(size).unwrap();
            assert_eq!(place.start as u64 % HUGE_PAGE, 0);
            assert!((1..=HUGE_PAGE as usize).contains(&place.len));
        }
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
