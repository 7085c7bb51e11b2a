//! Prometheus itself finds the controller and a machine on the node by what
//! the PodMonitors of `templates/cluster/monitoring` say.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cluster::{Cluster, eventually, run};
use crate::prometheus::{Prometheus, discover, word};

/// A PodMonitor, as far as ours go. A field that is not here would be without
/// effect in these tests, and is an error.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Monitor {
    #[serde(default)]
    namespace_selector: Namespaces,
    selector: Selector,
    pod_metrics_endpoints: Vec<Endpoint>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Namespaces {
    any: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Selector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
    #[serde(default)]
    match_expressions: Vec<Expression>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expression {
    key: String,
    operator: Operator,
}

#[derive(Deserialize)]
enum Operator {
    Exists,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Endpoint {
    port: String,
    path: String,
    #[serde(default)]
    honor_labels: bool,
    #[serde(default)]
    relabelings: Vec<Relabeling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Relabeling {
    source_labels: Vec<String>,
    target_label: String,
}

/// What the operator tells Prometheus to do for an endpoint of a PodMonitor
/// (prometheus-operator, `generatePodMonitorConfig`).
fn job(namespace: &str, name: &str, monitor: &Monitor, endpoint: &Endpoint) -> Value {
    let keep = |label: String, regex: &str| {
        let label = format!("__meta_kubernetes_pod_{label}");
        json!({ "source_labels": [label], "regex": regex, "action": "keep" })
    };
    let named = |label: &str, target: &str| {
        let label = format!("__meta_kubernetes_{label}");
        json!({ "source_labels": [label], "target_label": target })
    };
    let mut relabelings = vec![json!({ "source_labels": ["__meta_kubernetes_pod_phase"],
        "regex": "(Failed|Succeeded)", "action": "drop" })];
    for (key, value) in &monitor.selector.match_labels {
        relabelings.push(keep(format!("label_{}", word(key)), value));
    }
    for Expression { key, operator } in &monitor.selector.match_expressions {
        let Operator::Exists = operator;
        relabelings.push(keep(format!("labelpresent_{}", word(key)), "true"));
    }
    relabelings.push(keep("container_port_name".into(), &endpoint.port));
    relabelings.push(named("namespace", "namespace"));
    relabelings.push(named("pod_container_name", "container"));
    relabelings.push(named("pod_name", "pod"));
    for relabeling in &endpoint.relabelings {
        relabelings.push(json!({ "source_labels": relabeling.source_labels,
            "target_label": relabeling.target_label }));
    }
    let discovery = match monitor.namespace_selector.any {
        true => json!({ "role": "pod" }),
        false => json!({ "role": "pod", "namespaces": { "names": [namespace] } }),
    };
    json!({
        "job_name": name,
        "honor_labels": endpoint.honor_labels,
        "metrics_path": endpoint.path,
        "kubernetes_sd_configs": [discovery],
        "relabel_configs": relabelings,
    })
}

/// A job for each endpoint of the PodMonitors, where they are installed.
fn jobs() -> Vec<Value> {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../templates/cluster/monitoring"
    );
    let (rendered, well) = run("kubectl", &["kustomize", folder]);
    assert!(well, "{rendered}");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&rendered).unwrap();
    let monitors = objects.iter().filter(|o| o["kind"] == "PodMonitor");
    let jobs = monitors.flat_map(|object| {
        let text = |field: &str| object["metadata"][field].as_str().unwrap();
        let monitor: Monitor = serde_json::from_value(object["spec"].clone()).unwrap();
        let endpoints = monitor.pod_metrics_endpoints.iter();
        let jobs = endpoints.map(|end| job(text("namespace"), text("name"), &monitor, end));
        jobs.collect::<Vec<_>>()
    });
    jobs.collect()
}

/// Prometheus has the numbers of the controller's pods, and those of the guest
/// of the machine `web`, which is ready.
pub(crate) async fn scraped(cluster: &Cluster) {
    let start = Instant::now();
    let dir = tempfile::tempdir().unwrap();
    let mut jobs = jobs();
    for job in &mut jobs {
        discover(job, &cluster.client, None, dir.path()).await;
    }
    let config = json!({ "global": { "scrape_interval": "1s" }, "scrape_configs": jobs });
    let prometheus = Prometheus::start(dir.path(), &config);
    let namespace = &cluster.namespace;
    let machine = format!("namespace=\"{namespace}\",name=\"web\"");
    for (expression, expected) in [
        // The one that leads, and the one that waits.
        ("count(up{job=\"bootwright-controller\"} == 1)", "2"),
        (
            &format!("count(up{{job=\"bootwright-launchers\",{machine},pod=\"web-vm\"}} == 1)"),
            "1",
        ),
        // Only who leads tells of machines, and of each in its own namespace.
        (
            &format!("sum(bootwright_vm_info{{{machine},status=\"Running\"}})"),
            "1",
        ),
        (
            &format!(
                "bootwright_vm_info{{{machine}}} \
                 * on (namespace, name) group_left () bootwright_memory_bytes"
            ),
            "536870912",
        ),
        // It has booted.
        (
            &format!("sum(bootwright_cpu_usage_seconds_total{{{machine}}}) > bool 1"),
            "1",
        ),
    ] {
        eventually(expression, || async {
            let found = prometheus.query(expression).await?;
            match &found[..] {
                [only] if only["value"][1] == expected => Ok(()),
                _ => Err(format!("is {found:?}, not {expected}")),
            }
        })
        .await;
    }
    eprintln!("scraped after {:?}", start.elapsed());
}
