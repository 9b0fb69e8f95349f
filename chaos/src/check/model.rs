//! A correct store in a few lines, whose random histories every checker must pass.
//!
//! One state, changed at one moment of each operation; replicas that follow it at their own pace; watchers that lose their
//! streams; clients that lose answers; leases that run out; a leader that changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Evidence, Guarantee};
use crate::history::*;
use crate::observe::{Fact, LogId, Observation, Observations, Vote};

const KEYS: [&str; 5] = ["a/1", "a/2", "b/1", "b/2", "b/3"];
const SERVERS: usize = 3;
const CLIENTS: usize = 6;

/// Random histories of the model pass; the same ones every time.
#[track_caller]
pub fn passes(guarantee: &Guarantee) {
    let config = ProptestConfig {
        cases: 96,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(3),
        ..ProptestConfig::default()
    };
    let judged = TestRunner::new(config).run(&(any::<u64>(), 20_usize..400), |(seed, steps)| {
        let (history, observations) = run(seed, steps);
        let found = (guarantee.check)(&Evidence::new(&history, &observations));
        prop_assert!(found.is_empty(), "{found:#?}");
        Ok(())
    });
    if let Err(error) = judged {
        panic!("{error}");
    }
}

struct Running {
    operation: Operation,
    /// What it will answer, once it has taken effect.
    effect: Option<Outcome>,
}

#[derive(Clone)]
struct Held {
    version: Version,
    lease: Option<LeaseId>,
}

type Changed = (Key, Option<Value>, Option<Version>);

struct Lease {
    ttl: Duration,
    deadline: Duration,
}

struct Watching {
    record: Watched,
    server: ServerId,
    position: Revision,
    open: bool,
}

struct Model {
    random: StdRng,
    now: Duration,
    revision: Revision,
    state: BTreeMap<Key, Held>,
    /// What each revision changed, and the state after it.
    log: BTreeMap<Revision, (Vec<Changed>, BTreeMap<Key, Version>)>,
    leases: BTreeMap<LeaseId, Lease>,
    granted: LeaseId,
    value: Value,
    applied: [Revision; SERVERS],
    running: Vec<Option<Running>>,
    watching: Vec<Watching>,
    history: History,
    facts: Vec<Observation>,
    term: u64,
}

/// A run of the model.
pub fn run(seed: u64, steps: usize) -> (History, Observations) {
    let mut model = Model {
        random: StdRng::seed_from_u64(seed),
        now: Duration::ZERO,
        revision: 1,
        state: BTreeMap::new(),
        log: BTreeMap::from([(1, (Vec::new(), BTreeMap::new()))]),
        leases: BTreeMap::new(),
        granted: 0,
        value: 0,
        applied: [1; SERVERS],
        running: (0..CLIENTS).map(|_| None).collect(),
        watching: Vec::new(),
        history: History::default(),
        facts: Vec::new(),
        term: 0,
    };
    for (watcher, prefix) in ["", "a/", "b/", ""].into_iter().enumerate() {
        let record = Watched { watcher, prefix: prefix.into(), ..Watched::default() };
        model.watching.push(Watching { record, server: watcher % SERVERS, position: 1, open: false });
    }
    model.elect();
    for _ in 0..steps {
        model.step();
    }
    model.finish()
}

impl Model {
    fn see(&mut self, server: ServerId, fact: Fact) {
        self.facts.push(Observation { at: self.now, server, life: 1, fact });
    }

    fn elect(&mut self) {
        self.term += 1;
        let (term, leader) = (self.term, self.random.random_range(0..SERVERS));
        for server in 0..SERVERS {
            self.see(server, Fact::Voted(Vote { term, candidate: leader }));
        }
        self.see(leader, Fact::Leads { term });
    }

    fn step(&mut self) {
        self.now += Duration::from_micros(self.random.random_range(0..3000));
        self.expire();
        match self.random.random_range(0..100) {
            0..60 => {
                let client = self.random.random_range(0..CLIENTS);
                self.advance(client);
            }
            60..75 => {
                let server = self.random.random_range(0..SERVERS);
                let upto = self.random.random_range(self.applied[server]..=self.revision);
                self.apply(server, upto);
            }
            75..98 => {
                let watcher = self.random.random_range(0..self.watching.len());
                self.watch(watcher);
            }
            _ => self.elect(),
        }
    }

    fn apply(&mut self, server: ServerId, upto: Revision) {
        for revision in self.applied[server] + 1..=upto {
            let at = LogId { term: 1, index: revision };
            self.see(server, Fact::Logged { at, hash: revision * 31 });
            self.see(server, Fact::Applied { at, hash: revision * 31 });
            self.see(server, Fact::State { revision, hash: revision * 7 });
        }
        self.applied[server] = self.applied[server].max(upto);
    }

    fn commit(&mut self, writes: &[Write]) {
        let revision = self.revision + 1;
        let mut last: BTreeMap<Key, &Write> = BTreeMap::new();
        for write in writes {
            last.insert(write.key().clone(), write);
        }
        let mut changes = Vec::new();
        for (key, write) in last {
            let before = self.state.get(&key).map(|held| held.version);
            match write {
                Write::Put { value, lease, .. } => {
                    let version = Version { value: *value, revision };
                    self.state.insert(key.clone(), Held { version, lease: *lease });
                }
                Write::Delete { .. } if before.is_none() => continue,
                Write::Delete { .. } => drop(self.state.remove(&key)),
            }
            changes.push((key, write.value(), before));
        }
        if !changes.is_empty() {
            self.revision = revision;
            let state = self.state.iter().map(|(key, held)| (key.clone(), held.version)).collect();
            self.log.insert(revision, (changes, state));
        }
    }

    fn end(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let keys = self.state.iter().filter(|(_, held)| held.lease == Some(lease));
        let writes: Vec<Write> = keys.map(|(key, _)| Write::Delete { key: key.clone() }).collect();
        self.commit(&writes);
    }

    fn expire(&mut self) {
        let due: Vec<LeaseId> =
            self.leases.iter().filter(|(_, lease)| lease.deadline <= self.now).map(|(id, _)| *id).collect();
        due.into_iter().for_each(|lease| self.end(lease));
    }

    /// A client calls, its call takes effect, or it is answered.
    fn advance(&mut self, client: usize) {
        match self.running[client].take() {
            None => {
                let server = self.random.random_range(0..SERVERS);
                let operation = Operation {
                    client,
                    server: Some(server),
                    action: self.any_action(),
                    invoked: self.now,
                    returned: None,
                    outcome: Outcome::Unknown("lost".into()),
                };
                self.running[client] = Some(Running { operation, effect: None });
            }
            Some(Running { operation, effect: None }) => {
                let effect = match self.random.random_range(0..20) {
                    0 => Outcome::Refused("no leader".into()),
                    // Lost on its way there.
                    1 => return self.history.operations.push(operation),
                    _ => self.perform(&operation),
                };
                self.running[client] = Some(Running { operation, effect: Some(effect) });
            }
            Some(Running { mut operation, effect: Some(effect) }) => {
                // Or lost on its way back.
                if self.random.random_range(0..12) > 0 {
                    operation.returned = Some(self.now);
                    operation.outcome = effect;
                }
                self.history.operations.push(operation);
            }
        }
    }

    fn any_key(&mut self) -> Key {
        KEYS[self.random.random_range(0..KEYS.len())].into()
    }

    fn new_value(&mut self) -> Value {
        self.value += 1;
        self.value
    }

    fn any_action(&mut self) -> Action {
        let (key, value) = (self.any_key(), self.new_value());
        let lease = self.random.random_range(self.granted.min(1)..=self.granted);
        let revision = self.state.get(&key).map_or(0, |held| held.version.revision);
        match self.random.random_range(0..100) {
            0..15 => Action::put(&key, value),
            15..30 => Action::swap(&key, revision, value),
            30..40 => Action::delete(&key),
            40..50 => {
                let (other, second) = (self.any_key(), self.new_value());
                let put = Write::Put { key, value, lease: None };
                let other = match self.random.random_bool(0.5) {
                    true => Write::Delete { key: other },
                    false => Write::Put { key: other, value: second, lease: None },
                };
                Action::Txn(Txn { guards: Vec::new(), writes: vec![other, put] })
            }
            50..60 => Action::Txn(Txn {
                guards: Vec::new(),
                writes: vec![Write::Put { key, value, lease: Some(lease) }],
            }),
            60..75 => Action::Read { scope: Scope::Key(key), linearizable: self.random.random_bool(0.7) },
            75..90 => {
                let (prefix, limit) =
                    (["", "a/", "b/"][self.random.random_range(0..3)], self.random.random_range(0..4));
                let scope = Scope::Prefix { prefix: prefix.into(), limit };
                Action::Read { scope, linearizable: self.random.random_bool(0.7) }
            }
            90..94 => Action::Grant { ttl: Duration::from_millis(self.random.random_range(5..60)) },
            94..98 => Action::Renew(lease),
            _ => Action::Revoke(lease),
        }
    }

    fn perform(&mut self, operation: &Operation) -> Outcome {
        match &operation.action {
            Action::Txn(txn) => {
                let fits = |guard: &Guard| {
                    self.state.get(&guard.key).map_or(0, |held| held.version.revision) == guard.revision
                };
                if !txn.guards.iter().all(fits) {
                    let current = txn
                        .guards
                        .iter()
                        .map(|guard| (guard.key.clone(), self.state.get(&guard.key).map(|held| held.version)))
                        .collect();
                    return Outcome::Conflict { revision: self.revision, current };
                }
                let lease = |write: &Write| match write {
                    Write::Put { lease: Some(lease), .. } => !self.leases.contains_key(lease),
                    _ => false,
                };
                if txn.writes.iter().any(lease) {
                    return Outcome::NoSuchLease;
                }
                self.commit(&txn.writes);
                Outcome::Done { revision: self.revision }
            }
            Action::Read { scope, linearizable } => {
                let server = operation.server.unwrap_or_default();
                if *linearizable {
                    self.apply(server, self.revision);
                }
                let revision = self.applied[server];
                let covered = self.log[&revision].1.iter().filter(|(key, _)| scope.covers(key));
                let limit = if scope.limit() == 0 { usize::MAX } else { scope.limit() };
                let entries = covered.take(limit).map(|(key, version)| (key.clone(), *version)).collect();
                Outcome::Found { revision: Some(revision), entries }
            }
            Action::Grant { ttl } => {
                self.granted += 1;
                self.leases.insert(self.granted, Lease { ttl: *ttl, deadline: self.now + *ttl });
                Outcome::Granted(self.granted)
            }
            Action::Renew(lease) => match self.leases.get_mut(lease) {
                Some(lease) => {
                    lease.deadline = self.now + lease.ttl;
                    Outcome::Done { revision: 0 }
                }
                None => Outcome::NoSuchLease,
            },
            Action::Revoke(lease) if self.leases.contains_key(lease) => {
                self.end(*lease);
                Outcome::Done { revision: 0 }
            }
            Action::Revoke(_) => Outcome::NoSuchLease,
        }
    }

    fn watch(&mut self, number: usize) {
        let chance = self.random.random_range(0..12);
        let now = self.now;
        let watching = &mut self.watching[number];
        let mut note = |item: Item| watching.record.items.push((now, item));
        if !watching.open {
            // Another server may be behind what the watcher has; the store makes it wait.
            let server = (0..SERVERS).find(|server| self.applied[*server] >= watching.position);
            let Some(server) = server else { return };
            watching.server = server;
            note(Item::Opened { server, after: watching.position });
            watching.open = true;
            return;
        }
        let applied = self.applied[watching.server];
        match chance {
            0 => {
                note(Item::Ended(End::Broken("cut".into())));
                watching.open = false;
            }
            1 => {
                note(Item::Ended(End::ListAgain("too slow".into())));
                let entries = self.log[&applied].1.iter().map(|(key, version)| (key.clone(), *version));
                let entries = entries.filter(|(key, _)| key.starts_with(&watching.record.prefix)).collect();
                note(Item::Listed { revision: applied, entries });
                watching.position = applied;
                watching.open = false;
            }
            _ => {
                let upto = applied.min(watching.position + chance - 2).max(watching.position);
                for (revision, (changes, _)) in
                    self.log.range(watching.position..=upto).filter(|(at, _)| **at > watching.position)
                {
                    let changes: Vec<Change> = changes
                        .iter()
                        .filter(|(key, _, _)| key.starts_with(&watching.record.prefix))
                        .map(|(key, value, previous)| Change {
                            key: key.clone(),
                            value: *value,
                            previous: Some(*previous),
                        })
                        .collect();
                    if !changes.is_empty() {
                        note(Item::Changes { revision: *revision, changes });
                    }
                }
                watching.position = watching.position.max(upto);
                if chance == 5 {
                    note(Item::Bookmark(watching.position));
                }
            }
        }
    }

    fn finish(mut self) -> (History, Observations) {
        let healed = self.now;
        for running in self.running.iter_mut().filter_map(Option::take) {
            self.history.operations.push(running.operation);
        }
        for server in 0..SERVERS {
            let (key, value) = (self.any_key(), self.new_value());
            for action in [Action::put(&key, value), Action::get(&key)] {
                self.now += Duration::from_millis(1);
                let (invoked, outcome) = (self.now, Outcome::Unknown(String::new()));
                let mut operation =
                    Operation { client: 99, server: Some(server), action, invoked, returned: None, outcome };
                operation.outcome = self.perform(&operation);
                self.now += Duration::from_millis(1);
                operation.returned = Some(self.now);
                self.history.operations.push(operation);
            }
        }
        self.now += Duration::from_millis(100);
        self.expire();
        let leases: BTreeMap<LeaseId, Duration> =
            self.leases.iter().map(|(id, lease)| (*id, lease.ttl)).collect();
        for server in 0..SERVERS {
            self.apply(server, self.revision);
            self.see(server, Fact::Leases { revision: self.revision, leases: leases.clone() });
            let entries: BTreeMap<Key, Version> =
                self.state.iter().map(|(key, held)| (key.clone(), held.version)).collect();
            self.history.finals.push(Final {
                server,
                revision: self.revision,
                state_hash: Some(self.revision * 7),
                listed: entries.len(),
                entries,
            });
        }
        for number in 0..self.watching.len() {
            for _ in 0..10_000 {
                if self.watching[number].open && self.watching[number].position == self.revision {
                    break;
                }
                self.watch(number);
            }
            let position = self.watching[number].position;
            let record = &mut self.watching[number].record;
            record.items.push((self.now, Item::Bookmark(position)));
            record.must_reach = Some(self.revision);
        }
        self.history.watches = self.watching.drain(..).map(|watching| watching.record).collect();
        self.history.operations.sort_by_key(|operation| operation.invoked);
        let observations = Observations {
            servers: SERVERS,
            voters: BTreeSet::new(),
            facts: self.facts,
            faults: Vec::new(),
            healed: Some(healed),
            patience: Duration::from_millis(60),
            drift_permille: 0,
            ended: self.now,
        };
        (self.history, observations)
    }
}
