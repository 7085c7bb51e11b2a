//! Booting a stock kernel beside QEMU, both in one machine of the lab.
//!
//! The same kernel and initramfs, one processor, 256 MiB, one after the other
//! and in turns. Times are those of an emulated machine: only their ratios mean
//! anything. Memory is what it would be anywhere.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::known::{self, Known};
use super::pod::{self, Launch};
use crate::lab::{self, Machine};
use crate::paths;

/// What the guest says first of all when it has reached /init.
const TEXT: &str = "init: started";

/// The kernel's arguments, for both.
const GUEST: &str = "console=ttyS0 quiet lab=off";

/// Who boots it, and how; the names are used in the output.
const OURS: &str = "bootwright run";
const QEMU: &str = "QEMU q35 -kernel";
/// As it is when nothing else is asked for: with a display adapter, a network
/// card and a disk controller, and the firmware for them.
const QEMU_AS_IT_IS: &str = "the same with default devices";
/// The same as ours with more in it, for its memory.
const MORE_CPUS: &str = "ours with 4 processors";
const MORE_DISKS: &str = "ours with a disk";

/// What stands before the table.
const INTRODUCTION: &str = "\
Written by `cargo xtask bench boot --write`. The same stock kernel and initramfs under
`bootwright run` and under QEMU, in turns, in one machine of [the lab](develop/lab.md).
";

/// What the table does not say of itself.
const EXPLANATION: &str = "\
- **Process start to /init** is from the start of the command to the line that the initramfs'
  init prints first. The lab's machine is emulated: only the ratio means anything.
  [Where a boot's time goes](develop/lab.md#where-a-boots-time-goes) takes it apart. `run` adds
  `cryptomgr.notests` to the kernel's arguments by itself, which spares the guest the trial of all ciphers.
- **Memory beside the guest's** is the resident part of all mappings but the guest's memory,
  the program's own code included, sampled every 10 ms from the start to /init; the most counts.
- **`run` of a known image** is the demo's Debian image with its layers in the store: processor
  time of the command and of the machine's process until the guest would run its first instruction,
  and to the machine's end there, and what is in the machine's folder then. It is measured on this host itself, under
  its own KVM, with the sandbox and without a network; the run in the middle of 21 counts.
- **A pod's launcher** is `bootwright launch` with the demo's image as a folder of files, until the
  guest would run its first instruction: also on this host, and without passt. What the node does
  before, from the pod's sandbox to the container's first process, is the node's.
";

/// One boot.
#[derive(Debug, Clone, Copy, Serialize)]
struct Boot {
    /// From the start of the process to /init.
    milliseconds: u64,
    /// Most memory beside the guest's until then.
    kibibytes: u64,
    /// Processor time until then.
    processor_milliseconds: u64,
}

/// The medians.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    runs: usize,
    kernel: &'static str,
    ours: Boot,
    qemu: Boot,
    qemu_as_it_is: Boot,
    /// Memory that each further processor takes.
    kibibytes_a_processor: f64,
    /// Memory that a disk with one queue takes.
    kibibytes_a_disk: f64,
    /// A known image on this host, if that has KVM.
    known_image: Option<Known>,
    /// A pod's launcher on this host, likewise.
    launcher: Option<Launch>,
}

/// Measures and keeps the figures as JSON.
pub(super) fn run(runs: usize, binary: Option<&Path>) -> Result<Report> {
    // Before the lab takes the processors.
    let mut lab = lab::prepare(binary)?;
    let known_image = known::measure(&lab.binary)?;
    let launcher = pod::measure(&lab.binary)?;
    lab.programs.extend(lab::examples(&["stopwatch"])?);
    lab.add_qemu();
    let mut output = Vec::new();
    let machine = Machine::default();
    let status = machine.run(&lab, &script(runs), |new| {
        output.extend(new);
        Ok(())
    })?;
    let output = String::from_utf8_lossy(&output);
    if status != 0 {
        bail!("a boot failed in the lab (status {status}):\n{output}");
    }
    let ours = median(&output, OURS)?;
    let beside = |name| -> Result<f64> {
        let boot = median(&output, name)?;
        Ok(boot.kibibytes as f64 - ours.kibibytes as f64)
    };
    let report = Report {
        runs,
        kernel: "Debian 6.1 cloud",
        ours,
        qemu: median(&output, QEMU)?,
        qemu_as_it_is: median(&output, QEMU_AS_IT_IS)?,
        kibibytes_a_processor: beside(MORE_CPUS)? / 3.0,
        kibibytes_a_disk: beside(MORE_DISKS)?,
        known_image,
        launcher,
    };
    fs::write(paths::product("bench-boot.json"), report.json()?)?;
    Ok(report)
}

/// Boots with each, in turns; the first boot by ours, which decompresses the
/// kernel, does not count, as a kernel that is known is what is measured.
fn script(runs: usize) -> String {
    let ours = format!(
        "bootwright run /tmp/disk --quiet --network none --cpus 1 --memory 256M --kernel \
         bookworm.vmlinuz --initrd bookworm.initrd --append '{GUEST}'"
    );
    let qemu = |devices: &str| {
        format!(
            "qemu -machine q35 -accel kvm -cpu host -smp 1 -m 256 -L /lab/files {devices} \
             -no-user-config -display none -no-reboot -serial stdio -kernel bookworm.vmlinuz \
             -initrd bookworm.initrd -append '{GUEST}'"
        )
    };
    let start = "set -e\ntruncate -s 64M /tmp/disk /tmp/more\n";
    let mut script = format!("{}{start}{ours} > /dev/null\n", lab::STILL);
    let mut boot = |name: &str, command: &str| {
        let _ = writeln!(
            script,
            "echo 'bench {name}'; stopwatch '{TEXT}' 256 {command}"
        );
    };
    for _ in 0..runs {
        boot(OURS, &ours);
        boot(QEMU, &qemu("-nodefaults"));
        boot(QEMU_AS_IT_IS, &qemu("-monitor none"));
    }
    boot(MORE_CPUS, &format!("{ours} --cpus 4"));
    boot(MORE_DISKS, &format!("{ours} --disk /tmp/more"));
    script
}

/// The boots of one, as `stopwatch` told of them; the one in the middle.
fn median(output: &str, name: &str) -> Result<Boot> {
    let head = format!("bench {name}");
    let mut boots = Vec::new();
    let mut lines = output.lines();
    while let Some(line) = lines.next() {
        if line.trim() != head {
            continue;
        }
        let mut numbers = lines
            .by_ref()
            .skip_while(|line| !line.contains(" ms, "))
            .take(2)
            .flat_map(str::split_whitespace)
            .filter_map(|word| word.parse().ok());
        let mut next = || numbers.next().context("stopwatch said too little");
        boots.push(Boot {
            milliseconds: next()?,
            kibibytes: next()?,
            processor_milliseconds: next()?,
        });
    }
    boots.sort_by_key(|boot| boot.milliseconds);
    let middle = boots.get(boots.len() / 2).copied();
    middle.with_context(|| format!("no boot with {name}:\n{output}"))
}

impl Report {
    pub(super) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// The part of the book's page.
    pub(super) fn section(&self) -> String {
        format!(
            "## Booting\n\n{INTRODUCTION}\n{}\n{EXPLANATION}",
            self.table()
        )
    }

    pub(super) fn table(&self) -> String {
        let (ours, qemu, as_it_is) = (self.ours, self.qemu, self.qemu_as_it_is);
        let ratio = |other: Boot| ours.milliseconds as f64 / other.milliseconds as f64;
        let mebibytes = |boot: Boot| boot.kibibytes as f64 / 1024.0;
        let met = |met: bool| if met { "yes" } else { "no" };
        let mut text = format!(
            "{}, 1 processor, 256 MiB, medians of {} in an emulated machine\n\n\
             | | {OURS} | {QEMU} | {QEMU_AS_IT_IS} |\n|---|---|---|---|\n",
            self.kernel, self.runs
        );
        let seconds = |ms: u64| ms as f64 / 1000.0;
        let _ = writeln!(
            text,
            "| process start to /init | {:.2} s | {:.2} s | {:.2} s |\n\
             | processor time until then | {:.2} s | {:.2} s | {:.2} s |\n\
             | memory beside the guest's | {:.1} MiB | {:.1} MiB | {:.1} MiB |\n\
             | memory for each further processor | {:.0} KiB | | |\n\
             | memory for a disk | {:.0} KiB | | |\n",
            seconds(ours.milliseconds),
            seconds(qemu.milliseconds),
            seconds(as_it_is.milliseconds),
            seconds(ours.processor_milliseconds),
            seconds(qemu.processor_milliseconds),
            seconds(as_it_is.processor_milliseconds),
            mebibytes(ours),
            mebibytes(qemu),
            mebibytes(as_it_is),
            self.kibibytes_a_processor,
            self.kibibytes_a_disk,
        );
        let _ = write!(
            text,
            "| target | value | at most | met |\n|---|---|---|---|\n\
             | start to /init / QEMU's with its default devices | {:.2} | 0.25 | {} |\n\
             | start to /init / QEMU's without | {:.2} | 0.25 | {} |\n\
             | memory beside the guest's | {:.1} MiB | 5 MiB | {} |\n",
            ratio(as_it_is),
            met(ratio(as_it_is) <= 0.25),
            ratio(qemu),
            met(ratio(qemu) <= 0.25),
            mebibytes(ours),
            met(mebibytes(ours) <= 5.0),
        );
        text += &self
            .known_image
            .as_ref()
            .map_or_else(String::new, Known::rows);
        text += &self.launcher.as_ref().map_or_else(String::new, Launch::row);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots_are_read_and_the_one_in_the_middle_counts() {
        let mut output = String::new();
        for (ms, kib) in [(3000, 30), (1000, 10), (2000, 20)] {
            let _ = write!(
                output,
                "bench {OURS}\ninit: off\n{ms} ms, {kib} KiB\n70 ms of processor time\n\
                 bench {QEMU}\n9 ms, 8 KiB\n7 ms of processor time\n"
            );
        }
        let boot = median(&output, OURS).unwrap();
        assert_eq!((boot.milliseconds, boot.kibibytes), (2000, 20));
        assert_eq!(boot.processor_milliseconds, 70);
        assert_eq!(median(&output, QEMU).unwrap().milliseconds, 9);
        assert!(median("", OURS).is_err());
    }
}
