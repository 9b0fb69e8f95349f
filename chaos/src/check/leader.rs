//! A term has one leader.

use std::collections::BTreeMap;

use super::{Evidence, Guarantee, Violation};
use crate::observe::Fact;

pub const GUARANTEE: Guarantee = Guarantee {
    name: "one-leader-per-term",
    about: "All of raft rests on each term having at most one leader. Here two servers led in one: two histories could be \
            acknowledged at once.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut leaders = BTreeMap::new();
    for seen in &evidence.observations.facts {
        let Fact::Leads { term } = seen.fact else { continue };
        let leader = *leaders.entry(term).or_insert(seen.server);
        if leader != seen.server {
            violations.push(format!(
                "term {term}: server {leader} led, and at {:.3?} server {}",
                seen.at, seen.server
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
    fn a_term_has_one_leader() {
        let story = || Story::new().saw(0, 1, 1, Fact::Leads { term: 3 });
        story()
            .saw(1, 1, 2, Fact::Leads { term: 3 })
            .saw(2, 2, 1, Fact::Leads { term: 4 })
            .passes(&GUARANTEE);
        story()
            .saw(1, 2, 1, Fact::Leads { term: 3 })
            .fails(&GUARANTEE, "server 1 led, and at 1.000ms server 2");
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        super::super::model::passes(&GUARANTEE);
    }
}
