//! A pod that is to have more: first its node sets more aside, then its
//! launcher is told.
//!
//! What is set aside is changed in place (the subresource `resize`,
//! <https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/>),
//! and never made less: a guest gives memory back as it likes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use super::api::{Api, ApiError};
use crate::lifecycle::observed::PodState;
use crate::lifecycle::size::Size;
use crate::machine;
use crate::pod::CONTAINER;
use crate::quantity;

/// What can be changed while a container runs.
const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// What became of it.
#[derive(Debug)]
pub(crate) enum Resized {
    /// The launcher was told; the pod is so now.
    Told(Box<Pod>),
    /// Not yet, and why. The pod's next change is waited for.
    Waits(String),
    /// The API server does not take it, and why.
    Refused(String),
    /// There is no such pod any more.
    Gone,
}

/// Gives a pod more, or less, as far as that goes now.
pub(crate) async fn resize(
    api: &Api,
    pod: &PodState,
    size: Size,
    needs: &ResourceRequirements,
) -> Result<Resized, ApiError> {
    let Some(mut found) = api.pod(pod).await? else {
        return Ok(Resized::Gone);
    };
    if let Some(more) = more(&found, needs) {
        match api.reserve(pod, &more).await {
            Ok(reserved) => found = reserved,
            Err(error) => {
                return match error.refused() {
                    Some(status) if super::machines::is_final(status.code) => {
                        Ok(Resized::Refused(status.message.clone()))
                    }
                    _ => Err(error),
                };
            }
        }
    }
    if let Some(why) = unmet(&found) {
        return Ok(Resized::Waits(why));
    }
    let Some(machine) = told(&found, size) else {
        return Ok(Resized::Gone);
    };
    let told = api.tell_machine(pod, &machine).await?;
    Ok(Resized::Told(Box::new(told)))
}

type Amounts = BTreeMap<String, Quantity>;

/// The requests and limits of the launcher's container.
fn asked(pod: &Pod) -> Option<&ResourceRequirements> {
    let mut containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let found = containers.find(|container| container.name == CONTAINER)?;
    found.resources.as_ref()
}

/// What the node has set aside for it.
fn granted(pod: &Pod) -> Option<&ResourceRequirements> {
    let status = pod.status.as_ref()?;
    let mut containers = status.container_statuses.iter().flatten();
    let found = containers.find(|container| container.name == CONTAINER)?;
    found.resources.as_ref()
}

fn is_less(one: &Quantity, other: &Quantity) -> bool {
    match (quantity::millis(one), quantity::millis(other)) {
        (Ok(one), Ok(other)) => one < other,
        _ => false,
    }
}

/// What has to be asked for, as a patch, unless it is asked for already.
fn more(pod: &Pod, needs: &ResourceRequirements) -> Option<Value> {
    let asked = asked(pod)?;
    let grown = |old: &Option<Amounts>, new: &Option<Amounts>| -> Amounts {
        let (old, none) = (old.as_ref(), Amounts::new());
        let new = new.as_ref().unwrap_or(&none);
        let pairs = RESOURCES.iter().filter_map(|name| {
            let (old, new) = (old?.get(*name)?, new.get(*name)?);
            is_less(old, new).then(|| ((*name).to_owned(), new.clone()))
        });
        pairs.collect()
    };
    let requests = grown(&asked.requests, &needs.requests);
    let limits = grown(&asked.limits, &needs.limits);
    let nothing = requests.is_empty() && limits.is_empty();
    (!nothing).then(|| json!({ "requests": requests, "limits": limits }))
}

/// Why the node has not set aside what is asked for, if it has not.
fn unmet(pod: &Pod) -> Option<String> {
    let asked = asked(pod)?;
    let granted = granted(pod);
    let short = |asked: &Option<Amounts>, granted: Option<&Option<Amounts>>| {
        RESOURCES.iter().any(|name| {
            let Some(asked) = asked.as_ref().and_then(|asked| asked.get(*name)) else {
                return false;
            };
            let granted = granted.and_then(|granted| granted.as_ref()?.get(*name));
            granted.is_none_or(|granted| is_less(granted, asked))
        })
    };
    let is_short = short(&asked.requests, granted.map(|granted| &granted.requests))
        || short(&asked.limits, granted.map(|granted| &granted.limits));
    if !is_short {
        return None;
    }
    let conditions = pod.status.iter().flat_map(|status| &status.conditions);
    let pending = conditions.flatten().find(|c| c.type_ == "PodResizePending");
    let said = pending.map(|condition| {
        let reason = condition.reason.as_deref().unwrap_or_default();
        let message = condition.message.as_deref().unwrap_or_default();
        format!("the node does not give its pod more ({reason}): {message}")
    });
    Some(said.unwrap_or_else(|| "the node is to give its pod more".to_owned()))
}

/// The machine that the launcher was told, with another size.
fn told(pod: &Pod, size: Size) -> Option<String> {
    let annotations = pod.metadata.annotations.as_ref()?;
    let mut machine: Value = serde_json::from_str(annotations.get(machine::ANNOTATION)?).ok()?;
    machine["cpus"]["sockets"] = json!(size.sockets);
    machine["memory"]["bytes"] = json!(size.bytes);
    Some(machine.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(asked: &Value, granted: &Value) -> Pod {
        let machine = json!({ "cpus": { "sockets": 1, "cores": 2 },
            "memory": { "bytes": 1 }, "name": "web" });
        serde_json::from_value(json!({
            "metadata": { "annotations": { machine::ANNOTATION: machine.to_string() } },
            "spec": { "containers": [{ "name": CONTAINER, "resources": asked }] },
            "status": {
                "conditions": [{ "type": "PodResizePending", "status": "True",
                    "reason": "Infeasible", "message": "too much" }],
                "containerStatuses": [{ "name": CONTAINER, "image": "", "imageID": "",
                    "ready": true, "restartCount": 0, "resources": granted }],
            },
        }))
        .unwrap()
    }

    fn amounts(cpu: &str, memory: &str, limit: &str) -> Value {
        json!({ "requests": { "cpu": cpu, "memory": memory },
            "limits": { "memory": limit, "bootwright.dev/kvm": "1" } })
    }

    #[test]
    fn more_is_asked_for_and_never_less() {
        let small = amounts("100m", "1Gi", "1Gi");
        let needs =
            |value: Value| -> ResourceRequirements { serde_json::from_value(value).unwrap() };
        let found = pod(&small, &small);
        let large = needs(amounts("400m", "2Gi", "2Gi"));
        let expected = json!({ "requests": { "cpu": "400m", "memory": "2Gi" },
            "limits": { "memory": "2Gi" } });
        assert_eq!(more(&found, &large), Some(expected));
        let less = needs(amounts("50m", "512Mi", "1024Mi"));
        assert_eq!(more(&found, &less), None);
    }

    #[test]
    fn the_launcher_is_told_when_the_node_has_set_it_aside() {
        let (small, large) = (amounts("100m", "1Gi", "1Gi"), amounts("100m", "2Gi", "2Gi"));
        assert_eq!(unmet(&pod(&large, &large)), None);
        let why = unmet(&pod(&large, &small)).unwrap();
        assert_eq!(
            why,
            "the node does not give its pod more (Infeasible): too much"
        );
        assert!(unmet(&pod(&large, &Value::Null)).is_some());
        let size = Size {
            sockets: 3,
            bytes: 2 << 30,
        };
        let machine = told(&pod(&large, &large), size).unwrap();
        let machine: Value = serde_json::from_str(&machine).unwrap();
        let expected = json!({ "cpus": { "sockets": 3, "cores": 2 },
            "memory": { "bytes": 2_147_483_648_u64 }, "name": "web" });
        assert_eq!(machine, expected);
    }
}
