//! What the controller counts, as Prometheus reads it.
//!
//! The format is the text exposition format 0.0.4:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the controller counts.
#[derive(Debug, Default)]
pub struct Metrics {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    calls: BTreeMap<(&'static str, &'static str), u64>,
    errors: u64,
    reconciles: Histogram,
    transitions: BTreeMap<&'static str, Histogram>,
    leader: bool,
    synced: bool,
}

/// A machine, for the metric that is about machines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub status: String,
    /// Its node.
    pub node: String,
}

/// A pool, for the metrics that are about pools.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolRow {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How its update goes: the reason of its condition Progressing.
    pub progress: String,
    /// How many machines there should be, and how many there are in which
    /// state.
    pub replicas: [(&'static str, i32); 5],
}

/// Upper bounds of the buckets of reconciliations, in seconds.
const QUICK: [f64; 8] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// The same for machines on their way.
const SLOW: [f64; 8] = [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0];

#[derive(Debug, Default, Clone, PartialEq)]
struct Histogram {
    buckets: [u64; 8],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn add(&mut self, bounds: &[f64; 8], seconds: f64) {
        for (bucket, bound) in self.buckets.iter_mut().zip(bounds) {
            *bucket += u64::from(seconds <= *bound);
        }
        self.count += 1;
        self.sum += seconds;
    }

    fn write(&self, text: &mut String, name: &str, label: &str, bounds: &[f64; 8]) {
        let comma = if label.is_empty() { "" } else { "," };
        for (bucket, bound) in self.buckets.iter().zip(bounds) {
            let _ = writeln!(
                text,
                "{name}_bucket{{{label}{comma}le=\"{bound}\"}} {bucket}"
            );
        }
        let (count, sum) = (self.count, self.sum);
        let _ = writeln!(text, "{name}_bucket{{{label}{comma}le=\"+Inf\"}} {count}");
        let braces = |label: &str| match label {
            "" => String::new(),
            label => format!("{{{label}}}"),
        };
        let label = braces(label);
        let _ = writeln!(text, "{name}_sum{label} {sum}\n{name}_count{label} {count}");
    }
}

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call of the API server: what was done to which resource.
    pub(crate) fn called(&self, verb: &'static str, resource: &'static str) {
        *self.lock().calls.entry((verb, resource)).or_default() += 1;
    }

    /// Counts a reconciliation.
    pub(crate) fn reconciled(&self, took: Duration, well: bool) {
        let mut counts = self.lock();
        counts.reconciles.add(&QUICK, took.as_secs_f64());
        counts.errors += u64::from(!well);
    }

    /// Counts a machine that reached a phase, and how long that took.
    pub(crate) fn reached(&self, phase: &'static str, seconds: f64) {
        let mut counts = self.lock();
        let transitions = counts.transitions.entry(phase).or_default();
        transitions.add(&SLOW, seconds.max(0.0));
    }

    /// Says whether this controller leads, and whether it knows all machines.
    pub(crate) fn leads(&self, leader: bool, synced: bool) {
        let mut counts = self.lock();
        (counts.leader, counts.synced) = (leader, synced);
    }

    /// Whether there is nothing that it waits for: a follower waits for
    /// nothing but its turn.
    pub(crate) fn is_ready(&self) -> bool {
        let counts = self.lock();
        !counts.leader || counts.synced
    }

    /// All of it as text, with lines for each machine and each pool.
    pub fn text(&self, rows: &[Row], pools: &[PoolRow]) -> String {
        let mut text = self.of_controller();
        machines(&mut text, rows);
        self::pools(&mut text, pools);
        process(&mut text);
        text
    }

    fn of_controller(&self) -> String {
        let counts = self.lock();
        let mut text = String::new();
        let name = "bootwright_controller_info";
        head(&mut text, name, "gauge", "The controller's version.");
        let version = env!("CARGO_PKG_VERSION");
        let _ = writeln!(text, "{name}{{version=\"{version}\"}} 1");
        let name = "bootwright_controller_leader";
        head(&mut text, name, "gauge", "Whether this controller leads.");
        let _ = writeln!(text, "{name} {}", u8::from(counts.leader));
        let name = "bootwright_controller_synced";
        head(&mut text, name, "gauge", "Whether it knows all machines.");
        let _ = writeln!(text, "{name} {}", u8::from(counts.synced));
        let name = "bootwright_controller_api_calls_total";
        head(
            &mut text,
            name,
            "counter",
            "Calls of the API server, without watches.",
        );
        for ((verb, resource), count) in &counts.calls {
            let _ = writeln!(
                text,
                "{name}{{verb=\"{verb}\",resource=\"{resource}\"}} {count}"
            );
        }
        let name = "bootwright_controller_reconcile_errors_total";
        head(&mut text, name, "counter", "Reconciliations that failed.");
        let _ = writeln!(text, "{name} {}", counts.errors);
        let name = "bootwright_controller_reconcile_seconds";
        head(
            &mut text,
            name,
            "histogram",
            "How long reconciliations took.",
        );
        counts.reconciles.write(&mut text, name, "", &QUICK);
        let name = "bootwright_vm_phase_transition_time_from_creation_seconds";
        let help =
            "How long machines took from their creation to a pod, and from there to a phase.";
        head(&mut text, name, "histogram", help);
        for (phase, histogram) in &counts.transitions {
            histogram.write(&mut text, name, &format!("phase=\"{phase}\""), &SLOW);
        }
        text
    }
}

fn machines(text: &mut String, rows: &[Row]) {
    let name = "bootwright_vm_info";
    let help = "Machines, what they are doing, and where.";
    head(text, name, "gauge", help);
    for row in rows {
        let _ = writeln!(
            text,
            "{name}{{namespace=\"{}\",name=\"{}\",status=\"{}\",node=\"{}\"}} 1",
            escaped(&row.namespace),
            escaped(&row.name),
            escaped(&row.status),
            escaped(&row.node),
        );
    }
}

fn pools(text: &mut String, pools: &[PoolRow]) {
    let labels = |pool: &PoolRow| {
        let (namespace, name) = (escaped(&pool.namespace), escaped(&pool.name));
        format!("namespace=\"{namespace}\",name=\"{name}\"")
    };
    let name = "bootwright_pool_info";
    head(text, name, "gauge", "Pools and how their updates go.");
    for pool in pools {
        let (labels, progress) = (labels(pool), escaped(&pool.progress));
        let _ = writeln!(text, "{name}{{{labels},progress=\"{progress}\"}} 1");
    }
    let name = "bootwright_pool_replicas";
    let help = "How many machines a pool should have, and has in each state.";
    head(text, name, "gauge", help);
    for pool in pools {
        for (state, count) in pool.replicas {
            let labels = labels(pool);
            let _ = writeln!(text, "{name}{{{labels},state=\"{state}\"}} {count}");
        }
    }
}

/// What all of Prometheus' clients say of their process:
/// <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>.
fn process(text: &mut String) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| {
        let kib = line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?;
        kib.trim().parse::<u64>().ok()
    });
    if let Some(kib) = resident {
        let name = "process_resident_memory_bytes";
        head(text, name, "gauge", "Resident memory size in bytes.");
        let _ = writeln!(text, "{name} {}", kib << 10);
    }
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    #[allow(clippy::cast_precision_loss)]
    let seconds = usage.tv_sec as f64 + usage.tv_nsec as f64 / 1e9;
    let name = "process_cpu_seconds_total";
    let help = "Total user and system CPU time spent in seconds.";
    head(text, name, "counter", help);
    let _ = writeln!(text, "{name} {seconds}");
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A label's value between its quotes.
fn escaped(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    value.replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_said() {
        let metrics = Metrics::default();
        metrics.called("apply", "pods");
        metrics.called("apply", "pods");
        metrics.reconciled(Duration::from_millis(3), true);
        metrics.reconciled(Duration::from_secs(9), false);
        metrics.reached("Running", 0.3);
        metrics.leads(true, false);
        assert!(!metrics.is_ready());
        let row = Row {
            namespace: "a".into(),
            name: "b".into(),
            status: "q\"\\\n".into(),
            node: String::new(),
        };
        let pool = PoolRow {
            namespace: "a".into(),
            name: "c".into(),
            progress: "Updating".into(),
            replicas: ["desired", "current", "updated", "ready", "available"].map(|s| (s, 3)),
        };
        let text = metrics.text(&[row], &[pool]);
        for line in [
            "bootwright_controller_leader 1",
            "bootwright_controller_api_calls_total{verb=\"apply\",resource=\"pods\"} 2",
            "bootwright_controller_reconcile_errors_total 1",
            "bootwright_controller_reconcile_seconds_bucket{le=\"0.001\"} 0",
            "bootwright_controller_reconcile_seconds_bucket{le=\"0.005\"} 1",
            "bootwright_controller_reconcile_seconds_bucket{le=\"+Inf\"} 2",
            "bootwright_controller_reconcile_seconds_count 2",
            "bootwright_vm_phase_transition_time_from_creation_seconds_bucket\
             {phase=\"Running\",le=\"0.5\"} 1",
            "bootwright_vm_info{namespace=\"a\",name=\"b\",status=\"q\\\"\\\\\\n\",node=\"\"} 1",
            "bootwright_pool_info{namespace=\"a\",name=\"c\",progress=\"Updating\"} 1",
            "bootwright_pool_replicas{namespace=\"a\",name=\"c\",state=\"ready\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let of_process = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim().parse::<f64>().unwrap()
        };
        assert!(of_process("process_resident_memory_bytes ") > 1e5);
        assert!(of_process("process_cpu_seconds_total ") > 0.0);
    }

    #[test]
    fn a_follower_is_ready_and_so_is_a_leader_that_knows_all() {
        let metrics = Metrics::default();
        assert!(metrics.is_ready());
        metrics.leads(true, true);
        assert!(metrics.is_ready());
    }
}
