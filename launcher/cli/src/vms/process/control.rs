//! What can be done to a running guest, and what is known of it, whoever runs
//! it.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::held::Held;
use crate::vms::spec::Spec;

/// What a guest is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// It runs.
    Running,
    /// It is held.
    Paused,
    /// It is between two resets, or about to end.
    Stopped,
}

/// A running guest.
pub(super) trait Guest: Debug + Send + Sync {
    /// Presses the power button.
    fn power_button(&self) -> anyhow::Result<()>;
    /// Ends it now.
    fn kill(&self) -> anyhow::Result<()>;
    /// Holds it.
    fn pause(&self) -> anyhow::Result<()>;
    /// Lets it go on.
    fn resume(&self) -> anyhow::Result<()>;
    /// Gives it so many processors.
    fn set_cpus(&self, count: u8) -> anyhow::Result<()>;
    /// Has it go for so many bytes of memory.
    fn set_memory(&self, bytes: u64) -> anyhow::Result<()>;
    /// How many bytes of memory it has come to.
    fn memory(&self) -> anyhow::Result<u64>;
    /// What it is doing, and how many processors it has.
    fn status(&self) -> anyhow::Result<(Status, u8)>;
    /// How long its stages took since it was made, where that is known.
    fn stages(&self) -> Vec<(&'static str, Duration)>;
    /// What it has counted.
    fn metrics(&self) -> anyhow::Result<Vec<Metric>>;
}

/// A number for Prometheus.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Metric {
    /// Its name without `bootwright_`.
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    /// A label and its value.
    pub label: Option<(&'static str, String)>,
    /// The number.
    pub value: f64,
}

impl Metric {
    pub(super) fn counter(name: &'static str, label: (&'static str, &str), value: u64) -> Self {
        Self {
            name,
            kind: "counter",
            label: Some((label.0, label.1.to_owned())),
            value: value as f64,
        }
    }

    pub(super) fn gauge(name: &'static str, value: f64) -> Self {
        Self {
            name,
            kind: "gauge",
            label: None,
            value,
        }
    }
}

/// Hands requests to the guest, once there is one.
#[derive(Debug)]
pub(super) struct Control {
    since: Instant,
    spec: Option<Spec>,
    state: Mutex<State>,
    /// What the kernel says of this process's memory: opened before the sandbox
    /// closes.
    process: Option<File>,
}

#[derive(Debug, Default)]
struct State {
    guest: Option<Arc<dyn Guest>>,
    /// When the guest was made.
    started: Option<Instant>,
    /// When it said that it had booted, the first time.
    ready: Option<Instant>,
    /// It was to end before it ran.
    killed: bool,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            spec: None,
            state: Mutex::default(),
            process: File::open("/proc/self/smaps").ok(),
        }
    }
}

impl Control {
    /// Control of the machine that `spec` describes.
    pub(super) fn new(spec: &Spec) -> Self {
        Self {
            spec: Some(spec.clone()),
            ..Self::default()
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest runs, or is about to.
    pub(super) fn set_guest(&self, guest: Arc<dyn Guest>) {
        let mut state = self.state();
        state.guest = Some(Arc::clone(&guest));
        state.started = Some(Instant::now());
        let killed = state.killed;
        drop(state);
        if killed {
            report(guest.kill());
        }
    }

    /// The guest says that it has booted.
    pub(super) fn set_ready(&self) {
        self.state().ready.get_or_insert_with(Instant::now);
    }

    /// There is no guest any more.
    pub(super) fn clear(&self) {
        self.state().guest = None;
    }

    /// Does something to the guest.
    pub(super) fn with_guest<T>(
        &self,
        what: impl FnOnce(&dyn Guest) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let guest = self.state().guest.clone();
        what(&*guest.context("the guest does not run yet, or no longer")?)
    }

    /// Presses the power button.
    pub(super) fn power_button(&self) {
        report(self.with_guest(|guest| guest.power_button()));
    }

    /// Ends the guest now, or as soon as it runs.
    pub(super) fn kill(&self) {
        self.state().killed = true;
        // Without a guest there is nothing to end yet.
        let guest = self.state().guest.clone();
        if let Some(guest) = guest {
            report(guest.kill());
        }
    }

    /// The stages so far, in milliseconds since the process started.
    fn stages(&self) -> BTreeMap<&'static str, f64> {
        let (started, ready) = {
            let state = self.state();
            (state.started, state.ready)
        };
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let mut stages = BTreeMap::new();
        if let Some(started) = started {
            stages.insert("prepared", millis(started - self.since));
        }
        if let Some(ready) = ready {
            stages.insert("ready", millis(ready - self.since));
        }
        let of_guest = self.with_guest(|guest| Ok(guest.stages()));
        let base = started.map_or(Duration::ZERO, |s| s - self.since);
        for (name, time) in of_guest.unwrap_or_default() {
            stages.insert(name, millis(base + time));
        }
        stages
    }

    /// All that is known, for the control API.
    pub(super) fn state_of_guest(&self) -> anyhow::Result<Value> {
        let (status, cpus) = self.with_guest(|guest| guest.status())?;
        let status = match status {
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        };
        let memory = self.with_guest(|guest| guest.memory())?;
        let spec = self.spec.as_ref().context("no machine")?;
        Ok(json!({
            "name": spec.name,
            "status": status,
            "accel": spec.accel,
            "cpus": cpus,
            "max_cpus": spec.max_cpus,
            "memory": memory,
            "max_memory": spec.max_memory.max(spec.memory),
            "pid": std::process::id(),
            "uptime_seconds": self.since.elapsed().as_secs_f64(),
            "stages_ms": self.stages(),
        }))
    }

    /// The same as numbers for Prometheus.
    pub(super) fn metrics(&self) -> anyhow::Result<String> {
        let mut metrics = self.with_guest(|guest| guest.metrics())?;
        let (_, cpus) = self.with_guest(|guest| guest.status())?;
        metrics.push(Metric::gauge("cpus", f64::from(cpus)));
        let memory = self.with_guest(|guest| guest.memory())?;
        metrics.push(Metric::gauge("memory_bytes", memory as f64));
        metrics.push(Metric::gauge(
            "uptime_seconds",
            self.since.elapsed().as_secs_f64(),
        ));
        let held = self.process.as_ref().map(Held::read);
        if let Some(Ok(Held { guest, own })) = held {
            metrics.push(Metric::gauge("process_memory_bytes", own as f64));
            metrics.extend(guest.map(|g| Metric::gauge("memory_resident_bytes", g as f64)));
        }
        for (stage, millis) in self.stages() {
            metrics.push(Metric {
                name: "stage_seconds",
                kind: "gauge",
                label: Some(("stage", stage.to_owned())),
                value: millis / 1e3,
            });
        }
        Ok(render(metrics))
    }
}

/// Prometheus' text format: all of one name together.
fn render(mut metrics: Vec<Metric>) -> String {
    metrics.sort_by(|a, b| a.name.cmp(b.name));
    let mut text = String::new();
    let mut last = "";
    for metric in &metrics {
        if metric.name != last {
            let _ = writeln!(text, "# TYPE bootwright_{} {}", metric.name, metric.kind);
            last = metric.name;
        }
        let label = match &metric.label {
            Some((name, value)) => format!("{{{name}=\"{}\"}}", escaped(value)),
            None => String::new(),
        };
        let _ = writeln!(text, "bootwright_{}{label} {}", metric.name, metric.value);
    }
    text
}

/// A label's value; a disk's serial number can be anything.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn report(result: anyhow::Result<()>) {
    if let Err(error) = result {
        eprintln!("bootwright: {}", crate::explained(&error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_one_name_stand_together_below_their_type() {
        let text = render(vec![
            Metric::counter("block_reads_total", ("disk", "root"), 3),
            Metric::gauge("cpus", 2.0),
            Metric::counter("block_reads_total", ("disk", "a\"b"), 4),
        ]);
        assert_eq!(
            text,
            "# TYPE bootwright_block_reads_total counter\n\
             bootwright_block_reads_total{disk=\"root\"} 3\n\
             bootwright_block_reads_total{disk=\"a\\\"b\"} 4\n\
             # TYPE bootwright_cpus gauge\n\
             bootwright_cpus 2\n"
        );
    }
}
