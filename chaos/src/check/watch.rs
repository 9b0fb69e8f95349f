//! Watches: in order, each event once, none left out, and the same from every server, over however many connections.

use std::collections::BTreeMap;

use super::Violation;
use crate::history::{Action, Operation, Outcome, Seen, Watched};

pub fn check(operations: &[Operation], watched: &[Watched]) -> Vec<Violation> {
    let mut violations = Vec::new();
    // What happened, by revision, as the watchers together know it; every write here is a transaction of its own.
    let mut truth: BTreeMap<u64, &Seen> = BTreeMap::new();
    for watcher in watched {
        ordered(watcher, &mut violations);
        for seen in &watcher.seen {
            let known = *truth.entry(seen.revision).or_insert(seen);
            if known != seen {
                violations
                    .push(format!("server {} shows {seen:?} where another shows {known:?}", watcher.server));
            }
        }
    }
    for watcher in watched {
        reliable(watcher, &truth, operations, &mut violations);
    }
    violations
}

/// Revisions grow from event to event; nothing is repeated after a reconnection.
fn ordered(watcher: &Watched, violations: &mut Vec<Violation>) {
    let mut last = watcher.start;
    for (position, seen) in watcher.seen.iter().enumerate() {
        if let Some(listed) = watcher.relisted.get(&position) {
            last = last.max(*listed);
        }
        if seen.revision <= last {
            violations.push(format!("server {}: {seen:?} came after revision {last}", watcher.server));
        }
        last = last.max(seen.revision);
    }
}

/// Everything between the start and the last event was delivered, except what a list stood in for.
fn reliable(
    watcher: &Watched,
    truth: &BTreeMap<u64, &Seen>,
    operations: &[Operation],
    violations: &mut Vec<Violation>,
) {
    let own: BTreeMap<u64, &Seen> = watcher.seen.iter().map(|seen| (seen.revision, seen)).collect();
    let skipped: Vec<(u64, u64)> = watcher
        .relisted
        .iter()
        .map(|(position, listed)| {
            let before = position.checked_sub(1).and_then(|last| watcher.seen.get(last));
            (before.map_or(watcher.start, |seen| seen.revision), *listed)
        })
        .collect();
    let excused = |revision: u64| {
        revision <= watcher.start || skipped.iter().any(|(from, to)| (*from + 1..=*to).contains(&revision))
    };
    for (revision, seen) in truth {
        if !own.contains_key(revision) && !excused(*revision) {
            violations.push(format!("server {} left out {seen:?}", watcher.server));
        }
    }
    for operation in operations {
        let Outcome::Done { revision } = operation.outcome else { continue };
        if excused(revision) {
            continue;
        }
        let fits = own.get(&revision).is_some_and(|seen| match &operation.action {
            Action::Create(name) => seen.event == "ADDED" && seen.name == *name,
            Action::Write(_, value) | Action::Swap { value, .. } => seen.value == Some(*value),
            Action::Read(_) => true,
        });
        if !fits {
            violations.push(format!(
                "server {} did not show {:?}, revision {revision}",
                watcher.server, operation.action
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::operation;
    use super::*;

    fn seen(revision: u64) -> Seen {
        Seen { revision, event: "MODIFIED", name: "register-1".into(), value: Some(revision * 10) }
    }

    fn watcher(revisions: &[u64]) -> Watched {
        Watched {
            start: 1,
            seen: revisions.iter().map(|revision| seen(*revision)).collect(),
            ..Watched::default()
        }
    }

    #[track_caller]
    fn check_all(watched: &[Watched], expected: usize) {
        let writes: Vec<Operation> = [2, 3, 4]
            .map(|revision| operation(Action::Write(1, revision * 10), 0, 1, Outcome::Done { revision }))
            .into();
        let found = check(&writes, watched);
        assert_eq!(found.len(), expected, "{found:?}");
    }

    #[test]
    fn a_full_record_in_order_is_good() {
        check_all(&[watcher(&[2, 3, 4]), watcher(&[2, 3, 4])], 0);
    }

    #[test]
    fn repeated_and_swapped_events_are_found() {
        check_all(&[watcher(&[2, 3, 3, 4])], 1);
        check_all(&[watcher(&[3, 2, 4])], 1);
    }

    #[test]
    fn a_skipped_event_is_found_by_the_write_and_by_other_watchers() {
        check_all(&[watcher(&[2, 4])], 1);
        check_all(&[watcher(&[2, 4]), watcher(&[2, 3, 4])], 2);
    }

    #[test]
    fn a_list_stands_in_for_events() {
        let mut relisted = watcher(&[2, 4]);
        relisted.relisted.insert(1, 3);
        check_all(&[relisted], 0);
    }

    #[test]
    fn servers_must_show_the_same() {
        let mut other = watcher(&[2, 3, 4]);
        other.seen[1].value = Some(1);
        check_all(&[watcher(&[2, 3, 4]), other], 2);
    }
}
