//! A read shows one moment: exactly the state that its revision had, linearizable or not, whatever was written meanwhile.

use super::truth::Shown;
use super::{Evidence, Guarantee, Violation};
use crate::history::{Action, Outcome};

pub const GUARANTEE: Guarantee = Guarantee {
    name: "one-moment",
    about: "A read that says it shows revision r must show every key as it was at r, also on a server that is behind. Here a \
            key was shown that is newer, older, gone or not there yet: the read mixed moments, or the server's state is not \
            what its revision says.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    for operation in &evidence.history.operations {
        let Action::Read { scope, .. } = &operation.action else { continue };
        let Outcome::Found { revision: Some(revision), entries } = &operation.outcome else { continue };
        let sorted = entries.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if !sorted || entries.iter().any(|(key, _)| !scope.covers(key)) {
            violations.push(format!("keys out of order, twice or not asked for: {operation}"));
        }
        let full = scope.limit() > 0 && entries.len() >= scope.limit();
        let last = entries.last().map(|(key, _)| key);
        for (key, version) in entries {
            if version.revision > *revision {
                violations.push(format!("{key} is newer than the read's revision: {operation}"));
                continue;
            }
            if let Some((at, known)) = evidence.truth.at(key, *revision)
                && known.value != Some(version.value)
            {
                violations
                    .push(format!("{key} had become {} at revision {at}: {operation}", Shown(known.value)));
            }
        }
        for key in evidence.truth.by_key.keys().filter(|key| scope.covers(key)) {
            let cut_off = full && last.is_some_and(|last| key > last);
            if cut_off || entries.iter().any(|(shown, _)| shown == key) {
                continue;
            }
            if let Some((at, known)) = evidence.truth.at(key, *revision)
                && let Some(value) = known.value
                && !evidence.may_have_gone(key, value, operation.returned)
            {
                violations.push(format!("{key}={value}, of revision {at}, is left out: {operation}"));
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
    fn every_key_is_as_it_was() {
        let story = || Story::new().put("a", 1).revision(5).put("b", 2).revision(6).put("a", 3).revision(7);
        story().range(&[("a", 1), ("b", 2)]).revision(6).local().passes(&GUARANTEE);
        story().range(&[("a", 3), ("b", 2)]).revision(7).passes(&GUARANTEE);
        story().range(&[("a", 1), ("b", 2)]).revision(7).fails(&GUARANTEE, "had become 3");
        story().range(&[("a", 3), ("b", 2)]).revision(6).fails(&GUARANTEE, "newer");
        story().range(&[("a", 1)]).revision(6).fails(&GUARANTEE, "left out");
        story().range(&[("b", 2), ("a", 1)]).revision(6).fails(&GUARANTEE, "out of order");
    }

    #[test]
    fn what_was_deleted_is_not_shown() {
        let story = || Story::new().put("a", 1).revision(5).delete("a").revision(6);
        story().range(&[("a", 1)]).revision(6).fails(&GUARANTEE, "had become nothing");
        story().range(&[]).revision(6).passes(&GUARANTEE);
        story().range(&[("a", 1)]).revision(5).passes(&GUARANTEE);
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        super::super::model::passes(&GUARANTEE);
    }
}
