//! The API's verbs in simulation: each server has a real API server before its store, without a network between, and
//! clients create, get, list, update, patch, delete and watch ConfigMaps through it.
//!
//! A key of the history is a ConfigMap's name, its value a number in the map. Histories are judged like all others: the
//! verbs are as linearizable as the store, and their watches keep the same promises.
//!
//! The chain reads the calendar for creation times; in a run it is the world's time, so that a run repeats.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use kontiki_apiserver::auth::User;
use kontiki_apiserver::{ApiServer, ServerConfig, storage};
use kontiki_proto::api::{
    DeleteOptions, EventType, GetOptions, ListOptions, PatchType, WatchOptions, WriteOptions, decode,
};
use kontiki_proto::{DynApi, Registry, Status, Target};
use kontiki_store::{Range, Store};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

use super::client::key;
use super::entropy::mix;
use super::record::{Pulse, Record};
use crate::history::{Action, Change, End, Item, Key, Outcome, Scope, ServerId, Version, Write};

const NAMESPACE: &str = "default";
/// Between two attempts at what a server needs before it can serve.
const AGAIN: Duration = Duration::from_millis(50);
/// Seconds of the calendar at which runs begin.
const EPOCH: u64 = 1_767_225_600;
/// Longest time a client waits for an answer; the chain's own limits are longer than a run's patience.
const DEADLINE: Duration = Duration::from_secs(10);

static WANTED: AtomicBool = AtomicBool::new(false);
static WALL_CLOCK: AtomicU64 = AtomicU64::new(0);

/// This process simulates with the API's verbs.
pub fn want() {
    WANTED.store(true, Ordering::Relaxed);
}

pub fn is_wanted() -> bool {
    WANTED.load(Ordering::Relaxed)
}

pub fn set_wall_clock(now: Duration) {
    WALL_CLOCK.store(now.as_nanos() as u64, Ordering::Relaxed);
}

/// What the calendar shows in the simulated world, since 1970; `None` in a process that simulates no verbs.
pub fn wall_clock() -> Option<Duration> {
    is_wanted().then(|| Duration::from_secs(EPOCH) + Duration::from_nanos(WALL_CLOCK.load(Ordering::Relaxed)))
}

/// The verbs of one server.
pub type Verbs = DynApi;

/// Puts an API server before the store; must be called on the server's runtime. `None`: nobody wants verbs.
pub fn serve(store: &Store) -> Option<Verbs> {
    if !is_wanted() {
        return None;
    }
    let config = ServerConfig { service_account_key_pem: signing_key()?, ..ServerConfig::default() };
    let server = ApiServer::new(config, store.clone()).ok()?;
    let context = Arc::clone(server.context());
    // Ends with the runtime.
    tokio::spawn(async move { context.auth.follow(CancellationToken::new()).await });
    let api = server.local(User::controllers());
    let namespaces = Arc::clone(&api);
    tokio::spawn(async move {
        let body =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}).to_string();
        let target = Target { version: "v1".into(), resource: "namespaces".into(), ..Target::default() };
        loop {
            match namespaces.create(&target, body.clone().into(), &WriteOptions::default()).await {
                Ok(_) => return,
                Err(status) if status.is_already_exists() => return,
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    });
    Some(api)
}

fn signing_key() -> Option<String> {
    Some(rcgen::KeyPair::generate().ok()?.serialize_pem())
}

/// Names may hold no slash.
fn name_of(key: &str) -> String {
    key.replace('/', ".")
}

fn key_of(name: &str) -> Key {
    name.replace('.', "/").into()
}

fn collection() -> Target {
    Target { version: "v1".into(), resource: "configmaps".into(), ..Target::default() }.within(NAMESPACE)
}

fn object(name: &str, value: u64, revision: u64) -> bytes::Bytes {
    let mut object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE},
        "data": {"value": value.to_string(), "padding": "x".repeat((mix(value) % 200) as usize)}});
    if revision > 0 {
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
    }
    object.to_string().into()
}

fn revision_of(object: &Json) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

fn value_of(object: &Json) -> Option<u64> {
    object["data"]["value"].as_str()?.parse().ok()
}

fn entry_of(object: &Json) -> Option<(Key, Version)> {
    let version = Version { value: value_of(object)?, revision: revision_of(object)? };
    Some((key_of(object["metadata"]["name"].as_str()?), version))
}

/// Without leases, without transactions over several keys, and with the verbs' own guards.
pub fn choose(_: &Verbs, random: &mut SmallRng, record: &Record, known: &[u64]) -> Action {
    let one = random.random_range(0..known.len());
    let key = key(one as u64);
    match random.random_range(0..100) {
        0..25 => Action::get(&key),
        25..38 => Action::Read { scope: Scope::Prefix { prefix: "".into(), limit: 0 }, linearizable: true },
        38..45 => Action::Read { scope: Scope::Key(key), linearizable: false },
        45..65 => Action::put(&key, record.new_value()),
        65..90 => Action::swap(&key, known[one], record.new_value()),
        _ => Action::delete(&key),
    }
}

pub async fn execute(api: &Verbs, _: &Record, action: &Action) -> Outcome {
    let told = async {
        match action {
            Action::Txn(txn) => {
                let guard = txn.guards.first().map(|guard| guard.revision);
                match txn.writes.first() {
                    Some(Write::Put { key, value, .. }) => write(api, key, *value, guard).await,
                    Some(Write::Delete { key }) => {
                        let target = collection().named(&name_of(key));
                        // The answer does not say at which revision.
                        api.delete(&target, &DeleteOptions::default())
                            .await
                            .map(|_| Outcome::Done { revision: 0 })
                    }
                    None => Ok(Outcome::Refused("nothing to do".into())),
                }
            }
            Action::Read { scope: Scope::Key(key), linearizable } => {
                let resource_version = if *linearizable { String::new() } else { "0".into() };
                let options = GetOptions { resource_version, ..GetOptions::default() };
                match api.get(&collection().named(&name_of(key)), &options).await {
                    Ok(document) => {
                        let entries = entry_of(&decode(&document)?).into_iter().collect();
                        Ok(Outcome::Found { revision: None, entries })
                    }
                    Err(status) if status.is_not_found() => {
                        Ok(Outcome::Found { revision: None, entries: Vec::new() })
                    }
                    Err(status) => Err(status),
                }
            }
            Action::Read { scope, .. } => {
                let (revision, mut entries) = list(api).await?;
                entries.retain(|(key, _)| scope.covers(key));
                Ok(Outcome::Found { revision: Some(revision), entries })
            }
            _ => Ok(Outcome::Refused("the API grants no leases".into())),
        }
    };
    match tokio::time::timeout(DEADLINE, told).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(status)) => failed(&status),
        Err(_) => Outcome::Unknown("the client waited no longer".into()),
    }
}

/// Create, update or patch, by what the transaction depends on.
async fn write(api: &Verbs, key: &Key, value: u64, guard: Option<u64>) -> Result<Outcome, Status> {
    let (name, options) = (name_of(key), WriteOptions::default());
    let target = collection().named(&name);
    let written = match guard {
        Some(0) => api.create(&collection(), object(&name, value, 0), &options).await?,
        Some(revision) => api.update(&target, object(&name, value, revision), &options).await?,
        // A probe's key is made by whoever comes first.
        None if key.starts_with("probe/") => {
            match api.update(&target, object(&name, value, 0), &options).await {
                Err(status) if status.is_not_found() => {
                    api.create(&collection(), object(&name, value, 0), &options).await?
                }
                written => written?,
            }
        }
        None if value.is_multiple_of(2) => api.update(&target, object(&name, value, 0), &options).await?,
        None => {
            let body = json!({"data": {"value": value.to_string()}}).to_string();
            api.patch(&target, PatchType::Merge, body.into(), &options).await?
        }
    };
    let written: Json = decode(&written)?;
    Ok(match revision_of(&written) {
        Some(revision) => Outcome::Done { revision },
        None => Outcome::Unknown("an answer without revision".into()),
    })
}

/// 503 and all that blames the request say that nothing was done.
fn failed(status: &Status) -> Outcome {
    let text = format!("{} {}", status.code, status.message);
    match status.code {
        409 => Outcome::Conflict { revision: 0, current: Vec::new() },
        503 | 400..=499 => Outcome::Refused(text),
        _ => Outcome::Unknown(text),
    }
}

async fn list(api: &Verbs) -> Result<(u64, Vec<(Key, Version)>), Status> {
    let list = api.list(&collection(), &ListOptions::default()).await?;
    let mut entries = Vec::new();
    for item in &list.items {
        entries.extend(entry_of(&decode(item)?));
    }
    entries.sort();
    let revision = list.resource_version.parse();
    Ok((revision.map_err(|_| Status::internal("a list without a revision"))?, entries))
}

/// What a range of the whole store holds of the history's keys.
pub fn entries(range: &Range) -> Vec<(Key, Version)> {
    let Some(row) = Registry::builtin().find("", "v1", "configmaps") else { return Vec::new() };
    let prefix = storage::prefix(row, NAMESPACE);
    let ours = range.entries.iter().filter(|entry| entry.key.starts_with(&prefix));
    let found = ours.filter_map(|entry| entry_of(&storage::decode(row, entry).ok()?));
    found.collect()
}

/// Watches for as long as the server lives, from where the watcher's record ends.
pub async fn watch(
    watcher: usize,
    server: ServerId,
    api: Verbs,
    record: Arc<Record>,
    pulse: Arc<Pulse>,
    seed: u64,
) {
    let mut random = SmallRng::seed_from_u64(mix(seed ^ (watcher as u64) << 40));
    let prefix = record.watches.lock().get(watcher).map(|watched| watched.prefix.clone()).unwrap_or_default();
    loop {
        let after = record.reached(watcher);
        if after == 0 {
            relist(watcher, &prefix, &api, &record, &pulse).await;
            continue;
        }
        let options = WatchOptions {
            resource_version: after.to_string(),
            allow_bookmarks: true,
            ..WatchOptions::default()
        };
        let ended = match api.watch(&collection(), &options).await {
            Ok(stream) => {
                record.watched(watcher, &pulse, Item::Opened { server, after });
                let left = random.random_range(5..400);
                match follow(watcher, &prefix, stream, &record, &pulse, left).await {
                    Ok(()) => End::Broken("hung up".into()),
                    Err(status) if status.code == 410 => End::ListAgain(status.message),
                    Err(status) => End::Broken(status.message),
                }
            }
            Err(status) if status.code == 410 => End::ListAgain(status.message),
            Err(status) => End::Broken(status.message),
        };
        let again = matches!(ended, End::ListAgain(_));
        record.watched(watcher, &pulse, Item::Ended(ended));
        if again {
            relist(watcher, &prefix, &api, &record, &pulse).await;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn follow(
    watcher: usize,
    prefix: &str,
    mut stream: kontiki_proto::api::WatchStream,
    record: &Record,
    pulse: &Pulse,
    mut left: u32,
) -> Result<(), Status> {
    while let Some(event) = stream.next().await {
        let event = event?;
        let object: Json = decode(&event.object)?;
        let Some(revision) = revision_of(&object) else { continue };
        if event.event_type == EventType::Bookmark {
            record.watched(watcher, pulse, Item::Bookmark(revision));
            continue;
        }
        let Some((key, held)) = entry_of(&object).filter(|(key, _)| key.starts_with(prefix)) else {
            continue;
        };
        let (value, previous) = match event.event_type {
            EventType::Deleted => (None, None),
            EventType::Added => (Some(held.value), Some(None)),
            _ => (Some(held.value), None),
        };
        let changes = vec![Change { key, value, previous }];
        record.watched(watcher, pulse, Item::Changes { revision, changes });
        left -= 1;
        if left == 0 {
            break;
        }
    }
    Ok(())
}

async fn relist(watcher: usize, prefix: &str, api: &Verbs, record: &Record, pulse: &Pulse) {
    match list(api).await {
        Ok((revision, mut entries)) if revision >= record.reached(watcher) => {
            entries.retain(|(key, _)| key.starts_with(prefix));
            record.watched(watcher, pulse, Item::Listed { revision, entries });
        }
        _ => tokio::time::sleep(AGAIN).await,
    }
}
