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

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

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

/// The state of a search, and the memory of what changed it.
struct State<'a> {
    values: HashMap<Slot, Value>,
    hash: u128,
    world: &'a World,
}

impl State<'_> {
    fn get(&self, slot: Slot) -> Value {
        self.values.get(&slot).copied().unwrap_or(NOTHING)
    }

    fn set(&mut self, slot: Slot, value: Value) {
        let before = self.values.insert(slot, value).unwrap_or(NOTHING);
        self.hash ^= spread(slot, before) ^ spread(slot, value);
    }

    /// Takes the step where its answer is right, and notes what it overwrote.
    fn apply(&mut self, step: &Step, undo: &mut Vec<(Slot, Value)>) -> bool {
        let holds = |state: &Self, guard: &(Slot, Option<Value>)| Some(state.get(guard.0)) == guard.1;
        match step {
            Step::Txn { guards, writes, leases } => {
                if !guards.iter().all(|guard| holds(self, guard))
                    || leases.iter().any(|lease| self.get(*lease) == ENDED)
                {
                    return false;
                }
                for (slot, value) in writes {
                    undo.push((*slot, self.get(*slot)));
                    self.set(*slot, *value);
                }
                true
            }
            Step::Conflict { guards, current } => {
                !guards.iter().all(|guard| holds(self, guard))
                    && current.iter().all(|(slot, value)| self.get(*slot) == *value)
            }
            Step::Found { slots, limit, values } => {
                let present = slots.iter().map(|slot| (*slot, self.get(*slot)));
                let present = present.filter(|(_, value)| *value != NOTHING);
                let limit = if *limit == 0 { usize::MAX } else { *limit };
                present.take(limit).eq(values.iter().copied())
            }
            Step::End { lease } => {
                if self.get(*lease) == ENDED {
                    return false;
                }
                undo.push((*lease, NOTHING));
                self.set(*lease, ENDED);
                for slot in self.world.leased.get(lease).into_iter().flatten() {
                    let value = self.get(*slot);
                    if self.world.lease_of.get(&value) == Some(lease) {
                        undo.push((*slot, value));
                        self.set(*slot, NOTHING);
                    }
                }
                true
            }
        }
    }

    /// What must be for the step's answer to be right, and is not.
    fn wants(&self, step: &Step, wanted: &mut HashSet<(Slot, Value)>) {
        let mut want = |slot: Slot, value: Value| {
            if self.get(slot) != value {
                wanted.insert((slot, value));
            }
        };
        match step {
            Step::Txn { guards, .. } => {
                guards.iter().for_each(|(slot, value)| value.iter().for_each(|value| want(*slot, *value)));
            }
            Step::Conflict { current, .. } => current.iter().for_each(|(slot, value)| want(*slot, *value)),
            Step::Found { slots, limit, values } => {
                let last = values.last().filter(|_| values.len() == *limit).map(|(slot, _)| *slot);
                let upto = slots.iter().position(|slot| Some(*slot) == last).map_or(slots.len(), |at| at + 1);
                for slot in &slots[..upto] {
                    let shown = values.iter().find(|(other, _)| other == slot);
                    want(*slot, shown.map_or(NOTHING, |(_, value)| *value));
                }
            }
            Step::End { .. } => {}
        }
    }

    /// Whether the step would bring about something that is wanted.
    fn brings(&self, step: &Step, wanted: &HashSet<(Slot, Value)>) -> bool {
        match step {
            // A put under a lease may be the way to the key's absence.
            Step::Txn { writes, leases, .. } => writes.iter().any(|(slot, value)| {
                wanted.contains(&(*slot, *value))
                    || (!leases.is_empty() && wanted.contains(&(*slot, NOTHING)))
            }),
            Step::End { lease } => {
                let mut keys = self.world.leased.get(lease).into_iter().flatten();
                keys.any(|slot| {
                    self.world.lease_of.get(&self.get(*slot)) == Some(lease)
                        && wanted.contains(&(*slot, NOTHING))
                })
            }
            _ => false,
        }
    }

    /// Whether a key holds something else than before.
    fn differs(&self, undo: &[(Slot, Value)]) -> bool {
        undo.iter().any(|(slot, before)| !self.world.leased.contains_key(slot) && self.get(*slot) != *before)
    }

    fn take_back(&mut self, undo: Vec<(Slot, Value)>) {
        for (slot, value) in undo.into_iter().rev() {
            self.set(slot, value);
        }
    }
}

/// A number that is as good as unique to its two arguments.
fn spread(one: usize, other: u64) -> u128 {
    fn mix(mut x: u64) -> u64 {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    let low = mix(mix(one as u64 ^ 0x9e37_79b9_7f4a_7c15).wrapping_add(other));
    let high = mix(mix(other ^ 0xd1b5_4a32_d192_ed03).wrapping_add(one as u64));
    (u128::from(high) << 64) | u128::from(low)
}

enum Stuck {
    At { call: Option<usize>, ordered: usize, of: usize },
    Undecided { of: usize },
}

/// A decision of the search: which calls could come next, which was taken, and what it overwrote.
struct Choice {
    candidates: Vec<usize>,
    next: usize,
    taken: usize,
    undo: Vec<(Slot, Value)>,
}

/// Calls that are not in order yet, by invocation; a list in which each may be taken out and put back.
struct Remaining {
    previous: Vec<usize>,
    next: Vec<usize>,
}

impl Remaining {
    /// Call `n` stands at `n + 1`; 0 is the head, and the end.
    fn new(calls: usize) -> Remaining {
        let of = calls + 1;
        Remaining {
            previous: (0..of).map(|at| (at + of - 1) % of).collect(),
            next: (0..of).map(|at| (at + 1) % of).collect(),
        }
    }

    fn take_out(&mut self, call: usize) {
        let (previous, next) = (self.previous[call + 1], self.next[call + 1]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn put_back(&mut self, call: usize) {
        let (previous, next) = (self.previous[call + 1], self.next[call + 1]);
        self.next[previous] = call + 1;
        self.previous[next] = call + 1;
    }

    /// The calls that may come next, the likeliest first, and the one that must come soonest.
    fn candidates(&self, calls: &[Call], state: &State, patience: Patience) -> (Vec<usize>, Option<usize>) {
        let mut candidates = Vec::new();
        let mut soonest: Option<(Duration, usize)> = None;
        let mut at = self.next[0];
        while at != 0 {
            let call = &calls[at - 1];
            if soonest.is_some_and(|(returned, _)| call.invoked > returned) {
                break;
            }
            candidates.push(at - 1);
            if let Some(returned) = call.returned {
                soonest = Some(soonest.map_or((returned, at - 1), |other| other.min((returned, at - 1))));
            }
            at = self.next[at];
        }
        // What may be left out waits until an answer needs it; what the first answer in line needs comes right behind it.
        let first = candidates.iter().filter(|call| calls[**call].returned.is_some());
        let first = first.min_by_key(|call| calls[**call].hint).map(|call| &calls[*call]);
        let (mut first_wants, mut wanted) = (HashSet::new(), HashSet::new());
        if let Some(first) = first {
            state.wants(&first.step, &mut first_wants);
        }
        for call in &candidates {
            state.wants(&calls[*call].step, &mut wanted);
        }
        candidates.retain(|call| {
            let call = &calls[*call];
            call.patience < patience || state.brings(&call.step, &wanted)
        });
        candidates.sort_by_key(|call| {
            let Call { step, hint, patience, .. } = &calls[*call];
            match first {
                Some(first) if *patience != Patience::None && state.brings(step, &first_wants) => {
                    (first.hint, true)
                }
                // Its place has passed and nothing needed it there.
                Some(first) if *patience != Patience::None && *hint <= first.hint => (NOWHERE, true),
                _ => (*hint, false),
            }
        });
        (candidates, soonest.map(|(_, call)| call))
    }
}

/// Looks for an order in which what waits may wait; only where there is none, in which fewer calls do.
fn search(world: &World, calls: &[Call]) -> Result<(), Stuck> {
    attempt(world, calls, Patience::Likely).or_else(|stuck| {
        if calls.iter().any(|call| call.patience == Patience::Likely) {
            attempt(world, calls, Patience::Certain)
        } else {
            Err(stuck)
        }
    })
}

fn attempt(world: &World, calls: &[Call], patience: Patience) -> Result<(), Stuck> {
    let mut state = State { values: HashMap::new(), hash: 0, world };
    let mut remaining = Remaining::new(calls.len());
    let mut missing = calls.iter().filter(|call| call.returned.is_some()).count();
    let mut done = 0_u128;
    let mut known: HashSet<u128> = HashSet::new();
    let mut path: Vec<Choice> = Vec::new();
    let mut furthest: (usize, Option<usize>) = (0, None);
    if missing == 0 {
        return Ok(());
    }
    let begin = |remaining: &Remaining, state: &State| {
        let (candidates, soonest) = remaining.candidates(calls, state, patience);
        (Choice { candidates, next: 0, taken: usize::MAX, undo: Vec::new() }, soonest)
    };
    let (first, soonest) = begin(&remaining, &state);
    furthest.1 = soonest;
    path.push(first);
    for _ in 0..PATIENCE {
        let depth = path.len();
        let Some(choice) = path.last_mut() else {
            let call = furthest.1.and_then(|call| calls[call].operation);
            return Err(Stuck::At { call, ordered: furthest.0, of: calls.len() });
        };
        let Some(call) = choice.candidates.get(choice.next).copied() else {
            // Nothing fits behind the last decision: it was wrong.
            path.pop();
            if let Some(last) = path.last_mut() {
                let taken = last.taken;
                state.take_back(std::mem::take(&mut last.undo));
                remaining.put_back(taken);
                done ^= spread(taken, 7);
                missing += usize::from(calls[taken].returned.is_some());
            }
            continue;
        };
        choice.next += 1;
        if !state.apply(&calls[call].step, &mut choice.undo) {
            continue;
        }
        if calls[call].returned.is_none() && !state.differs(&choice.undo) {
            // What may be left out and changes no key need not be tried.
            state.take_back(std::mem::take(&mut choice.undo));
            continue;
        }
        done ^= spread(call, 7);
        if !known.insert(done ^ state.hash.rotate_left(64)) {
            done ^= spread(call, 7);
            state.take_back(std::mem::take(&mut choice.undo));
            continue;
        }
        choice.taken = call;
        remaining.take_out(call);
        missing -= usize::from(calls[call].returned.is_some());
        if missing == 0 {
            return Ok(());
        }
        let (next, soonest) = begin(&remaining, &state);
        if depth > furthest.0 {
            furthest = (depth, soonest);
        }
        path.push(next);
    }
    Err(Stuck::Undecided { of: calls.len() })
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::GUARANTEE;

    #[test]
    fn concurrent_operations_may_take_any_order() {
        let story = || Story::new().put("a", 1).at(0, 10).put("a", 2).at(1, 9);
        story().read("a", 1).at(11, 12).passes(&GUARANTEE);
        story().read("a", 2).at(11, 12).passes(&GUARANTEE);
        Story::new()
            .put("a", 1)
            .at(0, 1)
            .put("a", 2)
            .at(2, 10)
            .read("a", 1)
            .at(3, 4)
            .read("a", 2)
            .at(5, 6)
            .passes(&GUARANTEE);
    }

    #[test]
    fn a_stale_read_is_found() {
        let story = || Story::new().put("a", 1).at(0, 1);
        story().put("a", 2).at(2, 3).read("a", 1).at(4, 5).fails(&GUARANTEE, "Read");
        story().put("a", 2).at(2, 10).read("a", 2).at(3, 4).read("a", 1).at(5, 6).fails(&GUARANTEE, "");
    }

    #[test]
    fn a_lost_write_may_happen_late_or_never_and_not_twice() {
        let story = || Story::new().put("a", 1).at(0, 1).put("a", 2).lost(2).read("a", 1).at(3, 4);
        story().passes(&GUARANTEE);
        story().read("a", 2).at(5, 6).passes(&GUARANTEE);
        story().read("a", 2).at(5, 6).read("a", 1).at(7, 8).fails(&GUARANTEE, "");
        let twice = story().read("a", 2).at(5, 6).put("a", 3).at(7, 8).read("a", 2).at(9, 10);
        twice.fails(&GUARANTEE, "");
    }

    #[test]
    fn a_guard_that_was_ignored_is_found() {
        let story = || Story::new().put("a", 1).at(0, 1).revision(5).swap("a", 5, 2).at(2, 3).revision(6);
        story().swap("a", 5, 3).at(4, 5).revision(7).fails(&GUARANTEE, "");
        story().swap("a", 6, 3).at(4, 5).revision(7).passes(&GUARANTEE);
        story().swap("a", 0, 3).at(4, 5).revision(7).fails(&GUARANTEE, "");
    }

    #[test]
    fn keys_of_one_transaction_change_together() {
        let story = || Story::new().put_both(("a", 1), ("b", 2)).at(0, 10);
        story().read("a", 1).at(1, 2).read("b", 2).at(3, 4).passes(&GUARANTEE);
        story().read("a", 1).at(1, 2).absent("b").at(3, 4).fails(&GUARANTEE, "");
        story().range(&[("a", 1)]).at(3, 4).fails(&GUARANTEE, "");
        story().range(&[("a", 1), ("b", 2)]).at(3, 4).passes(&GUARANTEE);
    }

    #[test]
    fn a_conflict_must_be_one() {
        let story = || Story::new().put("a", 1).at(0, 1).revision(5);
        story().swap("a", 0, 2).conflict(5, Some((1, 5))).at(2, 3).passes(&GUARANTEE);
        story().swap("a", 5, 2).conflict(5, Some((1, 5))).at(2, 3).fails(&GUARANTEE, "");
        story().swap("a", 0, 2).conflict(5, None).at(2, 3).fails(&GUARANTEE, "");
    }

    #[test]
    fn a_lease_ends_once_and_takes_its_keys() {
        let story = || Story::new().grant(7, 100).at(0, 1).put_leased("a", 1, 7).at(2, 3);
        story().absent("a").at(200, 201).passes(&GUARANTEE);
        story().absent("a").at(200, 201).read("a", 1).at(202, 203).fails(&GUARANTEE, "");
        story().absent("a").at(200, 201).put_leased("a", 2, 7).at(202, 203).fails(&GUARANTEE, "");
        Story::new().put("a", 1).at(2, 3).absent("a").at(200, 201).fails(&GUARANTEE, "");
    }

    #[test]
    fn a_lost_delete_may_explain_absence() {
        let story = || Story::new().put("a", 1).at(0, 1);
        story().delete("a").lost(2).absent("a").at(4, 5).passes(&GUARANTEE);
        story().delete("a").lost(6).absent("a").at(4, 5).fails(&GUARANTEE, "");
        story().delete("a").lost(2).absent("a").at(4, 5).read("a", 1).at(6, 7).fails(&GUARANTEE, "");
    }

    /// A true history of thousands of operations takes no time: the search must not explode on what is well.
    #[test]
    fn a_long_clean_history_needs_no_search() {
        let mut story = Story::new();
        for n in 0..2000_u64 {
            story =
                story.put("a", n + 1).at(n * 10, n * 10 + 25).read("a", n + 1).at(n * 10 + 26, n * 10 + 27);
        }
        story.passes(&GUARANTEE);
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        super::super::model::passes(&GUARANTEE);
    }
}
