//! At one revision all servers have one state.

use std::collections::HashMap;

use super::{Evidence, Guarantee, Violation};
use crate::observe::Fact;

pub const GUARANTEE: Guarantee = Guarantee {
    name: "state-hash",
    about: "The same log gives the same state, to the byte, on every server and after every restart. Here two states of one \
            revision differ: applying read something that is not in the log, or a checkpoint or snapshot is not what it was \
            made from.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut states = HashMap::new();
    let finals = evidence
        .history
        .finals
        .iter()
        .filter_map(|last| Some((last.server, 0, last.revision, last.state_hash?)));
    let facts = evidence.observations.facts.iter().filter_map(|seen| match seen.fact {
        Fact::State { revision, hash } => Some((seen.server, seen.life, revision, hash)),
        _ => None,
    });
    for (server, life, revision, hash) in facts.chain(finals) {
        let (expected, other) = *states.entry(revision).or_insert((hash, server));
        if expected != hash {
            violations.push(format!(
                "revision {revision}: server {other} has state {expected:016x}, server {server} (start {life}) {hash:016x}"
            ));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::GUARANTEE;
    use crate::observe::Fact;

    #[test]
    fn one_revision_is_one_state() {
        let state = |revision, hash| Fact::State { revision, hash };
        let story = || Story::new().saw(0, 0, 1, state(5, 1)).saw(0, 1, 1, state(5, 1));
        story().saw(1, 0, 1, state(6, 2)).saw(2, 0, 2, state(5, 1)).passes(&GUARANTEE);
        story().saw(1, 2, 1, state(5, 2)).fails(&GUARANTEE, "server 2 (start 1)");
        story().saw(1, 0, 2, state(5, 2)).fails(&GUARANTEE, "(start 2)");
        story().ends_with(1, 5, 9, &[]).fails(&GUARANTEE, "server 1");
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        super::super::model::passes(&GUARANTEE);
    }
}
