//! What a machine is, as `run` writes it down and its process reads it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::kernel::{CommandLine, Piece};
use super::network::{Forward, Network, Protocol};

/// The version of the description; others are refused.
const VERSION: u32 = 2;

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
    /// Memory in bytes that it can be given later; less than it has means no more.
    #[serde(default)]
    pub max_memory: u64,
    /// Whether its memory is the host's huge pages.
    pub huge_pages: bool,
    /// Its disks; it boots from the first.
    pub disks: Vec<Disk>,
    /// Files that its qcow2 disks may lie over.
    #[serde(default)]
    pub backing: Vec<PathBuf>,
    /// What its interface leads to.
    pub network: Network,
    /// Its interface's hardware address.
    pub mac: [u8; 6],
    /// Ports of the host that lead to it, without that for ssh.
    pub forwards: Vec<Forward>,
    /// Protocols of which all ports of the host lead to it.
    pub all_ports: Vec<Protocol>,
    /// How its ssh server is reached.
    pub ssh: Option<Ssh>,
    /// SMBIOS strings of type 11.
    pub strings: Vec<String>,
    /// Commands that it runs when a pod's probe asks for it.
    #[serde(default)]
    pub probes: bootwright_machine::Probes,
    /// What it boots.
    pub boot: Boot,
    /// Its UUID.
    pub uuid: uuid::Uuid,
    /// Its serial number; empty for none.
    pub serial: String,
    /// Whether it waits to be resumed before its first instruction.
    pub paused: bool,
    /// Whether a reset ends it.
    pub no_reboot: bool,
    /// Whether its process is confined.
    pub sandbox: bool,
    /// Whether it is in a container that has no namespaces to give.
    pub contained: bool,
    /// Whether there are sockets between the guest and its process.
    pub vsock: bool,
    /// Whether the host can take memory back that the guest had at boot.
    #[serde(default = "by_default")]
    pub balloon: bool,
    /// Most queues of a disk; it has no more than there are processors.
    #[serde(default = "Spec::most_queues")]
    pub disk_queues: u8,
}

fn by_default() -> bool {
    true
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

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Disk {
    /// What the guest reads as its serial number.
    pub serial: String,
    /// What is on it before the guest writes.
    pub base: Base,
    /// Its size in bytes, the base's if none.
    pub size: Option<u64>,
    /// What becomes of what the guest writes.
    pub writes: Writes,
}

/// What is on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Base {
    /// The plan in this folder.
    Plan(PathBuf),
    /// This disk file, whatever its format.
    File(PathBuf),
    /// The bytes of this file or device, whatever they look like: a guest
    /// may have written them.
    Raw(PathBuf),
    /// Nothing.
    Nothing,
}

/// What becomes of what a guest writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Writes {
    /// It may not write.
    Refused,
    /// It goes to the base.
    Through,
    /// It goes to an overlay in the machine's folder, which is kept.
    Kept,
    /// It goes to an overlay that is gone when the machine ends.
    Dropped,
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

/// A hardware address made of a UUID, one of QEMU's block.
pub(crate) fn mac(uuid: uuid::Uuid) -> [u8; 6] {
    let [a, b, c, ..] = *uuid.as_bytes();
    [0x52, 0x54, 0x00, a, b, c]
}

impl Spec {
    /// All ports of the host that lead to it.
    pub(crate) fn all_forwards(&self) -> Vec<Forward> {
        let mut forwards = self.forwards.clone();
        forwards.extend(self.ssh.map(|ssh| Forward {
            address: Some(std::net::Ipv4Addr::LOCALHOST.into()),
            host: ssh.port,
            guest: 22,
            protocol: Protocol::Tcp,
        }));
        forwards
    }

    /// Queues of a disk where nobody says how many.
    pub(crate) fn most_queues() -> u8 {
        8
    }

    /// Queues that a disk has.
    pub(crate) fn queues(&self) -> u8 {
        self.cpus.min(self.disk_queues).max(1)
    }

    /// The host's TCP port that leads to one of the guest, if there is one.
    pub(crate) fn host_port(&self, guest: u16) -> Option<u16> {
        let mut forwards = self.forwards.iter();
        let found = forwards.find(|f| f.guest == guest && f.protocol == Protocol::Tcp);
        let all = self.all_ports.contains(&Protocol::Tcp);
        found.map(|found| found.host).or(all.then_some(guest))
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
