//! A stream shows each change once.

use std::collections::HashSet;

use super::super::{Evidence, Guarantee, Violation};
use super::streams;

pub const GUARANTEE: Guarantee = Guarantee {
    name: "watch-unique",
    about: "A stream shows the change of a key at a revision once. Here one came twice: whoever counts, or acts on each event, \
            acted twice.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    for stream in streams(evidence.history) {
        let mut shown = HashSet::new();
        for (revision, changes) in stream.changes() {
            for change in changes {
                if !shown.insert((revision, &change.key)) {
                    violations.push(format!("{}: revision {revision} twice: {change:?}", stream.name()));
                }
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::super::{model, story::Story};
    use super::GUARANTEE;

    #[test]
    fn nothing_comes_twice() {
        let story = || Story::new().watch("", 1).event(2, "a", Some(1)).event(3, "a", Some(2));
        story().passes(&GUARANTEE);
        story().event(3, "a", Some(2)).fails(&GUARANTEE, "revision 3 twice");
        story().event(2, "a", Some(1)).fails(&GUARANTEE, "revision 2 twice");
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        model::passes(&GUARANTEE);
    }
}
