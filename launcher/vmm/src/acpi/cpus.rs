//! Processors as ACPI devices, which can come and go.
//!
//! Section 8.4.1, "Processor Container Device"; the registers behind are those
//! of [`crate::devices::cpu_hotplug`].

use acpi_tables::aml::{
    Acquire, Add, Arg, BufferData, Device, Equal, Field, FieldAccessType, FieldEntry,
    FieldLockRule, FieldUpdateRule, If, LessThan, Local, Method, MethodCall, Mutex, Name, Notify,
    ONE, OpRegion, OpRegionSpace, Path, Release, Return, Store, While, ZERO,
};
use acpi_tables::{Aml, AmlSink};

use super::{Machine, tables};
use crate::arch::layout;

/// Notifications of section 5.6.6, "Device Object Notifications".
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;

/// `_STA`: present, enabled, shown, working.
const STATUS_PRESENT: u8 = 0xf;

pub(super) fn write(machine: Machine, sink: &mut dyn AmlSink) {
    registers(sink);
    let hid = Name::new("_HID".into(), &"ACPI0010");
    let uid = Name::new("_UID".into(), &ZERO);
    let (status, eject) = (status_method(), eject_method());
    let scan = RawAml(scan_method(machine.max_cpus));
    let notify = RawAml(notify_method(machine.max_cpus));
    let processors: Vec<_> = (0..machine.max_cpus).map(Processor).collect();
    let mut children: Vec<&dyn Aml> = vec![&hid, &uid, &status, &eject, &scan, &notify];
    children.extend(processors.iter().map(|p| p as &dyn Aml));
    Device::new("_SB_.CPUS".into(), children).to_aml_bytes(sink);
}

/// AML that is bytes already.
struct RawAml(Vec<u8>);

impl Aml for RawAml {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

fn bytes(aml: &dyn Aml) -> RawAml {
    RawAml(super::aml(aml))
}

/// `_SB.PRES`: a selector, then flags of the selected processor.
fn registers(sink: &mut dyn AmlSink) {
    Device::new(
        "_SB_.PRES".into(),
        vec![
            &Name::new("_HID".into(), &acpi_tables::aml::EISAName::new("PNP0A06")),
            &Name::new("_UID".into(), &"CPU hotplug"),
            &Name::new(
                "_CRS".into(),
                &acpi_tables::aml::ResourceTemplate::new(vec![&acpi_tables::aml::IO::new(
                    layout::CPU_HOTPLUG_PORT,
                    layout::CPU_HOTPLUG_PORT,
                    1,
                    layout::CPU_HOTPLUG_PORTS as u8,
                )]),
            ),
            &Mutex::new("CPLK".into(), 0),
            &OpRegion::new(
                "PRST".into(),
                OpRegionSpace::SystemIO,
                &layout::CPU_HOTPLUG_PORT,
                &layout::CPU_HOTPLUG_PORTS,
            ),
            &Field::new(
                "PRST".into(),
                FieldAccessType::DWord,
                FieldLockRule::NoLock,
                FieldUpdateRule::WriteAsZeroes,
                vec![FieldEntry::Named(*b"CSEL", 32)],
            ),
            &Field::new(
                "PRST".into(),
                FieldAccessType::Byte,
                FieldLockRule::NoLock,
                FieldUpdateRule::WriteAsZeroes,
                vec![
                    FieldEntry::Reserved(32),
                    FieldEntry::Named(*b"CPEN", 1),
                    FieldEntry::Named(*b"CINS", 1),
                    FieldEntry::Named(*b"CRMV", 1),
                    FieldEntry::Named(*b"CEJ0", 1),
                ],
            ),
        ],
    )
    .to_aml_bytes(sink);
}

fn register(name: &str) -> Path {
    Path::new(&format!("\\_SB_.PRES.{name}"))
}

/// `CSTA(cpu)`: its `_STA`.
fn status_method() -> RawAml {
    let (lock, select, enabled) = (register("CPLK"), register("CSEL"), register("CPEN"));
    bytes(&Method::new(
        "CSTA".into(),
        1,
        true,
        vec![
            &Acquire::new(lock, 0xffff),
            &Store::new(&select, &Arg(0)),
            &Store::new(&Local(0), &ZERO),
            &If::new(
                &Equal::new(&enabled, &ONE),
                vec![&Store::new(&Local(0), &STATUS_PRESENT)],
            ),
            &Release::new(register("CPLK")),
            &Return::new(&Local(0)),
        ],
    ))
}

/// `CEJ1(cpu)`: the guest has let go of it.
fn eject_method() -> RawAml {
    bytes(&Method::new(
        "CEJ1".into(),
        1,
        true,
        vec![
            &Acquire::new(register("CPLK"), 0xffff),
            &Store::new(&register("CSEL"), &Arg(0)),
            &Store::new(&register("CEJ0"), &ONE),
            &Release::new(register("CPLK")),
        ],
    ))
}

/// `CTFY(cpu, event)`: tells the guest's driver.
fn notify_method(max_cpus: u8) -> Vec<u8> {
    let cases: Vec<RawAml> = (0..max_cpus)
        .map(|cpu| {
            bytes(&If::new(
                &Equal::new(&Arg(0), &cpu),
                vec![&Notify::new(&name(cpu), &Arg(1))],
            ))
        })
        .collect();
    let cases = cases.iter().map(|c| c as &dyn Aml).collect();
    super::aml(&Method::new("CTFY".into(), 2, true, cases))
}

/// `CSCN()`: finds the processors that come or go.
fn scan_method(max_cpus: u8) -> Vec<u8> {
    let (select, insert, remove) = (register("CSEL"), register("CINS"), register("CRMV"));
    let notify = |event| {
        let (cpu, event) = (Local(0), event);
        bytes(&MethodCall::new("CTFY".into(), vec![&cpu, &event]))
    };
    let (check, eject) = (notify(DEVICE_CHECK), notify(EJECT_REQUEST));
    super::aml(&Method::new(
        "CSCN".into(),
        0,
        true,
        vec![
            &Acquire::new(register("CPLK"), 0xffff),
            &Store::new(&Local(0), &ZERO),
            &While::new(
                &LessThan::new(&Local(0), &max_cpus),
                vec![
                    &Store::new(&select, &Local(0)),
                    &If::new(
                        &Equal::new(&insert, &ONE),
                        vec![&check, &Store::new(&insert, &ONE)],
                    ),
                    &If::new(
                        &Equal::new(&remove, &ONE),
                        vec![&eject, &Store::new(&remove, &ONE)],
                    ),
                    &Add::new(&Local(0), &Local(0), &ONE),
                ],
            ),
            &Release::new(register("CPLK")),
        ],
    ))
}

fn name(cpu: u8) -> Path {
    Path::new(&format!("C{cpu:03X}"))
}

/// One processor.
struct Processor(u8);

impl Aml for Processor {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let cpu = self.0;
        let status = MethodCall::new("CSTA".into(), vec![&cpu]);
        let apic = BufferData::new(tables::local_apic(cpu, true).into());
        Device::new(
            name(cpu),
            vec![
                &Name::new("_HID".into(), &"ACPI0007"),
                &Name::new("_UID".into(), &cpu),
                &Method::new("_STA".into(), 0, false, vec![&Return::new(&status)]),
                &Method::new("_MAT".into(), 0, false, vec![&Return::new(&apic)]),
                &Method::new(
                    "_EJ0".into(),
                    1,
                    false,
                    vec![&MethodCall::new("CEJ1".into(), vec![&cpu])],
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}
