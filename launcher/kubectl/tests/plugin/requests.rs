//! Requests to machines, and what is said of them.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::world::{PLUGIN, World, eventually, kubectl, said, template};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn machines_start_stop_restart_pause_and_resume() {
    let world = World::new("plugin-requests").await;
    world.machine("manual", "Manual").await;
    world.until("manual", "Stopped").await;
    let out = world.done(&["start", "bvm/manual"]).await;
    assert_eq!(out, "virtualmachine.bootwright.dev/manual started\n");
    world.until("manual", "Running").await;
    let pod = || async {
        let vm = world.machines().get("manual").await.unwrap();
        vm.status.unwrap().pod.map(|pod| pod.uid)
    };
    let first = pod().await;
    world.done(&["restart", "manual"]).await;
    eventually(|| async {
        let now = pod().await;
        let other = now.is_some() && now != first;
        other.then_some(()).ok_or(format!("{now:?}"))
    })
    .await;
    world.until("manual", "Running").await;
    let out = world.done(&["pause", "manual"]).await;
    assert_eq!(out, "virtualmachine.bootwright.dev/manual paused\n");
    world.until("manual", "Paused").await;
    world.done(&["resume", "manual", "-o", "name"]).await;
    world.until("manual", "Running").await;
    let out = world.done(&["stop", "manual", "--dry-run"]).await;
    assert!(out.ends_with("stopped (dry run)\n"), "{out}");
    let out = world.done(&["stop", "manual", "-o", "json"]).await;
    let object: Value = serde_json::from_str(&out).unwrap();
    assert!(object["metadata"]["annotations"]["bootwright.dev/stopped-at"].is_string());
    world.until("manual", "Stopped").await;
    let out = world.done(&["pause", "manual"]).await;
    assert!(out.ends_with("will be paused when it runs\n"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn machines_that_always_run_or_never_change_their_run_strategy() {
    let world = World::new("plugin-strategies").await;
    world.machine("always", "Always").await;
    world
        .apply(json!({
            "apiVersion": "bootwright.dev/v1alpha1",
            "kind": "VirtualMachine",
            "metadata": { "name": "old" },
            "spec": { "running": false, "template": { "spec": template() } },
        }))
        .await;
    world.machine("once", "Once").await;
    world.until("always", "Running").await;
    let out = world.done(&["stop", "always"]).await;
    assert!(out.ends_with("stopped (run strategy Halted)\n"), "{out}");
    world.until("always", "Stopped").await;
    let out = world.done(&["stop", "always"]).await;
    assert!(out.ends_with("is stopped already\n"), "{out}");
    let out = world.done(&["start", "always", "old"]).await;
    assert_eq!(out.lines().count(), 2, "{out}");
    world.until("always", "Running").await;
    world.until("old", "Running").await;
    let old = world.machines().get("old").await.unwrap();
    assert_eq!(
        (old.spec.running, old.spec.run_strategy),
        (Some(true), None)
    );
    world.until("once", "Running").await;
    for word in ["start", "restart"] {
        let error = world.refused(&[word, "once"]).await;
        assert!(error.contains("its run strategy is Once"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn a_machine_that_runs_is_resized_within_its_limits() {
    let world = World::new("plugin-sizes").await;
    let mut spec = template();
    spec["domain"]["cpu"] = json!({ "sockets": 1, "cores": 2, "maxSockets": 2 });
    spec["domain"]["memory"]["maxGuest"] = json!("2Gi");
    world
        .apply(json!({
            "apiVersion": "bootwright.dev/v1alpha1",
            "kind": "VirtualMachine",
            "metadata": { "name": "web" },
            "spec": { "runStrategy": "Always", "template": { "spec": spec } },
        }))
        .await;
    world.until("web", "Running").await;
    let out = world
        .done(&["resize", "web", "--cpus=4", "--memory=2Gi"])
        .await;
    assert_eq!(out, "virtualmachine.bootwright.dev/web resized\n");
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::namespaced(world.client.clone(), &world.namespace);
    eventually(|| async {
        let pod = pods.get("web-vm").await.unwrap();
        let machine = &pod.metadata.annotations.unwrap()["bootwright.dev/machine"];
        let machine: Value = serde_json::from_str(machine).unwrap();
        let size = (&machine["cpus"]["sockets"], &machine["memory"]["bytes"]);
        let right = size == (&json!(2), &json!(2_147_483_648_u64));
        right.then_some(()).ok_or(machine.to_string())
    })
    .await;
    let out = world.done(&["resize", "web", "--cpus=8"]).await;
    assert!(out.contains("from its next start on"), "{out}");
    let out = world.done(&["resize", "web", "--memory=2048Mi"]).await;
    assert!(out.contains("has that size already"), "{out}");
    let error = world.refused(&["resize", "web", "--cpus=3"]).await;
    assert!(error.contains("sockets have 2 processors each"), "{error}");
    eventually(|| async {
        let status = world.machines().get("web").await.unwrap().status.unwrap();
        let mut conditions = status.conditions.iter();
        let found = conditions.any(|c| c.type_ == "RestartRequired");
        found.then_some(()).ok_or(format!("{status:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn what_is_wrong_is_said_with_what_to_do() {
    let world = World::new("plugin-wrong").await;
    let namespace = &world.namespace;
    let error = world.refused(&["start", "nobody"]).await;
    let expected = format!(
        "error: there is no virtual machine \"nobody\" in namespace {namespace}: `kubectl get \
         bvm -n {namespace}` lists those there are\n"
    );
    assert_eq!(error, expected);
    let error = world.refused(&["pause", "pool/web"]).await;
    assert!(
        error.contains("is a pool: name one of its machines"),
        "{error}"
    );
    let error = world.refused(&["status", "--as=stranger"]).await;
    assert!(
        error.contains("\"stranger\" cannot list resource"),
        "{error}"
    );
    assert!(
        error.contains("can give you the role edit (or view, to read)"),
        "{error}"
    );
    let error = world.refused(&["status", "--context", "none"]).await;
    assert!(error.contains("none"), "{error}");
    // A port that nobody listens at.
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "a",
        "contexts": [{ "name": "a", "context": { "cluster": "a", "user": "a" } }],
        "clusters": [{ "name": "a", "cluster": { "server": "https://127.0.0.1:9" } }],
        "users": [{ "name": "a", "user": { "token": "x" } }],
    });
    std::fs::write(file.path(), config.to_string()).unwrap();
    let path = format!("--kubeconfig={}", file.path().display());
    let error = world.refused(&["status", &path]).await;
    assert!(error.contains("cannot reach the API server"), "{error}");
    let real = std::env::var("KUBECONFIG").unwrap();
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(real).unwrap()).unwrap();
    config["users"][0]["user"]["token"] = json!("wrong");
    std::fs::write(file.path(), config.to_string()).unwrap();
    let error = world.refused(&["status", &path]).await;
    assert!(error.contains("does not know you"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn the_status_is_shown_once_at_length_and_as_it_changes() {
    let world = World::new("plugin-status").await;
    let said = world.run(&["status"]).await;
    assert!(
        said.well
            && said
                .error
                .contains("no virtual machines in namespace plugin-status"),
        "{said:?}"
    );
    world.machine("web", "Always").await;
    world.until("web", "Running").await;
    let out = world.done(&["status"]).await;
    let line = out.lines().nth(1).unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(
        words[..7],
        ["web", "Running", "yes", "1", "1Gi", "10.1.2.3", "node-1"]
    );
    assert_eq!(words[8], "web@sha256:11");
    let out = world.done(&["status", "web"]).await;
    for line in [
        "Status:       Running",
        "Node:         node-1",
        "Pod:          web-vm",
    ] {
        assert!(out.contains(line), "{line} in {out}");
    }
    let out = world.done(&["status", "-o", "json"]).await;
    let list: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(list["items"][0]["status"]["printableStatus"], "Running");

    let file = tempfile::NamedTempFile::new().unwrap();
    let watch = world.start(&["status", "--watch"], file.path());
    let lines = || std::fs::read_to_string(file.path()).unwrap();
    let shows = |words: &'static str| async move {
        eventually(|| async move {
            let text = lines();
            let found = text.lines().any(|line| {
                line.split_whitespace()
                    .collect::<Vec<_>>()
                    .starts_with(&["web", words])
            });
            found.then_some(()).ok_or(text)
        })
        .await;
    };
    shows("Running").await;
    world.done(&["stop", "web"]).await;
    for words in ["Stopping", "Stopped"] {
        shows(words).await;
    }
    drop(watch);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn kubectl_finds_the_plugin_and_completes_its_command_line() {
    let world = World::new("plugin-kubectl").await;
    world.machine("web", "Halted").await;
    let dir = tempfile::tempdir().unwrap();
    symlink(PLUGIN, dir.path().join("kubectl-bootwright")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs/generated/completions/kubectl_complete-bootwright");
    let here = dir.path().join("kubectl_complete-bootwright");
    std::fs::copy(script, &here).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&here, executable).unwrap();
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let namespace = format!("--namespace={}", world.namespace);
    let run = |arguments: &[&str]| {
        let mut command = kubectl(arguments);
        command.env("PATH", &path);
        said(command)
    };
    let listed = run(&["plugin", "list"]).await;
    assert!(listed.out.contains("kubectl-bootwright"), "{listed:?}");
    let started = run(&["bootwright", "start", "web", &namespace]).await;
    assert_eq!(
        started.out, "virtualmachine.bootwright.dev/web started (run strategy Always)\n",
        "{started:?}"
    );
    let commands = run(&["__complete", "bootwright", "sta"]).await;
    assert!(commands.out.starts_with("start\t"), "{commands:?}");
    let names = run(&["__complete", "bootwright", &namespace, "stop", "w"]).await;
    assert!(names.out.starts_with("web\n"), "{names:?}");
}
