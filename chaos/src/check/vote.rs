//! A server votes for one candidate in a term, and remembers it over crashes.

use std::collections::BTreeMap;

use super::{Evidence, Guarantee, Violation};
use crate::history::ServerId;
use crate::observe::{Fact, Vote};

pub const GUARANTEE: Guarantee = Guarantee {
    name: "vote-never-forgotten",
    about: "A vote is durable before it is answered. Here a server voted for two candidates in one term, or came back with an \
            older vote: it had forgotten one, and two leaders may follow.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut newest: BTreeMap<ServerId, Vote> = BTreeMap::new();
    for seen in &evidence.observations.facts {
        let Fact::Voted(vote) = seen.fact else { continue };
        let before = *newest.entry(seen.server).or_insert(vote);
        if vote.term < before.term || (vote.term == before.term && vote.candidate != before.candidate) {
            violations.push(format!(
                "server {}, start {}: {vote:?} at {:.3?} after {before:?}",
                seen.server, seen.life, seen.at
            ));
        }
        newest.insert(seen.server, vote.max(before));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::GUARANTEE;
    use crate::observe::{Fact, Vote};

    #[test]
    fn votes_only_go_forward() {
        let voted = |term, candidate| Fact::Voted(Vote { term, candidate });
        let story = || Story::new().saw(0, 0, 1, voted(3, 1));
        story()
            .saw(1, 0, 2, voted(3, 1))
            .saw(2, 0, 2, voted(4, 2))
            .saw(2, 1, 1, voted(3, 2))
            .passes(&GUARANTEE);
        story().saw(1, 0, 2, voted(3, 2)).fails(&GUARANTEE, "start 2");
        story().saw(1, 0, 2, voted(2, 1)).fails(&GUARANTEE, "start 2");
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        super::super::model::passes(&GUARANTEE);
    }
}
