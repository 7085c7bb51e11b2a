//! Images of pools: set, listed, taken back.

use serde_json::{Value, json};

use crate::world::{World, template};

async fn pool(world: &World, name: &str) {
    world
        .apply(json!({
            "apiVersion": "bootwright.dev/v1alpha1",
            "kind": "VirtualMachinePool",
            "metadata": { "name": name },
            "spec": {
                "replicas": 2,
                "selector": { "matchLabels": { "app": name } },
                "progressDeadlineSeconds": 5,
                "virtualMachineTemplate": {
                    "metadata": { "labels": { "app": name } },
                    "spec": { "runStrategy": "Always", "template": {
                        "metadata": { "annotations": { crate::kubelet::FATE: "" } },
                        "spec": template(),
                    } },
                },
            },
        }))
        .await;
}

/// The image in the pool's template.
async fn image(world: &World, name: &str) -> String {
    let pool = world.pools().get(name).await.unwrap();
    let spec = pool.spec.virtual_machine_template.spec.template.spec;
    spec.volumes[0].bootable_container.clone().unwrap().image
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn a_pool_gets_another_image_and_goes_back() {
    let world = World::new("plugin-images").await;
    pool(&world, "web").await;
    let out = world.done(&["status", "pool/web", "--watch"]).await;
    let last = out.lines().last().unwrap();
    assert!(
        last.contains("Complete: 2 of 2 machines, 2 of the newest template"),
        "{out}"
    );
    let error = world.refused(&["image", "undo", "web"]).await;
    assert!(error.contains("has never been anything else"), "{error}");
    // The name alone is enough, where there is one object of it.
    let out = world.done(&["image", "set", "web", "web@sha256:22"]).await;
    assert_eq!(
        out,
        "virtualmachinepool.bootwright.dev/web image of root set\n"
    );
    world.done(&["status", "pool/web", "--watch"]).await;
    let out = world.done(&["image", "history", "web"]).await;
    let rows: Vec<Vec<_>> = (out.lines().skip(1))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 2, "{out}");
    assert_eq!(
        (rows[0][0], rows[0][2], rows[0][3]),
        ("1", "0", "web@sha256:11")
    );
    assert_eq!((rows[1][0], rows[1][2], rows[1][3]), ("2", "2", "yes"));
    let out = world.done(&["image", "undo", "pool/web"]).await;
    assert!(
        out.ends_with("goes back to revision 1 (web@sha256:11)\n"),
        "{out}"
    );
    assert_eq!(image(&world, "web").await, "web@sha256:11");
    world.done(&["status", "pool/web", "--watch"]).await;
    // The old one is the newest now.
    let out = world.done(&["image", "history", "web", "-o", "json"]).await;
    let list: Value = serde_json::from_str(&out).unwrap();
    let item = &list["items"][1];
    assert_eq!(
        (&item["revision"], &item["current"]),
        (&json!(3), &json!(true))
    );
    assert_eq!(item["images"], json!(["web@sha256:11"]));
    let out = world
        .done(&["image", "undo", "web", "--to-revision=3"])
        .await;
    assert!(out.contains("is at revision 3 already"), "{out}");
    world
        .done(&["image", "undo", "web", "--to-revision=2"])
        .await;
    assert_eq!(image(&world, "web").await, "web@sha256:22");
    let error = world
        .refused(&["image", "undo", "web", "--to-revision=9"])
        .await;
    assert!(error.contains("no revision 9"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn an_update_that_fails_is_told_and_a_machine_is_restarted_by_its_owner() {
    let world = World::new("plugin-updates").await;
    pool(&world, "web").await;
    world.done(&["status", "pool/web", "--watch"]).await;
    let change = json!({ "spec": { "virtualMachineTemplate": { "spec": { "template": {
        "metadata": { "annotations": { crate::kubelet::FATE: "waits" } } } } } } });
    let how = kube::api::PatchParams::default();
    let patch = kube::api::Patch::Merge(&change);
    world.pools().patch("web", &how, &patch).await.unwrap();
    let said = world.run(&["status", "pool/web", "--watch"]).await;
    assert!(
        !said.well && said.out.contains("ProgressDeadlineExceeded"),
        "{said:?}"
    );

    world.machine("db", "Always").await;
    world.until("db", "Running").await;
    let out = world.done(&["image", "set", "bvm/db", "root=db:2"]).await;
    assert!(
        out.contains("`kubectl bootwright restart db` boots it"),
        "{out}"
    );
    let out = world.done(&["image", "set", "db", "db:2"]).await;
    assert!(out.contains("is that already"), "{out}");
    let error = world.refused(&["image", "set", "db", "disk=db:2"]).await;
    assert!(error.contains("those are root"), "{error}");
    let error = world.refused(&["image", "history", "bvm/db"]).await;
    assert!(error.contains("only pools keep what they were"), "{error}");
}
