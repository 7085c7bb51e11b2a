//! The hardware: processors, memory, firmware.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::devices::Devices;
use super::volumes::PullPolicy;
use super::{Other, schema};

/// The hardware.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Domain {
    /// The processors; one without it, or as many as limits.cpu or
    /// requests.cpu say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// The memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// What the pod asks of its node besides the machine's own needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Identity and start of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// Disks, interfaces and other devices.
    #[serde(default)]
    pub devices: Devices,
    /// What happens when the guest reboots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reboot_policy: Option<RebootPolicy>,
    /// Fields without effect.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

/// The most virtual processors of a machine.
pub const MAX_CPUS: u32 = 254;

/// The processors: sockets times cores times threads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// Cores of a socket; 1 without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 254))]
    pub cores: Option<u32>,
    /// Sockets; 1 without it. The guest sees their processors as cores of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 254))]
    pub sockets: Option<u32>,
    /// Threads of a core; 1 without it. The guest sees each as a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 254))]
    pub threads: Option<u32>,
    /// Up to how many sockets may be plugged in while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 254))]
    pub max_sockets: Option<u32>,
    /// The model that the guest sees. It is the node's, whatever this says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Fields without effect.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

/// The memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// What the guest sees; requests.memory, or limits.memory, without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub guest: Option<Quantity>,
    /// Up to how much may be plugged in while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::quantity")]
    pub max_guest: Option<Quantity>,
    /// Huge pages of the node hold the memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugepages: Option<Hugepages>,
    /// Fields without effect.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

/// Huge pages of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hugepages {
    /// Their size.
    pub page_size: PageSize,
}

/// Sizes of huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PageSize {
    /// 2 MiB.
    #[serde(rename = "2Mi")]
    TwoMi,
    /// 1 GiB.
    #[serde(rename = "1Gi")]
    OneGi,
}

impl PageSize {
    /// The word for it in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::TwoMi => "2Mi",
            Self::OneGi => "1Gi",
        }
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::TwoMi => 2 << 20,
            Self::OneGi => 1 << 30,
        }
    }
}

/// What the pod asks of its node, `cpu` and `memory`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What is set aside for the machine.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quantities")]
    pub requests: BTreeMap<String, Quantity>,
    /// What the machine may use at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quantities")]
    pub limits: BTreeMap<String, Quantity>,
    /// Fields without effect.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

/// Identity and start of the machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Firmware {
    /// The machine's UUID in SMBIOS; made of the object's own without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(
        pattern = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
    ))]
    pub uuid: Option<String>,
    /// The machine's serial number in SMBIOS.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub serial: Option<String>,
    /// A kernel from an image, instead of the one on the boot disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_boot: Option<KernelBoot>,
    /// What would start the kernel. It is entered without firmware, whatever
    /// this says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootloader: Option<Bootloader>,
    /// Fields without effect.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

/// A kernel from an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KernelBoot {
    /// The kernel's command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub kernel_args: Option<String>,
    /// Where the kernel is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<KernelContainer>,
}

/// An image that holds a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KernelContainer {
    /// The image.
    #[schemars(length(min = 1, max = 1024))]
    pub image: String,
    /// When the image is pulled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// A secret to pull it with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_secret: Option<String>,
    /// The kernel's path in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub kernel_path: Option<String>,
    /// The initramfs' path in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub initrd_path: Option<String>,
}

/// What would start the kernel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Bootloader {
    /// UEFI.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub efi: Option<Efi>,
    /// Fields without effect.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

/// UEFI.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Efi {
    /// Fields without effect.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

/// What happens when a guest reboots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RebootPolicy {
    /// It starts again in the same pod.
    Reboot,
    /// The pod ends; the run strategy says what follows.
    Terminate,
}
