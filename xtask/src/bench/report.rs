//! The results as a table, as a section of the book and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use xshell::{Shell, cmd};

use super::measure::Sample;
use crate::proc;

/// What the tables do not say of themselves.
const EXPLANATION: &str = "\
### What is compared

- **floor** is what no builder can do without: the SHA-256 of every blob, inflating it, and the
  SHA-256 of every tar, with reading and inflating on one thread and hashing on another. A cold
  build does this, too (stage `load`), and writes each layer's contents into its pack meanwhile.
  The rest of a cold build is merging the layers (`merge`), formatting the file systems (`plan`),
  and copying the contents out of the packs and waiting for the disk below (`write`).
- **peers** makes a root file system of the same image in the usual way; it still has no
  partitions and no boot loader.
- **plan** is a whole process from its start to its end: opening the store, reading the indexes of
  all layers, merging, customising, and formatting ext4, FAT32 and GPT. It writes no disk.
- **cp** copies the finished raw disk with its holes: what writing it costs at least.
- **qemu-img** converts the finished raw disk, whereas Bootwright starts from the image.
- **first push** sends the Debian image with a layer of 1 MiB more to an empty docker-registry on
  the loopback, its layers in the store: their tars are compressed, hashed and sent. **zstd**
  only compresses the same tars, on two threads; **skopeo copy** only sends the same blobs,
  compressed already. The registry shares the processors with whoever pushes.
- **bytes sent** and **fetched** are those of all blobs, when the layer of 1 MiB has changed; at
  most 1.1 times that layer and 2 % of the disk.

`--json` of `build` and `inspect` prints the stages of any run. To see where the time within a
stage goes, `perf record --call-graph dwarf` of a build with `CARGO_PROFILE_RELEASE_DEBUG=line-tables-only`.
";

/// One thing that was timed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Measure {
    name: String,
    what: String,
    seconds: f64,
    cpu_seconds: f64,
    peak_bytes: u64,
}

impl Measure {
    /// The numbers alone.
    pub(super) fn sample(&self) -> Sample {
        Sample {
            wall: Duration::from_secs_f64(self.seconds),
            cpu: Duration::from_secs_f64(self.cpu_seconds),
            peak: self.peak_bytes,
        }
    }
}

/// The largest value that is good enough.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Target {
    /// Of two times.
    Ratio(f64),
    /// Wall time.
    Milliseconds(u32),
    /// Resident memory.
    Mebibytes(u32),
    /// Bytes, or things, that were counted.
    Count(u64),
}

/// A result beside its target.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    name: String,
    value: f64,
    target: Target,
    met: bool,
}

impl Row {
    fn new(name: &str, value: f64, target: Target) -> Self {
        let most = match target {
            Target::Ratio(most) => most,
            Target::Milliseconds(most) | Target::Mebibytes(most) => f64::from(most),
            Target::Count(most) => most as f64,
        };
        Self {
            name: name.into(),
            value,
            target,
            met: value <= most,
        }
    }

    pub(super) fn ratio(name: &str, a: &Measure, b: &Measure, most: f64) -> Self {
        Self::new(name, a.seconds / b.seconds, Target::Ratio(most))
    }

    pub(super) fn time(name: &str, of: &Measure, most: u32) -> Self {
        Self::new(name, of.seconds * 1000.0, Target::Milliseconds(most))
    }

    pub(super) fn memory(name: &str, of: &Measure, most: u32) -> Self {
        let mebibytes = of.peak_bytes as f64 / f64::from(1 << 20);
        Self::new(name, mebibytes, Target::Mebibytes(most))
    }

    pub(super) fn count(name: &str, number: u64, most: u64) -> Self {
        Self::new(name, number as f64, Target::Count(most))
    }

    fn cells(&self) -> [String; 4] {
        let value = self.value;
        let (value, target) = match self.target {
            Target::Ratio(most) => (format!("{value:.2}"), format!("{most:.2}")),
            Target::Milliseconds(most) => (format!("{value:.0} ms"), format!("{most} ms")),
            Target::Mebibytes(most) => (format!("{value:.0} MiB"), format!("{most} MiB")),
            Target::Count(most) => (format!("{value:.0}"), most.to_string()),
        };
        let met = if self.met { "yes" } else { "no" };
        [self.name.clone(), value, target, met.into()]
    }
}

/// All results of one run, and the machine they hold for.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: String,
    runs: usize,
    measures: Vec<Measure>,
    rows: Vec<Row>,
    /// Milliseconds of each stage of a command.
    stages: Vec<(String, BTreeMap<String, f64>)>,
}

impl Report {
    pub(super) fn new(runs: usize) -> Result<Self> {
        Ok(Self {
            machine: machine()?,
            runs,
            measures: Vec::new(),
            rows: Vec::new(),
            stages: Vec::new(),
        })
    }

    /// Notes a measurement.
    pub(super) fn measure(&mut self, name: &str, what: &str, sample: Sample) -> Measure {
        let measure = Measure {
            name: name.into(),
            what: what.into(),
            seconds: sample.wall.as_secs_f64(),
            cpu_seconds: sample.cpu.as_secs_f64(),
            peak_bytes: sample.peak,
        };
        self.measures.push(measure.clone());
        measure
    }

    /// Notes a result.
    pub(super) fn row(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Notes the stages that a command told of: an object of numbers, which
    /// may hold further such objects.
    pub(super) fn stages(&mut self, name: &str, timings: &Value) {
        let mut found = BTreeMap::new();
        let mut left = vec![timings];
        while let Some(object) = left.pop().and_then(Value::as_object) {
            for (stage, value) in object {
                match value.as_f64() {
                    Some(number) => drop(found.insert(stage.clone(), number)),
                    None => left.push(value),
                }
            }
        }
        self.stages.push((name.into(), found));
    }

    pub(super) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// Markdown tables: the targets, the times behind them, and their parts.
    pub(super) fn table(&self) -> String {
        let rows = self.rows.iter().map(|row| row.cells().to_vec());
        let mut text = markdown(&["result", "value", "at most", "met"], rows.collect());
        text.push('\n');
        let measures = self.measures.iter().map(|m| {
            let own = |text: String| if m.peak_bytes == 0 { "-".into() } else { text };
            vec![
                m.name.clone(),
                m.what.clone(),
                format!("{:.3} s", m.seconds),
                own(format!("{:.3} s", m.cpu_seconds)),
                own(format!(
                    "{:.0} MiB",
                    m.peak_bytes as f64 / f64::from(1 << 20)
                )),
            ]
        });
        let heads = ["measured", "what", "time", "processor", "peak memory"];
        text += &markdown(&heads, measures.collect());
        text.push('\n');
        let stages = self.stages.iter().flat_map(|(name, stages)| {
            let row = move |(stage, ms): (&String, &f64)| {
                vec![name.clone(), stage.clone(), format!("{ms:.0} ms")]
            };
            stages.iter().map(row)
        });
        text += &markdown(&["where the time goes", "stage", "time"], stages.collect());
        text
    }

    /// The section of the book.
    pub(super) fn section(&self) -> String {
        format!(
            "## The builder\n\n\
             Written by `cargo xtask bench --write`: medians of {} runs on the demo's Debian image\n\
             and on a synthetic one, all in one go on one machine ({}).\n\
             The files were in the page cache. Times of programs that do not wait for the disk\n\
             themselves include a `sync` of what they wrote, as Bootwright syncs its output. What\n\
             a run before had written was deleted before the clock started, for all alike. Memory\n\
             is the most that was resident at once, the program's own code included.\n\n{}\n{EXPLANATION}",
            self.runs,
            self.machine,
            self.table()
        )
    }
}

/// A table.
pub(super) fn markdown(heads: &[&str], rows: Vec<Vec<String>>) -> String {
    let width = |i: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(i))
            .map(|c| c.chars().count());
        cells.chain([heads[i].len()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: Vec<&str>, fill: char| {
        for (cell, width) in cells.iter().zip(&widths) {
            let pad = String::from(fill).repeat(width - cell.chars().count());
            let _ = write!(text, "| {cell}{pad} ");
        }
        text += "|\n";
    };
    line(heads.to_vec(), ' ');
    line(vec![""; heads.len()], '-');
    for row in &rows {
        line(row.iter().map(String::as_str).collect(), ' ');
    }
    text
}

/// Processor, cores, kernel and how busy they are; no names of hosts.
pub(super) fn machine() -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, name)| name);
    let cores = std::thread::available_parallelism()?;
    let sh = Shell::new()?;
    let kernel = proc::read(cmd!(sh, "uname -sr"))?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    Ok(format!(
        "{model}, {cores} cores, {kernel}, load average {load} at the start"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_met_up_to_its_target() {
        let mut report = Report::new(1).unwrap();
        let of = |ms| Sample {
            wall: Duration::from_millis(ms),
            ..Sample::default()
        };
        let (a, b) = (
            report.measure("a", "", of(130)),
            report.measure("b", "", of(100)),
        );
        report.row(Row::ratio("a / b", &a, &b, 1.3));
        report.row(Row::time("a alone", &a, 100));
        let table = report.table();
        let line = |name: &str| table.lines().find(|l| l.contains(name)).unwrap().to_owned();
        assert!(line("a / b").contains("1.30"), "{table}");
        assert!(line("a / b").ends_with("| yes |"), "{table}");
        assert!(line("a alone").contains("130 ms | 100 ms"), "{table}");
        assert!(line("a alone").ends_with("| no  |"), "{table}");
    }
}
