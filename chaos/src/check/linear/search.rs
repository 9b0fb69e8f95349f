//! The search for an order: Wing and Gong's, with Lowe's memory of where it has been.

use std::collections::HashSet;

use super::*;

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

pub(super) enum Stuck {
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
pub(super) fn search(world: &World, calls: &[Call]) -> Result<(), Stuck> {
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
