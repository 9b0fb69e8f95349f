//! A stream's revisions never go down.

use super::super::{Evidence, Guarantee, Violation};
use super::streams;

pub const GUARANTEE: Guarantee = Guarantee {
    name: "watch-ordered",
    about: "A stream shows changes in the order in which they happened. Here one came after a later one: a cache that follows \
            the stream now holds an older object than it had.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    for stream in streams(evidence.history) {
        let mut last = 0;
        for (revision, changes) in stream.changes() {
            if revision < last {
                violations
                    .push(format!("{}: revision {revision} came after {last}: {changes:?}", stream.name()));
            }
            last = last.max(revision);
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::super::{model, story::Story};
    use super::GUARANTEE;

    #[test]
    fn revisions_must_not_go_down() {
        let story = || Story::new().watch("", 1).event(2, "a", Some(1)).event(4, "a", Some(3));
        story().event(5, "a", None).passes(&GUARANTEE);
        story().event(3, "a", Some(2)).fails(&GUARANTEE, "revision 3 came after 4");
        // Another stream begins anew.
        story().resumed(1).event(2, "a", Some(1)).passes(&GUARANTEE);
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        model::passes(&GUARANTEE);
    }
}
