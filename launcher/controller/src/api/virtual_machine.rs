//! `VirtualMachine`: what should run, and when.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::instance::InstanceSpec;
use super::status::VirtualMachineStatus;
use super::{Other, schema};

/// What should run, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "bootwright.dev",
    version = "v1alpha1",
    kind = "VirtualMachine",
    plural = "virtualmachines",
    shortname = "bvm",
    category = "all",
    namespaced,
    status = "VirtualMachineStatus",
    derive = "PartialEq",
    doc = "A virtual machine, in the shape of KubeVirt's",
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.printableStatus",
        description = "What the machine is doing"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the machine runs and its readiness probe succeeds"
    ),
    printcolumn(
        name = "IP",
        type_ = "string",
        json_path = ".status.interfaces[0].ipAddress",
        priority = 1
    ),
    printcolumn(
        name = "Node",
        type_ = "string",
        json_path = ".status.nodeName",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineSpec {
    /// When the machine should run. Exactly one of this and `running` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_strategy: Option<RunStrategy>,
    /// Deprecated: true is runStrategy Always, false is Halted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<bool>,
    /// The machine.
    pub template: InstanceTemplate,
    /// Fields without effect.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

/// When a machine should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunStrategy {
    /// Started, and started again whenever it has ended.
    Always,
    /// Not running.
    Halted,
    /// Started and stopped by request only.
    Manual,
    /// Started, and started again after a failure but not after its guest
    /// powered it off.
    RerunOnFailure,
    /// Started once.
    Once,
}

impl VirtualMachineSpec {
    /// The run strategy, whichever of the two fields says it. Halted when
    /// neither does, which the API server does not admit.
    pub fn strategy(&self) -> RunStrategy {
        match (self.run_strategy, self.running) {
            (Some(strategy), _) => strategy,
            (None, Some(true)) => RunStrategy::Always,
            (None, Some(false) | None) => RunStrategy::Halted,
        }
    }
}

/// The machine and what its pods are labelled with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceTemplate {
    /// Labels and annotations of the machine's pods.
    #[serde(default, skip_serializing_if = "TemplateMeta::is_empty")]
    pub metadata: TemplateMeta,
    /// The machine.
    pub spec: InstanceSpec,
}

/// Labels and annotations of what is made from a template.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateMeta {
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::strings")]
    pub annotations: BTreeMap<String, String>,
}

impl TemplateMeta {
    fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.annotations.is_empty()
    }
}
