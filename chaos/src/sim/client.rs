//! Clients and watchers. Each talks to one server, on that server's own runtime, and notes what it was told.
//!
//! A client lives as long as its server's process; the one that takes its place after a restart carries its number on.
//! A watcher goes on where it was: it knows what it has seen, and resumes there, also on another server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kontiki_store::{
    Entry, Guard as StoreGuard, LeaseId, Op, Outcome as StoreOutcome, RangeRequest, ReadError, Store,
    StoreError, Txn as StoreTxn, WatchItem,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::api;
use super::entropy::mix;
use super::record::{Pulse, Record};
use crate::history::{Action, Change, End, Guard, Item, Key, Outcome, Scope, ServerId, Txn, Version, Write};

/// Keys that everybody writes.
const SHARED: u64 = 5;
/// After a request that was not done, so that a dead cluster does not fill the history.
const PAUSE: Duration = Duration::from_millis(60);
/// A watcher that the store is slow to serve asks again after this.
const AGAIN: Duration = Duration::from_millis(50);

/// What a server offers to clients: its store, and the API's verbs before it where they are wanted.
#[derive(Clone)]
pub struct Front {
    pub store: Store,
    pub verbs: Option<api::Verbs>,
}

pub struct Client {
    pub number: usize,
    pub server: ServerId,
    pub front: Front,
    pub record: Arc<Record>,
    pub pulse: Arc<Pulse>,
    /// Mean time between two requests.
    pub think: Duration,
    random: SmallRng,
    /// What it believes the shared keys hold.
    known: Vec<u64>,
    lease: Option<LeaseId>,
}

pub(super) fn key(number: u64) -> Key {
    Key::from(format!("k/{}/{number}", if number.is_multiple_of(2) { "even" } else { "odd" }))
}

impl Client {
    pub fn new(
        (number, server): (usize, ServerId),
        front: Front,
        record: Arc<Record>,
        pulse: Arc<Pulse>,
        think: Duration,
        seed: u64,
    ) -> Client {
        let random = SmallRng::seed_from_u64(mix(seed ^ (number as u64) << 32));
        Client {
            number,
            server,
            front,
            record,
            pulse,
            think,
            random,
            known: vec![0; SHARED as usize],
            lease: None,
        }
    }

    /// Until the run closes; its last request is brought to its end.
    pub async fn run(mut self, closing: Arc<Pulse>) {
        while closing.beats() {
            let think = self.think.as_micros() as u64;
            let pause = Duration::from_micros(self.random.random_range(think / 4..think * 2));
            tokio::time::sleep(pause).await;
            let action = self.choose();
            let outcome = self.perform(action).await;
            if matches!(outcome, Outcome::Refused(_) | Outcome::Unknown(_)) {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Does it, and notes it.
    pub async fn perform(&mut self, action: Action) -> Outcome {
        let ticket = self.record.invoke(self.number, self.server, action.clone());
        let outcome = match &self.front.verbs {
            Some(verbs) => api::execute(verbs, &self.record, &action).await,
            None => execute(&self.front.store, &self.record, &action).await,
        };
        self.learn(&action, &outcome);
        self.record.complete(ticket, &self.pulse, outcome.clone());
        outcome
    }

    fn learn(&mut self, action: &Action, outcome: &Outcome) {
        let mut knows = |key: &Key, revision: u64| {
            if let Some(place) = (0..SHARED).find(|number| &self::key(*number) == key) {
                self.known[place as usize] = revision;
            }
        };
        match (action, outcome) {
            (Action::Txn(txn), Outcome::Done { revision }) => {
                for write in &txn.writes {
                    knows(write.key(), if write.value().is_some() { *revision } else { 0 });
                }
            }
            (_, Outcome::Conflict { current, .. }) => {
                current.iter().for_each(|(key, held)| knows(key, held.map_or(0, |held| held.revision)));
            }
            (Action::Read { scope: Scope::Key(key), .. }, Outcome::Found { entries, .. }) => {
                knows(key, entries.first().map_or(0, |(_, held)| held.revision));
            }
            (Action::Grant { .. }, Outcome::Granted(lease)) => self.lease = Some(*lease),
            (_, Outcome::NoSuchLease) | (Action::Revoke(_), Outcome::Done { .. }) => self.lease = None,
            _ => {}
        }
    }

    fn choose(&mut self) -> Action {
        if let Some(verbs) = &self.front.verbs {
            return api::choose(verbs, &mut self.random, &self.record, &self.known);
        }
        let one = self.random.random_range(0..SHARED);
        let put = |record: &Record, number: u64| Write::Put {
            key: key(number),
            value: record.new_value(),
            lease: None,
        };
        match self.random.random_range(0..100) {
            0..28 => Action::get(&key(one)),
            28..34 => {
                let prefix = ["k/", "k/even/", "k/odd/", ""][self.random.random_range(0..4)];
                let limit = if self.random.random_bool(0.2) { 2 } else { 0 };
                Action::Read { scope: Scope::Prefix { prefix: prefix.into(), limit }, linearizable: true }
            }
            34..42 => Action::Read { scope: Scope::Key(key(one)), linearizable: false },
            42..60 => Action::Txn(Txn { guards: Vec::new(), writes: vec![put(&self.record, one)] }),
            60..74 => {
                let revision = self.known[one as usize];
                let guards = vec![Guard { key: key(one), revision }];
                Action::Txn(Txn { guards, writes: vec![put(&self.record, one)] })
            }
            74..82 => {
                // Several keys at once; now and then it hangs on one of them.
                let other = (one + self.random.random_range(1..SHARED)) % SHARED;
                let guarded = self.random.random_bool(0.5);
                let guards = guarded
                    .then(|| Guard { key: key(one), revision: self.known[one as usize] })
                    .into_iter()
                    .collect();
                let second = if self.random.random_bool(0.2) {
                    Write::Delete { key: key(other) }
                } else {
                    put(&self.record, other)
                };
                Action::Txn(Txn { guards, writes: vec![put(&self.record, one), second] })
            }
            82..88 => Action::delete(&key(one)),
            _ => self.choose_lease(),
        }
    }

    fn choose_lease(&mut self) -> Action {
        let Some(lease) = self.lease else {
            return Action::Grant { ttl: Duration::from_millis(self.random.random_range(800..3000)) };
        };
        match self.random.random_range(0..8) {
            0 => Action::Revoke(lease),
            1 => {
                self.lease = None;
                Action::Renew(lease)
            }
            2 | 3 => Action::Renew(lease),
            _ => {
                let key = Key::from(format!("lease/{}", self.number));
                let value = self.record.new_value();
                Action::Txn(Txn {
                    guards: Vec::new(),
                    writes: vec![Write::Put { key, value, lease: Some(lease) }],
                })
            }
        }
    }
}

fn refused(error: &StoreError) -> Outcome {
    match error {
        StoreError::Unknown(_) => Outcome::Unknown(error.to_string()),
        StoreError::NoSuchLease(_) => Outcome::NoSuchLease,
        error => Outcome::Refused(error.to_string()),
    }
}

pub fn version(record: &Record, entry: &Entry) -> (Key, Version) {
    let key = Key::from(String::from_utf8_lossy(&entry.key).as_ref());
    (key, Version { value: record.value_of(&entry.value), revision: entry.mod_revision })
}

async fn execute(store: &Store, record: &Record, action: &Action) -> Outcome {
    match action {
        Action::Txn(txn) => {
            let guards = txn.guards.iter().map(|guard| StoreGuard {
                key: Bytes::from(guard.key.to_string()),
                mod_revision: guard.revision,
            });
            let ops = txn.writes.iter().map(|write| match write {
                Write::Put { key, value, lease } => Op::Put {
                    key: Bytes::from(key.to_string()),
                    value: record.bytes_of(*value),
                    attributes: Arc::from([]),
                    lease: *lease,
                },
                Write::Delete { key } => Op::Delete { key: Bytes::from(key.to_string()) },
            });
            match store.propose(StoreTxn { guards: guards.collect(), ops: ops.collect() }).await {
                Ok(StoreOutcome::Committed { revision }) => Outcome::Done { revision },
                Ok(StoreOutcome::Conflict { revision, current }) => {
                    let held = txn.guards.iter().zip(current).map(|(guard, entry)| {
                        (guard.key.clone(), entry.map(|entry| version(record, &entry).1))
                    });
                    Outcome::Conflict { revision, current: held.collect() }
                }
                Err(error) => refused(&error),
            }
        }
        Action::Read { scope, linearizable } => {
            if *linearizable && let Err(error) = store.barrier().await {
                return Outcome::Refused(error.to_string());
            }
            read(store, record, scope)
        }
        Action::Grant { ttl } => match store.grant_lease(*ttl).await {
            Ok(lease) => Outcome::Granted(lease),
            Err(error) => refused(&error),
        },
        Action::Renew(lease) => done(store.renew_lease(*lease).await),
        Action::Revoke(lease) => done(store.revoke_lease(*lease).await),
    }
}

fn done(result: Result<(), StoreError>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done { revision: 0 },
        Err(error) => refused(&error),
    }
}

fn read(store: &Store, record: &Record, scope: &Scope) -> Outcome {
    let prefix = match scope {
        Scope::Key(key) | Scope::Prefix { prefix: key, .. } => Bytes::from(key.to_string()),
    };
    match store.range(&RangeRequest { prefix, limit: scope.limit(), ..RangeRequest::default() }) {
        Ok(range) => {
            let entries = range.entries.iter().map(|entry| version(record, entry));
            let entries = entries.filter(|(key, _)| scope.covers(key)).collect();
            Outcome::Found { revision: Some(range.revision), entries }
        }
        Err(error) => Outcome::Refused(error.to_string()),
    }
}

/// Watches for as long as the server lives, from where the watcher's record ends.
pub async fn watch(
    watcher: usize,
    server: ServerId,
    store: Store,
    record: Arc<Record>,
    pulse: Arc<Pulse>,
    seed: u64,
) {
    let mut random = SmallRng::seed_from_u64(mix(seed ^ (watcher as u64) << 40));
    let prefix = record.watches.lock().get(watcher).map(|watched| watched.prefix.clone()).unwrap_or_default();
    loop {
        let after = record.reached(watcher);
        if after == 0 {
            list(watcher, &prefix, &store, &record, &pulse).await;
            continue;
        }
        let mut stream = match store.watch(Bytes::from(prefix.clone()), after) {
            Ok(stream) => stream,
            Err(ReadError::Future { .. }) => {
                // This server is behind the one it watched before.
                let _ = store.wait_for(after, Duration::from_secs(1)).await;
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            Err(ReadError::Compacted { .. }) => {
                list(watcher, &prefix, &store, &record, &pulse).await;
                continue;
            }
        };
        record.watched(watcher, &pulse, Item::Opened { server, after });
        // Now and then a watcher hangs up and resumes.
        let mut left = random.random_range(5..400);
        loop {
            let next = stream.next().await;
            match next {
                Ok(WatchItem::Changes(changes)) => {
                    let revision = changes.first().map_or(0, |change| change.revision);
                    let changes = changes.iter().map(|change| {
                        let (key, held) = version(&record, &change.entry);
                        let previous = change.previous.as_ref().map(|entry| version(&record, entry).1);
                        Change {
                            key,
                            value: (!change.deleted).then_some(held.value),
                            previous: Some(previous),
                        }
                    });
                    record.watched(watcher, &pulse, Item::Changes { revision, changes: changes.collect() });
                }
                Ok(WatchItem::Progress(revision)) => {
                    record.watched(watcher, &pulse, Item::Bookmark(revision));
                }
                Err(kontiki_store::WatchError::Stopped) => {
                    record.watched(watcher, &pulse, Item::Ended(End::Broken("stopped".to_owned())));
                    tokio::time::sleep(AGAIN).await;
                    break;
                }
                Err(error) => {
                    record.watched(watcher, &pulse, Item::Ended(End::ListAgain(error.to_string())));
                    list(watcher, &prefix, &store, &record, &pulse).await;
                    break;
                }
            }
            left -= 1;
            if left == 0 {
                record.watched(watcher, &pulse, Item::Ended(End::Broken("hung up".to_owned())));
                break;
            }
            if random.random_bool(0.02) {
                // A watcher that reads slowly, for a while.
                tokio::time::sleep(Duration::from_millis(random.random_range(1..600))).await;
            }
        }
    }
}

async fn list(watcher: usize, prefix: &str, store: &Store, record: &Record, pulse: &Pulse) {
    // A list must not go back behind what the watcher knows.
    let known = record.reached(watcher);
    while store.revision() < known {
        let _ = store.wait_for(known, Duration::from_secs(1)).await;
        tokio::time::sleep(AGAIN).await;
    }
    let scope = Scope::Prefix { prefix: prefix.into(), limit: 0 };
    if let Outcome::Found { revision: Some(revision), entries } = read(store, record, &scope) {
        record.watched(watcher, pulse, Item::Listed { revision, entries });
    }
    tokio::task::yield_now().await;
}
