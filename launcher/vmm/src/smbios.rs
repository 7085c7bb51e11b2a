//! SMBIOS: the machine's name, and strings for the guest.
//!
//! [SMBIOS 3.7], sections 5.2.2 (the 64-bit entry point), 7.1, 7.2, 7.12.
//! systemd in the guest takes strings of type 11 that begin with
//! `io.systemd.credential:` as credentials.
//!
//! [SMBIOS 3.7]: https://www.dmtf.org/standards/smbios

use crate::arch::layout;

/// Offset of the structures after the entry point.
const STRUCTURES: usize = 0x20;

/// What the guest is told of its machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Smbios {
    /// The machine's UUID, as systemd and cloud-init read it.
    pub uuid: [u8; 16],
    /// Its serial number; empty for none.
    pub serial: String,
    /// Strings of type 11.
    pub strings: Vec<String>,
}

/// Strings that cannot be passed on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SmbiosError {
    /// There is no room for them.
    #[error("SMBIOS strings and credentials take {size} bytes, but there is room for {room}", room = layout::SMBIOS_SIZE as usize - STRUCTURES)]
    TooLarge {
        /// What they take.
        size: usize,
    },
    /// A string that ends early.
    #[error("an SMBIOS string holds a NUL: {0:?}")]
    Nul(String),
}

/// The tables, to be put at `base`.
///
/// # Errors
/// If a string cannot be passed on, or all together take too much room.
pub fn build(smbios: &Smbios, base: u64) -> Result<Vec<u8>, SmbiosError> {
    let mut structures = Structures::default();
    let version = env!("CARGO_PKG_VERSION");
    // Section 7.1: BIOS information. Characteristics: "not supported" (bit 3);
    // extension byte 2, bit 4: this is a virtual machine.
    let mut bios = [0; 0x1a - 4];
    (bios[0], bios[1], bios[4]) = (1, 2, 3);
    (bios[6], bios[15]) = (1 << 3, 1 << 4);
    structures.add(0, &bios, &["Bootwright", version, "01/01/2026"])?;
    // Section 7.2: system information; woken up by the power switch.
    let mut system = [0; 0x1b - 4];
    system[..4].copy_from_slice(&[1, 2, 3, if smbios.serial.is_empty() { 0 } else { 4 }]);
    system[4..20].copy_from_slice(&wire_uuid(smbios.uuid));
    system[20] = 6;
    let mut names = vec!["Bootwright", "Bootwright virtual machine", version];
    names.extend(Some(smbios.serial.as_str()).filter(|s| !s.is_empty()));
    structures.add(1, &system, &names)?;
    // Section 7.12: OEM strings; a count in one byte.
    let strings: Vec<_> = smbios.strings.iter().map(String::as_str).collect();
    for some in strings.chunks(255) {
        structures.add(11, &[some.len() as u8], some)?;
    }
    structures.add(127, &[], &[])?;
    let size = structures.bytes.len();
    if STRUCTURES + size > layout::SMBIOS_SIZE as usize {
        return Err(SmbiosError::TooLarge { size });
    }
    let mut tables = entry_point(base + STRUCTURES as u64, size as u32);
    tables.resize(STRUCTURES, 0);
    tables.extend(structures.bytes);
    Ok(tables)
}

/// Section 5.2.2, "SMBIOS 3.0 (64-bit) Entry Point".
fn entry_point(structures: u64, size: u32) -> Vec<u8> {
    let mut entry = b"_SM3_".to_vec();
    // Checksum, length, version 3.2.0, revision, reserved.
    entry.extend([0, 24, 3, 2, 0, 1, 0]);
    entry.extend(size.to_le_bytes());
    entry.extend(structures.to_le_bytes());
    let sum = entry.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    entry[5] = sum.wrapping_neg();
    entry
}

/// Section 7.2.1: the first three fields of a UUID are little-endian.
fn wire_uuid(mut uuid: [u8; 16]) -> [u8; 16] {
    uuid[..4].reverse();
    uuid[4..6].reverse();
    uuid[6..8].reverse();
    uuid
}

#[derive(Default)]
struct Structures {
    bytes: Vec<u8>,
    count: u16,
}

impl Structures {
    /// Section 6.1: a header, the formatted area, then strings up to an empty
    /// one.
    fn add(&mut self, kind: u8, area: &[u8], strings: &[&str]) -> Result<(), SmbiosError> {
        let [low, high] = self.count.to_le_bytes();
        self.bytes.extend([kind, area.len() as u8 + 4, low, high]);
        self.bytes.extend(area);
        for string in strings {
            if string.contains('\0') {
                return Err(SmbiosError::Nul((*string).to_owned()));
            }
            // An empty string would end the list; a blank stands in for it.
            let text = if string.is_empty() { " " } else { string };
            self.bytes.extend(text.bytes());
            self.bytes.push(0);
        }
        if strings.is_empty() {
            self.bytes.push(0);
        }
        self.bytes.push(0);
        self.count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn smbios(strings: &[&str]) -> Smbios {
        Smbios {
            uuid: *b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef",
            serial: "vm-1".into(),
            strings: strings.iter().map(|s| (*s).to_owned()).collect(),
        }
    }

    #[test]
    fn dmidecode_reads_what_was_meant() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // Its dump format is a file that begins with the entry point.
        let strings = ["io.systemd.credential:a=b", "second"];
        std::fs::write(file.path(), build(&smbios(&strings), 0).unwrap()).unwrap();
        let output = Command::new("dmidecode")
            .arg("--from-dump")
            .arg(file.path())
            .output()
            .expect("dmidecode (Debian: dmidecode) is needed for this test");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        for line in [
            "SMBIOS 3.2.0 present",
            "Manufacturer: Bootwright",
            "UUID: 01234567-89ab-cdef-0123-456789abcdef",
            "Serial Number: vm-1",
            "System is a virtual machine",
            "String 1: io.systemd.credential:a=b",
            "String 2: second",
            "End Of Table",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn checksum_is_zero_and_the_table_is_where_it_says() {
        let tables = build(&smbios(&[]), layout::SMBIOS).unwrap();
        let sum = tables[..24].iter().fold(0u8, |s, b| s.wrapping_add(*b));
        assert_eq!(sum, 0);
        let at = u64::from_le_bytes(tables[16..24].try_into().unwrap());
        assert_eq!(tables[(at - layout::SMBIOS) as usize..][..2], [0, 0x1a]);
    }

    #[test]
    fn more_strings_than_a_byte_counts_are_split() {
        let many: Vec<_> = (0..300).map(|n| format!("string {n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let tables = build(&smbios(&many), 0).unwrap();
        let text = String::from_utf8_lossy(&tables);
        assert!(text.contains("string 299"));
    }

    #[test]
    fn strings_that_do_not_fit_are_refused() {
        let long = "x".repeat(70_000);
        assert!(matches!(
            build(&smbios(&[&long]), 0),
            Err(SmbiosError::TooLarge { .. })
        ));
        assert!(matches!(
            build(&smbios(&["a\0b"]), 0),
            Err(SmbiosError::Nul(_))
        ));
    }
}
