//! `bootwright run`: an image or a disk becomes a running machine.

use std::process::ExitCode;

use crate::args::RunArgs;
use crate::interrupt::Interrupt;
use crate::progress::Messages;
use crate::run::{attach, launch, prepare};
use crate::vms::exit::NOT_STARTED;

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
            ExitCode::from(NOT_STARTED)
        }
    }
}

fn boot(args: &RunArgs, messages: &Messages, interrupt: &Interrupt) -> anyhow::Result<u8> {
    let ready = prepare::prepare(args, messages, interrupt)?;
    let launched = launch::launch(&ready.name, &ready.place, ready.lock, messages)?;
    let console = ready.place.runtime.join("console.sock");
    let end = attach::foreground(
        launched,
        &console,
        args.machine.timeout,
        messages,
        interrupt,
    )?;
    if let Some(message) = end.message() {
        eprintln!("bootwright: {message}");
    }
    Ok(match interrupt.raised() {
        true => crate::INTERRUPTED,
        false => end.status(),
    })
}
