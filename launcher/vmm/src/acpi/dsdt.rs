//! The DSDT: devices that nothing else announces.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Device, EISAName, Equal, Field, FieldAccessType,
    FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Local, Memory32Fixed, Method,
    MethodCall, Name, Notify, ONE, OpRegion, OpRegionSpace, Package, Path, ResourceTemplate, Store,
    ZERO,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use super::{Machine, cpus, table};
use crate::arch::layout;
use crate::devices::acpi::{EVENT_CPU, EVENT_POWER_BUTTON, SLEEP_TYPE_OFF};

/// Section 5.2.11.1, "Differentiated System Description Table".
pub(super) fn build(machine: Machine) -> Sdt {
    let mut code = Vec::new();
    pci(&mut code);
    serial(&mut code);
    pvpanic(&mut code);
    power(&mut code);
    cpus::write(machine, &mut code);
    events(&mut code);
    let mut dsdt = table(*b"DSDT", 6);
    dsdt.append_slice(&code);
    dsdt
}

/// The host bridge with what lies behind it, and the reservation of ECAM
/// (PCI Firmware Specification 3.3, section 4.1.2).
fn pci(sink: &mut dyn AmlSink) {
    let bars_end = (layout::BARS + layout::BARS_SIZE - 1) as u32;
    Device::new(
        "_SB_.PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_SEG".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            &Name::new("_UID".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &AddressSpace::new_bus_number(0u16, 0u16),
                    &IO::new(layout::PCI_CONFIG_PORT, layout::PCI_CONFIG_PORT, 1, 8),
                    &AddressSpace::new_memory(
                        AddressSpaceCacheable::NotCacheable,
                        true,
                        layout::BARS as u32,
                        bars_end,
                        None,
                    ),
                ]),
            ),
        ],
    )
    .to_aml_bytes(sink);
    Device::new(
        "_SB_.MBRD".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&Memory32Fixed::new(
                    true,
                    layout::ECAM as u32,
                    layout::ECAM_SIZE as u32,
                )]),
            ),
        ],
    )
    .to_aml_bytes(sink);
}

fn serial(sink: &mut dyn AmlSink) {
    Device::new(
        "_SB_.COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_DDN".into(), &"COM1"),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &IO::new(layout::SERIAL_PORT, layout::SERIAL_PORT, 1, 8),
                    &Interrupt::new(true, true, false, false, layout::SERIAL_IRQ),
                ]),
            ),
        ],
    )
    .to_aml_bytes(sink);
}

/// As QEMU has it; Linux's pvpanic-mmio finds it by this id.
fn pvpanic(sink: &mut dyn AmlSink) {
    Device::new(
        "_SB_.PEVT".into(),
        vec![
            &Name::new("_HID".into(), &"QEMU0001"),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_STA".into(), &0xfu8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&IO::new(
                    layout::PVPANIC_PORT,
                    layout::PVPANIC_PORT,
                    1,
                    1,
                )]),
            ),
        ],
    )
    .to_aml_bytes(sink);
}

/// The state that is off, and the button.
fn power(sink: &mut dyn AmlSink) {
    Name::new(
        "_S5_".into(),
        &Package::new(vec![&SLEEP_TYPE_OFF, &ZERO, &ZERO, &ZERO]),
    )
    .to_aml_bytes(sink);
    Device::new(
        "_SB_.PWRB".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C0C")),
            &Name::new("_UID".into(), &ZERO),
        ],
    )
    .to_aml_bytes(sink);
}

/// Section 5.6.9, "GPIO-signaled / Interrupt-signaled ACPI events": one
/// interrupt, and a register that says what it is about. Reading clears it.
fn events(sink: &mut dyn AmlSink) {
    let scan = MethodCall::new("\\_SB_.CPUS.CSCN".into(), vec![]);
    let button = Path::new("\\_SB_.PWRB");
    Device::new(
        "_SB_.GEC_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &ZERO),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&Interrupt::new(
                    true,
                    true,
                    false,
                    false,
                    layout::GED_IRQ,
                )]),
            ),
            &OpRegion::new(
                "GEDR".into(),
                OpRegionSpace::SystemIO,
                &layout::GED_PORT,
                &ONE,
            ),
            &Field::new(
                "GEDR".into(),
                FieldAccessType::Byte,
                FieldLockRule::NoLock,
                FieldUpdateRule::WriteAsZeroes,
                vec![FieldEntry::Named(*b"GEVT", 8)],
            ),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![
                    &Store::new(&Local(0), &Path::new("GEVT")),
                    &And::new(&Local(1), &Local(0), &EVENT_CPU),
                    &If::new(&Equal::new(&Local(1), &EVENT_CPU), vec![&scan]),
                    &And::new(&Local(1), &Local(0), &EVENT_POWER_BUTTON),
                    &If::new(
                        &Equal::new(&Local(1), &EVENT_POWER_BUTTON),
                        vec![&Notify::new(&button, &0x80u8)],
                    ),
                ],
            ),
        ],
    )
    .to_aml_bytes(sink);
}
