//! Requests to start, stop, restart and pause a machine.
//!
//! They are annotations of the machine, so that whoever may change a machine
//! may make them, and anything that can write an object can. The value of
//! each of the first three is the time of the request (RFC 3339, UTC); a new
//! value is a new request. The status says which were answered.

use k8s_openapi::jiff::Timestamp;

use super::observed::PodState;
use crate::api::VirtualMachine;
use crate::api::status::Requests;
use crate::pod::RESTARTED_AT;

/// The annotation that asks for a start when it changes.
pub const STARTED_AT: &str = "bootwright.dev/started-at";

/// The annotation that asks for a stop when it changes.
pub const STOPPED_AT: &str = "bootwright.dev/stopped-at";

/// The annotation that says whether the guest stands still: `true` or `false`.
/// The pod gets the same.
pub const PAUSED: &str = crate::machine::PAUSED_ANNOTATION;

/// What is asked for and not answered yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pending {
    /// A start.
    pub start: bool,
    /// A stop.
    pub stop: bool,
    /// A restart.
    pub restart: bool,
}

/// What is asked for and not answered yet. Of a stop and a start, the one that
/// was asked for later counts.
pub fn pending(vm: &VirtualMachine, answered: &Requests, pod: Option<&PodState>) -> Pending {
    let born = vm.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let open = |name: &str, answered: Option<&String>, of_pod: Option<&String>| {
        let value = annotation(vm, name)?;
        let answered = [answered, of_pod].into_iter().flatten();
        let open = answered.into_iter().all(|answered| answered != value);
        // A copy of a machine has the annotations of the first.
        let old = || match (value.parse::<Timestamp>(), born) {
            (Ok(time), Some(born)) => time < born,
            _ => false,
        };
        (open && !old()).then_some(value)
    };
    let start = open(
        STARTED_AT,
        answered.started_at.as_ref(),
        pod.and_then(|pod| pod.started_at.as_ref()),
    );
    let restart = open(
        RESTARTED_AT,
        answered.restarted_at.as_ref(),
        pod.and_then(|pod| pod.restarted_at.as_ref()),
    );
    let stop = open(STOPPED_AT, answered.stopped_at.as_ref(), None);
    // Times in RFC 3339 and UTC are ordered as texts are.
    let latest = start.max(restart);
    let (goes, stops) = match (latest, stop) {
        (Some(go), Some(stop)) => (go >= stop, go < stop),
        (go, stop) => (go.is_some(), stop.is_some()),
    };
    Pending {
        start: start.is_some() && goes,
        stop: stops,
        restart: restart.is_some() && goes,
    }
}

/// All requests that a machine carries.
pub fn all(vm: &VirtualMachine) -> Requests {
    Requests {
        started_at: annotation(vm, STARTED_AT).cloned(),
        stopped_at: annotation(vm, STOPPED_AT).cloned(),
        restarted_at: annotation(vm, RESTARTED_AT).cloned(),
    }
}

/// An annotation of a machine, unless it is empty.
pub(crate) fn annotation<'a>(vm: &'a VirtualMachine, name: &str) -> Option<&'a String> {
    let value = vm.metadata.annotations.as_ref()?.get(name);
    value.filter(|value| !value.is_empty())
}
