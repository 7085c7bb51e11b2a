//! `resize`: more or fewer processors, more or less memory, as the spec says
//! it. The controller gives it to a machine that runs.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bootwright_controller::api::VirtualMachine;
use bootwright_controller::lifecycle::size::CHANGED;
use bootwright_controller::machine::{Cpus, Memory};
use bootwright_controller::pod;
use bootwright_controller::quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::args::ResizeArgs;
use crate::cluster::{Changed, Cluster};
use crate::output;
use crate::target::Kind;

/// How long the controller may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// How often its answer is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// `resize`.
pub(crate) async fn resize(cluster: &Cluster, args: &ResizeArgs) -> Result<()> {
    cluster.only_machine(&args.target)?;
    let mut limits = None;
    let change = |object: &mut Value| {
        let (changes, most) = set(object, args.cpus, args.memory.as_deref())?;
        limits = Some(most);
        Ok(changes)
    };
    let changed = cluster
        .change(Kind::Machine, &args.target, args.dry_run, change)
        .await?;
    let mut what = match &changed {
        Changed::No(_) => "has that size already".to_owned(),
        Changed::Yes(object) => {
            let runs = object.data.pointer("/status/created") == Some(&json!(true));
            let why = match limits.and_then(|limits| limits.exceeded()) {
                _ if !runs => None,
                None if !args.dry_run => objection(cluster, args, object).await?,
                why => why,
            };
            match why {
                Some(why) => {
                    let name = &args.target.name;
                    format!(
                        "resized from its next start on ({why}): `kubectl bootwright restart {name}`"
                    )
                }
                None => "resized".to_owned(),
            }
        }
    };
    if args.dry_run {
        what.push_str(" (dry run)");
    }
    let named = (Kind::Machine, &*args.target.name);
    output::done(args.output.output, named, &what, &changed.object())
}

/// Why the controller says that the machine cannot have its new size while it
/// runs: its pod knows more than its spec does. Without a word from it in time
/// there is none.
async fn objection(
    cluster: &Cluster,
    args: &ResizeArgs,
    changed: &DynamicObject,
) -> Result<Option<String>> {
    let start = Instant::now();
    while start.elapsed() < ANSWER {
        let status = cluster.machine(&args.target).await?.status;
        let status = status.unwrap_or_default();
        if status.observed_generation >= changed.metadata.generation {
            return Ok(refusal(status.conditions));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(None)
}

fn refusal(conditions: Vec<Condition>) -> Option<String> {
    let mut conditions = conditions.into_iter();
    let is_it = |c: &Condition| c.type_ == "RestartRequired" && c.reason == CHANGED;
    conditions.find(is_it).map(|condition| condition.message)
}

/// What a machine had, and what it is to have.
#[derive(Debug)]
struct Limits {
    old: (Cpus, Memory),
    new: (Cpus, Memory),
}

impl Limits {
    /// Why a machine that runs cannot have it.
    fn exceeded(&self) -> Option<String> {
        let ((old_cpus, old_memory), (new_cpus, new_memory)) = (self.old, self.new);
        if new_cpus.sockets > old_cpus.max_sockets {
            let most = old_cpus.max_sockets;
            return Some(format!(
                "spec.template.spec.domain.cpu.maxSockets is {most}"
            ));
        }
        if new_memory.bytes > old_memory.max_bytes {
            let most = quantity::bytes(old_memory.max_bytes).0;
            return Some(format!(
                "spec.template.spec.domain.memory.maxGuest is {most}"
            ));
        }
        let changes = new_memory.bytes != old_memory.bytes;
        (changes && old_memory.page_bytes > 0)
            .then(|| "memory of huge pages stays as it is".to_owned())
    }
}

/// Sets sockets and memory. Whether that changes anything.
fn set(object: &mut Value, cpus: Option<u32>, memory: Option<&str>) -> Result<(bool, Limits)> {
    let old = size(object)?;
    let before = object["spec"].clone();
    let domain = &mut object["spec"]["template"]["spec"]["domain"];
    if let Some(cpus) = cpus {
        let of_socket = old.0.cores.saturating_mul(old.0.threads);
        if of_socket == 0 || !cpus.is_multiple_of(of_socket) {
            bail!("--cpus {cpus}: this machine's sockets have {of_socket} processors each");
        }
        if u64::from(cpus) != old.0.count() {
            domain["cpu"]["sockets"] = json!(cpus / of_socket);
        }
    }
    if let Some(memory) = memory {
        let bytes = quantity::whole(&Quantity(memory.to_owned()));
        if bytes.map_err(|error| anyhow::anyhow!("--memory: {error}"))? != old.1.bytes {
            domain["memory"]["guest"] = json!(memory);
        }
    }
    // More than may be plugged in is more from the next start on.
    let domain = &mut object["spec"]["template"]["spec"]["domain"];
    let sockets = domain.pointer("/cpu/sockets").and_then(Value::as_u64);
    let most = domain.pointer("/cpu/maxSockets").and_then(Value::as_u64);
    if let (Some(sockets), Some(most)) = (sockets, most)
        && sockets > most
    {
        domain["cpu"]["maxSockets"] = json!(sockets);
    }
    let guest = domain.pointer("/memory/guest").and_then(Value::as_str);
    let most = domain.pointer("/memory/maxGuest").and_then(Value::as_str);
    if let (Some(guest), Some(most)) = (guest.map(str::to_owned), most.map(str::to_owned)) {
        let read = |text: &str| quantity::whole(&Quantity(text.to_owned())).unwrap_or(0);
        if read(&guest) > read(&most) {
            domain["memory"]["maxGuest"] = json!(guest);
        }
    }
    let new = size(object)?;
    Ok((before != object["spec"], Limits { old, new }))
}

fn size(object: &Value) -> Result<(Cpus, Memory)> {
    let mut whole = object.clone();
    // What is stored beside the metadata is all that a machine has.
    whole["metadata"] = json!({});
    let machine: VirtualMachine = serde_json::from_value(whole)?;
    Ok(pod::size(&machine.spec.template.spec.domain)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn machine() -> Value {
        json!({ "spec": { "runStrategy": "Always", "template": { "spec": {
            "domain": {
                "cpu": { "sockets": 1, "cores": 2, "maxSockets": 2 },
                "memory": { "guest": "1Gi", "maxGuest": "4Gi" },
                "devices": {},
            },
            "volumes": [],
        } } } })
    }

    #[test]
    fn sockets_and_memory_are_set_within_the_limits() {
        let mut object = machine();
        let (changes, limits) = set(&mut object, Some(4), Some("2048Mi")).unwrap();
        assert!(changes);
        assert_eq!(limits.exceeded(), None);
        let domain = &object["spec"]["template"]["spec"]["domain"];
        assert_eq!(
            domain["cpu"],
            json!({ "sockets": 2, "cores": 2, "maxSockets": 2 })
        );
        assert_eq!(domain["memory"]["guest"], "2048Mi");
        // In other words the same.
        let (changes, _) = set(&mut object, Some(4), Some("2Gi")).unwrap();
        assert!(!changes);
    }

    #[test]
    fn what_is_beyond_them_waits_for_a_restart_and_moves_them() {
        let mut object = machine();
        let (_, limits) = set(&mut object, Some(8), None).unwrap();
        assert_eq!(
            limits.exceeded().unwrap(),
            "spec.template.spec.domain.cpu.maxSockets is 2"
        );
        assert_eq!(
            object["spec"]["template"]["spec"]["domain"]["cpu"]["maxSockets"],
            4
        );
        let mut object = machine();
        let (_, limits) = set(&mut object, None, Some("6Gi")).unwrap();
        assert!(limits.exceeded().unwrap().ends_with("maxGuest is 4Gi"));
        assert_eq!(
            object["spec"]["template"]["spec"]["domain"]["memory"]["maxGuest"],
            "6Gi"
        );
        for (cpus, memory, words) in [
            (Some(3), None, "sockets have 2 processors each"),
            (None, Some("much"), "--memory: \"much\" is not an amount"),
        ] {
            let error = set(&mut machine(), cpus, memory).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
    #[test]
    fn only_a_change_of_the_size_is_objected_to() {
        let condition = |type_: &str, reason: &str| -> Condition {
            serde_json::from_value(json!({
                "type": type_, "status": "True", "reason": reason, "message": "why",
                "lastTransitionTime": "2026-11-28T11:30:00Z",
            }))
            .unwrap()
        };
        let changed = condition("RestartRequired", CHANGED);
        let others = [
            condition("RestartRequired", "TemplateChanged"),
            condition("Resizing", CHANGED),
        ];
        assert_eq!(refusal(others.to_vec()), None);
        let all = [&others[..], &[changed]].concat();
        assert_eq!(refusal(all).as_deref(), Some("why"));
    }
}
