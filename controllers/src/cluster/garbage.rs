//! Garbage collection by owner references: an object goes when all its owners are gone.
//!
//! ```text
//!   background:  owner deleted ──▶ its dependents are deleted
//!   foreground:  owner marked, finalizer foregroundDeletion ──▶ dependents that block are deleted ──▶ finalizer removed
//!   orphan:      owner marked, finalizer orphan ──▶ references to it are removed ──▶ finalizer removed
//! ```
//! The [`Graph`] may lag behind the cluster; an owner it does not know is asked for before anything is deleted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kontiki_proto::api::{
    DeleteOptions, DynApi, Event, EventType, GetOptions, PatchType, Preconditions, Shape,
};
use kontiki_proto::resource::{Registry, Resource, Scope, Verbs};
use kontiki_proto::{Status, Target};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::garbage_graph::{Graph, Item, Meta, Uid};
use crate::runtime::informer::{Collection, Sink, follow};
use crate::runtime::{Action, Executor, Key, Operation, Queue};

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";
const WORKERS: usize = 16;
/// Uids known to be gone; beyond it the memory starts afresh.
const MEMORY: usize = 10_000;
/// When to ask again for an owner that the API knows and the graph does not.
const RECHECK: Duration = Duration::from_secs(30);
/// How long to wait for every kind to be listed before work begins with what is there.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is known of an owner the graph does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Absent,
    Present,
}

#[derive(Debug, Default, PartialEq)]
pub struct Decision {
    pub actions: Vec<Action>,
    /// Objects that have to be looked at because of this one.
    pub visit: Vec<Uid>,
    /// Owners to ask the API for before deciding.
    pub verify: Vec<OwnerReference>,
}

/// Decides about one object. `known` says what the API answered about owners that are not in the graph.
pub fn decide(graph: &Graph, uid: &str, known: &HashMap<Uid, Owner>) -> Decision {
    let mut decision = Decision::default();
    let Some(item) = graph.get(uid) else { return decision };
    if item.is_deleting() {
        if item.has_finalizer(ORPHAN) {
            orphan(graph, item, &mut decision);
        } else if item.has_finalizer(FOREGROUND) {
            let blocking: Vec<_> = graph.children(uid).filter(|child| child.blocks(uid)).collect();
            if blocking.is_empty() {
                decision.actions.push(without_finalizer(item, FOREGROUND));
            } else {
                let waiting = blocking.iter().filter(|child| !child.is_deleting());
                decision.visit = waiting.map(|child| child.meta.uid.clone()).collect();
            }
        }
        return decision;
    }
    if item.meta.owner_references.is_empty() {
        return decision;
    }

    let (mut solid, mut dangling, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
    for owner in &item.meta.owner_references {
        match graph.get(&owner.uid).filter(|found| names(found, item, owner)) {
            Some(found) if found.waits_for_dependents() && owner.block_owner_deletion == Some(true) => {
                waiting.push(owner);
            }
            Some(_) => solid.push(owner),
            None => match known.get(owner.uid.as_str()) {
                Some(Owner::Absent) => dangling.push(owner),
                Some(Owner::Present) => solid.push(owner),
                None => decision.verify.push(owner.clone()),
            },
        }
    }
    if !decision.verify.is_empty() {
        return decision;
    }
    if !solid.is_empty() {
        if !dangling.is_empty() || !waiting.is_empty() {
            decision.actions.push(with_owners(item, solid));
        }
    } else if !waiting.is_empty() && graph.children(uid).next().is_some() {
        for child in graph.children(uid).filter(|child| child.waits_for_dependents()) {
            // Two that wait for each other would wait for ever.
            let blocked = item.meta.owner_references.iter().any(|owner| owner.uid == child.meta.uid);
            if blocked {
                decision.actions.push(with_owners(item, Vec::new()));
                return decision;
            }
        }
        decision.actions.push(delete(item, "Foreground"));
    } else {
        let policy = if item.has_finalizer(ORPHAN) {
            "Orphan"
        } else if item.has_finalizer(FOREGROUND) {
            "Foreground"
        } else {
            "Background"
        };
        decision.actions.push(delete(item, policy));
    }
    decision
}

/// Whether the object found under an owner's uid is what the reference names.
fn names(found: &Item, item: &Item, owner: &OwnerReference) -> bool {
    let near = found.meta.namespace.is_empty() || found.meta.namespace == item.meta.namespace;
    near && found.row.kind == owner.kind.as_str() && found.meta.name == owner.name.as_str()
}

fn orphan(graph: &Graph, item: &Item, decision: &mut Decision) {
    for child in graph.children(&item.meta.uid) {
        let others = child.meta.owner_references.iter().filter(|owner| owner.uid != item.meta.uid.as_str());
        decision.actions.push(with_owners(child, others.collect()));
    }
    decision.actions.push(without_finalizer(item, ORPHAN));
}

fn patch(item: &Item, metadata: serde_json::Value) -> Action {
    let mut body = json!({"metadata": metadata});
    body["metadata"]["uid"] = item.meta.uid.as_str().into();
    body["metadata"]["resourceVersion"] = item.meta.resource_version.as_str().into();
    Action::raw(item.target(), Operation::Patch { patch_type: PatchType::Merge, body })
}

fn with_owners(item: &Item, owners: Vec<&OwnerReference>) -> Action {
    patch(item, json!({"ownerReferences": owners}))
}

fn without_finalizer(item: &Item, finalizer: &str) -> Action {
    let rest: Vec<_> = item.meta.finalizers.iter().filter(|name| *name != finalizer).collect();
    patch(item, json!({"finalizers": rest}))
}

fn delete(item: &Item, policy: &str) -> Action {
    let preconditions = Preconditions {
        uid: Some(item.meta.uid.to_string()),
        resource_version: Some(item.meta.resource_version.to_string()),
    };
    let options = DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() };
    Action::raw(item.target(), Operation::Delete { options: options.propagate(policy) })
}

/// The collector with its graph and queue.
struct Collector {
    api: DynApi,
    executor: Executor,
    graph: Mutex<Graph>,
    queue: Queue<Uid>,
    /// Owners that were found absent; a uid never comes back.
    absent: Mutex<HashMap<Uid, Owner>>,
}

/// Collects garbage until dropped.
pub async fn run(api: DynApi, executor: Executor) {
    let collector = Arc::new(Collector {
        api: api.clone(),
        executor,
        graph: Mutex::default(),
        queue: Queue::default(),
        absent: Mutex::default(),
    });
    let mut tasks = JoinSet::new();
    let mut synced = Vec::new();
    for row in followed_rows() {
        let (sender, receiver) = watch::channel(false);
        synced.push(receiver);
        tasks.spawn(follow_row(collector.clone(), row, sender));
    }
    let definitions =
        Definitions { collector: collector.clone(), followed: HashMap::new(), tasks: JoinSet::new() };
    let target = Target::kind::<CustomResourceDefinition>();
    let collection = Collection { target, field_selector: String::new(), shape: Shape::Object };
    tasks.spawn(follow(api, collection, definitions));
    let all = async {
        for receiver in &mut synced {
            if receiver.wait_for(|synced| *synced).await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(PATIENCE, all).await.is_err() {
        tracing::warn!("not every kind could be listed, garbage of the others is collected");
    }
    tracing::debug!(objects = collector.graph.lock().len(), "collects garbage");
    for _ in 0..WORKERS {
        let collector = collector.clone();
        tasks.spawn(async move { collector.work().await });
    }
    while tasks.join_next().await.is_some() {}
}

/// One version of every stored kind; events own nothing and are owned by nothing.
fn followed_rows() -> Vec<Arc<Resource>> {
    let mut seen = HashSet::new();
    Registry::builtin()
        .rows()
        .iter()
        .filter(|row| row.stored() && row.verbs.contains(Verbs::DELETE) && row.plural != "events")
        .filter(|row| seen.insert(row.qualified()))
        .cloned()
        .collect()
}

fn follow_row(
    collector: Arc<Collector>,
    row: Arc<Resource>,
    synced: watch::Sender<bool>,
) -> impl Future<Output = ()> + Send {
    collector.graph.lock().learn(&row);
    let target = Target::of(&row);
    let collection = Collection { target, field_selector: String::new(), shape: Shape::Metadata };
    follow(collector.api.clone(), collection, RowSink { collector, row, synced })
}

struct RowSink {
    collector: Arc<Collector>,
    row: Arc<Resource>,
    synced: watch::Sender<bool>,
}

#[derive(Deserialize)]
struct Document {
    metadata: Meta,
}

impl RowSink {
    fn meta(document: &[u8]) -> Option<Meta> {
        serde_json::from_slice::<Document>(document).ok().map(|document| document.metadata)
    }

    fn visit(&self, uids: Vec<Uid>) {
        uids.into_iter().for_each(|uid| self.collector.queue.add(uid));
    }
}

impl Sink for RowSink {
    fn replace(&mut self, documents: Vec<Bytes>, _revision: u64) {
        let mut graph = self.collector.graph.lock();
        let mut listed = HashSet::new();
        let mut concerned = Vec::new();
        for meta in documents.iter().filter_map(|document| Self::meta(document)) {
            listed.insert(Key { namespace: meta.namespace.clone(), name: meta.name.clone() });
            concerned.extend(graph.put(&self.row, meta));
        }
        concerned.extend(graph.replace_all(&self.row, &listed));
        drop(graph);
        self.visit(concerned);
        self.synced.send_replace(true);
    }

    fn apply(&mut self, events: Vec<Event>) {
        let mut graph = self.collector.graph.lock();
        let mut concerned = Vec::new();
        for event in &events {
            let Some(meta) = Self::meta(&event.object) else { continue };
            match event.event_type {
                EventType::Added | EventType::Modified => concerned.extend(graph.put(&self.row, meta)),
                EventType::Deleted => {
                    let key = Key { namespace: meta.namespace, name: meta.name };
                    concerned.extend(graph.remove(&self.row, &key));
                }
                EventType::Bookmark => {}
            }
        }
        drop(graph);
        self.visit(concerned);
    }
}

/// Follows the kinds that definitions bring.
struct Definitions {
    collector: Arc<Collector>,
    followed: HashMap<String, (Arc<Resource>, AbortHandle)>,
    tasks: JoinSet<()>,
}

impl Definitions {
    fn put(&mut self, definition: &CustomResourceDefinition) {
        let name = definition.metadata.name.clone().unwrap_or_default();
        let spec = &definition.spec;
        let served = spec.versions.iter().find(|version| version.served && version.storage);
        let version = served.or(spec.versions.iter().find(|version| version.served));
        let Some(version) = version.filter(|_| !self.followed.contains_key(&name)) else { return };
        let scope = if spec.scope == "Cluster" { Scope::Cluster } else { Scope::Namespaced };
        let row = Resource::new(
            &spec.group,
            &version.name,
            &spec.names.kind,
            &spec.names.plural,
            scope,
            Verbs::ALL,
        );
        let row = Arc::new(row);
        let (synced, _) = watch::channel(false);
        let handle = self.tasks.spawn(follow_row(self.collector.clone(), row.clone(), synced));
        self.followed.insert(name, (row, handle));
    }

    fn remove(&mut self, name: &str) {
        if let Some((row, handle)) = self.followed.remove(name) {
            handle.abort();
            let concerned = self.collector.graph.lock().unlearn(&row);
            concerned.into_iter().for_each(|uid| self.collector.queue.add(uid));
        }
    }
}

impl Sink for Definitions {
    fn replace(&mut self, documents: Vec<Bytes>, _revision: u64) {
        let listed: Vec<CustomResourceDefinition> =
            documents.iter().filter_map(|document| serde_json::from_slice(document).ok()).collect();
        let names: HashSet<_> =
            listed.iter().filter_map(|definition| definition.metadata.name.clone()).collect();
        let gone: Vec<_> = self.followed.keys().filter(|name| !names.contains(*name)).cloned().collect();
        gone.iter().for_each(|name| self.remove(name));
        listed.iter().for_each(|definition| self.put(definition));
    }

    fn apply(&mut self, events: Vec<Event>) {
        for event in events {
            let Ok(definition) = serde_json::from_slice::<CustomResourceDefinition>(&event.object) else {
                continue;
            };
            match event.event_type {
                EventType::Deleted => self.remove(definition.metadata.name.as_deref().unwrap_or_default()),
                EventType::Added | EventType::Modified => self.put(&definition),
                EventType::Bookmark => {}
            }
        }
    }
}

impl Collector {
    async fn work(&self) {
        loop {
            let uid = self.queue.next().await;
            match self.attempt(&uid).await {
                Ok(()) => self.queue.forget(&uid),
                Err(status) => {
                    tracing::debug!(%uid, %status, "garbage is left for later");
                    self.queue.retry(uid.clone());
                }
            }
            self.queue.done(&uid);
        }
    }

    async fn attempt(&self, uid: &Uid) -> Result<(), Status> {
        let decision = decide(&self.graph.lock(), uid, &self.absent.lock());
        if decision.verify.is_empty() {
            return self.carry_out(decision).await;
        }
        let mut known = HashMap::new();
        for owner in &decision.verify {
            known.insert(Uid::from(owner.uid.as_str()), self.verify(uid, owner).await?);
        }
        {
            let mut absent = self.absent.lock();
            if absent.len() >= MEMORY {
                absent.clear();
            }
            absent.extend(
                known.iter().filter(|(_, owner)| **owner == Owner::Absent).map(|(u, o)| (u.clone(), *o)),
            );
            known.extend(absent.iter().map(|(uid, owner)| (uid.clone(), *owner)));
        }
        if known.values().any(|owner| *owner == Owner::Present) {
            // Present now says nothing about later, so long as the graph does not know of it.
            self.queue.add_after(uid.clone(), RECHECK);
        }
        let decision = decide(&self.graph.lock(), uid, &known);
        self.carry_out(decision).await
    }

    async fn carry_out(&self, decision: Decision) -> Result<(), Status> {
        decision.visit.into_iter().for_each(|uid| self.queue.add(uid));
        self.executor.execute(&decision.actions).await.failure.map_or(Ok(()), Err)
    }

    /// Asks the API whether an owner is there.
    async fn verify(&self, uid: &Uid, owner: &OwnerReference) -> Result<Owner, Status> {
        let place = {
            let graph = self.graph.lock();
            let Some(item) = graph.get(uid) else { return Ok(Owner::Present) };
            let namespace = item.meta.namespace.clone();
            graph.row_of(owner).cloned().map(|row| (row, namespace))
        };
        // Kinds nobody serves cannot be looked up: what they own stays.
        let Some((row, namespace)) = place else { return Ok(Owner::Present) };
        // A cluster-scoped object cannot have an owner in a namespace: that is a mistake, not garbage.
        if row.namespaced() && namespace.is_empty() {
            return Ok(Owner::Present);
        }
        let namespace = if row.namespaced() { namespace.as_str() } else { "" };
        let target = Target::of(&row).within(namespace).named(&owner.name);
        match self.api.get(&target, &GetOptions::default()).await {
            Ok(document) => match RowSink::meta(&document) {
                Some(meta) if meta.uid == owner.uid.as_str() => Ok(Owner::Present),
                _ => Ok(Owner::Absent),
            },
            Err(status) if status.is_not_found() => Ok(Owner::Absent),
            Err(status) => Err(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn row(plural: &str) -> Arc<Resource> {
        Registry::builtin().rows().iter().find(|row| row.plural == plural).expect("a row").clone()
    }

    fn owner(plural: &str, name: &str, blocks: bool) -> Value {
        let row = row(plural);
        json!({"apiVersion": row.api_version(), "kind": row.kind, "name": name, "uid": name,
               "blockOwnerDeletion": blocks})
    }

    /// Objects by plural and name; the name is the uid.
    fn graph(objects: &[(&str, &str, Value)]) -> Graph {
        let mut graph = Graph::default();
        for (plural, name, more) in objects {
            let mut meta = json!({"name": name, "uid": name, "resourceVersion": "1"});
            if row(plural).namespaced() {
                meta["namespace"] = "default".into();
            }
            for (key, value) in more.as_object().into_iter().flatten() {
                meta[key] = value.clone();
            }
            graph.put(&row(plural), serde_json::from_value(meta).expect("metadata"));
        }
        graph
    }

    /// What is done about an object, in short.
    fn doing(graph: &Graph, uid: &str, absent: &[&str]) -> Vec<String> {
        let known = absent.iter().map(|uid| ((*uid).into(), Owner::Absent)).collect();
        let decision = decide(graph, uid, &known);
        let action = |action: &Action| match &action.operation {
            Operation::Delete { options } => {
                format!(
                    "delete {} {}",
                    action.target.name,
                    options.propagation_policy.as_deref().unwrap_or("")
                )
            }
            Operation::Patch { body, .. } => {
                let mut metadata = body["metadata"].clone();
                let fields = metadata.as_object_mut().expect("a map");
                fields.retain(|key, _| !["uid", "resourceVersion"].contains(&key.as_str()));
                format!("patch {} {}", action.target.name, fields.keys().cloned().collect::<String>())
            }
            other => format!("{other:?}"),
        };
        let mut all: Vec<_> = decision.actions.iter().map(action).collect();
        all.extend(decision.visit.iter().map(|uid| format!("visit {uid}")));
        all.extend(decision.verify.iter().map(|owner| format!("verify {}", owner.uid)));
        all
    }

    const GONE: &str = "2026-01-01T00:00:00Z";

    #[test]
    fn an_object_goes_when_all_its_owners_are_gone() {
        let set = || ("replicasets", "set", json!({}));
        let pod = |owners: Value| ("pods", "pod", json!({"ownerReferences": owners}));
        let one = json!([owner("replicasets", "set", true)]);
        let two = json!([owner("replicasets", "set", true), owner("nodes", "node", false)]);
        assert!(doing(&graph(&[set(), pod(one.clone())]), "pod", &[]).is_empty(), "its owner is there");
        assert_eq!(doing(&graph(&[pod(one.clone())]), "pod", &[]), ["verify set"], "the graph may be late");
        assert_eq!(doing(&graph(&[pod(one)]), "pod", &["set"]), ["delete pod Background"]);
        let graph = graph(&[set(), pod(two)]);
        assert_eq!(
            doing(&graph, "pod", &["node"]),
            ["patch pod ownerReferences"],
            "one of two owners is gone"
        );
    }

    #[test]
    fn an_owner_of_another_name_is_no_owner() {
        let mut wrong = owner("replicasets", "set", true);
        wrong["name"] = "other".into();
        let graph =
            graph(&[("replicasets", "set", json!({})), ("pods", "pod", json!({"ownerReferences": [wrong]}))]);
        assert_eq!(doing(&graph, "pod", &[]), ["verify set"]);
    }

    #[test]
    fn a_foreground_delete_waits_for_what_blocks_it() {
        let set = json!({"deletionTimestamp": GONE, "finalizers": [FOREGROUND]});
        let pod = |blocks: bool| json!({"ownerReferences": [owner("replicasets", "set", blocks)]});
        let full = graph(&[("replicasets", "set", set.clone()), ("pods", "pod", pod(true))]);
        assert_eq!(doing(&full, "set", &[]), ["visit pod"]);
        assert_eq!(doing(&full, "pod", &[]), ["delete pod Background"]);
        let loose = graph(&[("replicasets", "set", set.clone()), ("pods", "pod", pod(false))]);
        assert_eq!(doing(&loose, "set", &[]), ["patch set finalizers"]);
        assert_eq!(doing(&graph(&[("replicasets", "set", set)]), "set", &[]), ["patch set finalizers"]);
    }

    #[test]
    fn a_foreground_delete_goes_down_the_chain() {
        let graph = graph(&[
            ("deployments", "web", json!({"deletionTimestamp": GONE, "finalizers": [FOREGROUND]})),
            ("replicasets", "set", json!({"ownerReferences": [owner("deployments", "web", true)]})),
            ("pods", "pod", json!({"ownerReferences": [owner("replicasets", "set", true)]})),
        ]);
        assert_eq!(doing(&graph, "web", &[]), ["visit set"]);
        assert_eq!(doing(&graph, "set", &[]), ["delete set Foreground"]);
        assert!(doing(&graph, "pod", &[]).is_empty());
    }

    #[test]
    fn orphans_are_let_go_before_their_owner() {
        let graph = graph(&[
            ("replicasets", "set", json!({"deletionTimestamp": GONE, "finalizers": [ORPHAN]})),
            ("pods", "pod", json!({"ownerReferences": [owner("replicasets", "set", true)]})),
        ]);
        assert_eq!(doing(&graph, "set", &[]), ["patch pod ownerReferences", "patch set finalizers"]);
    }
}
