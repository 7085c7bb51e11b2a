//! That no two machines write one volume.
//!
//! Whoever writes a claim holds a lease of the claim's name. In: the lease,
//! who asks, and the pod of whoever holds it. Out: a [`Verdict`]. The lease
//! need not be given back: it counts as long as its holder has a pod or has
//! lost one, and for a moment after it was taken, until that pod can be seen.

use std::collections::BTreeSet;

use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::api::instance::InstanceSpec;
use crate::lifecycle::observed::PodState;

/// How long a lease counts whose holder has no pod: longer than the creation
/// of one may take, and than clocks may differ.
pub const MOMENT: SignedDuration = SignedDuration::from_secs(30);

/// The longest name of an object.
const NAME: usize = 253;

/// The taint of a node that is off for certain:
/// <https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/#non-graceful-node-shutdown>.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// A machine that writes a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its name.
    pub machine: String,
    /// Its UID.
    pub uid: String,
}

/// Whether a machine may write a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may, once the lease is its own.
    Granted,
    /// Another machine writes it.
    Taken(Holder),
}

/// Whether what ran on a node still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// The node is gone, or known to be off.
    Over,
    /// The node answers, and ends what it should not run.
    Soon,
    /// The node does not answer.
    Lasts,
}

/// The claims that a machine writes.
pub fn written(spec: &InstanceSpec) -> BTreeSet<String> {
    let mut claims = BTreeSet::new();
    for volume in &spec.volumes {
        let claim = volume.persistent_volume_claim.as_ref();
        let writable = claim.filter(|claim| !claim.read_only.unwrap_or(false));
        claims.extend(writable.map(|claim| claim.claim_name.clone()));
        claims.extend(volume.data_volume.as_ref().map(|data| data.name.clone()));
    }
    claims
}

/// The name of a claim's lease.
pub fn lease(claim: &str) -> String {
    let name = format!("claim-{claim}");
    if name.len() <= NAME {
        return name;
    }
    let digest = Sha256::digest(claim);
    let digest: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    format!("claim-{digest}")
}

impl Holder {
    /// As a lease names it.
    pub fn identity(&self) -> String {
        format!("{}/{}", self.machine, self.uid)
    }

    /// As a lease names it, if that is a machine.
    pub fn parse(identity: &str) -> Option<Self> {
        let (machine, uid) = identity.split_once('/')?;
        Some(Self {
            machine: machine.to_owned(),
            uid: uid.to_owned(),
        })
    }
}

/// The machine that a lease names, whether or not it still holds it.
pub fn holder(lease: Option<&LeaseSpec>) -> Option<Holder> {
    Holder::parse(lease?.holder_identity.as_deref()?)
}

/// Whether `asker` may write the claim of this lease. `pod` finds the pod of a
/// machine by the machine's name.
pub fn verdict(
    lease: Option<&LeaseSpec>,
    asker: &Holder,
    pod: impl FnOnce(&str) -> Option<PodState>,
    now: Timestamp,
) -> Verdict {
    let identity = lease.and_then(|lease| lease.holder_identity.as_deref());
    let holder = identity.filter(|identity| !identity.is_empty());
    let Some(holder) = holder else {
        return Verdict::Granted;
    };
    let Some(holder) = Holder::parse(holder) else {
        // Somebody else's lease: nobody says that it has ended.
        return Verdict::Taken(Holder {
            machine: holder.to_owned(),
            uid: String::new(),
        });
    };
    if holder == *asker {
        return Verdict::Granted;
    }
    let pod = pod(&holder.machine).filter(|pod| pod.is_of(&holder.uid));
    let renewed = lease.and_then(|lease| lease.renew_time.as_ref());
    let fresh = renewed.is_some_and(|renewed| now < renewed.0 + MOMENT);
    match pod {
        Some(pod) if !pod.is_over() => Verdict::Taken(holder),
        None if fresh => Verdict::Taken(holder),
        _ => Verdict::Granted,
    }
}

/// Whether what ran on this node still runs, though its pod is gone.
pub fn silence(node: Option<&Node>) -> Silence {
    let Some(node) = node else {
        return Silence::Over;
    };
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let off = taints.is_some_and(|taints| taints.iter().any(|t| t.key == OUT_OF_SERVICE));
    let status = node.status.as_ref();
    let mut conditions = status.iter().flat_map(|s| s.conditions.iter().flatten());
    let ready = conditions.any(|c| c.type_ == "Ready" && c.status == "True");
    match (off, ready) {
        (true, _) => Silence::Over,
        (false, true) => Silence::Soon,
        (false, false) => Silence::Lasts,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use serde_json::json;

    use super::*;
    use crate::lifecycle::observed::PodPhase;

    fn now() -> Timestamp {
        "2026-11-01T12:00:00Z".parse().unwrap()
    }

    fn holder(machine: &str, uid: &str) -> Holder {
        Holder {
            machine: machine.into(),
            uid: uid.into(),
        }
    }

    #[test]
    fn a_claim_is_written_by_one_machine_with_a_pod() {
        let pod = |uid: &str, phase| PodState {
            owner: Some(("other".into(), uid.into())),
            phase,
            ..PodState::default()
        };
        let running = Some(pod("o", PodPhase::Running));
        let cases = [
            // The holder, the seconds since it renewed, its pod; and whether
            // another may write.
            ("", 0, None, true),
            ("me/m", 0, None, true),
            ("me/earlier", 0, None, false),
            ("other/o", 0, None, false),
            ("other/o", 31, None, true),
            ("other/o", 9999, running.clone(), false),
            ("other/o", 9999, Some(pod("o", PodPhase::Succeeded)), true),
            ("other/o", 0, Some(pod("o", PodPhase::Failed)), true),
            // A later machine of the holder's name.
            ("other/o", 9999, Some(pod("p", PodPhase::Running)), true),
            ("what is this", 9999, None, false),
        ];
        for (identity, seconds, pod, granted) in cases {
            let renewed = now() - SignedDuration::from_secs(seconds);
            let lease = LeaseSpec {
                holder_identity: Some(identity.into()),
                renew_time: Some(MicroTime(renewed)),
                ..LeaseSpec::default()
            };
            let found = verdict(Some(&lease), &holder("me", "m"), |_| pod, now());
            assert_eq!(found == Verdict::Granted, granted, "{identity} {seconds}");
        }
        let found = verdict(None, &holder("me", "m"), |_| None, now());
        assert_eq!(found, Verdict::Granted);
    }

    #[test]
    fn read_only_and_ephemeral_claims_are_not_written() {
        let spec: InstanceSpec = serde_json::from_value(json!({
            "domain": { "devices": {} },
            "volumes": [
                { "name": "a", "persistentVolumeClaim": { "claimName": "written" } },
                { "name": "b", "persistentVolumeClaim": { "claimName": "read", "readOnly": true } },
                { "name": "c", "ephemeral": { "persistentVolumeClaim": { "claimName": "below" } } },
                { "name": "d", "dataVolume": { "name": "data" } },
                { "name": "e", "emptyDisk": { "capacity": "1Gi" } },
            ],
        }))
        .unwrap();
        let claims: Vec<_> = written(&spec).into_iter().collect();
        assert_eq!(claims, ["data", "written"]);
    }

    #[test]
    fn every_claim_has_a_lease_name_that_is_one() {
        assert_eq!(lease("data"), "claim-data");
        let long = "a".repeat(253);
        assert!(lease(&long).len() <= 253);
        assert_ne!(lease(&long), lease(&long[1..]));
    }

    #[test]
    fn a_node_that_is_not_ready_may_still_run_things() {
        let node = |ready: &str, taints| -> Node {
            serde_json::from_value(json!({
                "spec": { "taints": taints },
                "status": { "conditions": [{ "type": "Ready", "status": ready }] },
            }))
            .unwrap()
        };
        let off = json!([{ "key": OUT_OF_SERVICE, "effect": "NoExecute" }]);
        assert_eq!(silence(None), Silence::Over);
        assert_eq!(silence(Some(&node("True", json!([])))), Silence::Soon);
        assert_eq!(silence(Some(&node("Unknown", json!([])))), Silence::Lasts);
        assert_eq!(silence(Some(&node("Unknown", off))), Silence::Over);
        assert_eq!(silence(Some(&Node::default())), Silence::Lasts);
    }
}
