//! A bookmark overtakes nothing: when it comes, every change up to it has come, and none comes after.

use super::super::{Evidence, Guarantee, Violation};
use super::streams;
use crate::history::Item;

pub const GUARANTEE: Guarantee = Guarantee {
    name: "watch-bookmarkable",
    about: "A bookmark says that everything up to its revision has been shown, so that the watcher may go on from there. Here a \
            change came after a bookmark that should have waited for it, or a bookmark stood behind one: who resumes from it \
            loses the change.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    for stream in streams(evidence.history) {
        let mut marked = stream.after;
        let mut shown = stream.after;
        for (_, item) in stream.items {
            match item {
                Item::Changes { revision, changes } => {
                    if *revision <= marked {
                        violations.push(format!(
                            "{}: revision {revision} came after bookmark {marked}: {changes:?}",
                            stream.name()
                        ));
                    }
                    shown = shown.max(*revision);
                }
                Item::Bookmark(revision) => {
                    if *revision < marked || *revision < shown {
                        violations.push(format!(
                            "{}: bookmark {revision} came after revision {}",
                            stream.name(),
                            marked.max(shown)
                        ));
                    }
                    for (owed, changes) in evidence.truth.by_revision.range(shown + 1..) {
                        if owed > revision {
                            break;
                        }
                        if let Some(key) = changes.keys().find(|key| key.starts_with(&stream.watched.prefix))
                        {
                            violations.push(format!(
                                "{}: bookmark {revision} came before {key} at revision {owed}",
                                stream.name()
                            ));
                        }
                    }
                    marked = marked.max(*revision);
                    shown = shown.max(*revision);
                }
                _ => {}
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
    fn a_bookmark_overtakes_nothing() {
        let story = || Story::new().put("a", 1).put("a", 2).watch("", 1).event(2, "a", Some(1));
        story().bookmark(2).event(3, "a", Some(2)).bookmark(3).passes(&GUARANTEE);
        story().bookmark(3).event(3, "a", Some(2)).fails(&GUARANTEE, "came after bookmark 3");
        story().bookmark(3).fails(&GUARANTEE, "came before a at revision 3");
        story().event(3, "a", Some(2)).bookmark(2).fails(&GUARANTEE, "bookmark 2 came after revision 3");
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        model::passes(&GUARANTEE);
    }
}
