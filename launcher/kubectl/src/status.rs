//! `status`: what machines and pools are doing, once or for as long as one
//! looks.

use std::collections::BTreeMap;
use std::pin::pin;
use std::process::ExitCode;

use anyhow::{Result, bail};
use bootwright_controller::api::status::VirtualMachineStatus;
use bootwright_controller::api::{VirtualMachine, VirtualMachinePool};
use bootwright_controller::{pod, quantity};
use futures::StreamExt as _;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};

use crate::args::{Output, StatusArgs};
use crate::cluster::Cluster;
use crate::output::{self, printable};
use crate::target::{Kind, Target};
use crate::{detail, explain};

/// How wide columns are when rows come one by one.
const WIDTHS: [usize; 9] = [24, 16, 5, 4, 8, 15, 16, 5, 0];

/// `status`.
pub(crate) async fn status(cluster: &Cluster, args: &StatusArgs) -> Result<ExitCode> {
    let pools = args.targets.iter().filter(|t| t.kind == Some(Kind::Pool));
    match (&args.targets[..], pools.count()) {
        ([pool], 1) if args.watch => return watch_pool(cluster, pool, args.output.output).await,
        ([pool], 1) => {
            let found = cluster.pool(pool).await?;
            show_pool(&found, args.output.output)?;
        }
        (_, 1..) => bail!("one pool at a time"),
        (_, 0) if args.watch => watch(cluster, args).await?,
        ([one], 0) if args.output.output.is_none() => {
            let found = cluster.machine(one).await?;
            output::print(detail::of(&found, now()).as_bytes())?;
        }
        (_, 0) => {
            let machines = machines(cluster, args).await?;
            if machines.is_empty() && args.output.output.is_none() {
                eprintln!("There are no virtual machines{}.", place(cluster, args));
                return Ok(ExitCode::SUCCESS);
            }
            show(&machines, args)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where machines are looked for, since a wrong namespace is empty, too.
fn place(cluster: &Cluster, args: &StatusArgs) -> String {
    match args.all_namespaces {
        true => String::new(),
        false => printable(&format!(" in namespace {}", cluster.namespace())),
    }
}

fn now() -> Timestamp {
    Timestamp::now()
}

/// The machines that are named, or all.
async fn machines(cluster: &Cluster, args: &StatusArgs) -> Result<Vec<VirtualMachine>> {
    let mut machines = Vec::new();
    for target in &args.targets {
        machines.push(cluster.machine(target).await?);
    }
    if args.targets.is_empty() {
        let mut which = ListParams::default();
        which.label_selector.clone_from(&args.selector);
        let found = cluster.call(scope(cluster, args).list(&which)).await;
        let found = found
            .map_err(|error| explain::missing(error, Kind::Machine, "", cluster.namespace()))?;
        machines = found.items;
    }
    Ok(machines)
}

fn scope(cluster: &Cluster, args: &StatusArgs) -> Api<VirtualMachine> {
    match args.all_namespaces {
        true => Api::all(cluster.client()),
        false => cluster.machines(cluster.namespace()),
    }
}

fn show(machines: &[VirtualMachine], args: &StatusArgs) -> Result<()> {
    match args.output.output {
        Some(Output::Json) => {
            let items: Vec<_> = machines.iter().map(summary).collect();
            output::json(&json!({ "items": items }))
        }
        Some(Output::Name) => {
            for machine in machines {
                let resource = Kind::Machine.resource();
                output::line(&format!("{resource}/{}", machine.name_any()))?;
            }
            Ok(())
        }
        None => {
            let mut rows = vec![head(args.all_namespaces)];
            rows.extend(machines.iter().map(|m| row(m, args.all_namespaces)));
            Ok(output::print(output::table(&rows).as_bytes())?)
        }
    }
}

fn head(namespaces: bool) -> Vec<String> {
    let columns = [
        "NAME", "STATUS", "READY", "CPUS", "MEMORY", "IP", "NODE", "AGE", "IMAGE",
    ];
    let namespace = namespaces.then_some("NAMESPACE");
    let columns = namespace.into_iter().chain(columns);
    columns.map(str::to_owned).collect()
}

fn row(machine: &VirtualMachine, namespaces: bool) -> Vec<String> {
    let status = machine.status.clone().unwrap_or_default();
    let size = pod::size(&machine.spec.template.spec.domain).ok();
    let none = || "-".to_owned();
    let born = machine.metadata.creation_timestamp.as_ref();
    let images: Vec<_> = status
        .images
        .iter()
        .map(|image| image.image.as_str())
        .collect();
    let namespace = namespaces.then(|| machine.namespace().unwrap_or_default());
    let columns = [
        machine.name_any(),
        status.printable_status.clone().unwrap_or_else(none),
        if status.ready == Some(true) {
            "yes"
        } else {
            "no"
        }
        .to_owned(),
        size.map_or_else(none, |(cpus, _)| cpus.count().to_string()),
        size.map_or_else(none, |(_, memory)| quantity::bytes(memory.bytes).0),
        address(&status).unwrap_or_else(none),
        status.node_name.clone().unwrap_or_else(none),
        output::age(born.map(|time| time.0), now()),
        match images.is_empty() {
            true => none(),
            false => images.join(","),
        },
    ];
    namespace.into_iter().chain(columns).collect()
}

/// The first address.
fn address(status: &VirtualMachineStatus) -> Option<String> {
    status.interfaces.first()?.ip_address.clone()
}

/// A machine for programs.
fn summary(machine: &VirtualMachine) -> Value {
    let status = machine.status.clone().unwrap_or_default();
    let size = pod::size(&machine.spec.template.spec.domain).ok();
    json!({
        "namespace": machine.namespace(),
        "name": machine.name_any(),
        "runStrategy": machine.spec.strategy(),
        "cpus": size.map(|(cpus, _)| cpus.count()),
        "memory": size.map(|(_, memory)| memory.bytes),
        "status": status,
    })
}

/// Shows machines, and again what changes of them.
async fn watch(cluster: &Cluster, args: &StatusArgs) -> Result<()> {
    // What cannot be read at all is told now, and not tried forever.
    let first = machines(cluster, args).await?;
    let namespaces = args.all_namespaces;
    if args.output.output.is_none() {
        output::line(&aligned(&head(namespaces), namespaces))?;
    }
    let mut shown = BTreeMap::new();
    for machine in &first {
        tell(machine, args, &mut shown, None)?;
    }
    let mut config = watcher::Config::default();
    config.label_selector.clone_from(&args.selector);
    let mut events = pin!(watcher(scope_of_watch(cluster, args)?, config).default_backoff());
    let named = |machine: &VirtualMachine| {
        let name = machine.name_any();
        args.targets.is_empty() || args.targets.iter().any(|target| target.name == name)
    };
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            signal = tokio::signal::ctrl_c() => return Ok(signal?),
        };
        let (machine, gone) = match event {
            None => return Ok(()),
            Some(Ok(Event::Apply(machine) | Event::InitApply(machine))) => (machine, None),
            Some(Ok(Event::Delete(machine))) => (machine, Some("(deleted)")),
            Some(Ok(Event::Init | Event::InitDone)) => continue,
            Some(Err(error)) => {
                eprintln!("warning: {}; trying again", explain::error(&error.into()));
                continue;
            }
        };
        if named(&machine) {
            tell(&machine, args, &mut shown, gone)?;
        }
    }
}

/// Machines of one namespace are watched.
fn scope_of_watch(cluster: &Cluster, args: &StatusArgs) -> Result<Api<VirtualMachine>> {
    let mut namespaces: Vec<_> = (args.targets.iter())
        .map(|target| cluster.namespace_of(target))
        .collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    match namespaces[..] {
        [] => Ok(scope(cluster, args)),
        [one] => Ok(cluster.machines(one)),
        _ => bail!("--watch: machines of one namespace at a time, or all of all with -A"),
    }
}

/// Shows a machine unless it was shown like that.
fn tell(
    machine: &VirtualMachine,
    args: &StatusArgs,
    shown: &mut BTreeMap<(String, String), String>,
    instead: Option<&str>,
) -> Result<()> {
    let key = (machine.namespace().unwrap_or_default(), machine.name_any());
    let mut row = row(machine, args.all_namespaces);
    let status = usize::from(args.all_namespaces) + 1;
    if let (Some(cell), Some(word)) = (row.get_mut(status), instead) {
        word.clone_into(cell);
    }
    // That it has become older is no news.
    let age = row.len().saturating_sub(2);
    let mut content = row.clone();
    if let Some(cell) = content.get_mut(age) {
        cell.clear();
    }
    let content = content.join("\t");
    if shown.get(&key) == Some(&content) {
        return Ok(());
    }
    match args.output.output {
        None => output::line(&aligned(&row, args.all_namespaces))?,
        Some(Output::Name) => output::line(&format!("{}/{}", Kind::Machine.resource(), key.1))?,
        Some(Output::Json) => {
            let mut summary = summary(machine);
            summary["deleted"] = json!(instead.is_some());
            output::json_line(&summary)?;
        }
    }
    shown.insert(key, content);
    Ok(())
}

fn aligned(cells: &[String], namespaces: bool) -> String {
    let widths = namespaces.then_some(20).into_iter().chain(WIDTHS);
    let cells: Vec<_> = (cells.iter().zip(widths))
        .map(|(cell, width)| format!("{:width$}", printable(cell)))
        .collect();
    cells.join("   ").trim_end().to_owned()
}

/// How far a pool has come, in words.
fn progress(pool: &VirtualMachinePool) -> String {
    let status = pool.status.clone().unwrap_or_default();
    let wanted = pool.spec.replicas;
    let (all, new, ready, available) = (
        status.replicas,
        status.updated_replicas,
        status.ready_replicas,
        status.available_replicas,
    );
    let mut conditions = status.conditions.iter();
    let progressing = conditions.find(|c| c.type_ == "Progressing");
    let word = progressing.map_or("Unknown", |condition| condition.reason.as_str());
    let mut text = format!(
        "{word}: {all} of {wanted} machines, {new} of the newest template, {ready} ready, \
         {available} available"
    );
    let failure = status.conditions.iter().find(|c| c.type_ == "Failure");
    if let Some(failure) = failure {
        text = format!("{text}; {}", failure.message);
    }
    text
}

/// How an update has ended, if it has; only for the spec as it is now.
fn outcome(pool: &VirtualMachinePool) -> Option<ExitCode> {
    let status = pool.status.as_ref()?;
    if status.observed_generation != pool.metadata.generation {
        return None;
    }
    let progressing = status
        .conditions
        .iter()
        .find(|c| c.type_ == "Progressing")?;
    match progressing.reason.as_str() {
        "Complete" => Some(ExitCode::SUCCESS),
        "ProgressDeadlineExceeded" => Some(ExitCode::FAILURE),
        _ => None,
    }
}

fn show_pool(pool: &VirtualMachinePool, output: Option<Output>) -> Result<()> {
    let name = pool.name_any();
    match output {
        None => {
            let resource = Kind::Pool.resource();
            let text = format!("{resource}/{name}: {}", progress(pool));
            output::line(&printable(&text))?;
        }
        Some(Output::Name) => output::line(&format!("{}/{name}", Kind::Pool.resource()))?,
        Some(Output::Json) => output::json(&json!({
            "namespace": pool.namespace(),
            "name": name,
            "replicas": pool.spec.replicas,
            "status": pool.status,
        }))?,
    }
    Ok(())
}

/// Follows an update of a pool to its end.
async fn watch_pool(
    cluster: &Cluster,
    target: &Target,
    output: Option<Output>,
) -> Result<ExitCode> {
    let first = cluster.pool(target).await?;
    let only = watcher::Config::default().fields(&format!("metadata.name={}", target.name));
    let pools = cluster.pools(cluster.namespace_of(target));
    let mut events = pin!(watcher(pools, only).default_backoff());
    let mut shown = String::new();
    let mut next = Some(first);
    loop {
        if let Some(pool) = next.take() {
            let text = progress(&pool);
            if text != shown {
                show_pool(&pool, output)?;
                shown = text;
            }
            if let Some(outcome) = outcome(&pool) {
                return Ok(outcome);
            }
        }
        let event = tokio::select! {
            event = events.next() => event,
            signal = tokio::signal::ctrl_c() => {
                signal?;
                return Ok(ExitCode::FAILURE);
            }
        };
        match event {
            None => return Ok(ExitCode::FAILURE),
            Some(Ok(Event::Apply(pool) | Event::InitApply(pool))) => next = Some(pool),
            Some(Ok(Event::Delete(_))) => bail!("{target} was deleted"),
            Some(Ok(Event::Init | Event::InitDone)) => {}
            Some(Err(error)) => {
                eprintln!("warning: {}; trying again", explain::error(&error.into()));
            }
        }
    }
}
