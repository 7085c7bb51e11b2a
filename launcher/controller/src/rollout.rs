//! Which machines of a pool come and go next, as a pure function.
//!
//! In: a [`VirtualMachinePool`], its members, and the time. Out: a [`Plan`]:
//! the names to create and to delete, and the status to show. The rules are
//! those of a Deployment: there are never more machines than `replicas` and
//! `maxSurge`, and never fewer available ones than `replicas` less
//! `maxUnavailable`, unless they fail by themselves. Names follow from the
//! template and a number, so that to carry out a plan twice changes nothing.

mod status;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::api::pool::{MachineTemplate, VirtualMachinePoolStatus};
use crate::api::{VirtualMachinePool, VirtualMachinePoolSpec};

/// The label of a machine that names its pool.
pub const POOL: &str = "bootwright.dev/pool";

/// The label of a machine with the digest of the template it was made from.
pub const REVISION: &str = "bootwright.dev/revision";

/// How many machines are created at a time; the others follow when these are
/// there.
const BATCH: usize = 100;

/// The share of replicas by which their number may be passed, or missed,
/// without anything said: a Deployment's.
const SHARE: &str = "25%";

/// A machine of a pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// The digest of the template it was made from.
    pub revision: String,
    /// Since when it has been ready.
    pub ready: Option<Timestamp>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Whether it is being deleted.
    pub going: bool,
}

/// A pool, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The pool.
    pub pool: &'a VirtualMachinePool,
    /// What its status says.
    pub status: &'a VirtualMachinePoolStatus,
    /// Its machines.
    pub members: &'a [Member],
    /// The names of other machines in its namespace.
    pub others: &'a BTreeSet<String>,
    /// Why a machine was not created, if that was tried just now.
    pub refusal: Option<&'a str>,
    /// The time.
    pub now: Timestamp,
}

/// Which machines come and go next.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The machines to create.
    pub create: Vec<New>,
    /// The names of those to delete.
    pub delete: Vec<String>,
    /// What the status says.
    pub status: VirtualMachinePoolStatus,
    /// When to look again, though nothing has changed by then.
    pub again: Option<Timestamp>,
}

/// A machine to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct New {
    /// Its name.
    pub name: String,
    /// The digest of the template to make it from.
    pub revision: String,
}

/// How far the number of machines may be from that of replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    replicas: usize,
    surge: usize,
    unavailable: usize,
}

/// The digest of a template, which names its revision.
pub fn revision(template: &MachineTemplate) -> String {
    let json = serde_json::to_vec(template).unwrap_or_default();
    let digest = Sha256::digest(&json);
    digest[..4].iter().map(|b| format!("{b:02x}")).collect()
}

/// Plans which machines come and go next.
pub fn plan(subject: &Subject<'_>) -> Plan {
    let spec = &subject.pool.spec;
    let newest = revision(&spec.virtual_machine_template);
    let bounds = Bounds::of(spec);
    let mut members: Vec<_> = subject.members.iter().collect();
    members.sort();
    let (create, delete) = if subject.pool.metadata.deletion_timestamp.is_some() {
        // The garbage collector deletes what a pool owns.
        (Vec::new(), Vec::new())
    } else if spec.paused {
        scale(subject, &members, &newest, bounds.replicas)
    } else {
        roll(subject, &members, &newest, bounds)
    };
    let status = status::status(subject, &newest, bounds);
    let again = again(subject, &status);
    Plan {
        create,
        delete,
        status,
        again,
    }
}

impl Bounds {
    fn of(spec: &VirtualMachinePoolSpec) -> Self {
        let replicas = usize::try_from(spec.replicas).unwrap_or(0);
        let strategy = spec.update_strategy.clone().unwrap_or_default();
        let strategy = strategy.rolling_update.unwrap_or_default();
        let share = IntOrString::String(SHARE.to_owned());
        let surge = strategy.max_surge.as_ref().unwrap_or(&share);
        let unavailable = strategy.max_unavailable.as_ref().unwrap_or(&share);
        let surge = of(surge, replicas, true);
        let unavailable = of(unavailable, replicas, false).min(replicas);
        Self {
            replicas,
            surge,
            // Percentages may both come to nothing, and nothing would move.
            unavailable: if surge == 0 {
                unavailable.max(1).min(replicas)
            } else {
                unavailable
            },
        }
    }

    fn least_available(self) -> usize {
        self.replicas - self.unavailable
    }
}

/// A number, or so many per cent of another, rounded up or down.
fn of(count: &IntOrString, whole: usize, up: bool) -> usize {
    match count {
        IntOrString::Int(count) => usize::try_from(*count).unwrap_or(0),
        IntOrString::String(text) => {
            let percent: usize = text.trim_end_matches('%').parse().unwrap_or(0);
            let parts = whole.saturating_mul(percent);
            if up { parts.div_ceil(100) } else { parts / 100 }
        }
    }
}

impl Subject<'_> {
    /// Since when a machine counts as available, which may be still to come.
    fn available_at(&self, member: &Member) -> Option<Timestamp> {
        let seconds = self.pool.spec.min_ready_seconds.unwrap_or(0).max(0);
        let least = SignedDuration::from_secs(i64::from(seconds));
        Some(member.ready? + least)
    }

    fn is_available(&self, member: &Member) -> bool {
        let at = self.available_at(member).filter(|_| !member.going);
        at.is_some_and(|at| at <= self.now)
    }

    /// Those that are missed least come first: not ready ones, then the
    /// youngest.
    fn least_missed<'m>(&self, members: &[&'m Member]) -> Vec<&'m Member> {
        let mut members = members.to_vec();
        members.sort_by_key(|member| {
            let ready = (self.is_available(member), member.ready.is_some());
            (ready, std::cmp::Reverse(member.created), &member.name)
        });
        members
    }
}

/// Replaces old machines a few at a time.
fn roll(
    subject: &Subject<'_>,
    members: &[&Member],
    newest: &str,
    bounds: Bounds,
) -> (Vec<New>, Vec<String>) {
    let live = || members.iter().copied().filter(|member| !member.going);
    let new: Vec<_> = live().filter(|m| m.revision == newest).collect();
    let old: Vec<_> = live().filter(|m| m.revision != newest).collect();
    let total = new.len() + old.len();
    let missing = bounds.replicas.saturating_sub(new.len());
    let room = (bounds.replicas + bounds.surge).saturating_sub(total);
    let create = names(subject, members, newest, missing.min(room));

    let mut delete = Vec::new();
    let surplus = new.len().saturating_sub(bounds.replicas);
    for member in subject.least_missed(&new).into_iter().take(surplus) {
        delete.push(member.name.clone());
    }
    let kept = new.len() - surplus;
    let good = |members: &[&Member]| members.iter().filter(|m| subject.is_available(m)).count();
    // What goes of the new ones goes from those that are not available.
    let new_available = good(&new).min(kept);
    let (bad, fine): (Vec<_>, Vec<_>) =
        (subject.least_missed(&old).into_iter()).partition(|member| !subject.is_available(member));
    // Old machines that do not work are not missed, unless those of the new
    // template that do not work yet are counted on.
    let unavailable = kept - new_available;
    let cleanup = (kept + old.len()).saturating_sub(bounds.least_available() + unavailable);
    let bad: Vec<_> = bad.into_iter().take(cleanup).collect();
    let available = new_available + fine.len();
    let spare = available.saturating_sub(bounds.least_available());
    let gone = bad.into_iter().chain(fine.into_iter().take(spare));
    delete.extend(gone.map(|member| member.name.clone()));
    (create, delete)
}

/// Keeps the number of machines while their template's change waits.
fn scale(
    subject: &Subject<'_>,
    members: &[&Member],
    newest: &str,
    replicas: usize,
) -> (Vec<New>, Vec<String>) {
    let live: Vec<_> = (members.iter().copied().filter(|m| !m.going)).collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for member in &live {
        *counts.entry(&member.revision).or_default() += 1;
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    let revision = most.map_or(newest, |(revision, _)| revision);
    let create = names(
        subject,
        members,
        revision,
        replicas.saturating_sub(live.len()),
    );
    let surplus = live.len().saturating_sub(replicas);
    let delete = subject.least_missed(&live).into_iter().take(surplus);
    (create, delete.map(|member| member.name.clone()).collect())
}

/// The first names that no machine has, also none that is on its way out.
fn names(subject: &Subject<'_>, members: &[&Member], revision: &str, count: usize) -> Vec<New> {
    let pool = subject.pool.metadata.name.as_deref().unwrap_or_default();
    let taken: BTreeSet<&str> = members.iter().map(|m| m.name.as_str()).collect();
    let names = (0_u32..).map(|number| format!("{pool}-{revision}-{number}"));
    names
        .filter(|name| !taken.contains(name.as_str()) && !subject.others.contains(name))
        .take(count.min(BATCH))
        .map(|name| New {
            name,
            revision: revision.to_owned(),
        })
        .collect()
}

/// When to look again: a machine becomes available by waiting, and an update
/// fails by it.
fn again(subject: &Subject<'_>, status: &VirtualMachinePoolStatus) -> Option<Timestamp> {
    let live = subject.members.iter().filter(|member| !member.going);
    let available = live.filter_map(|member| subject.available_at(member));
    let deadline = status::deadline(subject, status);
    let times = available.chain(deadline);
    times.filter(|at| *at > subject.now).min()
}

#[cfg(test)]
mod tests;
