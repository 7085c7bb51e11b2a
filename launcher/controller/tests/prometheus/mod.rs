//! Debian's Prometheus, and what its discovery of pods would find.
//!
//! In: a configuration of Prometheus, as JSON. Out: what a server that has it
//! answers. Debian's is built without the discovery of pods: a job that has it
//! reads from a file what it would find.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::Api;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A process that ends with the test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// The ports of pods, as Prometheus' discovery of pods describes them:
/// <https://prometheus.io/docs/prometheus/latest/configuration/configuration/#pod>.
fn discovered(pods: &[Pod]) -> Value {
    let mut targets = Vec::new();
    for pod in pods {
        let (meta, status) = (&pod.metadata, pod.status.clone().unwrap_or_default());
        for container in &pod.spec.as_ref().unwrap().containers {
            for port in container.ports.iter().flatten() {
                let mut labels = json!({
                    "__meta_kubernetes_namespace": meta.namespace,
                    "__meta_kubernetes_pod_name": meta.name,
                    "__meta_kubernetes_pod_phase": status.phase,
                    "__meta_kubernetes_pod_container_name": container.name,
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
    }
    json!(targets)
}

/// A Kubernetes label's key in the name of a label of Prometheus.
pub(crate) fn word(key: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    key.chars().map(letter).collect()
}

/// Puts in the place of a job's discovery of pods what it finds now: in the
/// namespaces that it names, else in `everywhere`, or in all without that.
pub(crate) async fn discover(
    job: &mut Value,
    client: &Client,
    everywhere: Option<&str>,
    dir: &Path,
) {
    let file = dir.join(format!("{}.json", word(job["job_name"].as_str().unwrap())));
    let job = job.as_object_mut().unwrap();
    let how = job.remove("kubernetes_sd_configs").unwrap();
    assert_eq!(how[0]["role"], "pod");
    let named = how[0]["namespaces"]["names"].as_array();
    let namespaces: Vec<_> = match named {
        Some(names) => names.iter().map(|name| name.as_str()).collect(),
        None => vec![everywhere],
    };
    let mut found = Vec::new();
    for namespace in namespaces {
        let pods: Api<Pod> = match namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        found.extend(pods.list(&Default::default()).await.unwrap().items);
    }
    fs::write(&file, discovered(&found).to_string()).unwrap();
    job.insert("file_sd_configs".into(), json!([{ "files": [file] }]));
}

/// A server that runs.
pub(crate) struct Prometheus {
    _child: Running,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts one with this configuration, and with its files in a folder.
    pub(crate) fn start(dir: &Path, config: &Value) -> Self {
        let file = dir.join("prometheus.yaml");
        fs::write(&file, config.to_string()).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let log = fs::File::create(dir.join("log")).unwrap();
        let data = dir.join("data");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        let child = child.expect("prometheus is missing: cargo xtask setup");
        Self {
            _child: Running(child),
            address,
        }
    }

    /// What it answers, or why there is no answer.
    pub(crate) async fn ask(&self, path: &str) -> Result<Value, String> {
        let failed = |error: std::io::Error| error.to_string();
        let stream = TcpStream::connect(self.address).await;
        let mut stream = stream.map_err(failed)?;
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
    pub(crate) async fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let encoded: String = expression.bytes().map(|b| format!("%{b:02x}")).collect();
        let data = self.ask(&format!("/api/v1/query?query={encoded}")).await?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }
}
