//! What a machine is, as `run` writes it down and its process reads it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::kernel::{CommandLine, Piece};
use super::network::{Forward, Network};

/// The version of the description; others are refused.
const VERSION: u32 = 1;

/// The file in a machine's folder.
const FILE: &str = "vm.json";

/// A machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Version of this description.
    pub version: u32,
    /// Its name, which is that of its folder.
    pub name: String,
    /// Whether the folder goes when the machine ends.
    pub ephemeral: bool,
    /// What the user asked to run.
    pub target: String,
    /// What runs it.
    pub accel: Accel,
    /// Processors.
    pub cpus: u8,
    /// Processors that it can be given later.
    pub max_cpus: u8,
    /// Memory in bytes.
    pub memory: u64,
    /// The disk that it boots from.
    pub root: Root,
    /// Further disks.
    pub disks: Vec<DataDisk>,
    /// Whether it has a seed disk for cloud-init.
    pub seed: bool,
    /// What its interface leads to.
    pub network: Network,
    /// Ports of the host that lead to it, without that for ssh.
    pub forwards: Vec<Forward>,
    /// How its ssh server is reached.
    pub ssh: Option<Ssh>,
    /// SMBIOS strings of type 11.
    pub strings: Vec<String>,
    /// What it boots.
    pub boot: Boot,
    /// Its UUID.
    pub uuid: uuid::Uuid,
    /// Whether a reset ends it.
    pub no_reboot: bool,
    /// Whether its process is confined.
    pub sandbox: bool,
}

/// What runs a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Accel {
    /// Our own monitor on KVM.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

/// The disk that a machine boots from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Root {
    /// What lies below what the guest writes.
    pub base: Base,
    /// Size of the disk in bytes, the base's if none.
    pub size: Option<u64>,
}

/// A disk that is not written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Base {
    /// A plan in the machine's folder.
    Plan,
    /// A disk file.
    File(PathBuf),
    /// A copy in the machine's folder, of a disk that was compressed.
    Copy,
}

/// A disk file that a guest reads, and writes if it may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DataDisk {
    /// The file.
    pub path: PathBuf,
    /// Whether it is only read.
    pub read_only: bool,
}

/// What a machine boots: what is not given here is found on its disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Boot {
    /// What the image boots, known from its plan.
    pub planned: Option<Planned>,
    /// A kernel of the user's.
    pub kernel: Option<PathBuf>,
    /// An initrd of the user's.
    pub initrd: Option<PathBuf>,
    /// What the user changes in the command line.
    pub command_line: CommandLine,
}

/// What an image boots.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Planned {
    /// The kernel.
    pub kernel: Piece,
    /// Its initrd.
    pub initrd: Option<Piece>,
    /// The command line.
    pub command_line: String,
}

/// How a guest's ssh server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ssh {
    /// The loopback port that leads to it.
    pub port: u16,
}

impl Spec {
    /// Its interface's hardware address: one of QEMU's block, from the UUID.
    pub(crate) fn mac(&self) -> [u8; 6] {
        let [a, b, c, ..] = *self.uuid.as_bytes();
        [0x52, 0x54, 0x00, a, b, c]
    }

    /// All ports of the host that lead to it.
    pub(crate) fn all_forwards(&self) -> Vec<Forward> {
        let mut forwards = self.forwards.clone();
        forwards.extend(self.ssh.map(|ssh| Forward {
            address: Some(std::net::Ipv4Addr::LOCALHOST.into()),
            host: ssh.port,
            guest: 22,
            protocol: super::network::Protocol::Tcp,
        }));
        forwards
    }

    /// The version that this program writes and reads.
    pub(crate) const VERSION: u32 = VERSION;

    /// Reads the machine whose folder is `dir`.
    pub(crate) fn load(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(FILE);
        let context = || format!("cannot read {}", path.display());
        let bytes = fs::read(&path).with_context(context)?;
        let value: serde_json::Value = serde_json::from_slice(&bytes).with_context(context)?;
        let version = value.get("version").and_then(serde_json::Value::as_u64);
        if version != Some(u64::from(VERSION)) {
            bail!(
                "{} was made by another version of bootwright; remove {} to start afresh",
                path.display(),
                dir.display()
            );
        }
        serde_json::from_value(value).with_context(context)
    }

    /// Writes the machine into `dir`.
    pub(crate) fn save(&self, dir: &Path) -> anyhow::Result<()> {
        let path = dir.join(FILE);
        super::place::write_whole(&path, &serde_json::to_vec_pretty(self)?)
    }
}
