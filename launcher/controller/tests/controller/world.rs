//! A namespace with a controller, and what tests ask of it.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bootwright_controller::api::status::VirtualMachineStatus;
use bootwright_controller::api::{VirtualMachine, VirtualMachinePool};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::kubelet::Kubelet;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Held by whoever changes the definitions.
pub(crate) static DEFINITIONS: Mutex<()> = Mutex::const_new(());

/// A namespace with a kubelet.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    _kubelet: Kubelet,
    argocd: Option<Watcher>,
}

impl World {
    /// A new namespace, whose name begins like this.
    pub(crate) async fn new(name: &str) -> Self {
        let name = &format!("{name}-{}", std::process::id());
        let client = Client::try_default()
            .await
            .expect("needs an API server: cargo xtask test cluster");
        definitions(&client).await;
        let how = PatchParams::apply("test").force();
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": name } });
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces
            .patch(name, &how, &Patch::Apply(&namespace))
            .await
            .unwrap();
        // In a cluster, a controller makes it.
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": "default" } });
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), name);
        accounts
            .patch("default", &how, &Patch::Apply(&account))
            .await
            .unwrap();
        Self {
            _kubelet: Kubelet::start(client.clone(), name),
            argocd: crate::argocd::is_there().then(|| Watcher::start(&client, name)),
            client,
            namespace: name.to_owned(),
        }
    }

    pub(crate) fn machines(&self) -> Api<VirtualMachine> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates a machine, whose pods have this fate.
    pub(crate) async fn create(&self, name: &str, strategy: &str, fate: &str) {
        let annotations = json!({ crate::kubelet::FATE: fate });
        self.create_with(name, strategy, &annotations).await;
    }

    /// Creates a machine that always runs, and whose pods get this address.
    pub(crate) async fn create_at(&self, name: &str, address: &str) {
        let annotations = json!({ crate::kubelet::ADDRESS: address });
        self.create_with(name, "Always", &annotations).await;
    }

    async fn create_with(&self, name: &str, strategy: &str, annotations: &Value) {
        let object = json!({
            "apiVersion": "bootwright.dev/v1alpha1",
            "kind": "VirtualMachine",
            "metadata": { "name": name },
            "spec": { "runStrategy": strategy, "template": {
                "metadata": { "annotations": annotations },
                "spec": {
                    "domain": { "memory": { "guest": "1Gi" }, "devices": {} },
                    "volumes": [{ "name": "root",
                        "bootableContainer": { "image": "web@sha256:11" } }],
                },
            } },
        });
        let vm: VirtualMachine = serde_json::from_value(object).unwrap();
        let how = kube::api::PostParams::default();
        self.machines().create(&how, &vm).await.unwrap();
    }

    /// Merges a change into a machine.
    pub(crate) async fn change(&self, name: &str, change: Value) {
        let how = PatchParams::default();
        let patch = Patch::Merge(&change);
        self.machines().patch(name, &how, &patch).await.unwrap();
    }

    /// Asks for something by an annotation.
    pub(crate) async fn ask(&self, name: &str, annotation: &str) {
        let now = k8s_openapi::jiff::Timestamp::now().to_string();
        let key = format!("bootwright.dev/{annotation}");
        let change = json!({ "metadata": { "annotations": { key: now } } });
        self.change(name, change).await;
    }

    /// Deletes a machine, without waiting.
    pub(crate) async fn delete(&self, name: &str) {
        let how = DeleteParams::default();
        self.machines().delete(name, &how).await.unwrap();
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

    /// Waits until a machine prints this status.
    pub(crate) async fn until(&self, name: &str, printable: &str) -> VirtualMachineStatus {
        let found = || async {
            let status = self.status(name).await;
            match status.printable_status.as_deref() == Some(printable) {
                true => Ok(status),
                false => Err(format!("{name} is not {printable}: {status:?}")),
            }
        };
        eventually(found).await
    }

    /// Waits until a machine's pod is another than the one with this UID.
    pub(crate) async fn until_other_pod(&self, machine: &str, old: &str) -> String {
        eventually(|| async {
            match self.pod(machine).await {
                Some(uid) if uid != old => Ok(uid),
                other => Err(format!("{machine} has pod {other:?}, before {old}")),
            }
        })
        .await
    }

    /// The reasons of the events of a machine, with how many there are.
    pub(crate) async fn events(&self, machine: &str) -> BTreeMap<String, usize> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let of = ListParams::default().fields(&format!("involvedObject.name={machine}"));
        let mut reasons = BTreeMap::new();
        for event in events.list(&of).await.unwrap() {
            *reasons.entry(event.reason.unwrap_or_default()).or_default() += 1;
        }
        reasons
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let Some(argocd) = &self.argocd else { return };
        let complaints = argocd.complaints.lock().unwrap();
        if !std::thread::panicking() {
            assert_eq!(*complaints, [""; 0]);
        }
    }
}

/// Has Argo CD look at each status that machines and pools of a namespace have
/// for however short a time.
struct Watcher {
    complaints: Arc<std::sync::Mutex<Vec<String>>>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Watcher {
    fn start(client: &Client, namespace: &str) -> Self {
        let complaints = Arc::default();
        let kinds = [
            ApiResource::erase::<VirtualMachine>(&()),
            ApiResource::erase::<VirtualMachinePool>(&()),
        ];
        let tasks = kinds.map(|kind| {
            let objects: Api<DynamicObject> =
                Api::namespaced_with(client.clone(), namespace, &kind);
            let complaints: Arc<std::sync::Mutex<Vec<String>>> = Arc::clone(&complaints);
            let events = watcher(objects, watcher::Config::default()).default_backoff();
            let look = move |object: Result<DynamicObject, watcher::Error>| {
                let object = object
                    .ok()
                    .map(|object| serde_json::to_value(object).unwrap());
                // Some tests store what is no machine; nobody gives that a status.
                let object = object.filter(|object| object["spec"].is_object());
                let complaint = object.and_then(|object| crate::argocd::complaint(&object));
                complaints.lock().unwrap().extend(complaint);
                std::future::ready(())
            };
            tokio::spawn(events.applied_objects().for_each(look))
        });
        Self { complaints, tasks }
    }
}

/// Installs the definitions, unless they are there.
async fn definitions(client: &Client) {
    let _turn = DEFINITIONS.lock().await;
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for (_, yaml) in bootwright_controller::api::crd::all().unwrap() {
        let crd: Value = serde_saphyr::from_str(&yaml).unwrap();
        let name = crd["metadata"]["name"].as_str().unwrap();
        let how = PatchParams::apply("kubectl").force();
        crds.patch(name, &how, &Patch::Apply(&crd)).await.unwrap();
        eventually(|| async {
            let crd = crds.get(name).await.unwrap();
            let conditions = crd.status.and_then(|status| status.conditions);
            let established = (conditions.iter().flatten())
                .any(|c| c.type_ == "Established" && c.status == "True");
            established
                .then_some(())
                .ok_or(format!("{name} is not established"))
        })
        .await;
    }
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

/// A controller, ended when it is dropped.
pub(crate) struct Controller {
    child: Child,
    pub(crate) address: SocketAddr,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

impl Controller {
    /// Starts one for a namespace.
    pub(crate) fn start(namespace: &str, options: &[&str]) -> Self {
        let options = [options, &["--verbose"]].concat();
        Self::start_with(namespace, &options, None)
    }

    /// The same, which finds the API server as this file says.
    pub(crate) fn start_with(namespace: &str, options: &[&str], config: Option<&Path>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_bootwright-controller"));
        command
            .args(["--namespace", namespace])
            .args(["--launcher-image", "registry.example.com/bootwright:1"])
            .arg(format!("--listen={address}"))
            .args(options)
            .stdin(Stdio::null())
            .stderr(fs::File::create(&log).unwrap());
        if let Some(config) = config {
            command.env("KUBECONFIG", config);
        }
        Self {
            child: command.spawn().unwrap(),
            address,
            log,
            _dir: dir,
        }
    }

    /// Ends it at once, as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and waits until it has.
    pub(crate) async fn terminate(mut self) -> Duration {
        let start = Instant::now();
        let pid = i32::try_from(self.child.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return start.elapsed();
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    // The benchmark asks for it.
    #[allow(dead_code)]
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// What it answers at a path, or None if it does not answer (yet).
    pub(crate) async fn get(&self, path: &str) -> Option<(String, String)> {
        let mut stream = TcpStream::connect(self.address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.to_owned(), body.to_owned()))
    }

    /// The value of a metric; 0 without it.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").await.unwrap_or_default();
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// How many times it wrote objects.
    pub(crate) async fn writes(&self) -> f64 {
        let (_, text) = self.get("/metrics").await.unwrap_or_default();
        let calls = text.lines().filter(|line| {
            line.starts_with("bootwright_controller_api_calls_total{")
                && !line.contains("verb=\"get\"")
        });
        calls
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }
}
