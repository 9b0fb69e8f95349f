//! All changes of one transaction under the prefix come together.

use std::collections::BTreeSet;

use super::super::{Evidence, Guarantee, Violation};
use super::streams;

pub const GUARANTEE: Guarantee = Guarantee {
    name: "watch-atomic",
    about: "A transaction is visible as a whole or not at all, in a watch as well. Here a stream showed a part of one: a reader \
            that stops there has a state that never was.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    for stream in streams(evidence.history) {
        let mut shown = BTreeSet::new();
        for (revision, changes) in stream.changes() {
            if !shown.insert(revision) {
                violations.push(format!("{}: revision {revision} came in parts", stream.name()));
            }
            let Some(whole) = evidence.truth.by_revision.get(&revision) else { continue };
            let missing = |key: &str| {
                key.starts_with(&stream.watched.prefix) && !changes.iter().any(|change| &*change.key == key)
            };
            let missing: Vec<_> = whole.keys().filter(|key| missing(key)).collect();
            if !missing.is_empty() {
                violations.push(format!("{}: revision {revision} came without {missing:?}", stream.name()));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::super::{model, story::Story};
    use super::GUARANTEE;
    use crate::history::{Change, Item};

    #[test]
    fn a_transaction_comes_whole() {
        let story = || Story::new().put_both(("a", 1), ("b", 2)).watch("", 1);
        let change = |key: &str, value| Change { key: key.into(), value: Some(value), previous: None };
        let whole = Item::Changes { revision: 2, changes: vec![change("a", 1), change("b", 2)] };
        story().item(whole).passes(&GUARANTEE);
        story().event(2, "a", Some(1)).fails(&GUARANTEE, "without [\"b\"]");
        story().event(2, "a", Some(1)).event(2, "b", Some(2)).fails(&GUARANTEE, "came in parts");
        Story::new().put_both(("a", 1), ("b", 2)).watch("a", 1).event(2, "a", Some(1)).passes(&GUARANTEE);
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        model::passes(&GUARANTEE);
    }
}
