//! A namespace with a controller and a kubelet, and the plugin to try there.

use std::env;
use std::future::Future;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bootwright_controller::api::{VirtualMachine, VirtualMachinePool};
use bootwright_controller::manager::{self, config::File};
use k8s_openapi::api::core::v1::{Namespace, Node, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::kubelet::Kubelet;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The plugin.
pub(crate) const PLUGIN: &str = env!("CARGO_BIN_EXE_kubectl-bootwright");

/// Held by whoever changes the definitions.
static DEFINITIONS: Mutex<()> = Mutex::const_new(());

/// A namespace.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    _kubelet: Kubelet,
    controller: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.controller.abort();
    }
}

/// What a program said, and whether it succeeded.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) error: String,
    pub(crate) well: bool,
}

impl World {
    /// A new namespace, whose name begins like this.
    pub(crate) async fn new(name: &str) -> Self {
        let namespace = format!("{name}-{}", std::process::id());
        let client = Client::try_default()
            .await
            .expect("needs an API server: cargo xtask test cluster");
        definitions(&client).await;
        let how = PatchParams::apply("test").force();
        let object = json!({ "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": namespace } });
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let patch = Patch::Apply(&object);
        namespaces.patch(&namespace, &how, &patch).await.unwrap();
        // In a cluster, a controller makes it.
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": "default" } });
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
        let patch = Patch::Apply(&account);
        accounts.patch("default", &how, &patch).await.unwrap();
        // The API server looks whether a pod that is resized has room there.
        let nodes: Api<Node> = Api::all(client.clone());
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-1" } });
        nodes
            .patch("node-1", &how, &Patch::Apply(&node))
            .await
            .unwrap();
        let room = json!({ "status": { "allocatable": { "cpu": "64", "memory": "256Gi" },
            "capacity": { "cpu": "64", "memory": "256Gi" } } });
        let merge = PatchParams::default();
        nodes
            .patch_status("node-1", &merge, &Patch::Merge(&room))
            .await
            .unwrap();
        let config = File {
            launcher_image: Some("registry.example.com/bootwright:1".into()),
            namespaces: Some(vec![namespace.clone()]),
            ..File::default()
        };
        let config = Arc::new(config.complete("test".into()).unwrap());
        let run = manager::run(client.clone(), config, std::future::pending());
        Self {
            _kubelet: Kubelet::start(client.clone(), &namespace),
            controller: tokio::spawn(async move { run.await.unwrap() }),
            client,
            namespace,
        }
    }

    pub(crate) fn machines(&self) -> Api<VirtualMachine> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn pools(&self) -> Api<VirtualMachinePool> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies a machine or a pool.
    pub(crate) async fn apply(&self, object: Value) {
        let how = PatchParams::apply("test").force();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let patch = Patch::Apply(&object);
        match object["kind"].as_str() {
            Some("VirtualMachine") => {
                self.machines().patch(&name, &how, &patch).await.unwrap();
            }
            _ => drop(self.pools().patch(&name, &how, &patch).await.unwrap()),
        }
    }

    /// Creates a machine with this run strategy, or a spec that has one.
    pub(crate) async fn machine(&self, name: &str, strategy: &str) {
        self.apply(json!({
            "apiVersion": "bootwright.dev/v1alpha1",
            "kind": "VirtualMachine",
            "metadata": { "name": name },
            "spec": { "runStrategy": strategy, "template": { "spec": template() } },
        }))
        .await;
    }

    /// Waits until a machine prints this status.
    pub(crate) async fn until(&self, name: &str, printable: &str) {
        eventually(|| async {
            let vm = self.machines().get(name).await.unwrap();
            let status = vm.status.unwrap_or_default();
            match status.printable_status.as_deref() == Some(printable) {
                true => Ok(()),
                false => Err(format!("{name} is not {printable}: {status:?}")),
            }
        })
        .await;
    }

    /// The plugin with these arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PLUGIN);
        command.args(arguments).args(["-n", &self.namespace]);
        command.stdin(Stdio::null());
        command
    }

    /// Runs the plugin.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Said {
        said(self.command(arguments)).await
    }

    /// What the plugin prints, which succeeds.
    pub(crate) async fn done(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments).await;
        assert!(said.well, "{arguments:?}: {}", said.error);
        said.out
    }

    /// What the plugin says is wrong.
    pub(crate) async fn refused(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments).await;
        assert!(!said.well, "{arguments:?}: {}", said.out);
        said.error
    }

    /// The plugin in the background, writing to a file.
    pub(crate) fn start(&self, arguments: &[&str], out: &Path) -> Ended {
        let mut command = self.command(arguments);
        command.stdout(std::fs::File::create(out).unwrap());
        Ended(command.spawn().unwrap())
    }
}

/// What a machine is made from.
pub(crate) fn template() -> Value {
    json!({
        "domain": { "memory": { "guest": "1Gi" }, "devices": {} },
        "volumes": [{ "name": "root", "bootableContainer": { "image": "web@sha256:11" } }],
    })
}

/// Runs a program to its end.
pub(crate) async fn said(mut command: Command) -> Said {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    Said {
        out: String::from_utf8(output.stdout).unwrap(),
        error: String::from_utf8(output.stderr).unwrap(),
        well: output.status.success(),
    }
}

/// A program, ended when this is dropped.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Installs the definitions, unless they are there.
async fn definitions(client: &Client) {
    let _turn = DEFINITIONS.lock().await;
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../templates/cluster/crds");
    let folder = folder.to_str().unwrap().to_owned();
    let applied = said(kubectl(&[
        "apply",
        "--server-side",
        "--force-conflicts",
        "-f",
        &folder,
    ]));
    let applied = applied.await;
    assert!(applied.well, "{}", applied.error);
    eventually(|| async {
        let all = crds.list(&kube::api::ListParams::default()).await.unwrap();
        let established = all.items.iter().filter(|crd| {
            let status = crd.status.as_ref();
            (status
                .and_then(|status| status.conditions.as_ref())
                .into_iter()
                .flatten())
            .any(|c| c.type_ == "Established" && c.status == "True")
        });
        match established.count() {
            2.. => Ok(()),
            few => Err(format!("{few} are established")),
        }
    })
    .await;
}

/// kubectl itself.
pub(crate) fn kubectl(arguments: &[&str]) -> Command {
    let line = env::var("BOOTWRIGHT_TEST_KUBECTL").expect("run by cargo xtask test cluster");
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words).args(arguments).stdin(Stdio::null());
    command
}

/// Asks until the answer is good, and fails with the last that was not.
pub(crate) async fn eventually<T, F>(mut question: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let start = Instant::now();
    loop {
        match question().await {
            Ok(answer) => return answer,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
