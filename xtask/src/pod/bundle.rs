//! What a container's runtime is told (OCI runtime specification, 1.1), as a
//! kubelet and containerd tell it for a pod.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Pod, filter};

/// The first user id on the node of a pod with users of its own, as a kubelet
/// hands them out: multiples of 65,536.
pub(crate) const SHIFT: u32 = 632_881_152;

/// How many it has.
const IDS: u32 = 65_536;

/// What the node's device plugin offers, and the device: Linux,
/// Documentation/admin-guide/devices.txt.
const KVM: &str = "bootwright.dev/kvm";
const KVM_NUMBERS: (u32, u32) = (10, 232);

/// How many files a process may open: what containerd's unit sets.
const FILES: u64 = 1 << 20;

/// What the kubelet makes for each pod, and where the container has it.
const OF_KUBELET: [(&str, &str); 4] = [
    ("hosts", "/etc/hosts"),
    ("hostname", "/etc/hostname"),
    ("resolv.conf", "/etc/resolv.conf"),
    ("termination-log", "/dev/termination-log"),
];

/// Where a pod's files are on its node.
#[derive(Debug)]
pub(crate) struct Bundle<'a> {
    /// The pod.
    pub(crate) pod: &'a Pod,
    /// Its name for the runtime.
    pub(crate) name: &'a str,
    /// The folder that holds `rootfs`, what the kubelet makes, and a folder in
    /// `volumes` for each volume.
    pub(crate) folder: &'a str,
    /// A program and its arguments that set up the pod's network.
    pub(crate) network: &'a [&'a str],
}

impl Bundle<'_> {
    /// The configuration of the runtime.
    pub(crate) fn config(&self) -> Result<Value> {
        let (spec, container) = (self.pod.spec(), self.pod.container());
        let has_users = spec["hostUsers"] == json!(false);
        let identity = if has_users { ids() } else { json!([]) };
        let capabilities = capabilities(container)?;
        let mut linux = json!({
            "namespaces": namespaces(has_users),
            "uidMappings": identity,
            "gidMappings": identity,
            "sysctl": sysctls(spec),
            "cgroupsPath": format!("/kubepods/{}", self.name),
            "resources": resources(container)?,
            "devices": devices(container),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        });
        match spec["securityContext"]["seccompProfile"]["type"].as_str() {
            Some("RuntimeDefault") => linux["seccomp"] = filter::filter(&capabilities)?,
            profile => bail!("no filter for the profile {profile:?}"),
        }
        let read_only = container["securityContext"]["readOnlyRootFilesystem"] == json!(true);
        Ok(json!({
            "ociVersion": "1.1.0",
            "process": self.process(capabilities)?,
            "root": { "path": "rootfs", "readonly": read_only },
            "hostname": spec["hostname"],
            "mounts": self.mounts(has_users)?,
            "linux": linux,
            "hooks": { "createRuntime": [{
                "path": self.network.first().context("no program for the network")?,
                "args": self.network,
                "env": ["PATH=/bin:/lab/bin"],
            }] },
        }))
    }

    fn process(&self, capabilities: Vec<String>) -> Result<Value> {
        let (context, container) = (&self.pod.spec()["securityContext"], self.pod.container());
        let words = ["command", "args"].map(|key| container[key].as_array());
        let words: Vec<_> = words.into_iter().flatten().flatten().collect();
        // What the image says, then what the pod says.
        let mut environment = vec!["PATH=/usr/bin".to_owned()];
        environment.push(format!("HOSTNAME={}", text(&self.pod.spec()["hostname"])?));
        for variable in container["env"].as_array().into_iter().flatten() {
            let (name, value) = (text(&variable["name"])?, text(&variable["value"])?);
            environment.push(format!("{name}={value}"));
        }
        let escalation = &container["securityContext"]["allowPrivilegeEscalation"];
        Ok(json!({
            "args": words,
            "env": environment,
            "cwd": "/",
            "user": {
                "uid": context["runAsUser"],
                "gid": context["runAsGroup"],
                "additionalGids": [context["fsGroup"]],
            },
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": FILES, "soft": FILES }],
            "noNewPrivileges": *escalation == json!(false),
        }))
    }

    fn mounts(&self, has_users: bool) -> Result<Vec<Value>> {
        let mount = |at: &str, kind: &str, options: &[&str]| json!({ "destination": at, "type": kind, "source": kind, "options": options });
        let mut mounts = vec![
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount(
                "/dev",
                "tmpfs",
                &["nosuid", "strictatime", "mode=755", "size=65536k"],
            ),
            mount(
                "/dev/pts",
                "devpts",
                &[
                    "nosuid",
                    "noexec",
                    "newinstance",
                    "ptmxmode=0666",
                    "mode=0620",
                    "gid=5",
                ],
            ),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount(
                "/dev/shm",
                "tmpfs",
                &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
            ),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount(
                "/sys/fs/cgroup",
                "cgroup",
                &["nosuid", "noexec", "nodev", "relatime", "ro"],
            ),
        ];
        let mut bind = |from: String, to: &str, read_only: bool| {
            let access = if read_only { "ro" } else { "rw" };
            let mut mount = json!({
                "destination": to,
                "type": "bind",
                "source": from,
                "options": ["rbind", "rprivate", access],
            });
            if has_users {
                // The pod's root owns what the node's root does.
                mount["uidMappings"] = ids();
                mount["gidMappings"] = ids();
            }
            mounts.push(mount);
        };
        for (name, at) in OF_KUBELET {
            bind(format!("{}/{name}", self.folder), at, false);
        }
        let listed = self.pod.container()["volumeMounts"].as_array();
        for volume in listed.into_iter().flatten() {
            let name = text(&volume["name"])?;
            let from = format!("{}/volumes/{name}", self.folder);
            bind(
                from,
                text(&volume["mountPath"])?,
                volume["readOnly"] == json!(true),
            );
        }
        Ok(mounts)
    }
}

/// Paths that containers do not see, and those that they cannot write to.
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

fn ids() -> Value {
    json!([{ "containerID": 0, "hostID": SHIFT, "size": IDS }])
}

fn namespaces(has_users: bool) -> Vec<Value> {
    let kinds = ["pid", "ipc", "uts", "mount", "network", "cgroup"];
    let kinds = kinds.into_iter().chain(has_users.then_some("user"));
    kinds.map(|kind| json!({ "type": kind })).collect()
}

/// The capabilities of the container's first process.
fn capabilities(container: &Value) -> Result<Vec<String>> {
    let asked = &container["securityContext"]["capabilities"];
    if asked["drop"] != json!(["ALL"]) {
        bail!("the container keeps capabilities: {asked}");
    }
    let added = asked["add"].as_array().into_iter().flatten();
    let name = |added: &Value| Ok(format!("CAP_{}", text(added)?));
    added.map(name).collect()
}

fn sysctls(spec: &Value) -> BTreeMap<&str, &str> {
    let listed = spec["securityContext"]["sysctls"].as_array();
    let pairs = listed.into_iter().flatten();
    pairs
        .filter_map(|sysctl| Some((sysctl["name"].as_str()?, sysctl["value"].as_str()?)))
        .collect()
}

fn has_kvm(container: &Value) -> bool {
    !container["resources"]["limits"][KVM].is_null()
}

fn devices(container: &Value) -> Vec<Value> {
    let (major, minor) = KVM_NUMBERS;
    let kvm = json!({ "path": "/dev/kvm", "type": "c", "major": major, "minor": minor,
                      "fileMode": 0o666 });
    has_kvm(container).then_some(kvm).into_iter().collect()
}

fn resources(container: &Value) -> Result<Value> {
    let (limits, requests) = (
        &container["resources"]["limits"],
        &container["resources"]["requests"],
    );
    let memory = amount(&limits["memory"], "Mi")? << 20;
    let mut devices = vec![json!({ "allow": false, "access": "rwm" })];
    if has_kvm(container) {
        let (major, minor) = KVM_NUMBERS;
        devices.push(
            json!({ "allow": true, "type": "c", "major": major, "minor": minor,
                             "access": "rw" }),
        );
    }
    Ok(json!({
        "devices": devices,
        // No swap.
        "memory": { "limit": memory, "swap": memory },
        // Kubernetes: 1,024 shares for a processor.
        "cpu": { "shares": (amount(&requests["cpu"], "m")? * 1024 / 1000).max(2) },
    }))
}

/// A quantity with this suffix.
fn amount(quantity: &Value, suffix: &str) -> Result<u64> {
    let number = text(quantity)?.strip_suffix(suffix);
    let number = number.and_then(|number| number.parse().ok());
    number.with_context(|| format!("{quantity} is no number of {suffix}"))
}

fn text(value: &Value) -> Result<&str> {
    value
        .as_str()
        .with_context(|| format!("{value} is no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        Pod(json!({ "spec": {
            "containers": [{
                "command": ["/usr/bin/bootwright"],
                "args": ["launch", "it"],
                "env": [{ "name": "HOME", "value": "/scratch" }],
                "resources": {
                    "limits": { "bootwright.dev/kvm": "1", "memory": "1090Mi" },
                    "requests": { "cpu": "100m", "memory": "1090Mi" },
                },
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "capabilities": { "add": ["DAC_OVERRIDE"], "drop": ["ALL"] },
                    "readOnlyRootFilesystem": true,
                },
                "volumeMounts": [
                    { "name": "root", "mountPath": "/volumes/root", "readOnly": true },
                    { "name": "scratch", "mountPath": "/scratch" },
                ],
            }],
            "hostUsers": false,
            "hostname": "web",
            "securityContext": {
                "runAsUser": 0, "runAsGroup": 0, "fsGroup": 0,
                "seccompProfile": { "type": "RuntimeDefault" },
                "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "0" }],
            },
        } }))
    }

    fn config(pod: &Pod) -> Value {
        let bundle = Bundle {
            pod,
            name: "web",
            folder: "/pods/web",
            network: &["/bin/sh", "network"],
        };
        bundle.config().unwrap()
    }

    #[test]
    fn a_container_is_told_all_that_its_pod_says() {
        let config = config(&pod());
        let process = &config["process"];
        assert_eq!(
            process["args"],
            json!(["/usr/bin/bootwright", "launch", "it"])
        );
        assert_eq!(process["env"][2], "HOME=/scratch");
        assert_eq!(process["noNewPrivileges"], true);
        for set in ["bounding", "effective", "permitted"] {
            assert_eq!(process["capabilities"][set], json!(["CAP_DAC_OVERRIDE"]));
        }
        assert_eq!(config["root"]["readonly"], true);
        let linux = &config["linux"];
        assert_eq!(linux["resources"]["memory"]["limit"], 1090u64 << 20);
        assert_eq!(linux["resources"]["cpu"]["shares"], 102);
        assert_eq!(linux["devices"][0]["path"], "/dev/kvm");
        assert_eq!(linux["uidMappings"][0]["hostID"], SHIFT);
        assert_eq!(linux["sysctl"]["net.ipv4.ip_unprivileged_port_start"], "0");
        let mounts = config["mounts"].as_array().unwrap();
        let mount = |at: &str| {
            mounts
                .iter()
                .find(|mount| mount["destination"] == at)
                .unwrap()
        };
        let root = mount("/volumes/root");
        assert_eq!(root["source"], "/pods/web/volumes/root");
        assert_eq!(root["options"], json!(["rbind", "rprivate", "ro"]));
        assert_eq!(root["uidMappings"][0]["hostID"], SHIFT);
        assert_eq!(mount("/scratch")["options"][2], "rw");
    }

    #[test]
    fn a_pod_of_the_nodes_users_and_without_kvm_has_neither() {
        let mut pod = pod();
        pod.0["spec"]["hostUsers"] = Value::Null;
        let limits = &mut pod.0["spec"]["containers"][0]["resources"]["limits"];
        limits["bootwright.dev/kvm"].take();
        let config = config(&pod);
        let linux = &config["linux"];
        assert_eq!(linux["uidMappings"], json!([]));
        assert_eq!(linux["devices"], json!([]));
        let kinds = linux["namespaces"].as_array().unwrap();
        assert!(!kinds.contains(&json!({ "type": "user" })));
        assert!(
            config["mounts"]
                .as_array()
                .unwrap()
                .iter()
                .all(|m| m["uidMappings"].is_null())
        );
    }
}
