//! The `bootwright` command as a library: arguments in, exit status out.
//!
//! [`args`] says what can be asked; each of the commands wires the library
//! crates together. Results go to standard output, everything else to
//! standard error.

pub mod args;
mod commands;
mod disk;
mod image;
mod interrupt;
mod launch;
mod progress;
mod report;
mod run;
mod vms;

/// What the fuzz targets in testdata/fuzz try.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    pub use crate::vms::process::control_api;
}

use std::process::ExitCode;

use bootwright_vmm::{resident, sandbox};
use clap::{CommandFactory, Parser};

use args::{Cli, Command};

/// The status of a command that a signal ended, as shells count.
const INTERRUPTED: u8 = 130;

/// The whole command line, for completions and man pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command that the process's arguments ask for.
pub fn main() -> ExitCode {
    let cli = match machine().map_or_else(Cli::try_parse, Ok) {
        Ok(cli) => cli,
        Err(error) => return refused(&error),
    };
    // Before this process has threads or descriptors of its own.
    if matches!(cli.command, Command::Machine { .. } | Command::Launch(_)) {
        resident::share_heap();
        resident::small_pages(true);
    }
    if matches!(cli.command, Command::Machine { .. })
        && let Err(error) = sandbox::process(&[])
    {
        eprintln!("bootwright: {error}");
        return ExitCode::from(vms::exit::NOT_STARTED);
    }
    let installed = match cli.command {
        // It has the guest end first, however often it is asked.
        Command::Launch(_) => interrupt::Interrupt::patient(),
        _ => interrupt::Interrupt::install(),
    };
    let interrupt = match installed {
        Ok(interrupt) => interrupt,
        Err(error) => {
            eprintln!("bootwright: cannot catch signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    let failed = match cli.command {
        // 1 says that the disk differs, as for cmp(1).
        Command::Verify(_) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    };
    let result = match cli.command {
        Command::Run(args) => return commands::run::run(&args, &interrupt),
        Command::Ps(args) => commands::vms::ps(&args),
        Command::Ssh(args) => commands::ssh::ssh(&args),
        Command::Cp(args) => commands::ssh::cp(&args),
        Command::Console(args) => commands::console::console(&args, &interrupt),
        Command::Logs(args) => commands::console::logs(&args, &interrupt),
        Command::Stop(args) => commands::vms::stop(&args),
        Command::Restart(args) => commands::vms::restart(&args),
        Command::Pause(args) => commands::vms::pause(&args),
        Command::Resume(args) => commands::vms::resume(&args),
        Command::Resize(args) => commands::vms::resize(&args),
        Command::Rm(args) => commands::vms::rm(&args),
        Command::SshProxy { name, port } => commands::ssh::proxy(&name, port),
        Command::ConsoleProxy { name } => commands::console::proxy(&name),
        Command::Machine { name } => return vms::process::main(&name),
        Command::Launch(args) => return launch::run(&args, &interrupt),
        Command::Probe(args) => launch::probe(&args),
        Command::Node(args) => commands::node::node(&args, &interrupt),
        Command::BecomePasst { command } => return vms::process::passt::become_passt(&command),
        Command::Build(args) => commands::build::run(&args, &interrupt),
        Command::Inspect(args) => commands::inspect::run(&args, &interrupt),
        Command::Push(args) => commands::push::run(&args, &interrupt),
        Command::Verify(args) => match commands::verify::run(&args, &interrupt) {
            Ok(false) => return ExitCode::FAILURE,
            other => other.map(drop),
        },
        Command::Serve(args) => commands::serve::run(&args, &interrupt),
        Command::Convert(args) => commands::convert::run(&args),
        Command::Cache(args) => commands::cache::run(&args.command, &interrupt),
        Command::Completion { shell } => commands::completion(shell),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if interrupt.raised() => {
            eprintln!("bootwright: interrupted");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) if commands::is_broken_pipe(&error) => failed,
        Err(error) => {
            eprintln!("bootwright: {}", explained(&error));
            failed
        }
    }
}

/// The command that starts a machine's process, for whose start it is too long to
/// make the descriptions of all others first.
fn machine() -> Option<Cli> {
    let mut words = std::env::args_os().skip(1);
    let (command, name) = (words.next()?, words.next()?.into_string().ok()?);
    let is_it = command == "machine" && !name.starts_with('-') && words.next().is_none();
    is_it.then_some(Cli {
        command: Command::Machine { name },
    })
}

/// Says what is wrong with the arguments, or what was asked about them.
fn refused(error: &clap::Error) -> ExitCode {
    // A closed output is no reason to say more.
    let _ = error.print();
    let command = std::env::args_os().nth(1);
    let run = command.is_some_and(|arg| arg == "run" || arg == "launch");
    match u8::try_from(error.exit_code()) {
        // `run` and `launch` have exit statuses of their own.
        Ok(status @ 1..) if run => ExitCode::from(status.max(vms::exit::NOT_STARTED)),
        Ok(status) => ExitCode::from(status),
        Err(_) => ExitCode::FAILURE,
    }
}

/// An error and its causes in one line. Many errors end with the words of
/// their cause; those are not said again.
fn explained(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_everything_once() {
        let cause = || anyhow::anyhow!("no such file");
        let said = cause().context("cannot open x: no such file");
        let error = said.context("--file");
        assert_eq!(explained(&error), "--file: cannot open x: no such file");
        let error = cause().context("cannot open x");
        assert_eq!(explained(&error), "cannot open x: no such file");
    }
}
