//! `bootwright launch`: the machine of a pod.
//!
//! In: the machine as the controller describes it, and the folders and devices
//! that it names. It is prepared as `run` prepares one, in folders of the same
//! form, and runs in the same kind of process; this process waits for it, and
//! for the pod's end. Out: the console, and an exit status and a message that
//! say why it ended.

mod cloud_init;
mod files;
mod metrics;
mod pause;
mod prepare;
mod size;
mod supervise;
mod volumes;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use bootwright_machine::{Machine, NAME, PAUSED_FILE};

use crate::args::{LaunchArgs, ProbeArgs};
use crate::commands;
use crate::interrupt::Interrupt;
use crate::progress::Messages;
use crate::run::launch;
use crate::vms::exit::{End, NOT_STARTED};
use crate::vms::place::Places;
use crate::vms::probes;

/// Largest description of a machine, in bytes.
const MAX_MACHINE: u64 = 2 << 20;

/// The longest message of a container's that Kubernetes keeps, in bytes.
const MAX_MESSAGE: usize = 4096;

/// Runs the command.
pub(crate) fn run(args: &LaunchArgs, interrupt: &Interrupt) -> ExitCode {
    let messages = Messages::new(false);
    let (status, message) = match boot(args, &messages, interrupt) {
        Ok((end, message)) => (end.status(), message.or_else(|| end.message())),
        Err(error) => (NOT_STARTED, Some(crate::explained(&error))),
    };
    if let Some(message) = message {
        let message = crate::progress::printable(&message);
        eprintln!("bootwright: {message}");
        leave_word(&args.termination_log, &message);
    }
    ExitCode::from(status)
}

/// Starts the machine and waits for its end.
fn boot(
    args: &LaunchArgs,
    messages: &Messages,
    interrupt: &Interrupt,
) -> anyhow::Result<(End, Option<String>)> {
    let json = commands::read_limited(&args.machine, MAX_MACHINE)
        .with_context(|| format!("there is no machine in {}", args.machine.display()))?;
    let machine = Machine::from_json(&json)
        .with_context(|| format!("the machine in {}", args.machine.display()))?;
    let place = Places::from_env()?.place(NAME);
    let lock = prepare::make(&place)?;
    let prepared = prepare::spec(&machine, args, &place, messages, interrupt)
        .and_then(|spec| spec.save(&place.state));
    if interrupt.raised() {
        return Ok((End::Killed, None));
    }
    prepared?;
    // This process only waits from now on.
    bootwright_vmm::resident::trim_heap();
    // Before passt takes all the ports that nobody has.
    let metrics = machine
        .metrics_port
        .map(|port| (port, metrics::listen(port)));
    match metrics {
        Some((_, Ok(listener))) => metrics::serve(listener, place.clone()),
        Some((port, Err(error))) => {
            messages.warn(&format!("there are no metrics at port {port}: {error}"));
            Ok(())
        }
        None => Ok(()),
    }
    .context("cannot start a thread")?;
    let launched = launch::launch(NAME, &place, lock, messages)?;
    pause::follow(args.machine.with_file_name(PAUSED_FILE), place.clone())
        .context("cannot start a thread")?;
    size::follow(args.machine.clone(), &machine, place.clone()).context("cannot start a thread")?;
    supervise::supervise(&machine, launched, &place, interrupt, messages)
}

/// Leaves a message for the pod's status, where the kubelet looks for one.
fn leave_word(path: &Path, message: &str) {
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    if path.is_file() {
        // It is in the log, too.
        let _ = std::fs::write(path, message.get(..end).unwrap_or_default());
    }
}

/// `bootwright probe`: whether the guest has said that it has booted, or a
/// command of a probe succeeds in it.
pub(crate) fn probe(args: &ProbeArgs) -> anyhow::Result<()> {
    let place = Places::from_env()?.place(&args.name);
    if let Some(kind) = args.exec {
        let output = probes::ask::ask(&place, kind)?;
        if !output.is_empty() {
            writeln!(std::io::stdout(), "{output}")?;
        }
        return Ok(());
    }
    let answer = crate::vms::client::request(&place, "GET", "/v1/vm", None)?;
    let state: serde_json::Value = serde_json::from_str(&answer)?;
    match state.pointer("/stages_ms/ready") {
        Some(_) => Ok(()),
        None => anyhow::bail!("the guest has not said that it has booted"),
    }
}
