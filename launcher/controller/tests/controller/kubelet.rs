//! What schedulers and kubelets do, as far as the API server sees it.
//!
//! In: the pods of a namespace. Out: their bindings, their status, and at the
//! end of their grace their deletion. What becomes of a pod is said by its
//! annotation [`FATE`].

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// The annotation of a pod that says what becomes of it: `fails`, `ends`,
/// `waits`; it runs without one, and is given more if it asks for it, unless
/// it is `full`.
pub(crate) const FATE: &str = "test/fate";

/// The annotation of a pod that says which node it comes to; `node-1` without.
pub(crate) const NODE: &str = "test/node";

/// The annotation of a pod that says which address it gets; `10.1.2.3` without.
pub(crate) const ADDRESS: &str = "test/address";

/// Ends with the value.
#[derive(Debug)]
pub(crate) struct Kubelet(JoinHandle<()>);

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Kubelet {
    /// Looks after the pods of a namespace.
    pub(crate) fn start(client: kube::Client, namespace: &str) -> Self {
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        Self(tokio::spawn(async move {
            let events = watcher(pods.clone(), watcher::Config::default()).default_backoff();
            let mut events = events.boxed();
            while let Some(event) = events.next().await {
                if let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event {
                    tokio::spawn(look_after(pods.clone(), pod));
                }
            }
        }))
    }
}

/// Takes a pod one step further. Each step changes it, which leads here again.
async fn look_after(pods: Api<Pod>, pod: Pod) {
    let name = pod.metadata.name.clone().unwrap();
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    let fate = annotations.get(FATE).map_or("", String::as_str);
    let node = annotations.get(NODE).map_or("node-1", String::as_str);
    let address = annotations.get(ADDRESS).map_or("10.1.2.3", String::as_str);
    let bound = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.node_name.is_some());
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
    let phase = phase.unwrap_or_default();
    let ended = matches!(phase.as_str(), "Succeeded" | "Failed");
    if pod.metadata.deletion_timestamp.is_some() {
        if !ended && fate != "stays" {
            tokio::time::sleep(Duration::from_millis(100)).await;
            set(&pods, &pod, ended_with(0, Duration::from_secs(1))).await;
        } else if ended {
            let now = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: pod.metadata.uid.clone(),
                    resource_version: None,
                }),
                ..DeleteParams::default().grace_period(0)
            };
            let _ = pods.delete(&name, &now).await;
        }
    } else if !bound {
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": { "name": name },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node },
        });
        let how = PostParams::default();
        let _: Result<Value, _> = pods
            .create_subresource("binding", &name, &how, &binding)
            .await;
    } else if phase == "Pending" && fate == "waits" {
        let waiting = json!({ "reason": "ImagePullBackOff", "message": "no such image" });
        let known = pod.status.as_ref();
        let known = known.and_then(|status| status.container_statuses.as_ref());
        if known.is_none_or(Vec::is_empty) {
            let state = json!({ "phase": "Pending",
                "containerStatuses": [container(&json!({ "waiting": waiting }))] });
            set(&pods, &pod, state).await;
        }
    } else if phase == "Pending" && fate == "fails" {
        set(&pods, &pod, ended_with(1, Duration::from_secs(1))).await;
    } else if phase == "Pending" {
        let now = Timestamp::now();
        let state = json!({
            "phase": "Running",
            "podIPs": [{ "ip": address }],
            "podIP": address,
            "conditions": [
                { "type": "PodScheduled", "status": "True", "lastTransitionTime": now },
                { "type": "Ready", "status": "True", "lastTransitionTime": now },
            ],
            "containerStatuses": [container(&json!({ "running": { "startedAt": now } }))],
        });
        // As the kubelet says what it has set aside.
        let mut state = state;
        state["containerStatuses"][0]["resources"] = resources(&pod);
        set(&pods, &pod, state).await;
    } else if phase == "Running" && is_resized(&pod) && fate != "full" {
        let mut statuses = json!(pod.status.as_ref().unwrap().container_statuses);
        statuses[0]["resources"] = resources(&pod);
        set(&pods, &pod, json!({ "containerStatuses": statuses })).await;
    } else if phase == "Running" && fate == "ends" {
        set(&pods, &pod, ended_with(0, Duration::from_secs(1))).await;
    }
}

/// What a pod's container asks for.
fn resources(pod: &Pod) -> Value {
    let containers = &pod.spec.as_ref().unwrap().containers;
    json!(containers[0].resources)
}

/// Whether a pod asks for something else than it was given.
fn is_resized(pod: &Pod) -> bool {
    let status = pod.status.as_ref().unwrap();
    let given = status.container_statuses.iter().flatten().next();
    given.is_some_and(|given| json!(given.resources) != resources(pod))
}

/// A status after a run of this length.
fn ended_with(code: i32, ran: Duration) -> Value {
    let now = Timestamp::now();
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let ended = json!({ "terminated": {
        "exitCode": code,
        "startedAt": now - ran,
        "finishedAt": now,
        "message": "as it was told",
    } });
    json!({
        "phase": phase,
        "conditions": [{ "type": "Ready", "status": "False", "lastTransitionTime": now }],
        "containerStatuses": [container(&ended)],
    })
}

fn container(state: &Value) -> Value {
    json!({
        "name": "launcher", "image": "launcher:1", "imageID": "", "restartCount": 0,
        "ready": state.get("running").is_some(), "state": state,
    })
}

/// Merges a status in; a pod that has gone meanwhile does not matter.
async fn set(pods: &Api<Pod>, pod: &Pod, status: Value) {
    let patch = json!({ "metadata": { "uid": pod.metadata.uid }, "status": status });
    let (how, name) = (PatchParams::default(), pod.metadata.name.as_deref());
    let _ = pods
        .patch_status(name.unwrap(), &how, &Patch::Merge(&patch))
        .await;
}
