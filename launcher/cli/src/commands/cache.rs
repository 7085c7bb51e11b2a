//! `bootwright cache`: the store of layers.

use std::io::{self, Write as _};
use std::time::SystemTime;

use anyhow::bail;
use bootwright_image::Digest;
use bootwright_image::store::{PrunePolicy, Store};
use serde::Serialize;

use crate::args::{ByteSize, CacheCommand, OutputArgs, StoreArgs};
use crate::interrupt::Interrupt;
use crate::progress::Messages;

#[derive(Debug, Serialize)]
struct LayerReport {
    diff_id: String,
    entries: u32,
    /// Length of the pack.
    size: u64,
    /// Bytes that the pack and its index take on the host.
    stored: u64,
    /// Seconds since 1970.
    last_used: u64,
}

#[derive(Debug, Serialize)]
struct PruneReport {
    removed: Vec<String>,
    freed: u64,
    in_use: Vec<String>,
    left: u64,
}

#[derive(Debug, Serialize)]
struct BadLayer {
    diff_id: String,
    problem: String,
}

#[derive(Debug, Serialize)]
struct VerifyReport {
    checked: usize,
    bad: Vec<BadLayer>,
}

/// Runs the command.
pub(crate) fn run(command: &CacheCommand, interrupt: &Interrupt) -> anyhow::Result<()> {
    let open = |args: &StoreArgs| -> anyhow::Result<Store> {
        Ok(Store::open(args.store.as_deref())?.interruptible(interrupt.shared()))
    };
    match command {
        CacheCommand::Ls { store, output } => list(&open(store)?, output),
        CacheCommand::Prune {
            store,
            older_than,
            keep,
            dry_run,
            output,
        } => {
            let policy = match (older_than, keep) {
                (Some(age), _) => PrunePolicy::OlderThan(*age),
                (None, Some(size)) => PrunePolicy::KeepSize(size.0),
                (None, None) => PrunePolicy::All,
            };
            prune(&open(store)?, policy, *dry_run, output)
        }
        CacheCommand::Verify { store, output } => verify(&open(store)?, output),
    }
}

fn list(store: &Store, output: &OutputArgs) -> anyhow::Result<()> {
    let mut layers = store.list()?;
    layers.sort_by_key(|layer| std::cmp::Reverse(layer.last_used));
    let reports: Vec<_> = layers
        .iter()
        .map(|layer| LayerReport {
            diff_id: layer.diff_id.to_string(),
            entries: layer.entries,
            size: layer.pack_len,
            stored: layer.stored,
            last_used: layer
                .last_used
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |age| age.as_secs()),
        })
        .collect();
    if output.json {
        return super::print_json(&reports);
    }
    let mut text = String::new();
    if !output.quiet {
        text = format!(
            "{:<14} {:>9} {:>11}  LAST USED\n",
            "LAYER", "ENTRIES", "SIZE"
        );
    }
    let mut total = 0;
    for (layer, report) in layers.iter().zip(&reports) {
        total += report.stored;
        if output.quiet {
            text += &format!("{}\n", report.diff_id);
            continue;
        }
        text += &format!(
            "{:<14} {:>9} {:>11}  {}\n",
            layer.diff_id.short(),
            report.entries,
            ByteSize(report.size).to_string(),
            ago(layer.last_used)
        );
    }
    if !output.quiet {
        let place = store.path().display();
        text += &format!("{} layers, {} in {place}\n", reports.len(), ByteSize(total));
    }
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// A time as people say it.
fn ago(time: SystemTime) -> String {
    let seconds = SystemTime::now()
        .duration_since(time)
        .map_or(0, |d| d.as_secs());
    match seconds {
        0..120 => "just now".into(),
        120..7200 => format!("{} minutes ago", seconds / 60),
        7200..172_800 => format!("{} hours ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

fn prune(
    store: &Store,
    policy: PrunePolicy,
    dry_run: bool,
    output: &OutputArgs,
) -> anyhow::Result<()> {
    let report = store.prune(policy, dry_run)?;
    if output.json {
        return super::print_json(&PruneReport {
            removed: strings(&report.removed),
            freed: report.freed,
            in_use: strings(&report.in_use),
            left: report.left,
        });
    }
    if output.quiet {
        return Ok(());
    }
    let would = if dry_run { "would remove" } else { "removed" };
    let mut text = String::new();
    for digest in &report.removed {
        text += &format!("{would} {}\n", digest.short());
    }
    for digest in &report.in_use {
        text += &format!("in use: {}\n", digest.short());
    }
    let (freed, left) = (ByteSize(report.freed), ByteSize(report.left));
    text += &format!(
        "{would} {} layers, {freed}; {left} left\n",
        report.removed.len()
    );
    Ok(io::stdout().write_all(text.as_bytes())?)
}

fn strings(digests: &[Digest]) -> Vec<String> {
    digests.iter().map(ToString::to_string).collect()
}

fn verify(store: &Store, output: &OutputArgs) -> anyhow::Result<()> {
    let messages = Messages::new(output.quiet);
    let total = store.list()?.iter().map(|layer| layer.pack_len).sum();
    let task = messages.task("verify", total);
    let report = store.verify(true, &|bytes| task.advance(bytes))?;
    task.finish();
    if output.json {
        super::print_json(&VerifyReport {
            checked: report.checked,
            bad: report
                .bad
                .iter()
                .map(|(digest, problem)| BadLayer {
                    diff_id: digest.to_string(),
                    problem: problem.clone(),
                })
                .collect(),
        })?;
    } else {
        for (digest, problem) in &report.bad {
            messages.warn(&format!("{digest}: {problem}; removed"));
        }
        messages.note(&format!("{} layers checked", report.checked));
    }
    if !report.bad.is_empty() {
        bail!(
            "{} of {} layers were damaged",
            report.bad.len(),
            report.checked
        );
    }
    Ok(())
}
