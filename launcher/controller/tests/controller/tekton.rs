//! The Task of `templates/tekton` that ends a pipeline: its script rolls a
//! pool out, with no more rights than its role gives it.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::install::kubectl;
use crate::pools::Pool;
use crate::world::{Controller, World};

fn templates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../templates/tekton")
}

/// What runs the Task's script: as the account of a pipeline in a namespace.
struct Rollout {
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
}

impl Rollout {
    fn new(namespace: &str) -> Self {
        let folder = templates().display().to_string();
        let (rendered, well) = kubectl(&["kustomize", &folder]);
        assert!(well, "{rendered}");
        let dir = tempfile::tempdir().unwrap();
        let rbac = templates().join("rbac.yaml").display().to_string();
        let (said, well) = kubectl(&["apply", "--server-side", "-n", namespace, "-f", &rbac]);
        assert!(well, "{said}");
        let (token, well) = kubectl(&["create", "token", "bootwright-pipeline", "-n", namespace]);
        assert!(well, "{token}");
        let path = env::var("KUBECONFIG").unwrap();
        let mut config: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        config["users"][0]["user"] = json!({ "token": token });
        // As a pod's account has it.
        config["contexts"][0]["context"]["namespace"] = json!(namespace);
        fs::write(dir.path().join("kubeconfig"), config.to_string()).unwrap();
        let line = env::var("BOOTWRIGHT_TEST_KUBECTL").unwrap();
        let program = dir.path().join("kubectl");
        fs::write(&program, format!("#!/bin/sh\nexec {line} \"$@\"\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let text = fs::read_to_string(templates().join("rollout.yaml")).unwrap();
        let task: Value = serde_saphyr::from_str(&text).unwrap();
        let step = &task["spec"]["steps"][0];
        let script = step["script"].as_str().unwrap();
        assert!(script.starts_with("#!/bin/sh\n"));
        fs::write(dir.path().join("script"), script).unwrap();
        let variables = step["env"].as_array().unwrap().iter();
        let env = variables.map(|variable| {
            let text = |key: &str| variable[key].as_str().unwrap().to_owned();
            (text("name"), text("value"))
        });
        Self {
            env: env.collect(),
            dir,
        }
    }

    async fn run(&self, pool: &str, image: &str) -> Output {
        let path = format!(
            "{}:{}",
            self.dir.path().display(),
            env::var("PATH").unwrap()
        );
        let mut command = Command::new("sh");
        command
            .arg(self.dir.path().join("script"))
            .env("PATH", path)
            .env("KUBECONFIG", self.dir.path().join("kubeconfig"));
        for (name, value) in &self.env {
            let value = match value.as_str() {
                "$(params.pool)" => pool,
                "$(params.image)" => image,
                "$(params.volume)" => "root",
                other => panic!("{other} is no param that is known here"),
            };
            command.env(name, value);
        }
        tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn a_pipeline_rolls_a_pool_out_and_fails_if_that_does() {
    let world = World::new("ctl-tekton").await;
    let controller = Controller::start(&world.namespace, &[]);
    let pool = Pool::new(&world, "front", 2).await;
    pool.until("Complete").await;
    let rollout = Rollout::new(&world.namespace);
    let output = rollout.run("front", "web@sha256:22").await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}{errors}");
    assert!(
        said.contains("all machines of front boot web@sha256:22"),
        "{said}"
    );
    assert_eq!(pool.images().await, ["web@sha256:22"; 2]);
    // An image that no node can pull.
    pool.update("web@sha256:22", "waits").await;
    let output = rollout.run("front", "web@sha256:33").await;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("gets no further"), "{errors}");
    // A pool that is not there is not made.
    let output = rollout.run("back", "web@sha256:22").await;
    assert!(!output.status.success());
    let (pools, _) = kubectl(&["get", "bvmpool", "-n", &world.namespace, "-o", "name"]);
    assert!(!pools.contains("back"), "{pools}");
    controller.terminate().await;
}
