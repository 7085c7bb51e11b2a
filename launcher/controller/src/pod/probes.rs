//! The probes of a machine's container.
//!
//! The guest's ports are the pod's, so the kubelet asks them as it would ask
//! any container's. Whether the guest has booted, the launcher knows, and it
//! is the launcher that has the guest run commands: for both, the container's
//! probe runs its program.

use k8s_openapi::api::core::v1::{ExecAction, HTTPGetAction, Probe, TCPSocketAction};

use super::{Launcher, PodError};
use crate::api::instance::{self, InstanceSpec};
use crate::machine::{self, Exec, Probes};

/// How much longer the kubelet waits for a command in the guest than the
/// launcher does, in seconds: the launcher says why there is no answer, and
/// its program takes its time to start, which is not the command's.
const BEYOND_COMMAND: i32 = 5;

/// The container's liveness probe.
pub(super) fn liveness(spec: &InstanceSpec) -> Result<Option<Probe>, PodError> {
    probe(spec.liveness_probe.as_ref(), "liveness", "livenessProbe")
}

/// The container's readiness probe.
pub(super) fn readiness(spec: &InstanceSpec) -> Result<Option<Probe>, PodError> {
    probe(spec.readiness_probe.as_ref(), "readiness", "readinessProbe")
}

/// The commands that the launcher has the guest run.
///
/// # Errors
/// If one cannot be handed on, or the guest has nothing to be asked over.
pub(super) fn commands(spec: &InstanceSpec, launcher: &Launcher) -> Result<Probes, PodError> {
    let command = |probe: &Option<instance::Probe>| {
        let probe = probe.as_ref().filter(|p| p.guest_agent_ping.is_none())?;
        let exec = probe.exec.as_ref()?;
        Some(Exec {
            command: exec.command.clone(),
            timeout_seconds: timeout(probe).unsigned_abs(),
        })
    };
    let probes = Probes {
        liveness: command(&spec.liveness_probe),
        readiness: command(&spec.readiness_probe),
    };
    let vsock = spec.domain.devices.autoattach_vsock.unwrap_or(true);
    if !probes.is_empty() && !vsock && !launcher.emulation {
        let text = "domain.devices.autoattachVSOCK: a probe's exec needs it";
        return Err(PodError::Contradiction(text.into()));
    }
    match probes.check() {
        Ok(()) => Ok(probes),
        Err(error) => Err(PodError::Contradiction(error.to_string())),
    }
}

/// Seconds that an answer may take: Kubernetes' own default, and no less.
fn timeout(probe: &instance::Probe) -> i32 {
    probe.timeout_seconds.unwrap_or(1).max(1)
}

fn probe(
    probe: Option<&instance::Probe>,
    name: &str,
    field: &'static str,
) -> Result<Option<Probe>, PodError> {
    let Some(probe) = probe else { return Ok(None) };
    let http_get = probe.http_get.as_ref().map(|get| HTTPGetAction {
        host: get.host.clone(),
        http_headers: super::some(get.http_headers.clone()),
        path: get.path.clone(),
        port: get.port.clone(),
        scheme: get.scheme.clone(),
    });
    let tcp_socket = probe.tcp_socket.as_ref().map(|socket| TCPSocketAction {
        host: socket.host.clone(),
        port: socket.port.clone(),
    });
    let (words, timeout_seconds): (Option<&[&str]>, _) =
        match (probe.guest_agent_ping.is_some(), probe.exec.is_some()) {
            (true, _) => (Some(&["probe"]), probe.timeout_seconds),
            (false, true) => {
                let longer = timeout(probe).saturating_add(BEYOND_COMMAND);
                (Some(&["probe", "--exec", name]), Some(longer))
            }
            (false, false) => (None, probe.timeout_seconds),
        };
    let exec = words.map(|words| ExecAction {
        command: Some(
            std::iter::once(machine::PROGRAM)
                .chain(words.iter().copied())
                .map(str::to_owned)
                .collect(),
        ),
    });
    if http_get.is_none() && tcp_socket.is_none() && exec.is_none() {
        return Err(PodError::NoProbe(field));
    }
    Ok(Some(Probe {
        exec,
        http_get,
        tcp_socket,
        initial_delay_seconds: probe.initial_delay_seconds,
        timeout_seconds,
        period_seconds: probe.period_seconds,
        success_threshold: probe.success_threshold,
        failure_threshold: probe.failure_threshold,
        ..Probe::default()
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn spec(vsock: Option<bool>, exec: &Value) -> InstanceSpec {
        let mut spec = json!({
            "domain": { "memory": { "guest": "1Gi" }, "devices": {} },
            "livenessProbe": { "exec": exec },
        });
        if let Some(vsock) = vsock {
            spec["domain"]["devices"]["autoattachVSOCK"] = json!(vsock);
        }
        serde_json::from_value(spec).unwrap()
    }

    fn launcher(emulation: bool) -> Launcher {
        Launcher {
            image: "bootwright".into(),
            emulation,
            user_namespaces: true,
            metrics_port: None,
            image_volumes: true,
        }
    }

    #[test]
    fn a_command_needs_a_way_to_the_guest() {
        let exec = json!({ "command": ["true"] });
        for (vsock, emulation, well) in [
            (None, false, true),
            (Some(true), false, true),
            (Some(false), false, false),
            // Emulated guests are asked over another device.
            (Some(false), true, true),
        ] {
            let commands = commands(&spec(vsock, &exec), &launcher(emulation));
            assert_eq!(commands.is_ok(), well, "{vsock:?} {emulation}");
            if let Err(error) = commands {
                assert!(error.to_string().contains("autoattachVSOCK"), "{error}");
            }
        }
    }

    #[test]
    fn a_command_that_cannot_be_handed_on_is_named() {
        for (command, words) in [
            (json!([]), "names no program"),
            (json!(["a\u{0}b"]), "zero byte"),
            (json!(["sh", "-c", "x".repeat(5000)]), "4096 bytes"),
        ] {
            let spec = spec(None, &json!({ "command": command }));
            let error = commands(&spec, &launcher(false)).unwrap_err().to_string();
            assert!(error.contains("probes.liveness.command"), "{error}");
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_kubelet_waits_for_longer_than_the_command_may_take() {
        let mut spec = spec(None, &json!({ "command": ["true"] }));
        for (given, command, kubelet) in [
            (None, 1, 6),
            (Some(10), 10, 15),
            (Some(i32::MAX), i32::MAX, i32::MAX),
        ] {
            let probe = spec.liveness_probe.as_mut().unwrap();
            probe.timeout_seconds = given;
            let commands = commands(&spec, &launcher(false)).unwrap();
            let exec = commands.liveness.unwrap();
            assert_eq!(i64::from(exec.timeout_seconds), i64::from(command));
            let probe = liveness(&spec).unwrap().unwrap();
            assert_eq!(probe.timeout_seconds, Some(kubelet));
        }
    }
}
