//! The kubelet's device plugin that hands out `/dev/kvm`.
//!
//! In: the kubelet's folder for plugins. Out: a resource of which each node
//! with a usable `/dev/kvm` has a number, and the device in every container
//! that has one of it; no pod needs to be privileged for that. The protocol
//! is the [device plugin API], v1beta1: gRPC over unix sockets, which
//! `grpc` speaks over HTTP/2 frames and `messages` spell out.
//!
//! [device plugin API]: https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/

mod grpc;
mod messages;
mod plugin;
mod watch;

use std::io;
use std::path::PathBuf;

pub use plugin::{Event, run};

/// The kubelet's folder for plugins.
pub const PLUGINS: &str = "/var/lib/kubelet/device-plugins";

/// The resource that is offered.
pub const RESOURCE: &str = "bootwright.dev/kvm";

/// The device that is handed out.
pub const DEVICE: &str = "/dev/kvm";

/// How many containers can have the device at once, unless told otherwise.
pub const DEVICES: u32 = 1000;

/// The most that can be offered: all are named in one message.
pub const MAX_DEVICES: u32 = 10_000;

/// What is offered, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The kubelet's folder for plugins.
    pub plugins: PathBuf,
    /// The resource's name.
    pub resource: String,
    /// The device's path, on the node and in containers.
    pub device: String,
    /// How many containers can have it at once, 1 to [`MAX_DEVICES`].
    pub count: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            plugins: PLUGINS.into(),
            resource: RESOURCE.into(),
            device: DEVICE.into(),
            count: DEVICES,
        }
    }
}

/// Why the plugin cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A file or socket of the plugin's.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The kubelet refuses the plugin, or does not speak its protocol.
    #[error("the kubelet does not take the plugin: {0}")]
    Kubelet(String),
}
