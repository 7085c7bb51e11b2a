//! Pools: numbers, updates, updates that fail, and the way back.

use std::time::Duration;

use bootwright_controller::api::VirtualMachinePool;
use bootwright_controller::api::pool::VirtualMachinePoolStatus;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::world::{Controller, World, eventually};

/// A pool in a world.
pub(crate) struct Pool<'a> {
    world: &'a World,
    name: &'static str,
}

impl<'a> Pool<'a> {
    /// Creates one; a machine more at a time, and none less.
    pub(crate) async fn new(world: &'a World, name: &'static str, replicas: i32) -> Self {
        let pool = Self { world, name };
        let object = json!({
            "apiVersion": "bootwright.dev/v1alpha1",
            "kind": "VirtualMachinePool",
            "metadata": { "name": name },
            "spec": {
                "replicas": replicas,
                "selector": { "matchLabels": { "app": name } },
                "progressDeadlineSeconds": 5,
                "updateStrategy": { "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
                "virtualMachineTemplate": {
                    "metadata": { "labels": { "app": name } },
                    "spec": { "runStrategy": "Always", "template": {
                        "metadata": { "annotations": { crate::kubelet::FATE: "" } },
                        "spec": {
                            "domain": { "memory": { "guest": "1Gi" }, "devices": {} },
                            "volumes": [{ "name": "root",
                                "bootableContainer": { "image": "web@sha256:11" } }],
                        },
                    } },
                },
            },
        });
        let how = PatchParams::apply("test").force();
        let patch = Patch::Apply(&object);
        pool.pools().patch(name, &how, &patch).await.unwrap();
        pool
    }

    fn pools(&self) -> Api<VirtualMachinePool> {
        Api::namespaced(self.world.client.clone(), &self.world.namespace)
    }

    async fn change(&self, spec: Value) {
        let how = PatchParams::default();
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.pools().patch(self.name, &how, &patch).await.unwrap();
    }

    /// Changes the image and what becomes of the pods.
    pub(crate) async fn update(&self, image: &str, fate: &str) {
        let volumes = json!([{ "name": "root", "bootableContainer": { "image": image } }]);
        let template = json!({
            "metadata": { "annotations": { crate::kubelet::FATE: fate } },
            "spec": { "volumes": volumes },
        });
        let machine = json!({ "spec": { "template": template } });
        self.change(json!({ "virtualMachineTemplate": machine }))
            .await;
    }

    async fn status(&self) -> VirtualMachinePoolStatus {
        let pool = self.pools().get(self.name).await.unwrap();
        pool.status.unwrap_or_default()
    }

    /// Waits until the condition Progressing has this reason for the spec as
    /// it is now.
    pub(crate) async fn until(&self, reason: &str) -> VirtualMachinePoolStatus {
        eventually(|| async {
            let pool = self.pools().get(self.name).await.unwrap();
            let status = pool.status.unwrap_or_default();
            let mut conditions = status.conditions.iter();
            let found = conditions.find(|c| c.type_ == "Progressing");
            let current = status.observed_generation == pool.metadata.generation;
            match found.is_some_and(|c| c.reason == reason) && current {
                true => Ok(status),
                false => Err(format!("not {reason}: {status:?}")),
            }
        })
        .await
    }

    /// The images of the machines that are there to stay.
    pub(crate) async fn images(&self) -> Vec<String> {
        let which = ListParams::default().labels(&format!("bootwright.dev/pool={}", self.name));
        let machines = self.world.machines().list(&which).await.unwrap();
        let live = (machines.items.into_iter()).filter(|m| m.metadata.deletion_timestamp.is_none());
        live.map(|machine| {
            let volume = &machine.spec.template.spec.volumes[0];
            volume.bootable_container.clone().unwrap().image
        })
        .collect()
    }

    /// How many pods a Service would send requests to.
    async fn endpoints(&self) -> usize {
        let which = ListParams::default().labels(&format!("app={}", self.name));
        let pods = self.world.pods().list(&which).await.unwrap();
        let ready = pods.items.into_iter().filter(|pod| {
            let status = pod.status.clone().unwrap_or_default();
            pod.metadata.deletion_timestamp.is_none()
                && (status.conditions.iter().flatten())
                    .any(|c| c.type_ == "Ready" && c.status == "True")
        });
        ready.count()
    }
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn a_pool_has_as_many_machines_as_it_is_told() {
    let world = World::new("ctl-scale").await;
    let _controller = Controller::start(&world.namespace, &[]);
    let pool = Pool::new(&world, "web", 3).await;
    let status = pool.until("Complete").await;
    assert_eq!((status.replicas, status.available_replicas), (3, 3));
    assert_eq!(pool.endpoints().await, 3);
    for replicas in [5, 1] {
        // As an autoscaler does it, by what it reads there.
        let scale = pool.pools().get_scale("web").await.unwrap();
        let selector = scale.status.unwrap().selector;
        assert_eq!(selector.as_deref(), Some("app=web"));
        let how = PatchParams::default();
        let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
        pool.pools().patch_scale("web", &how, &patch).await.unwrap();
        eventually(|| async {
            let (status, images) = (pool.status().await, pool.images().await.len());
            let done = status.available_replicas == replicas && status.replicas == replicas;
            let there = usize::try_from(replicas).unwrap();
            (done && images == there)
                .then_some(())
                .ok_or(format!("{status:?}"))
        })
        .await;
    }
    // A machine that is deleted by somebody is replaced.
    let which = ListParams::default().labels("bootwright.dev/pool=web");
    let machines = world.machines().list(&which).await.unwrap().items;
    let machine = (machines.into_iter())
        .find(|machine| machine.metadata.deletion_timestamp.is_none())
        .unwrap();
    world
        .delete(machine.metadata.name.as_deref().unwrap())
        .await;
    eventually(|| async {
        let machines = world.machines().list(&which).await.unwrap().items;
        let other = machines
            .iter()
            .any(|m| m.metadata.uid != machine.metadata.uid);
        let ready = pool.status().await.available_replicas == 1;
        (machines.len() == 1 && other && ready)
            .then_some(())
            .ok_or("not replaced".to_owned())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn an_update_leaves_enough_machines_at_every_moment_though_controllers_die() {
    let world = World::new("ctl-rolls").await;
    let mut controller = Controller::start(&world.namespace, &[]);
    let pool = Pool::new(&world, "web", 3).await;
    pool.until("Complete").await;
    pool.update("web@sha256:22", "").await;
    let (mut steps, mut fewest) = (0, usize::MAX);
    loop {
        let images = pool.images().await;
        assert!(images.len() <= 4, "{images:?}");
        fewest = fewest.min(pool.endpoints().await);
        if images.len() == 3 && images.iter().all(|image| image == "web@sha256:22") {
            break;
        }
        // At whatever it was doing.
        steps += 1;
        if steps % 20 == 0 {
            controller.kill();
            controller = Controller::start(&world.namespace, &[]);
        }
        assert!(steps < 1000, "{images:?}");
        tokio::time::sleep(Duration::from_millis(37)).await;
    }
    let status = pool.until("Complete").await;
    assert_eq!((status.updated_replicas, status.replicas), (3, 3));
    assert!(fewest >= 3, "{fewest} of 3 were ready");
    drop(controller);
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn an_update_that_does_not_get_ready_stops_and_goes_back() {
    let world = World::new("ctl-back").await;
    let _controller = Controller::start(&world.namespace, &[]);
    let pool = Pool::new(&world, "web", 2).await;
    let first = pool.until("Complete").await.update_revision.unwrap();
    pool.update("broken@sha256:33", "waits").await;
    let status = pool.until("ProgressDeadlineExceeded").await;
    assert_eq!((status.updated_replicas, status.available_replicas), (1, 2));
    assert_eq!(pool.endpoints().await, 2);
    assert!(
        world
            .events("web")
            .await
            .contains_key("ProgressDeadlineExceeded")
    );
    // The template before is kept.
    let revisions: Api<ControllerRevision> =
        Api::namespaced(world.client.clone(), &world.namespace);
    let kept = revisions.get(&format!("web-{first}")).await.unwrap();
    assert_eq!(kept.revision, 1);
    pool.change(json!({ "virtualMachineTemplate": kept.data.unwrap().0 }))
        .await;
    let status = pool.until("Complete").await;
    assert_eq!(status.update_revision.as_ref(), Some(&first));
    assert_eq!(pool.images().await, ["web@sha256:11"; 2]);
    // It is the newest now.
    let kept = revisions.get(&format!("web-{first}")).await.unwrap();
    assert_eq!(kept.revision, 3);
    // A change waits while the pool is paused, and its number does not.
    pool.change(json!({ "paused": true })).await;
    pool.update("web@sha256:44", "").await;
    pool.change(json!({ "replicas": 3 })).await;
    eventually(|| async {
        let images = pool.images().await;
        (images == ["web@sha256:11"; 3])
            .then_some(())
            .ok_or(format!("{images:?}"))
    })
    .await;
    pool.until("Paused").await;
    pool.change(json!({ "paused": false })).await;
    pool.until("Complete").await;
    assert_eq!(pool.images().await, ["web@sha256:44"; 3]);
}
