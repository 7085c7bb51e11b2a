//! `bootwright build`.

use std::path::PathBuf;

use bootwright_disk::sink::Format;
use clap::{Args, ValueEnum};

use super::common::format_parser;
use super::{ByteSize, ImageArgs, OutputArgs};

/// `bootwright build`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bootwright build quay.io/acme/web:1.4 -o web.qcow2
  bootwright build oci:./layout:latest -o disk.raw --size 20G --ssh-key ~/.ssh/id_ed25519.pub
  bootwright build oci-archive:web.tar -o - | ssh host 'dd of=/dev/vdb bs=4M'
  bootwright build quay.io/acme/web-disk:1.4 -o web.vmdk

IMAGE is a reference as podman and skopeo take it: docker://HOST/NAME:TAG (the default),
oci:DIR[:TAG|@DIGEST], oci-archive:FILE[:TAG], docker-archive:FILE[:REF] or dir:PATH (a root
file system). DISK is a finished disk, which is written in the format asked for: a reference to
a disk image, KubeVirt containerDisk or VirtualMachine artifact, or a file. Exit status: 0 done,
1 failed, 2 bad usage, 130 interrupted.")]
pub struct BuildArgs {
    /// Image to build from, or finished disk to convert
    #[arg(value_name = "IMAGE|DISK")]
    pub image: String,
    /// Write the disk to FILE or block device, or to standard output with -
    #[arg(long, short, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub output: PathBuf,
    /// Disk format [default: by the output's extension, else raw]
    #[arg(long, short, value_name = "FORMAT", value_parser = format_parser())]
    pub format: Option<Format>,
    /// Compress the disk's contents [default: as the format must]
    #[arg(long, value_enum, value_name = "HOW")]
    pub compress: Option<Compression>,
    /// Replace an existing output
    #[arg(long)]
    pub force: bool,
    /// Do not wait until the disk is on stable storage; quicker, not for crashes of the machine
    #[arg(long)]
    pub no_sync: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub plan: PlanArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub image_args: ImageArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output_args: OutputArgs,
}

/// Space that is left free in the root file system unless `--free` says
/// otherwise.
pub const DEFAULT_FREE: ByteSize = ByteSize(1 << 30);

/// What shapes the disk that is made of an image.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// Size of the disk [default: content and --free]
    #[arg(long, value_name = "SIZE", conflicts_with = "free")]
    pub size: Option<ByteSize>,
    /// Free space to leave in the root file system [default: 1G]
    #[arg(long, value_name = "SIZE")]
    pub free: Option<ByteSize>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub boot: BootArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub customize: CustomizeArgs,
}

impl PlanArgs {
    /// Names of the options that were given. A disk that is finished takes
    /// none of them.
    pub fn given(&self) -> Vec<&'static str> {
        // All fields by name, so that a new one cannot be forgotten.
        let Self {
            size,
            free,
            boot,
            customize,
        } = self;
        let BootArgs {
            boot,
            kargs,
            karg_deletes,
            stub,
            loader,
            esp_size,
        } = boot;
        let CustomizeArgs {
            hostname,
            ssh_keys,
            users,
            root_password_file,
            files,
        } = customize;
        let all = [
            ("--size", size.is_some()),
            ("--free", free.is_some()),
            ("--boot", boot.is_some()),
            ("--karg", !kargs.is_empty()),
            ("--karg-delete", !karg_deletes.is_empty()),
            ("--stub", stub.is_some()),
            ("--loader", loader.is_some()),
            ("--esp-size", esp_size.is_some()),
            ("--hostname", hostname.is_some()),
            ("--ssh-key", !ssh_keys.is_empty()),
            ("--user", !users.is_empty()),
            ("--root-password-file", root_password_file.is_some()),
            ("--file", !files.is_empty()),
        ];
        let given = all.into_iter().filter(|(_, given)| *given);
        given.map(|(name, _)| name).collect()
    }
}

/// Whether a disk's contents are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// Not compressed
    None,
    /// deflate; what vmdk and gce always have, and every reader of qcow2 knows
    Zlib,
    /// zstd; smaller and much quicker; qcow2 only, needs QEMU 5.1
    Zstd,
}

/// How the firmware finds the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BootMode {
    /// By what the image carries
    Auto,
    /// A unified kernel image; needs a stub
    Uki,
    /// systemd-boot and a boot loader entry
    Bls,
    /// No boot loader; boots with bootwright's launcher only
    None,
}

/// Boot options.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Boot")]
pub struct BootArgs {
    /// How the firmware finds the kernel [default: auto]
    #[arg(long, value_enum)]
    pub boot: Option<BootMode>,
    /// Add to the kernel command line (repeatable)
    #[arg(long = "karg", value_name = "KEY[=VALUE]")]
    pub kargs: Vec<String>,
    /// Take an argument of the image or the defaults off the kernel command line (repeatable)
    #[arg(long = "karg-delete", value_name = "KEY[=VALUE]")]
    pub karg_deletes: Vec<String>,
    /// UKI stub to use instead of the image's
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub stub: Option<PathBuf>,
    /// Boot loader (EFI binary) to use instead of the image's systemd-boot
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub loader: Option<PathBuf>,
    /// Size of the EFI system partition [default: 512M, or more if its files need it]
    #[arg(long, value_name = "SIZE")]
    pub esp_size: Option<ByteSize>,
}

/// Changes to the root file system.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Customisation")]
pub struct CustomizeArgs {
    /// Set the host name
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Let the public key in FILE log in: as the --user, or else as root (repeatable)
    #[arg(long = "ssh-key", value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub ssh_keys: Vec<PathBuf>,
    /// Add a user who may use sudo (repeatable)
    #[arg(long = "user", value_name = "NAME[:UID]")]
    pub users: Vec<String>,
    /// Set root's password to the first line of FILE: plain, or a crypt(5) hash
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub root_password_file: Option<PathBuf>,
    /// Copy a file or directory of the host into the image (repeatable)
    #[arg(long = "file", value_name = "SRC:DEST[:MODE]")]
    pub files: Vec<String>,
}
