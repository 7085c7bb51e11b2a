//! ACPI tables: what the guest's kernel learns of the machine from.
//!
//! Hardware-reduced ACPI ([ACPI 6.5], section 4.1): no fixed hardware, events
//! come through a general event device. The tables are pure functions of a few
//! numbers.
//!
//! [ACPI 6.5]: https://uefi.org/specs/ACPI/6.5/

mod cpus;
mod dsdt;
mod tables;

pub(crate) use tables::RESET_VALUE;

use acpi_tables::Aml;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use crate::arch::layout;

/// Who the tables say made them.
const OEM: [u8; 6] = *b"BOOTWR";
/// What for.
const TABLE: [u8; 8] = *b"BOOTWRVM";
/// In which version.
const REVISION: u32 = 1;

/// What the tables depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Processors present at boot.
    pub cpus: u8,
    /// Processors that there can be.
    pub max_cpus: u8,
}

/// Tables that do not fit where they must.
#[derive(Debug, thiserror::Error)]
#[error("ACPI tables take {size} bytes, but there is room for {room}", room = layout::ACPI_SIZE)]
pub struct TooLarge {
    size: usize,
}

/// All tables, to be put at `base`, the RSDP first.
///
/// # Errors
/// If they take more than [`layout::ACPI_SIZE`].
pub fn build(machine: Machine, base: u64) -> Result<Vec<u8>, TooLarge> {
    let mut bytes = vec![0; Rsdp::len().next_multiple_of(16)];
    let mut put = |table: Vec<u8>| {
        let address = base + bytes.len() as u64;
        bytes.extend(table);
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        address
    };
    let dsdt = put(aml(&dsdt::build(machine)));
    let fadt = put(aml(&tables::fadt(dsdt)));
    let madt = put(aml(&tables::madt(machine)));
    let mcfg = put(aml(&tables::mcfg()));
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    for table in [fadt, madt, mcfg] {
        xsdt.add_entry(table);
    }
    let xsdt = put(aml(&xsdt));
    let rsdp = aml(&Rsdp::new(OEM, xsdt));
    bytes[..rsdp.len()].copy_from_slice(&rsdp);
    match bytes.len() {
        size if size as u64 > layout::ACPI_SIZE => Err(TooLarge { size }),
        _ => Ok(bytes),
    }
}

fn aml(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// An empty table.
fn table(signature: [u8; 4], revision: u8) -> Sdt {
    Sdt::new(signature, 36, revision, OEM, TABLE, REVISION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::process::Command;

    fn u32_at(bytes: &[u8], at: usize) -> usize {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    fn u64_at(bytes: &[u8], at: usize) -> usize {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
    }

    /// Follows the pointers from the RSDP, as a kernel does.
    fn walk(bytes: &[u8], base: usize) -> BTreeMap<String, Vec<u8>> {
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b));
        assert_eq!(&bytes[..8], b"RSD PTR ");
        assert_eq!((sum(&bytes[..20]), sum(&bytes[..36])), (0, 0));
        let table = |address: usize| {
            let bytes = &bytes[address - base..];
            let table = bytes[..u32_at(bytes, 4)].to_vec();
            assert_eq!(sum(&table), 0);
            (String::from_utf8(table[..4].to_vec()).unwrap(), table)
        };
        let (_, xsdt) = table(u64_at(bytes, 24));
        let entries = xsdt[36..].chunks_exact(8);
        let mut tables: BTreeMap<_, _> = entries.map(|e| table(u64_at(e, 0))).collect();
        let dsdt = table(u64_at(&tables["FACP"], 140));
        tables.insert(dsdt.0, dsdt.1);
        tables
    }

    fn tables(cpus: u8, max_cpus: u8) -> BTreeMap<String, Vec<u8>> {
        let base = layout::ACPI;
        let bytes = build(Machine { cpus, max_cpus }, base).unwrap();
        walk(&bytes, base as usize)
    }

    #[test]
    fn every_table_is_reached_with_a_right_checksum() {
        let tables = tables(2, 4);
        let names: Vec<_> = tables.keys().map(String::as_str).collect();
        assert_eq!(names, ["APIC", "DSDT", "FACP", "MCFG"]);
    }

    #[test]
    fn the_largest_machine_fits() {
        let max = layout::MAX_CPUS;
        assert!(
            build(
                Machine {
                    cpus: max,
                    max_cpus: max
                },
                layout::ACPI
            )
            .is_ok()
        );
    }

    /// What Intel's compiler makes of a table; without what differs between
    /// its versions.
    fn disassembled(name: &str, table: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), table).unwrap();
        let iasl = |arguments: &[&str]| {
            let output = Command::new("iasl")
                .args(arguments)
                .current_dir(dir.path())
                .output()
                .expect("iasl (Debian: acpica-tools) is needed for this test");
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{text}");
            text
        };
        iasl(&["-d", name]);
        // What it takes apart, it must be able to put together.
        let text = iasl(&["-p", "again", &format!("{name}.dsl")]);
        assert!(text.contains(" 0 Errors"), "{text}");
        assert!(text.contains(" 0 Warnings") || name != "dsdt", "{text}");
        let source = std::fs::read_to_string(dir.path().join(format!("{name}.dsl"))).unwrap();
        let start = source.find("*/").map_or(0, |at| at + 2);
        source[start..].trim().to_owned() + "\n"
    }

    #[test]
    fn the_dsdt_says_what_is_meant() {
        insta::assert_snapshot!(disassembled("dsdt", &tables(1, 2)["DSDT"]));
    }

    #[test]
    fn the_other_tables_say_what_is_meant() {
        let tables = tables(1, 2);
        for name in ["FACP", "APIC", "MCFG"] {
            let text = disassembled(&name.to_lowercase(), &tables[name]);
            insta::assert_snapshot!(name, text);
        }
    }
}
