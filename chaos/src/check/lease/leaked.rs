//! No lease outlives its time for long, and no key its lease.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::super::{Evidence, Guarantee, Violation};
use super::leases;
use crate::history::{Action, LeaseId, Operation, ServerId, Value, Write};
use crate::observe::{Fact, Observation};

pub const GUARANTEE: Guarantee = Guarantee {
    name: "lease-not-leaked",
    about: "A lease that nobody renews ends, and takes its keys with it, soon after its time once the cluster has a leader. \
            Here one was still there at the end, or a key without its lease: what should have been given up is held for ever.",
    check,
};

fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Vec::new();
    let observations = evidence.observations;
    let Some(healed) = observations.healed else { return violations };
    let known = leases(evidence.history);
    let patience = observations.patience;
    // An operation of unknown outcome may have waited in a queue.
    let latest = |operation: &&Operation| operation.returned.unwrap_or(operation.invoked + patience);
    let lost_grants = evidence
        .history
        .operations
        .iter()
        .filter(|operation| matches!(operation.action, Action::Grant { .. }) && operation.is_unknown());
    let lost = lost_grants.map(|grant| latest(&grant)).max().unwrap_or_default();
    let lost_renewals: Vec<(LeaseId, Duration)> = evidence
        .history
        .operations
        .iter()
        .filter(|operation| !operation.is_refused())
        .filter_map(|operation| match operation.action {
            Action::Renew(lease) => Some((lease, latest(&operation))),
            _ => None,
        })
        .collect();
    let mut lasts: BTreeMap<ServerId, &Observation> = BTreeMap::new();
    for seen in &observations.facts {
        if matches!(seen.fact, Fact::Leases { .. }) {
            lasts.insert(seen.server, seen);
        }
    }
    let lease_of = leased_values(evidence);
    for server in observations.members() {
        let Some(seen) = lasts.get(&server) else { continue };
        let Fact::Leases { revision, leases } = &seen.fact else { continue };
        for (id, ttl) in leases {
            let granted = known.get(id).map_or(lost, |lease| latest(&lease.grant));
            let renewed = lost_renewals.iter().filter(|(lease, _)| lease == id).map(|(_, at)| *at).max();
            let begins = granted.max(renewed.unwrap_or_default()).max(healed);
            let slowest = 1000 + observations.drift_permille;
            let due = begins + *ttl * slowest / 1000 + patience;
            if seen.at > due {
                violations.push(format!(
                    "server {server} still has lease {id} of {ttl:?} at {:.3?}; it was due by {due:.3?}",
                    seen.at
                ));
            }
        }
        let Some(last) = evidence.history.finals.iter().find(|last| last.server == server) else { continue };
        for (key, version) in last.entries.iter().filter(|_| last.revision == *revision) {
            if let Some(lease) = lease_of.get(&version.value)
                && !leases.contains_key(lease)
            {
                violations.push(format!("server {server} still has {key}, and its lease {lease} is gone"));
            }
        }
    }
    violations
}

fn leased_values(evidence: &Evidence) -> HashMap<Value, LeaseId> {
    let writes = evidence.history.operations.iter().flat_map(|operation| operation.action.writes());
    let leased = writes.filter_map(|write| match write {
        Write::Put { value, lease, .. } => Some((*value, (*lease)?)),
        Write::Delete { .. } => None,
    });
    leased.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::{model, story::Story};
    use super::GUARANTEE;
    use crate::observe::Fact;

    /// Service has a second to resume, and so have leases to go.
    fn table(leases: &[u64]) -> Fact {
        let leases = leases.iter().map(|lease| (*lease, Duration::from_millis(100))).collect();
        Fact::Leases { revision: 2, leases }
    }

    #[test]
    fn a_lease_goes_in_time() {
        let story = || Story::new().grant(1, 100).at(0, 1).healed(50);
        story().saw(1200, 0, 1, table(&[])).passes(&GUARANTEE);
        story().saw(1100, 0, 1, table(&[1])).passes(&GUARANTEE);
        story().saw(1200, 0, 1, table(&[1])).fails(&GUARANTEE, "still has lease 1");
        story().renew(1).at(500, 510).saw(1200, 0, 1, table(&[1])).passes(&GUARANTEE);
        story().saw(1200, 0, 1, table(&[1])).saw(1300, 0, 1, table(&[])).passes(&GUARANTEE);
    }

    #[test]
    fn a_key_goes_with_its_lease() {
        let story = || Story::new().grant(1, 100).at(0, 1).put_leased("a", 1, 1).healed(50);
        story().saw(60, 0, 1, table(&[1])).ends_with(0, 2, 0, &[("a", 1)]).passes(&GUARANTEE);
        story().saw(60, 0, 1, table(&[])).ends_with(0, 2, 0, &[("a", 1)]).fails(&GUARANTEE, "still has a");
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        model::passes(&GUARANTEE);
    }
}
