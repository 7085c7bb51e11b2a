//! `ps`, `stop`, `restart`, `pause`, `resume`, `resize` and `rm`.

use std::io::{self, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{ByteSize, NameArgs, PsArgs, ResizeArgs, RmArgs, StopArgs};
use crate::progress::{Messages, printable};
use crate::vms::client;
use crate::vms::place::{Lock, Place, Places};
use crate::vms::spec::{Accel, Spec};

/// How often a machine that is to end is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How long a process may take to end after its guest was ended.
const PATIENCE: Duration = Duration::from_secs(20);

/// A machine, for `ps`.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// `running`, `paused`, `starting` or `stopped`.
    status: String,
    target: String,
    accel: Accel,
    cpus: u8,
    memory: u64,
    ephemeral: bool,
    /// Ports as `--publish` takes them.
    ports: Vec<String>,
    /// The loopback port that leads to the guest's ssh server.
    ssh_port: Option<u16>,
    /// How long it has run.
    uptime_seconds: Option<f64>,
    pid: Option<u64>,
}

/// `bootwright ps`.
pub(crate) fn ps(args: &PsArgs) -> anyhow::Result<()> {
    let places = Places::from_env()?;
    places.clear_stale()?;
    let mut rows = Vec::new();
    for name in places.names()? {
        let place = places.place(&name);
        // Some may go while we look, or come.
        let Ok(spec) = Spec::load(&place.state) else {
            continue;
        };
        let row = row(spec, &place)?;
        if args.all || row.status != "stopped" {
            rows.push(row);
        }
    }
    if args.json {
        return super::print_json(&rows);
    }
    let mut lines = vec![
        [
            "NAME", "STATUS", "UP", "ACCEL", "CPUS", "MEMORY", "PORTS", "OF",
        ]
        .map(str::to_owned),
    ];
    lines.extend(rows.iter().map(|row| {
        [
            row.name.clone(),
            row.status.clone(),
            row.uptime_seconds.map_or_else(|| "-".to_owned(), duration),
            accel_name(row.accel).to_owned(),
            row.cpus.to_string(),
            ByteSize(row.memory).to_string(),
            match row.ports.is_empty() {
                true => "-".to_owned(),
                false => row.ports.join(","),
            },
            printable(&row.target),
        ]
    }));
    Ok(io::stdout().write_all(table(&lines).as_bytes())?)
}

fn accel_name(accel: Accel) -> &'static str {
    match accel {
        Accel::Kvm => "kvm",
        Accel::Tcg => "tcg",
    }
}

/// Columns as wide as what is in them.
fn table(lines: &[[String; 8]]) -> String {
    let mut text = String::new();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    for line in lines {
        let cells = line.iter().enumerate().map(|(column, cell)| {
            let width = if column == 7 { 0 } else { width(column) };
            format!("{cell:width$}")
        });
        text.push_str(&cells.collect::<Vec<_>>().join("  "));
        text.push('\n');
    }
    text
}

fn duration(seconds: f64) -> String {
    match seconds as u64 {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7200 => format!("{}m", s / 60),
        s @ 7200..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

fn row(spec: Spec, place: &Place) -> anyhow::Result<Row> {
    let mut row = Row {
        name: spec.name,
        status: "stopped".to_owned(),
        target: spec.target,
        accel: spec.accel,
        cpus: spec.cpus,
        memory: spec.memory,
        ephemeral: spec.ephemeral,
        ports: spec.forwards.iter().map(ToString::to_string).collect(),
        ssh_port: None,
        uptime_seconds: None,
        pid: None,
    };
    if !place.is_locked()? {
        return Ok(row);
    }
    row.ssh_port = spec.ssh.map(|ssh| ssh.port);
    let state = client::request(place, "GET", "/v1/vm", None)
        .and_then(|text| Ok(serde_json::from_str::<Value>(&text)?));
    row.status = "starting".to_owned();
    if let Ok(state) = state {
        row.status = state["status"].as_str().unwrap_or("unknown").to_owned();
        row.cpus = state["cpus"]
            .as_u64()
            .and_then(|n| u8::try_from(n).ok())
            .unwrap_or(row.cpus);
        row.memory = state["memory"].as_u64().unwrap_or(row.memory);
        row.uptime_seconds = state["uptime_seconds"].as_f64();
        row.pid = state["pid"].as_u64();
    }
    Ok(row)
}

/// The machine `name`, which must be there.
pub(crate) fn find(name: &str) -> anyhow::Result<Place> {
    let places = Places::from_env()?;
    let place = places.place(name);
    // Names come from the command line here, and become paths.
    let known = places.names()?.iter().any(|n| n == name);
    if !known || !place.has_spec() {
        bail!("there is no machine {name}; `bootwright ps --all` lists those there are");
    }
    Ok(place)
}

/// The machine `name`, which must run.
pub(crate) fn find_running(name: &str) -> anyhow::Result<Place> {
    let place = find(name)?;
    if !place.is_locked()? {
        bail!("the machine {name} does not run");
    }
    Ok(place)
}

/// Asks the machine for something that has no answer.
fn ask(args: &NameArgs, path: &str) -> anyhow::Result<()> {
    let place = find_running(&args.name)?;
    client::request(&place, "POST", path, None)?;
    told(&args.name, args.json, &place)
}

/// Prints the machine's state, if that is asked for.
fn told(name: &str, json: bool, place: &Place) -> anyhow::Result<()> {
    if !json {
        return Ok(());
    }
    let spec = Spec::load(&place.state).with_context(|| format!("the machine {name} is gone"))?;
    super::print_json(&row(spec, place)?)
}

/// `bootwright pause`.
pub(crate) fn pause(args: &NameArgs) -> anyhow::Result<()> {
    ask(args, "/v1/vm/pause")
}

/// `bootwright resume`.
pub(crate) fn resume(args: &NameArgs) -> anyhow::Result<()> {
    ask(args, "/v1/vm/resume")
}

/// `bootwright resize`.
pub(crate) fn resize(args: &ResizeArgs) -> anyhow::Result<()> {
    let place = find_running(&args.name)?;
    let mut change = serde_json::Map::new();
    if let Some(cpus) = args.cpus {
        change.insert("cpus".to_owned(), json!(cpus));
    }
    if let Some(ByteSize(memory)) = args.memory {
        change.insert("memory".to_owned(), json!(memory));
    }
    let change = Value::Object(change);
    client::request(&place, "PATCH", "/v1/vm", Some(&change))?;
    told(&args.name, args.json, &place)
}

/// `bootwright stop`.
pub(crate) fn stop(args: &StopArgs) -> anyhow::Result<()> {
    let place = find_running(&args.name)?;
    let (how, _lock) = end(&args.name, &place, args.time)?;
    match args.json {
        true => super::print_json(&json!({ "name": args.name, "ended": how })),
        false => Ok(()),
    }
}

/// Ends a machine that runs; says how, and holds its lock if it is still
/// there.
pub(crate) fn end(
    name: &str,
    place: &Place,
    time: Duration,
) -> anyhow::Result<(&'static str, Option<Lock>)> {
    let pressed = client::request(place, "POST", "/v1/vm/power-button", None);
    if pressed.is_ok()
        && let Some(lock) = wait(place, time)?
    {
        return Ok(("power_off", lock));
    }
    // It may have ended just now.
    let killed = client::request(place, "POST", "/v1/vm/kill", None);
    match wait(place, PATIENCE)? {
        Some(lock) => Ok(("killed", lock)),
        None => {
            killed?;
            bail!("the process of the machine {name} does not end");
        }
    }
}

/// Waits until nobody holds the machine's lock, and takes it; the inner
/// `None` if the machine is gone with its folder.
fn wait(place: &Place, time: Duration) -> anyhow::Result<Option<Option<Lock>>> {
    let since = Instant::now();
    loop {
        if !place.state.exists() {
            return Ok(Some(None));
        }
        if let Some(lock) = place.try_lock()? {
            return Ok(Some(Some(lock)));
        }
        if since.elapsed() >= time {
            return Ok(None);
        }
        thread::sleep(LOOK);
    }
}

/// `bootwright restart`.
pub(crate) fn restart(args: &StopArgs) -> anyhow::Result<()> {
    let place = find(&args.name)?;
    let mut spec = Spec::load(&place.state)?;
    if spec.ephemeral {
        bail!(
            "the machine {} is gone when it ends; run it with --name to keep it",
            args.name
        );
    }
    let lock = match place.try_lock()? {
        Some(lock) => lock,
        None => end(&args.name, &place, args.time)?
            .1
            .with_context(|| format!("the machine {} is gone", args.name))?,
    };
    let lock = match place.remake(lock)? {
        Some(lock) => lock,
        None => bail!("somebody else has started the machine {}", args.name),
    };
    if std::mem::take(&mut spec.paused) {
        spec.save(&place.state)?;
    }
    let messages = Messages::new(false);
    crate::run::launch::detached(&args.name, &place, lock, &messages)?;
    told(&args.name, args.json, &place)
}

/// `bootwright rm`.
pub(crate) fn rm(args: &RmArgs) -> anyhow::Result<()> {
    let mut removed = Vec::new();
    for name in &args.names {
        let place = find(name)?;
        let lock = match place.try_lock()? {
            Some(lock) => Some(lock),
            None if args.force => end(name, &place, Duration::ZERO)?.1,
            None => bail!("the machine {name} runs; stop it first, or give --force"),
        };
        if lock.is_some() {
            place.remove()?;
        }
        removed.push(name);
    }
    match args.json {
        true => super::print_json(&json!({ "removed": removed })),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [
            (5.9, "5s"),
            (119.0, "119s"),
            (600.0, "10m"),
            (7200.0, "2h"),
            (2e5, "2d"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
