//! Devices: disks, network interfaces, and the small ones.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Other;
use super::instance::Empty;

/// Disks, interfaces and other devices.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Devices {
    /// Disks; each has the name of a volume.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub disks: Vec<Disk>,
    /// Interfaces; each has the name of a network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub interfaces: Vec<Interface>,
    /// A source of random numbers. There is always one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rng: Option<Empty>,
    /// Whether a machine without interfaces gets one to the pod's network;
    /// true without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoattach_pod_interface: Option<bool>,
    /// Whether there is a serial console; true without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoattach_serial_console: Option<bool>,
    /// Whether the pod's log is the serial console; true without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_serial_console: Option<bool>,
    /// Whether there is a balloon that gives free memory back; true without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoattach_mem_balloon: Option<bool>,
    /// Whether there are sockets between guest and pod; true without it.
    #[serde(rename = "autoattachVSOCK", skip_serializing_if = "Option::is_none")]
    pub autoattach_vsock: Option<bool>,
    /// Whether a disk has a queue for each processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_multi_queue: Option<bool>,
    /// Whether an interface has queues for each processor. It has one for each
    /// direction, whatever this says.
    #[serde(
        rename = "networkInterfaceMultiqueue",
        skip_serializing_if = "Option::is_none"
    )]
    pub network_interface_multi_queue: Option<bool>,
    /// Fields without effect.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

/// A disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// The name of the volume that it shows.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// As a disk, which it is without any of the three.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskTarget>,
    /// As a disk that cannot be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cdrom: Option<CdromTarget>,
    /// The disk with the lowest order is booted; the first one without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub boot_order: Option<u32>,
    /// What the guest reads as the disk's serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    pub serial: Option<String>,
    /// Fields without effect.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

/// A volume as a disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DiskTarget {
    /// The bus. It is virtio, whatever this says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<Bus>,
    /// Whether the guest may not write it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readonly: Option<bool>,
    /// Fields without effect.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

/// A volume as a disk that cannot be written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CdromTarget {
    /// The bus. It is virtio, whatever this says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<Bus>,
    /// Whether the guest may not write it; true without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readonly: Option<bool>,
    /// Fields without effect.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

/// Buses of disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Bus {
    /// virtio-blk.
    Virtio,
    /// SATA.
    Sata,
    /// SCSI.
    Scsi,
    /// USB.
    Usb,
}

/// A network interface. However it is bound, the guest has the pod's address
/// and its connections are sockets of the pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// The name of its network.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// KubeVirt's bridge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<Empty>,
    /// KubeVirt's address translation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<Empty>,
    /// KubeVirt's passt, as older versions called it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passt: Option<Empty>,
    /// KubeVirt's passt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passt_binding: Option<Empty>,
    /// A binding by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// The ports that reach the guest; all without it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub ports: Vec<Port>,
    /// The device. It is virtio, whatever this says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its hardware address; made of the machine's UUID without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}$"))]
    pub mac_address: Option<String>,
    /// Fields without effect.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

/// A binding by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Binding {
    /// Its name; only passt is there.
    pub name: BindingName,
}

/// Names of bindings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BindingName {
    /// Flows of the guest are sockets of the pod.
    Passt,
}

/// A port that reaches the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Port {
    /// Its number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// TCP without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// A name for Services.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15))]
    pub name: Option<String>,
}

/// Protocols of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The word for it in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}
