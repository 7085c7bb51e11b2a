//! The device plugin, and the real kubelet that it talks to.

use std::path::Path;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use serde_json::json;

use crate::cluster::{Cluster, Program, eventually, image, run};

/// What the node offers.
const KVM: &str = "bootwright.dev/kvm";

#[tokio::test]
#[ignore = "needs a node: cargo xtask test node"]
async fn the_node_offers_kvm_and_again_after_its_kubelet_was_started_anew() {
    let cluster = Cluster::new("device", "baseline").await;
    offered(&cluster).await;
    let before = registrations();
    Program("kubelet").kill();
    eventually("the plugin to register again", || async {
        match registrations() > before {
            true => Ok(()),
            false => Err(format!("{before} registrations")),
        }
    })
    .await;
    offered(&cluster).await;
    cluster.end().await;
}

/// How often the kubelet has taken what the plugin offers.
fn registrations() -> usize {
    let words = ["--namespace=bootwright-node", "logs", "ds/bootwright-node"];
    let (log, _) = run("kubectl", &words);
    log.matches("the kubelet has taken").count()
}

/// The node has a thousand of the device, and a container that asks for one
/// can open it. All are there and none can be had where there is no KVM.
async fn offered(cluster: &Cluster) {
    let has_kvm = Path::new("/sys/class/misc/kvm").exists();
    let expected = if has_kvm { "1k" } else { "0" };
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    eventually("the node's devices", || async {
        let all = nodes.list(&ListParams::default()).await;
        let all = all.map_err(|error| error.to_string())?;
        let status = all.items[0].status.clone().unwrap_or_default();
        let there = status.capacity.as_ref().and_then(|all| all.get(KVM));
        let free = status.allocatable.as_ref().and_then(|all| all.get(KVM));
        match (there, free) {
            (Some(there), Some(free)) if there.0 == "1k" && free.0 == expected => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    if !has_kvm {
        eprintln!("this machine has no KVM: no container is given the device");
        return;
    }
    let script = "exec 3<>/dev/kvm && echo opened";
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "user" },
        "spec": {
            "restartPolicy": "Never",
            "containers": [{ "name": "user", "image": image("SMALL_1"),
                "command": ["/bin/busybox", "sh", "-c", script],
                "resources": { "limits": { KVM: "1" } } }],
        },
    });
    eventually("a container to open the device", || async {
        let (said, well) = cluster.apply(&pod);
        assert!(well, "{said}");
        let done = "--for=jsonpath={.status.phase}=Succeeded";
        let words = ["wait", done, "pod/user", "--timeout=30s"];
        let (said, well) = cluster.kubectl(&words);
        let (log, _) = cluster.kubectl(&["logs", "user"]);
        let (pod, _) = cluster.kubectl(&["describe", "pod", "user"]);
        // One that the kubelet did not admit is not tried again.
        cluster.kubectl(&["delete", "pod", "user", "--now"]);
        match well && log == "opened" {
            true => Ok(()),
            false => Err(format!("{said}\n{log}\n{pod}")),
        }
    })
    .await;
}
