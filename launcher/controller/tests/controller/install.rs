//! The manifests of `templates/cluster`: that the API server takes them, that
//! the controller's rights are enough for it, and what the roles allow.

use std::env;
use std::fs;
use std::process::Command;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::pools::Pool;
use crate::world::{Controller, DEFINITIONS, World, eventually};

const ACCOUNT: &str = "system:serviceaccount:bootwright-system:bootwright-controller";

/// Runs kubectl; its output and whether it succeeded.
pub(crate) fn kubectl(arguments: &[&str]) -> (String, bool) {
    let line = env::var("BOOTWRIGHT_TEST_KUBECTL").expect("run by cargo xtask test cluster");
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    let output = command.args(words).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    (text.trim().to_owned(), output.status.success())
}

/// Whether somebody may do something in a namespace.
fn may(who: &str, verb: &str, what: &str, namespace: &str) -> bool {
    let subject = format!("--as={who}");
    let (resource, part) = what.split_once('/').unwrap_or((what, ""));
    let part = format!("--subresource={part}");
    let question = [
        "auth", "can-i", verb, resource, &part, &subject, "-n", namespace,
    ];
    let (answer, _) = kubectl(&question);
    // There are warnings besides, as for what is not in a namespace.
    let words = answer.lines().find(|line| ["yes", "no"].contains(line));
    words.unwrap_or_else(|| panic!("{answer}")) == "yes"
}

/// Applies `templates/cluster`.
pub(crate) async fn install() {
    let _turn = DEFINITIONS.lock().await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../templates/cluster");
    let (said, well) = kubectl(&["apply", "--server-side", "--force-conflicts", "-k", folder]);
    assert!(well && !said.contains("Warning"), "{said}");
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn what_is_installed_may_do_its_work_and_no_more() {
    let world = World::new("ctl-install").await;
    install().await;
    let (token, well) = kubectl(&[
        "create",
        "token",
        "bootwright-controller",
        "-n",
        "bootwright-system",
    ]);
    assert!(well, "{token}");
    let path = env::var("KUBECONFIG").unwrap();
    let mut config: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    config["users"][0]["user"] = json!({ "token": token });
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), config.to_string()).unwrap();
    let lease = "--lease=bootwright-system/bootwright-controller-leader";
    let controller = Controller::start_with(&world.namespace, &[lease], Some(file.path()));
    world.create("web", "Always", "").await;
    world.until("web", "Running").await;
    let pause = json!({ "metadata": { "annotations": { "bootwright.dev/paused": "true" } } });
    world.change("web", pause).await;
    world.until("web", "Paused").await;
    let pool = Pool::new(&world, "pool", 2).await;
    pool.until("Complete").await;
    pool.update("web@sha256:22", "").await;
    pool.until("Complete").await;
    world.delete("web").await;
    eventually(|| async {
        let vm = world.machines().get_opt("web").await.unwrap();
        vm.is_none()
            .then_some(())
            .ok_or("it is still there".to_owned())
    })
    .await;
    assert_eq!(world.events("pool").await.get("SuccessfulCreate"), Some(&1));
    controller.terminate().await;
    for (verb, what, namespace) in [
        ("get", "secrets", "default"),
        ("create", "pods/exec", "default"),
        ("create", "serviceaccounts/token", "default"),
        ("update", "virtualmachines", "default"),
        ("list", "nodes", "default"),
        ("delete", "leases", "default"),
        ("delete", "leases", "bootwright-system"),
        ("create", "clusterroles", "default"),
    ] {
        assert!(!may(ACCOUNT, verb, what, namespace), "{verb} {what}");
    }
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn the_device_plugin_holds_a_folder_and_nothing_else() {
    let world = World::new("ctl-node").await;
    install().await;
    let sets: Api<DaemonSet> = Api::namespaced(world.client.clone(), "bootwright-node");
    let set = sets.get("bootwright-node").await.unwrap();
    let template = set.spec.unwrap().template;
    let account = template.spec.as_ref().unwrap().service_account_name.clone();
    let account = format!("system:serviceaccount:bootwright-node:{}", account.unwrap());
    for (verb, what) in [
        ("get", "nodes"),
        ("list", "pods"),
        ("get", "virtualmachines.bootwright.dev"),
        ("create", "events"),
    ] {
        assert!(
            !may(&account, verb, what, "bootwright-node"),
            "{verb} {what}"
        );
    }
    let pod = Pod {
        metadata: ObjectMeta {
            name: Some("plugin".into()),
            ..template.metadata.unwrap()
        },
        spec: template.spec,
        status: None,
    };
    let trial = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let create = async |namespace: &str, account: &str| {
        let pods: Api<Pod> = Api::namespaced(world.client.clone(), namespace);
        let mut pod = pod.clone();
        let spec = pod.spec.as_mut().unwrap();
        spec.service_account_name = Some(account.to_owned());
        pods.create(&trial, &pod).await.map_err(|e| e.to_string())
    };
    create("bootwright-node", "bootwright-node").await.unwrap();
    // The folder and root are all that keep it from where the controller is.
    let account = "bootwright-controller";
    let error = create("bootwright-system", account).await.unwrap_err();
    assert!(
        error.contains("violates PodSecurity \"restricted:latest\"")
            && error.contains("hostPath")
            && !error.contains("privilege")
            && !error.contains("capabilities")
            && !error.contains("seccomp"),
        "{error}"
    );
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn a_viewer_reads_and_an_editor_changes() {
    let world = World::new("ctl-roles").await;
    install().await;
    let bindings: Api<RoleBinding> = Api::namespaced(world.client.clone(), &world.namespace);
    for role in ["view", "edit"] {
        // As the cluster adds it to its own roles.
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": { "name": role },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": format!("bootwright-{role}") },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User",
                "name": role }],
        });
        let how = PatchParams::apply("test");
        let patch = Patch::Apply(&binding);
        bindings.patch(role, &how, &patch).await.unwrap();
    }
    let cases = [
        // The verb, the resource, and whether a viewer and an editor may.
        ("list", "virtualmachines.bootwright.dev", true, false),
        ("get", "virtualmachinepools.bootwright.dev", true, false),
        ("patch", "virtualmachines.bootwright.dev", false, true),
        ("create", "virtualmachinepools.bootwright.dev", false, true),
        (
            "patch",
            "virtualmachinepools.bootwright.dev/scale",
            false,
            true,
        ),
        (
            "patch",
            "virtualmachines.bootwright.dev/status",
            false,
            false,
        ),
        ("create", "pods/exec", false, false),
        ("get", "secrets", false, false),
    ];
    eventually(|| async {
        // The API server knows of new roles a moment later.
        let viewer = may(
            "view",
            "list",
            "virtualmachines.bootwright.dev",
            &world.namespace,
        );
        viewer
            .then_some(())
            .ok_or("a viewer may not list".to_owned())
    })
    .await;
    for (verb, what, viewer, editor) in cases {
        let found = ["view", "edit"].map(|who| may(who, verb, what, &world.namespace));
        assert_eq!(found, [viewer, editor], "{verb} {what}");
    }
    // An administrator of the cluster adds what both may.
    for (role, to) in [("bootwright-view", "view"), ("bootwright-edit", "edit")] {
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{to}=true");
        let (roles, _) = kubectl(&["get", "clusterroles", "-l", &label, "-o", "name"]);
        assert!(roles.contains(&format!("/{role}")), "{roles}");
    }
}
