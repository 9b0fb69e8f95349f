//! The API in memory: objects, revisions, watches, preconditions, finalizers, and the subresources controllers use.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kontiki_proto::api::{
    Api, DeleteOptions, Event, EventType, GetOptions, List, ListOptions, PatchType, WatchOptions,
    WatchStream, WriteOptions,
};
use kontiki_proto::resource::{Registry, Resource};
use kontiki_proto::{Status, Target};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::runtime::{Clock, Key};

type Place = (String, Key);

#[derive(Default)]
struct State {
    revision: u64,
    names: u64,
    objects: BTreeMap<Place, Value>,
    log: Vec<(u64, Place, EventType, Bytes)>,
    /// Every successful write, in words.
    writes: Vec<String>,
    /// Watches from before this revision are too old.
    compacted: u64,
    /// Creates of this resource fail with this message.
    refused: Option<(String, String)>,
}

pub struct Sim {
    state: Arc<Mutex<State>>,
    clock: Clock,
    changed: watch::Sender<u64>,
}

fn row(target: &Target) -> Result<&'static Resource, Status> {
    Registry::builtin()
        .find(&target.group, &target.version, &target.resource)
        .map(|row| row.as_ref())
        .ok_or_else(Status::no_such_path)
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn merge(into: &mut Value, from: &Value, strategic: bool) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value, strategic);
                }
            }
        }
        (Value::Array(into), Value::Array(from))
            if strategic && from.iter().all(|v| v.get("type").is_some()) =>
        {
            for value in from {
                match into.iter_mut().find(|present| present["type"] == value["type"]) {
                    Some(present) => merge(present, value, strategic),
                    None => into.push(value.clone()),
                }
            }
        }
        (into, Value::Object(from)) => {
            *into = json!({});
            merge(into, &Value::Object(from.clone()), strategic);
        }
        (into, from) => *into = from.clone(),
    }
}

impl Sim {
    pub fn new(clock: Clock) -> Sim {
        Sim { state: Arc::default(), clock, changed: watch::Sender::new(0) }
    }

    pub fn is_namespaced(plural: &str) -> bool {
        Registry::builtin().rows().iter().find(|row| row.plural == plural).is_none_or(|row| row.namespaced())
    }

    fn place(target: &Target) -> Place {
        (format!("{}/{}", target.group, target.resource), Key::new(&target.namespace, &target.name))
    }

    fn target(api_version: &str, plural: &str, body: &Value) -> Target {
        let (group, version) = kontiki_proto::resource::split_api_version(api_version);
        Target { group: group.into(), version: version.into(), resource: plural.into(), ..Target::default() }
            .within(text(body, "/metadata/namespace"))
    }

    /// Creates an object, for tests.
    pub fn put(&self, api_version: &str, plural: &str, body: Value) -> Value {
        let target = Self::target(api_version, plural, &body);
        self.make(&target, body).expect("the object is good")
    }

    /// Merges into an object, for tests.
    pub fn merge(&self, plural: &str, namespace: &str, name: &str, body: Value) {
        let row = Registry::builtin().rows().iter().find(|row| row.plural == plural).expect("a resource");
        let target = Target::of(row).within(namespace).named(name);
        self.change(&target, PatchType::Merge, &body, false).expect("the change is good");
    }

    /// Makes creates of a resource fail, or succeed again.
    pub fn refuse(&self, plural: &str, message: Option<&str>) {
        self.state.lock().refused = message.map(|message| (plural.into(), message.into()));
    }

    /// Every write so far, in words.
    pub fn writes(&self) -> Vec<String> {
        self.state.lock().writes.clone()
    }

    /// Forgets the history: every watch ends with 410, and has to list again.
    pub fn compact(&self) {
        let mut state = self.state.lock();
        state.revision += 1;
        state.compacted = state.revision;
        self.changed.send_replace(state.revision);
    }

    pub fn summary(&self) -> String {
        let state = self.state.lock();
        let mut lines: Vec<String> = state
            .objects
            .iter()
            .filter(|((kind, _), _)| !kind.contains("lease") && !kind.ends_with("configmaps"))
            .map(|((kind, key), value)| format!("{kind} {key} {} {}", value["spec"], value["status"]))
            .collect();
        lines.extend(state.writes.iter().rev().take(40).cloned());
        lines.join("\n")
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn commit(
        &self,
        state: &mut State,
        place: Place,
        event: EventType,
        mut object: Value,
        verb: &str,
    ) -> Value {
        state.revision += 1;
        object["metadata"]["resourceVersion"] = state.revision.to_string().into();
        let bytes = Bytes::from(object.to_string());
        if !place.0.ends_with("leases") {
            state.writes.push(format!("{verb} {} {}", place.0, place.1));
        }
        match event {
            EventType::Deleted => drop(state.objects.remove(&place)),
            _ => drop(state.objects.insert(place.clone(), object.clone())),
        }
        state.log.push((state.revision, place, event, bytes));
        self.changed.send_replace(state.revision);
        object
    }

    fn make(&self, target: &Target, mut body: Value) -> Result<Value, Status> {
        let row = row(target)?;
        let mut state = self.state.lock();
        if let Some((plural, message)) = &state.refused
            && row.plural == plural.as_str()
        {
            return Err(Status::forbidden(row, "", message));
        }
        if row.namespaced() {
            let namespace = ("/namespaces".to_string(), Key::new("", &target.namespace));
            let found = state.objects.get(&namespace);
            let found = found.ok_or_else(|| {
                Status::failure(404, "NotFound", format!("namespaces \"{}\" not found", target.namespace))
            })?;
            if !found["metadata"]["deletionTimestamp"].is_null() {
                let why = "unable to create new content in namespace because it is being terminated";
                return Err(Status::forbidden(row, "", why));
            }
            body["metadata"]["namespace"] = target.namespace.as_str().into();
        }
        state.names += 1;
        if text(&body, "/metadata/name").is_empty() {
            let name = format!("{}{:05}", text(&body, "/metadata/generateName"), state.names);
            body["metadata"]["name"] = name.into();
        }
        let name = text(&body, "/metadata/name").to_string();
        let place = Self::place(&target.clone().named(&name));
        if state.objects.contains_key(&place) {
            return Err(Status::already_exists(row, &name));
        }
        body["apiVersion"] = row.api_version().as_str().into();
        body["kind"] = row.kind.as_str().into();
        body["metadata"]["uid"] = format!("uid-{:05}", state.names).into();
        body["metadata"]["creationTimestamp"] = json!(Time(self.now()));
        body["metadata"]["generation"] = 1.into();
        match row.plural.as_str() {
            "pods" if body["status"].is_null() => body["status"] = json!({"phase": "Pending"}),
            "namespaces" => {
                body["spec"] = json!({"finalizers": ["kubernetes"]});
                body["status"] = json!({"phase": "Active"});
            }
            "nodes" if body["spec"].is_null() => body["spec"] = json!({}),
            _ => {}
        }
        Ok(self.commit(&mut state, place, EventType::Added, body, "create"))
    }

    fn guard(row: &Resource, present: &Value, name: &str, uid: &str, version: &str) -> Result<(), Status> {
        if !uid.is_empty() && text(present, "/metadata/uid") != uid {
            let why = format!("Precondition failed: UID in precondition: {uid}");
            return Err(Status::conflict(row, name, &why));
        }
        if !version.is_empty() && text(present, "/metadata/resourceVersion") != version {
            return Err(Status::stale(row, name));
        }
        Ok(())
    }

    /// Writes a changed object, or removes it when nothing holds it any more.
    fn settle(&self, state: &mut State, place: Place, before: &Value, mut after: Value, verb: &str) -> Value {
        after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
        if after == *before {
            return after;
        }
        if before["spec"] != after["spec"] {
            let generation = before["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            after["metadata"]["generation"] = generation.into();
        }
        let held = |value: &Value| {
            let list =
                |path: &str| value.pointer(path).and_then(Value::as_array).is_some_and(|l| !l.is_empty());
            let namespace = value["kind"] == "Namespace" && list("/spec/finalizers");
            let grace = value["kind"] == "Pod" && value["metadata"]["deletionGracePeriodSeconds"] != 0;
            list("/metadata/finalizers") || namespace || grace
        };
        if !after["metadata"]["deletionTimestamp"].is_null() && !held(&after) {
            return self.commit(state, place, EventType::Deleted, after, "remove");
        }
        self.commit(state, place, EventType::Modified, after, verb)
    }

    fn replace(&self, target: &Target, body: Value) -> Result<Value, Status> {
        let row = row(target)?;
        let mut state = self.state.lock();
        let place = Self::place(target);
        let present =
            state.objects.get(&place).cloned().ok_or_else(|| Status::not_found(row, &target.name))?;
        let (uid, version) = (text(&body, "/metadata/uid"), text(&body, "/metadata/resourceVersion"));
        Self::guard(row, &present, &target.name, uid, version)?;
        let mut after = present.clone();
        match target.subresource.as_str() {
            "" => {
                let status = after["status"].take();
                after = body;
                if row.subresource("status").is_some() {
                    after["status"] = status;
                }
                for field in ["uid", "creationTimestamp", "generation", "deletionTimestamp"] {
                    if !present["metadata"][field].is_null() {
                        after["metadata"][field] = present["metadata"][field].clone();
                    }
                }
            }
            "finalize" => after["spec"]["finalizers"] = body["spec"]["finalizers"].clone(),
            part => after[part] = body[part].clone(),
        }
        let verb = format!("update{}", target.subresource);
        Ok(self.settle(&mut state, place, &present, after, &verb))
    }

    fn change(&self, target: &Target, kind: PatchType, body: &Value, guarded: bool) -> Result<Value, Status> {
        let row = row(target)?;
        let mut state = self.state.lock();
        let place = Self::place(target);
        let present =
            state.objects.get(&place).cloned().ok_or_else(|| Status::not_found(row, &target.name))?;
        if guarded {
            let (uid, version) = (text(body, "/metadata/uid"), text(body, "/metadata/resourceVersion"));
            Self::guard(row, &present, &target.name, uid, version)?;
        }
        let mut after = present.clone();
        merge(&mut after, body, kind == PatchType::StrategicMerge);
        let verb = format!("patch{}", target.subresource);
        Ok(self.settle(&mut state, place, &present, after, &verb))
    }

    fn bind(&self, target: &Target, binding: &Value) -> Result<Value, Status> {
        let row = row(target)?;
        let mut state = self.state.lock();
        let place = Self::place(target);
        let present =
            state.objects.get(&place).cloned().ok_or_else(|| Status::not_found(row, &target.name))?;
        Self::guard(row, &present, &target.name, text(binding, "/metadata/uid"), "")?;
        if !text(&present, "/spec/nodeName").is_empty() {
            let why = format!("pod {} is already assigned to node", target.name);
            return Err(Status::conflict(row, &target.name, &why));
        }
        let mut after = present.clone();
        after["spec"]["nodeName"] = binding["target"]["name"].clone();
        let condition =
            json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": Time(self.now())});
        merge(&mut after, &json!({"status": {"conditions": [condition]}}), true);
        self.settle(&mut state, place, &present, after, "bind");
        Ok(json!(Status::success()))
    }

    fn remove(&self, target: &Target, options: &DeleteOptions) -> Result<Value, Status> {
        let row = row(target)?;
        let mut state = self.state.lock();
        let place = Self::place(target);
        let present =
            state.objects.get(&place).cloned().ok_or_else(|| Status::not_found(row, &target.name))?;
        let guards = options.preconditions.clone().unwrap_or_default();
        let version = guards.resource_version.unwrap_or_default();
        Self::guard(row, &present, &target.name, &guards.uid.unwrap_or_default(), &version)?;
        let mut after = present.clone();
        let finalizer = match options.propagation_policy.as_deref() {
            Some("Orphan") => Some("orphan"),
            Some("Foreground") => Some("foregroundDeletion"),
            _ => None,
        };
        if let Some(finalizer) = finalizer {
            let mut list = after["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            if !list.iter().any(|present| present == finalizer) {
                list.push(finalizer.into());
            }
            after["metadata"]["finalizers"] = list.into();
        }
        if after["metadata"]["deletionTimestamp"].is_null() {
            after["metadata"]["deletionTimestamp"] = json!(Time(self.now()));
        }
        let bound = !text(&present, "/spec/nodeName").is_empty();
        let grace =
            if row.plural == "pods" && bound { options.grace_period_seconds.unwrap_or(30) } else { 0 };
        after["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        if row.plural == "namespaces" {
            after["status"]["phase"] = "Terminating".into();
        }
        Ok(self.settle(&mut state, place, &present, after, "delete"))
    }

    fn selected(target: &Target, options: (&str, &str), place: &Place, object: &Value) -> bool {
        let (label_selector, field_selector) = options;
        let (group, resource) = place.0.split_once('/').expect("a place has both");
        if target.resource != resource || target.group != group {
            return false;
        }
        let here = target.namespace.is_empty() || place.1.namespace == target.namespace;
        let named = field_selector.strip_prefix("metadata.name=").is_none_or(|name| place.1.name == name);
        let labels = kontiki_proto::selector::Selector::parse(label_selector).expect("a selector");
        let label = |name: &str| object["metadata"]["labels"].get(name).and_then(Value::as_str);
        here && named && labels.matches(label)
    }
}

fn bytes(value: Value) -> Bytes {
    Bytes::from(value.to_string())
}

fn value(body: &Bytes) -> Result<Value, Status> {
    serde_json::from_slice(body).map_err(|error| Status::bad_request(error.to_string()))
}

#[async_trait]
impl Api for Sim {
    async fn get(&self, target: &Target, _: &GetOptions) -> Result<Bytes, Status> {
        let row = row(target)?;
        let state = self.state.lock();
        let found = state.objects.get(&Self::place(target)).cloned();
        found.map(bytes).ok_or_else(|| Status::not_found(row, &target.name))
    }

    async fn list(&self, target: &Target, options: &ListOptions) -> Result<List, Status> {
        row(target)?;
        let state = self.state.lock();
        let selectors = (options.label_selector.as_str(), options.field_selector.as_str());
        let chosen = state.objects.iter().filter(|(place, v)| Self::selected(target, selectors, place, v));
        let items = chosen.map(|(_, value)| bytes(value.clone())).collect();
        Ok(List { resource_version: state.revision.to_string(), items, ..List::default() })
    }

    async fn watch(&self, target: &Target, options: &WatchOptions) -> Result<WatchStream, Status> {
        row(target)?;
        let from: u64 = options.resource_version.parse().unwrap_or(0);
        let oldest = self.state.lock().compacted;
        if from < oldest {
            return Err(Status::too_old(from, oldest));
        }
        let position = self.state.lock().log.partition_point(|(revision, ..)| *revision <= from);
        let receiver = self.changed.subscribe();
        let target = target.clone();
        let selectors = (options.label_selector.clone(), options.field_selector.clone());
        let state = self.state.clone();
        let log = move |position: usize| {
            let state = state.lock();
            if state.compacted > oldest {
                return Err(Status::too_old(oldest, state.compacted));
            }
            let found = state.log.get(position);
            Ok(found.map(|(_, place, event, object)| (place.clone(), *event, object.clone())))
        };
        let stream = futures::stream::unfold((position, receiver), move |(mut position, mut receiver)| {
            let (target, selectors, log) = (target.clone(), selectors.clone(), log.clone());
            async move {
                if position == usize::MAX {
                    return None;
                }
                loop {
                    loop {
                        let (place, event_type, object) = match log(position) {
                            Ok(Some(found)) => found,
                            Ok(None) => break,
                            Err(status) => return Some((Err(status), (usize::MAX, receiver))),
                        };
                        position += 1;
                        let document = value(&object).ok()?;
                        let by = (selectors.0.as_str(), selectors.1.as_str());
                        if Sim::selected(&target, by, &place, &document) {
                            return Some((Ok(Event { event_type, object }), (position, receiver)));
                        }
                    }
                    receiver.changed().await.ok()?;
                }
            }
        });
        Ok(Box::pin(stream))
    }

    async fn create(&self, target: &Target, body: Bytes, _: &WriteOptions) -> Result<Bytes, Status> {
        let body = value(&body)?;
        if target.subresource == "binding" {
            return self.bind(target, &body).map(bytes);
        }
        self.make(target, body).map(bytes)
    }

    async fn update(&self, target: &Target, body: Bytes, _: &WriteOptions) -> Result<Bytes, Status> {
        self.replace(target, value(&body)?).map(bytes)
    }

    async fn patch(
        &self,
        target: &Target,
        patch_type: PatchType,
        body: Bytes,
        _: &WriteOptions,
    ) -> Result<Bytes, Status> {
        self.change(target, patch_type, &value(&body)?, true).map(bytes)
    }

    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Bytes, Status> {
        self.remove(target, options).map(bytes)
    }

    async fn delete_collection(
        &self,
        target: &Target,
        selection: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Bytes, Status> {
        for item in self.list(target, selection).await?.items {
            let item = value(&item)?;
            let one = target.clone().within(text(&item, "/metadata/namespace"));
            self.remove(&one.named(text(&item, "/metadata/name")), options)?;
        }
        Ok(bytes(json!(Status::success())))
    }
}
