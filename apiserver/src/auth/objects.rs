//! The view of the store that authentication, authorization and admission read.

use async_trait::async_trait;
use kontiki_proto::{Registry, Resource, Status};
use kontiki_store::{Entry, RangeRequest, Store};
use serde_json::Value;

use crate::storage;

/// What tells one object from a later one of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: String,
    /// `metadata.deletionTimestamp`, where its deletion has begun.
    pub deletion: Option<String>,
}

impl Identity {
    fn of(object: &Value) -> Identity {
        let metadata = &object["metadata"];
        Identity {
            uid: metadata["uid"].as_str().unwrap_or_default().into(),
            deletion: metadata["deletionTimestamp"].as_str().map(Into::into),
        }
    }
}

/// The newest objects applied on this server.
#[async_trait]
pub trait Objects: Send + Sync + 'static {
    /// `group` is empty for the core group, `namespace` for cluster-scoped resources.
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value>;

    /// All of a namespace, or of all namespaces where it is empty, in key order.
    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Value>;

    /// Like [`Objects::get`], for callers that need no more than the identity; may be cheaper.
    fn identity(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Identity> {
        self.get(group, plural, namespace, name).map(|object| Identity::of(&object))
    }

    /// The namespace's pods that are bound to the node.
    fn pods_on(&self, node: &str, namespace: &str) -> Vec<Value> {
        let mut pods = self.list("", "pods", namespace);
        pods.retain(|pod| pod["spec"]["nodeName"] == node);
        pods
    }

    /// Returns when this server has applied everything that was acknowledged anywhere before the call.
    async fn catch_up(&self) -> Result<(), Status>;
}

/// [`Objects`] of a store.
pub struct Stored {
    store: Store,
}

impl Stored {
    pub fn new(store: Store) -> Stored {
        Stored { store }
    }

    fn entries(&self, row: &Resource, namespace: &str) -> Vec<std::sync::Arc<Entry>> {
        let request = RangeRequest { prefix: storage::prefix(row, namespace), ..RangeRequest::default() };
        match self.store.range(&request) {
            Ok(range) => range.entries,
            // The newest revision is always readable: only a compaction between two looks at it gets here.
            Err(error) => {
                tracing::warn!(%error, resource = %row.plural, "cannot list");
                Vec::new()
            }
        }
    }
}

fn row(group: &str, plural: &str) -> Option<&'static Resource> {
    let rows = Registry::builtin().rows();
    rows.iter().find(|row| row.plural == plural && row.group == group).map(AsRef::as_ref)
}

fn decode(row: &Resource, entry: &Entry) -> Option<Value> {
    storage::decode(row, entry)
        .inspect_err(|error| tracing::error!(%error, resource = %row.plural, "cannot be read"))
        .ok()
}

#[async_trait]
impl Objects for Stored {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let row = row(group, plural)?;
        decode(row, &*self.store.get(&storage::key(row, namespace, name))?)
    }

    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Value> {
        let Some(row) = row(group, plural) else { return Vec::new() };
        self.entries(row, namespace).iter().filter_map(|entry| decode(row, entry)).collect()
    }

    fn identity(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Identity> {
        let row = row(group, plural)?;
        let entry = self.store.get(&storage::key(row, namespace, name))?;
        const MARK: &[u8] = b"\"deletionTimestamp\":";
        match storage::attribute(&entry, "u", "") {
            Some(uid) if !entry.value.windows(MARK.len()).any(|window| window == MARK) => {
                Some(Identity { uid: uid.into(), deletion: None })
            }
            _ => decode(row, &entry).map(|object| Identity::of(&object)),
        }
    }

    fn pods_on(&self, node: &str, namespace: &str) -> Vec<Value> {
        let Some(row) = row("", "pods") else { return Vec::new() };
        self.entries(row, namespace)
            .iter()
            .filter(|entry| storage::attribute(entry, "f:", "spec.nodeName") == Some(node))
            .filter_map(|entry| decode(row, entry))
            .collect()
    }

    async fn catch_up(&self) -> Result<(), Status> {
        self.store.barrier().await.map(drop).map_err(storage::store_error)
    }
}

/// [`Objects`] in a map, for tests.
#[cfg(test)]
pub(crate) mod fixture {
    use std::collections::BTreeMap;

    use parking_lot::Mutex;

    use super::*;

    type Key = (String, String, String, String);

    #[derive(Default)]
    pub(crate) struct Fixture {
        objects: Mutex<BTreeMap<Key, Value>>,
    }

    impl Fixture {
        pub(crate) fn with(self, objects: impl IntoIterator<Item = Value>) -> Fixture {
            for object in objects {
                self.put(object);
            }
            self
        }

        pub(crate) fn put(&self, object: Value) {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
            let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
            let row = Registry::builtin().find_kind(&api_version, &kind).expect("a built-in kind");
            let metadata = &object["metadata"];
            let key = (
                row.group.to_string(),
                row.plural.to_string(),
                text(&metadata["namespace"]),
                text(&metadata["name"]),
            );
            self.objects.lock().insert(key, object);
        }
    }

    #[async_trait]
    impl Objects for Fixture {
        fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
            let key = (group.into(), plural.into(), namespace.into(), name.into());
            self.objects.lock().get(&key).cloned()
        }

        fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Value> {
            let objects = self.objects.lock();
            let matching = objects.iter().filter(|((g, p, n, _), _)| {
                g == group && p == plural && (namespace.is_empty() || n == namespace)
            });
            matching.map(|(_, object)| object.clone()).collect()
        }

        async fn catch_up(&self) -> Result<(), Status> {
            Ok(())
        }
    }
}
