//! Healed, every server serves again within a bound: a new write and a fresh read, asked of each.

use super::{Evidence, Guarantee, Violation};
use crate::history::Operation;

pub const GUARANTEE: Guarantee = Guarantee {
    name: "service-resumed",
    about: "When every fault is undone, every server takes writes and answers linearizable reads again within a bound. Here one \
            did not: it waits for something that will never come, or the cluster finds no leader.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    let Some(healed) = evidence.observations.healed else { return violations };
    let bound = healed + evidence.observations.patience;
    for server in evidence.observations.members() {
        let in_time = |operation: &&Operation| {
            operation.server == Some(server)
                && operation.invoked >= healed
                && operation.returned.is_some_and(|returned| returned <= bound)
                && operation.is_acknowledged()
        };
        let served: Vec<&Operation> = evidence.history.operations.iter().filter(in_time).collect();
        let missing = [
            ("write", served.iter().any(|operation| operation.is_acknowledged_write())),
            ("fresh read", served.iter().any(|operation| operation.is_linearizable_read())),
        ];
        for (what, _) in missing.iter().filter(|(_, done)| !done) {
            violations.push(format!(
                "server {server} served no {what} from {healed:.3?}, when all was healed, to {bound:.3?}"
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
    fn every_server_serves_in_time() {
        let story = || {
            (0..3).fold(Story::new().healed(100), |story, server| {
                let story = story.put("a", server + 1).at(200, 210).on(server as usize);
                story.read("a", server + 1).at(220, 230).on(server as usize)
            })
        };
        story().passes(&GUARANTEE);
        // Told last, it changes the last read, of server 2.
        story().at(2220, 2230).fails(&GUARANTEE, "server 2 served no fresh read");
        story().on(1).fails(&GUARANTEE, "server 2 served no fresh read");
        Story::new().healed(100).fails(&GUARANTEE, "server 0 served no write");
        Story::new().passes(&GUARANTEE);
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        super::super::model::passes(&GUARANTEE);
    }
}
