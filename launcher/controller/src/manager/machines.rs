//! One machine at a time: looks, plans, does, says.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Resource as _;
use kube::api::ResourceExt as _;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, watcher};

use super::api::{ApiError, Claim, Identity};
use super::sizes::{self, Resized};
use super::watched::{self, News};
use super::{Context, Key, Memo, events};
use crate::api::VirtualMachine;
use crate::api::status::{Phase, VirtualMachineStatus};
use crate::fence::{self, Holder, Silence, Verdict};
use crate::lifecycle::observed::{PodState, TEMPLATE};
use crate::lifecycle::requests::{self, PAUSED, STARTED_AT};
use crate::lifecycle::size::Size;
use crate::lifecycle::{self, FINALIZER, Notice, Plan, Refusal, Step, Subject, Why, words};
use crate::pod::{self, PodError};

/// A machine as it is watched: one that cannot be read does not end the watch
/// of the others.
pub(crate) type Guarded = DeserializeGuard<VirtualMachine>;

/// More steps than any machine takes at once.
const STEPS: usize = 8;

/// The waits between attempts that fail: the first, and the longest.
pub(crate) const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The same for pods that are refused, each of which costs a write.
const REFUSED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// The wait between two looks at the node of a pod that is gone and may not
/// have ended: each costs one read, and whoever brings the node back waits.
const LOST: Duration = Duration::from_secs(10);

/// Reconciles the machines that are in the news, until `stop`.
pub(crate) async fn run<S>(
    context: Arc<Context>,
    namespace: Option<String>,
    news: impl Stream<Item = News<Guarded>> + Send + 'static,
    store: Store<Guarded>,
    stop: S,
) where
    S: Future<Output = ()> + Send + Sync + 'static,
{
    let client = context.api.client();
    let pods = watcher(
        watched::scoped::<Pod>(&client, namespace.as_deref()),
        watcher::Config::default().labels(pod::LABEL),
    );
    let of_pods = {
        let context = Arc::clone(&context);
        pods.default_backoff().flat_map(move |event| {
            let keys = match event {
                Ok(event) => context.pods.take(&event),
                Err(error) => {
                    tracing::warn!(%error, "cannot watch pods");
                    Vec::new()
                }
            };
            let refs = keys.into_iter();
            let refs = refs.map(|(namespace, name)| ObjectRef::new(&name).within(&namespace));
            futures::stream::iter(refs)
        })
    };
    let of_machines = watched::concerned(news, store.clone());
    let config = controller::Config::default().concurrency(context.config.concurrency);
    Controller::for_stream(futures::stream::pending(), store)
        .reconcile_on(of_machines)
        .reconcile_on(of_pods)
        .with_config(config)
        .graceful_shutdown_on(stop)
        .run(reconcile, failed, Arc::clone(&context))
        .for_each(|done| {
            match done {
                Ok(_) | Err(controller::Error::ReconcilerFailed(..)) => {}
                Err(controller::Error::ObjectNotFound(gone)) => {
                    let namespace = gone.namespace.clone().unwrap_or_default();
                    context.forget(&(namespace, gone.name.clone()));
                }
                Err(error) => tracing::warn!(%error, "cannot watch machines"),
            }
            futures::future::ready(())
        })
        .await;
}

/// Waits longer after each failure.
fn failed(vm: Arc<Guarded>, error: &ApiError, context: Arc<Context>) -> Action {
    let (key, identity) = identity(vm.meta());
    let mut memo = context.memo(&key, &identity.uid);
    let wait = doubled(RETRY, memo.errors);
    memo.errors = memo.errors.saturating_add(1);
    context.remember(&key, memo);
    tracing::warn!(namespace = key.0, machine = key.1, %error, "will try again");
    Action::requeue(wait)
}

/// A wait that doubles with each time, from the first up to the longest.
pub(crate) fn doubled((first, longest): (Duration, Duration), times: u32) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(longest)
}

pub(crate) fn identity(meta: &ObjectMeta) -> (Key, Identity) {
    let identity = Identity {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    };
    let key = (identity.namespace.clone(), identity.name.clone());
    (key, identity)
}

/// Why a pod does not have the size that it is to have.
struct Delay {
    why: String,
    /// Whether nothing but time will change that.
    refused: bool,
}

/// A machine that is being reconciled.
struct Work<'a> {
    context: &'a Context,
    key: Key,
    identity: Identity,
    about: ObjectReference,
    memo: Memo,
}

async fn reconcile(guarded: Arc<Guarded>, context: Arc<Context>) -> Result<Action, ApiError> {
    context.pods.complete().await;
    let begun = Instant::now();
    let (key, identity) = identity(guarded.meta());
    let mut work = Work {
        memo: context.memo(&key, &identity.uid),
        about: events::about::<VirtualMachine>(guarded.meta()),
        context: &context,
        key,
        identity,
    };
    let outcome = match &guarded.0 {
        Ok(vm) => work.machine(vm).await,
        Err(invalid) => work.malformed(&invalid.metadata, &invalid.error).await,
    };
    if outcome.is_ok() {
        work.memo.errors = 0;
    }
    context.remember(&work.key, work.memo);
    let metrics = &context.shared.metrics;
    metrics.reconciled(begun.elapsed(), outcome.is_ok());
    outcome
}

impl Work<'_> {
    async fn machine(&mut self, vm: &VirtualMachine) -> Result<Action, ApiError> {
        let mut vm = std::borrow::Cow::Borrowed(vm);
        // What the watch shows by now need not be remembered.
        if self.memo.status == vm.status {
            self.memo.status = None;
        }
        let shown = vm.finalizers().iter().any(|name| name == FINALIZER);
        self.memo.finalized &= !shown;
        if self.memo.finalized {
            vm.to_mut().finalizers_mut().push(FINALIZER.to_owned());
        }
        let mut refusal = None;
        let mut delay: Option<Delay> = None;
        for _ in 0..STEPS {
            let pod = self.pod();
            let status = self.memo.status.clone().or_else(|| vm.status.clone());
            let status = status.unwrap_or_default();
            let own = pod.as_ref().filter(|pod| pod.is_of(&self.identity.uid));
            let lost = match own {
                None if !fence::written(&vm.spec.template.spec).is_empty() => {
                    self.lost(&status).await?
                }
                None => None,
                Some(_) => {
                    self.memo.missing.clear();
                    None
                }
            };
            let subject = Subject {
                vm: &vm,
                status: &status,
                pod: pod.as_deref(),
                refusal: refusal.as_ref(),
                lost: lost.as_ref(),
                delay: delay.as_ref().map(|delay| delay.why.as_str()),
                // Times are stored in whole seconds.
                now: now(),
            };
            let plan = lifecycle::plan(&subject);
            let Some(step) = &plan.step else {
                let late = delay.is_some_and(|delay| delay.refused);
                let refused = refusal.is_some() || late;
                let looks = lost.is_some().then_some(LOST);
                return self.settle(&vm, &status, plan, refused, looks).await;
            };
            tracing::debug!(
                namespace = self.key.0,
                machine = self.key.1,
                "{}",
                step.word()
            );
            match step {
                Step::AddFinalizer => {
                    self.context.api.finalizer(&self.identity, true).await?;
                    self.memo.finalized = true;
                    vm.to_mut().finalizers_mut().push(FINALIZER.to_owned());
                }
                Step::RemoveFinalizer => {
                    self.context.api.finalizer(&self.identity, false).await?;
                    self.memo = Memo {
                        uid: self.identity.uid.clone(),
                        ..Memo::default()
                    };
                    return Ok(Action::await_change());
                }
                Step::Create => refusal = self.create(&vm).await?,
                Step::Delete(why) => {
                    if let Some(pod) = &pod {
                        self.delete(pod, *why).await?;
                    }
                }
                Step::Pause(value) => {
                    if let Some(pod) = &pod {
                        let written = self.context.api.pause(pod, value).await?;
                        self.context.pods.wrote(&written);
                    }
                }
                Step::Resize(size) => {
                    if let Some(pod) = &pod {
                        delay = self.resize(&vm, pod, *size).await?;
                    }
                }
            }
        }
        // The next look is a fresh one.
        Ok(Action::requeue(RETRY.0))
    }

    fn pod(&self) -> Option<Arc<PodState>> {
        let name = pod::name(&self.identity.name);
        self.context.pods.get(&self.identity.namespace, &name)
    }

    /// Gives a pod another size, or says why not yet.
    async fn resize(
        &self,
        vm: &VirtualMachine,
        pod: &PodState,
        size: Size,
    ) -> Result<Option<Delay>, ApiError> {
        let spec = &vm.spec.template.spec;
        let delay = |why: String, refused| Ok(Some(Delay { why, refused }));
        let needs = match pod::requirements(spec, &self.context.config.launcher) {
            Ok(needs) => needs,
            Err(error) => return delay(error.to_string(), false),
        };
        match sizes::resize(&self.context.api, pod, size, &needs).await? {
            Resized::Told(written) => {
                self.context.pods.wrote(&written);
                let note = format!(
                    "pod {} was told to have {} sockets and {} of memory",
                    pod.name,
                    size.sockets,
                    crate::quantity::bytes(size.bytes).0
                );
                self.tell(&events::normal("Resized", note)).await;
                Ok(None)
            }
            Resized::Waits(why) => delay(why, false),
            Resized::Refused(why) => delay(why, true),
            Resized::Gone => delay("its pod is gone".to_owned(), false),
        }
    }

    /// Writes what is new, and says when to look again: after `looks` at the
    /// latest, if that is given.
    async fn settle(
        &mut self,
        vm: &VirtualMachine,
        old: &VirtualMachineStatus,
        plan: Plan,
        refused: bool,
        looks: Option<Duration>,
    ) -> Result<Action, ApiError> {
        if plan.status != *old || vm.status.is_none() && self.memo.status.is_none() {
            self.context
                .api
                .status(&self.identity, &plan.status)
                .await?;
            self.measure(vm, old, &plan.status);
            self.memo.status = Some(plan.status);
        }
        for notice in &plan.notices {
            self.tell(notice).await;
        }
        let again = plan.again.map(|at| {
            let wait = at.duration_since(Timestamp::now());
            Duration::try_from(wait).unwrap_or(Duration::ZERO) + Duration::from_millis(50)
        });
        let retry = if refused {
            let wait = doubled(REFUSED, self.memo.refusals);
            self.memo.refusals = self.memo.refusals.saturating_add(1);
            Some(wait)
        } else {
            self.memo.refusals = 0;
            None
        };
        let wait = again.into_iter().chain(retry).chain(looks).min();
        Ok(wait.map_or_else(Action::await_change, Action::requeue))
    }

    /// Takes the time of a machine that has come further.
    fn measure(&self, vm: &VirtualMachine, old: &VirtualMachineStatus, new: &VirtualMachineStatus) {
        let stage = |status: &VirtualMachineStatus| status.stages.clone().unwrap_or_default();
        let (before, after) = (stage(old), stage(new));
        let born = vm.metadata.creation_timestamp.clone();
        // The first pod is the one that its machine's creation asked for.
        let first = old.phase.is_none() && old.pod.is_none();
        let created = after.created.clone();
        for (phase, from, before, to) in [
            (
                "Pending",
                born.filter(|_| first),
                before.created,
                after.created,
            ),
            ("Running", created.clone(), before.started, after.started),
            ("Ready", created, before.ready, after.ready),
        ] {
            if let (Some(from), None, Some(to)) = (from, before, to) {
                let seconds = to.0.duration_since(from.0).as_secs_f64();
                self.context.shared.metrics.reached(phase, seconds);
            }
        }
    }

    /// Creates the pod, or says why there is none.
    async fn create(&mut self, vm: &VirtualMachine) -> Result<Option<Refusal>, ApiError> {
        let namespace = &self.identity.namespace.clone();
        let mut found = BTreeMap::new();
        for name in pod::claims(&vm.spec.template.spec) {
            if let Some(claim) = self.context.api.claim(namespace, &name).await? {
                found.insert(name, claim);
            }
        }
        let modes = found.iter().map(|(name, claim)| (name.clone(), claim.mode));
        let claims = modes.collect();
        let mut pod = match pod::pod(vm, &self.context.config.launcher, &claims) {
            Ok(pod) => pod,
            Err(error) => return Ok(Some(contradiction(&error))),
        };
        let annotations = pod.annotations_mut();
        annotations.insert(TEMPLATE.into(), lifecycle::template_digest(vm));
        for name in [STARTED_AT, PAUSED] {
            if let Some(value) = requests::annotation(vm, name) {
                annotations.insert(name.into(), value.clone());
            }
        }
        let written = fence::written(&vm.spec.template.spec);
        found.retain(|name, _| written.contains(name));
        if let Some(refusal) = self.hold(&found).await? {
            return Ok(Some(refusal));
        }
        match self.context.api.apply_pod(namespace, &pod).await {
            Ok(pod) => {
                self.context.pods.wrote(&pod);
                let note = format!("created pod {}", pod.name_any());
                self.tell(&events::normal("SuccessfulCreate", note)).await;
                Ok(None)
            }
            Err(error) => match error.refused().filter(|status| is_final(status.code)) {
                Some(status) => Ok(Some(Refusal {
                    printable: words::FAILED_CREATE.into(),
                    reason: words::FAILED_CREATE.into(),
                    message: status.message.clone(),
                })),
                None => Err(error),
            },
        }
    }

    /// Why the pod that a status names may still write though it is gone: it
    /// was removed by force, and nobody has seen it end.
    async fn lost(&mut self, status: &VirtualMachineStatus) -> Result<Option<Refusal>, ApiError> {
        let (Some(last), Some(node)) = (&status.pod, &status.node_name) else {
            return Ok(None);
        };
        let over = matches!(status.phase, Some(Phase::Succeeded | Phase::Failed));
        if over || self.context.pods.ended(&last.uid) {
            return Ok(None);
        }
        let uid = &last.uid;
        let missing = self.memo.missing.entry(uid.clone());
        let since = *missing.or_insert_with(Instant::now);
        let found = self.context.api.node(node).await?;
        let (printable, reason, message) = match fence::silence(found.as_ref()) {
            Silence::Over => return Ok(None),
            Silence::Soon if since.elapsed() >= fence::MOMENT.unsigned_abs() => return Ok(None),
            Silence::Soon => (
                words::STARTING,
                "PodMissing",
                format!("pod {uid} went without having ended: node {node} is given time to end it"),
            ),
            Silence::Lasts => (
                words::UNKNOWN,
                "NodeSilent",
                format!(
                    "pod {uid} was removed, but node {node} does not answer, and the guest may \
                     still write its claims: bring the node back, delete it, or give it the taint \
                     node.kubernetes.io/out-of-service"
                ),
            ),
        };
        Ok(Some(Refusal {
            printable: printable.into(),
            reason: reason.into(),
            message,
        }))
    }

    /// Takes the leases of the claims that the machine writes, or says who
    /// has one.
    async fn hold(
        &mut self,
        claims: &BTreeMap<String, Claim>,
    ) -> Result<Option<Refusal>, ApiError> {
        let (context, namespace) = (self.context, &self.identity.namespace.clone());
        let api = &context.api;
        let asker = Holder {
            machine: self.identity.name.clone(),
            uid: self.identity.uid.clone(),
        };
        for (claim, found) in claims {
            let name = fence::lease(claim);
            let lease = api.lease(namespace, &name).await?;
            let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
            let pod = |machine: &str| {
                let pod = context.pods.get(namespace, &pod::name(machine))?;
                Some(PodState::clone(&pod))
            };
            match fence::verdict(spec, &asker, pod, Timestamp::now()) {
                Verdict::Granted => {
                    let before = fence::holder(spec).filter(|before| *before != asker);
                    if let Some(before) = before
                        && let Some(refusal) = self.lost_by(&before).await?
                    {
                        return Ok(Some(refusal));
                    }
                    api.hold(namespace, &name, lease, &asker.identity(), found)
                        .await?;
                }
                Verdict::Taken(holder) => {
                    let holder = holder.machine;
                    return Ok(Some(Refusal {
                        printable: words::CLAIM_IN_USE.into(),
                        reason: "ClaimInUse".into(),
                        message: format!("claim {claim:?} is written by machine {holder:?}"),
                    }));
                }
            }
        }
        Ok(None)
    }

    /// Why the last pod of the machine that wrote before may still write.
    async fn lost_by(&mut self, before: &Holder) -> Result<Option<Refusal>, ApiError> {
        let api = &self.context.api;
        let vm = api
            .machine(&self.identity.namespace, &before.machine)
            .await?;
        let vm = vm.filter(|vm| vm.metadata.uid.as_ref() == Some(&before.uid));
        let Some(status) = vm.and_then(|vm| vm.status) else {
            return Ok(None);
        };
        let name = pod::name(&before.machine);
        let pod = self.context.pods.get(&self.identity.namespace, &name);
        if pod.is_some_and(|pod| pod.is_of(&before.uid)) {
            // It is over: the verdict has seen that.
            return Ok(None);
        }
        let lost = self.lost(&status).await?;
        Ok(lost.map(|lost| Refusal {
            printable: words::CLAIM_IN_USE.into(),
            message: format!("machine {:?}: {}", before.machine, lost.message),
            ..lost
        }))
    }

    async fn delete(&mut self, pod: &PodState, why: Why) -> Result<(), ApiError> {
        match self.context.api.delete_pod(pod).await? {
            Some(left) => self.context.pods.wrote(&left),
            None => self.context.pods.gone(pod),
        }
        let why = match why {
            Why::MachineDeleted => "the machine is being deleted",
            Why::Stop => "the machine is to stop",
            Why::Restart => "the machine is to restart",
            Why::Again => "the machine is started again",
        };
        let note = format!("deleted pod {}: {why}", pod.name);
        self.tell(&events::normal("SuccessfulDelete", note)).await;
        Ok(())
    }

    /// An object that is not a machine as this version knows them: nothing is
    /// done to it, but if it is deleted it goes.
    async fn malformed(&mut self, meta: &ObjectMeta, error: &str) -> Result<Action, ApiError> {
        let ours = meta.finalizers.iter().flatten();
        let ours = ours.into_iter().any(|name| name == FINALIZER);
        if meta.deletion_timestamp.is_some() && ours {
            let pod = self.pod().filter(|pod| pod.is_of(&self.identity.uid));
            match pod {
                Some(pod) if pod.deletion.is_none() => {
                    self.delete(&pod, Why::MachineDeleted).await?;
                }
                Some(_) => {}
                None => self.context.api.release(meta).await?,
            }
            return Ok(Action::await_change());
        }
        if self.memo.malformed != meta.resource_version {
            self.memo.malformed.clone_from(&meta.resource_version);
            let note = format!("the object cannot be read, and is left as it is: {error}");
            tracing::warn!(namespace = self.key.0, machine = self.key.1, "{note}");
            self.tell(&events::warning("Malformed", note)).await;
        }
        Ok(Action::await_change())
    }

    async fn tell(&self, notice: &Notice) {
        events::tell(self.context, &self.about, notice).await;
    }
}

/// Whether a refusal is about what was asked, and not about the moment.
pub(crate) fn is_final(code: u16) -> bool {
    (400..500).contains(&code) && !matches!(code, 408 | 429)
}

/// Why a machine's spec has no pod.
fn contradiction(error: &PodError) -> Refusal {
    let (printable, reason) = match error {
        PodError::NoClaim(_) => (words::NO_CLAIM, "NoClaim"),
        _ => (words::FAILED_CREATE, "InvalidSpec"),
    };
    Refusal {
        printable: printable.into(),
        reason: reason.into(),
        message: error.to_string(),
    }
}

/// The time in whole seconds, as it is stored.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits = [0, 1, 2, 5, 6, 40].map(|times| doubled(RETRY, times).as_secs());
        assert_eq!(waits, [1, 2, 4, 32, 60, 60]);
    }

    #[test]
    fn the_time_is_in_whole_seconds_and_not_ahead() {
        for _ in 0..100 {
            let (now, real) = (now(), Timestamp::now());
            assert_eq!(now.subsec_nanosecond(), 0);
            assert!(now <= real);
        }
    }
}
