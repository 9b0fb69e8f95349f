//! No lease ends before its time: not until its time to live has passed since the last renewal that was acknowledged began.

use std::collections::HashMap;
use std::time::Duration;

use super::super::{Evidence, Guarantee, Violation};
use super::leases;
use crate::history::{Action, Item, Key, LeaseId, Outcome, Value, Write};

pub const GUARANTEE: Guarantee = Guarantee {
    name: "lease-not-early",
    about: "A lease lives for its time to live after each renewal that was acknowledged, over leader changes as well. Here one \
            ended before: whoever held something by it lost it while it kept the promise.",
    check,
};

/// Cluster time counts in milliseconds, at both ends.
const GRAIN: Duration = Duration::from_millis(2);

fn check(evidence: &Evidence) -> Vec<Violation> {
    let history = evidence.history;
    let leases = leases(history);
    let mut violations = Vec::new();
    if leases.is_empty() {
        return violations;
    }
    // When somebody saw that a lease had ended by itself, and how.
    let mut ends: Vec<(LeaseId, Duration, String)> = Vec::new();
    let mut lease_of: HashMap<Value, LeaseId> = HashMap::new();
    for operation in &history.operations {
        for write in operation.action.writes() {
            if let Write::Put { value, lease: Some(lease), .. } = write {
                lease_of.insert(*value, *lease);
            }
        }
        if let (Outcome::NoSuchLease, Some(returned)) = (&operation.outcome, operation.returned) {
            let named = operation.action.writes().iter().filter_map(|write| match write {
                Write::Put { lease, .. } => *lease,
                Write::Delete { .. } => None,
            });
            let renewed = match operation.action {
                Action::Renew(lease) | Action::Revoke(lease) => Some(lease),
                _ => None,
            };
            let mut named = named.chain(renewed);
            // Of several leases it is not said which.
            if let (Some(lease), None) = (named.next(), named.next()) {
                ends.push((lease, returned, operation.to_string()));
            }
        }
    }
    for watched in &history.watches {
        for (at, item) in &watched.items {
            let Item::Changes { revision, changes } = item else { continue };
            for change in changes.iter().filter(|change| change.value.is_none()) {
                let before =
                    revision.checked_sub(1).and_then(|before| evidence.truth.at(&change.key, before));
                let lease = before.and_then(|(_, known)| lease_of.get(&known.value?));
                if let Some(lease) = lease
                    && !deleted_by_a_client(evidence, &change.key, *revision, *at)
                {
                    ends.push((*lease, *at, format!("{} went at revision {revision}", change.key)));
                }
            }
        }
    }
    for (id, at, how) in ends {
        let Some(lease) = leases.get(&id) else { continue };
        if lease.revocations.iter().any(|revocation| revocation.invoked <= at) {
            continue;
        }
        let renewals = lease.renewals.iter().filter(|renewal| renewal.is_acknowledged());
        let renewed =
            renewals.map(|renewal| renewal.invoked).max().unwrap_or_default().max(lease.grant.invoked);
        let fastest = 1000 + evidence.observations.drift_permille;
        let due = (renewed + lease.ttl * 1000 / fastest).saturating_sub(GRAIN);
        if at < due {
            violations.push(format!(
                "lease {id} of {:?} was renewed at {renewed:.3?} and had ended by {at:.3?}: {how}",
                lease.ttl
            ));
        }
    }
    violations
}

fn deleted_by_a_client(evidence: &Evidence, key: &Key, revision: u64, seen: Duration) -> bool {
    evidence.history.operations.iter().any(|operation| {
        let deletes = |write: &Write| matches!(write, Write::Delete { key: deleted } if deleted == key);
        let done = match &operation.outcome {
            Outcome::Done { revision: told } => *told == revision,
            Outcome::Unknown(_) => operation.invoked <= seen,
            _ => false,
        };
        done && operation.action.writes().iter().any(deletes)
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::{model, story::Story};
    use super::GUARANTEE;

    #[test]
    fn a_lease_lives_its_time_after_each_renewal() {
        let story = || Story::new().grant(1, 100).at(0, 1).renew(1).at(50, 60);
        story().renew(1).no_such_lease().at(160, 170).passes(&GUARANTEE);
        story()
            .renew(1)
            .no_such_lease()
            .at(130, 140)
            .fails(&GUARANTEE, "lease 1 of 100ms was renewed at 50.000ms");
        story().revoke(1).at(70, 80).renew(1).no_such_lease().at(130, 140).passes(&GUARANTEE);
    }

    #[test]
    fn its_keys_stay_as_long() {
        // Events of a story are seen in its first milliseconds.
        let story = || Story::new().grant(1, 100).at(0, 1).put_leased("a", 1, 1).at(0, 1).watch("", 1);
        story().event(2, "a", Some(1)).event(3, "a", None).fails(&GUARANTEE, "a went at revision 3");
        let deleted = Story::new().grant(1, 100).put_leased("a", 1, 1).delete("a").watch("", 1);
        deleted.event(2, "a", Some(1)).event(3, "a", None).passes(&GUARANTEE);
    }

    #[test]
    fn histories_of_a_correct_model_pass() {
        model::passes(&GUARANTEE);
    }
}
