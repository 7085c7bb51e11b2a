//! What must work with real kernels under the real KVM.

use std::time::Instant;

use anyhow::{Result, bail};

use super::assets::Lab;
use super::machine::Machine;

/// What a small guest does for each word `lab=NAME` of its command line.
pub(super) const GUEST_SCRIPTS: &[(&str, &str)] = &[
    ("off", "echo 'init: turning off'; poweroff -f"),
    ("reset", "echo 'init: resetting'; reboot -f"),
    (
        "panic",
        "echo 'init: panicking'; echo c > /proc/sysrq-trigger",
    ),
    (
        "look",
        "dmesg | grep -iE 'acpi|pci|kvm-clock|tsc|apic|smp' | head -80; cat /proc/interrupts; \
         ls /sys/bus/acpi/devices /sys/bus/pci/devices; grep -m3 -E 'model name|cpu cores' /proc/cpuinfo",
    ),
    (
        "smp",
        "for cpu in $(seq 0 $(($(nproc) - 1))); do taskset $((1 << cpu)) echo \"init: on $cpu\"; done; \
         echo \"init: siblings $(cat /sys/devices/system/cpu/cpu0/topology/core_siblings_list)\"",
    ),
];

/// A command in L1 and what must come of it.
struct Scenario {
    name: &'static str,
    command: &'static str,
    status: u8,
    /// Lines that must be in the output, in this order.
    lines: &'static [&'static str],
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "6.1 boots and turns off",
        command: "boot bookworm.vmlinuz bookworm.initrd 'console=ttyS0 quiet lab=off'",
        status: 0,
        lines: &["init: reached on 6.1", "1 cpus", "init: turning off"],
    },
    Scenario {
        name: "6.12 boots and turns off",
        command: "boot trixie.vmlinuz trixie.initrd 'console=ttyS0 quiet lab=off'",
        status: 0,
        lines: &["init: reached on 6.12", "init: turning off"],
    },
    Scenario {
        name: "four processors in one package",
        command: "boot bookworm.vmlinuz bookworm.initrd 'console=ttyS0 quiet lab=smp' 4 512",
        status: 0,
        lines: &["4 cpus", "init: on 0", "init: on 3", "init: siblings 0-3"],
    },
    Scenario {
        name: "memory past the hole",
        command: "boot bookworm.vmlinuz bookworm.initrd 'console=ttyS0 quiet lab=off' 1 4096",
        status: 0,
        lines: &["init: reached", "cpus, 40", "init: turning off"],
    },
    Scenario {
        name: "reset in place",
        command: "boot trixie.vmlinuz trixie.initrd 'console=ttyS0 quiet lab=reset'",
        status: 32,
        lines: &[
            "init: resetting",
            "asked for a reset",
            "init: reached",
            "asked for a reset",
        ],
    },
    Scenario {
        name: "a panic is told apart from a crash",
        command: "boot trixie.vmlinuz trixie.initrd 'console=ttyS0 quiet lab=panic'",
        status: 34,
        lines: &["init: panicking", "kernel panicked"],
    },
];

/// Runs all, in one L1.
pub(super) fn run(lab: &Lab) -> Result<()> {
    let start = Instant::now();
    let script: String = SCENARIOS
        .iter()
        .enumerate()
        .map(|(index, s)| {
            format!(
                "echo '@{index} begin'; {}; echo \"@{index} $?\"\n",
                s.command
            )
        })
        .collect();
    let outcome = Machine::default().run(lab, &script, false)?;
    let mut failed = 0;
    for (index, scenario) in SCENARIOS.iter().enumerate() {
        let result = check(scenario, index, &outcome.output);
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        eprintln!("{word:<6} {}", scenario.name);
        if let Err(error) = result {
            eprintln!("{error}");
            failed += 1;
        }
    }
    eprintln!("{:.0} s in the lab", start.elapsed().as_secs_f64());
    match failed {
        0 => Ok(()),
        _ => bail!(
            "{failed} of {} scenarios failed in the lab",
            SCENARIOS.len()
        ),
    }
}

fn check(scenario: &Scenario, index: usize, output: &str) -> Result<()> {
    let begin = format!("@{index} begin");
    let Some((_, part)) = output.split_once(&begin) else {
        bail!("it did not begin; the output is:\n{output}");
    };
    let part = part.split("begin").next().unwrap_or(part);
    let status = format!("@{index} {}", scenario.status);
    if !part.lines().any(|line| line.trim() == status) {
        bail!("its status is not {}:\n{part}", scenario.status);
    }
    let mut rest = part;
    for line in scenario.lines {
        match rest.split_once(line) {
            Some((_, after)) => rest = after,
            None => bail!("`{line}` is missing, or comes too early:\n{part}"),
        }
    }
    Ok(())
}
