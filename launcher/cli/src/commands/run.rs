//! `bootwright run`: an image or a disk becomes a running machine.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use super::ssh::client;
use crate::args::RunArgs;
use crate::interrupt::Interrupt;
use crate::progress::Messages;
use crate::run::launch::{self, Launched, Process};
use crate::run::prepare::Ready;
use crate::run::wait::{Booted, TimeUp, until_booted};
use crate::run::{attach, prepare};
use crate::vms::events::Command;
use crate::vms::exit::{End, NOT_STARTED};
use crate::vms::place::Place;
use crate::vms::spec::{Spec, Ssh};

/// How long a guest may take to turn itself off when its user has left.
const FAREWELL: Duration = Duration::from_secs(60);

/// Runs the command; an error is one of a machine that was not started.
pub(crate) fn run(args: &RunArgs, interrupt: &Interrupt) -> ExitCode {
    let messages = Messages::new(args.quiet);
    match boot(args, &messages, interrupt) {
        Ok(status) => ExitCode::from(status),
        Err(_) if interrupt.raised() => {
            eprintln!("bootwright: interrupted");
            ExitCode::from(crate::INTERRUPTED)
        }
        Err(error) => {
            eprintln!("bootwright: {}", crate::explained(&error));
            let time_up = error.downcast_ref::<TimeUp>().is_some();
            ExitCode::from(if time_up {
                End::TimeUp.status()
            } else {
                NOT_STARTED
            })
        }
    }
}

fn boot(args: &RunArgs, messages: &Messages, interrupt: &Interrupt) -> anyhow::Result<u8> {
    let began = Instant::now();
    let Ready { name, place, lock } = prepare::prepare(args, messages, interrupt)?;
    let planned = began.elapsed();
    let mut launched = launch::launch(&name, &place, lock, messages)?;
    if args.detach {
        let started = began.elapsed();
        let mut booted = detach(args, &place, launched, interrupt)?;
        if let Some(booted) = &mut booted {
            booted.add_stages(&place, planned, started);
        }
        tell(args, &name, &place, booted, messages)?;
        if args.console {
            attach::look(&place.runtime.join("console.sock"), messages, interrupt)?;
        }
        return Ok(0);
    }
    let end = if args.ssh {
        launched.start()?;
        shell(args, &place, launched, interrupt)?
    } else {
        let console = place.runtime.join("console.sock");
        attach::foreground(
            launched,
            &console,
            args.machine.timeout,
            messages,
            interrupt,
        )?
    };
    if let Some(message) = end.message() {
        eprintln!("bootwright: {message}");
    }
    Ok(match interrupt.raised() {
        true => crate::INTERRUPTED,
        false => end.status(),
    })
}

/// Leaves the machine alone, at once or when it has booted. One that does not
/// boot ends with this command.
fn detach(
    args: &RunArgs,
    place: &Place,
    mut launched: Launched,
    interrupt: &Interrupt,
) -> anyhow::Result<Option<Booted>> {
    let since = Instant::now();
    launched.start()?;
    let Launched {
        mut sender,
        receiver,
        ..
    } = launched;
    let booted = match args.wait {
        true => {
            let ssh = way_in(place)?;
            let limit = args.machine.timeout;
            Some(until_booted(
                place, &ssh, since, limit, receiver, interrupt,
            )?)
        }
        false => None,
    };
    sender.send(&Command::Detach)?;
    Ok(booted)
}

fn way_in(place: &Place) -> anyhow::Result<Ssh> {
    Spec::load(&place.state)?
        .ssh
        .context("there is no way into the machine")
}

/// A machine that was left alone, for `--json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    name: &'a str,
    ssh_port: Option<u16>,
    /// When the guest had come how far; null without `--wait`.
    booted: Option<Booted>,
}

fn tell(
    args: &RunArgs,
    name: &str,
    place: &Place,
    booted: Option<Booted>,
    messages: &Messages,
) -> anyhow::Result<()> {
    if args.json {
        let ssh_port = Spec::load(&place.state)?.ssh.map(|ssh| ssh.port);
        return super::print_json(&Report {
            name,
            ssh_port,
            booted,
        });
    }
    if let Some(booted) = booted {
        messages.note(&format!(
            "booted in {:.1} s ({})",
            booted.ready_ms / 1e3,
            booted.stages()
        ));
    }
    println!("{name}");
    Ok(())
}

/// Opens a shell in the guest and ends it when that is left.
fn shell(
    args: &RunArgs,
    place: &Place,
    launched: Launched,
    interrupt: &Interrupt,
) -> anyhow::Result<End> {
    let since = Instant::now();
    let ssh = way_in(place)?;
    let Launched {
        process,
        mut sender,
        receiver,
    } = launched;
    let limit = args.machine.timeout;
    until_booted(place, &ssh, since, limit, receiver, interrupt)?;
    // What its commands ended with is between them and the user.
    client(place, &ssh, "ssh", "-p")
        .arg("root@127.0.0.1")
        .status()
        .context("cannot run ssh (Debian, Ubuntu: openssh-client)")?;
    sender.send(&Command::PowerButton)?;
    let end = farewell(process, sender)?;
    Ok(end)
}

/// Waits for the process to end, and then insists.
fn farewell(mut process: Process, mut sender: crate::vms::events::Sender) -> anyhow::Result<End> {
    let since = Instant::now();
    let mut insisted = false;
    loop {
        if let Some(status) = process.try_wait()? {
            return Ok(match status.code() {
                Some(0) => End::PowerOff,
                Some(32) => End::Reset,
                Some(34) => End::Panic,
                _ => End::Crash(format!("the guest's process {}", process.told(status))),
            });
        }
        if since.elapsed() > FAREWELL && !insisted {
            insisted = true;
            let _ = sender.send(&Command::Kill);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
