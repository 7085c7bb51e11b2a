//! Objects that are watched, and which of them to look at.
//!
//! An object is looked at when the store has what the watch said of it. While
//! a list is under way, the store does not; hence all objects are looked at
//! when it is complete.

use std::fmt::Debug;
use std::hash::Hash;

use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::NamespaceResourceScope;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

/// What `kubectl apply` without `--server-side` stores in an object, as large
/// as the object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What a watch said.
#[derive(Debug, Clone)]
pub(crate) enum News<K> {
    /// An object came, changed or went.
    One(K),
    /// All objects are known, or known again.
    All,
}

/// The interface to a kind of object in a namespace, or in all.
pub(crate) fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Watches objects and stores them; says what is new once it is stored.
pub(crate) fn news<K>(api: Api<K>, writer: Writer<K>) -> impl Stream<Item = News<K>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let events = watcher(api, watcher::Config::default()).default_backoff();
    let events = events.modify(|object| trim(object.meta_mut()));
    events.reflect(writer).filter_map(|event| {
        let news = match event {
            Ok(Event::Apply(object) | Event::Delete(object)) => Some(News::One(object)),
            Ok(Event::InitDone) => Some(News::All),
            Ok(Event::Init | Event::InitApply(_)) => None,
            Err(error) => {
                tracing::warn!(%error, "cannot watch {}", K::plural(&()));
                None
            }
        };
        futures::future::ready(news)
    })
}

/// The objects that news are about.
pub(crate) fn concerned<K>(
    news: impl Stream<Item = News<K>>,
    store: Store<K>,
) -> impl Stream<Item = ObjectRef<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    news.flat_map(move |news| {
        stream::iter(match news {
            News::One(object) => vec![ObjectRef::from_obj(&object)],
            News::All => all(&store),
        })
    })
}

/// All objects of a store.
pub(crate) fn all<K>(store: &Store<K>) -> Vec<ObjectRef<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let all = store.state();
    all.iter()
        .map(|object| ObjectRef::from_obj(&**object))
        .collect()
}

/// Forgets what is large and of no use here.
fn trim(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
    }
}
