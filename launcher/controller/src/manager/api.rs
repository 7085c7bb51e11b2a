//! Reads and writes of objects, each with a time limit.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use super::NAME;
use super::metrics::Metrics;
use crate::api::pool::VirtualMachinePoolStatus;
use crate::api::status::VirtualMachineStatus;
use crate::api::{VirtualMachine, VirtualMachinePool};
use crate::fence;
use crate::lifecycle::FINALIZER;
use crate::lifecycle::observed::PodState;
use crate::lifecycle::requests::PAUSED;
use crate::machine;
use crate::pod::{CONTAINER, VolumeMode};

/// How long the API server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A read or write that failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The API server said no, or could not be asked.
    #[error("cannot {verb} {resource}: {source}")]
    Failed {
        /// What was tried.
        verb: &'static str,
        /// With what.
        resource: &'static str,
        /// Why it failed.
        source: Box<kube::Error>,
    },
    /// The API server did not answer.
    #[error("cannot {verb} {resource}: no answer within {} s", PATIENCE.as_secs())]
    Silent {
        /// What was tried.
        verb: &'static str,
        /// With what.
        resource: &'static str,
    },
}

impl ApiError {
    /// What the API server said, if it said no.
    pub fn refused(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Failed { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.as_ref()),
                _ => None,
            },
            Self::Silent { .. } => None,
        }
    }

    fn is_not_found(&self) -> bool {
        self.refused().is_some_and(kube::core::Status::is_not_found)
    }
}

/// Reads and writes objects.
#[derive(Clone)]
pub struct Api {
    client: Client,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Api {
    /// Through this client, counting calls.
    pub fn new(client: Client, metrics: Arc<Metrics>) -> Self {
        Self { client, metrics }
    }

    async fn call<T>(
        &self,
        verb: &'static str,
        resource: &'static str,
        work: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ApiError> {
        self.metrics.called(verb, resource);
        limited(verb, resource, work).await
    }

    /// The client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Applies a pod.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn apply_pod(&self, namespace: &str, pod: &Pod) -> Result<Pod, ApiError> {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let pods: kube::Api<Pod> = kube::Api::namespaced(self.client(), namespace);
        // Without force: a pod of the same name that is another's stays as
        // it is.
        let how = PatchParams::apply(NAME);
        let patch = Patch::Apply(pod);
        let applied = pods.patch(&name, &how, &patch);
        self.call("apply", "pods", applied).await
    }

    /// Tells a pod whether its guest stands still.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn pause(&self, pod: &PodState, value: &str) -> Result<Pod, ApiError> {
        let pods: kube::Api<Pod> = kube::Api::namespaced(self.client(), &pod.namespace);
        // A manager of its own, or the other fields would be given up.
        let how = PatchParams::apply("bootwright-controller-pause").force();
        let patch = Patch::Apply(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": pod.name, "uid": pod.uid, "annotations": { PAUSED: value } },
        }));
        let applied = pods.patch(&pod.name, &how, &patch);
        self.call("apply", "pods", applied).await
    }

    /// A pod as a whole, if it is still there.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn pod(&self, pod: &PodState) -> Result<Option<Pod>, ApiError> {
        let pods: kube::Api<Pod> = kube::Api::namespaced(self.client(), &pod.namespace);
        let found = self.call("get", "pods", pods.get_opt(&pod.name)).await?;
        Ok(found.filter(|found| found.metadata.uid.as_ref() == Some(&pod.uid)))
    }

    /// Asks that more is set aside for a pod's launcher.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn reserve(&self, pod: &PodState, resources: &Value) -> Result<Pod, ApiError> {
        let pods: kube::Api<Pod> = kube::Api::namespaced(self.client(), &pod.namespace);
        let how = PatchParams::default();
        let container = json!({ "name": CONTAINER, "resources": resources });
        let patch = Patch::Strategic(json!({
            "metadata": { "uid": pod.uid },
            "spec": { "containers": [container] },
        }));
        let patched = pods.patch_resize(&pod.name, &how, &patch);
        self.call("patch", "pods/resize", patched).await
    }

    /// Tells a pod's launcher another size of its machine.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn tell_machine(&self, pod: &PodState, machine: &str) -> Result<Pod, ApiError> {
        let pods: kube::Api<Pod> = kube::Api::namespaced(self.client(), &pod.namespace);
        let how = PatchParams::apply("bootwright-controller-size").force();
        let annotations = json!({ machine::ANNOTATION: machine });
        let patch = Patch::Apply(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": pod.name, "uid": pod.uid, "annotations": annotations },
        }));
        let applied = pods.patch(&pod.name, &how, &patch);
        self.call("apply", "pods", applied).await
    }

    /// Deletes a pod, with the time that its guest has to shut down; what it
    /// is then, if it is still there.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn delete_pod(&self, pod: &PodState) -> Result<Option<Pod>, ApiError> {
        let pods: kube::Api<Pod> = kube::Api::namespaced(self.client(), &pod.namespace);
        let how = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(pod.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let deleted = pods.delete(&pod.name, &how);
        match self.call("delete", "pods", deleted).await {
            Ok(answer) => Ok(answer.left().filter(|left| {
                // A pod that is deleted at once is returned as it was.
                let grace = left.metadata.deletion_grace_period_seconds;
                left.metadata.deletion_timestamp.is_some() && grace != Some(0)
            })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds our finalizer to a machine, or removes it.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn finalizer(&self, vm: &Identity, there: bool) -> Result<(), ApiError> {
        let machines: kube::Api<PartialObjectMeta<VirtualMachine>> =
            kube::Api::namespaced(self.client(), &vm.namespace);
        let how = PatchParams::apply("bootwright-controller-finalizer").force();
        let finalizers = if there { vec![FINALIZER] } else { Vec::new() };
        let mut object = vm.object();
        object["metadata"]["finalizers"] = json!(finalizers);
        let patch = Patch::Apply(object);
        let written = machines.patch_metadata(&vm.name, &how, &patch);
        match self.call("apply", "virtualmachines", written).await {
            Err(error) if !there && error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Removes our finalizer from an object that does not fit its definition,
    /// to which nothing can be applied.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn release(&self, meta: &ObjectMeta) -> Result<(), ApiError> {
        let (name, namespace) = (meta.name.as_deref(), meta.namespace.as_deref());
        let machines: kube::Api<PartialObjectMeta<VirtualMachine>> =
            kube::Api::namespaced(self.client(), namespace.unwrap_or_default());
        let others = meta.finalizers.iter().flatten();
        let others: Vec<_> = others.filter(|name| *name != FINALIZER).collect();
        // With the version: another finalizer may have come meanwhile.
        let mut patch = json!({ "metadata": {
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
            "finalizers": others,
        } });
        let how = PatchParams::default();
        let name = name.unwrap_or_default();
        let merged = Patch::Merge(&patch);
        let written = machines.patch_metadata(name, &how, &merged);
        let mut outcome = self.call("patch", "virtualmachines", written).await;
        let invalid = |error: &ApiError| error.refused().is_some_and(|s| s.code == 422);
        if others.is_empty() && outcome.as_ref().is_err_and(invalid) {
            // Even the last write must be valid. What is gone by it may as
            // well be a spec that is.
            patch["spec"] = Self::harmless();
            let merged = Patch::Merge(&patch);
            let written = machines.patch_metadata(name, &how, &merged);
            outcome = self.call("patch", "virtualmachines", written).await;
        }
        match outcome {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    /// The spec of a machine that never runs.
    fn harmless() -> Value {
        json!({ "runStrategy": "Halted", "template": { "spec": {
            "domain": { "memory": { "guest": "1Mi" }, "devices": {} },
            "volumes": [{ "name": "none", "emptyDisk": { "capacity": "1Mi" } }],
        } } })
    }

    /// Writes the status of a machine.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn status(
        &self,
        vm: &Identity,
        status: &VirtualMachineStatus,
    ) -> Result<(), ApiError> {
        let machines: kube::Api<PartialObjectMeta<VirtualMachine>> =
            kube::Api::namespaced(self.client(), &vm.namespace);
        let mut object = vm.object();
        object["status"] = json!(status);
        let how = PatchParams::apply(NAME).force();
        let patch = Patch::Apply(object);
        let written = machines.patch_status(&vm.name, &how, &patch);
        let written = self.call("apply", "virtualmachines/status", written);
        written.await.map(drop)
    }

    /// Writes the status of a pool.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn pool_status(
        &self,
        pool: &Identity,
        status: &VirtualMachinePoolStatus,
    ) -> Result<(), ApiError> {
        let pools: kube::Api<PartialObjectMeta<VirtualMachinePool>> =
            kube::Api::namespaced(self.client(), &pool.namespace);
        let mut object = pool.object_of::<VirtualMachinePool>();
        object["status"] = json!(status);
        let how = PatchParams::apply(NAME).force();
        let patch = Patch::Apply(object);
        let written = pools.patch_status(&pool.name, &how, &patch);
        let written = self.call("apply", "virtualmachinepools/status", written);
        written.await.map(drop)
    }

    /// Applies a machine of a pool.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn apply_machine(&self, vm: &VirtualMachine) -> Result<(), ApiError> {
        let (name, namespace) = (vm.name_any(), vm.namespace().unwrap_or_default());
        let machines: kube::Api<PartialObjectMeta<VirtualMachine>> =
            kube::Api::namespaced(self.client(), &namespace);
        let how = PatchParams::apply(NAME);
        let patch = Patch::Apply(vm);
        let applied = machines.patch_metadata(&name, &how, &patch);
        self.call("apply", "virtualmachines", applied)
            .await
            .map(drop)
    }

    /// Deletes a machine of a pool.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn delete_machine(&self, vm: &Identity) -> Result<(), ApiError> {
        let machines: kube::Api<PartialObjectMeta<VirtualMachine>> =
            kube::Api::namespaced(self.client(), &vm.namespace);
        let how = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(vm.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::background()
        };
        let deleted = machines.delete(&vm.name, &how);
        match self.call("delete", "virtualmachines", deleted).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    fn revisions_in(&self, namespace: &str) -> kube::Api<ControllerRevision> {
        kube::Api::namespaced(self.client(), namespace)
    }

    /// A kept template of a pool, if there is one of this name.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn revision(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ControllerRevision>, ApiError> {
        let revisions = self.revisions_in(namespace);
        let kept = revisions.get_opt(name);
        self.call("get", "controllerrevisions", kept).await
    }

    /// The kept templates with this label.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn revisions(
        &self,
        namespace: &str,
        label: &str,
    ) -> Result<Vec<ControllerRevision>, ApiError> {
        let revisions = self.revisions_in(namespace);
        let which = ListParams::default().labels(label);
        let kept = revisions.list(&which);
        let kept = self.call("list", "controllerrevisions", kept).await?;
        Ok(kept.items)
    }

    /// Applies a kept template.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn apply_revision(&self, kept: &ControllerRevision) -> Result<(), ApiError> {
        let (name, namespace) = (kept.name_any(), kept.namespace().unwrap_or_default());
        let revisions = self.revisions_in(&namespace);
        let how = PatchParams::apply(NAME).force();
        let patch = Patch::Apply(kept);
        let applied = revisions.patch(&name, &how, &patch);
        let applied = self.call("apply", "controllerrevisions", applied);
        applied.await.map(drop)
    }

    /// Deletes a kept template.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn delete_revision(&self, namespace: &str, name: &str) -> Result<(), ApiError> {
        let revisions = self.revisions_in(namespace);
        let how = DeleteParams::default();
        let deleted = revisions.delete(name, &how);
        match self.call("delete", "controllerrevisions", deleted).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    /// A node, if there is one of this name.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn node(&self, name: &str) -> Result<Option<Node>, ApiError> {
        let nodes: kube::Api<Node> = kube::Api::all(self.client());
        self.call("get", "nodes", nodes.get_opt(name)).await
    }

    /// A machine, if there is one of this name.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn machine(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<VirtualMachine>, ApiError> {
        let machines: kube::Api<VirtualMachine> = kube::Api::namespaced(self.client(), namespace);
        self.call("get", "virtualmachines", machines.get_opt(name))
            .await
    }

    /// A lease, if there is one of this name.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn lease(&self, namespace: &str, name: &str) -> Result<Option<Lease>, ApiError> {
        let leases: kube::Api<Lease> = kube::Api::namespaced(self.client(), namespace);
        self.call("get", "leases", leases.get_opt(name)).await
    }

    /// Makes a lease somebody's, unless it has changed since it was read; it
    /// goes with its claim.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn hold(
        &self,
        namespace: &str,
        name: &str,
        old: Option<Lease>,
        holder: &str,
        claim: &Claim,
    ) -> Result<(), ApiError> {
        let leases: kube::Api<Lease> = kube::Api::namespaced(self.client(), namespace);
        let now = MicroTime(Timestamp::now());
        let known = old.is_some();
        let mut lease = old.unwrap_or_default();
        let before = lease.spec.take().unwrap_or_default();
        let same = before.holder_identity.as_deref() == Some(holder);
        lease.metadata.name = Some(name.to_owned());
        lease.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "PersistentVolumeClaim".into(),
            name: claim.name.clone(),
            uid: claim.uid.clone(),
            ..OwnerReference::default()
        }]);
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            acquire_time: before.acquire_time.filter(|_| same).or(Some(now.clone())),
            renew_time: Some(now),
            lease_duration_seconds: i32::try_from(fence::MOMENT.as_secs()).ok(),
            lease_transitions: Some(
                before
                    .lease_transitions
                    .unwrap_or(0)
                    .saturating_add(i32::from(!same)),
            ),
            ..LeaseSpec::default()
        });
        let how = PostParams::default();
        if known {
            let written = leases.replace(name, &how, &lease);
            self.call("update", "leases", written).await.map(drop)
        } else {
            let written = leases.create(&how, &lease);
            self.call("create", "leases", written).await.map(drop)
        }
    }

    /// A claim, if there is one of this name.
    ///
    /// # Errors
    /// If the API server refuses it or does not answer.
    pub async fn claim(&self, namespace: &str, name: &str) -> Result<Option<Claim>, ApiError> {
        let claims: kube::Api<PersistentVolumeClaim> =
            kube::Api::namespaced(self.client(), namespace);
        let claim = claims.get_opt(name);
        let claim = self.call("get", "persistentvolumeclaims", claim).await?;
        let claim = claim.filter(|claim| claim.metadata.deletion_timestamp.is_none());
        Ok(claim.map(|claim| {
            let mode = claim.spec.and_then(|spec| spec.volume_mode);
            Claim {
                name: name.to_owned(),
                uid: claim.metadata.uid.unwrap_or_default(),
                mode: match mode.as_deref() {
                    Some("Block") => VolumeMode::Block,
                    _ => VolumeMode::Filesystem,
                },
            }
        }))
    }
}

/// A claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// How it shows its volume.
    pub mode: VolumeMode,
}

/// Which machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: a machine of the same name that came later is another.
    pub uid: String,
}

impl Identity {
    fn object(&self) -> Value {
        self.object_of::<VirtualMachine>()
    }

    fn object_of<K: kube::Resource<DynamicType = ()>>(&self) -> Value {
        json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": { "name": self.name, "namespace": self.namespace, "uid": self.uid },
        })
    }
}

/// Does something with a resource, for not longer than it may take.
pub(crate) async fn limited<T>(
    verb: &'static str,
    resource: &'static str,
    work: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(source)) => Err(ApiError::Failed {
            verb,
            resource,
            source: Box::new(source),
        }),
        Err(_) => Err(ApiError::Silent { verb, resource }),
    }
}
