//! The loop that makes a cluster's machines what their specs say.
//!
//! Watches flow in; [`crate::lifecycle`] decides; writes to the API server
//! flow out, each through [`api`], where it is counted and has a time limit.
//! Objects are applied server-side, and all that is known is known from the
//! watches: a controller that starts anew finds its machines as they are.

pub mod api;
pub mod config;
mod events;
mod http;
mod index;
pub mod leader;
mod machines;
pub mod metrics;
mod pools;
mod sizes;
mod watched;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures::StreamExt as _;
use futures::channel::mpsc;
use futures::future::join_all;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, Store};
use kube::{Client, Resource as _};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::api::status::VirtualMachineStatus;
use crate::api::{VirtualMachine, VirtualMachinePool};
use config::Config;
use index::PodIndex;
use leader::Candidate;
use machines::Guarded;
use metrics::{Metrics, PoolRow, Row};
use pools::GuardedPool;
use watched::News;

/// The name under which fields of objects are owned and events are told.
pub const NAME: &str = "bootwright-controller";

/// A controller that cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// Health and metrics cannot be served.
    #[error("cannot listen at {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}

/// What is the same for all namespaces.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) metrics: Arc<Metrics>,
    stores: Mutex<Vec<Store<Guarded>>>,
    pools: Mutex<Vec<Store<GuardedPool>>>,
    /// How many of them are not complete.
    waiting: AtomicUsize,
}

/// What the reconciliation of a namespace's machines, or of all, shares.
pub(crate) struct Context {
    pub(crate) api: api::Api,
    pub(crate) config: Arc<Config>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) pods: PodIndex,
    pub(crate) recorder: Recorder,
    memos: Mutex<HashMap<Key, Memo>>,
}

/// A namespace and a name.
pub(crate) type Key = (String, String);

/// What was done to a machine and does not show in the watch yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Memo {
    /// Of which machine of this name.
    pub(crate) uid: String,
    /// The status that was written last.
    pub(crate) status: Option<VirtualMachineStatus>,
    /// Whether the finalizer was added.
    pub(crate) finalized: bool,
    /// How many times in a row its pod was refused.
    pub(crate) refusals: u32,
    /// How many times in a row a write failed.
    pub(crate) errors: u32,
    /// The UIDs of pods that went without having ended, and when that was
    /// noticed.
    pub(crate) missing: BTreeMap<String, Instant>,
    /// The version of it that was told to be malformed.
    pub(crate) malformed: Option<String>,
}

impl Context {
    /// What is remembered of a machine.
    pub(crate) fn memo(&self, key: &Key, uid: &str) -> Memo {
        let memos = self.memos.lock().unwrap_or_else(PoisonError::into_inner);
        let memo = memos.get(key).filter(|memo| memo.uid == uid);
        memo.cloned().unwrap_or_else(|| Memo {
            uid: uid.to_owned(),
            ..Memo::default()
        })
    }

    /// Remembers something of a machine; nothing takes no space.
    pub(crate) fn remember(&self, key: &Key, memo: Memo) {
        let mut memos = self.memos.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing = Memo {
            uid: memo.uid.clone(),
            ..Memo::default()
        };
        if memo == nothing {
            memos.remove(key);
        } else {
            memos.insert(key.clone(), memo);
        }
    }

    /// Forgets a machine.
    pub(crate) fn forget(&self, key: &Key) {
        let mut memos = self.memos.lock().unwrap_or_else(PoisonError::into_inner);
        memos.remove(key);
    }
}

impl Shared {
    /// The machines of a namespace, or all.
    pub(crate) fn knows(&self, store: Store<Guarded>) {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.push(store);
    }

    /// The pools of a namespace, or all.
    pub(crate) fn knows_pools(&self, store: Store<GuardedPool>) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.push(store);
    }

    /// One more of the stores is complete.
    pub(crate) fn synced(&self) {
        if self.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            tracing::info!("all machines are known");
            self.metrics.leads(true, true);
        }
    }

    /// Begins to lead, with so many stores to come.
    fn begin(&self, stores: usize) {
        self.waiting.store(stores, Ordering::Relaxed);
        self.metrics.leads(true, false);
    }

    /// Leads no longer.
    fn end(&self) {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.clear();
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.clear();
        self.metrics.leads(false, false);
    }
}

impl http::Source for Shared {
    fn is_ready(&self) -> bool {
        self.metrics.is_ready()
    }

    fn metrics(&self) -> String {
        let stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let all = stores.iter().flat_map(Store::state);
        let mut rows: Vec<_> = all
            .filter_map(|guarded| row(guarded.0.as_ref().ok()?))
            .collect();
        rows.sort();
        drop(stores);
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let all = pools.iter().flat_map(Store::state);
        let mut of_pools: Vec<_> = all
            .filter_map(|guarded| pool_row(guarded.0.as_ref().ok()?))
            .collect();
        of_pools.sort();
        drop(pools);
        self.metrics.text(&rows, &of_pools)
    }
}

fn row(vm: &VirtualMachine) -> Option<Row> {
    let status = vm.status.as_ref();
    let text = |text: Option<&String>| text.cloned().unwrap_or_default();
    Some(Row {
        namespace: vm.metadata.namespace.clone()?,
        name: vm.metadata.name.clone()?,
        status: text(status.and_then(|status| status.printable_status.as_ref())),
        node: text(status.and_then(|status| status.node_name.as_ref())),
    })
}

fn pool_row(pool: &VirtualMachinePool) -> Option<PoolRow> {
    let status = pool.status.clone().unwrap_or_default();
    let mut conditions = status.conditions.into_iter();
    let progress = conditions.find(|condition| condition.type_ == "Progressing");
    Some(PoolRow {
        namespace: pool.metadata.namespace.clone()?,
        name: pool.metadata.name.clone()?,
        progress: progress
            .map(|condition| condition.reason)
            .unwrap_or_default(),
        replicas: [
            ("desired", pool.spec.replicas),
            ("current", status.replicas),
            ("updated", status.updated_replicas),
            ("ready", status.ready_replicas),
            ("available", status.available_replicas),
        ],
    })
}

/// Reconciles the machines of all configured namespaces until `stop`, while
/// this controller holds the lease if one is configured. A reconciliation that
/// has begun when `stop` comes is finished.
///
/// # Errors
/// If health and metrics cannot be served where they should be.
pub async fn run<S>(client: Client, config: Arc<Config>, stop: S) -> Result<(), ManagerError>
where
    S: Future<Output = ()> + Clone + Send + Sync + 'static,
{
    let shared = Arc::new(Shared::default());
    if let Some(address) = config.listen {
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| ManagerError::Listen { address, source })?;
        tokio::spawn(http::serve(listener, Arc::clone(&shared) as _));
    }
    let Some(lease) = config.lease.clone() else {
        lead(&client, &config, &shared, stop).await;
        return Ok(());
    };
    let mut candidate = Candidate::new(client.clone(), lease, config.identity.clone());
    loop {
        tokio::select! {
            () = candidate.acquire() => {}
            () = stop.clone() => return Ok(()),
        }
        tracing::info!(identity = config.identity, "leading");
        let stopped = tokio::select! {
            () = lead(&client, &config, &shared, stop.clone()) => true,
            () = candidate.keep() => false,
        };
        shared.end();
        if stopped {
            candidate.release().await;
            return Ok(());
        }
        tracing::warn!(identity = config.identity, "not leading any more");
    }
}

/// Reconciles until `stop`, or until it is dropped.
async fn lead<S>(client: &Client, config: &Arc<Config>, shared: &Arc<Shared>, stop: S)
where
    S: Future<Output = ()> + Clone + Send + Sync + 'static,
{
    let reporter = Reporter {
        controller: NAME.into(),
        instance: Some(config.identity.clone()),
    };
    let recorder = Recorder::new(client.clone(), reporter);
    let scopes: Vec<Option<String>> = match config.namespaces.as_slice() {
        [] => vec![None],
        some => some.iter().cloned().map(Some).collect(),
    };
    shared.begin(scopes.len());
    let scopes = scopes.into_iter().map(|namespace| {
        let context = Arc::new(Context {
            api: api::Api::new(client.clone(), Arc::clone(&shared.metrics)),
            config: Arc::clone(config),
            shared: Arc::clone(shared),
            pods: PodIndex::default(),
            recorder: recorder.clone(),
            memos: Mutex::default(),
        });
        scope(context, namespace, stop.clone())
    });
    join_all(scopes).await;
}

/// The same for a namespace, or for all.
async fn scope<S>(context: Arc<Context>, namespace: Option<String>, stop: S)
where
    S: Future<Output = ()> + Clone + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    context.shared.knows(store.clone());
    let machines = watched::scoped(&context.api.client(), namespace.as_deref());
    let (tell, changed) = mpsc::unbounded();
    // Store::wait_until_ready wakes only one of those who wait: kube's own
    // Controller does already.
    let (known, mut all_known) = watch::channel(false);
    let news = watched::news::<Guarded>(machines, writer);
    let news = news.inspect(move |news| {
        let pool = match news {
            News::One(machine) => match pools::pool_of(machine.meta()) {
                Some(pool) => Some(pool),
                None => return,
            },
            News::All => {
                known.send_replace(true);
                None
            }
        };
        // Nobody listens when everything ends.
        let _ = tell.unbounded_send(pool);
    });
    let machines_known = all_known.clone();
    let synced = async {
        if all_known.wait_for(|known| *known).await.is_ok() {
            context.pods.complete().await;
            context.shared.synced();
        }
    };
    let of_pools = pools::run(
        Arc::clone(&context),
        namespace.clone(),
        pools::Machines {
            store: store.clone(),
            known: machines_known,
        },
        changed,
        stop.clone(),
    );
    let of_machines = machines::run(Arc::clone(&context), namespace, news, store.clone(), stop);
    futures::join!(synced, of_machines, of_pools);
}
