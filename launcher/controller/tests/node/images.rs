//! Images that are not where they should be.

use serde_json::json;

use crate::cluster::{Cluster, image, run};

/// An image that the registry has lost is waited for, and said to be missing.
#[tokio::test]
#[ignore = "needs a node: cargo xtask test node"]
async fn an_image_that_is_gone_is_waited_for() {
    let cluster = Cluster::new("images", "baseline").await;
    let web = image("SMALL_1");
    let (name, digest) = web.split_once('@').unwrap();
    let gone = format!("{}/gone", name.split_once('/').unwrap().0);
    let copy = || {
        let (from, to) = (format!("docker://{web}"), format!("docker://{gone}"));
        let plain = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        let words = [
            &["copy", "--all", "--insecure-policy", "--preserve-digests"],
            &plain[..],
        ]
        .concat();
        let (said, well) = run("skopeo", &[&words[..], &[&from, &to]].concat());
        assert!(well, "{said}");
    };
    copy();
    let words = [
        "delete",
        "--tls-verify=false",
        &format!("docker://{gone}@{digest}"),
    ];
    let (said, well) = run("skopeo", &words);
    assert!(well, "{said}");
    cluster.machine("web", &format!("{gone}@{digest}"));
    cluster
        .until_any("web", &["ErrImagePull", "ImagePullBackOff"])
        .await;
    copy();
    cluster.until("web", "Running").await;
    let halted = json!({ "spec": { "runStrategy": "Halted" } });
    cluster.change("web", halted).await;
    cluster.end().await;
}
