//! The command line: what can be asked, as clap sees it.

mod build;
mod common;
mod convert;
mod launch;
mod node;
mod push;
mod run;
mod serve;
mod size;
mod verify;
mod vms;

pub use build::{
    BootArgs, BootMode, BuildArgs, Compression, CustomizeArgs, DEFAULT_FREE, PlanArgs,
};
pub use common::{ImageArgs, OutputArgs, RegistryArgs, StoreArgs};
pub use convert::ConvertArgs;
pub use launch::{LaunchArgs, PASST, ProbeArgs};
pub use node::NodeArgs;
pub use push::{ContainerDiskArgs, Form, LayerCompression, PushArgs, SourceRegistryArgs};
pub use run::{Accel, GuestArgs, KernelArgs, MachineArgs, NetworkArgs, RootArgs, RunArgs};
pub use serve::ServeArgs;
pub use size::ByteSize;
pub use verify::VerifyArgs;
pub use vms::{CpArgs, LogsArgs, NameArgs, PsArgs, ResizeArgs, RmArgs, SshArgs, StopArgs};

use clap::{Parser, Subcommand};

/// Boots container images: builds disks from them without root.
#[derive(Debug, Parser)]
#[command(name = "bootwright", version, max_term_width = 100)]
#[command(
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build a bootable disk from a container image
    Build(Box<BuildArgs>),
    /// Boot an image or a disk in a virtual machine
    Run(Box<RunArgs>),
    /// List machines
    Ps(PsArgs),
    /// Open a shell or run a command in a machine
    Ssh(SshArgs),
    /// Copy files to or from a machine
    Cp(CpArgs),
    /// Connect to a machine's console
    Console(NameArgs),
    /// Show what was on a machine's console
    Logs(LogsArgs),
    /// Press a machine's power button, and end it if that does not help in time
    Stop(StopArgs),
    /// Stop a machine that is kept, and start it again
    Restart(StopArgs),
    /// Hold a machine
    Pause(NameArgs),
    /// Let a machine go on
    Resume(NameArgs),
    /// Change a running machine's processors and memory
    Resize(ResizeArgs),
    /// Remove machines and what they have written
    Rm(RmArgs),
    /// Connect standard input and output to a machine's ssh server; `ssh` starts this
    #[command(hide = true)]
    SshProxy {
        /// The machine's name.
        name: String,
        /// Another TCP port of the guest's.
        #[arg(long)]
        port: Option<u16>,
    },
    /// Connect standard input and output to a machine's console; `kubectl bootwright` starts this
    #[command(hide = true)]
    ConsoleProxy {
        /// The machine's name.
        name: String,
    },
    /// Run a virtual machine whose folder is prepared; `run` starts this
    #[command(hide = true)]
    Machine {
        /// The machine's name.
        name: String,
    },
    /// Run the virtual machine of a Kubernetes pod
    Launch(Box<LaunchArgs>),
    /// Succeed if the guest of a pod has booted, or a probe's command succeeds in it
    Probe(ProbeArgs),
    /// Offer /dev/kvm to the pods of a Kubernetes node
    Node(NodeArgs),
    /// Become passt in a container; `launch` starts this
    #[command(hide = true, name = PASST)]
    BecomePasst {
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Show what an image or a disk holds
    Inspect(Box<InspectArgs>),
    /// Store a disk in a registry, as an image that shares its layers with others
    Push(Box<PushArgs>),
    /// Compare a disk with the one that an image makes
    Verify(Box<VerifyArgs>),
    /// Export a disk over NBD without writing it
    Serve(Box<ServeArgs>),
    /// Turn KubeVirt's manifests into Bootwright's
    Convert(ConvertArgs),
    /// Look after the store of layers
    Cache(CacheArgs),
    /// Print a completion script for a shell
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// `bootwright inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Reference to an image or a disk, or a disk file (raw, qcow2, vhd or vhdx)
    #[arg(value_name = "IMAGE|DISK")]
    pub target: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub image: ImageArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}

/// `bootwright cache`.
#[derive(Debug, clap::Args)]
pub struct CacheArgs {
    /// What to do with the store.
    #[command(subcommand)]
    pub command: CacheCommand,
}

/// The commands of `bootwright cache`.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List the layers in the store
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        #[allow(missing_docs)]
        store: StoreArgs,
        #[command(flatten)]
        #[allow(missing_docs)]
        output: OutputArgs,
    },
    /// Remove layers from the store
    ///
    /// Without a condition all layers that no running command uses are
    /// removed; the next build fetches what it needs again.
    Prune {
        #[command(flatten)]
        #[allow(missing_docs)]
        store: StoreArgs,
        /// Remove only layers not used for this long (s, m, h, d, w)
        #[arg(long, value_name = "DURATION", value_parser = size::duration)]
        older_than: Option<std::time::Duration>,
        /// Remove the least recently used layers until the store is no larger than this
        #[arg(long, value_name = "SIZE", conflicts_with = "older_than")]
        keep: Option<ByteSize>,
        /// Say what would be removed, remove nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        #[allow(missing_docs)]
        output: OutputArgs,
    },
    /// Read every layer in the store and check it against its sums
    ///
    /// Damaged layers are removed, so that the next build fetches them again.
    Verify {
        #[command(flatten)]
        #[allow(missing_docs)]
        store: StoreArgs,
        #[command(flatten)]
        #[allow(missing_docs)]
        output: OutputArgs,
    },
}

/// The options of the disk when none is given, as the command line has them.
pub(crate) fn default_plan() -> anyhow::Result<PlanArgs> {
    match Cli::try_parse_from(["bootwright", "build", "image", "-o", "disk"])?.command {
        Command::Build(args) => Ok(args.plan),
        _ => Err(anyhow::anyhow!("`build` is not `build`")),
    }
}
