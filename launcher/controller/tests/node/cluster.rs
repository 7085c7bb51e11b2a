//! A namespace on the node, and what tests do and ask there.

use std::env;
use std::future::Future;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bootwright_controller::api::VirtualMachine;
use bootwright_controller::api::status::VirtualMachineStatus;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service, ServiceAccount};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long anything may take: guests are emulated, several at a time.
const PATIENCE: Duration = Duration::from_secs(600);

/// What the controller's pods are called by.
pub(crate) const CONTROLLER: &str = "app.kubernetes.io/name=bootwright-controller";

/// What the images of the tests are called in the node's registry.
pub(crate) fn image(variable: &str) -> String {
    let variable = format!("BOOTWRIGHT_TEST_{variable}");
    env::var(&variable).unwrap_or_else(|_| panic!("{variable}: run by cargo xtask test node"))
}

/// A namespace, removed by [`Cluster::end`].
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

impl Cluster {
    /// A new namespace, whose name begins with this, that enforces this level of Pod Security.
    pub(crate) async fn new(name: &str, level: &str) -> Self {
        let client = Client::try_default()
            .await
            .expect("needs a node: cargo xtask test node");
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": {
            "generateName": format!("{name}-"),
            "labels": { "pod-security.kubernetes.io/enforce": level },
        } });
        let namespace = serde_json::from_value(namespace).unwrap();
        let how = PostParams::default();
        let made = namespaces.create(&how, &namespace).await.unwrap();
        let namespace = made.metadata.name.unwrap();
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
        eventually("a service account", || async {
            accounts.get("default").await.map_err(|e| e.to_string())
        })
        .await;
        Self { client, namespace }
    }

    /// Removes it, so that its guests leave the processors to the next test.
    pub(crate) async fn end(self) {
        // Guests that have just been started do not hear the power button.
        let (said, well) = self.kubectl(&["delete", "bvmpool,bvm", "--all", "--wait=false"]);
        assert!(well, "{said}");
        self.kubectl(&["delete", "pods", "--all", "--grace-period=0", "--force"]);
        let namespaces: Api<Namespace> = Api::all(self.client);
        let how = DeleteParams::default();
        namespaces.delete(&self.namespace, &how).await.unwrap();
        eventually("the end of the namespace", || async {
            match namespaces.get_opt(&self.namespace).await {
                Ok(None) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    pub(crate) fn machines(&self) -> Api<VirtualMachine> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies an object of any kind.
    pub(crate) fn apply(&self, object: &Value) -> (String, bool) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), object.to_string()).unwrap();
        let path = file.path().display().to_string();
        self.kubectl(&["apply", "--server-side", "-f", &path])
    }

    /// Runs kubectl in the namespace: what it said, and whether it succeeded.
    pub(crate) fn kubectl(&self, words: &[&str]) -> (String, bool) {
        let all = [&["--namespace", &self.namespace], words].concat();
        run("kubectl", &all)
    }

    /// A machine with one processor that boots an image and says over port 80
    /// that it is ready.
    pub(crate) fn machine(&self, name: &str, image: &str) {
        let object = json!({
            "apiVersion": "bootwright.dev/v1alpha1",
            "kind": "VirtualMachine",
            "metadata": { "name": name },
            "spec": { "runStrategy": "Always", "template": template(name, image) },
        });
        let (said, well) = self.apply(&object);
        assert!(well, "{said}");
    }

    /// Makes a service for pods with the label `app: NAME`; its address.
    pub(crate) async fn service(&self, name: &str) -> String {
        let object = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": name },
            "spec": { "selector": { "app": name }, "ports": [{ "port": 80 }] },
        });
        let services: Api<Service> = Api::namespaced(self.client.clone(), &self.namespace);
        let object = serde_json::from_value(object).unwrap();
        let service = services.create(&PostParams::default(), &object).await;
        service.unwrap().spec.unwrap().cluster_ip.unwrap()
    }

    /// Merges a change into a machine.
    pub(crate) async fn change(&self, name: &str, change: Value) {
        let patch = Patch::Merge(&change);
        let how = PatchParams::default();
        self.machines().patch(name, &how, &patch).await.unwrap();
    }

    pub(crate) async fn status(&self, name: &str) -> VirtualMachineStatus {
        let vm = self.machines().get(name).await.unwrap();
        vm.status.unwrap_or_default()
    }

    /// The UID of a machine's pod.
    pub(crate) async fn pod(&self, machine: &str) -> Option<String> {
        let pod = self.pods().get_opt(&format!("{machine}-vm")).await.unwrap();
        pod.and_then(|pod| pod.metadata.uid)
    }

    /// Waits until a machine is ready; says how long that took.
    pub(crate) async fn until_ready(&self, name: &str) -> Duration {
        let start = Instant::now();
        eventually(&format!("{name} to be ready"), || async {
            let status = self.status(name).await;
            match is_ready(&status) {
                true => Ok(()),
                false => Err(format!("{status:?}\n{}", self.look(name))),
            }
        })
        .await;
        start.elapsed()
    }

    /// Waits until a machine prints this status.
    pub(crate) async fn until(&self, name: &str, printable: &str) {
        self.until_any(name, &[printable]).await;
    }

    /// Waits until a machine prints one of these.
    pub(crate) async fn until_any(&self, name: &str, printable: &[&str]) {
        eventually(&format!("{name} to be {printable:?}"), || async {
            let status = self.status(name).await;
            let said = status.printable_status.clone().unwrap_or_default();
            match printable.contains(&said.as_str()) {
                true => Ok(()),
                false => Err(format!("{status:?}")),
            }
        })
        .await;
    }

    /// What its pod and its log say, for people.
    pub(crate) fn look(&self, machine: &str) -> String {
        let pod = format!("{machine}-vm");
        let (pods, _) = self.kubectl(&["describe", "pod", &pod]);
        let (log, _) = self.kubectl(&["logs", "--tail=30", &pod]);
        format!("{pods}\n{log}")
    }
}

/// The template of a small machine whose pod has the label `app: APP`.
pub(crate) fn template(app: &str, image: &str) -> Value {
    json!({
        "metadata": { "labels": { "app": app } },
        "spec": {
            "domain": {
                "cpu": { "cores": 1 },
                "memory": { "guest": "512Mi" },
                "devices": { "interfaces": [{ "name": "default", "masquerade": {},
                    "ports": [{ "port": 80 }] }] },
            },
            "networks": [{ "name": "default", "pod": {} }],
            "readinessProbe": {
                "httpGet": { "port": 80 }, "periodSeconds": 1, "timeoutSeconds": 2,
            },
            "terminationGracePeriodSeconds": 90,
            "volumes": [{ "name": "root", "bootableContainer": { "image": image } }],
        },
    })
}

pub(crate) fn is_ready(status: &VirtualMachineStatus) -> bool {
    let mut conditions = status.conditions.iter();
    conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Runs a program: what it said, and whether it succeeded.
pub(crate) fn run(program: &str, words: &[&str]) -> (String, bool) {
    let mut command = Command::new(program);
    let output = command.args(words).stdin(Stdio::null()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    (text, output.status.success())
}

/// Asks a server for its first page: the body.
pub(crate) async fn get(address: &str) -> Result<String, String> {
    get_at(address, 80).await
}

/// The same at another port.
pub(crate) async fn get_at(address: &str, port: u16) -> Result<String, String> {
    let question = async {
        let mut stream = TcpStream::connect((address, port)).await?;
        let request = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(10), question).await;
    let answer = answer.map_err(|_| "no answer within 10 s".to_owned())?;
    let answer = answer.map_err(|error| error.to_string())?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.trim().to_owned()),
        _ => Err(format!("answered {answer:?}")),
    }
}

/// Asks until the answer is good, and fails with the last that was not.
pub(crate) async fn eventually<T, F>(what: &str, mut question: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let start = Instant::now();
    loop {
        match question().await {
            Ok(answer) => return answer,
            Err(error) => {
                let time = start.elapsed();
                assert!(time < PATIENCE, "{what}, after {time:?}: {error}");
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// One of the node's own programs, kept running by the node's first process
/// unless a file of its name is in the folder `held`.
pub(crate) struct Program(pub(crate) &'static str);

impl Program {
    fn held(&self) -> PathBuf {
        let node = env::var("BOOTWRIGHT_TEST_NODE").expect("run by cargo xtask test node");
        PathBuf::from(node).join("held").join(self.0)
    }

    /// Kills it; it is started again.
    pub(crate) fn kill(&self) {
        use rustix::process::{Pid, Signal, kill_process};
        let children = std::fs::read_to_string("/proc/1/task/1/children").unwrap();
        let is_it = |pid: &&str| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).nth(1) == Some(self.0.as_bytes())
        };
        let pid = children.split_whitespace().find(is_it);
        let pid = pid.unwrap_or_else(|| panic!("{} does not run", self.0));
        let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }

    /// Kills it, and lets it be started again after a while.
    pub(crate) async fn be_gone_for(&self, time: Duration) {
        std::fs::write(self.held(), "").unwrap();
        self.kill();
        tokio::time::sleep(time).await;
        std::fs::remove_file(self.held()).unwrap();
    }
}
