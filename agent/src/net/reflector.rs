//! List and watch of one kind into a cache that always shows the last known state.
//!
//! While the control plane cannot be reached the cache keeps what it has: the network goes on as it was.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kontiki_proto::api::{Event, EventType, ListOptions, Object, WatchOptions, decode};
use kontiki_proto::{DynApi, Status, Target};
use parking_lot::RwLock;
use rand::Rng;
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

type Key = (String, String);

/// All objects of a kind, by namespace and name.
pub(super) struct Cache<K> {
    objects: RwLock<BTreeMap<Key, Arc<K>>>,
    /// Counts changes; 0 until the first list has arrived.
    version: watch::Sender<u64>,
}

impl<K: Object> Cache<K> {
    fn new() -> Arc<Cache<K>> {
        Arc::new(Cache { objects: RwLock::default(), version: watch::Sender::new(0) })
    }

    pub fn all(&self) -> Vec<Arc<K>> {
        self.objects.read().values().cloned().collect()
    }

    /// Changes whenever the cache does; 0 means that nothing has been listed yet.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn replace(&self, objects: BTreeMap<Key, Arc<K>>) {
        *self.objects.write() = objects;
        self.version.send_modify(|version| *version += 1);
    }

    fn apply(&self, event_type: EventType, object: K) {
        let key = key_of(&object);
        match event_type {
            EventType::Added | EventType::Modified => self.objects.write().insert(key, Arc::new(object)),
            EventType::Deleted => self.objects.write().remove(&key),
            EventType::Bookmark => return,
        };
        self.version.send_modify(|version| *version += 1);
    }
}

fn key_of<K: Object>(object: &K) -> Key {
    let metadata = object.metadata();
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

/// Starts the list and watch; it ends with `shutdown`.
pub(super) fn reflect<K: Object>(api: DynApi, shutdown: CancellationToken) -> Arc<Cache<K>> {
    let cache = Cache::new();
    let task = Arc::clone(&cache);
    tokio::spawn(async move {
        shutdown.run_until_cancelled(follow(api, task)).await;
    });
    cache
}

async fn follow<K: Object>(api: DynApi, cache: Arc<Cache<K>>) {
    let mut pause = FIRST_PAUSE;
    loop {
        match list_and_watch(&api, &cache, &mut pause).await {
            Ok(()) => {}
            Err(status) => {
                tracing::debug!(kind = K::KIND, %status, "list and watch interrupted");
                let spread = rand::rng().random_range(0.5..1.5);
                tokio::time::sleep(pause.mul_f64(spread)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Returns when a new list is needed at once; errors ask for a pause first.
async fn list_and_watch<K: Object>(
    api: &DynApi,
    cache: &Cache<K>,
    pause: &mut Duration,
) -> Result<(), Status> {
    let target = Target::kind::<K>();
    let list = api.list(&target, &ListOptions::default()).await?;
    let mut objects = BTreeMap::new();
    for item in &list.items {
        let object: K = decode(item)?;
        objects.insert(key_of(&object), Arc::new(object));
    }
    cache.replace(objects);
    let mut revision = list.resource_version;
    loop {
        let options = WatchOptions {
            resource_version: revision.clone(),
            allow_bookmarks: true,
            ..WatchOptions::default()
        };
        let mut stream = match api.watch(&target, &options).await {
            Ok(stream) => stream,
            Err(status) if status.code == 410 => return Ok(()),
            Err(status) => return Err(status),
        };
        *pause = FIRST_PAUSE;
        loop {
            match stream.next().await {
                Some(Ok(event)) => revision = take(cache, event)?,
                Some(Err(status)) if status.code == 410 => return Ok(()),
                Some(Err(status)) => return Err(status),
                None => break,
            }
        }
        // A server that ends every watch at once must not be asked in a tight loop.
        tokio::time::sleep(FIRST_PAUSE).await;
    }
}

fn take<K: Object>(cache: &Cache<K>, event: Event) -> Result<String, Status> {
    #[derive(Deserialize)]
    struct Versioned {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        resource_version: String,
    }
    let versioned: Versioned = decode(&event.object)?;
    if event.event_type != EventType::Bookmark {
        cache.apply(event.event_type, decode(&event.object)?);
    }
    Ok(versioned.metadata.resource_version)
}
