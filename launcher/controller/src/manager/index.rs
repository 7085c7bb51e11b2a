//! The pods of machines, by namespace and name.
//!
//! In: the events of a watch of pods, and what our own writes returned. Out:
//! what is known of a pod now, and which machines are concerned. A list that
//! is under way shows once it is complete, so that nobody takes a pod that
//! was not listed yet for gone.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Event;
use tokio::sync::watch;

use super::Key;
use crate::lifecycle::observed::PodState;

/// How many ends are remembered at most.
const REMEMBERED: usize = 4096;

/// The pods of machines.
#[derive(Debug)]
pub(crate) struct PodIndex {
    pods: Mutex<Pods>,
    complete: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Pods {
    known: HashMap<Key, Arc<PodState>>,
    /// UIDs of pods that are gone and of which nothing can still run.
    ended: HashSet<String>,
    /// Those of the list that is under way.
    listed: Option<HashMap<Key, Arc<PodState>>>,
}

impl Default for PodIndex {
    fn default() -> Self {
        Self {
            pods: Mutex::default(),
            complete: watch::Sender::new(false),
        }
    }
}

impl PodIndex {
    fn lock(&self) -> MutexGuard<'_, Pods> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all pods are known.
    pub(crate) async fn complete(&self) {
        let mut complete = self.complete.subscribe();
        // The sender lives as long as we do.
        let _ = complete.wait_for(|complete| *complete).await;
    }

    /// What is known of a pod.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<PodState>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.lock().known.get(&key).cloned()
    }

    /// Takes an event; the machines that are concerned.
    pub(crate) fn take(&self, event: &Event<Pod>) -> Vec<Key> {
        let mut pods = self.lock();
        match event {
            Event::Init => {
                pods.listed = Some(HashMap::new());
                Vec::new()
            }
            Event::InitApply(pod) => {
                let pod = PodState::from(pod);
                let listed = pods.listed.get_or_insert_default();
                put(listed, pod);
                Vec::new()
            }
            Event::InitDone => {
                let new = pods.listed.take().unwrap_or_default();
                let old = mem::replace(&mut pods.known, new);
                self.complete.send_replace(true);
                for (key, old) in &old {
                    if pods.known.get(key).is_none_or(|pod| pod.uid != old.uid) {
                        pods.note_end(old);
                    }
                }
                let gone = old.iter().filter(|(key, _)| !pods.known.contains_key(*key));
                let changed = pods.known.iter().filter(|(key, pod)| {
                    old.get(*key).is_none_or(|old| old.version != pod.version)
                });
                gone.chain(changed)
                    .filter_map(|(_, pod)| machine(pod))
                    .collect()
            }
            Event::Apply(pod) => {
                let pod = PodState::from(pod);
                let machine = machine(&pod);
                put(&mut pods.known, pod);
                machine.into_iter().collect()
            }
            Event::Delete(pod) => {
                let pod = PodState::from(pod);
                let machine = machine(&pod);
                pods.remove(&pod);
                machine.into_iter().collect()
            }
        }
    }

    /// Takes what a write of our own returned.
    pub(crate) fn wrote(&self, pod: &Pod) {
        let mut pods = self.lock();
        if let Some(listed) = &mut pods.listed {
            put(listed, PodState::from(pod));
        }
        put(&mut pods.known, PodState::from(pod));
    }

    /// Takes note that a pod is gone.
    pub(crate) fn gone(&self, pod: &PodState) {
        self.lock().remove(pod);
    }

    /// Whether a pod that is gone had ended before, as far as is remembered.
    pub(crate) fn ended(&self, uid: &str) -> bool {
        self.lock().ended.contains(uid)
    }

    /// How many there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().known.len()
    }
}

impl Pods {
    fn remove(&mut self, gone: &PodState) {
        let key = key(gone);
        self.note_end(gone);
        for pods in [Some(&mut self.known), self.listed.as_mut()] {
            // The next pod of the name may be here already.
            let Some(pods) = pods else { continue };
            if pods.get(&key).is_some_and(|pod| pod.uid == gone.uid) {
                pods.remove(&key);
            }
        }
    }

    /// Remembers a pod that is gone, if nothing of it can still run.
    fn note_end(&mut self, gone: &PodState) {
        if gone.is_over() || gone.node.is_none() {
            // To forget them is safe: then a node is asked that need not be.
            if self.ended.len() >= REMEMBERED {
                self.ended.clear();
            }
            self.ended.insert(gone.uid.clone());
        }
    }
}

/// Puts a pod in unless what is there is newer: an answer to a write and the
/// watch overtake each other.
fn put(pods: &mut HashMap<Key, Arc<PodState>>, pod: PodState) {
    let key = key(&pod);
    let newer = pods.get(&key).is_some_and(|old| old.version > pod.version);
    if !newer {
        pods.insert(key, Arc::new(pod));
    }
}

fn key(pod: &PodState) -> Key {
    (pod.namespace.clone(), pod.name.clone())
}

fn machine(pod: &PodState) -> Option<Key> {
    let (name, _) = pod.owner.as_ref()?;
    Some((pod.namespace.clone(), name.clone()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(machine: &str, uid: &str, version: u32) -> Pod {
        serde_json::from_value(json!({ "metadata": {
            "name": format!("{machine}-vm"), "namespace": "a", "uid": uid,
            "resourceVersion": version.to_string(),
            "ownerReferences": [{ "apiVersion": "bootwright.dev/v1alpha1",
                "kind": "VirtualMachine", "name": machine, "uid": "m", "controller": true }],
        } }))
        .unwrap()
    }

    fn listed(index: &PodIndex, pods: &[Pod]) -> Vec<Key> {
        index.take(&Event::Init);
        for pod in pods {
            assert_eq!(index.take(&Event::InitApply(pod.clone())), []);
        }
        let mut keys = index.take(&Event::InitDone);
        keys.sort();
        keys
    }

    fn keys(names: &[&str]) -> Vec<Key> {
        let key = |name: &&str| ("a".to_owned(), (*name).to_owned());
        names.iter().map(key).collect()
    }

    fn uid(index: &PodIndex, machine: &str) -> Option<String> {
        let pod = index.get("a", &format!("{machine}-vm"))?;
        Some(pod.uid.clone())
    }

    #[test]
    fn a_list_concerns_what_came_changed_and_went() {
        let index = PodIndex::default();
        let first = [pod("x", "1", 1), pod("y", "2", 2), pod("z", "3", 3)];
        assert_eq!(listed(&index, &first), keys(&["x", "y", "z"]));
        let second = [pod("w", "4", 9), pod("x", "1", 1), pod("y", "2", 8)];
        assert_eq!(listed(&index, &second), keys(&["w", "y", "z"]));
        assert_eq!(index.len(), 3);
    }

    #[test]
    fn a_list_under_way_hides_nothing() {
        let index = PodIndex::default();
        listed(&index, &[pod("x", "1", 1)]);
        index.take(&Event::Init);
        assert_eq!(uid(&index, "x").as_deref(), Some("1"));
        // What is written meanwhile is there afterwards.
        index.wrote(&pod("y", "2", 5));
        index.take(&Event::InitApply(pod("x", "1", 1)));
        index.take(&Event::InitDone);
        assert_eq!(uid(&index, "y").as_deref(), Some("2"));
    }

    #[test]
    fn older_news_do_not_replace_newer() {
        let index = PodIndex::default();
        index.take(&Event::Apply(pod("x", "1", 7)));
        index.wrote(&pod("x", "1", 5));
        assert_eq!(index.get("a", "x-vm").unwrap().version, 7);
        // The end of the pod before is not the end of this one.
        index.wrote(&pod("x", "2", 9));
        assert_eq!(index.take(&Event::Delete(pod("x", "1", 8))), keys(&["x"]));
        assert_eq!(uid(&index, "x").as_deref(), Some("2"));
        index.gone(&PodState::from(&pod("x", "2", 9)));
        assert_eq!(uid(&index, "x"), None);
    }

    #[test]
    fn pods_of_nobody_concern_nobody() {
        let index = PodIndex::default();
        let mut stray = pod("x", "1", 1);
        stray.metadata.owner_references = None;
        assert_eq!(index.take(&Event::Apply(stray)), []);
        assert_eq!(index.len(), 1);
    }
}
