//! The machine: hardware, volumes, networks, and where its pod may run.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, HTTPHeader, PodDNSConfig, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::domain::Domain;
use super::volumes::Volume;
use super::{Other, schema};

/// The machine: hardware, volumes, networks, and where its pod may run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceSpec {
    /// The hardware.
    pub domain: Domain,
    /// What the disks hold. A volume that no disk names becomes a disk after
    /// the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub volumes: Vec<Volume>,
    /// What the interfaces are connected to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub networks: Vec<Network>,
    /// How long the guest may take to shut down after its power button was
    /// pressed.
    #[serde(default = "default_grace", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub termination_grace_period_seconds: Option<i64>,
    /// The guest is restarted when this fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,
    /// The machine is ready, and a Service's endpoint, while this succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Probe>,
    /// The guest's host name; the machine's name without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub hostname: Option<String>,
    /// The domain, below the namespace's, in which the host name is found.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub subdomain: Option<String>,
    /// Which name servers the guest is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_policy: Option<DnsPolicy>,
    /// Name servers and search domains besides those of dnsPolicy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_config: Option<PodDNSConfig>,
    /// Keys that open the machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub access_credentials: Vec<AccessCredential>,
    /// Whether the machine waits for a resume before its first instruction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_strategy: Option<StartStrategy>,
    /// The processor architecture of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::strings")]
    pub node_selector: BTreeMap<String, String>,
    /// Which nodes and neighbours are wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints that do not keep the machine away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// How machines spread over zones and nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Its importance among pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// The scheduler that chooses its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler_name: Option<String>,
    /// Fields without effect.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

/// KubeVirt's default for how long a guest may take to shut down, in seconds.
pub const DEFAULT_GRACE_SECONDS: i64 = 30;

// The signature is serde's.
#[allow(clippy::unnecessary_wraps)]
fn default_grace() -> Option<i64> {
    Some(DEFAULT_GRACE_SECONDS)
}

/// What an interface is connected to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Network {
    /// The name by which an interface names it.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The pod's own network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodNetwork>,
    /// Networks of other kinds.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

/// The pod's own network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PodNetwork {
    /// Fields without effect.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

/// A question that tells whether the guest is well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Succeeds when a GET is answered with a status from 200 to 399.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGet>,
    /// Succeeds when a connection is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocket>,
    /// Succeeds when the guest has said that it has booted. No agent is
    /// needed for it; systemd says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_agent_ping: Option<Empty>,
    /// Succeeds when a command in the guest ends with status 0. No agent is
    /// needed for it, but systemd 256 or newer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
    /// Time after the start before the first question.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub initial_delay_seconds: Option<i32>,
    /// How long an answer may take.
    #[serde(default = "one", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub timeout_seconds: Option<i32>,
    /// Time between two questions.
    #[serde(default = "ten", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub period_seconds: Option<i32>,
    /// Successes in a row that end a failure.
    #[serde(default = "one", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub success_threshold: Option<i32>,
    /// Failures in a row that count as one.
    #[serde(default = "three", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub failure_threshold: Option<i32>,
    /// Questions of other kinds.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

#[allow(clippy::unnecessary_wraps)]
fn one() -> Option<i32> {
    Some(1)
}

#[allow(clippy::unnecessary_wraps)]
fn three() -> Option<i32> {
    Some(3)
}

#[allow(clippy::unnecessary_wraps)]
fn ten() -> Option<i32> {
    Some(10)
}

/// A command in the guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Exec {
    /// The program, by its path or its name in systemd's PATH, and its
    /// arguments: at most 4096 bytes. Root runs it, and no shell reads it.
    #[schemars(length(min = 1, max = 64))]
    pub command: Vec<String>,
}

/// A question over HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGet {
    /// The port's number.
    #[schemars(schema_with = "schema::port")]
    pub port: IntOrString,
    /// The path; / without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// HTTP or HTTPS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The host to connect to; the machine without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Headers to send.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http_headers: Vec<HTTPHeader>,
}

/// A question over TCP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TcpSocket {
    /// The port's number.
    #[schemars(schema_with = "schema::port")]
    pub port: IntOrString,
    /// The host to connect to; the machine without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// Which name servers the guest is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DnsPolicy {
    /// The cluster's.
    ClusterFirst,
    /// The cluster's, also in the host's network.
    ClusterFirstWithHostNet,
    /// The node's.
    Default,
    /// Those of dnsConfig only.
    None,
}

impl DnsPolicy {
    /// The word for it in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::ClusterFirst => "ClusterFirst",
            Self::ClusterFirstWithHostNet => "ClusterFirstWithHostNet",
            Self::Default => "Default",
            Self::None => "None",
        }
    }
}

/// Whether a machine runs from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StartStrategy {
    /// It waits to be resumed.
    Paused,
}

/// The processor architecture of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
}

impl Architecture {
    /// The word for it in the API and in the label of nodes.
    pub fn word(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// Keys that open the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessCredential {
    /// Keys for ssh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh_public_key: Option<SshPublicKey>,
    /// Credentials of other kinds.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

/// Keys for ssh and how the guest gets them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SshPublicKey {
    /// Where the keys are: each value is a list of them, one a line.
    pub source: KeySource,
    /// How the guest gets them.
    pub propagation_method: Propagation,
}

/// Where keys are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KeySource {
    /// The values of this secret.
    pub secret: KeySecret,
}

/// A secret that holds keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeySecret {
    /// The name of the secret, in the machine's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// How the guest gets its keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Propagation {
    /// With the data of cloudInitNoCloud.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_cloud: Option<Empty>,
    /// With the data of cloudInitConfigDrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_drive: Option<Empty>,
    /// Other ways.
    #[serde(flatten)]
    #[schemars(skip)]
    pub other: Other,
}

/// An object that says something by being there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Empty {}
