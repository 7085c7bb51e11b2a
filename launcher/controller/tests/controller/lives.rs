//! Machines from their creation to their end.

use std::time::Duration;

use bootwright_controller::api::status::{Phase, VirtualMachineStatus};
use kube::api::DeleteParams;
use serde_json::json;

use crate::world::{Controller, World, eventually};

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn a_machine_runs_with_few_writes_and_then_with_none() {
    let world = World::new("ctl-runs").await;
    let controller = Controller::start(&world.namespace, &[]);
    eventually(|| async {
        let answer = controller.get("/readyz").await.unwrap_or_default();
        let synced = controller.metric("bootwright_controller_synced").await;
        (answer.0.contains(" 200 ") && synced == 1.0)
            .then_some(())
            .ok_or(format!("{answer:?}"))
    })
    .await;
    let before = controller.writes().await;
    world.create("web", "Always", "").await;
    let status = world.until("web", "Running").await;
    assert_eq!(status.phase, Some(Phase::Running));
    assert_eq!((status.ready, status.created), (Some(true), Some(true)));
    assert_eq!(status.node_name.as_deref(), Some("node-1"));
    assert_eq!(status.interfaces[0].ip_address.as_deref(), Some("10.1.2.3"));
    assert_eq!(status.images[0].digest.as_deref(), Some("sha256:11"));
    assert_eq!(status.observed_generation, Some(1));
    let stages = status.stages.unwrap();
    assert!(stages.created.is_some() && stages.ready.is_some());
    let writes = controller.writes().await - before;
    assert!(writes <= 10.0, "{writes} writes");
    assert_eq!(world.events("web").await["SuccessfulCreate"], 1);
    let (_, text) = controller.get("/metrics").await.unwrap();
    let info = format!(
        "bootwright_vm_info{{namespace=\"{}\",name=\"web\",status=\"Running\",node=\"node-1\"}} 1",
        world.namespace
    );
    assert!(text.contains(&info), "{text}");
    // A machine that runs costs nothing.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let idle = controller.writes().await - before;
    assert_eq!(idle, writes, "writes go on");
    let took = controller.terminate().await;
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn each_run_strategy_keeps_its_word() {
    let world = World::new("ctl-strategies").await;
    let _controller = Controller::start(&world.namespace, &[]);
    world.create("halted", "Halted", "").await;
    world.create("manual", "Manual", "").await;
    world.create("once", "Once", "ends").await;
    world.create("rerun", "RerunOnFailure", "ends").await;
    world.create("always", "Always", "ends").await;
    world.create("crashes", "RerunOnFailure", "fails").await;
    for (name, printable) in [
        ("halted", "Stopped"),
        ("manual", "Stopped"),
        ("once", "Stopped"),
        ("rerun", "Stopped"),
        ("always", "CrashLoopBackOff"),
        ("crashes", "CrashLoopBackOff"),
    ] {
        world.until(name, printable).await;
    }
    assert_eq!(world.pod("halted").await, None);
    assert_eq!(world.pod("manual").await, None);
    for name in ["once", "rerun"] {
        let status = world.status(name).await;
        assert_eq!(status.phase, Some(Phase::Succeeded), "{name}");
    }
    assert_eq!(world.events("crashes").await["BackOff"], 1);
    // After its wait of ten seconds it is tried again, and waits for longer.
    let first = world.pod("crashes").await.unwrap();
    world.until_other_pod("crashes", &first).await;
    eventually(|| async {
        let failure = world.status("crashes").await.start_failure;
        let count = failure.map(|failure| failure.consecutive_fail_count);
        (count == Some(2)).then_some(()).ok_or(format!("{count:?}"))
    })
    .await;
    // Strategies change.
    world
        .change("halted", json!({ "spec": { "runStrategy": "Always" } }))
        .await;
    world.until("halted", "Running").await;
    world
        .change("halted", json!({ "spec": { "runStrategy": "Halted" } }))
        .await;
    world.until("halted", "Stopped").await;
    assert_eq!(world.pod("halted").await, None);
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn machines_start_stop_restart_and_pause_by_request() {
    let world = World::new("ctl-requests").await;
    let _controller = Controller::start(&world.namespace, &[]);
    world.create("manual", "Manual", "").await;
    world.until("manual", "Stopped").await;
    world.ask("manual", "started-at").await;
    world.until("manual", "Running").await;
    let first = world.pod("manual").await.unwrap();
    world.ask("manual", "restarted-at").await;
    let second = world.until_other_pod("manual", &first).await;
    world.until("manual", "Running").await;
    let pause =
        |value: &str| json!({ "metadata": { "annotations": { "bootwright.dev/paused": value } } });
    world.change("manual", pause("true")).await;
    let status = world.until("manual", "Paused").await;
    assert!(
        status
            .conditions
            .iter()
            .any(|c| c.type_ == "Paused" && c.status == "True")
    );
    world.change("manual", pause("false")).await;
    world.until("manual", "Running").await;
    assert_eq!(world.pod("manual").await, Some(second));
    world.ask("manual", "stopped-at").await;
    world.until("manual", "Stopped").await;
    assert_eq!(world.pod("manual").await, None);
    // A stop says nothing to a machine that always runs.
    world.create("always", "Always", "").await;
    world.until("always", "Running").await;
    world.ask("always", "stopped-at").await;
    eventually(|| async {
        let events = world.events("always").await;
        events
            .contains_key("RequestIgnored")
            .then_some(())
            .ok_or(format!("{events:?}"))
    })
    .await;
    world.until("always", "Running").await;
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn a_machine_that_runs_gets_more_when_its_node_has_set_it_aside() {
    let world = World::new("ctl-sizes").await;
    let _controller = Controller::start(&world.namespace, &[]);
    let domain = |sockets: u32, guest: &str| {
        json!({ "spec": { "template": { "spec": { "domain": {
            "cpu": { "sockets": sockets, "maxSockets": 4 },
            "memory": { "guest": guest, "maxGuest": "4Gi" },
        } } } } })
    };
    let told = |name: &'static str| {
        let pods = world.pods();
        async move {
            let pod = pods.get(&format!("{name}-vm")).await.unwrap();
            let json = &pod.metadata.annotations.as_ref().unwrap()["bootwright.dev/machine"];
            let machine: serde_json::Value = serde_json::from_str(json).unwrap();
            let resources = json!(pod.spec.unwrap().containers[0].resources);
            let bytes = machine["memory"]["bytes"].as_u64().unwrap();
            (machine["cpus"]["sockets"].clone(), bytes >> 20, resources)
        }
    };
    let has = |status: &VirtualMachineStatus, type_: &str| {
        status.conditions.iter().any(|c| c.type_ == type_)
    };
    // The API server looks whether a pod that is resized has room there.
    let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(world.client.clone());
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "roomy" } });
    let how = kube::api::PatchParams::apply("test").force();
    let patch = kube::api::Patch::Apply(&node);
    nodes.patch("roomy", &how, &patch).await.unwrap();
    let room = json!({ "status": { "allocatable": { "cpu": "64", "memory": "256Gi" },
        "capacity": { "cpu": "64", "memory": "256Gi" } } });
    let patch = kube::api::Patch::Merge(&room);
    let how = kube::api::PatchParams::default();
    nodes.patch_status("roomy", &how, &patch).await.unwrap();
    for (name, fate) in [("web", ""), ("crowded", "full")] {
        world.create(name, "Halted", fate).await;
        let annotations = json!({ crate::kubelet::NODE: "roomy" });
        let there =
            json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } });
        world.change(name, there).await;
        world.change(name, domain(1, "1Gi")).await;
        let run = json!({ "spec": { "runStrategy": "Always" } });
        world.change(name, run).await;
        world.until(name, "Running").await;
    }
    let first = world.pod("web").await.unwrap();
    world.change("web", domain(3, "2Gi")).await;
    eventually(|| async {
        let (sockets, mib, _) = told("web").await;
        let right = sockets == 3 && mib == 2048;
        right.then_some(()).ok_or(format!("{sockets}, {mib} MiB"))
    })
    .await;
    let (_, _, resources) = told("web").await;
    assert_eq!(resources["requests"]["cpu"], "300m");
    // Two GiB, 64 MiB, as much for sockets, and page tables for four.
    assert_eq!(resources["limits"]["memory"], "2184Mi");
    eventually(|| async {
        let (status, events) = (world.status("web").await, world.events("web").await);
        let right = !has(&status, "RestartRequired")
            && !has(&status, "Resizing")
            && events.get("Resized") == Some(&1);
        right.then_some(()).ok_or(format!("{status:?}, {events:?}"))
    })
    .await;
    // Less is given back by the guest, and kept by the pod.
    world.change("web", domain(1, "1Gi")).await;
    eventually(|| async {
        let (sockets, mib, _) = told("web").await;
        let right = sockets == 1 && mib == 1024;
        right.then_some(()).ok_or(format!("{sockets}, {mib} MiB"))
    })
    .await;
    assert_eq!(told("web").await.2["limits"]["memory"], "2184Mi");
    // More than it was started with, or something else, takes a restart.
    let mut more = domain(5, "1Gi");
    more["spec"]["template"]["spec"]["domain"]["cpu"]["maxSockets"] = json!(8);
    world.change("web", more).await;
    eventually(|| async {
        let status = world.status("web").await;
        has(&status, "RestartRequired")
            .then_some(())
            .ok_or(format!("{status:?}"))
    })
    .await;
    assert_eq!(world.pod("web").await, Some(first));
    // A node without room is waited for, and nobody is told before.
    world.change("crowded", domain(1, "3Gi")).await;
    eventually(|| async {
        let status = world.status("crowded").await;
        has(&status, "Resizing")
            .then_some(())
            .ok_or(format!("{status:?}"))
    })
    .await;
    assert_eq!(told("crowded").await.1, 1024);
    let room = json!({ "metadata": { "annotations": { crate::kubelet::FATE: "" } } });
    let how = kube::api::PatchParams::default();
    let patch = kube::api::Patch::Merge(&room);
    world
        .pods()
        .patch("crowded-vm", &how, &patch)
        .await
        .unwrap();
    eventually(|| async {
        let (mib, status) = (told("crowded").await.1, world.status("crowded").await);
        let right = mib == 3072 && !has(&status, "Resizing");
        right.then_some(()).ok_or(format!("{mib} MiB, {status:?}"))
    })
    .await;
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn a_killed_pod_is_replaced_and_a_deleted_machine_waits_for_its_guest() {
    let world = World::new("ctl-deletes").await;
    let _controller = Controller::start(&world.namespace, &[]);
    world.create("web", "Always", "").await;
    world.until("web", "Running").await;
    let first = world.pod("web").await.unwrap();
    world
        .pods()
        .delete("web-vm", &DeleteParams::default())
        .await
        .unwrap();
    let second = world.until_other_pod("web", &first).await;
    world.until("web", "Running").await;
    // A node that does not confirm the end.
    let stays = json!({ "metadata": { "annotations": { crate::kubelet::FATE: "stays" } } });
    let how = kube::api::PatchParams::default();
    let patch = kube::api::Patch::Merge(&stays);
    world.pods().patch("web-vm", &how, &patch).await.unwrap();
    world.delete("web").await;
    world.until("web", "Terminating").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let pod = world.pods().get("web-vm").await.unwrap();
    assert_eq!(pod.metadata.uid, Some(second));
    // The guest's time, and the launcher's.
    assert_eq!(pod.metadata.deletion_grace_period_seconds, Some(60));
    let now = DeleteParams::default().grace_period(0);
    world.pods().delete("web-vm", &now).await.unwrap();
    eventually(|| async {
        let vm = world.machines().get_opt("web").await.unwrap();
        vm.is_none()
            .then_some(())
            .ok_or("it is still there".to_owned())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn what_is_wrong_with_a_machine_is_told() {
    let world = World::new("ctl-wrong").await;
    let _controller = Controller::start(&world.namespace, &[]);
    world.create("pull", "Always", "waits").await;
    let status = world.until("pull", "ImagePullBackOff").await;
    assert_eq!(status.conditions[0].message, "no such image");
    world.create("claim", "Halted", "").await;
    let volumes = json!([{ "name": "root",
        "persistentVolumeClaim": { "claimName": "data" } }]);
    let change = json!({ "spec": { "runStrategy": "Always",
        "template": { "spec": { "volumes": volumes } } } });
    world.change("claim", change).await;
    let status = world.until("claim", "ErrorPvcNotFound").await;
    let failure = status
        .conditions
        .iter()
        .find(|c| c.type_ == "Failure")
        .unwrap();
    assert!(failure.message.contains("\"data\""), "{failure:?}");
    let claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": { "name": "data" }, "spec": { "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": "1Gi" } } } });
    let claims: kube::Api<k8s_openapi::api::core::v1::PersistentVolumeClaim> =
        kube::Api::namespaced(world.client.clone(), &world.namespace);
    let how = kube::api::PatchParams::apply("test");
    let patch = kube::api::Patch::Apply(&claim);
    claims.patch("data", &how, &patch).await.unwrap();
    world.until("claim", "Running").await;
    // A pod of the name that is nobody's, or another's, is left alone.
    let foreign = json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "taken-vm", "annotations": { crate::kubelet::FATE: "" } },
        "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    let patch = kube::api::Patch::Apply(&foreign);
    let theirs = world.pods().patch("taken-vm", &how, &patch).await.unwrap();
    world.create("taken", "Always", "").await;
    world.until("taken", "FailedCreate").await;
    let pod = world.pods().get("taken-vm").await.unwrap();
    assert_eq!(pod.metadata.uid, theirs.metadata.uid);
    assert_eq!(pod.metadata.owner_references, None);
}
