//! The state machine against a naive one that keeps every revision whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::Machine;
use crate::command::{Batch, Command, Reply};
use crate::types::{Entry, Guard, Op, Outcome, RangeRequest, ReadError, Revision, Txn};

/// Every revision's whole state, by revision.
#[derive(Default)]
struct Model {
    states: BTreeMap<Revision, BTreeMap<Bytes, Entry>>,
    oldest: Revision,
}

impl Model {
    fn new() -> Model {
        Model { states: BTreeMap::from([(1, BTreeMap::new())]), oldest: 1 }
    }

    fn newest(&self) -> (Revision, &BTreeMap<Bytes, Entry>) {
        let (revision, state) = self.states.last_key_value().unwrap();
        (*revision, state)
    }

    fn txn(&mut self, txn: &Txn) -> Outcome {
        let (revision, state) = self.newest();
        if txn.guards.iter().any(|g| state.get(&g.key).map_or(0, |e| e.mod_revision) != g.mod_revision) {
            let current = txn.guards.iter().map(|g| state.get(&g.key).cloned().map(Arc::new)).collect();
            return Outcome::Conflict { revision, current };
        }
        let mut next = state.clone();
        let mut touched = BTreeSet::new();
        for op in &txn.ops {
            match op {
                Op::Put { key, value, attributes, lease } => {
                    let (create_revision, version) =
                        next.get(key).map_or((revision + 1, 1), |old| (old.create_revision, old.version + 1));
                    let entry = Entry {
                        key: key.clone(),
                        value: value.clone(),
                        attributes: attributes.clone(),
                        create_revision,
                        mod_revision: revision + 1,
                        version,
                        lease: *lease,
                    };
                    next.insert(key.clone(), entry);
                    touched.insert(key.clone());
                }
                Op::Delete { key } => {
                    next.remove(key);
                }
            }
        }
        let removed = state.keys().any(|key| !next.contains_key(key));
        if !removed && !touched.iter().any(|key| next.contains_key(key)) {
            return Outcome::Committed { revision };
        }
        self.states.insert(revision + 1, next);
        Outcome::Committed { revision: revision + 1 }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Txn { guard: Option<(u8, bool)>, ops: Vec<(u8, Option<u8>)> },
    Compact { back: u64 },
}

fn key(n: u8) -> Bytes {
    Bytes::from(format!("/{}/{}", if n.is_multiple_of(2) { "a" } else { "b" }, n))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let op = (0u8..6, prop::option::weighted(0.65, any::<u8>()));
    let guard = prop::option::weighted(0.3, (0u8..6, any::<bool>()));
    let txn = (guard, prop::collection::vec(op, 0..4)).prop_map(|(guard, ops)| Step::Txn { guard, ops });
    let compact = (0u64..6).prop_map(|back| Step::Compact { back });
    prop::collection::vec(prop_oneof![8 => txn, 1 => compact], 1..40)
}

fn build(machine: &Machine, guard: &Option<(u8, bool)>, ops: &[(u8, Option<u8>)]) -> Txn {
    let guards = guard
        .iter()
        .map(|(n, right)| {
            let held = machine.view().get(&key(*n)).map_or(0, |entry| entry.mod_revision);
            Guard { key: key(*n), mod_revision: if *right { held } else { held + 1 } }
        })
        .collect();
    let ops = ops
        .iter()
        .map(|(n, value)| match value {
            Some(value) => Op::Put {
                key: key(*n),
                value: Bytes::from(vec![*value]),
                attributes: Arc::from([]),
                lease: None,
            },
            None => Op::Delete { key: key(*n) },
        })
        .collect();
    Txn { guards, ops }
}

fn check_reads(machine: &Machine, model: &Model) -> Result<(), TestCaseError> {
    let newest = model.newest().0;
    prop_assert_eq!(machine.view().revision, newest);
    for revision in model.oldest..=newest {
        for prefix in ["", "/", "/a/", "/b/", "/c"] {
            for after in [None, Some(key(2)), Some(key(3)), Some(Bytes::from_static(b"zz"))] {
                for limit in [0usize, 1, 2] {
                    let request = RangeRequest {
                        prefix: prefix.into(),
                        after: after.clone(),
                        limit,
                        revision: Some(revision),
                    };
                    let read = machine.view().range(&request).unwrap();
                    let all: Vec<Entry> = model.states[&revision]
                        .iter()
                        .filter(|(k, _)| {
                            k.starts_with(prefix.as_bytes()) && after.as_ref().is_none_or(|a| *k > a)
                        })
                        .map(|(_, entry)| entry.clone())
                        .collect();
                    let taken = if limit == 0 { all.len() } else { limit.min(all.len()) };
                    let found: Vec<Entry> = read.entries.iter().map(|e| Entry::clone(e)).collect();
                    prop_assert_eq!(&found[..], &all[..taken], "{} at {} of {}", prefix, revision, newest);
                    prop_assert_eq!(read.count, all.len() as u64);
                    prop_assert_eq!(read.more, taken < all.len());
                    prop_assert_eq!(read.revision, revision);
                }
            }
        }
    }
    let read_at =
        |revision| machine.view().range(&RangeRequest { revision: Some(revision), ..Default::default() });
    prop_assert_eq!(
        read_at(newest + 1).unwrap_err(),
        ReadError::Future { asked: newest + 1, current: newest }
    );
    if model.oldest > 1 {
        let asked = model.oldest - 1;
        prop_assert_eq!(read_at(asked).unwrap_err(), ReadError::Compacted { asked, oldest: model.oldest });
    }
    Ok(())
}

/// The events after the oldest revision turn the state then into each later one.
fn check_events(machine: &Machine, model: &Model) -> Result<(), TestCaseError> {
    let mut state = model.states[&model.oldest].clone();
    for (revision, changes) in machine.view().events.after(0) {
        prop_assert!(
            revision > model.oldest,
            "an event at {} survives a compaction to {}",
            revision,
            model.oldest
        );
        for change in changes.iter() {
            let key = &change.entry.key;
            prop_assert_eq!(change.previous.as_deref(), state.get(key));
            prop_assert_eq!(change.entry.mod_revision, revision);
            if change.deleted {
                state.remove(key);
            } else {
                state.insert(key.clone(), Entry::clone(&change.entry));
            }
        }
        prop_assert_eq!(&state, &model.states[&revision]);
    }
    prop_assert_eq!(&state, model.newest().1);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn it_behaves_as_a_store_that_keeps_every_revision(steps in steps()) {
        let (mut machine, mut model) = (Machine::new(), Model::new());
        let mut other = Machine::new();
        for (time, step) in steps.iter().enumerate() {
            let command = match step {
                Step::Txn { guard, ops } => Command::Txn(build(&machine, guard, ops)),
                Step::Compact { back } => {
                    Command::Compact { revision: model.newest().0.saturating_sub(*back) }
                }
            };
            let batch = Batch { time: time as u64, commands: vec![command] };
            let applied = machine.apply(batch.clone());
            match (&batch.commands[0], &applied.replies[0]) {
                (Command::Txn(txn), Reply::Txn(outcome)) => prop_assert_eq!(outcome, &model.txn(txn)),
                (Command::Compact { revision }, Reply::Done) => model.oldest = model.oldest.max(*revision),
                (command, reply) => prop_assert!(false, "{:?} was answered by {:?}", command, reply),
            }
            check_events(&machine, &model)?;
            // Another replica comes to the same state and hash.
            prop_assert_eq!(other.apply(batch.clone()).replies, applied.replies);
            prop_assert_eq!(other.counters(), machine.counters());
        }
        check_reads(&machine, &model)?;
        // What a checkpoint holds makes the same state again.
        let back = Machine::restore(
            machine.counters().clone(),
            machine.view().current.clone(),
            machine.leases().table().clone(),
        );
        prop_assert_eq!(back.view().range(&RangeRequest::default()).unwrap().entries,
            machine.view().range(&RangeRequest::default()).unwrap().entries);
        prop_assert_eq!(back.view().oldest, machine.view().revision);
    }

    #[test]
    fn compacting_everything_leaves_no_history(steps in steps()) {
        let mut machine = Machine::new();
        for step in &steps {
            if let Step::Txn { guard, ops } = step {
                let txn = build(&machine, guard, ops);
                machine.apply(Batch { time: 0, commands: vec![Command::Txn(txn)] });
            }
        }
        let revision = machine.view().revision;
        machine.apply(Batch { time: 0, commands: vec![Command::Compact { revision }] });
        prop_assert!(machine.view().history.is_empty());
        prop_assert!(machine.view().events.is_empty());
        prop_assert_eq!(machine.history_bytes, 0);
        let newest = RangeRequest { revision: Some(revision), ..Default::default() };
        prop_assert!(machine.view().range(&newest).is_ok());
    }
}

fn put(key: &str, lease: Option<u64>) -> Command {
    Command::Txn(Txn {
        guards: vec![],
        ops: vec![Op::Put {
            key: key.to_string().into(),
            value: Bytes::from_static(b"v"),
            attributes: Arc::from([]),
            lease,
        }],
    })
}

fn apply(machine: &mut Machine, time: u64, command: Command) -> Reply {
    machine.apply(Batch { time, commands: vec![command] }).replies.remove(0)
}

#[test]
fn an_expiry_takes_all_keys_of_all_due_leases_in_one_revision() {
    let mut machine = Machine::new();
    for (lease, ttl) in [(1, 100), (2, 100), (3, 500)] {
        assert_eq!(apply(&mut machine, 0, Command::GrantLease { ttl }), Reply::Lease(lease));
    }
    for (key, lease) in [("a", 1), ("b", 1), ("c", 2), ("d", 3)] {
        apply(&mut machine, 1, put(key, Some(lease)));
    }
    let before = machine.view().revision;
    assert_eq!(machine.leases().due(100, 10), [1, 2]);
    apply(&mut machine, 100, Command::ExpireLeases { leases: vec![1, 2, 3] });
    assert_eq!(machine.view().revision, before + 1);
    let left: Vec<_> = machine.view().current.values().map(|entry| entry.key.clone()).collect();
    assert_eq!(left, ["d"], "a lease that is not due was expired, or one that is was not");
    assert_eq!(apply(&mut machine, 100, Command::RenewLease { lease: 1 }), Reply::NoSuchLease(1));
}

/// etcd #15247: what the leader found due may have been renewed when its command is applied.
#[test]
fn a_renewal_that_stands_before_the_expiry_wins() {
    let mut machine = Machine::new();
    apply(&mut machine, 0, Command::GrantLease { ttl: 100 });
    apply(&mut machine, 0, put("a", Some(1)));
    assert_eq!(apply(&mut machine, 100, Command::RenewLease { lease: 1 }), Reply::Done);
    apply(&mut machine, 101, Command::ExpireLeases { leases: vec![1] });
    assert!(machine.view().get(b"a").is_some());
}

#[test]
fn a_key_belongs_to_the_lease_it_was_last_put_with() {
    let mut machine = Machine::new();
    apply(&mut machine, 0, Command::GrantLease { ttl: 100 });
    apply(&mut machine, 0, Command::GrantLease { ttl: 100 });
    apply(&mut machine, 0, put("a", Some(1)));
    apply(&mut machine, 0, put("a", Some(2)));
    apply(&mut machine, 0, put("b", Some(1)));
    apply(&mut machine, 0, put("b", None));
    let before = machine.view().revision;
    assert_eq!(apply(&mut machine, 0, Command::RevokeLease { lease: 1 }), Reply::Done);
    assert_eq!(machine.view().revision, before, "a lease without keys makes no revision");
    assert_eq!(apply(&mut machine, 0, Command::RevokeLease { lease: 1 }), Reply::NoSuchLease(1));
    assert_eq!(apply(&mut machine, 0, put("c", Some(1))), Reply::NoSuchLease(1));
    apply(&mut machine, 0, Command::RevokeLease { lease: 2 });
    assert!(machine.view().get(b"a").is_none());
    assert!(machine.view().get(b"b").is_some());
}

#[test]
fn time_in_the_log_never_goes_backwards() {
    let mut machine = Machine::new();
    apply(&mut machine, 500, Command::GrantLease { ttl: 100 });
    apply(&mut machine, 20, Command::GrantLease { ttl: 100 });
    assert_eq!(machine.leases().due(599, 10), [] as [u64; 0]);
    assert_eq!(machine.leases().due(600, 10), [1, 2]);
}

#[test]
fn history_is_dropped_by_age_and_by_bytes() {
    let mut machine = Machine::new();
    for time in 0..10 {
        apply(&mut machine, time * 100, put("a", None));
    }
    let newest = machine.view().revision;
    assert_eq!(machine.compaction_due(900, 10_000, usize::MAX), None);
    assert_eq!(machine.compaction_due(900, 500, usize::MAX), Some(newest - 5));
    assert_eq!(machine.compaction_due(900, 10_000, 0), Some(newest));
    let one = machine.history_bytes / 10;
    let upto = machine.compaction_due(900, 10_000, 3 * one).unwrap();
    assert!((newest - 4..newest - 1).contains(&upto), "{upto} of {newest}");
}

#[test]
fn member_ids_are_given_once() {
    let mut machine = Machine::new();
    assert_eq!(apply(&mut machine, 0, Command::NewMember), Reply::Member(2));
    let mut back = Machine::restore(
        machine.counters().clone(),
        machine.view().current.clone(),
        machine.leases().table().clone(),
    );
    assert_eq!(apply(&mut back, 0, Command::NewMember), Reply::Member(3));
}
