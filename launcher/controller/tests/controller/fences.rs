//! That no volume is written twice.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::kubelet::{FATE, NODE};
use crate::world::{Controller, World};

/// Creates a claim, and a machine that writes it.
async fn writer(world: &World, name: &str, claim: &str) {
    let object = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": { "name": claim }, "spec": { "accessModes": ["ReadWriteMany"],
        "resources": { "requests": { "storage": "1Gi" } } } });
    let claims: Api<PersistentVolumeClaim> =
        Api::namespaced(world.client.clone(), &world.namespace);
    let how = PatchParams::apply("test");
    let patch = Patch::Apply(&object);
    claims.patch(claim, &how, &patch).await.unwrap();
    world.create(name, "Halted", "").await;
    let volumes = json!([{ "name": "root", "persistentVolumeClaim": { "claimName": claim } }]);
    let change = json!({ "spec": { "runStrategy": "Always",
        "template": { "spec": { "volumes": volumes } } } });
    world.change(name, change).await;
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn of_two_machines_with_one_claim_one_waits_for_the_other() {
    let world = World::new("ctl-fence").await;
    let _controller = Controller::start(&world.namespace, &[]);
    writer(&world, "first", "data").await;
    world.until("first", "Running").await;
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), &world.namespace);
    let lease = leases.get("claim-data").await.unwrap();
    let holder = lease.spec.unwrap().holder_identity.unwrap();
    assert!(holder.starts_with("first/"), "{holder}");
    writer(&world, "second", "data").await;
    let status = world.until("second", "ErrorClaimInUse").await;
    let failure = status
        .conditions
        .iter()
        .find(|c| c.type_ == "Failure")
        .unwrap();
    assert!(failure.message.contains("\"first\""), "{failure:?}");
    assert_eq!(world.pod("second").await, None);
    // The first may be restarted, and stays the writer.
    let before = world.pod("first").await.unwrap();
    world.ask("first", "restarted-at").await;
    world.until_other_pod("first", &before).await;
    world.until("first", "Running").await;
    assert_eq!(world.pod("second").await, None);
    world
        .change("first", json!({ "spec": { "runStrategy": "Halted" } }))
        .await;
    world.until("first", "Stopped").await;
    world.until("second", "Running").await;
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn a_guest_on_a_silent_node_is_not_started_elsewhere() {
    let world = World::new("ctl-silent").await;
    let name = &format!("silent-{}", std::process::id());
    let nodes: Api<Node> = Api::all(world.client.clone());
    let how = PatchParams::apply("test").force();
    let node = |taints: Value| {
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
            "spec": { "taints": taints } })
    };
    nodes
        .patch(name, &how, &Patch::Apply(&node(json!([]))))
        .await
        .unwrap();
    let status = json!({ "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] } });
    let merge = PatchParams::default();
    nodes
        .patch_status(name, &merge, &Patch::Merge(&status))
        .await
        .unwrap();
    let _controller = Controller::start(&world.namespace, &[]);
    writer(&world, "web", "data").await;
    world.until("web", "Running").await;
    world.create("light", "Halted", "").await;
    for (machine, change) in [
        ("web", json!({ "runStrategy": "Always" })),
        ("light", json!({ "runStrategy": "Always" })),
    ] {
        let annotations = json!({ NODE: name, FATE: "stays" });
        let mut spec = change;
        spec["template"] = json!({ "metadata": { "annotations": annotations } });
        world.change(machine, json!({ "spec": spec })).await;
    }
    // It has started already, elsewhere.
    world.ask("web", "restarted-at").await;
    let mut pods = Vec::new();
    for machine in ["web", "light"] {
        crate::world::eventually(|| async {
            let status = world.status(machine).await;
            let there = status.node_name.as_ref() == Some(name)
                && status.printable_status.as_deref() == Some("Running");
            there.then_some(()).ok_or(format!("{machine}: {status:?}"))
        })
        .await;
        pods.push(world.pod(machine).await.unwrap());
    }
    let force = DeleteParams::default().grace_period(0);
    for pod in ["web-vm", "light-vm"] {
        world.pods().delete(pod, &force).await.unwrap();
    }
    // One that writes nothing that lasts is started again.
    world.until_other_pod("light", &pods[1]).await;
    let status = world.until("web", "Unknown").await;
    let failure = status
        .conditions
        .iter()
        .find(|c| c.type_ == "Failure")
        .unwrap();
    assert_eq!(failure.reason, "NodeSilent");
    assert_eq!(world.pod("web").await, None);
    // Nor may another machine write the claim, though the lease is old.
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), &world.namespace);
    let old = json!({ "spec": { "renewTime": "2020-01-01T00:00:00.000000Z" } });
    leases
        .patch("claim-data", &merge, &Patch::Merge(&old))
        .await
        .unwrap();
    writer(&world, "other", "data").await;
    let status = world.until("other", "ErrorClaimInUse").await;
    let mut conditions = status.conditions.iter();
    let failure = conditions.find(|c| c.type_ == "Failure").unwrap();
    assert_eq!(failure.reason, "NodeSilent");
    assert!(failure.message.contains("\"web\""), "{}", failure.message);
    // However often it is tried, and whatever is asked for.
    let generation = world.status("web").await.observed_generation;
    let change = json!({ "spec": { "runStrategy": "Halted" } });
    world.change("web", change).await;
    let change = json!({ "spec": { "runStrategy": "Always" } });
    world.change("web", change).await;
    world.ask("web", "restarted-at").await;
    crate::world::eventually(|| async {
        let status = world.status("web").await;
        (status.observed_generation > generation)
            .then_some(())
            .ok_or("it did not look".to_owned())
    })
    .await;
    assert_eq!(world.pod("web").await, None);
    assert_eq!(world.pod("other").await, None);
    world
        .change("other", json!({ "spec": { "runStrategy": "Halted" } }))
        .await;
    let off = json!([{ "key": "node.kubernetes.io/out-of-service", "effect": "NoExecute" }]);
    nodes
        .patch(name, &how, &Patch::Apply(&node(off)))
        .await
        .unwrap();
    world.until("web", "Running").await;
    nodes.delete(name, &DeleteParams::default()).await.unwrap();
}
