//! The life of one machine, from an image that runs as a container, too.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, EvictParams, PostParams};
use serde_json::json;

use crate::cluster::{
    CONTROLLER, Cluster, Program, eventually, get, image, is_ready, run, template,
};
use crate::monitoring::scraped;
use crate::plugin::Plugin;

/// What version 1 of the demo's image answers.
pub(crate) const HELLO: &str = "hello from bootwright, version 1";

#[tokio::test]
#[ignore = "needs a node: cargo xtask test node"]
async fn an_image_runs_as_a_container_and_lives_as_a_machine() {
    let cluster = Cluster::new("machine", "baseline").await;
    let web = image("DEBIAN");
    as_a_container(&cluster, &web).await;
    let address = cluster.service("web").await;
    let plugin = Plugin::with_machine(&cluster, &web);
    let time = cluster.until_ready("web").await;
    eprintln!("ready after {time:?}");
    let body = eventually("an answer of the service", || get(&address)).await;
    assert_eq!(body, HELLO);
    let (log, well) = cluster.kubectl(&["logs", "web-vm"]);
    assert!(well && log.contains("Linux version"), "{log}");
    undisturbed(&cluster, &address).await;
    plugin.used(&cluster, &address).await;
    killed(&cluster, &plugin).await;
    plugin.has_its_size(&cluster).await;
    stopped(&cluster).await;
    plugin.started(&cluster).await;
    cluster.end().await;
}

/// The image is an ordinary one: its web server runs in a container.
async fn as_a_container(cluster: &Cluster, web: &str) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "container" },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "web", "image": web,
                "command": ["/usr/sbin/nginx", "-g", "daemon off;"] }],
        },
    });
    let (said, well) = cluster.apply(&pod);
    assert!(well, "{said}");
    let address = eventually("the container to run", || async {
        let pod = cluster.pods().get("container").await.unwrap();
        let address = pod.status.as_ref().and_then(|s| s.pod_ip.clone());
        let runs = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
        let (said, _) = cluster.kubectl(&["describe", "pod", "container"]);
        address.filter(|_| runs).ok_or(said)
    })
    .await;
    let body = eventually("the container's answer", || get(&address)).await;
    assert_eq!(body, HELLO);
    let how = DeleteParams::default();
    cluster.pods().delete("container", &how).await.unwrap();
}

/// What happens around a machine leaves it as it is.
async fn undisturbed(cluster: &Cluster, address: &str) {
    let pod = cluster.pod("web").await;
    // The controller.
    let all: Api<Pod> = Api::namespaced(cluster.client.clone(), "bootwright-system");
    let (said, well) = run(
        "kubectl",
        &["-n", "bootwright-system", "delete", "pod", "-l", CONTROLLER],
    );
    assert!(well, "{said}");
    let params = kube::api::ListParams::default().labels(CONTROLLER);
    eventually("another controller", || async {
        let pods = all.list(&params).await.unwrap();
        let ready = |pod: &Pod| {
            let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
            conditions
                .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
        };
        match pods.items.iter().any(ready) {
            true => Ok(()),
            false => Err("it is not ready".to_owned()),
        }
    })
    .await;
    assert_eq!(get(address).await.as_deref(), Ok(HELLO));
    // The kubelet.
    Program("kubelet").kill();
    tokio::time::sleep(Duration::from_secs(10)).await;
    cluster.until_ready("web").await;
    assert_eq!(get(address).await.as_deref(), Ok(HELLO));
    // The store.
    Program("etcd").kill();
    tokio::time::sleep(Duration::from_secs(5)).await;
    until_still_ready(cluster).await;
    // The API server.
    let server = Program("kube-apiserver");
    let asked = async {
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!(get(address).await.as_deref(), Ok(HELLO));
        }
    };
    tokio::join!(server.be_gone_for(Duration::from_secs(60)), asked);
    until_still_ready(cluster).await;
    assert_eq!(
        cluster.pod("web").await,
        pod,
        "the machine was started anew"
    );
}

/// Waits until the API server answers again, and says that it is ready.
async fn until_still_ready(cluster: &Cluster) {
    eventually("the API server", || async {
        let vm = cluster.machines().get("web").await;
        let status = vm.map_err(|e| e.to_string())?.status.unwrap_or_default();
        match is_ready(&status) {
            true => Ok(()),
            false => Err(format!("{status:?}")),
        }
    })
    .await;
}

/// A machine that is restarted, or whose pod is evicted, shuts its guest down and
/// comes back. While it runs, Prometheus finds it.
#[tokio::test]
#[ignore = "needs a node: cargo xtask test node"]
async fn a_machine_that_is_restarted_or_evicted_comes_back() {
    let cluster = Cluster::new("again", "baseline").await;
    cluster.machine("web", &image("SMALL_1"));
    cluster.until_ready("web").await;
    scraped(&cluster).await;
    Plugin::new(&cluster).restarted(&cluster).await;
    evicted(&cluster).await;
    cluster.end().await;
}

async fn evicted(cluster: &Cluster) {
    let old = cluster.pod("web").await;
    let start = Instant::now();
    let how = EvictParams {
        post_options: PostParams::default(),
        ..EvictParams::default()
    };
    cluster.pods().evict("web-vm", &how).await.unwrap();
    until_other_pod(cluster, old).await;
    cluster.until_ready("web").await;
    eprintln!("evicted and ready again after {:?}", start.elapsed());
}

/// A pod that is killed is replaced. Who looks at the console has the terminal
/// back.
async fn killed(cluster: &Cluster, plugin: &Plugin) {
    let old = cluster.pod("web").await;
    let mut console = plugin.console();
    console.assert_raw("a console");
    let how = DeleteParams::default().grace_period(0);
    cluster.pods().delete("web-vm", &how).await.unwrap();
    let (well, shown) = console.end("the console of a pod that is killed");
    assert!(!well && shown.contains("error: "), "{shown}");
    console.assert_as_before("the console of a pod that is killed");
    until_other_pod(cluster, old).await;
    cluster.until_ready("web").await;
}

pub(crate) async fn until_other_pod(cluster: &Cluster, old: Option<String>) {
    eventually("another pod", || async {
        match cluster.pod("web").await {
            Some(uid) if Some(&uid) != old.as_ref() => Ok(()),
            other => Err(format!("the pod is {other:?}, before {old:?}")),
        }
    })
    .await;
}

/// A machine that is to stop is shut down by its own system.
async fn stopped(cluster: &Cluster) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut follow = std::process::Command::new("kubectl")
        .args(["-n", &cluster.namespace, "logs", "--follow", "web-vm"])
        .stdout(log.reopen().unwrap())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let halted = json!({ "spec": { "runStrategy": "Halted" } });
    cluster.change("web", halted).await;
    cluster.until("web", "Stopped").await;
    eprintln!("stopped after {:?}", start.elapsed());
    follow.wait().unwrap();
    let text = String::from_utf8_lossy(&std::fs::read(log.path()).unwrap()).into_owned();
    assert!(text.contains("Power down"), "{text}");
    assert_eq!(cluster.pod("web").await, None);
}

/// A guest that does not hear its power button is ended when its time is up,
/// and who asks is told.
#[tokio::test]
#[ignore = "needs a node: cargo xtask test node"]
async fn a_guest_that_does_not_hear_is_ended_when_its_time_is_up() {
    let cluster = Cluster::new("deaf", "baseline").await;
    let mut template = template("web", &image("DEAF"));
    template["spec"]["terminationGracePeriodSeconds"] = json!(15);
    let (said, well) = cluster.apply(&json!({
        "apiVersion": "bootwright.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": { "name": "web" },
        "spec": { "runStrategy": "Always", "template": template },
    }));
    assert!(well, "{said}");
    cluster.until_ready("web").await;
    // Of the pod there is nothing left afterwards.
    let ends = tempfile::NamedTempFile::new().unwrap();
    let how = "jsonpath={.status.containerStatuses[*].state.terminated}{\"\\n\"}";
    let mut watch = std::process::Command::new("kubectl")
        .args(["-n", &cluster.namespace, "get", "pod", "web-vm", "--watch"])
        .args(["--output", how])
        .stdout(ends.reopen().unwrap())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let halted = json!({ "spec": { "runStrategy": "Halted" } });
    cluster.change("web", halted).await;
    cluster.until("web", "Stopped").await;
    assert!(start.elapsed() >= Duration::from_secs(15));
    let text = eventually("how it ended", || async {
        let text = std::fs::read_to_string(ends.path()).unwrap();
        match text.contains("exitCode") {
            true => Ok(text),
            false => Err(text),
        }
    })
    .await;
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert!(text.contains(r#""exitCode":36"#), "{text}");
    assert!(
        text.contains("did not turn itself off within 15 s"),
        "{text}"
    );
    assert_eq!(cluster.pod("web").await, None);
    cluster.end().await;
}
