//! Prometheus itself: it finds the controller and a launcher by what
//! `templates/cluster/monitoring` says, and knows every number that the rules
//! and the dashboard ask for.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::guest::Guest;
use crate::install::{install, kubectl};
use crate::pools::Pool;
use crate::prometheus::{Prometheus, Running, discover, free_port};
use crate::world::{Controller, World, eventually};

/// What only our own machine monitor counts, and QEMU does not.
const KVM_ONLY: [&str; 5] = [
    "bootwright_balloon_bytes",
    "bootwright_block_errors_total",
    "bootwright_exits_total",
    "bootwright_memory_resident_bytes",
    "bootwright_net_bytes_total",
];

/// Where the controller of the templates runs.
const SYSTEM: &str = "bootwright-system";

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

/// Starts Prometheus with the configuration of the templates.
async fn prometheus(dir: &Path, world: &World) -> Prometheus {
    fs::create_dir_all(dir).unwrap();
    let mut config = templates("prometheus.yaml");
    for job in config["scrape_configs"].as_array_mut().unwrap() {
        // The pods of other tests have addresses where nobody is.
        discover(job, &world.client, Some(&world.namespace), dir).await;
    }
    config["global"] = json!({ "scrape_interval": "1s", "evaluation_interval": "1s" });
    config["rule_files"] = json!(["rules.yaml"]);
    let rules = templates("rules.yaml")["spec"].to_string();
    fs::write(dir.join("rules.yaml"), rules).unwrap();
    Prometheus::start(dir, &config)
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
    let prometheus = prometheus(&dir.path().join("prometheus"), &world).await;

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
            if prometheus
                .query(&format!("count({name})"))
                .await?
                .is_empty()
            {
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
    let joined = prometheus.query(&joined).await.unwrap();
    assert_eq!(joined.len(), 1, "{joined:?}");
    assert_eq!(joined[0]["metric"]["name"], "web");
    assert_eq!(joined[0]["value"][1], (64 << 20).to_string());
    for expression in expressions() {
        let expression = expression
            .replace("$__rate_interval", "10s")
            .replace("$namespace", ".*")
            .replace("$name", ".*");
        assert!(!expression.contains('$'), "{expression}");
        prometheus
            .query(&expression)
            .await
            .unwrap_or_else(|error| panic!("{expression}: {error}"));
    }
    let rules = prometheus.ask("/api/v1/rules").await.unwrap();
    let rules = rules.to_string();
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
