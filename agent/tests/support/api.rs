//! An API of one process, in memory: enough of upstream's semantics for an agent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use kontiki_proto::api::{
    Api, DeleteOptions, Event, EventType, GetOptions, List, ListOptions, PatchType, WatchOptions,
    WatchStream, WriteOptions,
};
use kontiki_proto::{Registry, Status, Target};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::broadcast;

type Key = (String, String, String);

struct State {
    revision: u64,
    objects: BTreeMap<Key, Value>,
    history: Vec<(u64, EventType, Key, Value)>,
}

/// Cheap to clone; clones are one API.
#[derive(Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    changed: broadcast::Sender<()>,
    away: Arc<AtomicBool>,
}

fn bytes(value: &Value) -> Bytes {
    serde_json::to_vec(value).unwrap().into()
}

fn parse(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

fn key(target: &Target) -> Key {
    (target.resource.to_string(), target.namespace.to_string(), target.name.to_string())
}

fn not_found(target: &Target) -> Status {
    let row = Registry::builtin().find(&target.group, &target.version, &target.resource).unwrap().clone();
    Status::not_found(&row, &target.name)
}

impl FakeApi {
    pub fn new() -> FakeApi {
        let state = State { revision: 1, objects: BTreeMap::new(), history: Vec::new() };
        FakeApi {
            state: Arc::new(Mutex::new(state)),
            changed: broadcast::channel(1000).0,
            away: Arc::default(),
        }
    }

    /// Makes every call fail as if no server answered, or ends that.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
        let _ = self.changed.send(());
    }

    fn here(&self) -> Result<(), Status> {
        if self.away.load(Ordering::SeqCst) { Err(Status::unavailable("no server answers")) } else { Ok(()) }
    }

    pub fn put(&self, resource: &str, object: Value) {
        let meta = &object["metadata"];
        let text = |f: &str| meta[f].as_str().unwrap_or_default().to_string();
        let key = (resource.to_string(), text("namespace"), text("name"));
        let kind =
            if self.state.lock().objects.contains_key(&key) { EventType::Modified } else { EventType::Added };
        self.write(key, kind, object);
    }

    pub fn get_now(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state.lock().objects.get(&(resource.into(), namespace.into(), name.into())).cloned()
    }

    pub fn all(&self, resource: &str) -> Vec<Value> {
        let state = self.state.lock();
        state.objects.iter().filter(|(k, _)| k.0 == resource).map(|(_, v)| v.clone()).collect()
    }

    fn write(&self, key: Key, kind: EventType, mut object: Value) -> Value {
        let mut state = self.state.lock();
        state.revision += 1;
        let revision = state.revision;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(uuid::Uuid::new_v4().to_string());
        }
        if kind == EventType::Deleted {
            state.objects.remove(&key);
        } else {
            state.objects.insert(key.clone(), object.clone());
        }
        state.history.push((revision, kind, key, object.clone()));
        drop(state);
        let _ = self.changed.send(());
        object
    }
}

fn selected(target: &Target, key: &Key, object: &Value, fields: &str) -> bool {
    let place = key.0 == target.resource && (target.namespace.is_empty() || key.1 == target.namespace);
    place
        && fields.split(',').filter(|t| !t.is_empty()).all(|term| {
            let (path, value) = term.split_once('=').unwrap();
            let found = path.split('.').fold(object, |at, part| &at[part]);
            found.as_str().unwrap_or_default() == value
        })
}

/// Strategic merge with the merge keys that an agent's patches meet.
fn merge(into: &mut Value, patch: &Value, strategic: bool) {
    let Some(fields) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in fields {
        let merge_key = match name.as_str() {
            "conditions" | "addresses" if strategic => "type",
            "podIPs" | "hostIPs" if strategic => "ip",
            _ => "",
        };
        if value.is_null() {
            into.as_object_mut().unwrap().remove(name);
        } else if let (false, Some(items)) = (merge_key.is_empty(), value.as_array()) {
            let mut list = into[name].as_array().cloned().unwrap_or_default();
            for item in items {
                let same = |old: &Value| old[merge_key] == item[merge_key];
                if item["$patch"] == "delete" {
                    list.retain(|old| !same(old));
                } else if let Some(old) = list.iter_mut().find(|old| same(old)) {
                    merge(old, item, strategic);
                } else {
                    list.push(item.clone());
                }
            }
            into[name] = json!(list);
        } else {
            merge(&mut into[name], value, strategic);
        }
    }
}

#[async_trait]
impl Api for FakeApi {
    async fn get(&self, target: &Target, _: &GetOptions) -> Result<Bytes, Status> {
        self.here()?;
        let found = self.state.lock().objects.get(&key(target)).map(bytes);
        found.ok_or_else(|| not_found(target))
    }

    async fn list(&self, target: &Target, options: &ListOptions) -> Result<List, Status> {
        self.here()?;
        let state = self.state.lock();
        let items = state
            .objects
            .iter()
            .filter(|(key, object)| selected(target, key, object, &options.field_selector))
            .map(|(_, object)| bytes(object))
            .collect();
        Ok(List { resource_version: state.revision.to_string(), items, ..List::default() })
    }

    async fn watch(&self, target: &Target, options: &WatchOptions) -> Result<WatchStream, Status> {
        self.here()?;
        let after: u64 = options.resource_version.parse().unwrap_or(0);
        let (api, target, fields) = (self.clone(), target.clone(), options.field_selector.clone());
        let changed = self.changed.subscribe();
        let stream = futures::stream::unfold((after, changed), move |(after, mut changed)| {
            let (api, target, fields) = (api.clone(), target.clone(), fields.clone());
            async move {
                loop {
                    if let Err(status) = api.here() {
                        return Some((Err(status), (after, changed)));
                    }
                    let next = api
                        .state
                        .lock()
                        .history
                        .iter()
                        .find(|(revision, _, key, object)| {
                            *revision > after && selected(&target, key, object, &fields)
                        })
                        .map(|(revision, kind, _, object)| (*revision, *kind, bytes(object)));
                    if let Some((revision, event_type, object)) = next {
                        return Some((Ok(Event { event_type, object }), (revision, changed)));
                    }
                    let _ = changed.recv().await;
                }
            }
        });
        Ok(stream.boxed())
    }

    async fn create(&self, target: &Target, body: Bytes, _: &WriteOptions) -> Result<Bytes, Status> {
        self.here()?;
        if target.subresource == "token" {
            let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
            let mut answer = parse(&body);
            answer["status"] = json!({"token": "a-token", "expirationTimestamp": expires.to_string()});
            return Ok(bytes(&answer));
        }
        let object = parse(&body);
        let name = object["metadata"]["name"].as_str().unwrap().to_string();
        let key = (target.resource.to_string(), target.namespace.to_string(), name.clone());
        if self.state.lock().objects.contains_key(&key) {
            let row =
                Registry::builtin().find(&target.group, &target.version, &target.resource).unwrap().clone();
            return Err(Status::already_exists(&row, &name));
        }
        Ok(bytes(&self.write(key, EventType::Added, object)))
    }

    async fn update(&self, target: &Target, body: Bytes, _: &WriteOptions) -> Result<Bytes, Status> {
        self.here()?;
        if !self.state.lock().objects.contains_key(&key(target)) {
            return Err(not_found(target));
        }
        Ok(bytes(&self.write(key(target), EventType::Modified, parse(&body))))
    }

    async fn patch(
        &self,
        target: &Target,
        kind: PatchType,
        body: Bytes,
        _: &WriteOptions,
    ) -> Result<Bytes, Status> {
        self.here()?;
        let Some(old) = self.state.lock().objects.get(&key(target)).cloned() else {
            return Err(not_found(target));
        };
        let patch = parse(&body);
        let wanted = &patch["metadata"]["uid"];
        if !wanted.is_null() && *wanted != old["metadata"]["uid"] {
            let row =
                Registry::builtin().find(&target.group, &target.version, &target.resource).unwrap().clone();
            return Err(Status::conflict(
                &row,
                &target.name,
                "Precondition failed: UID in precondition differs",
            ));
        }
        let mut new = old.clone();
        merge(&mut new, &patch, kind == PatchType::StrategicMerge);
        if new == old {
            return Ok(bytes(&old));
        }
        Ok(bytes(&self.write(key(target), EventType::Modified, new)))
    }

    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Bytes, Status> {
        self.here()?;
        let Some(mut object) = self.state.lock().objects.get(&key(target)).cloned() else {
            return Err(not_found(target));
        };
        let default = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
        let grace = options.grace_period_seconds.unwrap_or(default);
        if target.resource == "pods" && grace > 0 {
            let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace);
            object["metadata"]["deletionTimestamp"] =
                json!(jiff::Timestamp::from_second(at.as_second()).unwrap().to_string());
            object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            return Ok(bytes(&self.write(key(target), EventType::Modified, object)));
        }
        Ok(bytes(&self.write(key(target), EventType::Deleted, object)))
    }

    async fn delete_collection(
        &self,
        _: &Target,
        _: &ListOptions,
        _: &DeleteOptions,
    ) -> Result<Bytes, Status> {
        Err(Status::not_implemented("deleting a collection"))
    }
}
