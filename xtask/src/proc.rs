//! Running other programs so that none of them outlives xtask.
//!
//! Every child gets a process group of its own and no standard input. A
//! signal that ends xtask is caught, passed on to the whole group of each
//! running child, and then reported as an error, so that guards clean up.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// How long a child may take to end after a polite signal.
const PATIENCE: Duration = Duration::from_secs(5);

/// Turns SIGINT, SIGTERM and SIGHUP into errors of whatever is going on. A
/// second signal ends xtask at once.
pub(crate) fn catch_signals() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Default::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(flag))?;
        signal_hook::flag::register(signal, Arc::clone(flag))?;
    }
    Ok(())
}

/// Fails if a signal has asked xtask to stop.
pub(crate) fn check_interrupt() -> Result<()> {
    match INTERRUPTED.get() {
        Some(flag) if flag.load(Ordering::Relaxed) => bail!("interrupted"),
        _ => Ok(()),
    }
}

/// Sleeps, but not past an interrupt.
pub(crate) fn sleep(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    loop {
        check_interrupt()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

/// A child whose process group ends with it: dropped, it is ended.
#[derive(Debug)]
pub(crate) struct Group(Child);

impl Group {
    /// Starts `command` in a process group of its own.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        check_interrupt()?;
        forget_package(command);
        let child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        Ok(Self(child))
    }

    /// The child's process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// The child's status, if it has ended.
    pub(crate) fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.0.try_wait()?)
    }

    /// Waits for the child; an interrupt ends the group.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            check_interrupt()?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Asks the group to end, then insists.
    pub(crate) fn end(&mut self) {
        let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) else {
            return;
        };
        for signal in [Signal::TERM, Signal::KILL] {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            let _ = kill_process_group(pid, signal);
            let start = Instant::now();
            while start.elapsed() < PATIENCE && matches!(self.0.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

/// The command as one would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|w| w.to_string_lossy()).collect();
    words.join(" ")
}

/// Runs a command whose output goes to xtask's own, after saying so.
///
/// # Errors
/// If it cannot be started, fails or is interrupted.
pub(crate) fn run(command: impl Into<Command>) -> Result<()> {
    let mut command = command.into();
    eprintln!("$ {}", shown(&command));
    let status = Group::spawn(&mut command)?.wait()?;
    succeeded(&command, status)
}

/// Like [`run`] for at most `limit`, after which the command is ended.
///
/// # Errors
/// If it cannot be started, fails, takes longer or is interrupted.
pub(crate) fn run_within(command: impl Into<Command>, limit: Duration) -> Result<()> {
    let mut command = command.into();
    eprintln!("$ {}", shown(&command));
    let mut group = Group::spawn(&mut command)?;
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = group.try_wait()? {
            return succeeded(&command, status);
        }
        if Instant::now() >= end {
            bail!("{} has not ended in {limit:?}", shown(&command));
        }
        sleep(Duration::from_millis(50))?;
    }
}

/// Runs a command whose output is appended to `log`; its end is shown if the
/// command fails.
pub(crate) fn run_logged(command: impl Into<Command>, log: &Path) -> Result<()> {
    let mut command = command.into();
    let file = File::options().create(true).append(true).open(log)?;
    command.stdout(file.try_clone()?).stderr(file);
    let status = Group::spawn(&mut command)?.wait()?;
    succeeded(&command, status).with_context(|| tail(log, 30))
}

/// Runs a command and returns its output, whatever its exit status.
pub(crate) fn output(command: impl Into<Command>) -> Result<Output> {
    let mut command = command.into();
    let mut group = Group::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let drain = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.map(|mut p| p.read_to_end(&mut bytes));
            bytes
        })
    };
    let stdout = drain(group.0.stdout.take().map(|p| Box::new(p) as _));
    let stderr = drain(group.0.stderr.take().map(|p| Box::new(p) as _));
    let status = group.wait()?;
    let joined = |_| anyhow!("a reader thread died");
    Ok(Output {
        status,
        stdout: stdout.join().map_err(joined)?,
        stderr: stderr.join().map_err(joined)?,
    })
}

/// Runs a command and returns its standard output, less white space around it.
pub(crate) fn read(command: impl Into<Command>) -> Result<String> {
    let command = command.into();
    let words = shown(&command);
    let output = output(command)?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{words}` failed ({}): {}", output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Takes away the variables in which Cargo describes the package whose program
/// it runs, this one: build scripts ask for them, so that what is built from
/// here would be built again for who calls Cargo by hand.
fn forget_package(command: &mut Command) {
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| describes_package(&name.to_string_lossy())) {
        command.env_remove(name);
    }
}

fn describes_package(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_"]
        .iter()
        .any(|start| variable.starts_with(start))
}

fn succeeded(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// An error and its causes, one a line.
pub(crate) fn explained(error: &anyhow::Error) -> String {
    let causes: Vec<_> = error.chain().map(ToString::to_string).collect();
    causes.join("\ncaused by: ")
}

/// The last lines of a log, headed by its name.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<_> = text.lines().collect();
    let last = &all[all.len().saturating_sub(lines)..];
    format!("{} ends with:\n{}", log.display(), last.join("\n"))
}

/// `command` as an ordinary user: no uid 0, no groups, no capabilities, and
/// no way to regain them. When xtask itself is an ordinary user, as that user.
pub(crate) fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        let uid = UNPRIVILEGED.to_string();
        command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups"]);
        command.args(["--inh-caps=-all", "--bounding-set=-all"]);
    }
    command.arg("--no-new-privs").arg(program);
    command
}

/// The user and group id that Debian calls nobody.
pub(crate) const UNPRIVILEGED: u32 = 65534;
