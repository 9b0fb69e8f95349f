//! What was refused did not happen, and nothing is there that nobody wrote.

use super::{Evidence, Guarantee, Violation};

pub const GUARANTEE: Guarantee = Guarantee {
    name: "nothing-invented",
    about: "A refusal is a promise that nothing happened: a client that was refused may try again. Here a value was seen whose \
            write was refused, or that nobody wrote, or under a key it was not written to.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (value, (key, revision)) in &evidence.truth.places {
        let writer = evidence.truth.writers.get(value);
        let Some(operation) = writer.and_then(|number| evidence.history.operations.get(*number)) else {
            violations.push(format!("{key}={value} at revision {revision} was written by nobody"));
            continue;
        };
        if operation.is_refused() {
            violations
                .push(format!("{key}={value} is there at revision {revision} and was refused: {operation}"));
        }
        let meant = |write: &crate::history::Write| write.value() == Some(*value) && write.key() == key;
        if !operation.action.writes().iter().any(meant) {
            violations
                .push(format!("{key}={value} at revision {revision} is another key's value: {operation}"));
        }
    }
    violations.sort();
    violations
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::GUARANTEE;

    #[test]
    fn what_was_refused_is_nowhere() {
        let story = || Story::new().put("a", 1).refused();
        story().absent("a").passes(&GUARANTEE);
        story().read("a", 1).fails(&GUARANTEE, "was refused");
        story().watch("", 1).event(2, "a", Some(1)).fails(&GUARANTEE, "was refused");
        Story::new().put("a", 1).lost(0).read("a", 1).passes(&GUARANTEE);
    }

    #[test]
    fn values_come_from_somewhere() {
        Story::new().put("a", 1).read("a", 7).fails(&GUARANTEE, "by nobody");
        Story::new().put("a", 1).lost(0).watch("", 1).event(2, "b", Some(1)).fails(&GUARANTEE, "another key");
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        super::super::model::passes(&GUARANTEE);
    }
}
