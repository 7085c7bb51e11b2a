//! Prometheus itself: it finds the controller and a launcher by what
//! `templates/cluster/monitoring` says, and knows every number that the rules
//! and the dashboard ask for.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::guest::Guest;
use crate::install::{install, kubectl};
use crate::pools::Pool;
use crate::world::{Controller, World, eventually};

/// What only our own machine monitor counts, and QEMU does not.
const KVM_ONLY: [&str; 4] = [
    "bootwright_balloon_bytes",
    "bootwright_block_errors_total",
    "bootwright_exits_total",
    "bootwright_net_bytes_total",
];

/// Where the controller of the templates runs.
const SYSTEM: &str = "bootwright-system";

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn has_kvm() -> bool {
    let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
    kvm.is_ok()
}

/// Runs a machine as a launcher in a pod does, with its metrics at a port.
fn launcher(dir: &Path, port: u16) -> Running {
    for folder in ["scratch/run", "kernel/boot", "disk/disk"] {
        fs::create_dir_all(dir.join(folder)).unwrap();
    }
    fs::write(dir.join("disk/disk/disk.img"), vec![0; 1 << 20]).unwrap();
    let guest = Guest::new().say("up\n").sleep();
    fs::write(dir.join("kernel/boot/vmlinuz"), guest).unwrap();
    let machine = json!({
        "name": "web",
        "uuid": "4b8f6a52-91d2-4c67-a7d5-0d4d4f8c2b11",
        "emulated": !has_kvm(),
        "cpus": { "sockets": 1, "cores": 1, "threads": 1, "maxSockets": 1 },
        "memory": { "bytes": 64 << 20, "maxBytes": 64 << 20, "pageBytes": 0 },
        "kernel": { "folder": dir.join("kernel"), "path": "/boot/vmlinuz", "commandLine": "x" },
        "disks": [{ "name": "root", "readOnly": false,
            "source": { "containerDisk": { "folder": dir.join("disk") } } }],
        "interface": { "name": "default", "mac": "02:00:00:00:00:01", "tcp": [], "udp": [] },
        "devices": { "console": true, "logConsole": true, "balloon": true, "vsock": true,
            "diskQueues": false, "interfaceQueues": false },
        "graceSeconds": 1,
        "paused": false,
        "endsOnReboot": true,
        "metricsPort": port,
    });
    let file = dir.join("machine.json");
    fs::write(&file, machine.to_string()).unwrap();
    let program = env::var("BOOTWRIGHT_TEST_COMMAND").expect("run by cargo xtask test cluster");
    let child = Command::new(program)
        .args(["launch".as_ref(), file.as_os_str()])
        .arg("--termination-log")
        .arg(dir.join("word"))
        .env_remove("XDG_STATE_HOME")
        .env("HOME", dir.join("scratch"))
        .env("XDG_RUNTIME_DIR", dir.join("scratch/run"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    Running(child.unwrap())
}

fn templates(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../templates/cluster/monitoring");
    let text = fs::read_to_string(folder.join(name)).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

/// The ports of pods, as Prometheus' discovery of pods describes them:
/// <https://prometheus.io/docs/prometheus/latest/configuration/configuration/#pod>.
fn discovered(pods: &[Pod]) -> Value {
    let word = |text: &str| -> String {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        text.chars().map(letter).collect()
    };
    let mut targets = Vec::new();
    for pod in pods {
        let (meta, status) = (&pod.metadata, pod.status.clone().unwrap_or_default());
        let containers = &pod.spec.as_ref().unwrap().containers;
        for port in containers.iter().flat_map(|c| c.ports.iter().flatten()) {
            let mut labels = json!({
                "__meta_kubernetes_namespace": meta.namespace,
                "__meta_kubernetes_pod_name": meta.name,
                "__meta_kubernetes_pod_phase": status.phase,
                "__meta_kubernetes_pod_container_port_name": port.name,
            });
            for (key, value) in meta.labels.iter().flatten() {
                let key = word(key);
                labels[format!("__meta_kubernetes_pod_label_{key}")] = json!(value);
                labels[format!("__meta_kubernetes_pod_labelpresent_{key}")] = json!("true");
            }
            let Some(ip) = &status.pod_ip else { continue };
            let target = format!("{ip}:{}", port.container_port);
            targets.push(json!({ "targets": [target], "labels": labels }));
        }
    }
    json!(targets)
}

/// Starts Prometheus with the configuration of the templates. Debian's has no
/// discovery of pods, so that it reads from a file what that finds.
async fn prometheus(dir: &Path, world: &World) -> (Running, SocketAddr) {
    fs::create_dir_all(dir).unwrap();
    let mut config = templates("prometheus.yaml");
    for job in config["scrape_configs"].as_array_mut().unwrap() {
        let discovery = job.as_object_mut().unwrap();
        let how = discovery.remove("kubernetes_sd_configs").unwrap();
        // The pods of other tests have addresses where nobody is.
        let namespace = how[0]["namespaces"]["names"][0].as_str();
        let namespace = namespace.unwrap_or(&world.namespace);
        let pods: Api<Pod> = Api::namespaced(world.client.clone(), namespace);
        let found = discovered(&pods.list(&Default::default()).await.unwrap().items);
        let file = dir.join(format!("{namespace}.json"));
        fs::write(&file, found.to_string()).unwrap();
        discovery.insert("file_sd_configs".into(), json!([{ "files": [file] }]));
    }
    config["global"] = json!({ "scrape_interval": "1s", "evaluation_interval": "1s" });
    config["rule_files"] = json!(["rules.yaml"]);
    let rules = templates("rules.yaml")["spec"].to_string();
    fs::write(dir.join("rules.yaml"), rules).unwrap();
    let file = dir.join("prometheus.yaml");
    fs::write(&file, config.to_string()).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let log = fs::File::create(dir.join("log")).unwrap();
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            dir.join("data").display()
        ))
        .arg(format!("--web.listen-address={address}"))
        .stdin(Stdio::null())
        .stderr(log)
        .spawn();
    let child = child.expect("prometheus is missing: cargo xtask setup");
    (Running(child), address)
}

/// What Prometheus answers, or why there is no answer.
async fn ask(address: SocketAddr, path: &str) -> Result<Value, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).await.map_err(failed)?;
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(failed)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let answer: Value = serde_json::from_str(body).map_err(|e| format!("{e}: {body}"))?;
    match answer["status"] == "success" {
        true => Ok(answer["data"].clone()),
        false => Err(answer.to_string()),
    }
}

/// What an expression is, as a list.
async fn query(address: SocketAddr, expression: &str) -> Result<Vec<Value>, String> {
    let encoded: String = expression.bytes().map(|b| format!("%{b:02x}")).collect();
    let data = ask(address, &format!("/api/v1/query?query={encoded}")).await?;
    Ok(data["result"].as_array().cloned().unwrap_or_default())
}

/// The expressions of the rules and of the dashboard.
fn expressions() -> Vec<String> {
    let rules = templates("rules.yaml");
    let groups = rules["spec"]["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    let mut all: Vec<_> = rules.map(|rule| rule["expr"].clone()).collect();
    let dashboard = templates("dashboard.json");
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    all.extend(targets.map(|target| target["expr"].clone()));
    all.iter()
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

/// The names of metrics in an expression.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words.filter(|word| word.starts_with("bootwright") || word.starts_with("process_"))
}

/// A pod of the controller's Deployment, at the address of a real one.
async fn controller_pod(world: &World, address: SocketAddr) -> (Api<Pod>, String) {
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), SYSTEM);
    let name = format!("controller-{}", world.namespace);
    let template = controller_template();
    let mut pod = json!({ "metadata": template["metadata"], "spec": template["spec"] });
    pod["metadata"]["name"] = json!(name);
    // Nothing of it is run: its volumes and its account need not be there.
    pod["spec"]["automountServiceAccountToken"] = json!(false);
    let container = &mut pod["spec"]["containers"][0];
    container["image"] = json!("controller:1");
    let port = &mut container["ports"][0];
    assert_eq!(port["name"], "http");
    port["containerPort"] = json!(address.port());
    let pod: Pod = serde_json::from_value(pod).unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let status = json!({ "status": { "phase": "Running", "podIP": "127.0.0.1",
        "podIPs": [{ "ip": "127.0.0.1" }] } });
    let how = PatchParams::default();
    pods.patch_status(&name, &how, &Patch::Merge(&status))
        .await
        .unwrap();
    (pods, name)
}

fn controller_template() -> Value {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let file = file.join("../../templates/cluster/controller.yaml");
    let deployment: Value = serde_saphyr::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    deployment["spec"]["template"].clone()
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn prometheus_finds_all_that_rules_and_dashboard_ask_for() {
    let world = World::new("ctl-monitoring").await;
    install().await;
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let _launcher = launcher(&dir.path().join("launcher"), port);
    let option = format!("--metrics-port={port}");
    let controller = Controller::start(&world.namespace, &[&option]);
    let (pods, name) = controller_pod(&world, controller.address).await;
    world.create_at("web", "127.0.0.1").await;
    world.until("web", "Running").await;
    let pool = Pool::new(&world, "pool", 1).await;
    pool.until("Complete").await;
    let (_prometheus, address) = prometheus(&dir.path().join("prometheus"), &world).await;

    let namespace = &world.namespace;
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for expression in expressions() {
        wanted.extend(names(&expression).map(str::to_owned));
    }
    assert!(wanted.len() > 25, "{wanted:?}");
    if !has_kvm() {
        eprintln!("not looked for, as there is no KVM: {KVM_ONLY:?}");
        wanted.retain(|name| !KVM_ONLY.contains(&name.as_str()));
    }
    eventually(|| async {
        for name in &wanted {
            if query(address, &format!("count({name})")).await?.is_empty() {
                return Err(format!("Prometheus has no {name}"));
            }
        }
        Ok(())
    })
    .await;
    // The launcher's numbers are those of the machine that the controller
    // tells of, in its namespace.
    let joined = format!(
        "bootwright_vm_info{{namespace=\"{namespace}\",status=\"Running\"}} \
         * on (namespace, name) group_left () bootwright_memory_bytes"
    );
    let joined = query(address, &joined).await.unwrap();
    assert_eq!(joined.len(), 1, "{joined:?}");
    assert_eq!(joined[0]["metric"]["name"], "web");
    assert_eq!(joined[0]["value"][1], (64 << 20).to_string());
    for expression in expressions() {
        let expression = expression
            .replace("$__rate_interval", "10s")
            .replace("$namespace", ".*")
            .replace("$name", ".*");
        assert!(!expression.contains('$'), "{expression}");
        query(address, &expression)
            .await
            .unwrap_or_else(|error| panic!("{expression}: {error}"));
    }
    let rules = ask(address, "/api/v1/rules").await.unwrap().to_string();
    assert!(rules.contains("\"health\":\"ok\"") && !rules.contains("\"health\":\"err\""));
    assert!(!rules.contains("\"state\":\"firing\""), "{rules}");
    pods.delete(&name, &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    controller.terminate().await;
}

#[tokio::test]
#[ignore = "needs an API server: cargo xtask test cluster"]
async fn the_monitoring_of_the_templates_can_be_built() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../templates/cluster/monitoring"
    );
    let (said, well) = kubectl(&["kustomize", folder]);
    assert!(well, "{said}");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&said).unwrap();
    let kinds: Vec<_> = objects.iter().map(|object| &object["kind"]).collect();
    for kind in ["ConfigMap", "PodMonitor", "PrometheusRule"] {
        assert!(kinds.iter().any(|found| *found == kind), "{kinds:?}");
    }
    let map = objects
        .iter()
        .find(|object| object["kind"] == "ConfigMap")
        .unwrap();
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let dashboard = map["data"]["bootwright.json"].as_str().unwrap();
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    assert_eq!(dashboard["uid"], "bootwright");
}
