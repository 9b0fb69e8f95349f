//! List and watch: keeps one collection of the world up to date.
//!
//! ```text
//!   list ──▶ watch from its revision ──▶ events … ──▶ stream ends: watch again from the last revision
//!    ▲                                      │
//!    └───────────── 410: too old ───────────┘      other errors: the same, after a pause that grows
//! ```

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use kontiki_proto::Status;
use kontiki_proto::Target;
use kontiki_proto::api::{DynApi, Event, EventType, ListOptions, Shape, WatchOptions};
use rand::Rng;
use serde::Deserialize;

/// Objects in one page of a list.
const PAGE: u64 = 500;
/// Events applied to the world at once, where as many are ready.
const BATCH: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Which objects are followed.
#[derive(Clone, Debug)]
pub struct Collection {
    pub target: Target,
    pub field_selector: String,
    pub shape: Shape,
}

/// Takes what the informer reads. Documents are JSON objects of the collection.
pub trait Sink: Send {
    /// The whole collection at `revision`.
    fn replace(&mut self, documents: Vec<Bytes>, revision: u64);
    /// Events in their order; bookmarks carry a revision in their metadata.
    fn apply(&mut self, events: Vec<Event>);
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    resource_version: Option<String>,
}

/// The resource version in a document, where it has one.
pub fn revision_in(document: &[u8]) -> Option<u64> {
    let document: Document = serde_json::from_slice(document).ok()?;
    document.metadata.resource_version?.parse().ok()
}

/// Doubles with every failure, with a random part so that many do not come back together.
#[derive(Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    pub fn pause(&mut self) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(12)).min(LONGEST_PAUSE);
        self.failures += 1;
        pause.mul_f64(rand::rng().random_range(0.8..1.2))
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Follows the collection until dropped.
pub async fn follow(api: DynApi, collection: Collection, mut sink: impl Sink) {
    let mut backoff = Backoff::default();
    loop {
        match list(&api, &collection).await {
            Ok((documents, revision)) => {
                sink.replace(documents, revision);
                watch(&api, &collection, revision, &mut sink, &mut backoff).await;
            }
            Err(status) => {
                let pause = backoff.pause();
                tracing::debug!(resource = %collection.target.resource, %status, ?pause, "cannot list");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

async fn list(api: &DynApi, collection: &Collection) -> Result<(Vec<Bytes>, u64), Status> {
    let mut options = ListOptions {
        field_selector: collection.field_selector.clone(),
        limit: PAGE,
        shape: collection.shape,
        ..ListOptions::default()
    };
    let mut documents = Vec::new();
    loop {
        let page = api.list(&collection.target, &options).await?;
        documents.extend(page.items);
        if let Some(document) = &page.document {
            documents.extend(items_in(document)?);
        }
        if page.continue_token.is_empty() {
            let revision = page.resource_version.parse().map_err(|_| {
                Status::internal(format!("a list has the resource version {:?}", page.resource_version))
            })?;
            return Ok((documents, revision));
        }
        options.continue_token = page.continue_token;
    }
}

/// The items of a whole list document, as they stand there.
fn items_in(document: &[u8]) -> Result<Vec<Bytes>, Status> {
    #[derive(Deserialize)]
    struct Items {
        #[serde(default)]
        items: Vec<Box<serde_json::value::RawValue>>,
    }
    let list: Items = kontiki_proto::api::decode(document)?;
    Ok(list.items.into_iter().map(|item| Bytes::from(item.get().as_bytes().to_vec())).collect())
}

/// Returns when the collection has to be listed again.
async fn watch(
    api: &DynApi,
    collection: &Collection,
    mut revision: u64,
    sink: &mut impl Sink,
    backoff: &mut Backoff,
) {
    loop {
        let options = WatchOptions {
            field_selector: collection.field_selector.clone(),
            resource_version: revision.to_string(),
            allow_bookmarks: true,
            shape: collection.shape,
            ..WatchOptions::default()
        };
        let problem = match api.watch(&collection.target, &options).await {
            Err(status) => Some(status),
            Ok(stream) => {
                let mut chunks = stream.ready_chunks(BATCH);
                let mut problem = None;
                while let Some(chunk) = chunks.next().await {
                    let mut events = Vec::with_capacity(chunk.len());
                    for item in chunk {
                        match item {
                            Ok(event) => events.push(event),
                            Err(status) => problem = Some(status),
                        }
                    }
                    if let Some(last) = events.iter().rev().find_map(|event| revision_in(&event.object)) {
                        revision = revision.max(last);
                        backoff.reset();
                    }
                    sink.apply(events);
                    if problem.is_some() {
                        break;
                    }
                }
                problem
            }
        };
        if let Some(status) = problem {
            if status.code == 410 {
                return;
            }
            tracing::debug!(resource = %collection.target.resource, %status, "a watch broke");
        }
        // Without a problem too: a server that ends every watch at once must not be hammered.
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// Feeds one kind of the world.
pub struct TypedSink<K> {
    hub: std::sync::Arc<super::hub::Hub>,
    clock: super::Clock,
    kind: std::marker::PhantomData<fn() -> K>,
}

impl<K: super::world::Kind> TypedSink<K> {
    pub fn new(hub: std::sync::Arc<super::hub::Hub>, clock: super::Clock) -> TypedSink<K> {
        TypedSink { hub, clock, kind: std::marker::PhantomData }
    }

    /// What cannot be decoded is left out: one strange object must not stop the rest.
    fn decode(document: &[u8]) -> Option<K> {
        serde_json::from_slice(document)
            .inspect_err(|error| tracing::warn!(kind = K::KIND, %error, "an object cannot be decoded"))
            .ok()
    }
}

impl<K: super::world::Kind> Sink for TypedSink<K> {
    fn replace(&mut self, documents: Vec<Bytes>, revision: u64) {
        let items = documents.iter().filter_map(|document| Self::decode(document)).collect();
        self.hub.replace::<K>(items, revision, self.clock.now());
    }

    fn apply(&mut self, events: Vec<Event>) {
        use super::hub::Step;
        let steps = events.iter().filter_map(|event| match event.event_type {
            EventType::Added | EventType::Modified => Some(match Self::decode(&event.object) {
                Some(object) => Step::Put(object),
                None => Step::Bookmark(revision_in(&event.object)?),
            }),
            EventType::Deleted => Self::decode(&event.object).map(Step::Remove),
            EventType::Bookmark => revision_in(&event.object).map(Step::Bookmark),
        });
        self.hub.apply(steps, self.clock.now());
    }
}
