//! What requests to disks and bytes of the network cost the host, without a
//! guest: benches of the machine monitor's, beside QEMU where it has the like.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::Value;
use xshell::{Shell, cmd};

use crate::{paths, proc};

/// What the tables do not say of themselves.
const EXPLANATION: &str = "\
Written by `cargo xtask bench devices --write`. A driver in the same process takes the guest's
place; its own time does not count. What counts is the processor time of all other threads, and
for disks that of the kernel on their behalf; the files were in the page cache.
**qemu-img bench** reads the same file with io_uring and as many requests under way, into one
buffer as ours, from QEMU's own block layer: without a virtio device, which QEMU's machine would
need as well.
";

/// Measures, and returns the part of the book's page.
pub(super) fn run() -> Result<String> {
    let sh = Shell::new()?;
    sh.change_dir(paths::workspace());
    let cargo = "--release --locked --package bootwright-vmm --features testing";
    let options = cargo.split(' ').collect::<Vec<_>>();
    let disks = proc::read(cmd!(
        sh,
        "cargo bench --quiet --locked --package bootwright-vmm --features testing --bench block"
    ))?;
    let net = proc::read(cmd!(
        sh,
        "cargo run --quiet {options...} --example net_cost"
    ))?;
    Ok(format!(
        "## Devices\n\n{EXPLANATION}\n{}\n\n{}",
        disks.trim(),
        table(&net)?
    ))
}

/// A table of the lines of JSON that `net_cost` prints.
fn table(lines: &str) -> Result<String> {
    let mut table = String::from(
        "host CPU per byte through passt, in nanoseconds\n\n\
         | direction | datagrams of | device | passt | MB/s |\n|---|---|---|---|---|\n",
    );
    for line in lines.lines() {
        let cost: Value = serde_json::from_str(line).context("net_cost")?;
        let number = |name: &str| cost[name].as_f64().context("net_cost says too little");
        writeln!(
            table,
            "| {} | {} bytes | {:.2} | {:.2} | {:.0} |",
            cost["direction"].as_str().unwrap_or_default(),
            number("datagram")?,
            number("device_ns_per_byte")?,
            number("passt_ns_per_byte")?,
            number("megabytes_per_second")?,
        )?;
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_row_and_what_is_missing_is_an_error() {
        let line = r#"{"direction": "to host", "datagram": 1400, "megabytes_per_second": 12.3,
            "device_ns_per_byte": 0.456, "passt_ns_per_byte": 1.5}"#
            .replace('\n', "");
        let table = table(&line).unwrap();
        assert!(
            table.ends_with("| to host | 1400 bytes | 0.46 | 1.50 | 12 |\n"),
            "{table}"
        );
        assert!(super::table("{}").is_err());
    }
}
