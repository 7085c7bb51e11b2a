//! `bootwright serve`.

use std::path::PathBuf;

use clap::Args;

use super::{ImageArgs, OutputArgs, PlanArgs};

/// `bootwright serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bootwright serve quay.io/acme/web:1.4 --nbd web.sock
  nbdcopy 'nbd+unix:///?socket=web.sock' disk.raw
  qemu-img convert -O qcow2 'nbd+unix:///?socket=web.sock' disk.qcow2

Serves until it is told to stop (Ctrl-C or SIGTERM). The socket is there when clients can
connect, and gone when the command has ended. Exit status: 0 stopped, 1 failed, 2 bad usage.")]
pub struct ServeArgs {
    /// Reference to an image or a disk, or a disk file (raw, qcow2, vhd or vhdx)
    #[arg(value_name = "IMAGE|DISK")]
    pub target: String,
    /// Serve over NBD at this unix socket, read-only, to programs of the same user
    #[arg(long, value_name = "SOCKET", value_hint = clap::ValueHint::FilePath)]
    pub nbd: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub plan: PlanArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub image: ImageArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}
