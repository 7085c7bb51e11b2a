//! The way into a machine's pod: a program there, or a port.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bootwright_controller::api::VirtualMachine;
use bootwright_controller::api::status::Phase;
use bootwright_controller::machine::{NAME, PROGRAM};
use bootwright_controller::pod::CONTAINER;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, AttachedProcess, Portforwarder, PostParams};
use kube::client::UpgradeConnectionError;
use tokio::io::AsyncRead;

use crate::cluster::Cluster;
use crate::relay;
use crate::target::Target;

/// What waits between the cluster and this program's own standard streams, in
/// bytes.
const BUFFER: usize = 64 << 10;

/// How long the rest of a stream may take whose connection broke: it is here.
pub(crate) const REST: Duration = Duration::from_millis(100);

/// The pod of a machine that runs.
pub(crate) struct Running {
    pods: Api<Pod>,
    /// Its name.
    pub(crate) name: String,
    /// Its UID.
    pub(crate) uid: String,
    /// Its namespace.
    pub(crate) namespace: String,
}

/// The pod of a machine, which must run.
pub(crate) async fn running(cluster: &Cluster, target: &Target) -> Result<Running> {
    let machine = cluster.machine(target).await?;
    let namespace = cluster.namespace_of(target).to_owned();
    let (name, uid) = of(&machine, target)?;
    Ok(Running {
        pods: Api::namespaced(cluster.client(), &namespace),
        name,
        uid,
        namespace,
    })
}

fn of(machine: &VirtualMachine, target: &Target) -> Result<(String, String)> {
    let status = machine.status.clone().unwrap_or_default();
    let printable = status.printable_status.as_deref().unwrap_or("Unknown");
    match (status.phase, status.pod) {
        (Some(Phase::Running), Some(pod)) => Ok((pod.name, pod.uid)),
        (_, Some(pod)) => bail!(
            "{target} does not run yet, or no longer: it is {printable} \
             (`kubectl describe pod {}` says more)",
            pod.name
        ),
        (_, None) => bail!(
            "{target} does not run, it is {printable}: `kubectl bootwright start {}` starts it",
            target.name
        ),
    }
}

impl Running {
    /// Runs one of the launcher's commands about the machine, with its
    /// standard streams.
    pub(crate) async fn exec(
        &self,
        cluster: &Cluster,
        command: &str,
        options: &[String],
    ) -> Result<AttachedProcess> {
        let words = [PROGRAM, command, NAME].map(str::to_owned);
        let words: Vec<_> = words.into_iter().chain(options.iter().cloned()).collect();
        let how = AttachParams {
            container: Some(CONTAINER.to_owned()),
            max_stdin_buf_size: Some(BUFFER),
            max_stdout_buf_size: Some(BUFFER),
            ..AttachParams::default()
                .stdin(true)
                .stdout(true)
                .stderr(true)
        };
        let process = cluster.call(self.pods.exec(&self.name, words, &how)).await;
        process.map_err(|error| self.explained(error, "pods/exec"))
    }

    /// Opens a connection to a port of the pod.
    pub(crate) async fn port(&self, cluster: &Cluster, port: u16) -> Result<Portforwarder> {
        let opened = cluster
            .call(self.pods.portforward(&self.name, &[port]))
            .await;
        opened.map_err(|error| self.explained(error, "pods/portforward"))
    }

    /// Fails if the API server says that the user may not open connections to
    /// ports of the pod, which does not show before one is opened.
    pub(crate) async fn may_forward(&self, cluster: &Cluster) -> Result<()> {
        let (verb, resource) = ("get".to_owned(), "pods".to_owned());
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    name: Some(self.name.clone()),
                    namespace: Some(self.namespace.clone()),
                    verb: Some(verb),
                    resource: Some(resource),
                    subresource: Some("portforward".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let reviews: Api<SelfSubjectAccessReview> = Api::all(cluster.client());
        let how = PostParams::default();
        let reviewed = cluster.call(reviews.create(&how, &review)).await;
        // Whoever may not ask finds out later.
        let answer = reviewed.ok().and_then(|review| review.status);
        match answer {
            Some(answer) if !answer.allowed => bail!(
                "no way into pod {}: {}",
                self.name,
                forbidden("pods/portforward", &self.namespace)
            ),
            _ => Ok(()),
        }
    }

    /// Says what to do where the API server lets nobody through.
    fn explained(&self, error: anyhow::Error, resource: &str) -> anyhow::Error {
        let (code, said) = match error.downcast_ref::<kube::Error>() {
            Some(kube::Error::Api(status)) => (status.code, status.message.as_str()),
            Some(kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(code))) => {
                (code.as_u16(), "")
            }
            _ => return error.context(format!("no way into pod {}", self.name)),
        };
        let (name, namespace) = (&self.name, &self.namespace);
        let why = match code {
            401 => "the API server does not know you: log in again".to_owned(),
            403 => forbidden(resource, namespace),
            404 => "it is not there any more".to_owned(),
            502..=504 => "its node does not answer".to_owned(),
            code => format!(
                "the API server, or the node, says {code} ({said}): \
                 `kubectl describe pod -n {namespace} {name}` may say why"
            ),
        };
        anyhow::anyhow!("no way into pod {name}: {why}")
    }
}

fn forbidden(resource: &str, namespace: &str) -> String {
    format!(
        "you may not do that: it takes get and create on {resource} in namespace {namespace}, \
         which the role edit has"
    )
}

/// Shows what a program in a pod says until it ends: its exit status, as far as
/// it has one.
pub(crate) async fn follow(
    process: &mut AttachedProcess,
    said: impl AsyncRead + Unpin,
) -> Result<u8> {
    let status = process.take_status().context("its status is taken")?;
    let mut status = pin!(status);
    let mut shown = pin!(relay::receive(said));
    let mut over = false;
    let status = tokio::select! {
        received = &mut shown => {
            received?;
            over = true;
            status.await
        }
        status = &mut status => status,
    };
    // A connection that breaks leaves the stream open, and some of it unread.
    match &status {
        _ if over => {}
        Some(_) => shown.await?,
        None => {
            if let Ok(received) = tokio::time::timeout(REST, shown).await {
                received?;
            }
        }
    }
    let Some(status) = status else {
        bail!("the connection into the pod broke");
    };
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let details = status.details.unwrap_or_default();
    let mut causes = details.causes.iter().flatten();
    let cause = causes.find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = cause.and_then(|cause| cause.message.as_ref()?.parse().ok());
    match code {
        Some(code) => Ok(code),
        None => bail!("{}", status.message.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn machine(status: &Value) -> VirtualMachine {
        serde_json::from_value(json!({
            "apiVersion": "bootwright.dev/v1alpha1",
            "kind": "VirtualMachine",
            "metadata": { "name": "web" },
            "spec": { "runStrategy": "Always", "template": { "spec": {
                "domain": { "devices": {} }, "volumes": [] } } },
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn only_a_machine_that_runs_has_a_way_in() {
        let target: Target = "web".parse().unwrap();
        let pod = json!({ "name": "web-vm", "uid": "u" });
        let running = json!({ "phase": "Running", "pod": pod, "requests": {} });
        assert_eq!(
            of(&machine(&running), &target).unwrap(),
            ("web-vm".to_owned(), "u".to_owned())
        );
        for (status, words) in [
            (
                json!({ "printableStatus": "Stopped", "requests": {} }),
                "it is Stopped: `kubectl bootwright start web`",
            ),
            (
                json!({ "phase": "Pending", "printableStatus": "ErrImagePull", "pod": pod,
                    "requests": {} }),
                "it is ErrImagePull (`kubectl describe pod web-vm`",
            ),
            (Value::Null, "it is Unknown"),
        ] {
            let error = of(&machine(&status), &target).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
