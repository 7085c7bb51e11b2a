//! `VirtualMachinePool`: machines of one template.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;
use super::virtual_machine::{TemplateMeta, VirtualMachineSpec};

/// Machines of one template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "bootwright.dev",
    version = "v1alpha1",
    kind = "VirtualMachinePool",
    plural = "virtualmachinepools",
    shortname = "bvmpool",
    category = "all",
    namespaced,
    status = "VirtualMachinePoolStatus",
    derive = "PartialEq",
    doc = "Virtual machines of one template, replaced a few at a time when it changes",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.labelSelector"
    ),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Current", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(
        name = "Updated",
        type_ = "integer",
        json_path = ".status.updatedReplicas"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachinePoolSpec {
    /// How many machines.
    #[serde(default = "one")]
    #[schemars(range(min = 0))]
    pub replicas: i32,
    /// Which machines are the pool's; the template has these labels.
    #[schemars(schema_with = "schema::selector")]
    pub selector: LabelSelector,
    /// What each machine is made from.
    pub virtual_machine_template: MachineTemplate,
    /// Whether a changed template waits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// How machines of an old template are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<UpdateStrategy>,
    /// How long a machine must be ready to count as available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub min_ready_seconds: Option<i32>,
    /// An update without progress for this long has failed.
    #[serde(default = "ten_minutes")]
    #[schemars(range(min = 1))]
    pub progress_deadline_seconds: i32,
    /// How many old templates are kept to go back to.
    #[serde(default = "ten")]
    #[schemars(range(min = 0, max = 100))]
    pub revision_history_limit: i32,
}

fn one() -> i32 {
    1
}

fn ten() -> i32 {
    10
}

fn ten_minutes() -> i32 {
    600
}

/// What each machine is made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MachineTemplate {
    /// Labels and annotations of the machines.
    #[serde(default)]
    pub metadata: TemplateMeta,
    /// The machines.
    pub spec: VirtualMachineSpec,
}

/// How machines of an old template are replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// A few at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolling_update: Option<RollingUpdate>,
}

/// How many machines at a time, as a number or a percentage of replicas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollingUpdate {
    /// How many more than replicas there may be; 25% without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::count")]
    pub max_surge: Option<IntOrString>,
    /// How many of replicas may be missing; 25% without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::count")]
    pub max_unavailable: Option<IntOrString>,
}

/// What the controller says about a pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachinePoolStatus {
    /// The generation of the spec that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many machines there are.
    #[serde(default)]
    pub replicas: i32,
    /// How many are of the newest template.
    #[serde(default)]
    pub updated_replicas: i32,
    /// How many are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// How many have been ready for minReadySeconds.
    #[serde(default)]
    pub available_replicas: i32,
    /// The selector as text, for the scale subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
    /// The newest template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_revision: Option<String>,
    /// When an update came further last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progressed: Option<Time>,
    /// Available, Progressing, Failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
