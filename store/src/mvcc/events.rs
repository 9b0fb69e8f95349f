//! What happened of late: the changes of each revision since the oldest that can be watched from.
//!
//! Revisions follow each other without a gap, so that an event's place tells its revision. Most events create one key;
//! such a one is remembered as its entry alone.

use std::sync::Arc;

use imbl::Vector;

use crate::command::Millis;
use crate::types::{Change, Entry, Revision};

/// What an event, its history entry and their places cost beside keys and values. Approximate.
const OVERHEAD: usize = 128;

/// All changes of one revision, as they are shown to watchers.
#[derive(Debug)]
pub(crate) struct Event {
    pub revision: Revision,
    pub changes: Arc<[Change]>,
}

#[derive(Clone, Debug)]
enum Kept {
    Created(Arc<Entry>),
    Changes(Arc<[Change]>),
}

#[derive(Clone, Debug)]
struct Place {
    time: Millis,
    kept: Kept,
}

impl Place {
    fn changes(&self) -> Arc<[Change]> {
        match &self.kept {
            Kept::Created(entry) => Arc::new([Change {
                revision: entry.mod_revision,
                entry: entry.clone(),
                previous: None,
                deleted: false,
            }]),
            Kept::Changes(changes) => changes.clone(),
        }
    }

    /// What history keeps in memory because of this event.
    fn bytes(&self) -> usize {
        match &self.kept {
            Kept::Created(_) => OVERHEAD,
            Kept::Changes(changes) => {
                let superseded = changes.iter().filter_map(|change| change.previous.as_ref());
                OVERHEAD + superseded.map(|old| old.key.len() + old.value.len() + 2 * OVERHEAD).sum::<usize>()
            }
        }
    }
}

/// A persistent sequence: a clone shares everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    /// The revision at the first place.
    first: Revision,
    places: Vector<Place>,
}

impl Events {
    /// Adds the newest one; returns its bytes.
    pub fn push(&mut self, event: &Event, time: Millis) -> usize {
        if self.places.is_empty() {
            self.first = event.revision;
        }
        let kept = match &event.changes[..] {
            [Change { entry, previous: None, deleted: false, .. }] => Kept::Created(entry.clone()),
            _ => Kept::Changes(event.changes.clone()),
        };
        let place = Place { time, kept };
        let bytes = place.bytes();
        self.places.push_back(place);
        bytes
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// When the oldest one happened.
    pub fn oldest_time(&self) -> Option<Millis> {
        self.places.front().map(|place| place.time)
    }

    /// Those behind the revision, in order.
    pub fn after(&self, revision: Revision) -> impl Iterator<Item = (Revision, Arc<[Change]>)> + use<'_> {
        let from = ((revision + 1).saturating_sub(self.first) as usize).min(self.places.len());
        let places = self.places.focus().narrow(from..).into_iter();
        (self.first + from as Revision..).zip(places.map(Place::changes))
    }

    /// Takes the oldest one away if it is not above the revision; returns its changes and bytes.
    pub fn pop_upto(&mut self, upto: Revision) -> Option<(Revision, Arc<[Change]>, usize)> {
        if self.first > upto {
            return None;
        }
        let place = self.places.pop_front()?;
        self.first += 1;
        Some((self.first - 1, place.changes(), place.bytes()))
    }

    /// The newest revision up to which events are old, or too many: `bytes` now, of which `keep_bytes` may stay. Looks at
    /// no more events than would go.
    pub fn due(
        &self,
        is_old: impl Fn(Millis) -> bool,
        mut bytes: usize,
        keep_bytes: usize,
    ) -> Option<Revision> {
        let mut upto = None;
        for (revision, place) in (self.first..).zip(&self.places) {
            if !is_old(place.time) && bytes <= keep_bytes {
                break;
            }
            bytes = bytes.saturating_sub(place.bytes());
            upto = Some(revision);
        }
        upto
    }
}
