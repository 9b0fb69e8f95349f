//! Keeps the index up to date from the store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kontiki_store::{Entry, RangeRequest, ReadError, Revision, Store, WatchError, WatchItem};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::index::Change;
use super::{GROUP, Index};
use crate::storage;

/// How long to wait before the store is read again after an error.
const PAUSE: Duration = Duration::from_millis(100);

fn prefix() -> Bytes {
    format!("{}{GROUP}/", storage::ROOT).into()
}

struct Parsed {
    plural: String,
    namespace: String,
    name: String,
    /// `None`: deleted.
    object: Option<Value>,
}

impl Parsed {
    fn new(entry: &Entry, deleted: bool) -> Option<Parsed> {
        let key = std::str::from_utf8(&entry.key).ok()?;
        let plural = key.strip_prefix(storage::ROOT)?.split('/').nth(1)?.to_string();
        let (namespace, name) = storage::names(&entry.key);
        let object = match deleted {
            true => None,
            false => match serde_json::from_slice(&entry.value) {
                Ok(object) => Some(object),
                Err(error) => {
                    tracing::error!(key, %error, "a stored object cannot be read");
                    return None;
                }
            },
        };
        Some(Parsed { plural, namespace: namespace.into(), name: name.into(), object })
    }

    fn change(&self) -> Change<'_> {
        let Parsed { plural, namespace, name, object } = self;
        match object {
            Some(object) => Change::Put { plural, namespace, name, object },
            None => Change::Delete { plural, namespace, name },
        }
    }
}

/// Replaces the index by what the store holds now; returns the revision it was read at.
pub fn load(store: &Store, index: &Index) -> Result<Revision, ReadError> {
    let range = store.range(&RangeRequest { prefix: prefix(), ..RangeRequest::default() })?;
    let parsed: Vec<_> = range.entries.iter().filter_map(|e| Parsed::new(e, false)).collect();
    index.replace(parsed.iter().map(Parsed::change));
    Ok(range.revision)
}

/// Follows until cancelled or the store is stopped; lists again whenever a watch ends early.
pub async fn follow(store: Store, index: Arc<Index>, stop: CancellationToken) {
    loop {
        let watcher = load(&store, &index).and_then(|revision| store.watch(prefix(), revision));
        let mut watcher = match watcher {
            Ok(watcher) => watcher,
            Err(error) => {
                tracing::warn!(%error, "roles cannot be read; trying again");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(PAUSE) => continue,
                }
            }
        };
        loop {
            let item = tokio::select! {
                () = stop.cancelled() => return,
                item = watcher.next() => item,
            };
            match item {
                Ok(WatchItem::Changes(changes)) => {
                    let parsed: Vec<_> =
                        changes.iter().filter_map(|c| Parsed::new(&c.entry, c.deleted)).collect();
                    index.apply(parsed.iter().map(Parsed::change));
                }
                Ok(WatchItem::Progress(_)) => {}
                Err(WatchError::Stopped) => return,
                Err(error) => {
                    tracing::debug!(%error, "the watch of roles ended; listing again");
                    break;
                }
            }
        }
    }
}
