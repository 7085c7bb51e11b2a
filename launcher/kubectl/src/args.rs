//! The command line: what can be asked, as clap sees it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

pub use crate::target::{Kind, Ports, Target, UserTarget};

/// Work with Bootwright's virtual machines in a Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-bootwright",
    bin_name = "kubectl bootwright",
    version,
    max_term_width = 100,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// The cluster.
    #[command(flatten)]
    pub connection: ConnectionArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Which cluster, and as whom: kubectl's own options.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ConnectionArgs {
    /// Read FILE to find the cluster
    #[arg(long, value_name = "FILE", global = true, value_hint = ValueHint::FilePath)]
    pub kubeconfig: Option<PathBuf>,
    /// Use this context of it
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,
    /// Use this cluster of it
    #[arg(long, value_name = "NAME", global = true)]
    pub cluster: Option<String>,
    /// Use this user of it
    #[arg(long, value_name = "NAME", global = true)]
    pub user: Option<String>,
    /// In this namespace
    #[arg(long, short, value_name = "NAMESPACE", global = true)]
    pub namespace: Option<String>,
    /// Act as this user
    #[arg(long = "as", value_name = "USER", global = true)]
    pub as_user: Option<String>,
    /// Act as a member of this group; may be given several times
    #[arg(
        long = "as-group",
        value_name = "GROUP",
        global = true,
        requires = "as_user"
    )]
    pub as_groups: Vec<String>,
    /// How long the API server may take to answer (s, m); 0 is forever
    #[arg(long, value_name = "DURATION", global = true, default_value = "30s", value_parser = duration)]
    pub request_timeout: Option<Duration>,
}

impl ConnectionArgs {
    /// The same as words of a command line.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let file = self.kubeconfig.as_ref().and_then(|path| path.to_str());
        for (name, value) in [
            ("kubeconfig", file),
            ("context", self.context.as_deref()),
            ("cluster", self.cluster.as_deref()),
            ("user", self.user.as_deref()),
            ("namespace", self.namespace.as_deref()),
            ("as", self.as_user.as_deref()),
        ] {
            words.extend(value.map(|value| format!("--{name}={value}")));
        }
        let groups = self.as_groups.iter();
        words.extend(groups.map(|group| format!("--as-group={group}")));
        let patience = self.request_timeout.map_or(0, |time| time.as_millis());
        words.push(format!("--request-timeout={patience}ms"));
        words
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start machines
    #[command(after_help = "\
A machine with run strategy Halted gets the run strategy Always. One that waits after failures is
started at once. One with run strategy Once is not started again.")]
    Start(RequestArgs),
    /// Stop machines
    #[command(after_help = "\
A machine with run strategy Always gets the run strategy Halted. The guest's power button is
pressed, and it has terminationGracePeriodSeconds to shut down.")]
    Stop(RequestArgs),
    /// Stop machines that run, and start them again
    Restart(RequestArgs),
    /// Have guests stand still
    Pause(RequestArgs),
    /// Have guests go on that stand still
    Resume(RequestArgs),
    /// Change machines' processors and memory, also while they run
    #[command(after_help = "\
Examples:
  kubectl bootwright resize web --cpus 4
  kubectl bootwright resize web --memory 6Gi

A machine that runs gets it without a restart up to domain.cpu.maxSockets and
domain.memory.maxGuest; more it has from its next start on.")]
    Resize(ResizeArgs),
    /// Connect to a machine's console
    #[command(after_help = "Ctrl-] leaves it.")]
    Console(ConsoleArgs),
    /// Open a shell or run a command in a machine
    Ssh(SshArgs),
    /// Copy files to or from a machine
    Scp(ScpArgs),
    /// Have local ports lead to a machine's
    PortForward(PortForwardArgs),
    /// Change the image of a machine or a pool, or go back
    Image(ImageArgs),
    /// Show what machines and pools are doing
    Status(StatusArgs),
    /// Print a completion script for a shell
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Connect standard input and output to a machine's ssh server; `ssh` starts this
    #[command(hide = true)]
    SshProxy {
        /// The machine.
        target: Target,
        /// Another TCP port of the guest's.
        #[arg(long)]
        port: Option<u16>,
    },
    /// Say what may follow on the command line; kubectl_complete-bootwright starts this
    #[command(hide = true, name = "__complete")]
    Complete {
        /// What is there; the last word is being typed.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// Requests to machines.
#[derive(Debug, Args)]
pub struct RequestArgs {
    /// The machines
    #[arg(value_name = "[TYPE/]NAME", required = true)]
    pub targets: Vec<Target>,
    /// Have the API server check the request, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArgs {
    /// Print the objects as JSON, or their names only
    #[arg(long, short, value_name = "FORMAT")]
    pub output: Option<Output>,
}

/// A form of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// JSON
    Json,
    /// Types and names
    Name,
}

/// `resize`.
#[derive(Debug, Args)]
pub struct ResizeArgs {
    /// The machine
    #[arg(value_name = "[TYPE/]NAME")]
    pub target: Target,
    /// Number of processors, in whole sockets
    #[arg(long, value_name = "N", required_unless_present = "memory", value_parser = clap::value_parser!(u32).range(1..=254))]
    pub cpus: Option<u32>,
    /// Memory, as an amount such as 6Gi
    #[arg(long, short, value_name = "AMOUNT")]
    pub memory: Option<String>,
    /// Have the API server check the change, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// `console`.
#[derive(Debug, Args)]
pub struct ConsoleArgs {
    /// The machine
    #[arg(value_name = "[TYPE/]NAME")]
    pub target: Target,
}

/// How OpenSSH's programs log in.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Log in with this key
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub identity_file: Option<PathBuf>,
    /// Log in as this user; without it as OpenSSH does, by its configuration or as you
    #[arg(long, short = 'l', value_name = "USER")]
    pub username: Option<String>,
    /// The guest's port, if it is not 22
    #[arg(long, short, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Keep the keys of guests in FILE
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub known_hosts: Option<PathBuf>,
    /// Pass on to OpenSSH; may be given several times
    #[arg(
        long = "local-ssh-opts",
        short = 't',
        value_name = "OPTION",
        allow_hyphen_values = true
    )]
    pub options: Vec<String>,
}

/// `ssh`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kubectl bootwright ssh root@web
  kubectl bootwright ssh root@web -i ~/.ssh/id_ed25519 -- systemctl status --no-pager
  kubectl bootwright ssh root@web -t=-A -t='-o ServerAliveInterval=10'

OpenSSH runs here and is connected through the machine's pod: over the guest's socket device, or
port 22 of its network. Exit status: that of ssh.")]
pub struct SshArgs {
    /// The machine, and the user
    #[arg(value_name = "[USER@][TYPE/]NAME")]
    pub target: UserTarget,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub login: LoginArgs,
    /// Command to run in the guest, as virtctl takes it
    #[arg(long, short, value_name = "COMMAND", conflicts_with = "words")]
    pub command: Option<String>,
    /// Command to run in the guest, and its arguments
    #[arg(last = true)]
    pub words: Vec<String>,
}

/// `scp`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kubectl bootwright scp root@web:/var/log/syslog .
  kubectl bootwright scp --recursive site root@web:/srv/

Exit status: that of scp.")]
pub struct ScpArgs {
    /// Copy folders with all that is in them
    #[arg(long, short)]
    pub recursive: bool,
    /// Keep times and modes
    #[arg(long)]
    pub preserve: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub login: LoginArgs,
    /// From where.
    #[arg(
        required = true,
        help = "From where: a path, or [USER@][TYPE/]NAME:PATH in a machine"
    )]
    pub from: Vec<String>,
    /// To where.
    #[arg(help = "To where: a path, or [USER@][TYPE/]NAME:PATH in a machine")]
    pub to: String,
}

/// `port-forward`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kubectl bootwright port-forward web 8080:80 2222:22
  kubectl bootwright port-forward web :80 --address 0.0.0.0

It goes on until it is interrupted, also when the machine is restarted meanwhile.")]
pub struct PortForwardArgs {
    /// The machine
    #[arg(value_name = "[TYPE/]NAME")]
    pub target: Target,
    /// The local port and the guest's; one that is free without the first
    #[arg(value_name = "[LOCAL:]PORT", required = true)]
    pub ports: Vec<Ports>,
    /// Listen at this address; may be given several times
    #[arg(
        long,
        value_name = "ADDRESS",
        value_delimiter = ',',
        default_value = "127.0.0.1"
    )]
    pub address: Vec<IpAddr>,
    /// Connect standard input and output to the port, of which there is one
    #[arg(long)]
    pub stdio: bool,
}

/// `image`.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub command: ImageCommand,
}

/// The commands of `image`.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Change the image of a machine or a pool
    #[command(after_help = "\
Examples:
  kubectl bootwright image set pool/web registry.example.com/web@sha256:…
  kubectl bootwright image set db root=registry.example.com/db:16.2

A pool replaces its machines a few at a time. A machine has the new image from its next start on.")]
    Set(ImageSetArgs),
    /// List the images that a pool has had
    History(HistoryArgs),
    /// Have a pool go back to the images and all else of an earlier revision
    Undo(UndoArgs),
}

/// `image set`.
#[derive(Debug, Args)]
pub struct ImageSetArgs {
    /// The machine, or the pool
    #[arg(value_name = "[TYPE/]NAME")]
    pub target: Target,
    /// The image, and of which volume if there are several
    #[arg(value_name = "[VOLUME=]IMAGE")]
    pub image: String,
    /// Have the API server check the change, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// `image history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The pool
    #[arg(value_name = "[pool/]NAME")]
    pub target: Target,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// `image undo`.
#[derive(Debug, Args)]
pub struct UndoArgs {
    /// The pool
    #[arg(value_name = "[pool/]NAME")]
    pub target: Target,
    /// Go back to this revision; the one before the last change without it
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..))]
    pub to_revision: Option<i64>,
    /// Have the API server check the change, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// `status`.
#[derive(Debug, Args)]
#[command(after_help = "\
With --watch, a line follows for each change. For a single pool it ends when all its machines have
the newest template and are available (exit status 0), or when an update has made no progress for
progressDeadlineSeconds (exit status 1).")]
pub struct StatusArgs {
    /// The machines, or one pool; all machines without it
    #[arg(value_name = "[TYPE/]NAME")]
    pub targets: Vec<Target>,
    /// Go on, and show what changes
    #[arg(long, short)]
    pub watch: bool,
    /// Of all namespaces
    #[arg(long, short = 'A', conflicts_with = "targets")]
    pub all_namespaces: bool,
    /// Only machines with these labels
    #[arg(long, short = 'l', value_name = "SELECTOR", conflicts_with = "targets")]
    pub selector: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// A time with its unit; seconds without one.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("{text:?} is no time such as 10s or 2m")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no time such as 10s or 2m"))?;
    Ok(Duration::from_millis(number.saturating_mul(millis)))
}
