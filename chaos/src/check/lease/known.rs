//! Servers know the leases that were granted and no others; an id is given once, and an ended lease stays so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::{Evidence, Guarantee, Violation};
use super::leases;
use crate::history::{Action, LeaseId, Outcome};
use crate::observe::Fact;

pub const GUARANTEE: Guarantee = Guarantee {
    name: "lease-known",
    about: "A lease is what a client was granted: nothing gives one to nobody, gives an id twice, or brings an ended one back. \
            Here one of these happened: two holders believe that they hold the same thing, or one holds what it had lost.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let history = evidence.history;
    let known = leases(history);
    let mut violations = Vec::new();
    let mut given = BTreeSet::new();
    let mut lost_grants = 0;
    let mut gone: BTreeMap<LeaseId, Duration> = BTreeMap::new();
    for operation in &history.operations {
        match (&operation.action, &operation.outcome, operation.returned) {
            (_, Outcome::Granted(id), _) if !given.insert(*id) => {
                violations.push(format!("lease {id} was granted twice: {operation}"));
            }
            (Action::Grant { .. }, Outcome::Unknown(_), _) => lost_grants += 1,
            (Action::Renew(id), Outcome::NoSuchLease, Some(at))
            | (Action::Revoke(id), Outcome::NoSuchLease | Outcome::Done { .. }, Some(at)) => {
                let first = gone.entry(*id).or_insert(at);
                *first = at.min(*first);
            }
            _ => {}
        }
    }
    for operation in &history.operations {
        let (Action::Renew(id) | Action::Revoke(id)) = operation.action else { continue };
        if let Some(gone) = gone.get(&id)
            && operation.invoked > *gone
            && operation.is_acknowledged()
        {
            violations.push(format!("lease {id} was gone at {gone:.3?} and came back: {operation}"));
        }
    }
    let mut strangers: BTreeSet<LeaseId> = BTreeSet::new();
    for seen in &evidence.observations.facts {
        let Fact::Leases { leases, .. } = &seen.fact else { continue };
        for (id, ttl) in leases {
            match known.get(id) {
                Some(lease) if lease.ttl != *ttl => violations.push(format!(
                    "server {} has lease {id} with {ttl:?}, granted with {:?}",
                    seen.server, lease.ttl
                )),
                Some(_) => {}
                None => drop(strangers.insert(*id)),
            }
        }
    }
    if strangers.len() > lost_grants {
        violations.push(format!(
            "leases {strangers:?} were granted to nobody; {lost_grants} grants are of unknown outcome"
        ));
    }
    violations
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::{model, story::Story};
    use super::GUARANTEE;
    use crate::observe::Fact;

    fn table(leases: &[u64]) -> Fact {
        let leases = leases.iter().map(|lease| (*lease, Duration::from_millis(100))).collect();
        Fact::Leases { revision: 2, leases }
    }

    #[test]
    fn leases_are_granted_once_and_known() {
        let story = || Story::new().grant(1, 100).at(0, 1);
        story().saw(5, 0, 1, table(&[1])).passes(&GUARANTEE);
        story().saw(5, 0, 1, table(&[1, 2])).fails(&GUARANTEE, "{2} were granted to nobody");
        story().grant(2, 100).lost(2).saw(5, 0, 1, table(&[1, 2])).passes(&GUARANTEE);
        story().grant(1, 100).at(2, 3).fails(&GUARANTEE, "granted twice");
        Story::new().grant(1, 200).saw(5, 0, 1, table(&[1])).fails(&GUARANTEE, "granted with 200ms");
    }

    #[test]
    fn an_ended_lease_stays_so() {
        let story = || Story::new().grant(1, 100).at(0, 1).renew(1).no_such_lease().at(200, 210);
        story().renew(1).at(205, 220).passes(&GUARANTEE);
        story().renew(1).at(215, 220).fails(&GUARANTEE, "came back");
        Story::new()
            .grant(1, 100)
            .at(0, 1)
            .revoke(1)
            .at(2, 3)
            .renew(1)
            .at(4, 5)
            .fails(&GUARANTEE, "came back");
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        model::passes(&GUARANTEE);
    }
}
