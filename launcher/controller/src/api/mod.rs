//! The custom resources of the group `bootwright.dev`, version `v1alpha1`.
//!
//! Types are in the shape of KubeVirt's `VirtualMachine`
//! (`staging/src/kubevirt.io/api/core/v1`), so that its manifests are ours
//! after a change of `apiVersion`. [`crd`] makes the definitions of them that
//! a cluster's API server enforces, with the rules of [`rules`].

pub mod crd;
pub mod devices;
pub mod domain;
pub mod instance;
// The columns of a table are alike.
#[allow(clippy::duplicated_attributes)]
pub mod pool;
pub mod rules;
mod schema;
pub mod status;
// The columns of a table are alike.
#[allow(clippy::duplicated_attributes)]
pub mod virtual_machine;
pub mod volumes;

pub use pool::{VirtualMachinePool, VirtualMachinePoolSpec};
pub use virtual_machine::{VirtualMachine, VirtualMachineSpec};

use std::collections::BTreeMap;

/// The API group.
pub const GROUP: &str = "bootwright.dev";

/// The only version of the API.
pub const VERSION: &str = "v1alpha1";

/// Fields of an object that its type does not declare: those of [`crate::fields`],
/// and whatever else was stored before the definition was there.
pub type Other = BTreeMap<String, serde_json::Value>;
