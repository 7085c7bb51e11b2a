//! One pool at a time: looks, plans, does, says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use k8s_openapi::jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::{Resource as _, ResourceExt as _};
use tokio::sync::watch;

use super::api::{ApiError, Identity};
use super::machines::{self, Guarded};
use super::watched;
use super::{Context, Key, events};
use crate::api::pool::{MachineTemplate, VirtualMachinePoolStatus};
use crate::api::{VirtualMachine, VirtualMachinePool};
use crate::rollout::{self, Member, New, POOL, Plan, REVISION, Subject};

/// A pool as it is watched: one that cannot be read does not end the watch of
/// the others.
pub(crate) type GuardedPool = DeserializeGuard<VirtualMachinePool>;

/// The wait after a refusal: the longest, and where doubling begins.
const REFUSED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// The machines that are watched.
pub(crate) struct Machines {
    pub(crate) store: Store<Guarded>,
    /// Whether the store has them all.
    pub(crate) known: watch::Receiver<bool>,
}

/// What the reconciliation of pools shares.
struct Pools {
    context: Arc<Context>,
    machines: Store<Guarded>,
    known: watch::Receiver<bool>,
    memos: Mutex<HashMap<Key, Memo>>,
}

/// What was done to a pool and does not show in the watch yet.
#[derive(Debug, Clone, Default)]
struct Memo {
    uid: String,
    status: Option<VirtualMachinePoolStatus>,
    refusals: u32,
    errors: u32,
}

/// Reconciles pools until `stop`. `changed` names the pools whose machines are
/// in the news; none means all.
pub(crate) async fn run<S>(
    context: Arc<Context>,
    namespace: Option<String>,
    machines: Machines,
    changed: impl Stream<Item = Option<Key>> + Send + 'static,
    stop: S,
) where
    S: Future<Output = ()> + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let pools = watched::scoped::<GuardedPool>(&context.api.client(), namespace.as_deref());
    context.shared.knows_pools(store.clone());
    let of_pools = watched::concerned(watched::news(pools, writer), store.clone());
    let of_machines = {
        let store = store.clone();
        changed.flat_map(move |pool| {
            stream::iter(match pool {
                Some((namespace, name)) => vec![ObjectRef::new(&name).within(&namespace)],
                None => watched::all(&store),
            })
        })
    };
    let config = controller::Config::default().concurrency(context.config.concurrency);
    let pools = Arc::new(Pools {
        context,
        machines: machines.store,
        known: machines.known,
        memos: Mutex::default(),
    });
    Controller::for_stream(stream::pending(), store)
        .reconcile_on(of_pools)
        .reconcile_on(of_machines)
        .with_config(config)
        .graceful_shutdown_on(stop)
        .run(reconcile, failed, Arc::clone(&pools))
        .for_each(|done| {
            if let Err(controller::Error::ObjectNotFound(gone)) = done {
                let namespace = gone.namespace.clone().unwrap_or_default();
                pools.remember(&(namespace, gone.name.clone()), None);
            }
            futures::future::ready(())
        })
        .await;
}

/// The pool that a machine belongs to.
pub(crate) fn pool_of(machine: &ObjectMeta) -> Option<Key> {
    let owner = owner(machine)?;
    Some((machine.namespace.clone()?, owner.name.clone()))
}

fn owner(machine: &ObjectMeta) -> Option<&OwnerReference> {
    let mut owners = machine.owner_references.iter().flatten();
    owners.find(|owner| {
        owner.controller == Some(true)
            && owner.kind == VirtualMachinePool::kind(&())
            && owner.api_version == VirtualMachinePool::api_version(&())
    })
}

impl Pools {
    fn memo(&self, key: &Key, uid: &str) -> Memo {
        let memos = self.memos.lock().unwrap_or_else(PoisonError::into_inner);
        let memo = memos.get(key).filter(|memo| memo.uid == uid);
        memo.cloned().unwrap_or_else(|| Memo {
            uid: uid.to_owned(),
            ..Memo::default()
        })
    }

    fn remember(&self, key: &Key, memo: Option<Memo>) {
        let mut memos = self.memos.lock().unwrap_or_else(PoisonError::into_inner);
        match memo {
            Some(memo) => memos.insert(key.clone(), memo),
            None => memos.remove(key),
        };
    }

    /// The machines of a pool, and the names in its namespace that are
    /// others'.
    fn members(&self, pool: &Identity) -> (Vec<Member>, BTreeSet<String>) {
        let (mut members, mut others) = (Vec::new(), BTreeSet::new());
        for machine in self.machines.state() {
            let meta = machine.meta();
            if meta.namespace.as_ref() != Some(&pool.namespace) {
                continue;
            }
            if owner(meta).is_none_or(|owner| owner.uid != pool.uid) {
                others.extend(meta.name.clone());
                continue;
            }
            members.push(member(&machine));
        }
        (members, others)
    }
}

fn member(machine: &Guarded) -> Member {
    let meta = machine.meta();
    let labels = meta.labels.as_ref();
    let status = machine.0.as_ref().ok().and_then(|vm| vm.status.as_ref());
    let mut conditions = status.iter().flat_map(|status| &status.conditions);
    let ready = conditions.find(|c| c.type_ == "Ready" && c.status == "True");
    Member {
        name: meta.name.clone().unwrap_or_default(),
        revision: labels
            .and_then(|labels| labels.get(REVISION).cloned())
            .unwrap_or_default(),
        ready: ready.map(|condition| condition.last_transition_time.0),
        created: meta.creation_timestamp.as_ref().map(|time| time.0),
        going: meta.deletion_timestamp.is_some(),
    }
}

fn failed(pool: Arc<GuardedPool>, error: &ApiError, pools: Arc<Pools>) -> Action {
    let (key, identity) = machines::identity(pool.meta());
    let mut memo = pools.memo(&key, &identity.uid);
    let wait = machines::doubled(machines::RETRY, memo.errors);
    memo.errors = memo.errors.saturating_add(1);
    pools.remember(&key, Some(memo));
    tracing::warn!(namespace = key.0, pool = key.1, %error, "will try again");
    Action::requeue(wait)
}

async fn reconcile(guarded: Arc<GuardedPool>, pools: Arc<Pools>) -> Result<Action, ApiError> {
    if pools.known.clone().wait_for(|known| *known).await.is_err() {
        return Ok(Action::await_change());
    }
    let begun = Instant::now();
    let about = events::about::<VirtualMachinePool>(guarded.meta());
    let pool = match &guarded.0 {
        Ok(pool) => pool,
        Err(invalid) => {
            let note = format!("the object cannot be read, and is left as it is: {invalid}");
            let notice = events::warning("Malformed", note);
            events::tell(&pools.context, &about, &notice).await;
            return Ok(Action::await_change());
        }
    };
    let (key, identity) = machines::identity(&pool.metadata);
    let mut work = Work {
        memo: pools.memo(&key, &identity.uid),
        pools: &pools,
        pool,
        identity,
        about,
    };
    let outcome = work.pool().await;
    let metrics = &pools.context.shared.metrics;
    metrics.reconciled(begun.elapsed(), outcome.is_ok());
    if outcome.is_ok() {
        work.memo.errors = 0;
    }
    pools.remember(&key, Some(work.memo));
    outcome
}

/// A pool that is being reconciled.
struct Work<'a> {
    pools: &'a Pools,
    pool: &'a VirtualMachinePool,
    identity: Identity,
    about: ObjectReference,
    memo: Memo,
}

impl Work<'_> {
    async fn pool(&mut self) -> Result<Action, ApiError> {
        if self.memo.status == self.pool.status {
            self.memo.status = None;
        }
        let status = self.memo.status.clone().or(self.pool.status.clone());
        let status = status.unwrap_or_default();
        let (members, others) = self.pools.members(&self.identity);
        let now = machines::now();
        let planned = |refusal: Option<&str>| {
            rollout::plan(&Subject {
                pool: self.pool,
                status: &status,
                members: &members,
                others: &others,
                refusal,
                now,
            })
        };
        let mut plan = planned(None);
        let deleted = self.pool.metadata.deletion_timestamp.is_some();
        if plan.status.update_revision != status.update_revision && !deleted {
            self.keep_revision(&plan, &members).await?;
        }
        for name in &plan.delete {
            self.delete(name).await?;
        }
        let refusal = self.create(&plan).await?;
        if refusal.is_some() {
            plan = planned(refusal.as_deref());
        }
        self.settle(&status, plan, refusal).await
    }

    /// Writes what is new, and says when to look again.
    async fn settle(
        &mut self,
        old: &VirtualMachinePoolStatus,
        plan: Plan,
        refusal: Option<String>,
    ) -> Result<Action, ApiError> {
        if plan.status != *old {
            let api = &self.pools.context.api;
            api.pool_status(&self.identity, &plan.status).await?;
            self.tell_of(old, &plan.status).await;
            self.memo.status = Some(plan.status);
        }
        let again = plan.again.map(|at| {
            let wait = at.duration_since(Timestamp::now());
            Duration::try_from(wait).unwrap_or(Duration::ZERO) + Duration::from_millis(50)
        });
        let retry = refusal.map(|_| {
            let wait = machines::doubled(REFUSED, self.memo.refusals);
            self.memo.refusals = self.memo.refusals.saturating_add(1);
            wait
        });
        if retry.is_none() {
            self.memo.refusals = 0;
        }
        let wait = again.into_iter().chain(retry).min();
        Ok(wait.map_or_else(Action::await_change, Action::requeue))
    }

    /// Tells of conditions that have become worse.
    async fn tell_of(&self, old: &VirtualMachinePoolStatus, new: &VirtualMachinePoolStatus) {
        for condition in &new.conditions {
            let bad = match condition.type_.as_str() {
                "Failure" => true,
                "Progressing" => condition.status == "False",
                _ => false,
            };
            let same = old.conditions.iter().any(|old| {
                old.type_ == condition.type_
                    && old.status == condition.status
                    && old.message == condition.message
            });
            if bad && !same {
                let notice = events::warning(&condition.reason, condition.message.clone());
                events::tell(&self.pools.context, &self.about, &notice).await;
            }
        }
    }

    async fn delete(&self, name: &str) -> Result<(), ApiError> {
        let machine = ObjectRef::new(name).within(&self.identity.namespace);
        let Some(machine) = self.pools.machines.get(&machine) else {
            return Ok(());
        };
        let (_, machine) = machines::identity(machine.meta());
        self.pools.context.api.delete_machine(&machine).await?;
        let notice = events::normal("SuccessfulDelete", format!("deleted machine {name}"));
        events::tell(&self.pools.context, &self.about, &notice).await;
        Ok(())
    }

    /// Creates machines, or says why there is one that it cannot.
    async fn create(&self, plan: &Plan) -> Result<Option<String>, ApiError> {
        let newest = plan.status.update_revision.clone().unwrap_or_default();
        let mut templates = BTreeMap::new();
        templates.insert(newest, self.pool.spec.virtual_machine_template.clone());
        for new in &plan.create {
            let template = match templates.get(&new.revision) {
                Some(template) => template,
                None => match self.template(&new.revision).await? {
                    Some(template) => templates.entry(new.revision.clone()).or_insert(template),
                    None => return Ok(Some(format!("template {} is lost", new.revision))),
                },
            };
            let machine = self.machine(new, template);
            let applied = self.pools.context.api.apply_machine(&machine).await;
            match applied {
                Ok(()) => {
                    let note = format!("created machine {}", new.name);
                    let notice = events::normal("SuccessfulCreate", note);
                    events::tell(&self.pools.context, &self.about, &notice).await;
                }
                Err(error) => {
                    let refused = error.refused().filter(|s| machines::is_final(s.code));
                    return match refused {
                        Some(status) => Ok(Some(status.message.clone())),
                        None => Err(error),
                    };
                }
            }
        }
        Ok(None)
    }

    fn machine(&self, new: &New, template: &MachineTemplate) -> VirtualMachine {
        let mut spec = template.spec.clone();
        // So that a Service, and an autoscaler, find the pods as well.
        let selected = self.pool.spec.selector.match_labels.iter().flatten();
        for (key, value) in selected {
            let labels = &mut spec.template.metadata.labels;
            labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
        let mut labels = template.metadata.labels.clone();
        labels.insert(POOL.into(), self.identity.name.clone());
        labels.insert(REVISION.into(), new.revision.clone());
        let mut machine = VirtualMachine::new(&new.name, spec);
        machine.metadata = ObjectMeta {
            name: Some(new.name.clone()),
            namespace: Some(self.identity.namespace.clone()),
            labels: Some(labels),
            annotations: Some(template.metadata.annotations.clone()),
            owner_references: self.pool.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        };
        machine
    }

    /// An earlier template.
    async fn template(&self, revision: &str) -> Result<Option<MachineTemplate>, ApiError> {
        let name = format!("{}-{revision}", self.identity.name);
        let namespace = &self.identity.namespace;
        let kept = self.pools.context.api.revision(namespace, &name).await?;
        let kept = kept.filter(|kept| is_of(kept, &self.identity));
        let data = kept.and_then(|kept| kept.data);
        Ok(data.and_then(|data| serde_json::from_value(data.0).ok()))
    }

    /// Keeps the newest template, and forgets those that are too old.
    async fn keep_revision(&self, plan: &Plan, members: &[Member]) -> Result<(), ApiError> {
        let api = &self.pools.context.api;
        let newest = plan.status.update_revision.clone().unwrap_or_default();
        let namespace = &self.identity.namespace;
        let label = format!("{POOL}={}", self.identity.name);
        let mut kept = api.revisions(namespace, &label).await?;
        kept.retain(|revision| is_of(revision, &self.identity));
        kept.sort_by_key(|kept| kept.revision);
        let name = format!("{}-{newest}", self.identity.name);
        let last = kept.last();
        if last.is_none_or(|last| last.name_any() != name) {
            let template = serde_json::to_value(&self.pool.spec.virtual_machine_template);
            let number = last.map_or(1, |last| last.revision.saturating_add(1));
            let revision = ControllerRevision {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some(namespace.clone()),
                    labels: Some([(POOL.to_owned(), self.identity.name.clone())].into()),
                    owner_references: self.pool.controller_owner_ref(&()).map(|owner| vec![owner]),
                    ..ObjectMeta::default()
                },
                data: template.ok().map(RawExtension),
                revision: number,
            };
            api.apply_revision(&revision).await?;
        }
        let used: BTreeSet<_> = members.iter().map(|m| m.revision.as_str()).collect();
        let in_use = |kept: &ControllerRevision| {
            let kept = kept.name_any();
            let revision = kept.rsplit_once('-').map_or("", |(_, revision)| revision);
            kept == name || used.contains(revision)
        };
        let old: Vec<_> = kept.iter().filter(|kept| !in_use(kept)).collect();
        let limit = usize::try_from(self.pool.spec.revision_history_limit).unwrap_or(0);
        for kept in old.iter().take(old.len().saturating_sub(limit)) {
            api.delete_revision(namespace, &kept.name_any()).await?;
        }
        Ok(())
    }
}

/// Whether a kept template is this pool's, and not one's that had its name.
fn is_of(kept: &ControllerRevision, pool: &Identity) -> bool {
    let mut owners = kept.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.uid == pool.uid)
}
