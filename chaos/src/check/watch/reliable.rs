//! Everything between a stream's start and the last it showed was shown; and a watcher that was given the time got to the
//! end.

use std::collections::BTreeMap;

use super::super::{Evidence, Guarantee, Violation};
use super::{Stream, streams};
use crate::history::Revision;

pub const GUARANTEE: Guarantee = Guarantee {
    name: "watch-reliable",
    about: "A stream shows every change after its start, or ends with an error that says to list again. Here it went on past a \
            change that others saw or that a client was told is done, or it never got there: a cache is wrong and does not \
            know it.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    for stream in streams(evidence.history) {
        violations.extend(left_out(evidence, &stream, stream.reached()));
    }
    for watched in &evidence.history.watches {
        if let Some(expected) = watched.must_reach
            && watched.reached() < expected
        {
            violations.push(format!(
                "watcher {} of {:?} was given the time to reach revision {expected} and is at {}",
                watched.watcher,
                watched.prefix,
                watched.reached()
            ));
        }
    }
    violations
}

/// What the stream did not show of everything after its start up to this revision.
pub(super) fn left_out(evidence: &Evidence, stream: &Stream, upto: Revision) -> Vec<Violation> {
    let mut violations = Vec::new();
    if upto <= stream.after {
        return violations;
    }
    let mut shown: BTreeMap<Revision, Vec<&str>> = BTreeMap::new();
    for (revision, changes) in stream.changes() {
        shown.entry(revision).or_default().extend(changes.iter().map(|change| &*change.key));
    }
    for (revision, changes) in evidence.truth.by_revision.range(stream.after + 1..=upto) {
        for (key, value) in changes {
            let is_shown = shown.get(revision).is_some_and(|keys| keys.contains(&&**key));
            if key.starts_with(&stream.watched.prefix) && !is_shown {
                violations.push(format!("{} left out {key}={value:?} at revision {revision}", stream.name()));
            }
        }
    }
    // A delete that was acknowledged, and that no watcher saw: the key was there, so an event is owed.
    for (key, revisions) in &evidence.truth.by_key {
        if !key.starts_with(&stream.watched.prefix) {
            continue;
        }
        for (revision, known) in revisions.range(stream.after + 1..=upto) {
            if known.changed || known.value.is_some() {
                continue;
            }
            let Some((put, _)) =
                revisions.range(..revision).next_back().filter(|(_, before)| before.value.is_some())
            else {
                continue;
            };
            let is_shown = |at: &Revision| shown.get(at).is_some_and(|keys| keys.contains(&&**key));
            let gone = shown.range(put + 1..=*revision).any(|(at, _)| is_shown(at));
            if *put > stream.after && !gone {
                violations.push(format!(
                    "{} left out that {key} was deleted by revision {revision}",
                    stream.name()
                ));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::super::{model, story::Story};
    use super::GUARANTEE;
    use crate::history::{End, Item};

    fn writes() -> Story {
        Story::new().put("a", 1).put("a", 2).put("b", 3)
    }

    #[test]
    fn an_acknowledged_write_is_shown() {
        let all = || writes().watch("", 1).event(2, "a", Some(1)).event(3, "a", Some(2));
        all().event(4, "b", Some(3)).passes(&GUARANTEE);
        all().passes(&GUARANTEE);
        let skips = writes().watch("", 1).event(2, "a", Some(1)).event(4, "b", Some(3));
        skips.fails(&GUARANTEE, "left out a=Some(2) at revision 3");
        writes().watch("", 1).bookmark(4).fails(&GUARANTEE, "left out a=Some(1)");
        writes().watch("b", 1).event(4, "b", Some(3)).passes(&GUARANTEE);
    }

    #[test]
    fn what_one_watcher_saw_another_must_see() {
        let one = || Story::new().watch("", 1).event(2, "a", Some(1)).event(3, "a", None);
        one().watch("", 1).event(2, "a", Some(1)).bookmark(3).fails(&GUARANTEE, "a=None at revision 3");
        one().watch("", 1).event(2, "a", Some(1)).event(3, "a", None).bookmark(3).passes(&GUARANTEE);
    }

    #[test]
    fn an_acknowledged_delete_is_shown() {
        let story = || Story::new().put("a", 1).delete("a").put("b", 2).watch("", 1).event(2, "a", Some(1));
        story().event(4, "b", Some(2)).fails(&GUARANTEE, "was deleted by revision 3");
        story().event(3, "a", None).event(4, "b", Some(2)).passes(&GUARANTEE);
        let nothing = Story::new().put("b", 2).delete("a").revision(2).watch("", 1).event(2, "b", Some(2));
        nothing.passes(&GUARANTEE);
    }

    #[test]
    fn a_list_stands_in_for_events() {
        let listed = Item::Listed { revision: 4, entries: Vec::new() };
        let told = Item::Ended(End::ListAgain("too slow".into()));
        let story = writes().watch("", 1).event(2, "a", Some(1)).item(told).item(listed);
        story.item(Item::Opened { server: 0, after: 4 }).must_reach(4).passes(&GUARANTEE);
    }

    #[test]
    fn it_gets_there() {
        writes().watch("", 1).event(2, "a", Some(1)).must_reach(4).fails(&GUARANTEE, "and is at 2");
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        model::passes(&GUARANTEE);
    }
}
