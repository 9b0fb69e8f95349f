//! The previous value of a change is what the key held just before.

use super::super::truth::Shown;
use super::super::{Evidence, Guarantee, Violation};
use super::{Stream, streams};
use crate::history::{Change, Revision, Version};

pub const GUARANTEE: Guarantee = Guarantee {
    name: "watch-previous",
    about: "A change comes with what it replaced, and selectors decide on it whether an object came, changed or went. Here the \
            previous value is not what the key held before: a watcher with a selector keeps an object that is gone, or never \
            gets one that came.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    for stream in streams(evidence.history) {
        for (revision, changes) in stream.changes() {
            for change in changes {
                let Some(told) = change.previous else { continue };
                if let Some(problem) = wrong(evidence, &stream, revision, change, told) {
                    violations.push(format!(
                        "{}: revision {revision} changed {} from {}, {problem}",
                        stream.name(),
                        change.key,
                        Shown(told.map(|version| version.value))
                    ));
                }
            }
        }
    }
    violations
}

fn wrong(
    evidence: &Evidence,
    stream: &Stream,
    revision: Revision,
    change: &Change,
    told: Option<Version>,
) -> Option<String> {
    if told.is_none() && change.value.is_none() {
        return Some("and deleted what was not there".into());
    }
    let (at, known) = evidence.truth.at(&change.key, revision.checked_sub(1)?)?;
    if known.value == told.map(|version| version.value) {
        return None;
    }
    // The last witness may be older than an end that nobody could see.
    if let (None, Some(value)) = (told, known.value)
        && at <= stream.after
        && evidence.may_have_gone(&change.key, value, None)
    {
        return None;
    }
    Some(format!("and it had become {} at revision {at}", Shown(known.value)))
}

#[cfg(test)]
mod tests {
    use super::super::super::{model, story::Story};
    use super::GUARANTEE;

    #[test]
    fn a_change_names_what_it_replaced() {
        let story = || Story::new().put("a", 1).put("a", 2).put("a", 3).watch("", 1);
        let good = || story().change(2, "a", Some(1), None).change(3, "a", Some(2), Some((1, 2)));
        good().change(4, "a", Some(3), Some((2, 3))).passes(&GUARANTEE);
        good().change(4, "a", Some(3), Some((1, 2))).fails(&GUARANTEE, "had become 2 at revision 3");
        good().change(4, "a", Some(3), None).fails(&GUARANTEE, "from nothing");
        good().change(5, "b", None, None).fails(&GUARANTEE, "what was not there");
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        model::passes(&GUARANTEE);
    }
}
