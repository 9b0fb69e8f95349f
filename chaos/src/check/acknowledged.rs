//! Every acknowledged write is there at the end, on every server, unless something later took its place.

use super::truth::{Known, Shown};
use super::{Evidence, Guarantee, Violation};

pub const GUARANTEE: Guarantee = Guarantee {
    name: "acknowledged-present",
    about: "What a client was told is done must still be there when the cluster has healed, with the value and at the revision \
            it was told, or something newer must stand in its place. Here a server ended without it: data was lost.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    for last in &evidence.history.finals {
        let server = last.server;
        if last.listed != last.entries.len() {
            violations.push(format!(
                "server {server} lists {} entries under {} keys",
                last.listed,
                last.entries.len()
            ));
        }
        for (key, revisions) in &evidence.truth.by_key {
            let Some((revision, Known { value, .. })) = revisions.iter().next_back() else { continue };
            let held = last.entries.get(key).map(|version| version.value);
            let explained = match (*value, held) {
                (Some(value), None) => evidence.may_have_gone(key, value, None),
                (value, held) => value == held,
            };
            if !explained {
                violations.push(format!(
                    "server {server} ends with {key}={}, which was {} at revision {revision}",
                    Shown(held),
                    Shown(*value)
                ));
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
    fn what_was_acknowledged_must_be_there_as_it_was() {
        let story = || Story::new().put("a", 1).at(0, 1).put("a", 2).at(2, 3);
        story().ends_with(0, 3, 0, &[("a", 2)]).passes(&GUARANTEE);
        story().ends_with(0, 3, 0, &[]).fails(&GUARANTEE, "ends with a=nothing");
        story().ends_with(0, 3, 0, &[("a", 1)]).fails(&GUARANTEE, "ends with a=1");
        story().ends_with(0, 3, 0, &[("a", 2)]).ends_with(1, 3, 0, &[]).fails(&GUARANTEE, "server 1");
    }

    #[test]
    fn a_delete_holds_as_well() {
        let story = || Story::new().put("a", 1).at(0, 1).delete("a").at(2, 3);
        story().ends_with(0, 3, 0, &[]).passes(&GUARANTEE);
        story().ends_with(0, 3, 0, &[("a", 1)]).fails(&GUARANTEE, "ends with a=1");
    }

    #[test]
    fn what_is_unknown_may_be_there() {
        let story = || Story::new().put("a", 1).at(0, 1).delete("a").lost(2);
        story().ends_with(0, 2, 0, &[("a", 1)]).passes(&GUARANTEE);
        story().ends_with(0, 3, 0, &[]).passes(&GUARANTEE);
        let leased = || Story::new().grant(1, 5).put_leased("a", 1, 1).at(0, 1);
        leased().ends_with(0, 3, 0, &[]).passes(&GUARANTEE);
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        super::super::model::passes(&GUARANTEE);
    }
}
