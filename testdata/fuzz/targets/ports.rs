//! What a guest does to ports: serial port, general event device, sleep and
//! reset, pvpanic, processors that come and go, PCI. Keys typed and buttons
//! pressed come in between.
#![no_main]

use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;

use bootwright_fuzz::machine::accesses;
use bootwright_vmm::arch::layout;
use bootwright_vmm::devices::SerialPort;
use bootwright_vmm::devices::acpi::{EVENT_CPU, EVENT_POWER_BUTTON, Events};
use bootwright_vmm::devices::cpu_hotplug::CpuHotplug;
use bootwright_vmm::devices::ports::{Ports, Request};
use bootwright_vmm::pci::PciBus;
use libfuzzer_sys::fuzz_target;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const CPUS: u8 = 4;

/// The ports that mean something, and one on each side of them.
const RANGES: [(u16, u16); 5] = [
    (layout::SERIAL_PORT - 1, 10),
    (layout::PVPANIC_PORT - 1, 3),
    (layout::GED_PORT - 1, 6),
    (layout::CPU_HOTPLUG_PORT - 1, layout::CPU_HOTPLUG_PORTS + 2),
    (layout::PCI_CONFIG_PORT - 1, 10),
];

fuzz_target!(|input: &[u8]| {
    let interrupt = || EventFd::new(EFD_NONBLOCK).unwrap();
    let output: Box<dyn Write + Send> = Box::new(std::io::sink());
    let ports = Ports {
        serial: SerialPort::new(interrupt(), output),
        events: Events::new(interrupt()),
        cpus: Mutex::new(CpuHotplug::new(2, CPUS)),
    };
    let pci = PciBus::new(Vec::new()).unwrap();
    let mut ejected = 0;
    for access in accesses(input) {
        let mut data = access.data.to_vec();
        let port = match access.kind % 8 {
            range @ 0..5 => {
                let (start, len) = RANGES[usize::from(range)];
                start + access.offset % len
            }
            5 => access.offset,
            6 => {
                let taken = ports.serial.input(access.data, Duration::ZERO);
                assert!(taken <= access.data.len());
                continue;
            }
            _ => {
                let wanted = access.offset as u8 % (CPUS + 1);
                let come = ports.cpus().resize(wanted);
                assert!(come.iter().all(|cpu| *cpu < wanted.max(1)));
                ports.events.raise(EVENT_CPU | EVENT_POWER_BUTTON).unwrap();
                continue;
            }
        };
        if !access.write {
            ports.read(port, &mut data, &pci);
            continue;
        }
        match ports.write(port, &data, &pci) {
            Some(Request::PowerOff) => assert_eq!(port, layout::SLEEP_CONTROL_PORT),
            Some(Request::Reset) => assert!(port == layout::RESET_PORT || port == 0x64),
            Some(Request::Panicked) => assert_eq!(port, layout::PVPANIC_PORT),
            Some(Request::Ejected(cpu)) => {
                assert!((1..CPUS).contains(&cpu));
                ejected += 1;
            }
            None => {}
        }
        assert!((1..=CPUS).contains(&ports.cpus().count()));
    }
    assert!(ejected <= input.len());
});
