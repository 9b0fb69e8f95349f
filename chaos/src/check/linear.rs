//! Linearizability: there is one order of all operations, true to real time, in which every answer is right.
//!
//! The search is Wing and Gong's with Lowe's memory of (done operations, state). Keys that no operation touches together
//! are judged apart: that is sound, for linearizability is local. A transaction, a range read or a lease joins its keys.
//!
//! The store numbers its transactions, and the order of those numbers ought to be the one that is looked for. So the
//! search tries it first, and on a good history never turns back. But it only *tries* it: a store that lies about
//! revisions and is linearizable passes here (and fails elsewhere), and one whose revisions look fine gains nothing.
//!
//! Unknown outcomes are open-ended: they may take effect at any time after they began, or never. A lease's end is an
//! operation that nobody called: it may happen once at any time after the grant.

mod search;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use self::search::{Stuck, search};
use super::{Evidence, Guarantee, Violation};
use crate::history::{Action, Key, LeaseId, Operation, Outcome, Revision, Scope, Value, Write};

pub const GUARANTEE: Guarantee = Guarantee {
    name: "linearizable",
    about: "All operations of all clients, linearizable reads included, must have taken effect one after the other, each at \
            one moment between its call and its answer. No such order explains the answers below: a read saw the past, an \
            acknowledged write was lost or done twice, or a guard was ignored.",
    check,
};

/// Steps after which the search gives up and says so.
const PATIENCE: usize = 400_000;
/// An absent key, and a lease that still runs.
const NOTHING: Value = 0;
const ENDED: Value = 1;

/// A key's or lease's place in the state.
type Slot = usize;

#[derive(Debug)]
enum Step {
    Txn { guards: Vec<(Slot, Option<Value>)>, writes: Vec<(Slot, Value)>, leases: Vec<Slot> },
    Conflict { guards: Vec<(Slot, Option<Value>)>, current: Vec<(Slot, Value)> },
    Found { slots: Vec<Slot>, limit: usize, values: Vec<(Slot, Value)> },
    End { lease: Slot },
}

#[derive(Debug)]
struct Call {
    step: Step,
    invoked: Duration,
    /// `None`: open-ended; it may be left out.
    returned: Option<Duration>,
    /// Where revisions say that it belongs.
    hint: (Revision, u8),
    /// Its operation, but for ends of leases.
    operation: Option<usize>,
    patience: Patience,
}

/// Whether a call may wait until an answer needs what it does. It can where nothing else depends on when it happens: it
/// may be left out, and what it reads is what it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Patience {
    None,
    /// Its writes may have to come before others', though nobody saw them: unlikely enough to be tried last.
    Likely,
    Certain,
}

impl Patience {
    fn of(step: &Step, returned: Option<Duration>, hint: (Revision, u8)) -> Patience {
        match step {
            Step::End { .. } if returned.is_none() => Patience::Certain,
            Step::Txn { guards, writes, leases } if returned.is_none() => {
                let own = |(slot, _): &(Slot, Option<Value>)| writes.iter().all(|(other, _)| other == slot);
                match writes.len() == 1 && leases.is_empty() && guards.iter().all(own) {
                    true => Patience::Certain,
                    false if hint == NOWHERE => Patience::Likely,
                    false => Patience::None,
                }
            }
            _ => Patience::None,
        }
    }
}

fn check(evidence: &Evidence) -> Vec<Violation> {
    let operations = &evidence.history.operations;
    let world = World::new(evidence);
    world
        .parts(evidence)
        .into_iter()
        .filter_map(|calls| search(&world, &calls).err())
        .map(|stuck| match stuck {
            Stuck::At { call, ordered, of } => {
                let who = call.and_then(|number| operations.get(number));
                let who = who.map_or("the end of a lease".to_owned(), ToString::to_string);
                format!("{ordered} of {of} operations can be put in order, then nothing explains {who}")
            }
            Stuck::Undecided { of } => format!("undecided after {PATIENCE} steps over {of} operations"),
        })
        .collect()
}

/// What all parts share: slots, and which of them belong together.
struct World {
    slots: HashMap<Key, Slot>,
    keys: BTreeMap<Key, Slot>,
    leases: HashMap<LeaseId, Slot>,
    /// Union-find over slots.
    above: Vec<Slot>,
    /// The lease a value was put under.
    lease_of: HashMap<Value, Slot>,
    /// The keys that were put under a lease.
    leased: HashMap<Slot, Vec<Slot>>,
}

impl World {
    fn new(evidence: &Evidence) -> World {
        let mut world = World {
            slots: HashMap::new(),
            keys: BTreeMap::new(),
            leases: HashMap::new(),
            above: Vec::new(),
            lease_of: HashMap::new(),
            leased: HashMap::new(),
        };
        for operation in &evidence.history.operations {
            match &operation.action {
                Action::Txn(txn) => {
                    for guard in &txn.guards {
                        world.slot(&guard.key);
                    }
                    for write in &txn.writes {
                        let slot = world.slot(write.key());
                        if let Write::Put { value, lease: Some(lease), .. } = write {
                            let lease = world.lease(*lease);
                            world.lease_of.insert(*value, lease);
                            world.leased.entry(lease).or_default().push(slot);
                            world.join(slot, lease);
                        }
                    }
                }
                Action::Read { scope: Scope::Key(key), .. } => {
                    world.slot(key);
                }
                Action::Revoke(lease) => {
                    world.lease(*lease);
                }
                _ => {}
            }
            if let Outcome::Found { entries, .. } = &operation.outcome {
                for (key, _) in entries {
                    world.slot(key);
                }
            }
        }
        for operation in &evidence.history.operations {
            let mut joined: Vec<Slot> = match &operation.action {
                Action::Txn(txn) => {
                    let guards = txn.guards.iter().map(|guard| world.slots[&guard.key]);
                    guards.chain(txn.writes.iter().map(|write| world.slots[write.key()])).collect()
                }
                Action::Read { scope, linearizable: true } => world.covered(scope),
                _ => continue,
            };
            if let Some(first) = joined.pop() {
                joined.into_iter().for_each(|slot| world.join(first, slot));
            }
        }
        world
    }

    fn slot(&mut self, key: &Key) -> Slot {
        if let Some(slot) = self.slots.get(key) {
            return *slot;
        }
        let slot = self.fresh();
        self.slots.insert(key.clone(), slot);
        self.keys.insert(key.clone(), slot);
        slot
    }

    fn lease(&mut self, lease: LeaseId) -> Slot {
        if let Some(slot) = self.leases.get(&lease) {
            return *slot;
        }
        let slot = self.fresh();
        self.leases.insert(lease, slot);
        slot
    }

    fn fresh(&mut self) -> Slot {
        self.above.push(self.above.len());
        self.above.len() - 1
    }

    fn covered(&self, scope: &Scope) -> Vec<Slot> {
        match scope {
            Scope::Key(key) => self.slots.get(key).copied().into_iter().collect(),
            Scope::Prefix { prefix, .. } => self
                .keys
                .range::<Key, _>(prefix.clone()..)
                .take_while(|(key, _)| key.starts_with(&**prefix))
                .map(|(_, slot)| *slot)
                .collect(),
        }
    }

    fn root(&self, mut slot: Slot) -> Slot {
        while self.above[slot] != slot {
            slot = self.above[slot];
        }
        slot
    }

    fn join(&mut self, one: Slot, other: Slot) {
        let (one, other) = (self.root(one), self.root(other));
        // The root stays above everything joined to it; halving paths is not worth it at this size.
        self.above[one.max(other)] = one.min(other);
    }

    /// The calls of each part of the state that stands alone.
    fn parts(&self, evidence: &Evidence) -> Vec<Vec<Call>> {
        let mut parts: BTreeMap<Slot, Vec<Call>> = BTreeMap::new();
        let mut lost_deletes = LostDeletes::new(evidence, self);
        for (number, operation) in evidence.history.operations.iter().enumerate() {
            let Some((slot, mut call)) = self.call(evidence, operation, &mut lost_deletes) else { continue };
            call.operation = Some(number);
            parts.entry(self.root(slot)).or_default().push(call);
        }
        // What was revoked did not end by itself.
        let revoked: HashSet<LeaseId> = evidence
            .history
            .operations
            .iter()
            .filter_map(|operation| match (&operation.action, &operation.outcome) {
                (Action::Revoke(lease), Outcome::Done { .. }) => Some(*lease),
                _ => None,
            })
            .collect();
        for (id, lease) in &self.leases {
            if !self.leased.contains_key(lease) || revoked.contains(id) {
                continue;
            }
            let granted = evidence
                .history
                .operations
                .iter()
                .find(|operation| operation.outcome == Outcome::Granted(*id))
                .map_or(Duration::ZERO, |operation| operation.invoked);
            let hint = self.end_of_lease(evidence, *lease);
            let step = Step::End { lease: *lease };
            let patience = Patience::of(&step, None, hint);
            let call = Call { step, invoked: granted, returned: None, hint, operation: None, patience };
            parts.entry(self.root(*lease)).or_default().push(call);
        }
        let mut parts: Vec<Vec<Call>> = parts.into_values().collect();
        for calls in &mut parts {
            calls.sort_by_key(|call| (call.invoked, call.returned.is_none(), call.hint, call.operation));
        }
        parts
    }

    fn call(
        &self,
        evidence: &Evidence,
        operation: &Operation,
        lost_deletes: &mut LostDeletes,
    ) -> Option<(Slot, Call)> {
        let guards = |operation: &Operation| match &operation.action {
            Action::Txn(txn) => txn
                .guards
                .iter()
                .map(|guard| (self.slots[&guard.key], expected(evidence, &guard.key, guard.revision)))
                .collect(),
            _ => Vec::new(),
        };
        let (step, hint) = match (&operation.action, &operation.outcome) {
            (Action::Txn(txn), Outcome::Done { .. } | Outcome::Unknown(_)) => {
                let mut writes: Vec<(Slot, Value)> = Vec::new();
                let mut leases = Vec::new();
                for write in &txn.writes {
                    let slot = self.slots[write.key()];
                    writes.retain(|(other, _)| *other != slot);
                    writes.push((slot, write.value().unwrap_or(NOTHING)));
                    if let Write::Put { lease: Some(lease), .. } = write {
                        leases.push(self.leases[lease]);
                    }
                }
                let puts = txn.writes.iter().filter_map(Write::value);
                let puts_something = puts.clone().next().is_some();
                let hint = match operation.outcome {
                    // A delete that was told no revision stands where a watcher saw one.
                    Outcome::Done { revision: 0 } => {
                        lost_deletes.place(operation.invoked, txn.writes.iter().map(Write::key))
                    }
                    Outcome::Done { revision } => (revision, u8::from(!puts_something)),
                    _ => {
                        let seen = puts.filter_map(|value| evidence.truth.places.get(&value)).next();
                        let plain =
                            txn.writes.iter().all(|write| matches!(write, Write::Put { lease: None, .. }));
                        match seen {
                            Some((_, revision)) => (*revision, 0),
                            // A put that nobody ever saw may as well never have happened.
                            None if plain => return None,
                            // Who saw its deletes would have seen its put.
                            None if puts_something => NOWHERE,
                            None => {
                                let deletes = txn.writes.iter().filter(|write| write.value().is_none());
                                lost_deletes.place(operation.invoked, deletes.map(Write::key))
                            }
                        }
                    }
                };
                (Step::Txn { guards: guards(operation), writes, leases }, hint)
            }
            (Action::Txn(_), Outcome::Conflict { revision, current }) if !current.is_empty() => {
                let current = current
                    .iter()
                    .filter_map(|(key, version)| {
                        Some((*self.slots.get(key)?, version.map_or(NOTHING, |version| version.value)))
                    })
                    .collect();
                (Step::Conflict { guards: guards(operation), current }, (*revision, 2))
            }
            (Action::Read { scope, linearizable: true }, Outcome::Found { entries, .. }) => {
                let values = entries.iter().map(|(key, version)| (self.slots[key], version.value)).collect();
                let step = Step::Found { slots: self.covered(scope), limit: scope.limit(), values };
                (step, (operation.revision().unwrap_or_default(), 2))
            }
            (Action::Revoke(lease), Outcome::Done { .. } | Outcome::Unknown(_)) => {
                let lease = *self.leases.get(lease)?;
                self.leased.get(&lease)?;
                let hint = self.end_of_lease(evidence, lease);
                // One that was acknowledged did happen, whether or not a key went with it.
                let last = (Revision::MAX, 0);
                (Step::End { lease }, if operation.is_unknown() { hint } else { hint.min(last) })
            }
            _ => return None,
        };
        let slot = match &step {
            Step::Txn { guards, writes, .. } => {
                writes.first().map(|(slot, _)| *slot).or(guards.first().map(|(slot, _)| *slot))
            }
            Step::Conflict { current, .. } => current.first().map(|(slot, _)| *slot),
            Step::Found { slots, .. } => slots.first().copied(),
            Step::End { lease } => Some(*lease),
        }?;
        let returned = operation.returned.filter(|_| !operation.is_unknown());
        let patience = Patience::of(&step, returned, hint);
        Some((slot, Call { step, invoked: operation.invoked, returned, hint, operation: None, patience }))
    }

    /// Where watchers saw the keys of a lease go.
    fn end_of_lease(&self, evidence: &Evidence, lease: Slot) -> (Revision, u8) {
        let keys = self.leased.get(&lease).into_iter().flatten();
        let gone = keys.filter_map(|slot| {
            let (key, _) = self.slots.iter().find(|(_, other)| *other == slot)?;
            let mut before = NOTHING;
            evidence.truth.by_key.get(key)?.iter().find_map(|(revision, known)| {
                let was = std::mem::replace(&mut before, known.value.unwrap_or(NOTHING));
                let went = known.changed && known.value.is_none() && self.lease_of.get(&was) == Some(&lease);
                went.then_some(*revision)
            })
        });
        gone.min().map_or(NOWHERE, |revision| (revision, 0))
    }
}

/// The value that a guard's revision stands for; `None`: none that anybody knows, so that it cannot hold.
fn expected(evidence: &Evidence, key: &Key, revision: Revision) -> Option<Value> {
    if revision == 0 {
        return Some(NOTHING);
    }
    evidence.truth.by_key.get(key)?.get(&revision)?.value
}

/// Behind everything that has a place of its own, and behind what must happen before that which may.
const NOWHERE: (Revision, u8) = (Revision::MAX, 9);

/// Deletions that watchers saw, that no acknowledged operation claims and no lease explains: hints for deletes of unknown
/// outcome.
struct LostDeletes {
    by_key: HashMap<Key, Vec<Revision>>,
    /// The highest revision that had been told when an operation returned, by that time.
    told: Vec<(Duration, Revision)>,
}

impl LostDeletes {
    fn new(evidence: &Evidence, world: &World) -> LostDeletes {
        let operations = &evidence.history.operations;
        let returned =
            operations.iter().filter_map(|operation| Some((operation.returned?, operation.revision()?)));
        let mut told: Vec<(Duration, Revision)> = returned.collect();
        told.sort_unstable();
        let mut highest = 0;
        for (_, revision) in &mut told {
            highest = highest.max(*revision);
            *revision = highest;
        }
        let mut lost = LostDeletes { by_key: HashMap::new(), told };
        let mut claimed: HashSet<(&Key, Revision)> = HashSet::new();
        for operation in operations {
            if let (Action::Txn(txn), Outcome::Done { revision }) = (&operation.action, &operation.outcome)
                // Otherwise it deleted nothing, and was told a revision that was there before it.
                && lost.floor(operation.invoked) < *revision
            {
                claimed.extend(txn.writes.iter().map(|write| (write.key(), *revision)));
            }
        }
        for (key, revisions) in &evidence.truth.by_key {
            let mut before = NOTHING;
            for (revision, known) in revisions {
                let was = std::mem::replace(&mut before, known.value.unwrap_or(NOTHING));
                let unclaimed =
                    known.changed && known.value.is_none() && !claimed.contains(&(key, *revision));
                if unclaimed && !world.lease_of.contains_key(&was) {
                    lost.by_key.entry(key.clone()).or_default().push(*revision);
                }
            }
        }
        lost
    }

    /// The highest revision that had been told before this time.
    fn floor(&self, at: Duration) -> Revision {
        let before = self.told.partition_point(|(returned, _)| *returned < at);
        before.checked_sub(1).map_or(0, |last| self.told[last].1)
    }

    /// Where a delete of one of the keys that began then may stand.
    fn place<'a>(&mut self, invoked: Duration, mut keys: impl Iterator<Item = &'a Key>) -> (Revision, u8) {
        let floor = self.floor(invoked);
        let place = keys.find_map(|key| {
            let lost = self.by_key.get_mut(key)?;
            let first = lost.iter().position(|revision| *revision > floor)?;
            Some(lost.remove(first))
        });
        place.map_or(NOWHERE, |revision| (revision, 0))
    }
}

#[cfg(test)]
mod tests;
