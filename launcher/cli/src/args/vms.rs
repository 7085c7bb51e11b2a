//! The commands for local machines.

use std::time::Duration;

use clap::Args;

use super::ByteSize;

/// `bootwright ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Show machines that do not run, too
    #[arg(long, short)]
    pub all: bool,
    /// Print them as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// A command that takes a machine's name only.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// The machine
    pub name: String,
    /// Print the result as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// `bootwright stop` and `restart`.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// The machine
    pub name: String,
    /// How long the guest may take after the power button was pressed (s, m, h)
    #[arg(long, short, value_name = "DURATION", default_value = "30s", value_parser = super::size::duration)]
    pub time: Duration,
    /// Print the result as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// `bootwright rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// The machines
    #[arg(required = true)]
    pub names: Vec<String>,
    /// End those that run
    #[arg(long, short)]
    pub force: bool,
    /// Print the result as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// `bootwright resize`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  bootwright resize web --cpus 4
  bootwright resize web --memory 6G

The guest brings new processors online by itself where udev is set up for that, as in most
distributions; a guest may refuse to let go of processors and of memory, and takes a moment for
either. `ps` shows how far it has come.")]
pub struct ResizeArgs {
    /// The machine
    pub name: String,
    /// Number of processors, up to run's --max-cpus
    #[arg(long, value_name = "N", required_unless_present = "memory", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub cpus: Option<u8>,
    /// Memory, up to run's --max-memory
    #[arg(long, short, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Print the result as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// `bootwright logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The machine
    pub name: String,
    /// Go on as more comes, until the machine ends
    #[arg(long, short)]
    pub follow: bool,
    /// Show the log of the machine's process instead of the console
    #[arg(long)]
    pub machine: bool,
}

/// `bootwright ssh`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bootwright ssh web
  bootwright ssh web -- systemctl status --no-pager

Exit status: that of ssh.")]
pub struct SshArgs {
    /// The machine, and the user if it is not root
    #[arg(value_name = "[USER@]NAME")]
    pub name: String,
    /// Command to run in the guest, and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// `bootwright cp`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bootwright cp web:/var/log/syslog .
  bootwright cp --recursive site web:/srv/

Exit status: that of scp.")]
pub struct CpArgs {
    /// Copy folders with all that is in them
    #[arg(long, short)]
    pub recursive: bool,
    /// From where: a path, or NAME:PATH in a machine
    #[arg(required = true)]
    pub from: Vec<String>,
    /// To where: a path, or NAME:PATH in a machine
    pub to: String,
}
