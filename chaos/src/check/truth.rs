//! What happened at each revision, as all witnesses together know it: acknowledged transactions, watchers, readers.
//!
//! No witness is believed over another: where two differ, the difference is kept as a contradiction.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Violation;
use crate::history::{Action, History, Item, Key, Outcome, Revision, Value, Version};

/// One key at one revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// `None`: absent.
    pub value: Option<Value>,
    /// Whether it changed at this revision; a delete of nothing is told the current revision and changes nothing.
    pub changed: bool,
}

/// What happened, by key and by revision.
#[derive(Debug, Default)]
pub struct Truth {
    pub by_key: HashMap<Key, BTreeMap<Revision, Known>>,
    /// Keys that certainly changed at a revision.
    pub by_revision: BTreeMap<Revision, BTreeMap<Key, Option<Value>>>,
    /// Where a value that was found stands: its key and revision.
    pub places: HashMap<Value, (Key, Revision)>,
    /// Witnesses that contradict one another.
    pub contradictions: Vec<Violation>,
    /// The values that clients meant to write, with the numbers of their operations.
    pub writers: HashMap<Value, usize>,
}

impl Truth {
    pub fn of(history: &History) -> Truth {
        let mut truth = Truth::default();
        for (number, operation) in history.operations.iter().enumerate() {
            for value in operation.action.writes().iter().filter_map(|write| write.value()) {
                truth.writers.insert(value, number);
            }
        }
        for operation in &history.operations {
            match (&operation.action, &operation.outcome) {
                (Action::Txn(txn), Outcome::Done { revision }) if *revision > 0 => {
                    // With a put among the writes the revision is the transaction's own.
                    let own = txn.writes.iter().any(|write| write.value().is_some());
                    for (position, write) in txn.writes.iter().enumerate() {
                        let last = !txn.writes[position + 1..].iter().any(|later| later.key() == write.key());
                        if last {
                            let changed = write.value().is_some();
                            let known = Known { value: write.value(), changed };
                            debug_assert!(own || !changed);
                            truth.learn(write.key(), *revision, known, "an acknowledged write");
                        }
                    }
                }
                (_, Outcome::Found { entries, .. }) => {
                    entries.iter().for_each(|(key, version)| truth.found(key, *version, "a read"));
                }
                (_, Outcome::Conflict { current, .. }) => {
                    let told = current.iter().filter_map(|(key, version)| Some((key, (*version)?)));
                    told.for_each(|(key, version)| truth.found(key, version, "a refusal"));
                }
                _ => {}
            }
        }
        for watched in &history.watches {
            for (_, item) in &watched.items {
                match item {
                    Item::Changes { revision, changes } => {
                        let mut done = HashSet::new();
                        for change in changes.iter().rev().filter(|change| done.insert(change.key.clone())) {
                            let known = Known { value: change.value, changed: true };
                            truth.learn(&change.key, *revision, known, "a watcher");
                        }
                        for change in changes {
                            if let Some(Some(version)) = change.previous {
                                truth.found(&change.key, version, "a watcher's previous value");
                            }
                        }
                    }
                    Item::Listed { entries, .. } => {
                        entries
                            .iter()
                            .for_each(|(key, version)| truth.found(key, *version, "a watcher's list"));
                    }
                    _ => {}
                }
            }
        }
        for last in &history.finals {
            for (key, version) in &last.entries {
                truth.found(key, *version, "a final state");
            }
        }
        truth
    }

    fn found(&mut self, key: &Key, version: Version, witness: &str) {
        let known = Known { value: Some(version.value), changed: true };
        self.learn(key, version.revision, known, witness);
    }

    fn learn(&mut self, key: &Key, revision: Revision, known: Known, witness: &str) {
        if let Some(value) = known.value {
            match self.places.get(&value) {
                Some((other, at)) if (other, *at) != (key, revision) => self.contradictions.push(format!(
                    "{witness} has {key}={value} at revision {revision}, others have {other}={value} at revision {at}"
                )),
                Some(_) => return,
                None => drop(self.places.insert(value, (key.clone(), revision))),
            }
        }
        let revisions = match self.by_key.get_mut(key) {
            Some(revisions) => revisions,
            None => self.by_key.entry(key.clone()).or_default(),
        };
        match revisions.get_mut(&revision) {
            Some(before) if before.value != known.value => {
                self.contradictions.push(format!(
                    "{witness} has {key}={} at revision {revision}, another has {}",
                    Shown(known.value),
                    Shown(before.value)
                ));
                return;
            }
            Some(before) => before.changed |= known.changed,
            None => drop(revisions.insert(revision, known)),
        }
        if known.changed {
            self.by_revision.entry(revision).or_default().insert(key.clone(), known.value);
        }
    }

    /// The last that is known of a key at or before a revision.
    pub fn at(&self, key: &str, revision: Revision) -> Option<(Revision, Known)> {
        let (at, known) = self.by_key.get(key)?.range(..=revision).next_back()?;
        Some((*at, *known))
    }

    /// The newest revision that anybody knows.
    pub fn newest(&self) -> Revision {
        self.by_revision.keys().next_back().copied().unwrap_or_default()
    }
}

/// A value, or that there is none.
pub struct Shown(pub Option<Value>);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("nothing"),
        }
    }
}
