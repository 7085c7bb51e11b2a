//! What the controller costs and how quick it is, with a real API server and
//! the tests' kubelet. `cargo xtask bench cluster` starts the server and runs
//! this.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "../tests/argocd/mod.rs"]
mod argocd;
#[allow(dead_code)]
#[path = "../tests/controller/kubelet.rs"]
mod kubelet;
#[allow(dead_code)]
#[path = "../tests/controller/world.rs"]
mod world;

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use serde_json::json;

use world::{Controller, World};

/// How many machines come one after the other, and with which pause.
const SOME: (usize, Duration) = (100, Duration::from_millis(100));

/// How many there are in the end.
const MANY: usize = 1000;

/// How long the controller is watched while nothing happens.
const IDLE: Duration = Duration::from_secs(30);

/// Prints a number beside the largest that is good enough.
fn row(name: &str, value: f64, unit: &str, most: f64) {
    let row = json!({ "name": name, "value": value, "unit": unit, "most": most });
    println!("{row}");
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let world = World::new("bench").await;
    let controller = Controller::start_with(&world.namespace, &[], None);
    synced(&controller, 0).await;
    one_after_the_other(&world, &controller).await;
    let names = (SOME.0..MANY).map(name);
    stream::iter(names)
        .for_each_concurrent(8, |name| {
            let world = &world;
            async move { world.create(&name, "Always", "").await }
        })
        .await;
    running(&controller, MANY).await;
    // What was allocated for the rush may be given back.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let (pid, before) = (controller.pid(), cpu(controller.pid()));
    tokio::time::sleep(IDLE).await;
    let used = cpu(pid) - before;
    let memory = |field| kibibytes(pid, field) / 1024.0;
    row("memory with 1,000 machines", memory("VmRSS:"), "MiB", 40.0);
    row("the most there was", memory("VmHWM:"), "MiB", 80.0);
    let share = 100.0 * used / IDLE.as_secs_f64();
    row("of one core when idle", share, "%", 5.0);
    controller.kill();
    let start = Instant::now();
    let controller = Controller::start_with(&world.namespace, &[], None);
    synced(&controller, MANY).await;
    let took = start.elapsed().as_secs_f64();
    row("restart until all machines were looked at", took, "s", 5.0);
    row("writes of it", controller.writes().await, "", 0.0);
}

fn name(index: usize) -> String {
    format!("vm-{index}")
}

async fn one_after_the_other(world: &World, controller: &Controller) {
    let (count, pause) = SOME;
    let before = controller.writes().await;
    let pods = watcher(world.pods(), watcher::Config::default());
    let pods = pods.default_backoff().applied_objects();
    let (tell, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let watched = tokio::spawn(pods.for_each(move |pod| {
        if let Ok(Pod { metadata, .. }) = pod {
            let _ = tell.send((metadata.name.unwrap(), Instant::now()));
        }
        std::future::ready(())
    }));
    let mut asked = HashMap::new();
    let start = tokio::time::Instant::now();
    for index in 0..count {
        let turn = u32::try_from(index).unwrap();
        tokio::time::sleep_until(start + pause * turn).await;
        asked.insert(format!("{}-vm", name(index)), Instant::now());
        world.create(&name(index), "Always", "").await;
    }
    let mut took = Vec::new();
    while !asked.is_empty() {
        let (name, at) = seen.recv().await.unwrap();
        took.extend(asked.remove(&name).map(|asked| at - asked));
    }
    watched.abort();
    running(controller, count).await;
    took.sort();
    let per_cent = |share: usize| took[took.len() * share / 100].as_secs_f64() * 1000.0;
    row("creation to pod, median", per_cent(50), "ms", 500.0);
    row("creation to pod, 95 of 100", per_cent(95), "ms", 500.0);
    #[allow(clippy::cast_precision_loss)]
    let writes = (controller.writes().await - before) / count as f64;
    row("writes of a machine until it runs", writes, "", 10.0);
}

/// Waits until so many machines run, and nothing more is written of them.
async fn running(controller: &Controller, count: usize) {
    loop {
        let (_, text) = controller.get("/metrics").await.unwrap_or_default();
        let running = text
            .lines()
            .filter(|line| {
                line.starts_with("bootwright_vm_info{") && line.contains("status=\"Running\"")
            })
            .count();
        if running >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Waits until a controller knows everything and has looked at so many.
async fn synced(controller: &Controller, count: usize) {
    #[allow(clippy::cast_precision_loss)]
    let count = count as f64;
    loop {
        let known = controller.metric("bootwright_controller_synced").await;
        let looked = controller.metric("bootwright_controller_reconcile_seconds_count");
        if known == 1.0 && looked.await >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The processor time of a process, in seconds (proc_pid_stat(5), fields 14
/// and 15).
fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<_> = fields.split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

/// A field of `/proc/PID/status`.
fn kibibytes(pid: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}
