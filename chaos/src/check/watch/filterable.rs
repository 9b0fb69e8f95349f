//! A stream shows keys under its prefix and no others.

use super::super::{Evidence, Guarantee, Violation};
use super::streams;

pub const GUARANTEE: Guarantee = Guarantee {
    name: "watch-filterable",
    about: "A stream shows what was asked for. Here it showed a key outside of the watched prefix: an object reached someone \
            who did not ask for it, and perhaps must not see it.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    for stream in streams(evidence.history) {
        for (revision, changes) in stream.changes() {
            let foreign = changes.iter().find(|change| !change.key.starts_with(&stream.watched.prefix));
            if let Some(change) = foreign {
                violations.push(format!("{} at revision {revision}: {change:?}", stream.name()));
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
    fn only_keys_under_the_prefix() {
        let story = || Story::new().watch("a/", 1).event(2, "a/1", Some(1));
        story().passes(&GUARANTEE);
        story().event(3, "b/1", Some(2)).fails(&GUARANTEE, "b/1");
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        model::passes(&GUARANTEE);
    }
}
