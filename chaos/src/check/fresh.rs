//! No linearizable read is stale: it sees everything that anybody had been told before it began.

use std::collections::HashMap;

use super::{Evidence, Guarantee, Violation, floors};
use crate::history::{Action, Key, Outcome, Revision, Scope};

pub const GUARANTEE: Guarantee = Guarantee {
    name: "fresh-reads",
    about: "A linearizable read that began after a write was acknowledged, or after another client saw a revision, must show \
            at least that. Here one showed the past: a server answered from its own state without asking whether it was \
            still the cluster's.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let operations = &evidence.history.operations;
    let mut violations = Vec::new();
    for (number, floor) in floors(operations, |_| true) {
        let operation = &operations[number];
        if !operation.is_linearizable_read() {
            continue;
        }
        if let Outcome::Found { revision: Some(revision), .. } = operation.outcome
            && revision < floor
        {
            violations.push(format!("revision {floor} had been told before this began: {operation}"));
        }
    }
    // Where a read tells no revision of the store, its key's own must not go back.
    let mut untold: HashMap<&Key, Vec<usize>> = HashMap::new();
    for (number, operation) in operations.iter().enumerate() {
        if let Action::Read { scope: Scope::Key(key), linearizable: true } = &operation.action
            && matches!(operation.outcome, Outcome::Found { revision: None, .. })
        {
            untold.entry(key).or_default().push(number);
        }
    }
    for (key, reads) in untold {
        let concerns = |number: usize| {
            let operation = &operations[number];
            operation.action.writes().iter().any(|write| write.key() == key)
                || matches!(&operation.action, Action::Read { scope: Scope::Key(own), .. } if own == key)
        };
        let floors: HashMap<usize, Revision> = floors(operations, concerns).collect();
        for number in reads {
            let operation = &operations[number];
            let (Some(floor), Some(shown)) = (floors.get(&number), operation.revision()) else { continue };
            if shown < *floor {
                violations
                    .push(format!("{key} had been told at revision {floor} before this began: {operation}"));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::GUARANTEE;

    #[test]
    fn a_read_after_an_acknowledged_write_sees_it() {
        let story = || Story::new().put("a", 1).at(0, 1).revision(5).put("b", 2).at(2, 3).revision(6);
        story().read("a", 1).at(4, 5).revision(6).passes(&GUARANTEE);
        story().read("a", 1).at(4, 5).revision(5).fails(&GUARANTEE, "revision 6 had been told");
        story().read("a", 1).at(4, 5).revision(5).local().passes(&GUARANTEE);
        story().read("a", 1).at(2, 5).revision(5).passes(&GUARANTEE);
    }

    #[test]
    fn a_read_that_tells_its_key_alone_is_judged_by_its_key() {
        let story = || Story::new().put("a", 1).at(0, 1).put("a", 2).at(2, 3).put("b", 3).at(2, 3);
        story().read("a", 2).at(4, 5).passes(&GUARANTEE);
        story().read("a", 1).at(4, 5).fails(&GUARANTEE, "a had been told at revision 3");
        story().read("a", 2).at(4, 5).read("a", 1).at(6, 7).fails(&GUARANTEE, "");
    }

    #[test]
    fn reads_at_the_same_time_may_differ() {
        let story = || Story::new().put("a", 1).at(0, 1).put("a", 2).at(2, 20);
        story().read("a", 2).at(3, 10).read("a", 1).at(4, 9).passes(&GUARANTEE);
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        super::super::model::passes(&GUARANTEE);
    }
}
