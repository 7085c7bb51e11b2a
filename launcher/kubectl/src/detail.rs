//! One machine at length.

use std::fmt::Write as _;

use bootwright_controller::api::VirtualMachine;
use bootwright_controller::api::status::{Stages, VirtualMachineStatus};
use bootwright_controller::{pod, quantity};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

use crate::output::{self, printable};

/// Describes a machine.
pub(crate) fn of(machine: &VirtualMachine, now: Timestamp) -> String {
    let none = VirtualMachineStatus::default();
    let status = machine.status.as_ref().unwrap_or(&none);
    let mut text = String::new();
    let mut say = |name: &str, value: &str| {
        let name = format!("{name}:");
        let _ = writeln!(text, "{name:14}{}", printable(value).trim_end());
    };
    say("Name", &machine.name_any());
    say("Namespace", &machine.namespace().unwrap_or_default());
    say(
        "Status",
        status
            .printable_status
            .as_deref()
            .unwrap_or("not seen by a controller yet"),
    );
    say("Run strategy", &format!("{:?}", machine.spec.strategy()));
    match pod::size(&machine.spec.template.spec.domain) {
        Ok((cpus, memory)) => {
            let most = u64::from(cpus.max_sockets) * u64::from(cpus.cores * cpus.threads);
            say(
                "Processors",
                &up_to(cpus.count().to_string(), most.to_string()),
            );
            let most = quantity::bytes(memory.max_bytes).0;
            say("Memory", &up_to(quantity::bytes(memory.bytes).0, most));
        }
        Err(error) => say("Size", &error.to_string()),
    }
    if let Some(pod) = &status.pod {
        say("Pod", &pod.name);
    }
    if let Some(node) = &status.node_name {
        say("Node", node);
    }
    for interface in &status.interfaces {
        say("Addresses", &interface.ip_addresses.join(", "));
    }
    for image in &status.images {
        say("Image", &format!("{} ({})", image.image, image.volume));
    }
    if let Some(stages) = &status.stages {
        say("Start", &start(stages, now));
    }
    if let Some(failure) = &status.start_failure {
        let (count, after) = (failure.consecutive_fail_count, failure.retry_after.0);
        say(
            "Failures",
            &format!("{count} in a row; next start at {after}"),
        );
    }
    if !status.conditions.is_empty() {
        let head = ["CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(status.conditions.iter().map(|condition| {
            vec![
                condition.type_.clone(),
                condition.status.clone(),
                condition.reason.clone(),
                output::age(Some(condition.last_transition_time.0), now),
                condition.message.clone(),
            ]
        }));
        text.push('\n');
        text.push_str(&output::table(&rows));
    }
    text
}

fn up_to(now: String, most: String) -> String {
    match now == most {
        true => now,
        false => format!("{now} (up to {most} without a restart)"),
    }
}

/// When the pod was created, and how long after that it got how far.
fn start(stages: &Stages, now: Timestamp) -> String {
    let Some(created) = &stages.created else {
        return "not yet".to_owned();
    };
    let mut text = format!("{} ago", output::age(Some(created.0), now));
    let later = |time: &Time| time.0.duration_since(created.0).as_secs().max(0);
    for (word, time) in [
        ("on a node", &stages.scheduled),
        ("launched", &stages.started),
        ("ready", &stages.ready),
    ] {
        if let Some(time) = time {
            let _ = write!(text, ", {word} after {} s", later(time));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_machine_is_described_and_cannot_write_to_the_terminal() {
        let machine: VirtualMachine = serde_json::from_value(json!({
            "apiVersion": "bootwright.dev/v1alpha1",
            "kind": "VirtualMachine",
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "runStrategy": "Always", "template": { "spec": {
                "domain": { "cpu": { "sockets": 2, "maxSockets": 4, "cores": 2 },
                    "memory": { "guest": "1Gi" }, "devices": {} },
                "volumes": [],
            } } },
            "status": {
                "printableStatus": "Running",
                "nodeName": "n1",
                "requests": {},
                "stages": { "created": "2026-11-28T11:00:00Z", "scheduled": "2026-11-28T11:00:01Z",
                    "ready": "2026-11-28T11:00:09Z" },
                "conditions": [{ "type": "Failure", "status": "True", "reason": "LauncherFailed",
                    "message": "boom\u{1b}[2J", "lastTransitionTime": "2026-11-28T11:30:00Z" }],
            },
        }))
        .unwrap();
        let text = of(&machine, "2026-11-28T12:00:00Z".parse().unwrap());
        for line in [
            "Name:         web\n",
            "Processors:   4 (up to 8 without a restart)\n",
            "Memory:       1Gi\n",
            "Start:        60m ago, on a node after 1 s, ready after 9 s\n",
            "Failure     True     LauncherFailed   30m     boom [2J\n",
        ] {
            assert!(text.contains(line), "{line:?} in {text}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}
