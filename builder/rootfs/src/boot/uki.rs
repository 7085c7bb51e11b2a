//! Unified kernel images (UAPI.5): composing them and looking into them.
//!
//! A UKI is a stub, a small EFI program, with the kernel, the initrd and more
//! as PE sections behind it. [`compose`] copies the stub, which is small, and
//! points at everything else where it lies, so that a UKI costs no more than
//! its headers. [`parse`] finds the sections of one that exists.

use std::ops::Range;

use object::LittleEndian as LE;
use object::pe::{self as coff, ImageNtHeaders64, ImageSectionHeader};
use object::pod::from_bytes_mut;

use super::pe::{self, PeError};
use crate::tree::FileContent;

/// Largest stub that is taken, in bytes. systemd's have about 100 KiB.
pub const MAX_STUB: u64 = 16 * 1024 * 1024;

/// Sections start on pages in memory, whatever the stub's alignment is: the
/// firmware protects pages, and the kernel inside is a program of its own.
const PAGE: u32 = 4096;

/// Sections start at least on sectors in the file.
const SECTOR: u32 = 512;

/// Length of a section header.
const HEADER: usize = coff::IMAGE_SIZEOF_SECTION_HEADER;

/// Length of a symbol in the COFF symbol table.
const SYMBOL: u64 = 18;

/// A section to put into a UKI.
#[derive(Debug, Clone)]
pub struct NewSection {
    /// Name such as `.linux`: 1 to 8 bytes.
    pub name: &'static str,
    /// Content, at least one byte.
    pub content: FileContent,
}

/// What is in a UKI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uki {
    /// Machine of the PE header.
    pub machine: u16,
    /// Whether there is an Authenticode signature.
    pub signed: bool,
    /// All sections in order.
    pub sections: Vec<Section>,
}

/// A section of a UKI and where its content is in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Name such as `.linux`.
    pub name: String,
    /// Byte offset in the file.
    pub offset: u64,
    /// Length in bytes, padding not counted.
    pub len: u64,
}

impl Section {
    /// The section's bytes in the file.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.len)
    }
}

/// Why a UKI cannot be composed or read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UkiError {
    /// The stub or the UKI is no PE file.
    #[error(transparent)]
    Pe(#[from] PeError),
    /// A PE file without a kernel in it.
    #[error("not a unified kernel image: it has no .linux section")]
    NoKernel,
    /// The PE file given as the stub cannot be one.
    #[error("not usable as a stub: {0}")]
    BadStub(&'static str),
    /// The stub has a section of this name already.
    #[error("not usable as a stub: it already has a section {0}")]
    HasSection(String),
    /// The section table cannot grow enough.
    #[error("the stub has room for {room} more sections, but {needed} are needed")]
    NoRoom {
        /// How many section headers fit.
        room: usize,
        /// How many there are to add.
        needed: usize,
    },
    /// The result would be larger than a PE file can be.
    #[error("the unified kernel image would be larger than 4 GiB at section {0}")]
    TooLarge(&'static str),
}

/// Finds the sections of a UKI from its first [`pe::HEAD_SIZE`] bytes.
///
/// # Errors
/// It is no PE file, or has no `.linux` section.
pub fn parse(head: &[u8], file_len: u64) -> Result<Uki, UkiError> {
    let headers = pe::parse(head, file_len)?;
    let sections = headers.sections.iter().map(|s| Section {
        name: s.name.clone(),
        offset: u64::from(s.offset),
        len: u64::from(s.len()),
    });
    let uki = Uki {
        machine: headers.machine,
        signed: headers.signed,
        sections: sections.collect(),
    };
    if uki.section(".linux").is_none() {
        return Err(UkiError::NoKernel);
    }
    Ok(uki)
}

impl Uki {
    /// The section of this name that a start without a profile selector
    /// uses: the one of profile 0, or else the base profile's (UAPI.5,
    /// "Multi-Profile UKIs").
    pub fn section(&self, name: &str) -> Option<&Section> {
        let mut profiles = self.sections.split(|s| s.name == ".profile");
        let base = profiles.next()?;
        let first = profiles.next().unwrap_or_default();
        let find = |s: &&Section| s.name == name;
        first.iter().find(find).or_else(|| base.iter().find(find))
    }
}

/// Composes a UKI of `stub` and `sections`, in that order.
///
/// The layout is that of systemd's ukify, except that sections are aligned to
/// pages, and that the image in memory reaches at least `kernel_memory` bytes
/// past the start of the last section: stubs of systemd before 257 may start
/// the kernel in place, where it clears memory behind its file's end.
///
/// # Errors
/// The stub does not fit, see [`UkiError`].
pub fn compose(
    stub: &[u8],
    sections: Vec<NewSection>,
    kernel_memory: u32,
) -> Result<FileContent, UkiError> {
    let head = stub.get(..pe::HEAD_SIZE as usize).unwrap_or(stub);
    let headers = pe::parse(head, stub.len() as u64)?;
    check_stub(&headers, &sections)?;
    let body = stub
        .get(..end_of_sections(stub, &headers)?)
        .unwrap_or_default();
    let table_end = room_for(&headers, sections.len())?;
    let file_align = headers.file_alignment.max(SECTOR);
    let page = headers.section_alignment.max(PAGE);

    let mut image = Image {
        file_end: u32::try_from(body.len()).map_err(|_| UkiError::TooLarge("(stub)"))?,
        memory_end: headers
            .sections
            .iter()
            .map(|s| u64::from(s.address) + u64::from(s.memory_size))
            .max()
            .and_then(|end| u32::try_from(end).ok())
            .ok_or(UkiError::BadStub("it has no sections, or too large ones"))?,
        initialized: headers.size_of_initialized_data,
        table: Vec::with_capacity(sections.len()),
        extents: Vec::new(),
    };
    let last = sections.last().map_or("", |s| s.name);
    for section in sections {
        image
            .append(&section, file_align, page)
            .ok_or(UkiError::TooLarge(section.name))?;
    }
    let reserved = image.table.last().map_or(0, |h| h.virtual_address.get(LE));
    let memory_end = reserved
        .checked_add(kernel_memory)
        .map(|end| end.max(image.memory_end))
        .and_then(|end| end.checked_next_multiple_of(page))
        .ok_or(UkiError::TooLarge(last))?;

    let mut bytes = body.to_vec();
    write_headers(&mut bytes, &headers, &image, table_end, memory_end)
        .ok_or(UkiError::BadStub("its headers overlap its sections"))?;
    let mut content = FileContent::literal(bytes);
    content.extents.append(&mut image.extents);
    content.size = u64::from(image.file_end);
    Ok(content)
}

/// A UKI as it grows.
struct Image {
    file_end: u32,
    memory_end: u32,
    initialized: u32,
    table: Vec<ImageSectionHeader>,
    extents: Vec<bootwright_disk::Extent>,
}

impl Image {
    /// Appends a section; none if it is too large.
    fn append(&mut self, section: &NewSection, file_align: u32, page: u32) -> Option<()> {
        let len = u32::try_from(section.content.size).ok()?;
        let offset = self.file_end.checked_next_multiple_of(file_align)?;
        let padded = len.checked_next_multiple_of(file_align)?;
        let address = self.memory_end.checked_next_multiple_of(page)?;
        self.file_end = offset.checked_add(padded)?;
        self.memory_end = address.checked_add(len)?;
        self.initialized = self.initialized.checked_add(len)?;
        for mut extent in section.content.extents.iter().cloned() {
            extent.start = extent.start.checked_add(u64::from(offset))?;
            self.extents.push(extent);
        }
        let mut name = [0; 8];
        name.get_mut(..section.name.len())?
            .copy_from_slice(section.name.as_bytes());
        // Old stubs run the kernel where it is (the EFI handover protocol).
        let kind = if section.name == ".linux" {
            coff::IMAGE_SCN_CNT_CODE
        } else {
            coff::IMAGE_SCN_CNT_INITIALIZED_DATA
        };
        let mut header = ImageSectionHeader {
            name,
            virtual_size: Default::default(),
            virtual_address: Default::default(),
            size_of_raw_data: Default::default(),
            pointer_to_raw_data: Default::default(),
            pointer_to_relocations: Default::default(),
            pointer_to_linenumbers: Default::default(),
            number_of_relocations: Default::default(),
            number_of_linenumbers: Default::default(),
            characteristics: Default::default(),
        };
        header.virtual_size.set(LE, len);
        header.virtual_address.set(LE, address);
        header.size_of_raw_data.set(LE, padded);
        header.pointer_to_raw_data.set(LE, offset);
        header
            .characteristics
            .set(LE, coff::SectionFlags(coff::IMAGE_SCN_MEM_READ.0 | kind.0));
        self.table.push(header);
        Some(())
    }
}

fn check_stub(headers: &pe::Headers, sections: &[NewSection]) -> Result<(), UkiError> {
    let bad = |why| Err(UkiError::BadStub(why));
    if headers.subsystem != pe::EFI_APPLICATION {
        return bad("it is no EFI application");
    }
    if headers.signed {
        return bad("it is signed, and the signature would break");
    }
    let powers = [headers.file_alignment, headers.section_alignment];
    if !powers.into_iter().all(u32::is_power_of_two) {
        return bad("an alignment in its headers is no power of two");
    }
    for section in &headers.sections {
        if sections.iter().any(|new| new.name == section.name) {
            return Err(UkiError::HasSection(section.name.clone()));
        }
    }
    Ok(())
}

/// Where the last section of the stub ends in the file. Behind it there may
/// be a symbol table, which programs do not need, and padding; what else is
/// there cannot be kept, because new sections come there.
fn end_of_sections(stub: &[u8], headers: &pe::Headers) -> Result<usize, UkiError> {
    let end = headers
        .sections
        .iter()
        .filter(|s| s.file_size > 0)
        .map(|s| u64::from(s.offset) + u64::from(s.file_size))
        .chain([u64::from(headers.size_of_headers)])
        .max()
        .and_then(|end| usize::try_from(end).ok())
        .ok_or(UkiError::BadStub("it has no sections"))?;
    let overlay = UkiError::BadStub("there is data behind its last section");
    let mut rest = stub
        .get(end..)
        .ok_or(UkiError::BadStub("it is truncated"))?;
    if headers.symbols_offset != 0 {
        let start = u64::from(headers.symbols_offset);
        let symbols_end = start + SYMBOL * u64::from(headers.symbols);
        let strings = usize::try_from(symbols_end)
            .ok()
            .and_then(|at| stub.get(at..)?.first_chunk::<4>())
            .map_or(0, |len| u32::from_le_bytes(*len));
        let at_end = symbols_end + u64::from(strings) == stub.len() as u64;
        rest = match usize::try_from(start) {
            Ok(start) if at_end && start >= end => stub.get(end..start).unwrap_or_default(),
            _ => return Err(overlay),
        };
    }
    if rest.iter().any(|&b| b != 0) {
        return Err(overlay);
    }
    Ok(end)
}

/// Where the section table ends, if `needed` more headers fit behind it: they
/// must not reach into what the file or the memory holds after the headers.
fn room_for(headers: &pe::Headers, needed: usize) -> Result<usize, UkiError> {
    let table_end = headers.table_offset + HEADER * headers.sections.len();
    let in_file = headers.sections.iter().filter(|s| s.file_size > 0);
    let limit = in_file
        .map(|s| s.offset)
        .chain(headers.sections.iter().map(|s| s.address))
        .chain([headers
            .size_of_headers
            .checked_next_multiple_of(headers.file_alignment)
            .unwrap_or(u32::MAX)])
        .min()
        .unwrap_or(0);
    let room = (limit as usize).saturating_sub(table_end) / HEADER;
    if room < needed {
        return Err(UkiError::NoRoom { room, needed });
    }
    Ok(table_end)
}

/// Changes the stub's headers to those of the UKI; none if they are not
/// where they were.
fn write_headers(
    bytes: &mut [u8],
    headers: &pe::Headers,
    image: &Image,
    table_end: usize,
    memory_end: u32,
) -> Option<()> {
    let (nt, _) = from_bytes_mut::<ImageNtHeaders64>(bytes.get_mut(headers.nt_offset..)?).ok()?;
    let file = &mut nt.file_header;
    let count = u16::try_from(headers.sections.len() + image.table.len()).ok()?;
    file.number_of_sections.set(LE, count);
    if headers.symbols_offset != 0 {
        file.pointer_to_symbol_table.set(LE, 0);
        file.number_of_symbols.set(LE, 0);
        let flags = file.characteristics.get(LE).0 | coff::IMAGE_FILE_LOCAL_SYMS_STRIPPED.0;
        file.characteristics.set(LE, coff::FileFlags(flags));
    }
    let optional = &mut nt.optional_header;
    optional.size_of_initialized_data.set(LE, image.initialized);
    optional.size_of_image.set(LE, memory_end);
    // Headers reach up to the first section at most, see `room_for`.
    let size_of_headers = headers
        .size_of_headers
        .checked_next_multiple_of(headers.file_alignment)?;
    optional.size_of_headers.set(LE, size_of_headers);
    // Firmware does not check it, and it would have to be computed over all.
    optional.check_sum.set(LE, 0);
    let mut at = table_end;
    for header in &image.table {
        let (slot, _) = from_bytes_mut::<ImageSectionHeader>(bytes.get_mut(at..)?).ok()?;
        *slot = *header;
        at += HEADER;
    }
    Some(())
}
