//! The tables that are data.

use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::sdt::Sdt;

use super::{Machine, OEM, REVISION, TABLE, table};
use crate::arch::layout;

/// Section 5.2.9.3, "IA-PC Boot Architecture Flags": there is no VGA and no
/// CMOS clock; bits for an 8042 and legacy devices stay clear, which spares the
/// kernel half a second of probing.
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_RTC: u16 = 1 << 5;

/// Section 5.2.12.2, flags of a local APIC.
const ENABLED: u32 = 1;
const ONLINE_CAPABLE: u32 = 2;

/// Written to the reset register, it resets.
pub(crate) const RESET_VALUE: u8 = 1;

/// Section 5.2.9, "Fixed ACPI Description Table".
pub(super) fn fadt(dsdt: u64) -> FADT {
    let port = |port: u16| {
        GAS::new(
            AddressSpace::SystemIo,
            8,
            0,
            AccessSize::ByteAccess,
            port.into(),
        )
    };
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (NO_VGA | NO_CMOS_RTC).into();
    fadt.reset_reg = port(layout::RESET_PORT);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port(layout::SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(layout::SLEEP_STATUS_PORT);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"BOOTWRVM").into();
    fadt.finalize()
}

/// Section 5.2.12, "Multiple APIC Description Table".
pub(super) fn madt(machine: Machine) -> Sdt {
    let mut madt = table(*b"APIC", 5);
    madt.append(layout::LOCAL_APIC);
    // Flags: no 8259s.
    madt.append(0u32);
    for cpu in 0..machine.max_cpus {
        madt.append_slice(&local_apic(cpu, cpu < machine.cpus));
    }
    // I/O APIC: id, reserved, address, first interrupt.
    madt.append_slice(&[1, 12, machine.max_cpus, 0]);
    madt.append(layout::IOAPIC);
    madt.append(0u32);
    madt
}

/// A processor's entry in the MADT, and what its `_MAT` returns.
pub(super) fn local_apic(cpu: u8, present: bool) -> [u8; 8] {
    let flags = if present { ENABLED } else { ONLINE_CAPABLE };
    let [a, b, c, d] = flags.to_le_bytes();
    [0, 8, cpu, cpu, a, b, c, d]
}

/// PCI Firmware Specification 3.3, section 4.1.2.
pub(super) fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM, TABLE, REVISION);
    mcfg.add_ecam(layout::ECAM, 0, 0, 0);
    mcfg
}
