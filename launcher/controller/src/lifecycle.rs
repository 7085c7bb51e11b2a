//! What happens to a machine next, as a pure function.
//!
//! In: a [`VirtualMachine`], what its status says, what is known of its pod,
//! and the time. Out: a [`Plan`]: the next [`Step`] to take, the status to
//! show once there is none, and when to look again. Nothing is asked of a
//! cluster and nothing is written.

mod backoff;
pub mod observed;
pub mod requests;
pub mod size;
mod status;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::api::VirtualMachine;
use crate::api::status::{Phase, StartFailure, VirtualMachineStatus};
use crate::api::virtual_machine::RunStrategy;
use observed::{PodPhase, PodState};
use requests::Pending;
use size::{Fit, Size};

pub use status::{Notice, words};

/// The finalizer that keeps a machine until its pod has ended.
pub const FINALIZER: &str = "bootwright.dev/pod";

/// How long after its time a pod may still be there before its node counts as
/// silent.
const OVERDUE: SignedDuration = SignedDuration::from_secs(60);

/// A machine, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The machine.
    pub vm: &'a VirtualMachine,
    /// What its status says.
    pub status: &'a VirtualMachineStatus,
    /// The pod that has its pod's name.
    pub pod: Option<&'a PodState>,
    /// Why its pod was not created, if that was tried just now.
    pub refusal: Option<&'a Refusal>,
    /// Why the guest of its last pod may still run and write, though the pod
    /// is gone. There is no other pod as long as that is so, and the status
    /// goes on naming the last one.
    pub lost: Option<&'a Refusal>,
    /// Why it has not got the size that it is to have, if that was tried just
    /// now.
    pub delay: Option<&'a str>,
    /// The time.
    pub now: Timestamp,
}

/// Why a machine's pod was not created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the machine is doing instead, in a word.
    pub printable: String,
    /// Why, in a word.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

/// What is done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The machine gets the finalizer.
    AddFinalizer,
    /// The machine loses the finalizer, and is gone.
    RemoveFinalizer,
    /// Its pod is created.
    Create,
    /// Its pod is deleted.
    Delete(Why),
    /// Its pod is told whether its guest stands still.
    Pause(String),
    /// Its pod gets more, or less, while it runs.
    Resize(Size),
}

/// Why a pod is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The machine is being deleted.
    MachineDeleted,
    /// It is not to run.
    Stop,
    /// It is to be restarted.
    Restart,
    /// It has ended, and makes place for the next.
    Again,
}

/// What happens to a machine next.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What is done next, if there is anything to do.
    pub step: Option<Step>,
    /// What the status says when there is nothing.
    pub status: VirtualMachineStatus,
    /// What there is to tell when the status is written.
    pub notices: Vec<Notice>,
    /// When to look again, though nothing has changed by then.
    pub again: Option<Timestamp>,
}

/// Whether a machine is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// It is.
    Run,
    /// It is not.
    Stop,
    /// It goes on as it is.
    Leave,
}

/// What was found out on the way to a plan, for the status.
#[derive(Debug, Clone, PartialEq)]
struct Course {
    want: Want,
    pending: Pending,
    step: Option<Step>,
    /// There is no start before this.
    wait: Option<Timestamp>,
    failure: Option<StartFailure>,
}

/// Plans what happens to a machine next.
pub fn plan(subject: &Subject<'_>) -> Plan {
    let course = course(subject);
    let (status, notices) = status::status(subject, &course);
    let again = again(subject, &course, &status);
    Plan {
        step: course.step,
        status,
        notices,
        again,
    }
}

/// The digest by which a changed template is noticed, without what can be
/// changed while the machine runs.
pub fn template_digest(vm: &VirtualMachine) -> String {
    let json = serde_json::to_vec(&size::without(vm)).unwrap_or_default();
    let digest = Sha256::digest(&json);
    digest[..8].iter().map(|b| format!("{b:02x}")).collect()
}

impl<'a> Subject<'a> {
    fn uid(&self) -> &str {
        self.vm.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The machine's own pod.
    fn own(&self) -> Option<&'a PodState> {
        self.pod.filter(|pod| pod.is_of(self.uid()))
    }

    /// Whether the pod with the name of the machine's is another's.
    fn is_taken(&self) -> bool {
        self.pod.is_some() && self.own().is_none()
    }

    fn is_deleted(&self) -> bool {
        self.vm.metadata.deletion_timestamp.is_some()
    }

    fn has_finalizer(&self) -> bool {
        let finalizers = self.vm.metadata.finalizers.iter().flatten();
        finalizers.into_iter().any(|name| name == FINALIZER)
    }
}

fn course(subject: &Subject<'_>) -> Course {
    let pod = subject.own();
    let mut course = Course {
        want: Want::Stop,
        pending: requests::pending(subject.vm, &subject.status.requests, pod),
        step: None,
        wait: None,
        failure: subject.status.start_failure.clone(),
    };
    if subject.is_deleted() {
        course.step = match pod {
            Some(pod) if pod.deletion.is_none() => Some(Step::Delete(Why::MachineDeleted)),
            Some(_) => None,
            None => subject.has_finalizer().then_some(Step::RemoveFinalizer),
        };
        return course;
    }
    course.want = want(subject, course.pending);
    match course.want {
        Want::Run => run(subject, &mut course),
        Want::Stop => {
            let halted = subject.vm.spec.strategy() == RunStrategy::Halted;
            course.step = pod
                .filter(|pod| pod.deletion.is_none() && (halted || !pod.is_over()))
                .map(|_| Step::Delete(Why::Stop));
            course.failure = None;
        }
        Want::Leave => course.step = pod.and_then(|pod| adjust(subject, pod)),
    }
    course
}

/// Whether a machine is to run, by its strategy and what is asked for.
fn want(subject: &Subject<'_>, pending: Pending) -> Want {
    let go = pending.start || pending.restart;
    let (pod, phase) = (subject.own(), subject.status.phase);
    match subject.vm.spec.strategy() {
        RunStrategy::Always => Want::Run,
        RunStrategy::Halted => Want::Stop,
        RunStrategy::Once => match (pod, phase) {
            _ if pending.stop => Want::Stop,
            (None, None) => Want::Run,
            _ => Want::Leave,
        },
        _ if go => Want::Run,
        _ if pending.stop => Want::Stop,
        RunStrategy::Manual => Want::Leave,
        RunStrategy::RerunOnFailure => match (pod.map(|pod| pod.phase), phase) {
            (Some(PodPhase::Succeeded), _) | (None, Some(Phase::Succeeded)) => Want::Leave,
            _ => Want::Run,
        },
    }
}

/// What is done for a machine that is to run.
fn run(subject: &Subject<'_>, course: &mut Course) {
    let now = subject.now;
    let asked = course.pending.start || course.pending.restart;
    let Some(pod) = subject.own() else {
        let retry = course.failure.as_ref().map(|failure| failure.retry_after.0);
        course.wait = retry.filter(|retry| *retry > now && !asked);
        let blocked = subject.is_taken() || subject.refusal.or(subject.lost).is_some();
        course.step = match subject.has_finalizer() {
            _ if course.wait.is_some() || blocked => None,
            false => Some(Step::AddFinalizer),
            true => Some(Step::Create),
        };
        return;
    };
    if pod.deletion.is_some() {
        return;
    }
    if pod.is_over() {
        let failure = backoff::tally(subject.status.start_failure.as_ref(), pod, now);
        course.wait = failure
            .as_ref()
            .map(|failure| failure.retry_after.0)
            .filter(|retry| *retry > now && !asked);
        course.failure = failure;
        course.step = (course.wait.is_none()).then_some(Step::Delete(Why::Again));
    } else if course.pending.restart {
        course.step = Some(Step::Delete(Why::Restart));
    } else {
        if backoff::is_over_it(pod, now) {
            course.failure = None;
        }
        course.step = adjust(subject, pod);
    }
}

/// What is done to a pod that goes on.
fn adjust(subject: &Subject<'_>, pod: &PodState) -> Option<Step> {
    pause(subject, pod).or_else(|| resize(subject, pod))
}

/// Gives a running pod the size that its machine is to have, if it can have it
/// and was not tried just now.
fn resize(subject: &Subject<'_>, pod: &PodState) -> Option<Step> {
    let runs = pod.phase == PodPhase::Running && pod.deletion.is_none();
    if !runs || subject.delay.is_some() {
        return None;
    }
    match size::fit(subject.vm, pod.size.as_ref()?) {
        Fit::Running(size) => Some(Step::Resize(size)),
        Fit::Same | Fit::Restart(_) => None,
    }
}

/// Tells a pod whether its guest stands still, if it was told otherwise.
fn pause(subject: &Subject<'_>, pod: &PodState) -> Option<Step> {
    let asked = requests::annotation(subject.vm, requests::PAUSED);
    let wanted = match (asked, &pod.paused) {
        (Some(asked), told) if told.as_ref() != Some(asked) => asked.clone(),
        // The wish to pause was taken back.
        (None, Some(told)) if told == "true" => "false".to_owned(),
        _ => return None,
    };
    pod.is_live().then_some(Step::Pause(wanted))
}

/// When to look again.
fn again(
    subject: &Subject<'_>,
    course: &Course,
    status: &VirtualMachineStatus,
) -> Option<Timestamp> {
    let pod = subject.own();
    let overdue = pod.and_then(|pod| pod.deletion).map(|at| at + OVERDUE);
    let overdue = overdue.filter(|at| *at > subject.now);
    let forgiven = match &status.start_failure {
        Some(_) => pod
            .filter(|pod| pod.is_live())
            .and_then(backoff::forgiven_at),
        None => None,
    };
    let times = [course.wait, overdue, forgiven];
    times.into_iter().flatten().min()
}

#[cfg(test)]
mod tests;
