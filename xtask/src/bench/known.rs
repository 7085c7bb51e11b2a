//! What `bootwright run` of an image whose layers are in the store costs until
//! the guest runs: processor time, and what is written to disk.
//!
//! On the host, under its own KVM. The guest waits before its first instruction,
//! and the machine is ended there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use wait4::Wait4 as _;

use crate::{image, proc};

/// How often it is run; the run in the middle counts. Memory that this host's own
/// host has yet to find takes several times as long to clear.
const RUNS: usize = 21;

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
    let log = dir.path().join("log");
    let run = |name: &str| -> Result<Duration> {
        let mut run = Command::new(binary);
        run.args(["run", &image.reference, "--accel", "kvm", "--quiet"])
            .args(["--network", "none", "--paused", "--timeout", "0s"])
            .args(["--cpus", "1", "--name", name, "--store"])
            .arg(dir.path().join("store"))
            .env("XDG_STATE_HOME", dir.path().join("state"))
            .env("XDG_RUNTIME_DIR", dir.path())
            .env("XDG_CACHE_HOME", dir.path().join("cache"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?);
        proc::check_interrupt()?;
        let ended = run.spawn()?.wait4()?;
        // Its time was up.
        match ended.status.code() {
            Some(36) => Ok(ended.rusage.utime + ended.rusage.stime),
            _ => bail!("bootwright run: {}: {}", ended.status, proc::tail(&log, 20)),
        }
    };
    // Takes the layers into the store, and decompresses the kernel.
    run("first")?;
    let mut times = (0..RUNS)
        .map(|n| run(&format!("run{n}")))
        .collect::<Result<Vec<_>>>()?;
    times.sort_unstable();
    let middle = times.get(RUNS / 2).copied().unwrap_or_default();
    let machine = dir.path().join("state/bootwright/vms/run0");
    Ok(Some(Known {
        processor_milliseconds: middle.as_secs_f64() * 1e3,
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
