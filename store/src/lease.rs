//! Leases: keys that go when nobody renews them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::command::Millis;
use crate::types::LeaseId;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub ttl: Millis,
    /// Cluster time from which on it may be expired.
    pub deadline: Millis,
}

/// All leases of one replica. The table is what is replicated; the two indexes follow from it and from the entries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leases {
    table: OrdMap<LeaseId, Lease>,
    keys: BTreeMap<LeaseId, BTreeSet<Bytes>>,
    due: BTreeSet<(Millis, LeaseId)>,
}

impl Leases {
    pub fn restore(table: OrdMap<LeaseId, Lease>) -> Leases {
        let due = table.iter().map(|(id, lease)| (lease.deadline, *id)).collect();
        Leases { table, keys: BTreeMap::new(), due }
    }

    pub fn table(&self) -> &OrdMap<LeaseId, Lease> {
        &self.table
    }

    pub fn exists(&self, id: LeaseId) -> bool {
        self.table.contains_key(&id)
    }

    pub fn grant(&mut self, id: LeaseId, ttl: Millis, now: Millis) {
        let deadline = now.saturating_add(ttl);
        self.table.insert(id, Lease { ttl, deadline });
        self.due.insert((deadline, id));
    }

    /// False where the lease is gone: an ended lease is never revived.
    pub fn renew(&mut self, id: LeaseId, now: Millis) -> bool {
        let Some(lease) = self.table.get(&id).cloned() else { return false };
        self.due.remove(&(lease.deadline, id));
        self.grant(id, lease.ttl, now);
        true
    }

    /// Ends the lease and returns the keys that go with it; `None` where there is no such lease.
    pub fn end(&mut self, id: LeaseId) -> Option<BTreeSet<Bytes>> {
        let lease = self.table.remove(&id)?;
        self.due.remove(&(lease.deadline, id));
        Some(self.keys.remove(&id).unwrap_or_default())
    }

    pub fn is_due(&self, id: LeaseId, now: Millis) -> bool {
        self.table.get(&id).is_some_and(|lease| lease.deadline <= now)
    }

    /// Leases to expire at `now`, the longest overdue first, at most `limit`.
    pub fn due(&self, now: Millis, limit: usize) -> Vec<LeaseId> {
        self.due.iter().take_while(|(deadline, _)| *deadline <= now).take(limit).map(|(_, id)| *id).collect()
    }

    pub fn attach(&mut self, id: LeaseId, key: Bytes) {
        self.keys.entry(id).or_default().insert(key);
    }

    pub fn detach(&mut self, id: LeaseId, key: &Bytes) {
        if let Some(keys) = self.keys.get_mut(&id) {
            keys.remove(key);
            if keys.is_empty() {
                self.keys.remove(&id);
            }
        }
    }
}
