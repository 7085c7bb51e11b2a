//! What is said of a machine, and what is worth an event.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::observed::{PodPhase, PodState};
use super::requests::{self, PAUSED, STARTED_AT, STOPPED_AT};
use super::size::{self, Fit};
use super::{Course, OVERDUE, Step, Subject, Want};
use crate::api::instance::InstanceSpec;
use crate::api::status::{
    ImageStatus, InterfaceStatus, Phase, PodReference, Requests, Stages, VirtualMachineStatus,
};
use crate::api::virtual_machine::RunStrategy;
use crate::fields::{self, Fate};
use crate::pod::{self, RESTARTED_AT};

/// The words for what a machine is doing: KubeVirt's, where it has one.
pub mod words {
    /// There is no pod, and there will be none.
    pub const STOPPED: &str = "Stopped";
    /// There is a pod, or will be, and it does not run yet.
    pub const STARTING: &str = "Starting";
    /// The launcher runs.
    pub const RUNNING: &str = "Running";
    /// The guest stands still.
    pub const PAUSED: &str = "Paused";
    /// The guest was asked to shut down.
    pub const STOPPING: &str = "Stopping";
    /// The same, and the machine goes with it.
    pub const TERMINATING: &str = "Terminating";
    /// It has ended too often to be started at once.
    pub const CRASH_LOOP: &str = "CrashLoopBackOff";
    /// Its node does not answer.
    pub const UNKNOWN: &str = "Unknown";
    /// There is no node for it.
    pub const UNSCHEDULABLE: &str = "ErrorUnschedulable";
    /// A claim is missing.
    pub const NO_CLAIM: &str = "ErrorPvcNotFound";
    /// Another machine writes a claim.
    pub const CLAIM_IN_USE: &str = "ErrorClaimInUse";
    /// Its pod is not admitted.
    pub const FAILED_CREATE: &str = "FailedCreate";
}

/// Something that is worth an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whether somebody should do something about it.
    pub warning: bool,
    /// Why, in a word.
    pub reason: String,
    /// For people.
    pub note: String,
}

/// How much of a message of others is passed on.
const MESSAGE: usize = 1024;

pub(super) fn status(
    subject: &Subject<'_>,
    course: &Course,
) -> (VirtualMachineStatus, Vec<Notice>) {
    let (old, pod) = (subject.status, subject.own());
    let meta = &subject.vm.metadata;
    let spec = &subject.vm.spec.template.spec;
    let printable = printable(subject, course);
    let answered = answered(subject, course);
    let renewed = (answered.started_at != old.requests.started_at
        || answered.restarted_at != old.requests.restarted_at)
        && pod.is_some_and(PodState::is_live);
    let ready = printable == words::RUNNING && pod.is_some_and(|pod| pod.ready.is_some());
    let lost = subject.lost.map(|_| old);
    let mut status = VirtualMachineStatus {
        observed_generation: meta.generation,
        phase: phase(subject, course),
        created: Some(pod.is_some()),
        ready: Some(ready),
        conditions: Vec::new(),
        pod: match pod {
            Some(pod) => Some(PodReference {
                name: pod.name.clone(),
                uid: pod.uid.clone(),
            }),
            None => lost.and_then(|old| old.pod.clone()),
        },
        node_name: match pod {
            Some(pod) => pod.node.clone(),
            None => lost.and_then(|old| old.node_name.clone()),
        },
        interfaces: interfaces(spec, subject.uid(), pod),
        images: images(spec),
        stages: pod.map(|pod| stages(old, pod)),
        start_failure: course.failure.clone().filter(|_| !renewed),
        requests: answered,
        printable_status: Some(printable),
    };
    conditions(subject, &mut status);
    let notices = notices(subject, &status);
    (status, notices)
}

fn printable(subject: &Subject<'_>, course: &Course) -> String {
    let word = if subject.is_deleted() {
        words::TERMINATING
    } else {
        match (subject.own(), subject.refusal) {
            (Some(pod), _) => return of_pod(subject, course, pod),
            (None, Some(refusal)) => return refusal.printable.clone(),
            (None, None) if course.wait.is_some() => words::CRASH_LOOP,
            (None, None) => match (subject.lost, course.want) {
                (Some(lost), _) if lost.printable == words::UNKNOWN => words::UNKNOWN,
                (_, Want::Run) => words::STARTING,
                (Some(_), _) => words::STOPPING,
                (None, _) => words::STOPPED,
            },
        }
    };
    word.to_owned()
}

fn of_pod(subject: &Subject<'_>, course: &Course, pod: &PodState) -> String {
    let word = match (pod.phase, pod.deletion) {
        (_, Some(at)) if subject.now > at + OVERDUE => words::UNKNOWN,
        (_, Some(_)) => words::STOPPING,
        (PodPhase::Pending, None) => match (&pod.waiting, &pod.unschedulable) {
            (Some(waiting), _) if is_trouble(&waiting.reason) => return waiting.reason.clone(),
            (_, Some(_)) => words::UNSCHEDULABLE,
            _ => words::STARTING,
        },
        (PodPhase::Running, None) if is_paused(subject, pod) => words::PAUSED,
        (PodPhase::Running, None) => words::RUNNING,
        (PodPhase::Unknown, None) => words::UNKNOWN,
        (_, None) if course.wait.is_some() => words::CRASH_LOOP,
        (_, None) if course.want == Want::Run => words::STARTING,
        (_, None) => words::STOPPED,
    };
    word.to_owned()
}

/// Whether a running guest stands still: since it was told to, or from its
/// start on.
fn is_paused(subject: &Subject<'_>, pod: &PodState) -> bool {
    let from_start = subject.vm.spec.template.spec.start_strategy.is_some();
    (pod.paused.as_deref()).map_or(from_start, |told| told == "true")
}

/// Whether a container that waits for this reason waits in vain, so far as the
/// kubelet can tell.
fn is_trouble(reason: &str) -> bool {
    !matches!(reason, "" | "ContainerCreating" | "PodInitializing")
}

fn phase(subject: &Subject<'_>, course: &Course) -> Option<Phase> {
    let old = subject.status;
    let Some(pod) = subject.own() else {
        if subject.lost.is_some() {
            return Some(Phase::Unknown);
        }
        // What the last pod came to decides whether there is another.
        return match (subject.vm.spec.strategy(), course.want) {
            (RunStrategy::Halted, _) => None,
            (_, Want::Stop) => Some(Phase::Succeeded),
            (_, Want::Run) => None,
            (_, Want::Leave) => match old.phase {
                Some(Phase::Succeeded) => Some(Phase::Succeeded),
                Some(_) => Some(Phase::Failed),
                None => None,
            },
        };
    };
    let of_pod = match pod.phase {
        PodPhase::Pending => Phase::Pending,
        PodPhase::Running => Phase::Running,
        PodPhase::Succeeded => Phase::Succeeded,
        PodPhase::Failed => Phase::Failed,
        PodPhase::Unknown => Phase::Unknown,
    };
    let Some(at) = pod.deletion else {
        return Some(of_pod);
    };
    if subject.now > at + OVERDUE {
        return Some(Phase::Unknown);
    }
    // That a guest shuts down when its pod is deleted does not mean that it
    // was through with its work: it is the end before that counts.
    let known = old.pod.as_ref().is_some_and(|known| known.uid == pod.uid);
    match (old.phase, pod.is_over()) {
        (Some(Phase::Succeeded | Phase::Failed), _) if known => old.phase,
        (_, true) => Some(Phase::Running),
        (_, false) => Some(of_pod),
    }
}

/// The requests that are answered by now.
fn answered(subject: &Subject<'_>, course: &Course) -> Requests {
    let (all, old, pod) = (
        requests::all(subject.vm),
        &subject.status.requests,
        subject.own(),
    );
    let open = course.pending;
    let live = pod.is_some_and(PodState::is_live);
    let over = pod.is_none_or(PodState::is_over);
    let strategy = subject.vm.spec.strategy();
    let (stop, start, restart) = match strategy {
        // Nothing is stopped that always runs, and nothing started that never
        // does: these requests have no effect.
        RunStrategy::Always => (true, live, !open.restart),
        RunStrategy::Halted => (true, true, true),
        RunStrategy::Once => (over, true, true),
        RunStrategy::Manual | RunStrategy::RerunOnFailure => (over, live, !open.restart),
    };
    let either = |open: bool, done: bool, new: Option<String>, old: &Option<String>| match open {
        true if !done => old.clone(),
        _ => new,
    };
    Requests {
        started_at: either(open.start, start, all.started_at, &old.started_at),
        stopped_at: either(open.stop, stop, all.stopped_at, &old.stopped_at),
        restarted_at: either(open.restart, restart, all.restarted_at, &old.restarted_at),
    }
}

fn interfaces(spec: &InstanceSpec, uid: &str, pod: Option<&PodState>) -> Vec<InterfaceStatus> {
    let Some(pod) = pod.filter(|pod| !pod.addresses.is_empty()) else {
        return Vec::new();
    };
    let Some(interface) = pod::interface(spec, uid) else {
        return Vec::new();
    };
    vec![InterfaceStatus {
        name: Some(interface.name),
        ip_address: pod.addresses.first().cloned(),
        ip_addresses: pod.addresses.clone(),
        mac: Some(interface.mac),
    }]
}

fn images(spec: &InstanceSpec) -> Vec<ImageStatus> {
    let image = |volume: &crate::api::volumes::Volume| {
        let bootable = volume.bootable_container.as_ref().map(|c| &c.image);
        let image = bootable.or(volume.container_disk.as_ref().map(|d| &d.image))?;
        let digest = image.split_once('@').map(|(_, digest)| digest.to_owned());
        Some(ImageStatus {
            volume: volume.name.clone(),
            image: image.clone(),
            digest,
        })
    };
    spec.volumes.iter().filter_map(image).collect()
}

fn stages(old: &VirtualMachineStatus, pod: &PodState) -> Stages {
    let known = old.pod.as_ref().is_some_and(|known| known.uid == pod.uid);
    let old = old.stages.as_ref().filter(|_| known);
    Stages {
        created: pod.created.map(Time),
        scheduled: pod.scheduled.map(Time),
        started: pod.started.map(Time),
        // The first time counts: a probe may fail later on.
        ready: (old.and_then(|stages| stages.ready.clone())).or(pod.ready.map(Time)),
    }
}

fn conditions(subject: &Subject<'_>, status: &mut VirtualMachineStatus) {
    let pod = subject.own();
    let printable = status.printable_status.clone().unwrap_or_default();
    let mut add = |type_: &str, truth: bool, reason: &str, message: &str| {
        let text = if truth { "True" } else { "False" };
        let old = subject.status.conditions.iter().find(|c| c.type_ == type_);
        let since = old.filter(|old| old.status == text);
        status.conditions.push(Condition {
            type_: type_.to_owned(),
            status: text.to_owned(),
            reason: reason.to_owned(),
            message: message.chars().take(MESSAGE).collect(),
            observed_generation: subject.vm.metadata.generation,
            last_transition_time: since
                .map_or(Time(subject.now), |old| old.last_transition_time.clone()),
        });
    };
    let ready = status.ready == Some(true);
    let (reason, message) = match (ready, pod) {
        (true, _) => ("Ready".to_owned(), String::new()),
        (false, Some(pod)) if printable == words::RUNNING => (
            "NotReady".to_owned(),
            format!("pod {} is not ready", pod.name),
        ),
        (false, pod) => (printable.clone(), trouble(pod)),
    };
    add("Ready", ready, &reason, &message);
    if printable == words::PAUSED {
        add(
            "Paused",
            true,
            "Requested",
            &format!("the annotation {PAUSED} asks for it"),
        );
    }
    if let Some((reason, message)) = failure(subject) {
        add("Failure", true, &reason, &message);
    }
    if let Some(pod) = pod.filter(|pod| pod.is_live()) {
        let template = || super::template_digest(subject.vm);
        let made_from = pod.template.as_ref();
        let fit = pod.size.as_ref().map(|given| size::fit(subject.vm, given));
        if made_from.is_some_and(|made| *made != template()) {
            let message = "the machine runs as it was before the last change of its template";
            add("RestartRequired", true, "TemplateChanged", message);
        } else if let Some(Fit::Restart(why)) = &fit {
            add("RestartRequired", true, size::CHANGED, why);
        }
        if let Some(why) = subject.delay {
            add("Resizing", true, "Waiting", why);
        }
    }
    if let Some(ignored) = ignored(subject) {
        add("FieldsIgnored", true, "NoEffect", &ignored);
    }
}

/// What keeps a pod from running, in its own words.
fn trouble(pod: Option<&PodState>) -> String {
    let Some(pod) = pod else {
        return String::new();
    };
    let waiting = pod.waiting.as_ref().map(|waiting| &waiting.message);
    let waiting = waiting.filter(|message| !message.is_empty());
    let said = waiting.or(pod.unschedulable.as_ref());
    said.or(pod.message.as_ref()).cloned().unwrap_or_default()
}

/// Why a machine does not run that should, or has ended as it should not.
fn failure(subject: &Subject<'_>) -> Option<(String, String)> {
    if let Some(refusal) = subject.refusal.or(subject.lost) {
        return Some((refusal.reason.clone(), refusal.message.clone()));
    }
    if subject.is_taken() && !subject.is_deleted() {
        let name = subject.pod.map_or("", |pod| pod.name.as_str());
        let message = format!("there is a pod {name:?} that is not this machine's: delete it");
        return Some(("PodNameTaken".to_owned(), message));
    }
    let pod = subject.own()?;
    if pod.phase != PodPhase::Failed {
        return None;
    }
    let reason = pod.reason.clone().filter(|reason| is_word(reason));
    let reason = reason.unwrap_or_else(|| "LauncherFailed".to_owned());
    let message = match &pod.ended {
        Some(ended) => format!(
            "the launcher ended with status {}: {}",
            ended.code,
            ended.message.trim()
        ),
        None => pod.message.clone().unwrap_or_default(),
    };
    Some((reason, message))
}

/// Whether a text may be the reason of a condition.
fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric())
}

/// The fields without effect, and why they have none.
fn ignored(subject: &Subject<'_>) -> Option<String> {
    let (old, meta) = (subject.status, &subject.vm.metadata);
    if old.observed_generation.is_some() && old.observed_generation == meta.generation {
        let old = old.conditions.iter().find(|c| c.type_ == "FieldsIgnored");
        return old.map(|condition| condition.message.clone());
    }
    let spec = serde_json::to_value(&subject.vm.spec).unwrap_or_default();
    let findings = fields::review(&spec).into_iter();
    let findings = findings.filter(|finding| finding.field.fate == Fate::Ignored);
    let texts: Vec<_> = findings
        .map(|finding| format!("{}: {}", finding.path, finding.field.why))
        .collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// What is worth an event: what was not so before.
fn notices(subject: &Subject<'_>, new: &VirtualMachineStatus) -> Vec<Notice> {
    let old = subject.status;
    let mut notices = Vec::new();
    let mut warn = |reason: &str, note: String| {
        notices.push(Notice {
            warning: true,
            reason: reason.to_owned(),
            note,
        });
    };
    for condition in &new.conditions {
        let same = |c: &&Condition| c.type_ == condition.type_ && c.message == condition.message;
        if old.conditions.iter().any(|c| same(&c)) {
            continue;
        }
        match condition.type_.as_str() {
            "Resizing" => warn("Resizing", condition.message.clone()),
            "Failure" => warn(&condition.reason, condition.message.clone()),
            "FieldsIgnored" => warn("FieldsIgnored", condition.message.clone()),
            _ => {}
        }
    }
    let printable = new.printable_status.as_deref().unwrap_or_default();
    let is_new = old.printable_status.as_deref() != Some(printable);
    match &new.start_failure {
        Some(failure) if is_new && printable == words::CRASH_LOOP => {
            let count = failure.consecutive_fail_count;
            let after = failure.retry_after.0;
            let note = format!("the machine ended {count} times in a row; next start at {after}");
            warn("BackOff", note);
        }
        _ => {}
    }
    if is_new && printable == words::UNSCHEDULABLE {
        warn("Unschedulable", trouble(subject.own()));
    }
    let strategy = subject.vm.spec.strategy();
    let (was, is) = (&old.requests, &new.requests);
    let stop = (STOPPED_AT, &was.stopped_at, &is.stopped_at);
    let start = (STARTED_AT, &was.started_at, &is.started_at);
    let restart = (RESTARTED_AT, &was.restarted_at, &is.restarted_at);
    let vain = match strategy {
        RunStrategy::Always => vec![stop],
        RunStrategy::Halted | RunStrategy::Once => vec![start, restart],
        RunStrategy::Manual | RunStrategy::RerunOnFailure => vec![],
    };
    // The first status of a copy of a machine carries requests of the first.
    let known = old.observed_generation.is_some();
    for (name, before, now) in vain {
        if known && before != now && now.is_some() {
            let note = format!("{name} has no effect with run strategy {strategy:?}");
            warn("RequestIgnored", note);
        }
    }
    notices
}

impl Step {
    /// What is being done, for logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::AddFinalizer => "add finalizer",
            Self::RemoveFinalizer => "remove finalizer",
            Self::Create => "create pod",
            Self::Delete(_) => "delete pod",
            Self::Pause(_) => "tell pod to pause or resume",
            Self::Resize(_) => "give pod another size",
        }
    }
}
