//! One controller of several: the holder of a lease.
//!
//! As in Kubernetes' own controllers, a lease has run out when it was seen
//! unchanged for its duration: no two clocks are compared. Whoever holds it
//! stops well before that when it cannot be renewed.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::PostParams;

use super::api::{ApiError, limited};
use super::config::LeaseName;

/// How long a lease is good that is not renewed.
const DURATION: Duration = Duration::from_secs(15);

/// How long its holder goes on without having renewed it.
const DEADLINE: Duration = Duration::from_secs(10);

/// The time between two looks, and between two renewals.
const PERIOD: Duration = Duration::from_secs(2);

/// A candidate for a lease.
pub struct Candidate {
    leases: kube::Api<Lease>,
    name: LeaseName,
    identity: String,
    seen: Option<Seen>,
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Candidate")
            .field("name", &self.name)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// A lease as it was seen, and since when.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    version: Option<String>,
    since: Instant,
}

/// Whose a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Ours,
    Nobodys,
    Anothers,
}

impl Candidate {
    /// A candidate of this name.
    pub fn new(client: Client, name: LeaseName, identity: String) -> Self {
        Self {
            leases: kube::Api::namespaced(client, &name.namespace),
            name,
            identity,
            seen: None,
        }
    }

    /// Waits until the lease is ours.
    pub async fn acquire(&mut self) {
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "cannot become the leader"),
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Renews the lease until that has not worked for too long, or it is
    /// another's.
    pub async fn keep(&mut self) {
        let mut renewed = Instant::now();
        loop {
            let left = DEADLINE.saturating_sub(renewed.elapsed());
            tokio::time::sleep(PERIOD.min(left)).await;
            let begun = Instant::now();
            let left = DEADLINE.saturating_sub(renewed.elapsed());
            if left.is_zero() {
                return;
            }
            match tokio::time::timeout(left, self.attempt()).await {
                // From before it was asked for: an answer may take its time.
                Ok(Ok(true)) => renewed = begun,
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease"),
                Err(_) => return,
            }
        }
    }

    /// Gives the lease away, so that nobody need wait for its end.
    pub async fn release(&mut self) {
        let Ok(Some(lease)) = self.read().await else {
            return;
        };
        if lease.spec.as_ref().and_then(|s| s.holder_identity.as_ref()) != Some(&self.identity) {
            return;
        }
        let released = self.written(lease, None);
        let how = PostParams::default();
        let replaced = self.leases.replace(&self.name.name, &how, &released);
        if let Err(error) = limited("update", "leases", replaced).await {
            tracing::warn!(%error, "the next leader has to wait");
        }
    }

    async fn read(&self) -> Result<Option<Lease>, ApiError> {
        limited("get", "leases", self.leases.get_opt(&self.name.name)).await
    }

    /// Takes or renews the lease if that may be; whether it is ours now.
    async fn attempt(&mut self) -> Result<bool, ApiError> {
        let now = Instant::now();
        let Some(lease) = self.read().await? else {
            let lease = self.written(Lease::default(), Some(Timestamp::now()));
            let how = PostParams::default();
            return won(limited("create", "leases", self.leases.create(&how, &lease)).await);
        };
        let version = lease.metadata.resource_version.clone();
        let seen = match self.seen.take() {
            Some(seen) if seen.version == version => seen,
            _ => Seen {
                version,
                since: now,
            },
        };
        let whose = whose(lease.spec.as_ref(), &self.identity, now - seen.since);
        self.seen = Some(seen);
        if whose == Whose::Anothers {
            return Ok(false);
        }
        let lease = self.written(lease, Some(Timestamp::now()));
        let how = PostParams::default();
        let replaced = self.leases.replace(&self.name.name, &how, &lease);
        won(limited("update", "leases", replaced).await)
    }

    /// A lease as we write it: held since `now` or longer, or by nobody.
    fn written(&self, lease: Lease, now: Option<Timestamp>) -> Lease {
        let old = lease.spec.unwrap_or_default();
        let ours = old.holder_identity.as_ref() == Some(&self.identity);
        let transitions = old.lease_transitions.unwrap_or(0);
        let holder = now.map(|_| self.identity.clone());
        let spec = LeaseSpec {
            lease_duration_seconds: Some(match now {
                Some(_) => i32::try_from(DURATION.as_secs()).unwrap_or(i32::MAX),
                None => 1,
            }),
            acquire_time: match (ours, now) {
                (true, _) => old.acquire_time,
                (false, now) => now.map(MicroTime),
            },
            renew_time: now.map(MicroTime).or(old.renew_time),
            lease_transitions: Some(transitions + i32::from(!ours)),
            holder_identity: holder.or(Some(String::new())),
            ..LeaseSpec::default()
        };
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.name.clone()),
                namespace: Some(self.name.namespace.clone()),
                ..lease.metadata
            },
            spec: Some(spec),
        }
    }
}

/// Whose a lease is that has been seen unchanged for so long.
fn whose(spec: Option<&LeaseSpec>, identity: &str, unchanged: Duration) -> Whose {
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
    let holder = holder.filter(|holder| !holder.is_empty());
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let duration = seconds.map_or(DURATION, Duration::from_secs);
    match holder {
        None => Whose::Nobodys,
        Some(holder) if holder == identity => Whose::Ours,
        Some(_) if unchanged > duration => Whose::Nobodys,
        Some(_) => Whose::Anothers,
    }
}

/// Whether a write took the lease: another may have been quicker.
fn won(written: Result<Lease, ApiError>) -> Result<bool, ApiError> {
    match written {
        Ok(_) => Ok(true),
        Err(error) => match error.refused() {
            Some(status) if status.code == 409 => Ok(false),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(by: &str, seconds: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(by.into()),
            lease_duration_seconds: Some(seconds),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_its_holders_until_it_was_seen_unchanged_for_its_duration() {
        let cases = [
            (None, 0, Whose::Nobodys),
            (Some(held("", 15)), 0, Whose::Nobodys),
            (Some(held("me", 15)), 60, Whose::Ours),
            (Some(held("other", 15)), 0, Whose::Anothers),
            (Some(held("other", 15)), 15, Whose::Anothers),
            (Some(held("other", 15)), 16, Whose::Nobodys),
            (Some(held("other", 60)), 16, Whose::Anothers),
            // A duration that is none.
            (Some(held("other", -1)), 14, Whose::Anothers),
        ];
        for (spec, seconds, expected) in cases {
            let found = whose(spec.as_ref(), "me", Duration::from_secs(seconds));
            assert_eq!(found, expected, "{spec:?} {seconds}");
        }
    }

    #[test]
    fn a_holder_stops_before_another_may_begin() {
        assert!(DEADLINE + PERIOD < DURATION);
    }
}
