//! Machines in every state that matters, and what happens to each next.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::observed::{Ended, Waiting};
use super::*;
use crate::api::status::PodReference;

const NOW: &str = "2026-11-01T12:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A machine with a finalizer, whose run strategy and annotations are given.
fn machine(strategy: &str, annotations: &Value) -> VirtualMachine {
    serde_json::from_value(json!({
        "apiVersion": "bootwright.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {
            "name": "web", "namespace": "default", "uid": "m1", "generation": 3,
            "creationTimestamp": "2026-11-01T10:00:00Z",
            "finalizers": [FINALIZER],
            "annotations": annotations,
        },
        "spec": { "runStrategy": strategy, "template": { "spec": {
            "domain": { "memory": { "guest": "1Gi" }, "devices": {} },
            "volumes": [{ "name": "root", "bootableContainer": { "image": "web@sha256:11" } }],
        } } },
    }))
    .unwrap()
}

fn pod(phase: PodPhase) -> PodState {
    PodState {
        namespace: "default".into(),
        name: "web-vm".into(),
        uid: "p1".into(),
        owner: Some(("web".into(), "m1".into())),
        created: Some(at("2026-11-01T11:58:00Z")),
        started: Some(at("2026-11-01T11:59:00Z")),
        template: Some(template_digest(&machine("Always", &json!({})))),
        phase,
        ..PodState::default()
    }
}

/// A pod whose container ended ten seconds ago.
fn over(phase: PodPhase) -> PodState {
    PodState {
        ended: Some(Ended {
            at: Some(at("2026-11-01T11:59:50Z")),
            code: i32::from(phase == PodPhase::Failed),
            message: "no kernel".into(),
        }),
        ..pod(phase)
    }
}

fn going(pod: PodState) -> PodState {
    PodState {
        deletion: Some(at("2026-11-01T12:00:30Z")),
        ..pod
    }
}

fn was(phase: Option<Phase>) -> VirtualMachineStatus {
    VirtualMachineStatus {
        phase,
        pod: phase.map(|_| PodReference {
            name: "web-vm".into(),
            uid: "p1".into(),
        }),
        observed_generation: Some(3),
        ..VirtualMachineStatus::default()
    }
}

/// The plan, whose status Argo CD understands.
fn plan(subject: &Subject<'_>) -> Plan {
    let plan = super::plan(subject);
    let mut object = serde_json::to_value(subject.vm).unwrap();
    object["status"] = serde_json::to_value(&plan.status).unwrap();
    assert_eq!(crate::argocd::complaint(&object), None);
    plan
}

fn plan_at(
    now: &str,
    vm: &VirtualMachine,
    status: &VirtualMachineStatus,
    pod: Option<&PodState>,
) -> Plan {
    plan(&Subject {
        vm,
        status,
        pod,
        refusal: None,
        lost: None,
        delay: None,
        now: at(now),
    })
}

fn printable(plan: &Plan) -> &str {
    plan.status.printable_status.as_deref().unwrap()
}

fn condition<'a>(plan: &'a Plan, type_: &str) -> Option<&'a str> {
    let found = plan.status.conditions.iter().find(|c| c.type_ == type_)?;
    Some(found.reason.as_str())
}

#[test]
fn each_strategy_does_its_own_with_each_pod() {
    use PodPhase::{Failed, Pending, Running, Succeeded};
    let delete = |why| Some(Step::Delete(why));
    let none = || None;
    let create = || Some(Step::Create);
    /// The strategy, what the last pod was in, the pod, the step, the word.
    type Case = (
        &'static str,
        Option<Phase>,
        Option<PodState>,
        Option<Step>,
        &'static str,
    );
    let cases: Vec<Case> = vec![
        ("Always", None, None, create(), "Starting"),
        ("Always", None, Some(pod(Pending)), none(), "Starting"),
        ("Always", None, Some(pod(Running)), none(), "Running"),
        (
            "Always",
            None,
            Some(going(pod(Running))),
            none(),
            "Stopping",
        ),
        (
            "Always",
            None,
            Some(over(Failed)),
            delete(Why::Again),
            "Starting",
        ),
        (
            "Always",
            None,
            Some(over(Succeeded)),
            delete(Why::Again),
            "Starting",
        ),
        ("Always", Some(Phase::Running), None, create(), "Starting"),
        ("Halted", None, None, none(), "Stopped"),
        (
            "Halted",
            None,
            Some(pod(Pending)),
            delete(Why::Stop),
            "Starting",
        ),
        (
            "Halted",
            None,
            Some(pod(Running)),
            delete(Why::Stop),
            "Running",
        ),
        (
            "Halted",
            None,
            Some(going(pod(Running))),
            none(),
            "Stopping",
        ),
        (
            "Halted",
            None,
            Some(over(Failed)),
            delete(Why::Stop),
            "Stopped",
        ),
        ("Manual", None, None, none(), "Stopped"),
        ("Manual", None, Some(pod(Running)), none(), "Running"),
        ("Manual", None, Some(over(Failed)), none(), "Stopped"),
        ("Manual", Some(Phase::Running), None, none(), "Stopped"),
        ("RerunOnFailure", None, None, create(), "Starting"),
        (
            "RerunOnFailure",
            None,
            Some(pod(Running)),
            none(),
            "Running",
        ),
        (
            "RerunOnFailure",
            None,
            Some(over(Succeeded)),
            none(),
            "Stopped",
        ),
        (
            "RerunOnFailure",
            None,
            Some(over(Failed)),
            delete(Why::Again),
            "Starting",
        ),
        (
            "RerunOnFailure",
            Some(Phase::Succeeded),
            None,
            none(),
            "Stopped",
        ),
        // Its pod is gone though it had not ended: a node was drained.
        (
            "RerunOnFailure",
            Some(Phase::Running),
            None,
            create(),
            "Starting",
        ),
        ("Once", None, None, create(), "Starting"),
        ("Once", None, Some(over(Succeeded)), none(), "Stopped"),
        ("Once", None, Some(over(Failed)), none(), "Stopped"),
        ("Once", Some(Phase::Running), None, none(), "Stopped"),
        ("Once", Some(Phase::Succeeded), None, none(), "Stopped"),
    ];
    for (strategy, phase, pod, step, word) in cases {
        let vm = machine(strategy, &json!({}));
        let plan = plan_at(NOW, &vm, &was(phase), pod.as_ref());
        let case = format!("{strategy} {phase:?} {:?}", pod.map(|p| p.phase));
        assert_eq!(plan.step, step, "{case}");
        assert_eq!(printable(&plan), word, "{case}");
        assert_eq!(plan.status.observed_generation, Some(3), "{case}");
    }
}

#[test]
fn requests_are_answered_once() {
    let later = "2026-11-01T11:00:00Z";
    let started = json!({ requests::STARTED_AT: later });
    let vm = machine("Manual", &started);
    let plan = plan_at(NOW, &vm, &was(None), None);
    assert_eq!(plan.step, Some(Step::Create));
    assert_eq!(plan.status.requests.started_at, None, "it is not answered");
    // The pod is there.
    let mut running = pod(PodPhase::Running);
    running.started_at = Some(later.into());
    let plan = plan_at(NOW, &vm, &was(None), Some(&running));
    assert_eq!(plan.step, None);
    assert_eq!(plan.status.requests.started_at.as_deref(), Some(later));
    // The guest powers off: the request does not start it again.
    let plan = plan_at(NOW, &vm, &plan.status, Some(&over(PodPhase::Succeeded)));
    assert_eq!(
        (plan.step, plan.status.phase),
        (None, Some(Phase::Succeeded))
    );
}

#[test]
fn the_later_of_start_and_stop_counts() {
    let (early, late) = ("2026-11-01T11:00:00Z", "2026-11-01T11:30:00Z");
    let vm = |start: &str, stop: &str| {
        let annotations = json!({ requests::STARTED_AT: start, requests::STOPPED_AT: stop });
        machine("RerunOnFailure", &annotations)
    };
    let plan = plan_at(
        NOW,
        &vm(early, late),
        &was(None),
        Some(&pod(PodPhase::Running)),
    );
    assert_eq!(plan.step, Some(Step::Delete(Why::Stop)));
    let plan = plan_at(NOW, &vm(late, early), &was(None), None);
    assert_eq!(plan.step, Some(Step::Create));
    assert_eq!(plan.status.requests.stopped_at.as_deref(), Some(early));
    // A stop before the first start holds.
    let plan = plan_at(NOW, &vm(early, late), &was(None), None);
    assert_eq!(plan.step, None);
    assert_eq!(plan.status.phase, Some(Phase::Succeeded));
    let plan = plan_at(NOW, &vm(early, late), &plan.status, None);
    assert_eq!((plan.step.clone(), printable(&plan)), (None, "Stopped"));
}

#[test]
fn a_stop_lasts_until_the_guest_has_shut_down() {
    let stop = json!({ requests::STOPPED_AT: "2026-11-01T11:30:00Z" });
    let vm = machine("RerunOnFailure", &stop);
    let before = was(Some(Phase::Running));
    let plan = plan_at(NOW, &vm, &before, Some(&pod(PodPhase::Running)));
    assert_eq!(plan.step, Some(Step::Delete(Why::Stop)));
    let plan = plan_at(NOW, &vm, &before, Some(&going(pod(PodPhase::Running))));
    assert_eq!((plan.step.clone(), printable(&plan)), (None, "Stopping"));
    assert_eq!(plan.status.requests.stopped_at, None);
    let plan = plan_at(NOW, &vm, &plan.status, None);
    assert_eq!((plan.step.clone(), printable(&plan)), (None, "Stopped"));
    assert!(plan.status.requests.stopped_at.is_some());
    let plan = plan_at(NOW, &vm, &plan.status, None);
    assert_eq!((plan.step.clone(), printable(&plan)), (None, "Stopped"));
}

#[test]
fn a_restart_replaces_the_pod() {
    let when = "2026-11-01T11:30:00Z";
    for strategy in ["Always", "Manual", "RerunOnFailure"] {
        let vm = machine(strategy, &json!({ crate::pod::RESTARTED_AT: when }));
        let before = was(Some(Phase::Running));
        let plan = plan_at(NOW, &vm, &before, Some(&pod(PodPhase::Running)));
        assert_eq!(plan.step, Some(Step::Delete(Why::Restart)), "{strategy}");
        let gone = plan_at(NOW, &vm, &before, None);
        assert_eq!(gone.step, Some(Step::Create), "{strategy}");
        let mut fresh = pod(PodPhase::Running);
        fresh.restarted_at = Some(when.into());
        let plan = plan_at(NOW, &vm, &gone.status, Some(&fresh));
        assert_eq!(plan.step, None, "{strategy}");
        let answered = plan.status.requests.restarted_at.as_deref();
        assert_eq!(answered, Some(when), "{strategy}");
    }
}

#[test]
fn requests_from_before_a_copy_was_made_are_not_for_it() {
    let old = "2026-10-01T00:00:00Z";
    let annotations = json!({ requests::STARTED_AT: old, crate::pod::RESTARTED_AT: old });
    let plan = plan_at(NOW, &machine("Manual", &annotations), &was(None), None);
    assert_eq!(plan.step, None);
    assert_eq!(plan.status.requests.started_at.as_deref(), Some(old));
}

#[test]
fn requests_that_a_strategy_does_not_know_are_told() {
    let when = "2026-11-01T11:30:00Z";
    let cases = [
        ("Always", requests::STOPPED_AT, Some(pod(PodPhase::Running))),
        ("Halted", requests::STARTED_AT, None),
        (
            "Once",
            crate::pod::RESTARTED_AT,
            Some(pod(PodPhase::Running)),
        ),
    ];
    for (strategy, request, pod) in cases {
        let vm = machine(strategy, &json!({ request: when }));
        let plan = plan_at(NOW, &vm, &was(Some(Phase::Running)), pod.as_ref());
        assert_eq!(plan.step, None, "{strategy}");
        let told: Vec<_> = plan.notices.iter().map(|n| n.reason.as_str()).collect();
        assert_eq!(told, ["RequestIgnored"], "{strategy}");
        let plan = plan_at(NOW, &vm, &plan.status, pod.as_ref());
        assert_eq!(plan.notices, [], "{strategy}");
    }
}

#[test]
fn a_machine_that_keeps_ending_waits_longer_each_time() {
    let vm = machine("Always", &json!({}));
    let mut status = was(Some(Phase::Running));
    let mut ended = over(PodPhase::Failed);
    for (round, seconds) in [10, 20, 40, 80, 160, 300, 300].into_iter().enumerate() {
        ended.uid = format!("p{round}");
        let plan = plan_at("2026-11-01T11:59:51Z", &vm, &status, Some(&ended));
        assert_eq!(
            (plan.step.clone(), printable(&plan)),
            (None, "CrashLoopBackOff")
        );
        let retry = at("2026-11-01T11:59:50Z") + SignedDuration::from_secs(seconds);
        assert_eq!(plan.again, Some(retry), "round {round}");
        let told: Vec<_> = plan.notices.iter().map(|n| n.reason.as_str()).collect();
        assert!(told.contains(&"BackOff") || round > 0, "{told:?}");
        status = plan.status;
        let plan = plan_at(&retry.to_string(), &vm, &status, Some(&ended));
        assert_eq!(plan.step, Some(Step::Delete(Why::Again)));
    }
    // Its pod is gone, and it is not time yet: deleting it does not help.
    let plan = plan_at(NOW, &vm, &status, None);
    assert_eq!(
        (plan.step.clone(), printable(&plan)),
        (None, "CrashLoopBackOff")
    );
    // To ask for a start does.
    let vm = machine(
        "Always",
        &json!({ requests::STARTED_AT: "2026-11-01T11:59:59Z" }),
    );
    let plan = plan_at(NOW, &vm, &status, None);
    assert_eq!(plan.step, Some(Step::Create));
    let mut fresh = pod(PodPhase::Pending);
    fresh.started_at = Some("2026-11-01T11:59:59Z".into());
    let plan = plan_at(NOW, &vm, &status, Some(&fresh));
    assert_eq!(plan.status.start_failure, None);
}

#[test]
fn ten_minutes_of_running_end_a_series_of_failures() {
    let vm = machine("Always", &json!({}));
    let status = VirtualMachineStatus {
        start_failure: Some(StartFailure {
            consecutive_fail_count: 4,
            last_failed_pod: "p0".into(),
            retry_after: Time(at("2026-11-01T11:58:00Z")),
        }),
        ..was(Some(Phase::Running))
    };
    let plan = plan_at(NOW, &vm, &status, Some(&pod(PodPhase::Running)));
    assert!(plan.status.start_failure.is_some());
    assert_eq!(plan.again, Some(at("2026-11-01T12:09:00Z")));
    let later = "2026-11-01T12:09:00Z";
    let plan = plan_at(later, &vm, &status, Some(&pod(PodPhase::Running)));
    assert_eq!((plan.status.start_failure, plan.again), (None, None));
    // And one that ends after that starts again at once.
    let mut ended = over(PodPhase::Failed);
    ended.started = Some(at("2026-11-01T11:00:00Z"));
    let plan = plan_at(NOW, &vm, &status, Some(&ended));
    assert_eq!(plan.step, Some(Step::Delete(Why::Again)));
}

#[test]
fn a_machine_goes_after_its_pod() {
    let mut vm = machine("Always", &json!({}));
    vm.metadata.deletion_timestamp = Some(Time(at(NOW)));
    let running = pod(PodPhase::Running);
    let plan = plan_at(NOW, &vm, &was(None), Some(&running));
    assert_eq!(plan.step, Some(Step::Delete(Why::MachineDeleted)));
    assert_eq!(printable(&plan), "Terminating");
    let plan = plan_at(NOW, &vm, &was(None), Some(&going(running)));
    assert_eq!(plan.step, None);
    let plan = plan_at(NOW, &vm, &was(None), None);
    assert_eq!(plan.step, Some(Step::RemoveFinalizer));
    // A pod of the same name that is another machine's does not keep it.
    let mut other = pod(PodPhase::Running);
    other.owner = Some(("web".into(), "m0".into()));
    let plan = plan_at(NOW, &vm, &was(None), Some(&other));
    assert_eq!(plan.step, Some(Step::RemoveFinalizer));
    vm.metadata.finalizers = Some(vec!["example.com/other".into()]);
    assert_eq!(plan_at(NOW, &vm, &was(None), None).step, None);
}

#[test]
fn the_finalizer_comes_before_the_pod() {
    let mut vm = machine("Always", &json!({}));
    vm.metadata.finalizers = None;
    let plan = plan_at(NOW, &vm, &was(None), None);
    assert_eq!(plan.step, Some(Step::AddFinalizer));
}

#[test]
fn a_pod_of_another_machine_blocks_the_name() {
    let mut other = pod(PodPhase::Running);
    other.owner = Some(("web".into(), "m0".into()));
    let vm = machine("Always", &json!({}));
    let plan = plan_at(NOW, &vm, &was(None), Some(&other));
    assert_eq!(plan.step, None);
    assert_eq!(condition(&plan, "Failure"), Some("PodNameTaken"));
    assert_eq!(plan.status.pod, None);
}

#[test]
fn what_keeps_a_pod_from_running_is_told() {
    let vm = machine("Always", &json!({}));
    let mut waiting = pod(PodPhase::Pending);
    waiting.waiting = Some(Waiting {
        reason: "ImagePullBackOff".into(),
        message: "no such image".into(),
    });
    let plan = plan_at(NOW, &vm, &was(None), Some(&waiting));
    assert_eq!(printable(&plan), "ImagePullBackOff");
    let ready = &plan.status.conditions[0];
    assert_eq!(
        (ready.type_.as_str(), ready.status.as_str()),
        ("Ready", "False")
    );
    assert_eq!(ready.message, "no such image");
    waiting.waiting = None;
    waiting.unschedulable = Some("0/3 nodes are available".into());
    let plan = plan_at(NOW, &vm, &was(None), Some(&waiting));
    assert_eq!(printable(&plan), "ErrorUnschedulable");
    assert_eq!(plan.notices[0].reason, "Unschedulable");
    let vm = machine("Once", &json!({}));
    let plan = plan_at(NOW, &vm, &was(None), Some(&over(PodPhase::Failed)));
    assert_eq!(condition(&plan, "Failure"), Some("LauncherFailed"));
    let text = &plan.notices[0].note;
    assert!(text.ends_with("status 1: no kernel"), "{text}");
}

#[test]
fn a_pod_that_was_refused_is_told_and_not_tried_again_at_once() {
    let vm = machine("Always", &json!({}));
    let refusal = Refusal {
        printable: words::FAILED_CREATE.into(),
        reason: "Forbidden".into(),
        message: "exceeded quota".into(),
    };
    let plan = plan(&Subject {
        vm: &vm,
        status: &was(None),
        pod: None,
        refusal: Some(&refusal),
        lost: None,
        delay: None,
        now: at(NOW),
    });
    assert_eq!(
        (plan.step.clone(), printable(&plan)),
        (None, "FailedCreate")
    );
    assert_eq!(condition(&plan, "Failure"), Some("Forbidden"));
}

#[test]
fn a_pod_that_was_lost_is_remembered_until_its_end_is_certain() {
    let lost = Refusal {
        printable: words::UNKNOWN.into(),
        reason: "NodeSilent".into(),
        message: "the node does not answer".into(),
    };
    let soon = Refusal {
        printable: words::STARTING.into(),
        reason: "PodMissing".into(),
        ..lost.clone()
    };
    for (strategy, lost, word) in [
        ("Always", &lost, "Unknown"),
        ("Always", &soon, "Starting"),
        ("RerunOnFailure", &lost, "Unknown"),
        ("Once", &lost, "Unknown"),
        ("Halted", &lost, "Unknown"),
        ("Halted", &soon, "Stopping"),
        ("Manual", &soon, "Stopping"),
    ] {
        let vm = machine(strategy, &json!({}));
        let mut status = was(Some(Phase::Running));
        status.node_name = Some("n1".into());
        // However often it is looked at.
        for _ in 0..3 {
            let plan = plan(&Subject {
                vm: &vm,
                status: &status,
                pod: None,
                refusal: None,
                lost: Some(lost),
                delay: None,
                now: at(NOW),
            });
            assert_eq!((plan.step.clone(), printable(&plan)), (None, word));
            assert_eq!(plan.status.phase, Some(Phase::Unknown), "{strategy}");
            assert_eq!(plan.status.pod, status.pod, "{strategy}");
            assert_eq!(plan.status.node_name.as_deref(), Some("n1"));
            assert!(condition(&plan, "Failure").is_some());
            status = plan.status;
        }
    }
    // One that is being deleted is let go: whoever removed the pod by force
    // and then the machine has said twice that it has ended.
    let mut vm = machine("Always", &json!({}));
    vm.metadata.deletion_timestamp = Some(Time(at(NOW)));
    let plan = plan(&Subject {
        vm: &vm,
        status: &was(Some(Phase::Running)),
        pod: None,
        refusal: None,
        lost: Some(&lost),
        delay: None,
        now: at(NOW),
    });
    assert_eq!(plan.step, Some(Step::RemoveFinalizer));
}

#[test]
fn a_silent_node_is_told_and_nothing_is_forced() {
    let vm = machine("Always", &json!({}));
    let leaving = going(pod(PodPhase::Running));
    let plan = plan_at(NOW, &vm, &was(None), Some(&leaving));
    assert_eq!(plan.again, Some(at("2026-11-01T12:01:30Z")));
    let plan = plan_at("2026-11-01T12:01:31Z", &vm, &was(None), Some(&leaving));
    assert_eq!((plan.step.clone(), printable(&plan)), (None, "Unknown"));
    assert_eq!(plan.status.phase, Some(Phase::Unknown));
    assert_eq!(plan.again, None);
}

#[test]
fn a_drained_machine_that_shut_down_well_is_run_again() {
    let vm = machine("RerunOnFailure", &json!({}));
    let down = going(over(PodPhase::Succeeded));
    let plan = plan_at(NOW, &vm, &was(Some(Phase::Running)), Some(&down));
    assert_eq!(plan.status.phase, Some(Phase::Running));
    let plan = plan_at(NOW, &vm, &plan.status, None);
    assert_eq!(plan.step, Some(Step::Create));
    // One that had ended before is not.
    let plan = plan_at(NOW, &vm, &was(Some(Phase::Succeeded)), Some(&down));
    assert_eq!(plan.status.phase, Some(Phase::Succeeded));
    assert_eq!(plan_at(NOW, &vm, &plan.status, None).step, None);
}

#[test]
fn a_guest_is_paused_and_resumed_through_its_pod() {
    let paused = machine("Always", &json!({ requests::PAUSED: "true" }));
    let mut running = pod(PodPhase::Running);
    let plan = plan_at(NOW, &paused, &was(None), Some(&running));
    assert_eq!(plan.step, Some(Step::Pause("true".into())));
    running.paused = Some("true".into());
    let plan = plan_at(NOW, &paused, &was(None), Some(&running));
    assert_eq!((plan.step.clone(), printable(&plan)), (None, "Paused"));
    assert_eq!(condition(&plan, "Paused"), Some("Requested"));
    assert_eq!(plan.status.ready, Some(false));
    let plan = plan_at(
        NOW,
        &machine("Always", &json!({})),
        &was(None),
        Some(&running),
    );
    assert_eq!(plan.step, Some(Step::Pause("false".into())));
}

#[test]
fn a_running_machine_is_described() {
    let vm = machine("Always", &json!({}));
    let mut running = pod(PodPhase::Running);
    running.node = Some("n1".into());
    running.addresses = vec!["10.0.0.7".into(), "fd00::7".into()];
    running.ready = Some(at("2026-11-01T11:59:30Z"));
    let plan = plan_at(NOW, &vm, &was(Some(Phase::Pending)), Some(&running));
    let status = &plan.status;
    assert_eq!(status.ready, Some(true));
    assert_eq!(status.node_name.as_deref(), Some("n1"));
    assert_eq!(status.interfaces[0].ip_addresses, ["10.0.0.7", "fd00::7"]);
    assert_eq!(status.images[0].digest.as_deref(), Some("sha256:11"));
    let stages = status.stages.as_ref().unwrap();
    assert_eq!(stages.ready, Some(Time(at("2026-11-01T11:59:30Z"))));
    // The probe fails: the first time it was ready stays known.
    running.ready = None;
    let later = plan_at("2026-11-01T12:05:00Z", &vm, status, Some(&running));
    assert_eq!(later.status.stages.as_ref(), Some(stages));
    assert_eq!(condition(&later, "Ready"), Some("NotReady"));
    // And nothing is written as long as nothing changes.
    let same = plan_at("2026-11-01T12:06:00Z", &vm, &later.status, Some(&running));
    assert_eq!(same.status, later.status);
    assert_eq!(same.notices, []);
}

#[test]
fn a_machine_that_runs_is_given_another_size_unless_that_was_tried() {
    let domain = json!({ "cpu": { "sockets": 2, "maxSockets": 4 },
        "memory": { "guest": "2Gi", "maxGuest": "4Gi" }, "devices": {} });
    let mut vm = machine("Always", &json!({}));
    vm.spec.template.spec.domain = serde_json::from_value(domain).unwrap();
    let (cpus, memory) = crate::pod::size(&vm.spec.template.spec.domain).unwrap();
    let mut pod = pod(PodPhase::Running);
    pod.template = Some(template_digest(&vm));
    pod.size = Some(size::Given {
        cpus,
        memory,
        emulated: false,
    });
    let status = was(Some(Phase::Running));
    let next = |vm: &VirtualMachine, pod: &PodState, delay: Option<&str>| {
        plan(&Subject {
            vm,
            status: &status,
            pod: Some(pod),
            refusal: None,
            lost: None,
            delay,
            now: at(NOW),
        })
    };
    assert_eq!(next(&vm, &pod, None).step, None);
    vm.spec.template.spec.domain.cpu.as_mut().unwrap().sockets = Some(3);
    let step = Some(Step::Resize(size::Size {
        sockets: 3,
        bytes: 2 << 30,
    }));
    let given = next(&vm, &pod, None);
    assert_eq!(given.step, step);
    assert_eq!(condition(&given, "RestartRequired"), None);
    // Not once more before something has changed.
    let tried = next(&vm, &pod, Some("the node is full"));
    assert_eq!(tried.step, None);
    assert_eq!(condition(&tried, "Resizing"), Some("Waiting"));
    assert!(tried.notices.iter().any(|n| n.note == "the node is full"));
    let pending = PodState {
        phase: PodPhase::Pending,
        ..pod.clone()
    };
    assert_eq!(next(&vm, &pending, None).step, None);
    vm.spec.template.spec.domain.cpu.as_mut().unwrap().sockets = Some(5);
    let too_many = next(&vm, &pod, None);
    assert_eq!(too_many.step, None);
    assert_eq!(condition(&too_many, "RestartRequired"), Some("SizeChanged"));
}

#[test]
fn a_changed_template_asks_for_a_restart() {
    let mut vm = machine("Always", &json!({}));
    let running = pod(PodPhase::Running);
    let plan = plan_at(NOW, &vm, &was(None), Some(&running));
    assert_eq!(condition(&plan, "RestartRequired"), None);
    let image = vm.spec.template.spec.volumes[0].bootable_container.as_mut();
    image.unwrap().image = "web@sha256:22".into();
    let plan = plan_at(NOW, &vm, &was(None), Some(&running));
    assert_eq!(condition(&plan, "RestartRequired"), Some("TemplateChanged"));
}

#[test]
fn fields_without_effect_are_named_once() {
    let mut vm = machine("Halted", &json!({}));
    let domain = &mut vm.spec.template.spec.domain;
    domain.other = [("machine".to_owned(), json!({ "type": "q35" }))].into();
    let plan = plan_at(NOW, &vm, &VirtualMachineStatus::default(), None);
    assert_eq!(condition(&plan, "FieldsIgnored"), Some("NoEffect"));
    assert_eq!(plan.notices[0].reason, "FieldsIgnored");
    let note = &plan.notices[0].note;
    assert!(note.starts_with("template.spec.domain.machine: "), "{note}");
    let again = plan_at(NOW, &vm, &plan.status, None);
    assert_eq!((again.notices, again.status), (vec![], plan.status));
}
