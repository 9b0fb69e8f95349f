//! The revision never goes back: a change that began after anything was told has a higher one, and a running server never
//! shows a lower one than before.

use std::collections::HashMap;

use super::{Evidence, Guarantee, Violation, floors};
use crate::history::{Action, Outcome, Revision, ServerId, Write};
use crate::observe::Fact;

pub const GUARANTEE: Guarantee = Guarantee {
    name: "revision-never-back",
    about: "Clients take the revision for the cluster's clock: caches, guards and watches rest on it. Here a transaction got a \
            revision that had been given or passed before it began, or two transactions share one, or a server stepped back \
            while it ran.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let operations = &evidence.history.operations;
    let mut violations = Vec::new();
    let mut owners: HashMap<Revision, usize> = HashMap::new();
    for (number, floor) in floors(operations, |_| true) {
        let operation = &operations[number];
        let (Action::Txn(txn), Some(revision)) = (&operation.action, operation.revision()) else { continue };
        let done = matches!(operation.outcome, Outcome::Done { .. });
        let changes = done && txn.writes.iter().any(|write| matches!(write, Write::Put { .. }));
        if revision < floor || (changes && revision == floor) {
            violations.push(format!("revision {floor} had been told before this began: {operation}"));
        }
        if changes && let Some(other) = owners.insert(revision, number) {
            violations.push(format!("{operation} shares its revision with {}", operations[other]));
        }
    }
    let mut shown: HashMap<(ServerId, usize), Revision> = HashMap::new();
    for seen in &evidence.observations.facts {
        if let Fact::State { revision, .. } = seen.fact {
            let highest = shown.entry((seen.server, seen.life)).or_insert(revision);
            if revision < *highest {
                violations.push(format!(
                    "server {} went from revision {highest} back to {revision} at {:.3?}",
                    seen.server, seen.at
                ));
            }
            *highest = revision.max(*highest);
        }
    }
    for last in &evidence.history.finals {
        let newest = evidence.truth.newest();
        if last.revision < newest {
            violations.push(format!(
                "server {} ends at revision {}, and {newest} had been seen",
                last.server, last.revision
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
    fn later_changes_have_higher_revisions() {
        let story = || Story::new().put("a", 1).at(0, 1).revision(5);
        story().put("a", 2).at(2, 3).revision(6).passes(&GUARANTEE);
        story().put("a", 2).at(2, 3).revision(4).fails(&GUARANTEE, "had been told before");
        story().put("b", 2).at(0, 3).revision(4).passes(&GUARANTEE);
        story().put("b", 2).at(0, 3).revision(5).fails(&GUARANTEE, "shares its revision");
        story().delete("b").at(2, 3).revision(5).passes(&GUARANTEE);
        story().read("a", 1).at(2, 3).revision(7).put("a", 2).at(4, 5).revision(6).fails(&GUARANTEE, "");
    }

    #[test]
    fn a_server_steps_back_only_by_a_restart() {
        let state = |revision| Fact::State { revision, hash: 0 };
        let story = || Story::new().saw(0, 1, 1, state(5));
        story().saw(1, 1, 1, state(4)).fails(&GUARANTEE, "back to 4");
        story().saw(1, 1, 2, state(4)).passes(&GUARANTEE);
        story().saw(1, 2, 1, state(4)).passes(&GUARANTEE);
    }

    #[test]
    fn the_end_is_not_behind() {
        let story = || Story::new().put("a", 1).at(0, 1).revision(5);
        story().ends_with(0, 4, 0, &[]).fails(&GUARANTEE, "ends at revision 4");
        story().ends_with(0, 5, 0, &[]).passes(&GUARANTEE);
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        super::super::model::passes(&GUARANTEE);
    }
}
