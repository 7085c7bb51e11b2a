//! What `bootwright run` of an image whose layers are in the store costs until
//! the guest runs: processor time, and what is written to disk.
//!
//! On the host, under its own KVM. The guest waits before its first instruction,
//! and the machine is ended there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::measure::processor_ticks;
use crate::{image, proc};

/// How often it is run: the kernel counts in hundredths of a second.
const RUNS: usize = 20;

/// Milliseconds in one of these.
const TICK: f64 = 10.0;

/// Targets.
const MILLISECONDS: f64 = 60.0;
const MEBIBYTES: f64 = 10.0;

/// What it costs.
#[derive(Debug, Serialize)]
pub(super) struct Known {
    /// Processor time of the command and the machine's process.
    processor_milliseconds: f64,
    /// What is in the machine's folder afterwards.
    written_bytes: u64,
}

/// Measures; `None` where there is no /dev/kvm.
pub(super) fn measure(binary: &Path) -> Result<Option<Known>> {
    let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
    if kvm.is_err() {
        eprintln!("a known image is not measured: /dev/kvm cannot be opened");
        return Ok(None);
    }
    let image = image::debian()?;
    let dir = tempfile::tempdir()?;
    let run = |name: &str| -> Result<()> {
        let mut run = std::process::Command::new(binary);
        run.args(["run", &image.reference, "--accel", "kvm", "--quiet"])
            .args(["--network", "none", "--paused", "--timeout", "0s"])
            .args(["--cpus", "1", "--name", name, "--store"])
            .arg(dir.path().join("store"))
            .env("XDG_STATE_HOME", dir.path().join("state"))
            .env("XDG_RUNTIME_DIR", dir.path())
            .env("XDG_CACHE_HOME", dir.path().join("cache"));
        let output = proc::output(run)?;
        // Its time was up.
        match output.status.code() {
            Some(36) => Ok(()),
            _ => bail!(
                "bootwright run: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    };
    // Takes the layers into the store, and decompresses the kernel.
    run("first")?;
    let before = processor_ticks(std::process::id())?;
    for n in 0..RUNS {
        run(&format!("run{n}"))?;
    }
    let ticks = processor_ticks(std::process::id())? - before;
    let machine = dir.path().join("state/bootwright/vms/run0");
    Ok(Some(Known {
        processor_milliseconds: ticks as f64 * TICK / RUNS as f64,
        written_bytes: taken(&machine)?,
    }))
}

/// What the files in a folder take of the disk.
fn taken(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        bytes += entry?.metadata()?.blocks() * 512;
    }
    Ok(bytes)
}

impl Known {
    /// Rows of a table of targets.
    pub(super) fn rows(&self) -> String {
        let mebibytes = self.written_bytes as f64 / f64::from(1 << 20);
        let met = |met: bool| if met { "yes" } else { "no" };
        format!(
            "| `run` of a known image, processor time | {:.0} ms | {MILLISECONDS} ms | {} |\n\
             | and written to disk | {mebibytes:.1} MiB | {MEBIBYTES} MiB | {} |\n",
            self.processor_milliseconds,
            met(self.processor_milliseconds <= MILLISECONDS),
            met(mebibytes <= MEBIBYTES),
        )
    }
}
