//! How long a machine that keeps ending waits for its next start.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::observed::{PodPhase, PodState};
use crate::api::status::StartFailure;

/// The wait after the first end: the kubelet's for containers.
const FIRST: SignedDuration = SignedDuration::from_secs(10);

/// The longest wait: the kubelet's for containers.
const LONGEST: SignedDuration = SignedDuration::from_secs(300);

/// A machine that has run for so long starts again at once: the kubelet's for
/// containers.
const LONG: SignedDuration = SignedDuration::from_secs(600);

/// The ends in a row, with that of `pod`. None if it had run for long.
pub(super) fn tally(
    before: Option<&StartFailure>,
    pod: &PodState,
    now: Timestamp,
) -> Option<StartFailure> {
    if let Some(before) = before.filter(|before| before.last_failed_pod == pod.uid) {
        return Some(before.clone());
    }
    if pod.ran().is_some_and(|ran| ran >= LONG) {
        return None;
    }
    let before = before.map_or(0, |before| before.consecutive_fail_count);
    let ended = pod.ended.as_ref().and_then(|ended| ended.at);
    // The clocks of nodes differ; nothing waits longer than it would by ours.
    let ended = ended.unwrap_or(now).min(now);
    Some(StartFailure {
        consecutive_fail_count: before.saturating_add(1),
        last_failed_pod: pod.uid.clone(),
        retry_after: Time(ended + wait(before)),
    })
}

/// How long a machine waits that has ended so many times before.
fn wait(before: u32) -> SignedDuration {
    let doubled = 1_i32.checked_shl(before.min(16)).unwrap_or(i32::MAX);
    (FIRST.saturating_mul(doubled)).min(LONGEST)
}

/// Whether a pod has run for so long that earlier ends no longer count.
pub(super) fn is_over_it(pod: &PodState, now: Timestamp) -> bool {
    forgiven_at(pod).is_some_and(|at| at <= now)
}

/// When a pod will have run for so long.
pub(super) fn forgiven_at(pod: &PodState) -> Option<Timestamp> {
    let running = pod.phase == PodPhase::Running;
    (pod.started.filter(|_| running)).map(|started| started + LONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_minutes() {
        let waits: Vec<_> = [0, 1, 2, 3, 4, 5, 60, u32::MAX].map(wait).into();
        let seconds: Vec<_> = waits.iter().map(SignedDuration::as_secs).collect();
        assert_eq!(seconds, [10, 20, 40, 80, 160, 300, 300, 300]);
    }
}
