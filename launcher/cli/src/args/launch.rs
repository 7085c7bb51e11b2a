//! `bootwright launch`, `bootwright probe`: what runs in a pod.

use std::path::PathBuf;

use clap::Args;

use super::{ImageArgs, size};
use crate::vms::probes::Kind;

/// The hidden command that becomes passt in a container.
pub const PASST: &str = "become-passt";

/// `bootwright launch`.
#[derive(Debug, Args)]
#[command(after_help = "\
The pod that the controller makes for a virtual machine runs this. What the guest writes, the
machine's sockets and its logs are below $HOME and $XDG_RUNTIME_DIR, as for `run`; there, the
machine is called vm, so that `bootwright console vm` in the pod shows its console.

SIGTERM presses the guest's power button; when the grace period is over, the guest is ended.

Exit status: 0 the guest turned itself off, 32 it asked for a reset and that was to end it, 33 it
crashed, 34 its kernel panicked, 35 it could not be started, 36 it did not turn itself off within
the grace period.")]
pub struct LaunchArgs {
    /// The machine, as JSON
    #[arg(value_name = "FILE", default_value = bootwright_machine::PATH, value_hint = clap::ValueHint::FilePath)]
    pub machine: PathBuf,
    /// Say in FILE, if there is one, why the machine ended
    #[arg(long, value_name = "FILE", default_value = bootwright_machine::TERMINATION_LOG, value_hint = clap::ValueHint::FilePath)]
    pub termination_log: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub image: ImageArgs,
}

/// `bootwright probe`.
#[derive(Debug, Args)]
#[command(after_help = "\
The probes of a pod run this. Exit status: 0 the guest has booted, or has run the command and that
succeeded; 1 not so, for the reason that is said.")]
pub struct ProbeArgs {
    /// Name of the machine
    #[arg(default_value = bootwright_machine::NAME, value_parser = size::vm_name)]
    pub name: String,
    /// Have the guest run the command of this probe of its machine, and print what that prints last
    #[arg(long, value_name = "PROBE", value_enum)]
    pub(crate) exec: Option<Kind>,
}
