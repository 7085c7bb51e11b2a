//! `bootwright run`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{ByteSize, ImageArgs};
use crate::vms::network::{Forward, Network};

/// `bootwright run`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
#[command(after_help = "\
Examples:
  bootwright run quay.io/acme/web:1.4
  bootwright run oci:./layout:latest --memory 4G --cpus 4 -p 8080:80
  bootwright run quay.io/acme/web:1.4 --ssh
  bootwright run quay.io/acme/web:1.4 --name web --detach --wait && bootwright ssh web
  bootwright run debian-12-cloud.qcow2 --name scratch --disk data.raw

No disk is written: what the guest writes goes to an overlay, which is gone when the machine
ends, or kept for the next time under --name. On the console, Ctrl-] presses the power button,
and once more ends the machine at once.

Exit status: 0 the guest turned itself off, 32 it asked for a reset (with --no-reboot), 33 it
crashed, 34 its kernel panicked, 35 it could not be started, 36 time was up, 130 interrupted.")]
pub struct RunArgs {
    /// Reference of an image or a disk, or a disk file (raw, qcow2, vhd or vhdx)
    #[arg(value_name = "IMAGE|DISK")]
    pub target: String,
    /// Keep what the guest writes under NAME, and go on from it the next time
    #[arg(long, value_name = "NAME", value_parser = super::size::vm_name)]
    pub name: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub machine: MachineArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub kernel: KernelArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub root: RootArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub image: ImageArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub network: NetworkArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub guest: GuestArgs,
    /// Print the machine's name and go; it runs on
    #[arg(long, short, conflicts_with = "ssh")]
    pub detach: bool,
    /// With --detach, go when the guest has booted, and say how long it took
    #[arg(long, requires = "detach")]
    pub wait: bool,
    /// Have the guest wait before its first instruction, until `resume` lets it go on
    #[arg(long, conflicts_with_all = ["wait", "ssh"])]
    pub paused: bool,
    /// Show the guest's console, which is the default; with --detach, until Ctrl-] leaves it
    #[arg(long, conflicts_with = "ssh")]
    pub console: bool,
    /// Open a shell in the guest instead of its console, and end it afterwards
    #[arg(long)]
    pub ssh: bool,
    /// With --detach, print the machine as JSON on standard output
    #[arg(long, help_heading = "Output", requires = "detach")]
    pub json: bool,
    /// Print nothing but errors and the console
    #[arg(long, short, help_heading = "Output")]
    pub quiet: bool,
}

/// What runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// kvm if this host can, else tcg
    Auto,
    /// Hardware virtualisation
    Kvm,
    /// Emulation by QEMU, which is many times slower
    Tcg,
}

/// The virtual machine.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Machine")]
pub struct MachineArgs {
    /// What runs the guest
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// Number of processors
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub cpus: u8,
    /// Number of processors that `resize` can give it [default: those of this host]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub max_cpus: Option<u8>,
    /// Memory
    #[arg(long, short, value_name = "SIZE", default_value = "2G")]
    pub memory: ByteSize,
    /// Memory that `resize` can give it [default: that of this host]
    #[arg(long, value_name = "SIZE")]
    pub max_memory: Option<ByteSize>,
    /// Take the memory from the host's huge pages of 2 MiB; its size is fixed then
    #[arg(long, conflicts_with = "max_memory")]
    pub huge_pages: bool,
    /// Attach a disk file, which is written to unless :ro follows (repeatable)
    #[arg(long = "disk", value_name = "FILE[:ro]", value_hint = clap::ValueHint::FilePath)]
    pub disks: Vec<String>,
    /// Let a qcow2 lie over the backing file FILE, which is only read (repeatable)
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub backing: Vec<PathBuf>,
    /// End when the guest reboots
    #[arg(long)]
    pub no_reboot: bool,
    /// End the machine after this time, or with --wait if it has not booted by then (s, m, h, d, w)
    #[arg(long, value_name = "DURATION", value_parser = super::size::duration)]
    pub timeout: Option<std::time::Duration>,
    /// Do not confine the process that runs the guest; for debugging only
    #[arg(long)]
    pub no_sandbox: bool,
}

/// The network.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// Where the network interface leads: user (through passt), tap:NAME or none [default: user]
    #[arg(long, value_name = "user|tap:NAME|none")]
    pub network: Option<Network>,
    /// Lead a port of this host to one of the guest (repeatable)
    #[arg(long = "publish", short, value_name = "[ADDRESS:]HOST:GUEST[/udp]")]
    pub publish: Vec<Forward>,
}

/// What the guest is told without touching its disk.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Guest")]
pub struct GuestArgs {
    /// Host name of the guest
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Let the public keys in FILE log in as root (repeatable)
    #[arg(long = "ssh-key", value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub ssh_keys: Vec<PathBuf>,
    /// Pass a systemd credential (repeatable)
    #[arg(long = "credential", value_name = "NAME=VALUE")]
    pub credentials: Vec<String>,
    /// Pass an SMBIOS string of type 11 (repeatable)
    #[arg(long = "smbios", value_name = "TEXT")]
    pub strings: Vec<String>,
    /// Pass FILE as user data to cloud-init
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub cloud_init: Option<PathBuf>,
}

/// What is booted.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Kernel")]
pub struct KernelArgs {
    /// Boot this kernel instead of the one in the image or on the disk
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub kernel: Option<PathBuf>,
    /// Boot with this initial RAM disk instead of the kernel's own
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub initrd: Option<PathBuf>,
    /// Kernel command line to use instead of the image's or the disk's
    #[arg(long, value_name = "TEXT")]
    pub append: Option<String>,
    /// Add to the kernel command line (repeatable)
    #[arg(long = "karg", value_name = "KEY[=VALUE]")]
    pub kargs: Vec<String>,
}

/// The disk that is made of an image.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Root disk")]
pub struct RootArgs {
    /// Size of the root disk [default: content and --free, or as large as DISK]
    #[arg(long, value_name = "SIZE")]
    pub size: Option<ByteSize>,
    /// Free space in the root file system that is made of an image [default: 8G]
    #[arg(long, value_name = "SIZE", conflicts_with = "size")]
    pub free: Option<ByteSize>,
    /// Add a user who may use sudo to the image (repeatable)
    #[arg(long = "user", value_name = "NAME[:UID]")]
    pub users: Vec<String>,
    /// Set root's password to the first line of FILE: plain, or a crypt(5) hash
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub root_password_file: Option<PathBuf>,
    /// Copy a file or directory of the host into the image (repeatable)
    #[arg(long = "file", value_name = "SRC:DEST[:MODE]")]
    pub files: Vec<String>,
}
