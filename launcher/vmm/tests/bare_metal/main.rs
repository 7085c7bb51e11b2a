//! Guests of a few instructions on the real KVM: what ends them, what holds
//! them, and that all threads end with them.
//!
//! They run where this user may use /dev/kvm, also where that is software and
//! no stock kernel boots. `BOOTWRIGHT_TEST_KVM=1` makes its absence a failure.

#![allow(clippy::unwrap_used, clippy::panic)]

mod guest;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bootwright_vmm::vm::{ControlError, Crash, Exit, Status};

use guest::{Guest, HALT, limited, out, reachable};

/// Ports of the machine (`arch::x86_64::layout`) and what guests write there.
static POWER_OFF: [u8; 7] = out(0x601, 0x34);
static RESET: [u8; 7] = out(0x603, 1);
static PANIC: [u8; 7] = out(0x505, 1);
const LETTER: [u8; 7] = out(0x3f8, b'x');
/// `jmp` to the start of an instruction of seven bytes.
const AGAIN: [u8; 2] = [0xeb, 0xf7];

#[test]
fn each_end_of_a_guest_is_told_apart() {
    if !reachable() {
        return;
    }
    for (code, exit) in [
        (&POWER_OFF[..], Exit::PowerOff),
        (&RESET[..], Exit::Reset),
        (&PANIC[..], Exit::Panicked),
    ] {
        let ended = limited(move || Guest::new(code).make().run().unwrap());
        assert_eq!(ended, exit);
    }
}

#[test]
fn a_guest_that_cannot_go_on_has_crashed() {
    if !reachable() {
        return;
    }
    // int3, with no handlers for anything.
    let ended = limited(|| Guest::new(&[0xcc]).make().run().unwrap());
    // A KVM without hardware gives up before the third fault.
    let crashes = [Crash::TripleFault, Crash::Emulation].map(Exit::Crashed);
    assert!(crashes.contains(&ended), "{ended:?}");
}

#[test]
fn threads_end_with_their_guest_however_often() {
    if !reachable() {
        return;
    }
    // The one that ends the guest and the one that waits for it race.
    for _ in 0..100 {
        let ended = limited(|| Guest::new(&POWER_OFF).make().run().unwrap());
        assert_eq!(ended, Exit::PowerOff);
    }
}

#[test]
fn a_reset_makes_a_fresh_machine_around_the_same_serial_port() {
    if !reachable() {
        return;
    }
    let guest = Guest::new(&[&LETTER[..], &RESET].concat());
    let output = guest.output.clone();
    limited(move || {
        let mut vm = guest.make();
        for _ in 0..20 {
            assert_eq!(vm.run().unwrap(), Exit::Reset);
            vm.reset().unwrap();
        }
        assert_eq!(vm.handle().stats().resets, 20);
    });
    assert_eq!(output.text(), "x".repeat(20));
}

#[test]
fn writes_that_change_nothing_by_themselves_do_not_leave_the_guest() {
    if !reachable() {
        return;
    }
    // PCI's address port holds what was written last, here 300 times: more
    // than KVM keeps.
    let code = [
        &[0x66, 0xba, 0xf8, 0x0c][..],   // mov dx, 0xcf8
        &[0xb8, 0x00, 0x00, 0x00, 0x80], // mov eax, 0x80000000
        &[0x40, 0xef],                   // inc eax; out dx, eax
        &[0x3d, 0x2c, 0x01, 0x00, 0x80], // cmp eax, 0x8000012c
        &[0x75, 0xf7],                   // jne to inc
        &[0xb8, 0x00, 0x00, 0x00, 0x00], // mov eax, 0
        &[0xed],                         // in eax, dx
        &[0x66, 0xba, 0xf8, 0x03],       // mov dx, 0x3f8
        &[0xee, 0x88, 0xe0, 0xee],       // out dx, al; mov al, ah; out dx, al
        &POWER_OFF,
    ]
    .concat();
    let guest = Guest::new(&code);
    let output = guest.output.clone();
    let stats = limited(move || {
        let mut vm = guest.make();
        assert_eq!(vm.run().unwrap(), Exit::PowerOff);
        vm.handle().stats()
    });
    assert_eq!(output.text(), "\u{2c}\u{1}");
    assert!(stats.port_writes < 10, "{stats:?}");
}

#[test]
fn a_held_guest_does_nothing_and_then_goes_on() {
    if !reachable() {
        return;
    }
    let guest = Guest::new(&[&LETTER[..], &AGAIN].concat());
    limited(move || {
        let mut vm = guest.make();
        let handle = vm.handle();
        let control = std::thread::spawn(move || {
            let wait_for_more = |than: u64| {
                while handle.serial_written() <= than {
                    std::thread::sleep(Duration::from_millis(1));
                }
            };
            for _ in 0..20 {
                wait_for_more(handle.serial_written());
                handle.pause().unwrap();
                assert_eq!(handle.status(), Status::Paused);
                let before = handle.serial_written();
                std::thread::sleep(Duration::from_millis(5));
                assert_eq!(handle.serial_written(), before);
                handle.resume().unwrap();
                wait_for_more(before);
            }
            handle.pause().unwrap();
            handle.kill().unwrap();
            handle
        });
        assert_eq!(vm.run().unwrap(), Exit::Killed);
        let handle = control.join().unwrap();
        assert_eq!(handle.status(), Status::Stopped);
        drop(vm);
        assert!(matches!(handle.pause(), Err(ControlError::NotRunning)));
    });
}

#[test]
fn a_guest_that_is_to_end_before_it_runs_does() {
    if !reachable() {
        return;
    }
    let ended = limited(|| {
        let mut vm = Guest::new(&POWER_OFF).make();
        // By the thread that is to run it.
        vm.handle().kill().unwrap();
        vm.run().unwrap()
    });
    assert_eq!(ended, Exit::Killed);
}

#[test]
fn a_guest_that_sleeps_can_be_ended() {
    if !reachable() {
        return;
    }
    let guest = Guest::new(&[&LETTER[..], &HALT].concat());
    limited(move || {
        let mut vm = guest.make();
        let handle = vm.handle();
        let control = std::thread::spawn(move || {
            while handle.serial_written() == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            handle.kill().unwrap();
        });
        assert_eq!(vm.run().unwrap(), Exit::Killed);
        control.join().unwrap();
    });
}

/// Starts all other processors, by INIT and SIPI to "all but self" (Intel SDM,
/// volume 3, "Issuing interprocessor interrupts"), and waits until 63 have
/// counted themselves.
const START_ALL: [&[u8]; 7] = [
    // mov dword [0x7000], 0: the count.
    &[0xc7, 0x05, 0x00, 0x70, 0x00, 0x00, 0, 0, 0, 0],
    // 16-bit code at 0x8000: lock inc word [0x7000]; hlt; jmp to the hlt.
    &[0xc7, 0x05, 0x00, 0x80, 0x00, 0x00, 0xf0, 0xff, 0x06, 0x00],
    &[0xc7, 0x05, 0x04, 0x80, 0x00, 0x00, 0x70, 0xf4, 0xeb, 0xfd],
    // The local APIC is enabled, then its command register sends.
    &[0xc7, 0x05, 0xf0, 0x00, 0xe0, 0xfe, 0xff, 0x01, 0x00, 0x00],
    &[0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x00, 0x45, 0x0c, 0x00],
    &[0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x08, 0x46, 0x0c, 0x00],
    // cmp dword [0x7000], 63; jb to the cmp.
    &[0x83, 0x3d, 0x00, 0x70, 0x00, 0x00, 63, 0x72, 0xf7],
];

/// Held by tests whose guests have a third processor: one of them looks for
/// its thread by name.
static THIRD: Mutex<()> = Mutex::new(());

#[test]
fn sixty_four_processors_start() {
    if !reachable() {
        return;
    }
    let _third = THIRD.lock().unwrap_or_else(PoisonError::into_inner);
    let mut guest = Guest::new(&[&START_ALL.concat()[..], &POWER_OFF].concat());
    (guest.config.cpus, guest.config.max_cpus) = (64, 64);
    let ended = limited(move || guest.make().run().unwrap());
    assert_eq!(ended, Exit::PowerOff);
}

/// What /proc says of this process' threads called `name`.
fn threads(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path().join("status");
        // Threads of other tests come and go.
        let status = std::fs::read_to_string(path).unwrap_or_default();
        if status.starts_with(&format!("Name:\t{name}\n")) {
            found.push(status);
        }
    }
    found
}

#[test]
fn threads_are_confined_while_a_guest_runs() {
    if !reachable() {
        return;
    }
    let _third = THIRD.lock().unwrap_or_else(PoisonError::into_inner);
    let mut guest = Guest::new(&[&LETTER[..], &AGAIN].concat());
    (guest.config.cpus, guest.config.max_cpus) = (3, 3);
    limited(move || {
        let mut vm = guest.make();
        let handle = vm.handle();
        let control = std::thread::spawn(move || {
            while handle.serial_written() == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            // All of them have begun to run.
            handle.pause().unwrap();
            let found = threads("vcpu2");
            handle.kill().unwrap();
            found
        });
        assert_eq!(vm.run().unwrap(), Exit::Killed);
        let found = control.join().unwrap();
        assert_eq!(found.len(), 1);
        for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"] {
            assert!(found[0].contains(line), "no `{line}` in {}", found[0]);
        }
    });
}
