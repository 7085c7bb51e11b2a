//! What may follow on kubectl's command line.
//!
//! kubectl asks `kubectl_complete-PLUGIN`, which asks the hidden command
//! `__complete`. In: the words so far, the last of which is being typed. Out:
//! one candidate a line, its help behind a tab, and a line with what the shell
//! is to do (cobra's `ShellCompDirective`).

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use clap::{ArgAction, FromArgMatches as _};
use kube::ResourceExt as _;
use kube::api::ListParams;

use crate::args::ConnectionArgs;
use crate::cluster::Cluster;
use crate::{command, output};

/// The shell completes no names of files (`ShellCompDirectiveNoFileComp`).
const NO_FILES: u8 = 4;

/// The shell does what it does by default (`ShellCompDirectiveDefault`).
const FILES: u8 = 0;

/// How long the cluster may take, in milliseconds: somebody waits at a key.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most names that are asked for.
const MOST: u32 = 200;

/// `__complete`.
pub(crate) async fn complete(words: &[String]) -> Result<()> {
    let (last, before) = match words.split_last() {
        Some((last, before)) => (last.as_str(), before),
        None => ("", &[][..]),
    };
    let known = known(before, last);
    let mut lines = String::new();
    for (word, help) in &known.words {
        let _ = writeln!(lines, "{word}\t{help}");
    }
    if known.machines || known.pools {
        for name in names(before, &known).await.unwrap_or_default() {
            if name.starts_with(last) {
                let _ = writeln!(lines, "{name}");
            }
        }
    }
    let _ = writeln!(lines, ":{}", known.directive);
    Ok(output::print(lines.as_bytes())?)
}

/// What is known without asking the cluster.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    words: Vec<(String, String)>,
    machines: bool,
    pools: bool,
    directive: u8,
}

fn known(before: &[String], last: &str) -> Known {
    let whole = command();
    let mut at = &whole;
    let mut depth = 0;
    let mut value_of: Option<&clap::Arg> = None;
    for word in before {
        if value_of.take().is_some() {
            continue;
        }
        if let Some(option) = word.strip_prefix('-') {
            let found = option_named(&whole, at, option);
            value_of = found.filter(|arg| takes_value(arg) && !word.contains('='));
        } else if let Some(next) = at.find_subcommand(word) {
            at = next;
        } else {
            depth += 1;
        }
    }
    let mut known = Known {
        directive: NO_FILES,
        ..Known::default()
    };
    if let Some(arg) = value_of {
        for value in arg.get_possible_values() {
            let name = value.get_name();
            if name.starts_with(last) {
                known.words.push((name.to_owned(), String::new()));
            }
        }
        if arg.get_value_hint() == clap::ValueHint::FilePath {
            known.directive = FILES;
        }
        return known;
    }
    if last.starts_with('-') {
        let globals = whole.get_arguments().filter(|arg| arg.is_global_set());
        for arg in at.get_arguments().chain(globals) {
            let Some(long) = arg.get_long().filter(|_| !arg.is_hide_set()) else {
                continue;
            };
            let word = format!("--{long}");
            if word.starts_with(last) && !known.words.iter().any(|(w, _)| *w == word) {
                let help = arg.get_help().map(ToString::to_string);
                known.words.push((word, help.unwrap_or_default()));
            }
        }
        return known;
    }
    for sub in at.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        if sub.get_name().starts_with(last) {
            let help = sub.get_about().map(ToString::to_string);
            let name = sub.get_name().to_owned();
            known.words.push((name, help.unwrap_or_default()));
        }
    }
    let positionals: Vec<_> = at.get_positionals().collect();
    let many = |arg: &&&clap::Arg| matches!(arg.get_action(), ArgAction::Append);
    let here = positionals.get(depth).or(positionals.last().filter(many));
    if let Some(arg) = here {
        let value = arg.get_value_names().and_then(|names| names.first());
        let value = value.map_or("", |name| name.as_str());
        known.machines = value.contains("[TYPE/]");
        let both = matches!(at.get_name(), "status" | "set");
        known.pools = known.machines && both || value.contains("[pool/]");
        if !known.machines && !known.pools {
            known.directive = FILES;
        }
    }
    known
}

fn takes_value(arg: &clap::Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

/// The option that a word names, without its first hyphen.
fn option_named<'a>(
    whole: &'a clap::Command,
    at: &'a clap::Command,
    word: &str,
) -> Option<&'a clap::Arg> {
    let mut all = at.get_arguments().chain(whole.get_arguments());
    match word.strip_prefix('-') {
        Some(long) => {
            let long = long.split('=').next();
            all.find(|arg| arg.get_long() == long)
        }
        None => {
            let short = word.chars().last();
            all.find(|arg| short.is_some() && arg.get_short() == short)
        }
    }
}

/// The names in the cluster that fit.
async fn names(before: &[String], known: &Known) -> Result<Vec<String>> {
    let connection = connection(before);
    let cluster = Cluster::connect(&connection).await?;
    let which = ListParams::default().limit(MOST);
    let ask = async {
        let mut names = Vec::new();
        if known.machines {
            let machines = cluster.machines(cluster.namespace());
            let found = machines.list_metadata(&which).await?;
            names.extend(found.iter().map(|found| found.name_any()));
        }
        if known.pools {
            let pools = cluster.pools(cluster.namespace());
            let found = pools.list_metadata(&which).await?;
            names.extend(
                found
                    .iter()
                    .map(|found| format!("pool/{}", found.name_any())),
            );
        }
        Ok(names)
    };
    tokio::time::timeout(PATIENCE, ask).await?
}

/// The options about the cluster that were typed so far, as far as they are
/// complete.
fn connection(before: &[String]) -> ConnectionArgs {
    let parse = |words: &[String]| {
        let line = ["kubectl-bootwright".to_owned()];
        let matches = command()
            .ignore_errors(true)
            .try_get_matches_from(line.iter().chain(words));
        let matches = matches.ok()?;
        // Options stand before the command or behind it.
        match matches.subcommand() {
            Some((_, sub)) => ConnectionArgs::from_arg_matches(sub).ok(),
            None => ConnectionArgs::from_arg_matches(&matches).ok(),
        }
    };
    parse(before).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Known {
        let line: Vec<_> = line.iter().map(|word| (*word).to_owned()).collect();
        let (last, before) = line.split_last().expect("a word");
        known(before, last)
    }

    fn first(known: &Known) -> Vec<&str> {
        known.words.iter().map(|(word, _)| word.as_str()).collect()
    }

    #[test]
    fn commands_options_and_names_are_offered_where_they_may_stand() {
        assert_eq!(first(&words(&["sta"])), ["start", "status"]);
        assert_eq!(first(&words(&["image", ""])), ["set", "history", "undo"]);
        assert_eq!(first(&words(&["start", "--dr"])), ["--dry-run"]);
        assert_eq!(first(&words(&["start", "--names"])), ["--namespace"]);
        assert_eq!(first(&words(&["start", "-o", ""])), ["json", "name"]);
        let known = words(&["-n", "shop", "start", "web", ""]);
        assert!(known.machines && known.words.is_empty(), "{known:?}");
        let known = words(&["image", "undo", ""]);
        assert!(known.pools && !known.machines, "{known:?}");
        assert!(words(&["status", ""]).pools && !words(&["stop", ""]).pools);
        assert_eq!(words(&["--kubeconfig", "x"]).directive, FILES);
        assert!(!words(&["-n", ""]).machines);
        let hidden = words(&["__"]);
        assert_eq!(first(&hidden), [""; 0]);
    }

    #[test]
    fn the_cluster_is_the_one_that_was_typed() {
        let line = ["status", "--context", "east", "-n", "shop"].map(str::to_owned);
        let found = connection(&line);
        assert_eq!(found.context.as_deref(), Some("east"));
        assert_eq!(found.namespace.as_deref(), Some("shop"));
    }
}
