//! What users of a namespace can do with machines, and what they cannot gain.

use serde_json::{Value, json};

use crate::cluster::{Cluster, image, run, template};

/// Runs kubectl as somebody in the namespace.
fn kubectl_as(cluster: &Cluster, user: &str, words: &[&str]) -> (String, bool) {
    let user = format!("--as={user}");
    cluster.kubectl(&[&[user.as_str()], words].concat())
}

fn bind(cluster: &Cluster, role: &str) {
    let (role_option, user) = (format!("--clusterrole={role}"), format!("--user={role}er"));
    let words = ["create", "rolebinding", role, &role_option, &user];
    let (said, well) = cluster.kubectl(&words);
    assert!(well, "{said}");
}

/// A machine with something else in its template's spec.
fn machine(name: &str, image: &str, spec: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "bootwright.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": { "name": name },
        "spec": { "runStrategy": "Always", "template": template(name, image) },
    });
    let target = object["spec"]["template"]["spec"].as_object_mut().unwrap();
    target.extend(spec.as_object().unwrap().clone());
    object
}

#[tokio::test]
#[ignore = "needs a node: cargo xtask test node"]
async fn who_may_view_reads_and_comes_no_further() {
    let cluster = Cluster::new("rights", "baseline").await;
    bind(&cluster, "view");
    bind(&cluster, "edit");
    let web = image("SMALL_1");
    cluster.machine("web", &web);
    cluster.until("web", "Running").await;
    for words in [
        &["get", "bvm", "web", "-o", "yaml"][..],
        &["get", "bvmpool"],
        &["logs", "web-vm"],
    ] {
        let (said, well) = kubectl_as(&cluster, "viewer", words);
        assert!(well, "{words:?}: {said}");
    }
    let console = ["exec", "web-vm", "--", "/usr/bin/bootwright", "ps"];
    for words in [
        &console[..],
        &["delete", "bvm", "web"],
        &["annotate", "bvm", "web", "bootwright.dev/paused=true"],
        &["get", "secrets"],
        &["port-forward", "web-vm", "8080:80"],
    ] {
        let (said, well) = kubectl_as(&cluster, "viewer", words);
        assert!(!well && said.contains("forbidden"), "{words:?}: {said}");
    }
    let (said, well) = kubectl_as(&cluster, "editer", &console);
    assert!(well && said.contains("vm"), "{said}");
    confined(&cluster);
    cluster.end().await;
}

/// What the launcher of a running machine holds.
fn confined(cluster: &Cluster) {
    let (spec, _) = cluster.kubectl(&["get", "pod", "web-vm", "-o", "json"]);
    let pod: Value = serde_json::from_str(&spec).unwrap();
    let spec = &pod["spec"];
    assert_eq!(spec["hostUsers"], json!(false));
    assert_eq!(spec["automountServiceAccountToken"], json!(false));
    for share in ["hostNetwork", "hostPID", "hostIPC"] {
        assert_eq!(spec[share], Value::Null, "{share}");
    }
    let volumes = spec["volumes"].as_array().unwrap();
    assert!(
        volumes.iter().all(|v| v["hostPath"].is_null()),
        "{volumes:?}"
    );
    // Its first process, as the node sees it.
    let id = pod["status"]["containerStatuses"][0]["containerID"]
        .as_str()
        .unwrap();
    let id = id.trim_start_matches("containerd://");
    let (tasks, well) = run("ctr", &["tasks", "ls"]);
    let line = tasks.lines().find(|line| line.starts_with(id));
    assert!(well && line.is_some(), "{tasks}");
    let pid = line.unwrap().split_whitespace().nth(1).unwrap();
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    let map = read("uid_map");
    let outside: u64 = map.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(outside >= 65536, "root inside is {outside} outside");
    let status = read("status");
    let field = |name: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .unwrap()
            .trim()
    };
    // DAC_OVERRIDE alone (capabilities(7)).
    assert_eq!(field("CapBnd:"), "0000000000000002");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
}

#[tokio::test]
#[ignore = "needs a node: cargo xtask test node"]
async fn a_spec_gains_no_more_than_a_pod_would() {
    let cluster = Cluster::new("gain", "restricted").await;
    bind(&cluster, "edit");
    let web = image("SMALL_1");
    let root = json!({ "name": "root", "bootableContainer": { "image": web } });
    // What a pod cannot have either, or what a machine has no field for.
    for (name, spec) in [
        (
            "host-disk",
            json!({ "volumes": [root, { "name": "host",
            "hostDisk": { "path": "/etc/shadow", "type": "Disk" } }] }),
        ),
        (
            "host-path",
            json!({ "volumes": [root, { "name": "host",
            "hostPath": { "path": "/" } }] }),
        ),
        (
            "other-secret",
            json!({ "volumes": [root, { "name": "secret",
            "secret": { "secretName": "../bootwright-system/x" } }] }),
        ),
        (
            "other-namespace",
            json!({ "volumes": [root, { "name": "secret",
            "secret": { "secretName": "x", "namespace": "kube-system" } }] }),
        ),
        (
            "privileged",
            json!({ "securityContext": { "privileged": true } }),
        ),
        ("host-network", json!({ "hostNetwork": true })),
        (
            "host-device",
            json!({ "domain": { "memory": { "guest": "512Mi" },
            "devices": { "hostDevices": [{ "name": "gpu", "deviceName": "x/y" }] } } }),
        ),
    ] {
        let (said, well) = cluster.apply(&machine(name, &web, &spec));
        if well {
            // A name that leads nowhere: its pod is refused, or waits.
            cluster.until_any(name, &["FailedCreate", "Starting"]).await;
            let (pods, _) = cluster.kubectl(&["get", "pods", "-o", "json"]);
            assert!(!pods.contains("hostPath") && !pods.contains("\"privileged\": true"));
        }
        eprintln!("{name}: {}", said.lines().next().unwrap_or_default());
    }
    // Root in a user namespace is too much for this level: the pod is refused,
    // whoever the controller is.
    let (said, well) = cluster.apply(&machine("root", &web, &json!({})));
    assert!(well, "{said}");
    cluster.until("root", "FailedCreate").await;
    let status = cluster.status("root").await;
    let mut conditions = status.conditions.iter();
    let failure = conditions.find(|c| c.type_ == "Failure").unwrap();
    assert!(
        failure.message.contains("restricted"),
        "{}",
        failure.message
    );
    assert_eq!(cluster.pod("root").await, None);
    // Nor does the right to write machines bring another.
    for words in [
        &["get", "secrets", "-n", "bootwright-system"][..],
        &[
            "create",
            "token",
            "bootwright-controller",
            "-n",
            "bootwright-system",
        ],
    ] {
        let (said, well) = kubectl_as(&cluster, "editer", words);
        assert!(!well && said.contains("forbidden"), "{words:?}: {said}");
    }
    cluster.end().await;
}
