//! A control plane of one process: objects, revisions and watches, nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use kontiki_proto::api::{
    DeleteOptions, Event, EventType, GetOptions, List, ListOptions, PatchType, WatchOptions, WatchStream,
    WriteOptions,
};
use kontiki_proto::{Api, Status, Target};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

type Change = (u64, String, Event);

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<(String, String, String), Value>,
    log: Vec<Change>,
}

pub struct Fake {
    state: Mutex<State>,
    changes: broadcast::Sender<Change>,
}

impl Fake {
    pub fn new() -> Arc<Fake> {
        Arc::new(Fake { state: Mutex::default(), changes: broadcast::Sender::new(1024) })
    }

    pub fn put(&self, plural: &str, object: Value) {
        self.change(plural, object, EventType::Modified);
    }

    pub fn remove(&self, plural: &str, namespace: &str, name: &str) {
        self.change(plural, json!({"metadata": {"namespace": namespace, "name": name}}), EventType::Deleted);
    }

    fn change(&self, plural: &str, mut object: Value, event_type: EventType) {
        let mut state = self.state.lock();
        state.revision += 1;
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = (plural.to_owned(), text("namespace"), text("name"));
        let event = Event { event_type, object: Bytes::from(object.to_string()) };
        match event_type {
            EventType::Deleted => drop(state.objects.remove(&key)),
            _ => drop(state.objects.insert(key, object)),
        }
        let change = (state.revision, plural.to_owned(), event);
        state.log.push(change.clone());
        drop(self.changes.send(change));
    }
}

fn absent() -> Status {
    Status::internal("not part of this fake".to_owned())
}

#[async_trait]
impl Api for Fake {
    async fn list(&self, target: &Target, _: &ListOptions) -> Result<List, Status> {
        let state = self.state.lock();
        let of_kind = state.objects.iter().filter(|((plural, ..), _)| *plural == target.resource.as_str());
        let items = of_kind.map(|(_, object)| Bytes::from(object.to_string())).collect();
        Ok(List { resource_version: state.revision.to_string(), items, ..List::default() })
    }

    async fn watch(&self, target: &Target, options: &WatchOptions) -> Result<WatchStream, Status> {
        let start: u64 = options.resource_version.parse().unwrap();
        let state = self.state.lock();
        let past: Vec<Change> =
            state.log.iter().filter(|(revision, ..)| *revision > start).cloned().collect();
        let coming = BroadcastStream::new(self.changes.subscribe()).map(|change| change.unwrap());
        let plural = target.resource.to_string();
        let events = futures::stream::iter(past).chain(coming).filter_map(move |(_, kind, event)| {
            let event = (kind == plural).then_some(Ok(event));
            async move { event }
        });
        Ok(Box::pin(events))
    }

    async fn get(&self, _: &Target, _: &GetOptions) -> Result<Bytes, Status> {
        Err(absent())
    }

    async fn create(&self, _: &Target, _: Bytes, _: &WriteOptions) -> Result<Bytes, Status> {
        Err(absent())
    }

    async fn update(&self, _: &Target, _: Bytes, _: &WriteOptions) -> Result<Bytes, Status> {
        Err(absent())
    }

    async fn patch(&self, _: &Target, _: PatchType, _: Bytes, _: &WriteOptions) -> Result<Bytes, Status> {
        Err(absent())
    }

    async fn delete(&self, _: &Target, _: &DeleteOptions) -> Result<Bytes, Status> {
        Err(absent())
    }

    async fn delete_collection(
        &self,
        _: &Target,
        _: &ListOptions,
        _: &DeleteOptions,
    ) -> Result<Bytes, Status> {
        Err(absent())
    }
}
