//! `start`, `stop`, `restart`, `pause` and `resume`: annotations that the
//! controller answers, and the run strategy where nothing else helps.

use anyhow::{Result, bail};
use bootwright_controller::api::virtual_machine::RunStrategy;
use bootwright_controller::lifecycle::requests::{PAUSED, STARTED_AT, STOPPED_AT};
use bootwright_controller::lifecycle::words;
use bootwright_controller::pod::RESTARTED_AT;
use k8s_openapi::jiff::Timestamp;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use crate::args::RequestArgs;
use crate::cluster::{Changed, Cluster};
use crate::output;
use crate::target::{Kind, Target};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Start,
    Stop,
    Restart,
}

/// How a wish is made.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    /// By this annotation.
    Annotation(&'static str),
    /// By this run strategy.
    Strategy(RunStrategy),
    /// Not at all: it is so already.
    Nothing,
    /// Not at all.
    Refused(&'static str),
}

/// How a wish is made of a machine with a run strategy.
fn way(wish: Wish, strategy: RunStrategy) -> Way {
    match (wish, strategy) {
        (Wish::Start, RunStrategy::Halted) => Way::Strategy(RunStrategy::Always),
        (Wish::Stop, RunStrategy::Always) => Way::Strategy(RunStrategy::Halted),
        (Wish::Stop, RunStrategy::Halted) => Way::Nothing,
        (Wish::Restart, RunStrategy::Halted) => {
            Way::Refused("its run strategy is Halted, so it does not run: start it")
        }
        (Wish::Start | Wish::Restart, RunStrategy::Once) => Way::Refused(
            "its run strategy is Once, so it is not started again: \
             change spec.runStrategy, or make another machine",
        ),
        (Wish::Start, _) => Way::Annotation(STARTED_AT),
        (Wish::Stop, _) => Way::Annotation(STOPPED_AT),
        (Wish::Restart, _) => Way::Annotation(RESTARTED_AT),
    }
}

/// `start`.
pub(crate) async fn start(cluster: &Cluster, args: &RequestArgs) -> Result<()> {
    ask(cluster, args, Wish::Start, "started").await
}

/// `stop`.
pub(crate) async fn stop(cluster: &Cluster, args: &RequestArgs) -> Result<()> {
    ask(cluster, args, Wish::Stop, "stopped").await
}

/// `restart`.
pub(crate) async fn restart(cluster: &Cluster, args: &RequestArgs) -> Result<()> {
    ask(cluster, args, Wish::Restart, "restarted").await
}

async fn ask(cluster: &Cluster, args: &RequestArgs, wish: Wish, done: &str) -> Result<()> {
    for target in &args.targets {
        let (object, what) = one(cluster, target, wish, args.dry_run).await?;
        let mut what = what.unwrap_or_else(|| done.to_owned());
        if args.dry_run {
            what.push_str(" (dry run)");
        }
        let named = (Kind::Machine, &*target.name);
        output::done(args.output.output, named, &what, &object)?;
    }
    Ok(())
}

/// Asks one machine; what it is then, and what there is to say about it that
/// the wish does not say.
async fn one(
    cluster: &Cluster,
    target: &Target,
    wish: Wish,
    dry_run: bool,
) -> Result<(DynamicObject, Option<String>)> {
    let strategy = cluster.machine(target).await?.spec.strategy();
    match way(wish, strategy) {
        Way::Refused(why) => bail!("{target}: {why}"),
        Way::Annotation(name) => {
            let annotations = [(name, &*now())];
            let object = cluster.annotate(target, &annotations, dry_run).await?;
            Ok((object, None))
        }
        Way::Nothing => {
            let same = |_: &mut Value| Ok(false);
            let same = cluster.change(Kind::Machine, target, dry_run, same).await?;
            Ok((same.object(), Some("is stopped already".to_owned())))
        }
        Way::Strategy(strategy) => {
            let change = |object: &mut Value| set_strategy(object, strategy);
            let changed = cluster
                .change(Kind::Machine, target, dry_run, change)
                .await?;
            let what = match wish {
                Wish::Stop => "stopped",
                Wish::Start | Wish::Restart => "started",
            };
            let what = format!("{what} (run strategy {strategy:?})");
            Ok((changed.object(), Some(what)))
        }
    }
}

/// Sets the run strategy where the machine has it: in `running`, if it has
/// that.
fn set_strategy(object: &mut Value, strategy: RunStrategy) -> Result<bool> {
    let (field, value) = match object["spec"].get("running") {
        Some(_) => ("running", json!(strategy == RunStrategy::Always)),
        None => ("runStrategy", serde_json::to_value(strategy)?),
    };
    let changes = object["spec"][field] != value;
    object["spec"][field] = value;
    Ok(changes)
}

/// The time with all its digits, so that times are ordered as texts are.
fn now() -> String {
    format!("{:.9}", Timestamp::now())
}

/// `pause` and `resume`.
pub(crate) async fn pause(cluster: &Cluster, args: &RequestArgs, pause: bool) -> Result<()> {
    for target in &args.targets {
        cluster.only_machine(target)?;
        let word = if pause { "true" } else { "false" };
        let annotations = [(PAUSED, word)];
        let object = cluster.annotate(target, &annotations, args.dry_run).await?;
        let status = object.data.pointer("/status/printableStatus");
        let runs = matches!(
            status.and_then(Value::as_str),
            Some(words::RUNNING | words::PAUSED)
        );
        let mut what = match (pause, runs) {
            (true, true) => "paused".to_owned(),
            (true, false) => "will be paused when it runs".to_owned(),
            (false, _) => "resumed".to_owned(),
        };
        if args.dry_run {
            what.push_str(" (dry run)");
        }
        let named = (Kind::Machine, &*target.name);
        output::done(args.output.output, named, &what, &object)?;
    }
    Ok(())
}

impl Changed {
    /// The object as it is.
    pub(crate) fn object(self) -> DynamicObject {
        match self {
            Self::Yes(object) | Self::No(object) => object,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn each_run_strategy_has_a_way_or_a_reason() {
        use RunStrategy::{Always, Halted, Manual, Once, RerunOnFailure};
        for strategy in [Always, Manual, RerunOnFailure] {
            assert_eq!(way(Wish::Start, strategy), Way::Annotation(STARTED_AT));
            assert_eq!(way(Wish::Restart, strategy), Way::Annotation(RESTARTED_AT));
        }
        for strategy in [Manual, RerunOnFailure, Once] {
            assert_eq!(way(Wish::Stop, strategy), Way::Annotation(STOPPED_AT));
        }
        assert_eq!(way(Wish::Stop, Always), Way::Strategy(Halted));
        assert_eq!(way(Wish::Start, Halted), Way::Strategy(Always));
        assert_eq!(way(Wish::Stop, Halted), Way::Nothing);
        for (wish, strategy) in [
            (Wish::Start, Once),
            (Wish::Restart, Once),
            (Wish::Restart, Halted),
        ] {
            assert!(matches!(way(wish, strategy), Way::Refused(_)));
        }
    }

    #[test]
    fn the_run_strategy_is_changed_where_the_machine_has_it() {
        let mut old = json!({ "spec": { "running": false } });
        assert!(set_strategy(&mut old, RunStrategy::Always).unwrap());
        assert_eq!(old, json!({ "spec": { "running": true } }));
        let mut new = json!({ "spec": { "runStrategy": "Always" } });
        assert!(set_strategy(&mut new, RunStrategy::Halted).unwrap());
        assert_eq!(new, json!({ "spec": { "runStrategy": "Halted" } }));
        assert!(!set_strategy(&mut new, RunStrategy::Halted).unwrap());
    }

    #[test]
    fn times_are_ordered_as_texts_are() {
        let whole: Timestamp = "2026-11-28T12:00:00Z".parse().unwrap();
        assert_eq!(format!("{whole:.9}"), "2026-11-28T12:00:00.000000000Z");
        let (first, second) = (now(), now());
        assert_eq!(first.len(), second.len());
        assert!(first <= second);
    }
}
