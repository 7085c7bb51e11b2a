//! `bootwright verify`.

use clap::Args;

use super::{ImageArgs, OutputArgs, PlanArgs};

/// `bootwright verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bootwright verify quay.io/acme/web-disk:1.4 quay.io/acme/web:1.4
  bootwright verify web.qcow2 quay.io/acme/web:1.4 --size 20G --hostname web
  bootwright verify /dev/vdb oci:./layout:latest --json

The disk that `build` would make of IMAGE is planned, not written, and compared byte by byte.
A disk image says with which options it was made; they are applied unless others are given.
Exit status: 0 the same, 1 different, 2 failed or bad usage, 130 interrupted.")]
pub struct VerifyArgs {
    /// Reference to a disk, or a disk file (raw, qcow2, vhd or vhdx)
    pub disk: String,
    /// Image that the disk should be made of
    pub image: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub plan: PlanArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub image_args: ImageArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputArgs,
}
