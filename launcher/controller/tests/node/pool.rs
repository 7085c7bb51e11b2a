//! A pool behind a service, which must not notice its updates.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bootwright_controller::api::VirtualMachinePool;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, eventually, get, image, template};

/// How often the service is asked.
const PERIOD: Duration = Duration::from_millis(100);

/// A client that asks a service all the time.
struct Client {
    ended: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(usize, Vec<String>)>,
}

impl Client {
    fn start(address: &str) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let (end, address) = (Arc::clone(&ended), address.to_owned());
        let task = tokio::spawn(async move {
            let (start, mut asked, mut lost) = (Instant::now(), 0, Vec::new());
            while !end.load(Ordering::Relaxed) {
                asked += 1;
                if let Err(error) = get(&address).await {
                    lost.push(format!("after {:?}: {error}", start.elapsed()));
                }
                tokio::time::sleep(PERIOD).await;
            }
            (asked, lost)
        });
        Self { ended, task }
    }

    /// Ends it; all that it asked must have been answered.
    async fn end(self, what: &str) {
        self.ended.store(true, Ordering::Relaxed);
        let (asked, lost) = self.task.await.unwrap();
        eprintln!("{what}: {asked} requests, {} lost", lost.len());
        assert!(lost.is_empty(), "{what}: of {asked} requests: {lost:#?}");
    }
}

struct Pool<'a>(&'a Cluster);

impl Pool<'_> {
    fn api(&self) -> Api<VirtualMachinePool> {
        Api::namespaced(self.0.client.clone(), &self.0.namespace)
    }

    async fn change(&self, spec: Value) {
        let how = PatchParams::default();
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.api().patch("web", &how, &patch).await.unwrap();
    }

    async fn update(&self, image: &str) {
        self.change(json!({ "virtualMachineTemplate": { "spec": {
            "template": template("web", image) } } }))
            .await;
    }

    /// Waits until the condition Progressing has this reason for the spec as
    /// it is now.
    async fn until(&self, reason: &str) {
        let start = Instant::now();
        eventually(reason, || async {
            let pool = self.api().get("web").await.unwrap();
            let status = pool.status.unwrap_or_default();
            let mut conditions = status.conditions.iter();
            let found = conditions.find(|c| c.type_ == "Progressing");
            let current = status.observed_generation == pool.metadata.generation;
            match found.is_some_and(|c| c.reason == reason) && current {
                true => Ok(()),
                false => Err(format!(
                    "{status:?}\n{}",
                    self.0.kubectl(&["get", "bvm,pod"]).0
                )),
            }
        })
        .await;
        eprintln!("{reason} after {:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a node: cargo xtask test node"]
async fn a_pool_is_updated_and_nobody_notices() {
    let cluster = Cluster::new("pool", "baseline").await;
    let [first, second, silent] = ["SMALL_1", "SMALL_2", "SILENT"].map(image);
    let address = cluster.service("web").await;
    let pool = Pool(&cluster);
    let (said, well) = cluster.apply(&json!({
        "apiVersion": "bootwright.dev/v1alpha1",
        "kind": "VirtualMachinePool",
        "metadata": { "name": "web" },
        "spec": {
            "replicas": 3,
            "selector": { "matchLabels": { "app": "web" } },
            "progressDeadlineSeconds": 300,
            "updateStrategy": { "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "virtualMachineTemplate": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "runStrategy": "Always", "template": template("web", &first) },
            },
        },
    }));
    assert!(well, "{said}");
    pool.until("Complete").await;
    let answers = |version: u32| format!("hello from bootwright, version {version}");
    eventually("an answer", || get(&address)).await;

    let client = Client::start(&address);
    pool.update(&second).await;
    pool.until("Complete").await;
    client.end("update").await;
    // Nodes may hear a moment later that the last of the old ones ends.
    eventually("answers of version 2 alone", || async {
        for _ in 0..10 {
            match get(&address).await {
                Ok(answer) if answer == answers(2) => {}
                other => return Err(format!("{other:?}")),
            }
        }
        Ok(())
    })
    .await;

    // It boots, but nobody listens there.
    let client = Client::start(&address);
    pool.change(json!({ "progressDeadlineSeconds": 60 })).await;
    pool.update(&silent).await;
    pool.until("ProgressDeadlineExceeded").await;
    pool.update(&second).await;
    pool.until("Complete").await;
    client.end("update that fails, and way back").await;
    assert_eq!(get(&address).await, Ok(answers(2)));
    cluster.end().await;
}
