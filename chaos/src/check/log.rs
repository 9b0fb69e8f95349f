//! Log matching: an entry's place names the entry and everything before it, on all servers; and what one server has applied
//! at an index all apply there.

use std::collections::{BTreeMap, HashMap};

use super::{Evidence, Guarantee, Violation};
use crate::history::ServerId;
use crate::observe::{Fact, LogId};

pub const GUARANTEE: Guarantee = Guarantee {
    name: "log-matching",
    about: "Two logs that agree on an entry's term and index agree on all entries up to it, and an entry that was applied \
            anywhere is the one applied everywhere. Here they differ: a server kept, made up or applied what the cluster did \
            not decide.",
    check,
};

/// What an entry is, and what stands before it, where that is known.
#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    before: Option<LogId>,
    server: ServerId,
}

fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut entries: HashMap<LogId, Entry> = HashMap::new();
    let mut logs: HashMap<ServerId, BTreeMap<u64, u64>> = HashMap::new();
    let mut applied: HashMap<u64, (LogId, u64, ServerId)> = HashMap::new();
    let mut positions: HashMap<(ServerId, usize), u64> = HashMap::new();
    for seen in &evidence.observations.facts {
        let server = seen.server;
        match seen.fact {
            Fact::Truncated { from } => drop(logs.entry(server).or_default().split_off(&from)),
            Fact::Logged { at, hash } => {
                let log = logs.entry(server).or_default();
                // An entry that is written behind nothing has displaced what stood there: a crash may have lost the tail.
                if log.last_key_value().is_some_and(|(last, _)| *last >= at.index) {
                    log.split_off(&at.index);
                }
                let before = at.index.checked_sub(1).and_then(|index| {
                    let term = *log.get(&index)?;
                    Some(LogId { term, index })
                });
                log.insert(at.index, at.term);
                let known = entries.entry(at).or_insert(Entry { hash, before, server });
                if known.hash != hash {
                    violations.push(format!(
                        "servers {} and {server} hold different entries at {at:?}",
                        known.server
                    ));
                }
                match (known.before, before) {
                    (Some(one), Some(other)) if one != other => violations.push(format!(
                        "before {at:?} server {} has {one:?}, server {server} {other:?}",
                        known.server
                    )),
                    (None, Some(_)) => known.before = before,
                    _ => {}
                }
            }
            Fact::Applied { at, hash } => {
                let (first, expected, other) = *applied.entry(at.index).or_insert((at, hash, server));
                if (first, expected) != (at, hash) {
                    violations.push(format!("server {other} applied {first:?}, server {server} {at:?}"));
                }
                let position = positions.entry((server, seen.life)).or_default();
                if at.index <= *position {
                    violations.push(format!("server {server} applied index {} after {position}", at.index));
                }
                *position = at.index;
            }
            _ => {}
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::GUARANTEE;
    use crate::observe::{Fact, LogId};

    fn logged(term: u64, index: u64, hash: u64) -> Fact {
        Fact::Logged { at: LogId { term, index }, hash }
    }

    fn applied(term: u64, index: u64, hash: u64) -> Fact {
        Fact::Applied { at: LogId { term, index }, hash }
    }

    #[test]
    fn one_place_is_one_entry() {
        let story = || Story::new().saw(0, 0, 1, logged(1, 1, 11)).saw(0, 0, 1, logged(1, 2, 12));
        story().saw(1, 1, 1, logged(1, 1, 11)).saw(1, 1, 1, logged(1, 2, 12)).passes(&GUARANTEE);
        story()
            .saw(1, 1, 1, logged(1, 1, 11))
            .saw(1, 1, 1, logged(1, 2, 13))
            .fails(&GUARANTEE, "different entries");
        story().saw(1, 1, 1, logged(2, 1, 21)).saw(1, 1, 1, logged(1, 2, 12)).fails(&GUARANTEE, "before");
    }

    #[test]
    fn an_uncommitted_tail_may_be_replaced() {
        let story = || Story::new().saw(0, 0, 1, logged(1, 1, 11)).saw(0, 0, 1, logged(1, 2, 12));
        let replaced = story().saw(1, 0, 1, Fact::Truncated { from: 2 }).saw(1, 0, 1, logged(2, 2, 22));
        replaced.passes(&GUARANTEE);
        story().saw(1, 0, 2, logged(2, 2, 22)).saw(1, 0, 2, logged(2, 3, 23)).passes(&GUARANTEE);
    }

    #[test]
    fn what_one_applied_all_apply() {
        let story = || Story::new().saw(0, 0, 1, applied(1, 1, 11)).saw(0, 0, 1, applied(1, 2, 12));
        story().saw(1, 1, 1, applied(1, 2, 12)).saw(1, 0, 2, applied(1, 1, 11)).passes(&GUARANTEE);
        story().saw(1, 1, 1, applied(2, 2, 22)).fails(&GUARANTEE, "server 0 applied");
        story().saw(1, 0, 1, applied(1, 1, 11)).fails(&GUARANTEE, "index 1 after 2");
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        super::super::model::passes(&GUARANTEE);
    }
}
