//! From a virtual machine to its pod, as a pure function.
//!
//! In: a [`VirtualMachine`], the [`Launcher`]'s configuration and which claims
//! are block devices. Out: the pod, complete, with the [`Machine`] that its
//! launcher starts in an annotation. Nothing is asked of a cluster.

mod network;
mod probes;
mod resources;
mod security;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container, EnvVar, Lifecycle, LifecycleHandler, LocalObjectReference, Pod, PodSpec,
    ResourceRequirements, SleepAction,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource as _;

use crate::api::VirtualMachine;
use crate::api::domain::{Domain, RebootPolicy};
use crate::api::instance::{DEFAULT_GRACE_SECONDS, InstanceSpec};
use crate::machine::{self, Devices, Machine};
use crate::quantity::QuantityError;

/// The label of a pod that names its virtual machine.
pub const LABEL: &str = "bootwright.dev/vm";

/// The annotation of a virtual machine that asks for a restart when it
/// changes, and of its pod that says which value it was started with.
pub const RESTARTED_AT: &str = "bootwright.dev/restarted-at";

/// The name of the container of a pod.
pub const CONTAINER: &str = "launcher";

/// The name of the port of a pod at which its launcher serves metrics.
pub const METRICS_PORT: &str = "vm-metrics";

/// How much longer than its guest a pod may take to end: KubeVirt's, in
/// seconds.
const GRACE_BEYOND_GUEST: i64 = 30;

/// How long a machine with a readiness probe goes on when its pod is asked to
/// end, in seconds: Services send it connections until every node has heard of
/// that, and a guest whose power button is pressed takes none.
const GOES_ON_SECONDS: i64 = 5;

/// How pods start machines, the same for all of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launcher {
    /// The launcher's image.
    pub image: String,
    /// Whether machines run without KVM.
    pub emulation: bool,
    /// Whether nodes have user namespaces. Without, a machine with a
    /// bootableContainer has root's user id on its node.
    pub user_namespaces: bool,
    /// The TCP port of pods at which launchers serve metrics, if they do.
    pub metrics_port: Option<u16>,
    /// Whether nodes have image volumes. Without, launchers fetch images
    /// themselves, into the scratch space.
    pub image_volumes: bool,
}

/// How a claim shows its volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeMode {
    /// As a file system.
    Filesystem,
    /// As a block device.
    Block,
}

/// A virtual machine that has no pod.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PodError {
    /// The virtual machine was not read from a cluster.
    #[error("metadata.{0} is missing")]
    NoMetadata(&'static str),
    /// An amount cannot be read.
    #[error("{field}: {source}")]
    Quantity {
        /// The field that holds it.
        field: &'static str,
        /// What is wrong.
        source: QuantityError,
    },
    /// There is no amount of memory.
    #[error("domain.memory.guest: set it, or resources.requests.memory")]
    NoMemory,
    /// Two amounts contradict each other.
    #[error("{0}")]
    Contradiction(String),
    /// A disk has the name of no volume.
    #[error("domain.devices.disks: there is no volume {0:?}")]
    NoSuchVolume(String),
    /// A volume has no source, or one that is not supported.
    #[error("volumes: {0:?} has no source that is supported")]
    NoSource(String),
    /// There is no disk, or the first holds no system.
    #[error("there is no disk to boot from: {0}")]
    NothingToBoot(String),
    /// A claim is not there (yet).
    #[error("there is no PersistentVolumeClaim {0:?}")]
    NoClaim(String),
    /// A probe asks nothing that is supported.
    #[error("{0}: set httpGet, tcpSocket, guestAgentPing or exec")]
    NoProbe(&'static str),
    /// The machine cannot be written as JSON.
    #[error("cannot write the machine: {0}")]
    Json(String),
}

/// The pod of a virtual machine.
///
/// `claims` holds the claims of the machine's namespace that its spec names.
///
/// # Errors
/// If the spec contradicts itself or names what is not there.
pub fn pod(
    vm: &VirtualMachine,
    launcher: &Launcher,
    claims: &BTreeMap<String, VolumeMode>,
) -> Result<Pod, PodError> {
    let spec = &vm.spec.template.spec;
    let volumes = volumes::volumes(spec, launcher, claims)?;
    let uid = vm.metadata.uid.clone().unwrap_or_default();
    let interface = network::interface(spec, &uid);
    let resources = resources::resources(&spec.domain, interface.as_ref(), launcher)?;
    let metrics_port = network::metrics_port(spec, launcher.metrics_port);
    let machine = Machine {
        metrics_port,
        ..machine(vm, launcher, &volumes, &resources, interface)?
    };
    let json = serde_json::to_string(&machine).map_err(|e| PodError::Json(e.to_string()))?;
    let name = vm.metadata.name.clone().unwrap_or_default();
    let security = security::security(volumes.has_root(), launcher);
    let container = Container {
        name: CONTAINER.into(),
        image: Some(launcher.image.clone()),
        args: Some(vec!["launch".into(), machine::PATH.into()]),
        command: Some(vec![machine::PROGRAM.into()]),
        env: Some(environment()),
        lifecycle: lifecycle(spec),
        ports: some(network::ports(spec, metrics_port)),
        liveness_probe: probes::liveness(spec)?,
        readiness_probe: probes::readiness(spec)?,
        resources: Some(resources.requirements),
        security_context: Some(security.container),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        volume_devices: some(volumes.devices),
        volume_mounts: some(volumes.mounts),
        ..Container::default()
    };
    let pod_spec = PodSpec {
        affinity: spec.affinity.clone(),
        automount_service_account_token: Some(false),
        containers: vec![container],
        dns_config: spec.dns_config.clone(),
        dns_policy: spec.dns_policy.map(|policy| policy.word().into()),
        enable_service_links: Some(false),
        host_users: security.host_users,
        hostname: Some(spec.hostname.clone().unwrap_or(name)),
        image_pull_secrets: some(pull_secrets(&volumes.pull_secrets)),
        node_selector: some_map(node_selector(spec)),
        priority_class_name: spec.priority_class_name.clone(),
        restart_policy: Some("Never".into()),
        scheduler_name: spec.scheduler_name.clone(),
        security_context: Some(security.pod),
        service_account_name: volumes.service_account,
        subdomain: spec.subdomain.clone(),
        termination_grace_period_seconds: Some(pod_grace(spec)),
        tolerations: some(spec.tolerations.clone()),
        topology_spread_constraints: some(spec.topology_spread_constraints.clone()),
        volumes: some(volumes.volumes),
        ..PodSpec::default()
    };
    Ok(Pod {
        metadata: metadata(vm, json)?,
        spec: Some(pod_spec),
        status: None,
    })
}

/// The name of a virtual machine's pod. There is one name, so that the API
/// server itself sees to it that no machine runs twice.
pub fn name(machine: &str) -> String {
    format!("{machine}-vm")
}

/// The claims that a machine's spec names.
pub fn claims(spec: &InstanceSpec) -> BTreeSet<String> {
    let name = |volume: &crate::api::volumes::Volume| {
        let claim = volume.persistent_volume_claim.as_ref();
        let ephemeral = volume.ephemeral.as_ref();
        claim
            .or(ephemeral.map(|e| &e.persistent_volume_claim))
            .map(|claim| claim.claim_name.clone())
            .or(volume.data_volume.as_ref().map(|data| data.name.clone()))
    };
    spec.volumes.iter().filter_map(name).collect()
}

/// The processors and the memory of a machine.
///
/// # Errors
/// If the spec contradicts itself or does not say them.
pub fn size(domain: &Domain) -> Result<(machine::Cpus, machine::Memory), PodError> {
    resources::size(domain)
}

/// What a machine's pod asks of its node.
///
/// # Errors
/// If the spec contradicts itself or does not say enough.
pub fn requirements(
    spec: &InstanceSpec,
    launcher: &Launcher,
) -> Result<ResourceRequirements, PodError> {
    // Whose interface it is does not matter here.
    let interface = network::interface(spec, "");
    let sized = resources::resources(&spec.domain, interface.as_ref(), launcher)?;
    Ok(sized.requirements)
}

/// The interface of a machine with this UID to its pod's network, unless it
/// has none.
pub fn interface(spec: &InstanceSpec, uid: &str) -> Option<machine::Interface> {
    network::interface(spec, uid)
}

fn metadata(vm: &VirtualMachine, machine: String) -> Result<ObjectMeta, PodError> {
    let missing = PodError::NoMetadata;
    let own = vm.metadata.name.clone().ok_or(missing("name"))?;
    let template = &vm.spec.template.metadata;
    let mut labels = template.labels.clone();
    labels.insert(LABEL.into(), own.clone());
    let mut annotations = template.annotations.clone();
    annotations.insert(machine::ANNOTATION.into(), machine);
    let restarted = (vm.metadata.annotations.as_ref()).and_then(|all| all.get(RESTARTED_AT));
    if let Some(restarted) = restarted {
        annotations.insert(RESTARTED_AT.into(), restarted.clone());
    }
    let owner = OwnerReference {
        api_version: VirtualMachine::api_version(&()).into(),
        kind: VirtualMachine::kind(&()).into(),
        name: own.clone(),
        uid: vm.metadata.uid.clone().ok_or(missing("uid"))?,
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    Ok(ObjectMeta {
        name: Some(name(&own)),
        namespace: Some(vm.metadata.namespace.clone().ok_or(missing("namespace"))?),
        labels: Some(labels),
        annotations: Some(annotations),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    })
}

fn machine(
    vm: &VirtualMachine,
    launcher: &Launcher,
    volumes: &volumes::Volumes,
    resources: &resources::Sized,
    interface: Option<machine::Interface>,
) -> Result<Machine, PodError> {
    let spec = &vm.spec.template.spec;
    let devices = &spec.domain.devices;
    let firmware = spec.domain.firmware.as_ref();
    let name = (spec.hostname.as_ref()).or(vm.metadata.name.as_ref());
    let console = devices.autoattach_serial_console.unwrap_or(true);
    Ok(Machine {
        name: name.cloned().ok_or(PodError::NoMetadata("name"))?,
        uuid: firmware
            .and_then(|f| f.uuid.clone())
            .or_else(|| vm.metadata.uid.clone()),
        serial: firmware.and_then(|f| f.serial.clone()),
        emulated: launcher.emulation,
        cpus: resources.cpus,
        memory: resources.memory,
        kernel: volumes.kernel.clone(),
        disks: volumes.disks.clone(),
        interface,
        keys: volumes.keys.clone(),
        probes: probes::commands(spec, launcher)?,
        devices: Devices {
            console,
            log_console: console && devices.log_serial_console.unwrap_or(true),
            balloon: devices.autoattach_mem_balloon.unwrap_or(true),
            vsock: devices.autoattach_vsock.unwrap_or(true),
            disk_queues: devices.block_multi_queue.unwrap_or(false),
            interface_queues: devices.network_interface_multi_queue.unwrap_or(false),
        },
        grace_seconds: u64::try_from(grace(spec)).unwrap_or(0),
        paused: spec.start_strategy.is_some(),
        ends_on_reboot: spec.domain.reboot_policy == Some(RebootPolicy::Terminate),
        metrics_port: None,
    })
}

fn grace(spec: &InstanceSpec) -> i64 {
    (spec.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE_SECONDS)
}

/// For how many seconds a machine goes on when its pod is asked to end. One
/// that nobody asks whether it is ready is not kept waiting: a Service sends
/// connections to it while it starts, too.
fn goes_on(spec: &InstanceSpec) -> Option<i64> {
    spec.readiness_probe.as_ref().map(|_| GOES_ON_SECONDS)
}

/// Has the kubelet wait before it sends the signal at which the launcher
/// presses the power button:
/// <https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/>.
fn lifecycle(spec: &InstanceSpec) -> Option<Lifecycle> {
    let sleep = SleepAction {
        seconds: goes_on(spec)?,
    };
    Some(Lifecycle {
        pre_stop: Some(LifecycleHandler {
            sleep: Some(sleep),
            ..LifecycleHandler::default()
        }),
        ..Lifecycle::default()
    })
}

/// How long a pod may take to end: its guest's time, and what comes before and
/// after.
fn pod_grace(spec: &InstanceSpec) -> i64 {
    let before = goes_on(spec).unwrap_or(0);
    grace(spec).saturating_add(before + GRACE_BEYOND_GUEST)
}

/// Where the launcher keeps what the guest writes, and its sockets: as
/// `bootwright run` finds it, so that its other commands work in the pod.
fn environment() -> Vec<EnvVar> {
    let variable = |name: &str, value: &str| EnvVar {
        name: name.into(),
        value: Some(value.into()),
        value_from: None,
    };
    vec![
        variable("HOME", machine::SCRATCH),
        variable("TMPDIR", machine::SCRATCH),
        variable("XDG_RUNTIME_DIR", machine::RUNTIME),
    ]
}

fn node_selector(spec: &InstanceSpec) -> BTreeMap<String, String> {
    let mut selector = spec.node_selector.clone();
    if let Some(architecture) = spec.architecture {
        selector.insert("kubernetes.io/arch".into(), architecture.word().into());
    }
    selector
}

fn pull_secrets(names: &BTreeSet<String>) -> Vec<LocalObjectReference> {
    let names = names.iter().cloned();
    names.map(|name| LocalObjectReference { name }).collect()
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn some_map<K, V>(map: BTreeMap<K, V>) -> Option<BTreeMap<K, V>> {
    (!map.is_empty()).then_some(map)
}
