//! Histories told by hand, for tests.

use std::collections::HashMap;
use std::time::Duration;

use super::{Evidence, Guarantee};
use crate::history::{
    Action, Change, End, Final, History, Item, Key, LeaseId, Operation, Outcome, Revision, Scope, ServerId,
    Txn, Value, Version, Watched, Write,
};
use crate::observe::{Fact, Observation, Observations};

/// Operations are told one after the other; what follows one changes it. Times are milliseconds; writes are numbered as
/// they are told.
#[derive(Default)]
pub struct Story {
    pub history: History,
    pub observations: Observations,
    next: Revision,
    places: HashMap<Value, Revision>,
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Story {
    pub fn new() -> Story {
        Story {
            next: 2,
            observations: Observations {
                servers: 3,
                patience: ms(1000),
                ended: ms(60_000),
                ..Observations::default()
            },
            ..Story::default()
        }
    }

    fn tell(mut self, action: Action, outcome: Outcome) -> Story {
        let (invoked, returned) = (ms(0), Some(ms(1)));
        let operation = Operation { client: 0, server: None, action, invoked, returned, outcome };
        self.history.operations.push(operation);
        self
    }

    fn last(&mut self) -> &mut Operation {
        self.history.operations.last_mut().expect("an operation was told")
    }

    fn write(mut self, action: Action) -> Story {
        let revision = self.next;
        self.next += 1;
        for value in action.writes().iter().filter_map(Write::value) {
            self.places.insert(value, revision);
        }
        self.tell(action, Outcome::Done { revision })
    }

    pub fn put(self, key: &str, value: Value) -> Story {
        self.write(Action::put(&key.into(), value))
    }

    pub fn put_leased(self, key: &str, value: Value, lease: LeaseId) -> Story {
        let writes = vec![Write::Put { key: key.into(), value, lease: Some(lease) }];
        self.write(Action::Txn(Txn { guards: Vec::new(), writes }))
    }

    pub fn put_both(self, one: (&str, Value), other: (&str, Value)) -> Story {
        let writes = [one, other].map(|(key, value)| Write::Put { key: key.into(), value, lease: None });
        self.write(Action::Txn(Txn { guards: Vec::new(), writes: writes.into() }))
    }

    pub fn swap(self, key: &str, revision: Revision, value: Value) -> Story {
        self.write(Action::swap(&key.into(), revision, value))
    }

    pub fn delete(self, key: &str) -> Story {
        self.write(Action::delete(&key.into()))
    }

    fn version(&self, value: Value) -> Version {
        Version { value, revision: self.places.get(&value).copied().unwrap_or_default() }
    }

    fn reads(self, scope: Scope, entries: Vec<(Key, Version)>) -> Story {
        self.tell(Action::Read { scope, linearizable: true }, Outcome::Found { revision: None, entries })
    }

    pub fn read(self, key: &str, value: Value) -> Story {
        let entries = vec![(key.into(), self.version(value))];
        self.reads(Scope::Key(key.into()), entries)
    }

    pub fn absent(self, key: &str) -> Story {
        self.reads(Scope::Key(key.into()), Vec::new())
    }

    /// A read of all keys.
    pub fn range(self, entries: &[(&str, Value)]) -> Story {
        let entries = entries.iter().map(|(key, value)| ((*key).into(), self.version(*value))).collect();
        self.reads(Scope::Prefix { prefix: "".into(), limit: 0 }, entries)
    }

    pub fn grant(self, lease: LeaseId, ttl: u64) -> Story {
        self.tell(Action::Grant { ttl: ms(ttl) }, Outcome::Granted(lease))
    }

    pub fn renew(self, lease: LeaseId) -> Story {
        self.tell(Action::Renew(lease), Outcome::Done { revision: 0 })
    }

    pub fn revoke(self, lease: LeaseId) -> Story {
        self.tell(Action::Revoke(lease), Outcome::Done { revision: 0 })
    }

    pub fn at(mut self, invoked: u64, returned: u64) -> Story {
        self.last().invoked = ms(invoked);
        self.last().returned = Some(ms(returned));
        self
    }

    pub fn on(mut self, server: ServerId) -> Story {
        self.last().server = Some(server);
        self
    }

    pub fn local(mut self) -> Story {
        if let Action::Read { linearizable, .. } = &mut self.last().action {
            *linearizable = false;
        }
        self
    }

    /// The last operation was told this revision.
    pub fn revision(mut self, told: Revision) -> Story {
        let values: Vec<Value> = self.last().action.writes().iter().filter_map(Write::value).collect();
        match &mut self.last().outcome {
            Outcome::Done { revision } => *revision = told,
            Outcome::Found { revision, .. } => *revision = Some(told),
            other => panic!("{other:?} has no revision"),
        }
        for value in values {
            self.places.insert(value, told);
        }
        self
    }

    fn ends(mut self, outcome: Outcome) -> Story {
        if matches!(self.last().action, Action::Txn(_)) {
            self.next -= 1;
        }
        self.last().outcome = outcome;
        self
    }

    pub fn lost(mut self, invoked: u64) -> Story {
        self.last().invoked = ms(invoked);
        self.last().returned = None;
        self.ends(Outcome::Unknown("lost".into()))
    }

    pub fn refused(self) -> Story {
        self.ends(Outcome::Refused("no leader".into()))
    }

    pub fn no_such_lease(mut self) -> Story {
        self.last().outcome = Outcome::NoSuchLease;
        self
    }

    pub fn conflict(mut self, revision: Revision, current: Option<(Value, Revision)>) -> Story {
        let key = self.last().action.writes()[0].key().clone();
        let current = vec![(key, current.map(|(value, revision)| Version { value, revision }))];
        self.ends(Outcome::Conflict { revision, current })
    }

    // Watchers.

    pub fn watch(mut self, prefix: &str, after: Revision) -> Story {
        let watcher = self.history.watches.len();
        self.history.watches.push(Watched { watcher, prefix: prefix.into(), ..Watched::default() });
        self.item(Item::Opened { server: 0, after })
    }

    pub fn item(mut self, item: Item) -> Story {
        let watched = self.history.watches.last_mut().expect("a watcher was told");
        let at = watched.items.last().map_or(ms(0), |(at, _)| *at + ms(1));
        watched.items.push((at, item));
        self
    }

    pub fn event(self, revision: Revision, key: &str, value: Option<Value>) -> Story {
        let changes = vec![Change { key: key.into(), value, previous: None }];
        self.item(Item::Changes { revision, changes })
    }

    /// A change that came with what was there before.
    pub fn change(
        self,
        revision: Revision,
        key: &str,
        value: Option<Value>,
        previous: Option<(Value, Revision)>,
    ) -> Story {
        let previous = Some(previous.map(|(value, revision)| Version { value, revision }));
        self.item(Item::Changes { revision, changes: vec![Change { key: key.into(), value, previous }] })
    }

    pub fn bookmark(self, revision: Revision) -> Story {
        self.item(Item::Bookmark(revision))
    }

    pub fn resumed(self, after: Revision) -> Story {
        self.item(Item::Ended(End::Broken("cut".into()))).item(Item::Opened { server: 1, after })
    }

    pub fn must_reach(mut self, revision: Revision) -> Story {
        self.history.watches.last_mut().expect("a watcher was told").must_reach = Some(revision);
        self
    }

    // Servers.

    pub fn saw(mut self, at: u64, server: ServerId, life: usize, fact: Fact) -> Story {
        self.observations.facts.push(Observation { at: ms(at), server, life, fact });
        self
    }

    pub fn ends_with(
        mut self,
        server: ServerId,
        revision: Revision,
        hash: u64,
        entries: &[(&str, Value)],
    ) -> Story {
        let entries: std::collections::BTreeMap<Key, Version> =
            entries.iter().map(|(key, value)| ((*key).into(), self.version(*value))).collect();
        let listed = entries.len();
        self.history.finals.push(Final { server, revision, state_hash: Some(hash), entries, listed });
        self
    }

    pub fn healed(mut self, at: u64) -> Story {
        self.observations.healed = Some(ms(at));
        self
    }

    // Verdicts.

    #[track_caller]
    pub fn passes(mut self, guarantee: &Guarantee) {
        self.history.operations.sort_by_key(|operation| operation.invoked);
        let found = (guarantee.check)(&Evidence::new(&self.history, &self.observations));
        assert!(found.is_empty(), "{found:#?}");
    }

    /// Some violation says `expected`.
    #[track_caller]
    pub fn fails(mut self, guarantee: &Guarantee, expected: &str) {
        self.history.operations.sort_by_key(|operation| operation.invoked);
        let found = (guarantee.check)(&Evidence::new(&self.history, &self.observations));
        assert!(found.iter().any(|violation| violation.contains(expected)), "{expected:?} not in {found:#?}");
    }
}
