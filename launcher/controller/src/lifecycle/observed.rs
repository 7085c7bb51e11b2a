//! What is known of a machine's pod.
//!
//! In: a pod as the API server shows it. Out: the few facts about it that
//! decide what happens next. A pod as a whole is many times as large, and the
//! controller holds one of these for each.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;
use kube::Resource as _;

use super::requests::{PAUSED, STARTED_AT};
use super::size::Given;
use crate::api::VirtualMachine;
use crate::machine;
use crate::pod::{CONTAINER, RESTARTED_AT};

/// The annotation of a pod with the digest of the template it was made from.
pub const TEMPLATE: &str = "bootwright.dev/template";

/// What is known of a machine's pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodState {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The version of it that this is about.
    pub version: u64,
    /// The name and UID of the machine that it belongs to.
    pub owner: Option<(String, String)>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// By when it should be gone, if it is being deleted.
    pub deletion: Option<Timestamp>,
    /// Where it is in its life.
    pub phase: PodPhase,
    /// Why it is in that phase.
    pub reason: Option<String>,
    /// The same, for people.
    pub message: Option<String>,
    /// Its node.
    pub node: Option<String>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Since when it has been ready.
    pub ready: Option<Timestamp>,
    /// When its node was chosen.
    pub scheduled: Option<Timestamp>,
    /// Why no node was.
    pub unschedulable: Option<String>,
    /// Why its container does not run yet.
    pub waiting: Option<Waiting>,
    /// When its container started.
    pub started: Option<Timestamp>,
    /// How its container ended.
    pub ended: Option<Ended>,
    /// The digest of the template that it was made from.
    pub template: Option<String>,
    /// The request to start that it answers.
    pub started_at: Option<String>,
    /// The request to restart that it answers.
    pub restarted_at: Option<String>,
    /// Whether its guest is to stand still.
    pub paused: Option<String>,
    /// The processors and the memory that its launcher was told.
    pub size: Option<Given>,
}

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PodPhase {
    /// It does not run yet.
    #[default]
    Pending,
    /// It runs.
    Running,
    /// Its container ended well.
    Succeeded,
    /// Its container ended badly.
    Failed,
    /// Its node does not say.
    Unknown,
}

/// Why a container does not run yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// One word: `ImagePullBackOff`.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// When.
    pub at: Option<Timestamp>,
    /// Its exit status.
    pub code: i32,
    /// The last that it said.
    pub message: String,
}

impl PodState {
    /// Whether its container has ended for good.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, PodPhase::Succeeded | PodPhase::Failed)
    }

    /// Whether it runs, or is going to.
    pub fn is_live(&self) -> bool {
        !self.is_over() && self.deletion.is_none()
    }

    /// Whether it belongs to the machine with this UID.
    pub fn is_of(&self, uid: &str) -> bool {
        self.owner.as_ref().is_some_and(|(_, owner)| owner == uid)
    }

    /// How long its container ran.
    pub fn ran(&self) -> Option<k8s_openapi::jiff::SignedDuration> {
        let ended = self.ended.as_ref()?.at?;
        Some(ended.duration_since(self.started?))
    }
}

impl From<&Pod> for PodState {
    fn from(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let annotation = |name: &str| meta.annotations.as_ref()?.get(name).cloned();
        let mut state = Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            version: version(meta.resource_version.as_deref()),
            owner: owner(pod),
            created: meta.creation_timestamp.as_ref().map(|time| time.0),
            deletion: meta.deletion_timestamp.as_ref().map(|time| time.0),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            template: annotation(TEMPLATE),
            started_at: annotation(STARTED_AT),
            restarted_at: annotation(RESTARTED_AT),
            paused: annotation(PAUSED),
            size: annotation(machine::ANNOTATION).and_then(|json| serde_json::from_str(&json).ok()),
            ..Self::default()
        };
        let Some(status) = &pod.status else {
            return state;
        };
        state.phase = match status.phase.as_deref() {
            Some("Running") => PodPhase::Running,
            Some("Succeeded") => PodPhase::Succeeded,
            Some("Failed") => PodPhase::Failed,
            Some("Unknown") => PodPhase::Unknown,
            _ => PodPhase::Pending,
        };
        state.reason.clone_from(&status.reason);
        state.message.clone_from(&status.message);
        let addresses = status.pod_ips.iter().flatten();
        state.addresses = addresses.map(|address| address.ip.clone()).collect();
        for condition in status.conditions.iter().flatten() {
            state.note(condition);
        }
        let mut containers = status.container_statuses.iter().flatten();
        if let Some(container) = containers.find(|container| container.name == CONTAINER) {
            state.look_into(container);
        }
        state
    }
}

impl PodState {
    fn note(&mut self, condition: &PodCondition) {
        let since = condition.last_transition_time.as_ref().map(|time| time.0);
        match (condition.type_.as_str(), condition.status.as_str()) {
            // A condition without a time is true since the pod is there.
            ("Ready", "True") => self.ready = since.or(self.created),
            ("PodScheduled", "True") => self.scheduled = since.or(self.created),
            ("PodScheduled", "False") => {
                let unschedulable = condition.reason.as_deref() == Some("Unschedulable");
                let message = condition.message.clone().unwrap_or_default();
                self.unschedulable = unschedulable.then_some(message);
            }
            _ => {}
        }
    }

    fn look_into(&mut self, container: &ContainerStatus) {
        let Some(state) = &container.state else {
            return;
        };
        if let Some(waiting) = &state.waiting {
            self.waiting = Some(Waiting {
                reason: waiting.reason.clone().unwrap_or_default(),
                message: waiting.message.clone().unwrap_or_default(),
            });
        }
        if let Some(running) = &state.running {
            self.started = running.started_at.as_ref().map(|time| time.0);
        }
        if let Some(ended) = &state.terminated {
            self.started = ended.started_at.as_ref().map(|time| time.0);
            self.ended = Some(Ended {
                at: ended.finished_at.as_ref().map(|time| time.0),
                code: ended.exit_code,
                message: ended.message.clone().unwrap_or_default(),
            });
        }
    }
}

/// The machine that a pod belongs to.
fn owner(pod: &Pod) -> Option<(String, String)> {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    let owner = owners.find(|owner| {
        owner.controller == Some(true)
            && owner.kind == VirtualMachine::kind(&())
            && owner.api_version == VirtualMachine::api_version(&())
    })?;
    Some((owner.name.clone(), owner.uid.clone()))
}

/// A resource version as a number, by which versions of one resource are
/// ordered (Kubernetes 1.35: "Resource versions"); 0 if it is none.
pub fn version(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state(status: serde_json::Value) -> PodState {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "web-vm",
                "namespace": "default",
                "uid": "p1",
                "resourceVersion": "42",
                "creationTimestamp": "2026-11-01T10:00:00Z",
                "annotations": { TEMPLATE: "abc", RESTARTED_AT: "r" },
                "ownerReferences": [
                    { "apiVersion": "v1", "kind": "Other", "name": "o", "uid": "o" },
                    { "apiVersion": "bootwright.dev/v1alpha1", "kind": "VirtualMachine",
                      "name": "web", "uid": "m1", "controller": true },
                ],
            },
            "spec": { "containers": [], "nodeName": "n1" },
            "status": status,
        }))
        .unwrap();
        PodState::from(&pod)
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_running_pod_is_understood() {
        let state = state(json!({
            "phase": "Running",
            "podIPs": [{ "ip": "10.0.0.7" }, { "ip": "fd00::7" }],
            "conditions": [
                { "type": "PodScheduled", "status": "True",
                  "lastTransitionTime": "2026-11-01T10:00:01Z" },
                { "type": "Ready", "status": "True",
                  "lastTransitionTime": "2026-11-01T10:00:09Z" },
            ],
            "containerStatuses": [
                { "name": "sidecar", "ready": true, "restartCount": 0, "image": "", "imageID": "",
                  "state": { "waiting": { "reason": "ImagePullBackOff" } } },
                { "name": "launcher", "ready": true, "restartCount": 0, "image": "", "imageID": "",
                  "state": { "running": { "startedAt": "2026-11-01T10:00:03Z" } } },
            ],
        }));
        assert_eq!(state.phase, PodPhase::Running);
        assert_eq!(state.version, 42);
        assert!(state.is_of("m1") && !state.is_of("o") && state.is_live());
        assert_eq!(state.addresses, ["10.0.0.7", "fd00::7"]);
        assert_eq!(state.scheduled, Some(at("2026-11-01T10:00:01Z")));
        assert_eq!(state.started, Some(at("2026-11-01T10:00:03Z")));
        assert_eq!(state.ready, Some(at("2026-11-01T10:00:09Z")));
        assert_eq!((state.node.as_deref(), state.waiting), (Some("n1"), None));
        assert_eq!(state.restarted_at.as_deref(), Some("r"));
    }

    #[test]
    fn an_end_tells_how_long_it_took_to_come() {
        let state = state(json!({
            "phase": "Failed",
            "containerStatuses": [
                { "name": "launcher", "ready": false, "restartCount": 0, "image": "",
                  "imageID": "", "state": { "terminated": {
                    "exitCode": 3, "message": "no kernel",
                    "startedAt": "2026-11-01T10:00:03Z",
                    "finishedAt": "2026-11-01T10:01:03Z" } } },
            ],
        }));
        assert!(state.is_over() && !state.is_live());
        assert_eq!(state.ran().unwrap().as_secs(), 60);
        let ended = state.ended.unwrap();
        assert_eq!((ended.code, ended.message.as_str()), (3, "no kernel"));
    }

    #[test]
    fn a_pod_without_status_is_pending_and_one_without_anything_harmless() {
        assert_eq!(state(serde_json::Value::Null).phase, PodPhase::Pending);
        assert_eq!(PodState::from(&Pod::default()), PodState::default());
        assert_eq!(version(Some("not a number")), 0);
    }
}
