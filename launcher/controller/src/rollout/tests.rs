//! Pools in every state that matters, and updates from their beginning to
//! their end.

use serde_json::json;

use super::*;
use crate::api::pool::RollingUpdate;

const NOW: &str = "2026-11-01T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn pool(replicas: i32) -> VirtualMachinePool {
    serde_json::from_value(json!({
        "apiVersion": "bootwright.dev/v1alpha1",
        "kind": "VirtualMachinePool",
        "metadata": { "name": "web", "namespace": "default", "uid": "w", "generation": 2 },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "virtualMachineTemplate": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "runStrategy": "Always", "template": { "spec": {
                    "domain": { "memory": { "guest": "1Gi" }, "devices": {} },
                } } },
            },
        },
    }))
    .unwrap()
}

fn bounded(replicas: i32, surge: &str, unavailable: &str) -> VirtualMachinePool {
    let mut pool = pool(replicas);
    let count = |text: &str| match text.parse() {
        Ok(number) => IntOrString::Int(number),
        Err(_) => IntOrString::String(text.to_owned()),
    };
    let strategy = pool.spec.update_strategy.get_or_insert_default();
    strategy.rolling_update = Some(RollingUpdate {
        max_surge: Some(count(surge)),
        max_unavailable: Some(count(unavailable)),
    });
    pool
}

fn newest(pool: &VirtualMachinePool) -> String {
    revision(&pool.spec.virtual_machine_template)
}

/// A member of a revision; ready for a minute, or not at all.
fn member(name: &str, revision: &str, ready: bool) -> Member {
    Member {
        name: name.into(),
        revision: revision.into(),
        ready: ready.then(|| now() - SignedDuration::from_secs(60)),
        created: Some(now() - SignedDuration::from_secs(90)),
        going: false,
    }
}

/// The plan, whose status Argo CD understands.
fn plan(subject: &Subject<'_>) -> Plan {
    let plan = super::plan(subject);
    let mut object = serde_json::to_value(subject.pool).unwrap();
    object["status"] = serde_json::to_value(&plan.status).unwrap();
    assert_eq!(crate::argocd::complaint(&object), None);
    plan
}

fn plan_of(pool: &VirtualMachinePool, members: &[Member]) -> Plan {
    plan(&Subject {
        pool,
        status: &VirtualMachinePoolStatus::default(),
        members,
        others: &BTreeSet::new(),
        refusal: None,
        now: now(),
    })
}

fn reason<'a>(plan: &'a Plan, type_: &str) -> (&'a str, &'a str) {
    let mut conditions = plan.status.conditions.iter();
    let found = conditions.find(|c| c.type_ == type_).unwrap();
    (found.status.as_str(), found.reason.as_str())
}

#[test]
fn numbers_and_percentages_bound_an_update() {
    let cases = [
        // Replicas, surge, unavailable, and what comes of them.
        (4, "25%", "25%", 1, 1),
        (3, "25%", "25%", 1, 0),
        (10, "30%", "30%", 3, 3),
        (2, "0%", "10%", 0, 1),
        (2, "0", "5", 0, 2),
        (0, "25%", "25%", 0, 0),
        (5, "200%", "0", 10, 0),
    ];
    for (replicas, surge, unavailable, most, missing) in cases {
        let bounds = Bounds::of(&bounded(replicas, surge, unavailable).spec);
        let found = (bounds.surge, bounds.unavailable);
        assert_eq!(found, (most, missing), "{replicas} {surge} {unavailable}");
    }
}

#[test]
fn a_new_pool_gets_its_machines_and_twice_the_same() {
    let pool = pool(3);
    let plan = plan_of(&pool, &[]);
    let names: Vec<_> = plan.create.iter().map(|new| new.name.as_str()).collect();
    let newest = newest(&pool);
    let expected = [0, 1, 2].map(|number| format!("web-{newest}-{number}"));
    assert_eq!(names, expected);
    assert_eq!(plan_of(&pool, &[]), plan);
    assert_eq!(plan.delete, [""; 0]);
    assert_eq!(plan.status.label_selector.as_deref(), Some("app=web"));
    assert_eq!(reason(&plan, "Progressing"), ("True", "Updating"));
    assert_eq!(reason(&plan, "Available"), ("False", "MinimumUnavailable"));
}

#[test]
fn a_name_is_not_given_twice_while_its_first_holder_goes() {
    let pool = pool(1);
    let newest = newest(&pool);
    let mut going = member(&format!("web-{newest}-0"), &newest, true);
    going.going = true;
    let plan = plan_of(&pool, &[going]);
    assert_eq!(plan.create[0].name, format!("web-{newest}-1"));
    assert_eq!(plan.status.replicas, 0);
}

#[test]
fn fewer_replicas_cost_those_that_are_missed_least() {
    let pool = pool(1);
    let newest = newest(&pool);
    let mut young = member("young", &newest, true);
    young.created = Some(now());
    let members = [
        member("good", &newest, true),
        young,
        member("bad", &newest, false),
    ];
    let plan = plan_of(&pool, &members);
    assert_eq!(plan.delete, ["bad", "young"]);
}

#[test]
fn a_machine_counts_when_it_has_been_ready_for_long_enough() {
    let mut pool = pool(1);
    pool.spec.min_ready_seconds = Some(90);
    let members = [member("a", &newest(&pool), true)];
    let plan = plan_of(&pool, &members);
    assert_eq!(plan.status.ready_replicas, 1);
    assert_eq!(plan.status.available_replicas, 0);
    assert_eq!(plan.again, Some(now() + SignedDuration::from_secs(30)));
}

#[test]
fn a_paused_pool_keeps_its_number_and_its_old_template() {
    let mut pool = pool(3);
    pool.spec.paused = true;
    let members = [member("a", "old", true), member("b", "old", true)];
    let plan = plan_of(&pool, &members);
    assert_eq!(plan.create.len(), 1);
    assert_eq!(plan.create[0].revision, "old");
    assert_eq!(plan.delete, [""; 0]);
    assert_eq!(reason(&plan, "Progressing"), ("Unknown", "Paused"));
    pool.spec.replicas = 1;
    assert_eq!(plan_of(&pool, &members).delete.len(), 1);
}

#[test]
fn old_machines_that_do_not_work_go_first() {
    let pool = bounded(3, "1", "0");
    let members = [
        member("a", "old", false),
        member("b", "old", true),
        member("c", "old", true),
        member("d", "old", true),
    ];
    let plan = plan_of(&pool, &members);
    assert_eq!(plan.delete, ["a"]);
    assert_eq!(plan.create.len(), 0, "there is no room before it has gone");
}

#[test]
fn an_update_that_gets_no_further_is_said_to_have_failed() {
    let pool = bounded(2, "1", "0");
    let members = [
        member("a", "old", true),
        member("b", "old", true),
        member("c", &newest(&pool), false),
    ];
    let begun = plan_of(&pool, &members);
    assert_eq!((begun.create.len(), begun.delete.len()), (0, 0));
    let deadline = now() + SignedDuration::from_secs(600);
    assert_eq!(begun.again, Some(deadline));
    let late = plan(&Subject {
        pool: &pool,
        status: &begun.status,
        members: &members,
        others: &BTreeSet::new(),
        refusal: None,
        now: deadline,
    });
    assert_eq!(reason(&late, "Progressing"), ("False", LATE));
    assert_eq!(reason(&late, "Available"), ("True", "MinimumAvailable"));
    assert_eq!(
        (late.create, late.delete, late.again),
        (vec![], vec![], None)
    );
}

const LATE: &str = "ProgressDeadlineExceeded";

#[test]
fn a_pool_that_is_deleted_does_nothing() {
    let mut pool = pool(3);
    let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now());
    pool.metadata.deletion_timestamp = Some(time);
    let plan = plan_of(&pool, &[]);
    assert_eq!((plan.create, plan.delete), (vec![], vec![]));
}

/// Carries an update out, a step at a time; the machines at its end. New ones
/// become ready in the step after their creation, if `good`; deleted ones are
/// gone in the step after.
fn carry_out(pool: &VirtualMachinePool, mut members: Vec<Member>, good: bool) -> Vec<Member> {
    let bounds = Bounds::of(&pool.spec);
    let mut status = VirtualMachinePoolStatus::default();
    for _ in 0..100 {
        let plan = plan(&Subject {
            pool,
            status: &status,
            members: &members,
            others: &BTreeSet::new(),
            refusal: None,
            now: now(),
        });
        status = plan.status;
        let before = members.clone();
        let newest = newest(pool);
        members.retain(|member| !member.going);
        for member in &mut members {
            let ready = good && member.revision == newest;
            member.ready = member.ready.or(ready.then(now));
            member.going = plan.delete.contains(&member.name);
        }
        let new = plan.create.iter();
        members.extend(new.map(|new| member(&new.name, &new.revision, false)));
        if members == before {
            break;
        }
        let live = members.iter().filter(|member| !member.going);
        let ready = live.clone().filter(|member| member.ready.is_some());
        assert!(
            live.count() <= bounds.replicas + bounds.surge,
            "{members:?}"
        );
        assert!(ready.count() >= bounds.least_available(), "{members:?}");
    }
    members
}

#[test]
fn updates_stay_within_their_bounds_and_come_to_an_end() {
    for replicas in 1..=6 {
        for surge in ["0", "1", "3", "25%", "100%"] {
            for unavailable in ["0", "1", "2", "25%", "100%"] {
                let pool = bounded(replicas, surge, unavailable);
                let old = (0..replicas).map(|n| member(&format!("old-{n}"), "old", true));
                let old: Vec<_> = old.collect();
                let case = format!("{replicas} {surge} {unavailable}");
                let done = carry_out(&pool, old.clone(), true);
                let newest = newest(&pool);
                assert_eq!(done.len(), old.len(), "{case}");
                assert!(done.iter().all(|m| m.revision == newest), "{case}");
                // One that never gets ready leaves enough of the old.
                let stuck = carry_out(&pool, old, false);
                let left = stuck.iter().filter(|m| m.revision == "old").count();
                let bounds = Bounds::of(&pool.spec);
                assert!(left >= bounds.least_available(), "{case}: {stuck:?}");
                // And going back is an update as any other.
                let mut back = stuck;
                for member in &mut back {
                    let was_old = member.revision == "old";
                    member.revision = if was_old {
                        newest.clone()
                    } else {
                        "bad".into()
                    };
                }
                let done = carry_out(&pool, back, true);
                assert!(
                    done.iter().all(|m| m.revision == newest),
                    "{case}: {done:?}"
                );
            }
        }
    }
}
