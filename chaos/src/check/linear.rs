//! Linearizability of each register: there is one order of all operations, true to real time, in which every answer is right.
//!
//! The search is Wing and Gong's with Lowe's memory of (done operations, state), over a list of calls and returns. What
//! keeps it small: registers are independent; refused operations did nothing and are left out once it is certain that
//! nobody saw their value; and a write of unknown outcome whose value nobody saw may as well never have happened.

use std::collections::{BTreeMap, HashSet};

use super::Violation;
use crate::history::{Action, Operation, Outcome, Register, Value};

/// Steps after which the search gives up and says so.
const PATIENCE: usize = 20_000_000;

#[derive(Clone, Copy, Debug)]
enum Step {
    Read(Value),
    Write(Value),
    Swap(Value, Value),
}

impl Step {
    fn apply(self, state: Option<Value>) -> Option<Option<Value>> {
        match self {
            Step::Read(value) => (state == Some(value)).then_some(state),
            Step::Write(value) => Some(Some(value)),
            Step::Swap(expected, value) => (state == Some(expected)).then_some(Some(value)),
        }
    }
}

pub fn check(operations: &[Operation]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut by_register: BTreeMap<Register, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        if let Some(register) = operation.register() {
            by_register.entry(register).or_default().push(operation);
        }
    }
    for (register, operations) in by_register {
        violations
            .extend(check_register(&operations).map(|problem| format!("register {register}: {problem}")));
    }
    violations
}

fn check_register(operations: &[&Operation]) -> Option<Violation> {
    // Every value that somebody was told, or built on.
    let mut observed: HashSet<Value> = HashSet::new();
    for operation in operations {
        match (&operation.action, &operation.outcome) {
            (_, Outcome::Found { value, .. }) => drop(observed.insert(*value)),
            (Action::Swap { expected, .. }, Outcome::Done { .. }) => drop(observed.insert(*expected)),
            _ => {}
        }
    }
    let mut steps: Vec<(Step, u128, u128)> = Vec::new();
    for operation in operations {
        if let (Some(value), Outcome::Refused(reason)) = (operation.written(), &operation.outcome) {
            if observed.contains(&value) {
                return Some(format!("{value} was refused ({reason}) and read nevertheless"));
            }
            continue;
        }
        let step = match (&operation.action, &operation.outcome) {
            (Action::Read(_), Outcome::Found { value, .. }) => Step::Read(*value),
            (Action::Write(_, value), _) => Step::Write(*value),
            (Action::Swap { expected, value, .. }, _) => Step::Swap(*expected, *value),
            _ => continue,
        };
        let unseen = operation.written().is_some_and(|value| !observed.contains(&value));
        if operation.returned.is_none() && unseen {
            continue;
        }
        let end = operation.returned.map_or(u128::MAX, |returned| returned.as_nanos());
        steps.push((step, operation.invoked.as_nanos(), end));
    }
    let written: HashSet<Value> = operations.iter().filter_map(|operation| operation.written()).collect();
    if let Some(value) = observed.iter().find(|value| !written.contains(value)) {
        return Some(format!("{value} was read and never written"));
    }
    search(&steps)
}

/// A call or a return in time order; positions in the list, `0` being its head.
struct Node {
    step: usize,
    is_call: bool,
    /// Of a call: where its return is.
    partner: usize,
    previous: usize,
    next: usize,
}

struct Timeline {
    nodes: Vec<Node>,
}

const END: usize = usize::MAX;

impl Timeline {
    fn new(steps: &[(Step, u128, u128)]) -> Timeline {
        let mut moments: Vec<(u128, bool, usize)> = Vec::new();
        for (number, (_, invoked, returned)) in steps.iter().enumerate() {
            moments.push((*invoked, true, number));
            moments.push((*returned, false, number));
        }
        // Of a call and a return at one moment the call goes first: they may have been concurrent.
        moments.sort_by_key(|(at, is_call, number)| (*at, !*is_call, *number));
        let mut nodes = vec![Node { step: END, is_call: false, partner: END, previous: END, next: END }];
        let mut calls = vec![0; steps.len()];
        for (_, is_call, step) in moments {
            let position = nodes.len();
            if is_call {
                calls[step] = position;
            } else {
                nodes[calls[step]].partner = position;
            }
            nodes[position - 1].next = position;
            nodes.push(Node { step, is_call, partner: END, previous: position - 1, next: END });
        }
        Timeline { nodes }
    }

    fn take_out(&mut self, position: usize) {
        let (previous, next) = (self.nodes[position].previous, self.nodes[position].next);
        self.nodes[previous].next = next;
        if next != END {
            self.nodes[next].previous = previous;
        }
    }

    fn put_back(&mut self, position: usize) {
        let (previous, next) = (self.nodes[position].previous, self.nodes[position].next);
        self.nodes[previous].next = position;
        if next != END {
            self.nodes[next].previous = position;
        }
    }
}

fn search(steps: &[(Step, u128, u128)]) -> Option<Violation> {
    let mut timeline = Timeline::new(steps);
    let mut done = vec![0_u64; steps.len().div_ceil(64)];
    let mut state: Option<Value> = None;
    let mut known: HashSet<(Vec<u64>, Option<Value>)> = HashSet::new();
    let mut path: Vec<(usize, Option<Value>)> = Vec::new();
    let mut furthest = (0, 0);
    let mut position = timeline.nodes[0].next;
    for _ in 0..PATIENCE {
        if timeline.nodes[0].next == END {
            return None;
        }
        let node = &timeline.nodes[position];
        if node.is_call {
            let (number, partner, following) = (node.step, node.partner, node.next);
            if let Some(next_state) = steps[number].0.apply(state) {
                done[number / 64] |= 1 << (number % 64);
                if known.insert((done.clone(), next_state)) {
                    path.push((position, state));
                    state = next_state;
                    timeline.take_out(position);
                    timeline.take_out(partner);
                    position = timeline.nodes[0].next;
                    continue;
                }
                done[number / 64] &= !(1 << (number % 64));
            }
            position = following;
        } else {
            // Something had returned that fits nowhere: the last choice was wrong.
            furthest = furthest.max((path.len(), node.step));
            let Some((last, before)) = path.pop() else {
                let (step, invoked, returned) = steps[furthest.1];
                return Some(format!(
                    "no order explains {step:?} between {} and {} ms; {} of {} operations can be ordered",
                    invoked / 1_000_000,
                    returned / 1_000_000,
                    furthest.0,
                    steps.len()
                ));
            };
            state = before;
            let (number, partner) = (timeline.nodes[last].step, timeline.nodes[last].partner);
            done[number / 64] &= !(1 << (number % 64));
            timeline.put_back(partner);
            timeline.put_back(last);
            position = timeline.nodes[last].next;
        }
    }
    Some(format!("undecided after {PATIENCE} steps over {} operations", steps.len()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::operation;
    use super::*;

    fn read(invoked: u64, returned: u64, value: Value) -> Operation {
        operation(Action::Read(1), invoked, returned, Outcome::Found { value, revision: 0 })
    }

    fn write(invoked: u64, returned: u64, value: Value) -> Operation {
        operation(Action::Write(1, value), invoked, returned, Outcome::Done { revision: 0 })
    }

    fn swap(invoked: u64, returned: u64, expected: Value, value: Value) -> Operation {
        operation(
            Action::Swap { register: 1, expected, value },
            invoked,
            returned,
            Outcome::Done { revision: 0 },
        )
    }

    fn lost(invoked: u64, value: Value) -> Operation {
        operation(Action::Write(1, value), invoked, 0, Outcome::Unknown("lost".into()))
    }

    #[track_caller]
    fn good(operations: &[Operation]) {
        assert_eq!(check(operations), Vec::<String>::new());
    }

    #[track_caller]
    fn bad(operations: &[Operation]) {
        assert_eq!(check(operations).len(), 1);
    }

    #[test]
    fn concurrent_operations_may_take_any_order() {
        good(&[write(0, 10, 1), write(1, 9, 2), read(11, 12, 1)]);
        good(&[write(0, 10, 1), write(1, 9, 2), read(11, 12, 2)]);
        good(&[write(0, 1, 1), write(2, 10, 2), read(3, 4, 1), read(5, 6, 2)]);
    }

    #[test]
    fn a_stale_read_is_found() {
        bad(&[write(0, 1, 1), write(2, 3, 2), read(4, 5, 1)]);
        bad(&[write(0, 1, 1), write(2, 10, 2), read(3, 4, 2), read(5, 6, 1)]);
    }

    #[test]
    fn a_lost_write_may_happen_late_or_never_and_not_twice() {
        good(&[write(0, 1, 1), lost(2, 2), read(3, 4, 1)]);
        good(&[write(0, 1, 1), lost(2, 2), read(3, 4, 1), read(5, 6, 2)]);
        bad(&[write(0, 1, 1), lost(2, 2), read(3, 4, 2), read(5, 6, 1)]);
        bad(&[write(0, 1, 1), lost(2, 2), read(3, 4, 2), write(5, 6, 3), read(7, 8, 2)]);
    }

    #[test]
    fn a_lost_acknowledged_write_is_found() {
        bad(&[write(0, 1, 1), write(2, 3, 2), swap(4, 5, 1, 3)]);
        bad(&[write(0, 1, 1), swap(2, 3, 1, 2), swap(4, 5, 1, 3)]);
        good(&[write(0, 1, 1), swap(2, 3, 1, 2), swap(4, 5, 2, 3)]);
    }

    #[test]
    fn values_out_of_nowhere_and_refused_ones_are_found() {
        bad(&[write(0, 1, 1), read(2, 3, 7)]);
        let refused = operation(Action::Write(1, 2), 2, 3, Outcome::Refused("503".into()));
        bad(&[write(0, 1, 1), refused.clone(), read(4, 5, 2)]);
        good(&[write(0, 1, 1), refused, read(4, 5, 1)]);
    }

    /// A thousand clients' worth of true history takes no time: the search must not explode on what is well.
    #[test]
    fn a_long_clean_history_is_quick() {
        let mut operations = Vec::new();
        for n in 0..2000_u64 {
            operations.push(write(n * 10, n * 10 + 25, n + 1));
            operations.push(read(n * 10 + 26, n * 10 + 27, n + 1));
        }
        good(&operations);
    }
}
