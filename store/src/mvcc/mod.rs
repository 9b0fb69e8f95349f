//! The state machine: what a log entry does to the state. Pure: same state and batch, same state and replies, to the
//! byte, on every member. It reads no clock, no random number, no environment.
//!
//! | part | holds |
//! |---|---|
//! | [`view`] | one consistent picture, for readers |
//! | [`entries`], [`events`] | what is there, and what happened of late: persistent, and compact |
//! | [`overlay`] | a transaction's net effect |
//! | here | `apply`, the only code that changes state |
//! | [`tests`](self) | the model check |

mod entries;
mod events;
mod hash;
#[cfg(test)]
mod model_tests;
mod overlay;
mod view;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;

use crate::command::{Batch, Command, Millis, Reply};
use crate::lease::{Lease, Leases};
use crate::mutant::mutated;
use crate::types::{Change, LeaseId, MemberId, Op, Outcome, Revision, Txn};
pub(crate) use entries::Entries;
pub(crate) use events::Event;
use overlay::Overlay;
pub(crate) use view::View;

/// The id the first server gives itself; the pool begins behind it.
pub(crate) const FIRST_MEMBER: MemberId = 1;

/// The replicated state that is neither entry, nor lease, nor history.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Counters {
    pub revision: Revision,
    pub time: Millis,
    /// Rolling hash of every change so far.
    pub hash: u64,
    pub next_lease: LeaseId,
    pub next_member: MemberId,
}

/// A replica's whole state, as cheap to clone as its maps.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    view: View,
    leases: Leases,
    counters: Counters,
    history_bytes: usize,
}

/// What one batch did.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// In the order of the batch's commands.
    pub replies: Vec<Reply>,
    /// In revision order.
    pub events: Vec<Arc<Event>>,
    /// Leases that were granted, renewed or ended, for whoever writes the state down incrementally.
    pub leases: Vec<LeaseId>,
}

impl Machine {
    pub fn new() -> Machine {
        Machine {
            view: View::empty(),
            leases: Leases::default(),
            counters: Counters {
                revision: 1,
                time: 0,
                hash: 0,
                next_lease: 1,
                next_member: FIRST_MEMBER + 1,
            },
            history_bytes: 0,
        }
    }

    /// State read back from a checkpoint or snapshot. It has no history: nothing older can be read or watched.
    pub fn restore(counters: Counters, entries: Entries, leases: OrdMap<LeaseId, Lease>) -> Machine {
        let mut leases = Leases::restore(leases);
        for entry in entries.values() {
            if let Some(lease) = entry.lease {
                leases.attach(lease, entry.key.clone());
            }
        }
        let view = View {
            revision: counters.revision,
            oldest: counters.revision,
            current: entries,
            ..View::empty()
        };
        Machine { view, leases, counters, history_bytes: 0 }
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    pub fn set_epoch(&mut self, epoch: u64) {
        self.view.epoch = epoch;
    }

    /// Applies one log entry. Time never goes backwards, whatever the entry says.
    pub fn apply(&mut self, batch: impl Into<Batch>) -> Applied {
        let batch = batch.into();
        self.counters.time = self.counters.time.max(batch.time);
        let mut applied = Applied { replies: Vec::with_capacity(batch.commands.len()), ..Applied::default() };
        for command in batch.commands {
            let reply = self.command(command, &mut applied);
            applied.replies.push(reply);
        }
        applied
    }

    fn command(&mut self, command: Command, applied: &mut Applied) -> Reply {
        let mut now = self.counters.time;
        if mutated!(ApplyReadsClock) {
            now = now.max(crate::mutant::clock());
        }
        match command {
            Command::Txn(txn) => self.txn(txn, applied),
            Command::GrantLease { ttl } => {
                let id = self.counters.next_lease;
                self.counters.next_lease += 1;
                self.leases.grant(id, ttl, now);
                applied.leases.push(id);
                Reply::Lease(id)
            }
            Command::RenewLease { lease } => {
                if !self.leases.renew(lease, now) {
                    return Reply::NoSuchLease(lease);
                }
                applied.leases.push(lease);
                Reply::Done
            }
            Command::RevokeLease { lease } => {
                if !self.leases.exists(lease) {
                    return Reply::NoSuchLease(lease);
                }
                self.end_leases([lease], applied);
                Reply::Done
            }
            Command::ExpireLeases { leases } => {
                // A renewal may stand before this in the log.
                let due: Vec<LeaseId> =
                    leases.into_iter().filter(|lease| self.leases.is_due(*lease, now)).collect();
                self.end_leases(due, applied);
                Reply::Done
            }
            Command::Compact { revision } => {
                self.compact(revision);
                Reply::Done
            }
            Command::NewMember => {
                let id = self.counters.next_member;
                self.counters.next_member += 1;
                Reply::Member(id)
            }
        }
    }

    fn txn(&mut self, txn: Txn, applied: &mut Applied) -> Reply {
        let revision = self.counters.revision;
        let holds = |key: &Bytes| self.view.current.get(key).map_or(0, |entry| entry.mod_revision);
        let ignored = mutated!(GuardIgnored) && revision.is_multiple_of(8);
        if !ignored && txn.guards.iter().any(|guard| holds(&guard.key) != guard.mod_revision) {
            let current = txn.guards.iter().map(|guard| self.view.get(&guard.key)).collect();
            return Reply::Txn(Outcome::Conflict { revision, current });
        }
        for op in &txn.ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && !self.leases.exists(*lease)
            {
                return Reply::NoSuchLease(*lease);
            }
        }
        let mut overlay = Overlay::new(&self.view, revision + 1);
        for op in txn.ops {
            match op {
                Op::Put { key, value, attributes, lease } => overlay.put(key, value, attributes, lease),
                Op::Delete { key } => overlay.delete(&key),
            }
        }
        let changes = overlay.changes();
        self.commit(changes, applied);
        Reply::Txn(Outcome::Committed { revision: self.counters.revision })
    }

    fn end_leases(&mut self, leases: impl IntoIterator<Item = LeaseId>, applied: &mut Applied) {
        let mut keys = BTreeSet::new();
        for lease in leases {
            if let Some(attached) = self.leases.end(lease) {
                keys.extend(attached);
                applied.leases.push(lease);
            }
        }
        let mut overlay = Overlay::new(&self.view, self.counters.revision + 1);
        keys.iter().for_each(|key| overlay.delete(key));
        let changes = overlay.changes();
        self.commit(changes, applied);
    }

    /// Makes the changes of one revision the state; no changes, no revision.
    fn commit(&mut self, changes: Vec<Change>, applied: &mut Applied) {
        if changes.is_empty() {
            return;
        }
        self.counters.revision += 1;
        let revision = self.counters.revision;
        self.view.revision = revision;
        for change in &changes {
            self.counters.hash = hash::fold_change(self.counters.hash, change);
            let key = &change.entry.key;
            if let Some(old) = &change.previous {
                self.view.history.insert((key.clone(), revision), old.clone());
                if let Some(lease) = old.lease {
                    self.leases.detach(lease, key);
                }
            }
            if change.deleted {
                self.view.current.remove(key);
            } else {
                self.view.current.insert(change.entry.clone());
                if let Some(lease) = change.entry.lease {
                    self.leases.attach(lease, key.clone());
                }
            }
        }
        let event = Event { revision, changes: changes.into() };
        self.history_bytes += self.view.events.push(&event, self.counters.time);
        applied.events.push(Arc::new(event));
    }

    fn compact(&mut self, revision: Revision) {
        let upto = revision.min(self.counters.revision);
        if upto <= self.view.oldest {
            return;
        }
        self.view.oldest = upto;
        while let Some((revision, changes, bytes)) = self.view.events.pop_upto(upto) {
            self.history_bytes = self.history_bytes.saturating_sub(bytes);
            for change in changes.iter().filter(|change| change.previous.is_some()) {
                self.view.history.remove(&(change.entry.key.clone(), revision));
            }
        }
    }

    /// Approximate memory that the history holds, in bytes.
    pub fn history_bytes(&self) -> usize {
        self.history_bytes
    }

    /// How long ago the oldest event of the history happened; 0 without history.
    pub fn oldest_age(&self, now: Millis) -> Millis {
        self.view.events.oldest_time().map_or(0, |time| now.saturating_sub(time))
    }

    /// The revision up to which history is older than `keep`, or over `keep_bytes`; `None` where there is none. Looks
    /// at no more events than it would remove.
    pub fn compaction_due(&self, now: Millis, keep: Millis, keep_bytes: usize) -> Option<Revision> {
        let is_old = |time: Millis| time.saturating_add(keep) <= now;
        self.view.events.due(is_old, self.history_bytes, keep_bytes)
    }
}
