//! What is said of a pool, as of a Deployment.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{Bounds, Member, Subject};
use crate::api::pool::VirtualMachinePoolStatus;

/// Why an update goes on, or does not.
const COMPLETE: &str = "Complete";
const UPDATING: &str = "Updating";
const LATE: &str = "ProgressDeadlineExceeded";

pub(super) fn status(
    subject: &Subject<'_>,
    newest: &str,
    bounds: Bounds,
) -> VirtualMachinePoolStatus {
    let (old, pool) = (subject.status, subject.pool);
    let live: Vec<_> = subject.members.iter().filter(|m| !m.going).collect();
    let count = |which: &dyn Fn(&Member) -> bool| {
        let count = live.iter().filter(|member| which(member)).count();
        i32::try_from(count).unwrap_or(i32::MAX)
    };
    let mut status = VirtualMachinePoolStatus {
        observed_generation: pool.metadata.generation,
        replicas: count(&|_| true),
        updated_replicas: count(&|member| member.revision == newest),
        ready_replicas: count(&|member| member.ready.is_some()),
        available_replicas: count(&|member| subject.is_available(member)),
        label_selector: Some(selector(subject)),
        update_revision: Some(newest.to_owned()),
        progressed: old.progressed.clone(),
        conditions: Vec::new(),
    };
    let replicas = i32::try_from(bounds.replicas).unwrap_or(i32::MAX);
    let complete = status.replicas == replicas
        && status.updated_replicas == replicas
        && status.available_replicas == replicas;
    if status.progressed.is_none() || has_progressed(old, &status) {
        status.progressed = Some(Time(subject.now));
    }
    let late = deadline(subject, &status).is_some_and(|at| at <= subject.now);
    let least = i32::try_from(bounds.least_available()).unwrap_or(i32::MAX);
    let available = status.available_replicas;
    let mut conditions = vec![condition(
        subject,
        "Available",
        truth(available >= least),
        if available >= least {
            "MinimumAvailable"
        } else {
            "MinimumUnavailable"
        },
        format!("{available} of at least {least} machines are available"),
    )];
    let updated = status.updated_replicas;
    let progress = format!("{updated} of {replicas} machines are of the newest template");
    let (word, reason) = match (complete, pool.spec.paused, late) {
        (true, _, _) => ("True", COMPLETE),
        (false, true, _) => ("Unknown", "Paused"),
        (false, false, true) => ("False", LATE),
        (false, false, false) => ("True", UPDATING),
    };
    let message = match reason {
        LATE => {
            let seconds = pool.spec.progress_deadline_seconds;
            format!("{progress}, and for {seconds} s there were no more")
        }
        _ => progress,
    };
    conditions.push(condition(subject, "Progressing", word, reason, message));
    if let Some(refusal) = subject.refusal {
        let message: String = refusal.chars().take(1024).collect();
        conditions.push(condition(
            subject,
            "Failure",
            "True",
            "FailedCreate",
            message,
        ));
    }
    status.conditions = conditions;
    status
}

/// When an update that gets no further has failed.
pub(super) fn deadline(
    subject: &Subject<'_>,
    status: &VirtualMachinePoolStatus,
) -> Option<Timestamp> {
    let spec = &subject.pool.spec;
    let complete = [
        status.replicas,
        status.updated_replicas,
        status.available_replicas,
    ];
    if spec.paused || complete == [spec.replicas; 3] {
        return None;
    }
    let patience = i64::from(spec.progress_deadline_seconds.max(0));
    let since = status.progressed.as_ref()?.0;
    Some(since + SignedDuration::from_secs(patience))
}

/// Whether more is done than was before, or something else is to be done.
fn has_progressed(old: &VirtualMachinePoolStatus, new: &VirtualMachinePoolStatus) -> bool {
    let left = |status: &VirtualMachinePoolStatus| status.replicas - status.updated_replicas;
    new.update_revision != old.update_revision
        || new.updated_replicas > old.updated_replicas
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
        || left(new) < left(old)
}

fn truth(truth: bool) -> &'static str {
    if truth { "True" } else { "False" }
}

fn condition(
    subject: &Subject<'_>,
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
) -> Condition {
    let old = subject.status.conditions.iter().find(|c| c.type_ == type_);
    let since = old.filter(|old| old.status == status);
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: subject.pool.metadata.generation,
        last_transition_time: since
            .map_or(Time(subject.now), |old| old.last_transition_time.clone()),
    }
}

/// The selector as text: <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>.
fn selector(subject: &Subject<'_>) -> String {
    let labels = subject.pool.spec.selector.match_labels.iter().flatten();
    let mut terms: Vec<_> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let expressions = subject
        .pool
        .spec
        .selector
        .match_expressions
        .iter()
        .flatten();
    for expression in expressions {
        let key = &expression.key;
        let values = expression.values.clone().unwrap_or_default().join(",");
        terms.push(match expression.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        });
    }
    terms.join(",")
}
