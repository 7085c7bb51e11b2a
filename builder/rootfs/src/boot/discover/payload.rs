//! Kernel, initrd and command line, in memory.

use super::volume::{Volume, VolumeError};
use super::{Entry, Source};
use crate::boot::Architecture;
use crate::boot::pe;
use crate::boot::uki::{self, UkiError};

/// Largest kernel that is read, in bytes.
const MAX_KERNEL: u64 = 512 << 20;

/// Largest initrd, all parts of it together, that is read, in bytes.
const MAX_INITRD: u64 = 2 << 30;

/// What a machine starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Payload {
    /// The kernel as it is in its file: on x86-64 a bzImage or an ELF file.
    pub kernel: Vec<u8>,
    /// The initrd; empty if there is none.
    pub initrd: Vec<u8>,
    /// The kernel command line.
    pub command_line: String,
}

/// Why an entry cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("{place}: {why}")]
    Read {
        /// The entry's place.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// A unified kernel image is damaged.
    #[error("{place}: {source}")]
    Unified {
        /// The entry's place.
        place: String,
        /// What is wrong.
        source: UkiError,
    },
    /// The kernel is for another machine, or none.
    #[error("{place}: {path} is not a kernel for {architecture}: {why}")]
    NotAKernel {
        /// The entry's place.
        place: String,
        /// The kernel.
        path: String,
        /// The machine.
        architecture: Architecture,
        /// What it is instead.
        why: &'static str,
    },
    /// The initrds are larger than any machine's memory should be.
    #[error("{place}: the initrds have more than {MAX_INITRD} bytes")]
    InitrdTooLarge {
        /// The entry's place.
        place: String,
    },
}

pub(super) fn load(
    volumes: &mut [Volume],
    entry: &Entry,
    architecture: Architecture,
) -> Result<Payload, LoadError> {
    let place = || entry.place.clone();
    let read = |error: VolumeError| LoadError::Read {
        place: place(),
        why: error.to_string(),
    };
    let Some(volume) = volumes.get_mut(entry.volume) else {
        return Err(read(VolumeError::Missing(entry.kernel.clone())));
    };
    let mut initrd = Initrd::default();
    let too_large = |()| LoadError::InitrdTooLarge { place: place() };
    let kernel = match entry.source {
        Source::Unified => {
            let head = volume
                .read_part(&entry.kernel, 0, pe::HEAD_SIZE)
                .map_err(read)?;
            let len = volume.file_len(&entry.kernel).unwrap_or(0);
            let uki = uki::parse(&head, len).map_err(|source| LoadError::Unified {
                place: place(),
                source,
            })?;
            let mut section = |name: &str, limit: u64| {
                let Some(section) = uki.section(name) else {
                    return Ok(Vec::new());
                };
                if section.len > limit {
                    return Err(read(VolumeError::TooLarge {
                        path: format!("{}, section {name}", entry.kernel),
                        len: section.len,
                        limit,
                    }));
                }
                volume
                    .read_part(&entry.kernel, section.offset, section.len)
                    .map_err(read)
            };
            // Microcode comes first, as the stub has it (systemd-stub(7)).
            for name in [".ucode", ".initrd"] {
                initrd.add(section(name, MAX_INITRD)?).map_err(too_large)?;
            }
            section(".linux", MAX_KERNEL)?
        }
        _ => volume.read(&entry.kernel, MAX_KERNEL).map_err(read)?,
    };
    for path in &entry.initrd {
        let left = MAX_INITRD.saturating_sub(initrd.0.len() as u64);
        initrd
            .add(volume.read(path, left).map_err(read)?)
            .map_err(too_large)?;
    }
    check_kernel(&kernel, architecture).map_err(|why| LoadError::NotAKernel {
        place: place(),
        path: entry.kernel.clone(),
        architecture,
        why,
    })?;
    Ok(Payload {
        kernel,
        initrd: initrd.0,
        command_line: entry.command_line.clone(),
    })
}

/// Initrds one after the other, each from a multiple of four bytes on, as
/// cpio archives are (Linux' Documentation/driver-api/early-userspace).
#[derive(Default)]
struct Initrd(Vec<u8>);

impl Initrd {
    fn add(&mut self, part: Vec<u8>) -> Result<(), ()> {
        if self.0.is_empty() {
            self.0 = part;
        } else if !part.is_empty() {
            self.0.resize(self.0.len().next_multiple_of(4), 0);
            self.0.extend(part);
        }
        match self.0.len() as u64 > MAX_INITRD {
            true => Err(()),
            false => Ok(()),
        }
    }
}

/// Checks that a file is a kernel that a machine of this architecture can
/// start.
///
/// # Errors
/// Says what it is instead.
pub fn check_kernel(bytes: &[u8], architecture: Architecture) -> Result<(), &'static str> {
    match (kind(bytes), architecture) {
        (Some(found), wanted) if found == wanted => Ok(()),
        (Some(Architecture::X86_64), _) => Err("it is for x86-64"),
        (Some(Architecture::Aarch64), _) => Err("it is for 64-bit ARM"),
        (Some(Architecture::Riscv64), _) => Err("it is for 64-bit RISC-V"),
        (Some(Architecture::LoongArch64), _) => Err("it is for LoongArch"),
        (None, _) if bytes.starts_with(b"\x1f\x8b") => Err("it is compressed with gzip"),
        (None, _) => Err("it has no kernel's header"),
    }
}

/// The machine that a kernel is for, by its header.
fn kind(bytes: &[u8]) -> Option<Architecture> {
    let at = |offset: usize, len: usize| bytes.get(offset..offset + len);
    // Linux' Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
    if at(0x1fe, 2) == Some(b"\x55\xaa") && at(0x202, 4) == Some(b"HdrS") {
        return Some(Architecture::X86_64);
    }
    // ELF: 64 bits, little endian, e_machine.
    if bytes.starts_with(b"\x7fELF\x02\x01") {
        return match at(18, 2)? {
            [62, 0] => Some(Architecture::X86_64),
            [183, 0] => Some(Architecture::Aarch64),
            [243, 0] => Some(Architecture::Riscv64),
            [2, 1] => Some(Architecture::LoongArch64),
            _ => None,
        };
    }
    // Documentation/arch/arm64/booting.rst and arch/riscv/boot-image-header.rst.
    match at(0x38, 4)? {
        b"ARM\x64" => return Some(Architecture::Aarch64),
        b"RSC\x05" => return Some(Architecture::Riscv64),
        _ => {}
    }
    let head = bytes.get(..pe::HEAD_SIZE as usize).unwrap_or(bytes);
    let machine = pe::parse(head, bytes.len() as u64).ok()?.machine;
    Architecture::ALL
        .into_iter()
        .find(|a| a.pe_machine() == machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_of_other_machines_are_told_apart() {
        let mut x86 = vec![0; 0x400];
        x86[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
        x86[0x202..0x206].copy_from_slice(b"HdrS");
        let mut arm = vec![0; 0x400];
        arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
        assert_eq!(check_kernel(&x86, Architecture::X86_64), Ok(()));
        assert_eq!(
            check_kernel(&arm, Architecture::X86_64),
            Err("it is for 64-bit ARM")
        );
        assert_eq!(check_kernel(&arm, Architecture::Aarch64), Ok(()));
        for len in [0, 4, 0x39, 0x400] {
            assert!(check_kernel(&vec![0; len], Architecture::X86_64).is_err());
        }
    }

    #[test]
    fn initrds_start_on_four_bytes() {
        let mut initrd = Initrd::default();
        for part in ["", "abcde", "", "fg"] {
            initrd.add(part.as_bytes().to_vec()).unwrap();
        }
        assert_eq!(initrd.0, b"abcde\0\0\0fg");
    }
}
