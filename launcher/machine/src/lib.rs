//! What the launcher in a pod is told: the machine it starts.
//!
//! The controller writes it as JSON into the annotation [`ANNOTATION`] of the
//! pod, which the pod sees as the file [`PATH`]. Paths are the pod's own.
//! There are no secrets in it: those are in files that it names.
//! [`Machine::from_json`] reads and checks it, whoever has written it.

mod check;

use serde::{Deserialize, Serialize};

pub use check::MachineError;

/// Where the launcher's image has the program.
pub const PROGRAM: &str = "/usr/bin/bootwright";

/// What the machine is called in its pod, where it is the only one.
pub const NAME: &str = "vm";

/// Where the launcher keeps what the guest writes, and its own files.
pub const SCRATCH: &str = "/run/bootwright/scratch";

/// Where the launcher keeps its sockets, below [`SCRATCH`].
pub const RUNTIME: &str = "/run/bootwright/scratch/run";

/// Where the launcher says why it ended.
pub const TERMINATION_LOG: &str = "/dev/termination-log";

/// The most disks of a machine.
pub const MAX_DISKS: usize = 24;

/// The annotation of a pod that holds its machine.
pub const ANNOTATION: &str = "bootwright.dev/machine";

/// Where the launcher finds its machine.
pub const PATH: &str = "/run/bootwright/machine/machine.json";

/// The annotation of a pod that says whether its guest stands still: `true` or
/// `false`.
pub const PAUSED_ANNOTATION: &str = "bootwright.dev/paused";

/// The file beside the machine in which the launcher sees that annotation;
/// empty while the pod has none.
pub const PAUSED_FILE: &str = "paused";

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Machine {
    /// The guest's host name.
    pub name: String,
    /// The machine's UUID in SMBIOS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The machine's serial number in SMBIOS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Whether instructions are emulated, where there is no KVM.
    pub emulated: bool,
    /// The processors.
    pub cpus: Cpus,
    /// The memory.
    pub memory: Memory,
    /// A kernel that is not on the boot disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Kernel>,
    /// The disks; the first is booted.
    pub disks: Vec<Disk>,
    /// The interface to the pod's network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<Interface>,
    /// A folder whose files hold keys for ssh, for each of the cloud-init
    /// kinds that hand them on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Keys>,
    /// Commands that the pod's probes have the guest run.
    #[serde(default, skip_serializing_if = "Probes::is_empty")]
    pub probes: Probes,
    /// The small devices.
    pub devices: Devices,
    /// How long the guest may take to shut down, in seconds.
    pub grace_seconds: u64,
    /// Whether it waits to be resumed before its first instruction.
    pub paused: bool,
    /// Whether the launcher ends when the guest reboots.
    pub ends_on_reboot: bool,
    /// The TCP port of the pod at which the launcher serves metrics; nowhere
    /// without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_port: Option<u16>,
}

/// Commands that the pod's probes have the guest run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probes {
    /// That of the liveness probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Exec>,
    /// That of the readiness probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Exec>,
}

impl Probes {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.liveness.is_none() && self.readiness.is_none()
    }
}

/// A command that the guest runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exec {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// How long it may take, in seconds.
    pub timeout_seconds: u32,
}

/// Processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cpus {
    /// Sockets.
    pub sockets: u32,
    /// Cores of a socket.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
    /// Sockets with those that may be plugged in.
    pub max_sockets: u32,
}

impl Cpus {
    /// How many there are at the start.
    pub fn count(self) -> u64 {
        u64::from(self.sockets) * u64::from(self.cores) * u64::from(self.threads)
    }
}

/// Memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Memory {
    /// What the guest has at its start.
    pub bytes: u64,
    /// What it has with all that may be plugged in.
    pub max_bytes: u64,
    /// The size of the huge pages that hold it; 0 for ordinary ones.
    pub page_bytes: u64,
}

/// A kernel that is not on the boot disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kernel {
    /// The folder that holds its image.
    pub folder: String,
    /// Its path in the folder.
    pub path: String,
    /// The initramfs' path in the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<String>,
    /// Its command line.
    pub command_line: String,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Disk {
    /// The volume's name.
    pub name: String,
    /// What the guest reads as its serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Whether the guest may not write it.
    pub read_only: bool,
    /// What it holds.
    pub source: Source,
}

/// What a disk holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Source {
    /// The root file system in a folder; writes go to the scratch space.
    #[serde(rename_all = "camelCase")]
    Root {
        /// The folder.
        folder: String,
    },
    /// The disk in the folder of a container disk; writes go to the scratch
    /// space.
    #[serde(rename_all = "camelCase")]
    ContainerDisk {
        /// The folder.
        folder: String,
        /// The disk's path in the folder; the only file in `disk` without it.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    /// What an image makes or holds, which the launcher fetches itself; writes
    /// go to the scratch space.
    #[serde(rename_all = "camelCase")]
    Image {
        /// The image.
        reference: String,
        /// What it holds.
        holds: Holds,
        /// A file with credentials for registries, as docker keeps them.
        #[serde(skip_serializing_if = "Option::is_none")]
        auth_file: Option<String>,
    },
    /// A block device, or a disk's file.
    #[serde(rename_all = "camelCase")]
    Device {
        /// Its path.
        path: String,
        /// Whether writes go to the scratch space.
        ephemeral: bool,
    },
    /// Nothing; writes go to the scratch space.
    #[serde(rename_all = "camelCase")]
    Empty {
        /// Its size.
        bytes: u64,
    },
    /// The data of cloud-init.
    #[serde(rename_all = "camelCase")]
    CloudInit {
        /// For which of its sources.
        kind: CloudInitKind,
        /// The user data.
        #[serde(skip_serializing_if = "Option::is_none")]
        user_data: Option<Data>,
        /// The network data.
        #[serde(skip_serializing_if = "Option::is_none")]
        network_data: Option<Data>,
    },
    /// A file system with the files of a folder.
    #[serde(rename_all = "camelCase")]
    Files {
        /// The folder.
        folder: String,
        /// The file system's label.
        #[serde(skip_serializing_if = "Option::is_none")]
        label: Option<String>,
    },
}

/// What an image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Holds {
    /// A root file system.
    Root,
    /// A disk.
    Disk,
}

/// A data source of cloud-init.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CloudInitKind {
    /// NoCloud.
    NoCloud,
    /// ConfigDrive.
    ConfigDrive,
}

/// Data, or where they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Data {
    /// The data as text.
    Text(String),
    /// The data in base64.
    Base64(String),
    /// The file that holds the data.
    File(String),
}

/// Keys for ssh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Keys {
    /// The folder whose files hold them.
    pub folder: String,
    /// With the data of which source the guest gets them.
    pub kind: CloudInitKind,
}

/// An interface to the pod's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Interface {
    /// The network's name.
    pub name: String,
    /// Its hardware address.
    pub mac: String,
    /// The TCP ports that reach the guest; all without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Vec<u16>>,
    /// The UDP ports that reach the guest; all without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<Vec<u16>>,
}

impl Interface {
    /// Its hardware address; `None` if it has none that can be one.
    pub fn hardware_address(&self) -> Option<[u8; 6]> {
        check::mac(&self.mac)
    }
}

/// The small devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Devices {
    /// Whether there is a serial console.
    pub console: bool,
    /// Whether what it prints is the pod's log.
    pub log_console: bool,
    /// Whether there is a balloon.
    pub balloon: bool,
    /// Whether there are sockets between guest and pod.
    pub vsock: bool,
    /// Whether a disk has a queue for each processor.
    pub disk_queues: bool,
    /// Whether an interface has queues for each processor.
    pub interface_queues: bool,
}
