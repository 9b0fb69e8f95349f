//! The resource table kept up to date on every server, and objects removed with their definition.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kontiki_proto::api::{DeleteOptions, ListOptions, WriteOptions, encode};
use kontiki_proto::{DynApi, Registry, Resource, Status, Target};
use kontiki_store::{RangeRequest, ReadError, Revision, Store, WatchError, WatchItem};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{FINALIZER, GROUP, PLURAL, definition};
use crate::openapi::Declared;
use crate::storage;

/// How long to wait before trying again after an error, and between looks at definitions that are going.
const PAUSE: Duration = Duration::from_millis(500);
/// Objects of a definition that is going are removed in pages of this size.
const PAGE: u64 = 500;

fn prefix() -> Bytes {
    format!("{}{GROUP}/{PLURAL}/", storage::ROOT).into()
}

fn definitions(store: &Store) -> Result<(Vec<Value>, Revision), ReadError> {
    let range = store.range(&RangeRequest { prefix: prefix(), ..RangeRequest::default() })?;
    let read = range.entries.iter().filter_map(|entry| {
        serde_json::from_slice(&entry.value)
            .inspect_err(|error| tracing::error!(%error, "a stored definition cannot be read"))
            .ok()
    });
    Ok((read.collect(), range.revision))
}

/// The built-in rows with those of the definitions, in the order of their names.
pub fn registry(definitions: &[Value]) -> Registry {
    Registry::builtin().with(definitions.iter().flat_map(definition::rows).map(Arc::new))
}

/// The schemas that served versions declare.
pub fn declared(definitions: &[Value]) -> Declared {
    let mut declared = Declared::new();
    for of in definitions {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let (group, kind) = (text(&of["spec"]["group"]), text(&of["status"]["acceptedNames"]["kind"]));
        for version in of["spec"]["versions"].as_array().into_iter().flatten() {
            let schema = &version["schema"]["openAPIV3Schema"];
            if schema.is_object() && version["served"] == true {
                declared.insert((group.clone(), text(&version["name"]), kind.clone()), schema.clone());
            }
        }
    }
    declared
}

/// Hands all definitions to `set` at each change, the first time at once, until cancelled or the store is stopped. `api`
/// removes the objects of definitions that are being deleted; several servers may do so at once.
pub async fn follow(store: Store, api: DynApi, set: impl Fn(&[Value]) + Send, stop: CancellationToken) {
    loop {
        let read =
            definitions(&store).and_then(|(found, revision)| Ok((found, store.watch(prefix(), revision)?)));
        let (mut found, mut watcher) = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(%error, "custom resource definitions cannot be read; trying again");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(PAUSE) => continue,
                }
            }
        };
        set(&found);
        loop {
            let going: Vec<Value> = found
                .iter()
                .filter(|found| found["metadata"].get("deletionTimestamp").is_some())
                .cloned()
                .collect();
            let clean = async {
                if going.is_empty() {
                    return std::future::pending().await;
                }
                for definition in &going {
                    if let Err(error) = clean(&api, definition).await {
                        tracing::debug!(%error, "objects of a definition cannot be removed yet");
                    }
                }
                tokio::time::sleep(PAUSE).await;
            };
            let item = tokio::select! {
                () = stop.cancelled() => return,
                () = clean => None,
                item = watcher.next() => Some(item),
            };
            match item {
                None | Some(Ok(WatchItem::Progress(_))) => {}
                Some(Ok(WatchItem::Changes(_))) => {
                    let Ok((newer, _)) = definitions(&store) else { break };
                    found = newer;
                    set(&found);
                }
                Some(Err(WatchError::Stopped)) => return,
                Some(Err(error)) => {
                    tracing::debug!(%error, "the watch of definitions ended; listing again");
                    break;
                }
            }
        }
    }
}

/// Deletes the objects of a definition that is going, and lets it go when none is left.
async fn clean(api: &DynApi, of: &Value) -> Result<(), Status> {
    if let Some(row) = definition::rows(of).first()
        && remove_all(api, row).await?
    {
        return Ok(());
    }
    let name = of["metadata"]["name"].as_str().unwrap_or_default();
    let Some(row) = Registry::builtin().find(GROUP, "v1", PLURAL) else { return Ok(()) };
    let target = Target::of(row).named(name);
    let bytes = match api.get(&target, &Default::default()).await {
        Err(status) if status.is_not_found() => return Ok(()),
        other => other?,
    };
    let mut stored: Value =
        serde_json::from_slice(&bytes).map_err(|error| Status::internal(error.to_string()))?;
    let Some(finalizers) = stored["metadata"]["finalizers"].as_array_mut() else { return Ok(()) };
    let before = finalizers.len();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    if finalizers.len() == before {
        return Ok(());
    }
    match api.update(&target, encode(&stored)?, &WriteOptions::default()).await {
        // Another server, or somebody, was faster: the next look decides.
        Err(status) if !status.is_conflict() && !status.is_not_found() => Err(status),
        _ => Ok(()),
    }
}

/// Whether objects are left, if only because their own finalizers hold them.
async fn remove_all(api: &DynApi, row: &Resource) -> Result<bool, Status> {
    let options = ListOptions { limit: PAGE, ..ListOptions::default() };
    let page = api.list(&Target::of(row), &options).await?;
    for item in &page.items {
        let object: Value =
            serde_json::from_slice(item).map_err(|error| Status::internal(error.to_string()))?;
        let metadata = &object["metadata"];
        if metadata.get("deletionTimestamp").is_some() {
            continue;
        }
        let text = |field: &str| metadata[field].as_str().unwrap_or_default();
        let target = Target::of(row).within(text("namespace")).named(text("name"));
        match api.delete(&target, &DeleteOptions::default().only(text("uid"))).await {
            Err(status) if !status.is_not_found() && !status.is_conflict() => return Err(status),
            _ => {}
        }
    }
    Ok(!page.items.is_empty())
}
