//! What the scheduler's informers do with what they read.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kontiki_proto::api::{Event, EventType};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::Scheduler;
use super::snapshot::{Effect, PodInfo, Snapshot, Uid};
use crate::objects::{is_deleting, is_finished, node_name};
use crate::runtime::informer::Sink;

fn decode<K: DeserializeOwned>(document: &Bytes) -> Option<K> {
    serde_json::from_slice(document)
        .inspect_err(|error| tracing::warn!(%error, "an object cannot be decoded"))
        .ok()
}

pub(super) struct Nodes {
    pub scheduler: Arc<Scheduler>,
    pub synced: watch::Sender<bool>,
}

impl Nodes {
    fn change(&self, change: impl FnOnce(&mut Snapshot) -> Effect) {
        let effect = change(&mut self.scheduler.snapshot.lock());
        if effect == Effect::Room {
            self.scheduler.queue.room();
        }
    }
}

impl Sink for Nodes {
    fn replace(&mut self, documents: Vec<Bytes>, _revision: u64) {
        let nodes: Vec<Node> = documents.iter().filter_map(decode).collect();
        self.change(|snapshot| {
            let listed: HashSet<_> = nodes.iter().filter_map(|node| node.metadata.name.as_deref()).collect();
            for name in snapshot.node_names() {
                if !listed.contains(name.as_str()) {
                    snapshot.remove_node(&name);
                }
            }
            for node in &nodes {
                snapshot.put_node(node);
            }
            Effect::Room
        });
        self.synced.send_replace(true);
    }

    fn apply(&mut self, events: Vec<Event>) {
        for event in events {
            if event.event_type == EventType::Bookmark {
                continue;
            }
            let Some(node) = decode::<Node>(&event.object) else { continue };
            self.change(|snapshot| match event.event_type {
                EventType::Deleted => {
                    snapshot.remove_node(node.metadata.name.as_deref().unwrap_or_default());
                    Effect::Nothing
                }
                _ => snapshot.put_node(&node),
            });
        }
    }
}

pub(super) struct Namespaces {
    pub scheduler: Arc<Scheduler>,
    pub synced: watch::Sender<bool>,
}

impl Sink for Namespaces {
    fn replace(&mut self, documents: Vec<Bytes>, _revision: u64) {
        let mut snapshot = self.scheduler.snapshot.lock();
        snapshot.namespaces.clear();
        for namespace in documents.iter().filter_map(decode::<Namespace>) {
            let name = namespace.metadata.name.unwrap_or_default().into();
            snapshot.namespaces.insert(name, namespace.metadata.labels.unwrap_or_default());
        }
        drop(snapshot);
        self.synced.send_replace(true);
    }

    fn apply(&mut self, events: Vec<Event>) {
        let mut snapshot = self.scheduler.snapshot.lock();
        for event in events.iter().filter(|event| event.event_type != EventType::Bookmark) {
            let Some(namespace) = decode::<Namespace>(&event.object) else { continue };
            let name = namespace.metadata.name.unwrap_or_default().into();
            if event.event_type == EventType::Deleted {
                snapshot.namespaces.remove(&name);
            } else {
                snapshot.namespaces.insert(name, namespace.metadata.labels.unwrap_or_default());
            }
        }
    }
}

pub(super) struct Pods {
    pub scheduler: Arc<Scheduler>,
    pub synced: watch::Sender<bool>,
}

/// Whether the pod is ours to place.
fn wants_node(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let name = spec.scheduler_name.as_deref().unwrap_or_default();
    node_name(pod).is_empty()
        && !is_deleting(pod)
        && !is_finished(pod)
        && ["", "default-scheduler"].contains(&name)
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
}

impl Pods {
    fn put(&mut self, pod: &Pod) {
        let uid: Uid = pod.metadata.uid.as_deref().unwrap_or_default().into();
        let scheduler = &self.scheduler;
        let effect = scheduler.snapshot.lock().put_pod(pod);
        if effect == Effect::Room {
            scheduler.queue.room();
        }
        if !wants_node(pod) {
            scheduler.queue.remove(&uid);
        } else if scheduler.queue.contains(&uid) || !scheduler.snapshot.lock().is_placed(&uid) {
            scheduler.queue.put(PodInfo::of(pod));
        }
    }

    fn remove(&mut self, uid: &Uid) {
        self.scheduler.queue.remove(uid);
        if self.scheduler.snapshot.lock().remove_pod(uid) == Effect::Room {
            self.scheduler.queue.room();
        }
    }
}

impl Sink for Pods {
    fn replace(&mut self, documents: Vec<Bytes>, _revision: u64) {
        let pods: Vec<Pod> = documents.iter().filter_map(decode).collect();
        let listed: HashSet<Uid> =
            pods.iter().filter_map(|pod| pod.metadata.uid.as_deref()).map(Uid::from).collect();
        let mut known = self.scheduler.snapshot.lock().placed();
        known.extend(self.scheduler.queue.uids());
        for uid in known.iter().filter(|uid| !listed.contains(*uid)) {
            self.remove(uid);
        }
        pods.iter().for_each(|pod| self.put(pod));
        self.synced.send_replace(true);
    }

    fn apply(&mut self, events: Vec<Event>) {
        for event in events {
            match event.event_type {
                EventType::Bookmark => {}
                EventType::Deleted => {
                    if let Some(uid) = decode::<Pod>(&event.object).and_then(|pod| pod.metadata.uid) {
                        self.remove(&uid.as_str().into());
                    }
                }
                EventType::Added | EventType::Modified => {
                    if let Some(pod) = decode::<Pod>(&event.object) {
                        self.put(&pod);
                    }
                }
            }
        }
    }
}
