//! Registers are linearizable: there is one order of all operations that explains every answer and respects real time.
//!
//! The search is that of Wing and Gong with Lowe's memory of configurations, register by register, which is sound
//! because linearizability is local. A write of unknown outcome may happen at any time after it was sent, or never;
//! one whose value nobody read explains nothing and is left out.

use std::collections::{HashMap, HashSet};

use super::Verdict;
use crate::history::{Action, Moment, Operation, Outcome};

/// Configurations looked at for one register before the search gives up.
const BOUND: usize = 5_000_000;

#[derive(Clone, Copy, Debug)]
struct Event {
    write: bool,
    value: Option<u64>,
    invoked: Moment,
    /// `None`: open for ever.
    returned: Option<Moment>,
}

/// # Errors
/// The register without such an order, or one whose search is too large to decide.
pub fn linearizable(operations: &[Operation]) -> Verdict {
    let mut registers: HashMap<u32, Vec<Event>> = HashMap::new();
    let read: HashSet<(u32, u64)> = operations
        .iter()
        .filter_map(|operation| match (&operation.action, &operation.outcome) {
            (Action::Read { register }, Outcome::Done { value: Some(value), .. }) => Some((*register, *value)),
            _ => None,
        })
        .collect();
    for operation in operations {
        let event = match (&operation.action, &operation.outcome) {
            (Action::Write { register, value }, Outcome::Done { .. }) => {
                (*register, Event::new(true, Some(*value), operation, Some(operation.returned)))
            }
            (Action::Write { register, value }, Outcome::Unknown) if read.contains(&(*register, *value)) => {
                (*register, Event::new(true, Some(*value), operation, None))
            }
            (Action::Read { register }, Outcome::Done { value, .. }) => {
                (*register, Event::new(false, *value, operation, Some(operation.returned)))
            }
            _ => continue,
        };
        registers.entry(event.0).or_default().push(event.1);
    }
    let (count, total) = (registers.len(), registers.values().map(Vec::len).sum::<usize>());
    for (register, events) in registers {
        match search(events) {
            Some(true) => {}
            Some(false) => return Err(format!("register {register} has no order that explains its answers")),
            None => return Err(format!("register {register} could not be decided within {BOUND} configurations")),
        }
    }
    Ok(format!("{total} operations on {count} registers are linearizable"))
}

impl Event {
    fn new(write: bool, value: Option<u64>, operation: &Operation, returned: Option<Moment>) -> Event {
        Event { write, value, invoked: operation.invoked, returned }
    }
}

/// Depth first over the operations that may come next: those invoked before any pending one returned.
fn search(mut events: Vec<Event>) -> Option<bool> {
    events.sort_by_key(|event| event.invoked);
    let mut done = vec![false; events.len()];
    let mut first_pending = 0;
    let mut value: Option<u64> = None;
    // What was chosen, with the value and the first pending one before it.
    let mut path: Vec<(usize, Option<u64>, usize)> = Vec::new();
    let mut seen: HashSet<(Vec<usize>, usize, Option<u64>)> = HashSet::new();
    let mut start = 0;
    loop {
        while first_pending < events.len() && done[first_pending] {
            first_pending += 1;
        }
        let required = events.iter().zip(&done).skip(first_pending).any(|(e, done)| !done && e.returned.is_some());
        if !required {
            return Some(true);
        }
        let horizon = events
            .iter()
            .zip(&done)
            .skip(first_pending)
            .filter(|(_, done)| !**done)
            .filter_map(|(event, _)| event.returned)
            .min()
            .unwrap_or(Moment::MAX);
        let mut chosen = None;
        for at in start.max(first_pending)..events.len() {
            let event = &events[at];
            if event.invoked > horizon {
                break;
            }
            if done[at] || !(event.write || event.value == value) {
                continue;
            }
            let next = if event.write { event.value } else { value };
            done[at] = true;
            // Beyond the first pending one, few are done: their indices name the configuration.
            let mut low = first_pending;
            while low < events.len() && done[low] {
                low += 1;
            }
            let above: Vec<usize> =
                (low..events.len()).take_while(|&i| events[i].invoked <= horizon || done[i]).filter(|&i| done[i]).collect();
            if seen.insert((above, low, next)) {
                chosen = Some((at, next));
                break;
            }
            done[at] = false;
        }
        if seen.len() > BOUND {
            return None;
        }
        match chosen {
            Some((at, next)) => {
                path.push((at, value, first_pending));
                value = next;
                start = 0;
            }
            None => {
                let Some((at, before, first)) = path.pop() else { return Some(false) };
                done[at] = false;
                value = before;
                first_pending = first;
                start = at + 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn event(write: bool, value: Option<u64>, invoked: u64, returned: Option<u64>) -> Event {
        Event {
            write,
            value,
            invoked: Duration::from_millis(invoked),
            returned: returned.map(Duration::from_millis),
        }
    }

    fn write(value: u64, invoked: u64, returned: u64) -> Event {
        event(true, Some(value), invoked, Some(returned))
    }

    fn open(value: u64, invoked: u64) -> Event {
        event(true, Some(value), invoked, None)
    }

    fn read(value: u64, invoked: u64, returned: u64) -> Event {
        event(false, (value > 0).then_some(value), invoked, Some(returned))
    }

    fn check(events: &[Event], expected: bool) {
        assert_eq!(search(events.to_vec()), Some(expected), "{events:?}");
    }

    #[test]
    fn a_stale_read_is_seen() {
        check(&[write(1, 0, 1), read(1, 2, 3)], true);
        check(&[write(1, 0, 1), read(0, 2, 3)], false);
        check(&[write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)], false);
    }

    #[test]
    fn overlapping_operations_may_take_either_order_but_only_one() {
        check(&[write(1, 0, 10), write(2, 0, 10), read(1, 11, 12)], true);
        check(&[write(1, 0, 10), write(2, 0, 10), read(2, 11, 12)], true);
        check(&[write(1, 0, 10), write(2, 0, 10), read(1, 11, 12), read(2, 13, 14)], false);
        check(&[write(1, 0, 10), read(1, 1, 2), read(0, 3, 4)], false);
    }

    #[test]
    fn an_open_write_may_happen_late_or_never_but_not_twice() {
        check(&[open(1, 0), read(0, 1, 2), read(1, 3, 4)], true);
        check(&[open(1, 0), read(0, 1, 2), read(0, 3, 4)], true);
        check(&[open(1, 0), read(1, 1, 2), write(2, 3, 4), read(1, 5, 6)], false);
        check(&[open(1, 5), read(1, 1, 2)], false);
    }

    #[test]
    fn long_histories_are_decided() {
        let mut events = Vec::new();
        for n in 1..2_000 {
            events.push(write(n, n * 10, n * 10 + 12));
            events.push(read(n, n * 10 + 12, n * 10 + 15));
        }
        // Neighbouring writes overlap by two, so each read has one choice that works.
        assert!(search(events).is_some());
    }
}
