//! `bootwright push`.

use std::path::PathBuf;

use bootwright_disk::sink::Format;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};

use super::{ImageArgs, OutputArgs, PlanArgs};

/// `bootwright push`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bootwright push quay.io/acme/web:1.4 registry.example/acme/web-disk:1.4
  bootwright push quay.io/acme/web:1.4 registry.example/acme/web-vm:1.4 --as containerdisk
  bootwright push quay.io/acme/web:1.4 registry.example/acme/web-vm:2 --as artifact
  bootwright push disk.qcow2 oci:./layout:web --digest-file digest

REFERENCE is [docker://]HOST/NAME[:TAG], or oci:DIR[:TAG] for an OCI layout. --platform may be
repeated; the name then leads to an index of all of them. Exit status: 0 done, 1 failed, 2 bad
usage, 130 interrupted.")]
pub struct PushArgs {
    /// Image reference, or a disk file (raw, qcow2, vhd or vhdx)
    #[arg(value_name = "IMAGE|DISK")]
    pub target: String,
    /// Where to push to
    #[arg(value_name = "REFERENCE")]
    pub destination: String,
    /// What the disk becomes in the registry
    #[arg(long = "as", value_enum, value_name = "FORM", default_value_t = Form::Disk)]
    pub form: Form,
    /// How layers are compressed [default: zstd]
    #[arg(long, value_enum, value_name = "HOW")]
    pub compression: Option<LayerCompression>,
    /// How hard to compress: 1 to 19 for zstd, 1 to 9 for gzip [default: 3 and 6]
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u8).range(1..=19))]
    pub compression_level: Option<u8>,
    /// Write the digest of what was pushed to FILE
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub digest_file: Option<PathBuf>,
    /// Take blobs that the repository NAME of the same registry has from there (repeatable)
    #[arg(long = "mount-from", value_name = "NAME")]
    pub mount_from: Vec<String>,
    /// Make the artifact a referrer of IMAGE, which is in the same repository
    #[arg(long)]
    pub refer: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub container_disk: ContainerDiskArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub source: SourceRegistryArgs,
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

/// What a disk becomes in a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// The image's layers and one with the disk's plan: only what changed travels
    Disk,
    /// An image with the disk as its one file, as KubeVirt runs it
    #[value(name = "containerdisk")]
    ContainerDisk,
    /// A KubeVirt VirtualMachine with the raw disk, to be imported (VEP 256)
    Artifact,
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LayerCompression {
    /// zstd
    Zstd,
    /// gzip; containerDisks only, for what reads nothing else
    Gzip,
}

/// Of containerDisks.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "KubeVirt")]
pub struct ContainerDiskArgs {
    /// Format of the file in a containerDisk: qcow2 or raw [default: qcow2]
    #[arg(long, value_name = "FORMAT", value_parser = disk_format)]
    pub format: Option<Format>,
    /// Name the KubeVirt instance type that suits the disk
    #[arg(long, value_name = "NAME")]
    pub instancetype: Option<String>,
    /// Name the KubeVirt preference that suits the disk
    #[arg(long, value_name = "NAME")]
    pub preference: Option<String>,
}

/// How the registry of IMAGE is reached where it is another than REFERENCE's.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Registry")]
pub struct SourceRegistryArgs {
    /// As --tls-verify, for the registry of IMAGE if that is another one
    #[arg(
        long,
        value_name = "BOOL",
        default_value = "true",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = ArgAction::Set,
        value_parser = BoolishValueParser::new()
    )]
    pub src_tls_verify: bool,
    /// As --cert-dir, for the registry of IMAGE if that is another one
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub src_cert_dir: Option<PathBuf>,
    /// As --creds, for the registry of IMAGE if that is another one
    #[arg(long, value_name = "USER[:PASSWORD]")]
    pub src_creds: Option<String>,
}

/// KubeVirt reads raw disks and qcow2.
fn disk_format(name: &str) -> Result<Format, String> {
    match name.parse() {
        Ok(format @ (Format::Raw | Format::Qcow2)) => Ok(format),
        _ => Err("a containerDisk holds qcow2 or raw".to_owned()),
    }
}
