//! What a pod's launcher costs until its guest runs: processor time.
//!
//! On the host, under its own KVM: the machine of a manifest whose guest waits
//! before its first instruction, with the files of the demo's image in a folder,
//! as a pod has them in an image volume. What starts the container before, and
//! passt beside it, is not the launcher's.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};
use xshell::{Shell, cmd};

use super::measure::processor_ticks;
use crate::pod::Pod;
use crate::{image, proc};

/// How often it is run.
const RUNS: usize = 10;

/// Milliseconds in the kernel's unit of processor time.
const TICK: f64 = 10.0;

/// The target.
const MILLISECONDS: f64 = 1000.0;

/// How long a launcher may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What it costs.
#[derive(Debug, Serialize)]
pub(super) struct Launch {
    /// Processor time of the launcher and the machine's process.
    processor_milliseconds: f64,
    /// Files and folders of the image.
    entries: u64,
}

/// Measures; `None` where there is no /dev/kvm, or this is not root, to whom
/// an image's files belong.
pub(super) fn measure(binary: &Path) -> Result<Option<Launch>> {
    let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
    if kvm.is_err() || !rustix::process::geteuid().is_root() {
        eprintln!("a pod's launcher is not measured: that needs root and /dev/kvm");
        return Ok(None);
    }
    let dir = tempfile::tempdir()?;
    let sh = Shell::new()?;
    sh.change_dir(dir.path());
    let reference = image::debian()?.reference;
    let layout = reference.trim_start_matches("oci:");
    proc::run(cmd!(sh, "umoci unpack --image {layout} bundle"))?;
    let root = dir.path().join("bundle/rootfs");
    let listed = proc::read(cmd!(sh, "find {root} -xdev -printf x"))?;
    let port = free_port()?;
    let file = dir.path().join("machine.json");
    fs::write(&file, machine(&root, port)?.to_string())?;
    // The first run decompresses the kernel.
    let mut ticks = 0;
    for run in 0..=RUNS {
        let of_run = launched(binary, &file, dir.path(), port)?;
        ticks += if run > 0 { of_run } else { 0 };
    }
    Ok(Some(Launch {
        processor_milliseconds: ticks as f64 * TICK / RUNS as f64,
        entries: listed.len() as u64,
    }))
}

/// The machine of `testdata/pods/bootable-container.yaml`, with another root
/// and no network.
fn machine(root: &Path, port: u16) -> Result<Value> {
    let pod = Pod::of("bootable-container")?;
    let mut machine: Value = serde_json::from_str(pod.machine()?)?;
    let folder = machine
        .pointer_mut("/disks/0/source/root/folder")
        .context("the machine has no root")?;
    *folder = json!(root);
    machine["metricsPort"] = json!(port);
    machine.as_object_mut().map(|all| all.remove("interface"));
    Ok(machine)
}

/// Starts a launcher, and ends it when all is ready for the guest; the
/// processor time that it has taken by then.
fn launched(binary: &Path, file: &Path, dir: &Path, port: u16) -> Result<u64> {
    let scratch = tempfile::tempdir_in(dir)?;
    let mut command = Command::new(binary);
    command
        .arg("launch")
        .arg(file)
        .env("HOME", scratch.path())
        .env("TMPDIR", scratch.path())
        .env("XDG_RUNTIME_DIR", scratch.path().join("run"))
        .env("XDG_CACHE_HOME", dir.join("cache"))
        .env_remove("XDG_STATE_HOME")
        .stdout(Stdio::null());
    let mut launcher = proc::Group::spawn(&mut command)?;
    let start = Instant::now();
    while !is_loaded(port) {
        if let Some(status) = launcher.try_wait()? {
            bail!("bootwright launch has ended: {status}");
        }
        if start.elapsed() > PATIENCE {
            bail!("bootwright launch has not loaded the kernel after {PATIENCE:?}");
        }
        proc::sleep(Duration::from_millis(100))?;
    }
    processor_ticks(launcher.id())
}

/// Whether the machine's metrics say that the kernel is in its memory.
fn is_loaded(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: pod\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(1 << 20).read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("stage=\"kernel_loaded\""))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

impl Launch {
    /// A row of a table of targets.
    pub(super) fn row(&self) -> String {
        let (time, entries) = (self.processor_milliseconds, self.entries);
        let met = if time <= MILLISECONDS { "yes" } else { "no" };
        format!(
            "| a pod's launcher, {entries} entries, processor time | {time:.0} ms | \
             {MILLISECONDS} ms | {met} |\n"
        )
    }
}
