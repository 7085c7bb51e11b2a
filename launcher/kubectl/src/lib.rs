//! `kubectl bootwright` as a library: arguments in, exit status out.
//!
//! kubectl runs the program `kubectl-bootwright` that it finds in `PATH`.
//! [`args`] says what can be asked. Every command is a request to the API
//! server as the user who asks, so what it may do is for the cluster's roles
//! to say.

pub mod args;
mod cluster;
mod complete;
mod console;
mod detail;
mod explain;
mod forward;
mod image;
mod output;
mod pod;
mod port;
mod relay;
mod requests;
mod resize;
mod ssh;
mod status;
mod target;
// The same as of `bootwright console`.
#[path = "../../cli/src/run/terminal.rs"]
mod terminal;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::{Cli, Command, ImageCommand};
use cluster::Cluster;

/// The whole command line, for completions and man pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command that the process's arguments ask for.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed output is no reason to say more.
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    // One thread: the work is waiting.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(status) => status,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", explain::error(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Complete { words } => {
            complete::complete(&words).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), "kubectl-bootwright", &mut script);
            output::print(&script)?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let cluster = Cluster::connect(&cli.connection).await?;
    match cli.command {
        Command::Start(args) => requests::start(&cluster, &args).await?,
        Command::Stop(args) => requests::stop(&cluster, &args).await?,
        Command::Restart(args) => requests::restart(&cluster, &args).await?,
        Command::Pause(args) => requests::pause(&cluster, &args, true).await?,
        Command::Resume(args) => requests::pause(&cluster, &args, false).await?,
        Command::Console(args) => return console::console(&cluster, &args).await,
        Command::Ssh(args) => ssh::ssh(&cluster, &cli.connection, &args).await?,
        Command::Scp(args) => ssh::scp(&cluster, &cli.connection, &args).await?,
        Command::SshProxy { target, port } => return ssh::proxy(&cluster, &target, port).await,
        Command::PortForward(args) => return forward::forward(&cluster, &args).await,
        Command::Resize(args) => resize::resize(&cluster, &args).await?,
        Command::Image(args) => match args.command {
            ImageCommand::Set(args) => image::set(&cluster, &args).await?,
            ImageCommand::History(args) => image::history(&cluster, &args).await?,
            ImageCommand::Undo(args) => image::undo(&cluster, &args).await?,
        },
        Command::Status(args) => return status::status(&cluster, &args).await,
        Command::Complete { .. } | Command::Completion { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}
