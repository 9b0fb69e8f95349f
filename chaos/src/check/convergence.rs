//! Healed, all servers come to the same state.

use super::{Evidence, Guarantee, Violation};

pub const GUARANTEE: Guarantee = Guarantee {
    name: "convergence",
    about: "When every fault is undone, all members come to hold the same state within a bound. Here they did not: a server \
            stays behind, or its state is another.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    let members = evidence.observations.members();
    let finals = &evidence.history.finals;
    let mut of_members = finals.iter().filter(|last| members.contains(&last.server));
    let Some(first) = of_members.next() else { return violations };
    if evidence.observations.healed.is_some() {
        for member in &members {
            if !finals.iter().any(|last| last.server == *member) {
                violations.push(format!("server {member} did not come to an end state"));
            }
        }
    }
    for other in of_members {
        if first.state_hash.is_some()
            && (first.revision, first.state_hash) != (other.revision, other.state_hash)
        {
            violations.push(format!(
                "server {} ends at revision {} with state {:x?}, server {} at {} with {:x?}",
                first.server,
                first.revision,
                first.state_hash,
                other.server,
                other.revision,
                other.state_hash
            ));
        }
        if first.entries != other.entries {
            let differing = first
                .entries
                .iter()
                .find(|(key, version)| other.entries.get(*key) != Some(version))
                .or_else(|| other.entries.iter().find(|(key, _)| !first.entries.contains_key(*key)));
            violations.push(format!(
                "servers {} and {} end with different entries, the first of them {differing:?}",
                first.server, other.server
            ));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::GUARANTEE;

    #[test]
    fn all_end_alike() {
        let story = || Story::new().put("a", 1).ends_with(0, 2, 7, &[("a", 1)]);
        story().ends_with(1, 2, 7, &[("a", 1)]).passes(&GUARANTEE);
        story().ends_with(1, 2, 7, &[]).fails(&GUARANTEE, "different entries");
        story().ends_with(1, 1, 7, &[("a", 1)]).fails(&GUARANTEE, "server 1 at 1");
        story().ends_with(1, 2, 8, &[("a", 1)]).fails(&GUARANTEE, "with Some(8)");
        story().ends_with(1, 2, 7, &[("a", 1)]).healed(1).fails(&GUARANTEE, "server 2 did not");
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        super::super::model::passes(&GUARANTEE);
    }
}
