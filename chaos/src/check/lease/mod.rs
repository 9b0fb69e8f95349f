//! What leases are promised, one file for each promise.

pub mod early;
pub mod known;
pub mod leaked;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::{Action, History, LeaseId, Operation, Outcome};

/// One lease as clients know it.
struct Lease<'a> {
    ttl: Duration,
    grant: &'a Operation,
    renewals: Vec<&'a Operation>,
    /// Acknowledged and unknown ones.
    revocations: Vec<&'a Operation>,
}

/// The leases that clients were told of.
fn leases(history: &History) -> BTreeMap<LeaseId, Lease<'_>> {
    let mut leases = BTreeMap::new();
    for grant in &history.operations {
        if let (Action::Grant { ttl }, Outcome::Granted(id)) = (&grant.action, &grant.outcome) {
            let lease = Lease { ttl: *ttl, grant, renewals: Vec::new(), revocations: Vec::new() };
            leases.entry(*id).or_insert(lease);
        }
    }
    for operation in history.operations.iter().filter(|operation| !operation.is_refused()) {
        match &operation.action {
            Action::Renew(id) => {
                if let Some(lease) = leases.get_mut(id) {
                    lease.renewals.push(operation);
                }
            }
            Action::Revoke(id) => {
                if let Some(lease) = leases.get_mut(id) {
                    lease.revocations.push(operation);
                }
            }
            _ => {}
        }
    }
    leases
}
