//! The controller with a real API server: how soon pods are there, and what a
//! thousand machines cost.
//!
//! `launcher/controller/benches/cluster.rs` measures and prints a line of JSON
//! for each result; this makes a table of them.

use std::fs;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::page;
use super::report::{machine, markdown};
use crate::{cluster, paths};

/// A result beside the largest that is good enough.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    name: String,
    value: f64,
    unit: String,
    most: f64,
}

/// Measures, prints a table, keeps the figures as JSON, and writes the section
/// of the book if asked.
pub(super) fn run(write: bool) -> Result<()> {
    let machine = machine()?;
    let rows = rows(&cluster::bench()?)?;
    let json = serde_json::to_string_pretty(&rows)?;
    fs::write(paths::product("bench-cluster.json"), json)?;
    let table = table(&rows);
    println!("{table}");
    if write {
        let text = format!(
            "## The controller\n\n\
             Written by `cargo xtask bench cluster --write` in one go on one machine\n\
             ({machine}), which the API server, etcd\n\
             and a program that says what scheduler and kubelet would say share with the\n\
             controller. 100 machines are created 100 ms apart, then 900 more as fast as the API\n\
             server takes them. A write is every call of the API server but reading, events\n\
             included. The time to a pod is taken by a watcher beside the controller.\n\n{table}"
        );
        page::renew("cluster", &text)?;
    }
    Ok(())
}

fn rows(output: &str) -> Result<Vec<Row>> {
    let lines = output.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| serde_json::from_str(line).with_context(|| format!("a result: {line}")))
        .collect()
}

fn table(rows: &[Row]) -> String {
    let cell = |value: f64, unit: &str| {
        // A sum of nothing is a negative zero.
        let value = value + 0.0;
        match unit {
            "" => format!("{value:.1}"),
            unit => format!("{value:.1} {unit}"),
        }
    };
    let rows = rows.iter().map(|row| {
        let met = if row.value <= row.most { "yes" } else { "no" };
        let [value, most] = [row.value, row.most].map(|value| cell(value, &row.unit));
        vec![row.name.clone(), value, most, met.to_owned()]
    });
    markdown(&["result", "value", "at most", "met"], rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_json_is_a_row() {
        let output = "running\n{\"name\":\"a\",\"value\":2.04,\"unit\":\"ms\",\"most\":2}\n\
                      {\"name\":\"b\",\"value\":0,\"unit\":\"\",\"most\":0}\n";
        let table = table(&rows(output).unwrap());
        let lines: Vec<_> = table.lines().skip(2).collect();
        assert!(lines[0].starts_with("| a ") && lines[0].contains("2.0 ms"));
        assert!(lines[0].ends_with("| no  |"), "{table}");
        assert!(lines[1].ends_with("| yes |"), "{table}");
        assert!(rows("{\"name\":1}").is_err());
    }
}
