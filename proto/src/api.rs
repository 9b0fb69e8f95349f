//! The `Api` trait: all that controllers, agent and CLI know of the control plane.
//!
//! The same code runs against the server in its own process, over gRPC ([`crate::client::Client`]) and in
//! simulation. Objects cross as the bytes of their JSON document; [`ApiExt`] adds typed access.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use k8s_openapi::{Metadata, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::{Serialize, de::DeserializeOwned};
use smol_str::SmolStr;

use crate::resource::Resource;
use crate::status::Status;

/// A collection (no name), an object, or a subresource of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Target {
    /// Empty for the core group.
    pub group: SmolStr,
    pub version: SmolStr,
    /// The plural name.
    pub resource: SmolStr,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub namespace: SmolStr,
    pub name: SmolStr,
    pub subresource: SmolStr,
}

impl Target {
    pub fn of(row: &Resource) -> Target {
        Target {
            group: row.group.clone(),
            version: row.version.clone(),
            resource: row.plural.clone(),
            ..Target::default()
        }
    }

    /// The collection of a typed kind, such as `Target::kind::<Pod>()`.
    pub fn kind<K: k8s_openapi::Resource>() -> Target {
        Target {
            group: K::GROUP.into(),
            version: K::VERSION.into(),
            resource: K::URL_PATH_SEGMENT.into(),
            ..Target::default()
        }
    }

    #[must_use]
    pub fn within(mut self, namespace: &str) -> Target {
        self.namespace = namespace.into();
        self
    }

    #[must_use]
    pub fn named(mut self, name: &str) -> Target {
        self.name = name.into();
        self
    }

    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "targets are not subtracted")]
    pub fn sub(mut self, subresource: &str) -> Target {
        self.subresource = subresource.into();
        self
    }
}

/// How an answer is shaped: the object, a table for people, or its metadata alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    #[default]
    Object,
    Table,
    Metadata,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetOptions {
    /// Empty: the newest, linearizable. `0`: whatever the server has. Otherwise: not older than this.
    pub resource_version: String,
    pub shape: Shape,
}

/// `resourceVersionMatch` of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VersionMatch {
    #[default]
    Unset,
    NotOlderThan,
    Exact,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    pub label_selector: String,
    pub field_selector: String,
    /// 0: everything in one page.
    pub limit: u64,
    pub continue_token: String,
    /// Empty: the newest, linearizable. `0`: whatever the server has.
    pub resource_version: String,
    pub version_match: VersionMatch,
    pub shape: Shape,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchOptions {
    pub label_selector: String,
    pub field_selector: String,
    /// Empty or `0`: start with the objects there are. Otherwise: every event after this revision.
    pub resource_version: String,
    pub version_match: VersionMatch,
    pub allow_bookmarks: bool,
    pub send_initial_events: bool,
    /// Seconds; `None` takes the server's default.
    pub timeout_seconds: Option<u64>,
    pub shape: Shape,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    /// `Ignore`, `Warn`, `Strict`; empty takes the server's default, `Warn`.
    pub field_validation: String,
    pub force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    StrategicMerge,
    /// Server-side apply.
    Apply,
}

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
    /// `Orphan`, `Background` or `Foreground`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orphan_dependents: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dry_run: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preconditions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    /// Only the object with this uid.
    #[must_use]
    pub fn only(mut self, uid: &str) -> DeleteOptions {
        self.preconditions.get_or_insert_default().uid = Some(uid.into());
        self
    }

    #[must_use]
    pub fn grace(mut self, seconds: i64) -> DeleteOptions {
        self.grace_period_seconds = Some(seconds);
        self
    }

    #[must_use]
    pub fn propagate(mut self, policy: &str) -> DeleteOptions {
        self.propagation_policy = Some(policy.into());
        self
    }
}

/// A page of a collection; all pages of one list show one revision.
#[derive(Clone, Debug, Default)]
pub struct List {
    pub resource_version: String,
    /// Empty on the last page.
    pub continue_token: String,
    pub remaining: Option<u64>,
    /// JSON documents, in key order. Empty when `document` is set.
    pub items: Vec<Bytes>,
    /// The whole answer, for shapes other than `Object`.
    pub document: Option<Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Added,
    Modified,
    /// The object as it was last, at the delete's revision.
    Deleted,
    /// Carries a resource version and nothing else: every event up to it has been delivered.
    Bookmark,
}

impl EventType {
    /// The word in a REST watch event.
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
            EventType::Bookmark => "BOOKMARK",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Event {
    pub event_type: EventType,
    pub object: Bytes,
}

/// Ends with `None` at its timeout, or with an error: `Expired` (410) means list again.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;

/// The Kubernetes API's verbs on any resource. Every call has a deadline of its own in the implementation; a write
/// whose outcome is unknown fails with `Timeout`.
#[async_trait]
pub trait Api: Send + Sync + 'static {
    async fn get(&self, target: &Target, options: &GetOptions) -> Result<Bytes, Status>;
    async fn list(&self, target: &Target, options: &ListOptions) -> Result<List, Status>;
    async fn watch(&self, target: &Target, options: &WatchOptions) -> Result<WatchStream, Status>;
    /// The name is taken from the body, or from the target for subresources.
    async fn create(&self, target: &Target, body: Bytes, options: &WriteOptions) -> Result<Bytes, Status>;
    async fn update(&self, target: &Target, body: Bytes, options: &WriteOptions) -> Result<Bytes, Status>;
    async fn patch(
        &self,
        target: &Target,
        patch_type: PatchType,
        body: Bytes,
        options: &WriteOptions,
    ) -> Result<Bytes, Status>;
    /// The object as it was, or as it is now when its deletion has only begun, or a `Status`.
    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Bytes, Status>;
    async fn delete_collection(
        &self,
        target: &Target,
        selection: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Bytes, Status>;
}

pub type DynApi = Arc<dyn Api>;

/// A typed object with metadata.
pub trait Object:
    k8s_openapi::Resource
    + Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<K> Object for K where
    K: k8s_openapi::Resource
        + Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Decodes a document of the API; a document that does not fit its type is an internal error.
pub fn decode<T: DeserializeOwned>(document: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(document)
        .map_err(|error| Status::internal(format!("cannot decode an answer of the API: {error}")))
}

pub fn encode<T: Serialize>(object: &T) -> Result<Bytes, Status> {
    serde_json::to_vec(object)
        .map(Bytes::from)
        .map_err(|error| Status::internal(format!("cannot encode an object: {error}")))
}

/// Typed access for kinds of `k8s-openapi`.
#[async_trait]
pub trait ApiExt: Api {
    async fn get_as<K: Object>(&self, namespace: &str, name: &str) -> Result<K, Status> {
        let target = Target::kind::<K>().within(namespace).named(name);
        decode(&self.get(&target, &GetOptions::default()).await?)
    }

    /// `None` where there is no such object.
    async fn find_as<K: Object>(&self, namespace: &str, name: &str) -> Result<Option<K>, Status> {
        match self.get_as(namespace, name).await {
            Ok(object) => Ok(Some(object)),
            Err(status) if status.is_not_found() => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// All objects of the kind, and the revision they were read at. An empty namespace means all.
    async fn list_as<K: Object>(
        &self,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<(Vec<K>, String), Status> {
        let target = Target::kind::<K>().within(namespace);
        let list = self.list(&target, options).await?;
        let items = list.items.iter().map(|item| decode(item)).collect::<Result<_, _>>()?;
        Ok((items, list.resource_version))
    }

    async fn create_as<K: Object>(&self, object: &K) -> Result<K, Status> {
        let target = collection_of(object);
        decode(&self.create(&target, encode(object)?, &WriteOptions::default()).await?)
    }

    /// The object's `metadata.resourceVersion` is the precondition, where it is set.
    async fn update_as<K: Object>(&self, object: &K) -> Result<K, Status> {
        let name = object.metadata().name.as_deref().unwrap_or_default();
        let target = collection_of(object).named(name);
        decode(&self.update(&target, encode(object)?, &WriteOptions::default()).await?)
    }

    async fn update_status_as<K: Object>(&self, object: &K) -> Result<K, Status> {
        let name = object.metadata().name.as_deref().unwrap_or_default();
        let target = collection_of(object).named(name).sub("status");
        decode(&self.update(&target, encode(object)?, &WriteOptions::default()).await?)
    }
}

fn collection_of<K: Object>(object: &K) -> Target {
    Target::kind::<K>().within(object.metadata().namespace.as_deref().unwrap_or_default())
}

impl<A: Api + ?Sized> ApiExt for A {}
