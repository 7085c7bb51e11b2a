//! Headers of PE files: UEFI programs, kernels, stubs and unified images.
//!
//! Only the head of a file is needed. What comes in may be anything; what
//! comes out has a section table inside the head, all else is for the caller
//! to check. The layouts are of the PE format as UEFI 2.10, 2.1.1 refers to
//! it, and only the 64-bit form (PE32+) is read.

use object::LittleEndian as LE;
use object::pe::{self, ImageDosHeader, ImageNtHeaders64, ImageSectionHeader};
use object::read::pe::ImageNtHeaders as _;

/// How much of a file's beginning holds its headers, in bytes. Real files
/// need 1 to 4 KiB.
pub const HEAD_SIZE: u64 = 64 * 1024;

/// Subsystem of a UEFI application (UEFI 2.10, 2.1.1).
pub const EFI_APPLICATION: u16 = 10;

/// What the headers of a PE file say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers {
    /// Offset of the PE signature; the other headers follow it.
    pub nt_offset: usize,
    /// Offset of the section table.
    pub table_offset: usize,
    /// The machine it is for, see [`super::Architecture::pe_machine`].
    pub machine: u16,
    /// [`EFI_APPLICATION`], or another kind of program.
    pub subsystem: u16,
    /// Sections start at multiples of this in memory.
    pub section_alignment: u32,
    /// Sections start at multiples of this in the file.
    pub file_alignment: u32,
    /// Length of all headers in the file.
    pub size_of_headers: u32,
    /// Length of the program in memory.
    pub size_of_image: u32,
    /// Length of the initialised data in memory.
    pub size_of_initialized_data: u32,
    /// Offset of the COFF symbol table, or 0.
    pub symbols_offset: u32,
    /// How many symbols there are.
    pub symbols: u32,
    /// Whether there is an Authenticode signature.
    pub signed: bool,
    /// The sections in the order of the table.
    pub sections: Vec<Section>,
}

/// A section of a PE file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name without the NULs, such as `.linux`.
    pub name: String,
    /// Where it is in memory.
    pub address: u32,
    /// How long it is in memory.
    pub memory_size: u32,
    /// Where it is in the file.
    pub offset: u32,
    /// How long it is in the file.
    pub file_size: u32,
}

impl Section {
    /// How much of the section is content: its length in the file less what
    /// pads it there.
    pub fn len(&self) -> u32 {
        self.memory_size.min(self.file_size)
    }

    /// Whether nothing of the section is in the file.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a file is no PE file that can be worked with.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PeError {
    /// There is no DOS header with `MZ`.
    #[error("not a PE file: it does not begin with MZ")]
    NoDosHeader,
    /// The headers are not there, or not those of a 64-bit PE file.
    #[error("not a 64-bit PE file: {0}")]
    BadHeaders(String),
    /// A section lies outside the file.
    #[error("PE section {name} lies outside the file: {offset}+{len} of {file_len} bytes")]
    OutsideFile {
        /// The section's name.
        name: String,
        /// Its offset in the file.
        offset: u32,
        /// Its length in the file.
        len: u32,
        /// The file's length.
        file_len: u64,
    },
}

/// Reads the headers of a PE file from its first [`HEAD_SIZE`] bytes (all of
/// it, if it is shorter).
///
/// # Errors
/// See [`PeError`].
pub fn parse(head: &[u8], file_len: u64) -> Result<Headers, PeError> {
    let bad = |e: object::read::Error| PeError::BadHeaders(e.to_string());
    let dos = ImageDosHeader::parse(head).map_err(|_| PeError::NoDosHeader)?;
    let nt_offset = dos.nt_headers_offset();
    let mut offset = u64::from(nt_offset);
    let (nt, directories) = ImageNtHeaders64::parse(head, &mut offset).map_err(bad)?;
    let table = nt.sections(head, offset).map_err(bad)?;
    let sections: Vec<_> = table.iter().map(section).collect();
    for section in &sections {
        let end = u64::from(section.offset) + u64::from(section.file_size);
        if section.file_size > 0 && end > file_len {
            return Err(PeError::OutsideFile {
                name: section.name.clone(),
                offset: section.offset,
                len: section.file_size,
                file_len,
            });
        }
    }
    let file = &nt.file_header;
    let optional = &nt.optional_header;
    let signature = directories.get(pe::IMAGE_DIRECTORY_ENTRY_SECURITY);
    Ok(Headers {
        nt_offset: nt_offset as usize,
        table_offset: usize::try_from(offset).map_err(|e| PeError::BadHeaders(e.to_string()))?,
        machine: file.machine.get(LE).0,
        subsystem: optional.subsystem.get(LE).0,
        section_alignment: optional.section_alignment.get(LE),
        file_alignment: optional.file_alignment.get(LE),
        size_of_headers: optional.size_of_headers.get(LE),
        size_of_image: optional.size_of_image.get(LE),
        size_of_initialized_data: optional.size_of_initialized_data.get(LE),
        symbols_offset: file.pointer_to_symbol_table.get(LE),
        symbols: file.number_of_symbols.get(LE),
        signed: signature.is_some_and(|d| d.virtual_address.get(LE) != 0),
        sections,
    })
}

fn section(header: &ImageSectionHeader) -> Section {
    let name = header.name.split(|&b| b == 0).next().unwrap_or_default();
    Section {
        name: String::from_utf8_lossy(name).into_owned(),
        address: header.virtual_address.get(LE),
        memory_size: header.virtual_size.get(LE),
        offset: header.pointer_to_raw_data.get(LE),
        file_size: header.size_of_raw_data.get(LE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..600), at in 0u8..=255, len in any::<u64>()
        ) {
            let _ = parse(&bytes, len);
            // Past the two magic numbers, to the fields behind them.
            let mut bytes = bytes;
            bytes.resize(600, 0);
            bytes[..2].copy_from_slice(b"MZ");
            bytes[0x3c..0x40].copy_from_slice(&[at, 0, 0, 0]);
            let at = usize::from(at);
            bytes[at..at + 4].copy_from_slice(b"PE\0\0");
            bytes[at + 24..at + 26].copy_from_slice(&0x20bu16.to_le_bytes());
            let _ = parse(&bytes, len);
        }
    }
}
