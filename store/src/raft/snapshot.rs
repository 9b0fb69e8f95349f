//! A state on the wire: a head, then entries and leases in parts, then the count of both.

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::types::{Image, Snapshot, SnapshotMeta, Vote};
use crate::lease::Lease;
use crate::mvcc::{Counters, Entries};
use crate::types::{Entry, LeaseId};

/// Bytes of one part, about.
const PART: usize = 512 << 10;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Part {
    Head { vote: Vote, meta: SnapshotMeta, counters: Counters },
    Entries(Vec<Arc<Entry>>),
    Leases(Vec<(LeaseId, Lease)>),
    End { entries: u64, leases: u64 },
}

/// Cuts the snapshot up lazily: only one part is in memory beside the state itself.
pub(crate) fn parts(vote: Vote, snapshot: Snapshot) -> impl Iterator<Item = Part> + Send + 'static {
    let Image { counters, entries, leases } = snapshot.snapshot;
    let end = Part::End { entries: entries.len() as u64, leases: leases.len() as u64 };
    let head = Part::Head { vote, meta: snapshot.meta, counters };
    let mut last: Option<bytes::Bytes> = None;
    let mut done = false;
    let entry_parts = std::iter::from_fn(move || {
        if done {
            return None;
        }
        let mut part = Vec::new();
        let mut size = 0;
        let from = last.clone().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        for entry in entries.range((from, std::ops::Bound::Unbounded)) {
            size += entry.key.len() + entry.value.len() + 64;
            part.push(entry.clone());
            last = Some(entry.key.clone());
            if size >= PART {
                return Some(Part::Entries(part));
            }
        }
        done = true;
        Some(Part::Entries(part))
    });
    let leases: Vec<(LeaseId, Lease)> = leases.into_iter().collect();
    let mut rest = leases.into_iter().peekable();
    let lease_parts = std::iter::from_fn(move || {
        rest.peek()?;
        Some(Part::Leases(rest.by_ref().take(PART / 32).collect()))
    });
    std::iter::once(head).chain(entry_parts).chain(lease_parts).chain(std::iter::once(end))
}

/// Puts the parts together again.
#[derive(Default)]
pub(crate) struct Assembly {
    head: Option<(Vote, SnapshotMeta, Counters)>,
    entries: Entries,
    leases: OrdMap<LeaseId, Lease>,
    complete: bool,
}

impl Assembly {
    pub fn add(&mut self, part: Part) -> Result<(), String> {
        match part {
            Part::Head { vote, meta, counters } if self.head.is_none() => {
                self.head = Some((vote, meta, counters))
            }
            Part::Entries(entries) if self.head.is_some() && !self.complete => {
                self.entries.extend(entries);
            }
            Part::Leases(leases) if self.head.is_some() && !self.complete => self.leases.extend(leases),
            Part::End { entries, leases }
                if entries == self.entries.len() as u64 && leases == self.leases.len() as u64 =>
            {
                self.complete = true;
            }
            _ => return Err("the parts of the snapshot do not fit together".to_string()),
        }
        Ok(())
    }

    pub fn finish(self) -> Result<(Vote, Snapshot), String> {
        match self.head {
            Some((vote, meta, counters)) if self.complete => {
                let snapshot = Image { counters, entries: self.entries, leases: self.leases };
                Ok((vote, Snapshot { meta, snapshot }))
            }
            _ => Err("the snapshot ended before it was whole".to_string()),
        }
    }
}
