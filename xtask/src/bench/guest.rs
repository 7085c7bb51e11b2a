//! What a guest's disks and network cost the host, beside QEMU, both in one
//! machine of the lab.
//!
//! The same kernel, initramfs and files; one after the other and in turns. What
//! the guest's own processor ran does not count. Times are those of an emulated
//! machine: only their ratios mean anything.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::lab::{self, Machine};

/// Who runs the guest; the names are used in the output.
const OURS: &str = "bootwright run";
const QEMU: &str = "QEMU";

/// The kernel's arguments, for both.
const GUEST: &str = "console=ttyS0 quiet lab=load lab=off";

/// What the guest calls its loads, what they are, and what is counted in each.
const LOADS: [(&str, &str, &str); 5] = [
    ("read_4k vdb", "raw, reads of 4 KiB", "request"),
    ("read_1m vdb", "raw, reads of 1 MiB", "request"),
    ("read_4k vdc", "qcow2, reads of 4 KiB", "request"),
    ("read_1m vdc", "qcow2, reads of 1 MiB", "request"),
    ("receive", "network, from the host", "KiB"),
];

/// How many of what is counted each load has, in that order.
const COUNTS: [f64; 5] = [10_000.0, 128.0, 10_000.0, 128.0, 65_536.0];

/// What the table does not say of itself.
const EXPLANATION: &str = "\
Written by `cargo xtask bench guest --write`. The same stock kernel with the same files under
`bootwright run` and under QEMU (virtio-blk with io_uring, virtio-net with passt), in turns, in one
machine of [the lab](develop/lab.md), which is emulated: only the ratios mean anything. What counts
is the processor time of the machine's process and of passt, without what ran as the guest's
processor. Four readers read past the guest's page cache; the files are in the host's memory; the
network is one TCP connection; what a guest sends is not measured, as passt of Debian 12 breaks
connections of guests as slow as these.
";

/// Has both run the guest, in turns, and returns the part of the book's page.
pub(super) fn run(runs: usize, binary: Option<&Path>) -> Result<String> {
    let mut lab = lab::prepare(binary)?;
    lab.programs.extend(lab::examples(&["stopwatch"])?);
    lab.add_qemu();
    let mut output = Vec::new();
    let status = Machine::default().run(&lab, &script(runs), |new| {
        output.extend(new);
        Ok(())
    })?;
    let output = String::from_utf8_lossy(&output);
    if status != 0 || output.contains(" failed") {
        bail!("a guest failed in the lab (status {status}):\n{output}");
    }
    Ok(format!(
        "## A guest's disks and network\n\n{EXPLANATION}\n{}",
        table(runs, &costs(&output)?)?
    ))
}

/// Guests with each, in turns.
fn script(runs: usize) -> String {
    let ours = format!(
        "bootwright run /tmp/disk --quiet --network user --cpus 1 --memory 256M --disk /tmp/raw \
         --disk /tmp/qcow2 --kernel bookworm.vmlinuz --initrd bookworm.initrd --append '{GUEST}'"
    );
    let drive = |id: &str, format: &str| {
        format!(
            "-drive if=none,id={id},file=/tmp/{id},format={format},aio=io_uring \
             -device virtio-blk-pci,drive={id} "
        )
    };
    // In a process of its own, so that passt is among its children.
    let qemu = format!(
        "passt --foreground --quiet --stderr --runas 0:0 --mtu 65520 --socket /tmp/socket \
         --tcp-ports none --udp-ports none 2> /tmp/passt & passt=$!; \
         while [ ! -S /tmp/socket ]; do sleep 0.1; done; \
         qemu -machine q35 -accel kvm -cpu host -smp 1 -m 256 -L /lab/files -nodefaults \
         -no-user-config -display none -no-reboot -serial stdio -kernel bookworm.vmlinuz \
         -initrd bookworm.initrd -append \"{GUEST}\" {}{}{}\
         -netdev stream,id=net,server=off,addr.type=unix,addr.path=/tmp/socket \
         -device virtio-net-pci,netdev=net,host_mtu=65520,romfile=; \
         status=$?; kill $passt; rm /tmp/socket; exit $status",
        drive("disk", "raw"),
        drive("raw", "raw"),
        drive("qcow2", "qcow2"),
    );
    let mut script = String::from(
        "set -e\ntruncate -s 64M /tmp/disk\nyes 0123456789 | head -c 134217728 > /tmp/raw\n\
         qemu-img convert -f raw -O qcow2 /tmp/raw /tmp/qcow2\n\
         while :; do nc -l -p 5001 -e head -c 67108864 /dev/zero; done &\n",
    );
    let _ = writeln!(script, "cat > /tmp/qemu.sh <<'END'\n{qemu}\nEND");
    let boots = [(OURS, ours.as_str()), (QEMU, "sh /tmp/qemu.sh")];
    for (name, command) in std::iter::repeat_n(boots, runs).flatten() {
        let _ = writeln!(
            script,
            "echo 'bench {name}'; stopwatch 'init: reached' 256 {command}"
        );
    }
    script
}

/// Milliseconds of the host's processor, and on the clock, of each load with
/// each; the middle ones of all runs.
type Costs = BTreeMap<(String, String), (f64, f64)>;

fn costs(output: &str) -> Result<Costs> {
    let mut all: BTreeMap<(String, String), Vec<(u64, u64)>> = BTreeMap::new();
    let mut who = "";
    for line in output.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("bench ") {
            who = name;
        }
        let Some((load, times)) = line
            .strip_prefix("load ")
            .and_then(|rest| rest.rsplit_once(": "))
        else {
            continue;
        };
        let mut numbers = times.split(' ').filter_map(|word| word.parse().ok());
        let mut next = || numbers.next().context("stopwatch said too little");
        let key = (who.to_owned(), load.to_owned());
        all.entry(key).or_default().push((next()?, next()?));
    }
    let middle = |numbers: &mut dyn Iterator<Item = u64>| {
        let mut numbers: Vec<_> = numbers.collect();
        numbers.sort_unstable();
        numbers.get(numbers.len() / 2).copied().unwrap_or(0) as f64
    };
    Ok(all
        .into_iter()
        .map(|(key, runs)| {
            let processor = middle(&mut runs.iter().map(|run| run.0));
            (key, (processor, middle(&mut runs.iter().map(|run| run.1))))
        })
        .collect())
}

fn table(runs: usize, costs: &Costs) -> Result<String> {
    let mut table = format!(
        "host CPU in microseconds of the emulated machine, medians of {runs}\n\n\
         | load | per | {OURS} | {QEMU} | ratio | at most | met | ratio on the clock |\n\
         |---|---|---|---|---|---|---|---|\n"
    );
    for ((load, what, unit), count) in LOADS.into_iter().zip(COUNTS) {
        let of = |who: &str| {
            let cost = costs.get(&(who.to_owned(), load.to_owned()));
            cost.with_context(|| format!("nothing of {load} with {who}"))
        };
        let (ours, qemu) = (of(OURS)?, of(QEMU)?);
        let ratio = ours.0 / qemu.0;
        let met = if ratio <= 1.0 { "yes" } else { "no" };
        let each = |milliseconds: f64| milliseconds * 1000.0 / count;
        writeln!(
            table,
            "| {what} | {unit} | {:.1} | {:.1} | {ratio:.2} | 1 | {met} | {:.2} |",
            each(ours.0),
            each(qemu.0),
            ours.1 / qemu.1,
        )?;
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_read_and_what_is_missing_is_an_error() {
        let mut output = String::new();
        for (who, processor) in [(OURS, [30, 10, 20]), (QEMU, [50, 40, 60])] {
            for processor in processor {
                let _ = writeln!(output, "bench {who}\ninit: reached\n1 ms, 2 KiB");
                for (load, ..) in LOADS {
                    let _ = writeln!(output, "load {load}: {processor} ms in 100 ms\r");
                }
            }
        }
        let table = super::table(3, &costs(&output).unwrap()).unwrap();
        let row = "| raw, reads of 4 KiB | request | 2.0 | 5.0 | 0.40 | 1 | yes | 1.00 |";
        assert!(table.contains(row), "{table}");
        assert!(super::table(3, &costs("").unwrap()).is_err());
    }
}
