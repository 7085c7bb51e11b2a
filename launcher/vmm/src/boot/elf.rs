//! An ELF kernel with a PVH entry.
//!
//! System V ABI, "ELF Header" and "Program Header"; the entry is in a note of
//! Xen's (`XEN_ELFNOTE_PHYS32_ENTRY`, xen/include/public/elfnote.h).

use std::io;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::blob::Blob;
use crate::arch::layout;

const EHDR_SIZE: usize = 64;
const PHDR_SIZE: usize = 56;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// Linux has some 10; each costs a little time.
const MAX_HEADERS: u16 = 64;
/// Linux's notes take some hundred bytes.
const MAX_NOTES: u64 = 64 << 10;

/// A kernel in the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// Where to enter it.
    pub entry: u64,
    /// The first address after it, what it clears at boot included.
    pub end: u64,
}

/// A segment to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

/// What the headers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    segments: Vec<Segment>,
    entry: u64,
}

/// An ELF that cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// It cannot be read.
    #[error("cannot read it: {0}")]
    Read(#[from] io::Error),
    /// It is no ELF.
    #[error("it is neither a bzImage nor an ELF")]
    NotElf,
    /// It is for another machine.
    #[error("it is for another machine ({0}), not for x86-64")]
    Machine(String),
    /// The headers make no sense.
    #[error("its ELF headers are damaged: {0}")]
    Damaged(&'static str),
    /// It has no note with a PVH entry.
    #[error("it has no PVH entry: CONFIG_PVH is not set in it")]
    NoEntry,
    /// It wants to be where it cannot be.
    #[error("it has a segment at {start:#x} to {end:#x}, but there is memory for it from {low:#x} to {memory_end:#x} only; give the guest more memory", low = layout::HIGH_MEMORY)]
    NoRoom {
        /// The segment's first address.
        start: u64,
        /// The first address after it.
        end: u64,
        /// The first address after the memory.
        memory_end: u64,
    },
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let word = bytes.get(at..at + 2).and_then(|b| b.try_into().ok());
    word.map_or(0, u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    word.map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
    word.map_or(0, u64::from_le_bytes)
}

impl Elf {
    /// Reads the headers.
    ///
    /// # Errors
    /// If it is no ELF for x86-64 with a PVH entry.
    pub fn parse(image: &Blob) -> Result<Self, ElfError> {
        let len = image.len()?;
        let mut header = [0; EHDR_SIZE];
        if len < EHDR_SIZE as u64 {
            return Err(ElfError::NotElf);
        }
        image.read_exact_at(&mut header, 0)?;
        if !header.starts_with(b"\x7fELF") {
            return Err(ElfError::NotElf);
        }
        check_machine(&header)?;
        let (count, size) = (u16_at(&header, 56), u16_at(&header, 54));
        if usize::from(size) != PHDR_SIZE || count == 0 || count > MAX_HEADERS {
            return Err(ElfError::Damaged(
                "the number or size of its program headers",
            ));
        }
        let mut table = vec![0; usize::from(count) * PHDR_SIZE];
        image.read_exact_at(&mut table, u64_at(&header, 32))?;
        let mut segments = Vec::new();
        let mut entry = None;
        for header in table.chunks_exact(PHDR_SIZE) {
            let (offset, file_size) = (u64_at(header, 8), u64_at(header, 32));
            if offset.checked_add(file_size).is_none_or(|end| end > len) {
                return Err(ElfError::Damaged("a segment lies past the end of the file"));
            }
            match u32_at(header, 0) {
                PT_LOAD => segments.push(Segment {
                    offset,
                    address: u64_at(header, 24),
                    file_size,
                    memory_size: u64_at(header, 40).max(file_size),
                }),
                PT_NOTE if entry.is_none() => {
                    if file_size > MAX_NOTES {
                        return Err(ElfError::Damaged("its notes are too long"));
                    }
                    let mut notes = vec![0; file_size as usize];
                    image.read_exact_at(&mut notes, offset)?;
                    entry = pvh_entry(&notes);
                }
                _ => {}
            }
        }
        Ok(Self {
            segments,
            entry: entry.ok_or(ElfError::NoEntry)?,
        })
    }

    /// Puts the segments where they say.
    ///
    /// # Errors
    /// If they are not between 1 MiB and `memory_end`.
    pub fn load(
        &self,
        image: &Blob,
        memory: &GuestMemoryMmap,
        memory_end: u64,
    ) -> Result<Loaded, ElfError> {
        let mut end = layout::HIGH_MEMORY;
        for segment in &self.segments {
            let start = segment.address;
            let segment_end = start.saturating_add(segment.memory_size);
            if start < layout::HIGH_MEMORY || segment_end > memory_end {
                return Err(ElfError::NoRoom {
                    start,
                    end: segment_end,
                    memory_end,
                });
            }
            end = end.max(segment_end);
        }
        if !(layout::HIGH_MEMORY..end).contains(&self.entry) {
            return Err(ElfError::Damaged("its entry is outside of its segments"));
        }
        for segment in &self.segments {
            // What follows in memory is zeros: it is fresh.
            let range = segment.offset..segment.offset + segment.file_size;
            image.put_range(range, memory, GuestAddress(segment.address))?;
        }
        Ok(Loaded {
            entry: self.entry,
            end: end.next_multiple_of(4096),
        })
    }
}

fn check_machine(header: &[u8]) -> Result<(), ElfError> {
    // e_ident: 64 bits, little-endian.
    if header[4] != 2 || header[5] != 1 {
        return Err(ElfError::Machine("32 bits or big-endian".into()));
    }
    match u16_at(header, 18) {
        EM_X86_64 => Ok(()),
        183 => Err(ElfError::Machine("arm64".into())),
        243 => Err(ElfError::Machine("RISC-V".into())),
        other => Err(ElfError::Machine(format!("ELF machine {other}"))),
    }
}

/// The entry in a note segment: name size, descriptor size, type, then name
/// and descriptor, each padded to four bytes.
fn pvh_entry(mut notes: &[u8]) -> Option<u64> {
    while notes.len() >= 12 {
        let name_size = u32_at(notes, 0) as usize;
        let size = u32_at(notes, 4) as usize;
        let name = notes.get(12..)?.get(..name_size)?;
        let start = 12usize.checked_add(name_size.checked_next_multiple_of(4)?)?;
        let descriptor = notes.get(start..)?.get(..size)?;
        if name == b"Xen\0" && u32_at(notes, 8) == XEN_ELFNOTE_PHYS32_ENTRY {
            return match size {
                4 => Some(u32_at(descriptor, 0).into()),
                8 => Some(u64_at(descriptor, 0)),
                _ => None,
            };
        }
        notes = notes.get(start.checked_add(size.checked_next_multiple_of(4)?)?..)?;
    }
    None
}

/// Writes a kernel of one segment, for tests: `code` at `address`, entered at
/// its start.
pub fn minimal(address: u64, code: &[u8]) -> Vec<u8> {
    let notes = [
        &4u32.to_le_bytes()[..],
        &4u32.to_le_bytes(),
        &XEN_ELFNOTE_PHYS32_ENTRY.to_le_bytes(),
        b"Xen\0",
        &(address as u32).to_le_bytes(),
    ]
    .concat();
    let start = EHDR_SIZE + 2 * PHDR_SIZE;
    let mut image = vec![0; start];
    image[..6].copy_from_slice(b"\x7fELF\x02\x01");
    image[18..20].copy_from_slice(&EM_X86_64.to_le_bytes());
    image[32..40].copy_from_slice(&(EHDR_SIZE as u64).to_le_bytes());
    image[54..56].copy_from_slice(&(PHDR_SIZE as u16).to_le_bytes());
    image[56..58].copy_from_slice(&2u16.to_le_bytes());
    let mut header = |index: usize, kind: u32, offset: usize, address: u64, size: usize| {
        let at = EHDR_SIZE + index * PHDR_SIZE;
        image[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        let size = size as u64;
        for (field, value) in [(8, offset as u64), (24, address), (32, size), (40, size)] {
            image[at + field..at + field + 8].copy_from_slice(&value.to_le_bytes());
        }
    };
    header(0, PT_NOTE, start, 0, notes.len());
    header(1, PT_LOAD, start + notes.len(), address, code.len());
    image.extend(notes);
    image.extend(code);
    image
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    const ADDRESS: u64 = 0x10_0000;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap()
    }

    #[test]
    fn segments_land_where_they_say() {
        let image = Blob::from(minimal(ADDRESS + 0x1000, b"code"));
        let memory = memory();
        let elf = Elf::parse(&image).unwrap();
        let loaded = elf.load(&image, &memory, 2 << 20).unwrap();
        assert_eq!(loaded.entry, ADDRESS + 0x1000);
        assert_eq!(loaded.end, ADDRESS + 0x2000);
        let mut code = [0; 4];
        memory
            .read_slice(&mut code, GuestAddress(loaded.entry))
            .unwrap();
        assert_eq!(&code, b"code");
    }

    #[test]
    fn segments_without_memory_are_refused() {
        for address in [0, 0x8000, ADDRESS - 1, (2 << 20) - 3, u64::MAX - 1] {
            let image = Blob::from(minimal(address, b"code"));
            let elf = Elf::parse(&image).unwrap();
            let result = elf.load(&image, &memory(), 2 << 20);
            assert!(
                matches!(result, Err(ElfError::NoRoom { .. })),
                "{address:#x}"
            );
        }
    }

    #[test]
    fn other_machines_are_named() {
        let mut image = minimal(ADDRESS, b"code");
        image[18] = 183;
        let error = Elf::parse(&Blob::from(image)).unwrap_err().to_string();
        assert!(error.contains("arm64"), "{error}");
    }

    #[test]
    fn an_elf_without_the_note_says_so() {
        let mut image = minimal(ADDRESS, b"code");
        image[EHDR_SIZE] = 0;
        assert!(matches!(
            Elf::parse(&Blob::from(image)),
            Err(ElfError::NoEntry)
        ));
    }

    proptest::proptest! {
        #[test]
        fn damage_never_panics(
            changes in proptest::collection::vec((0usize..220, 0u8..=255), 0..8),
            cut in 0usize..220,
        ) {
            let mut image = minimal(ADDRESS, &[0x90; 16]);
            for (at, value) in changes {
                if let Some(byte) = image.get_mut(at) {
                    *byte = value;
                }
            }
            image.truncate(image.len().saturating_sub(cut % 40));
            let image = Blob::from(image);
            if let Ok(elf) = Elf::parse(&image) {
                let _ = elf.load(&image, &memory(), 2 << 20);
            }
        }
    }
}
