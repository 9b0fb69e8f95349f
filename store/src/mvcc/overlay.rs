//! The net effect of a transaction's operations, before it becomes state.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;

use super::View;
use crate::types::{Attributes, Change, Entry, LeaseId, Revision};

/// Shared by all entries without attributes.
static NONE: LazyLock<Attributes> = LazyLock::new(|| Arc::from([]));
/// Keys a transaction touches before it pays to look them up in a table.
const FEW: usize = 8;

/// Operations on a view that is not touched. A revision shows each key once, however often the transaction wrote it: a
/// delete and a put of one key make one change, of an object that is new (`version` 1).
pub(super) struct Overlay<'a> {
    view: &'a View,
    revision: Revision,
    /// In the order in which keys were first touched; a delete of nothing touches nothing.
    touched: Vec<Touched>,
    /// Places of the keys, once there are more than a few.
    places: HashMap<Bytes, usize>,
}

/// A key that is held before, or now, or both.
struct Touched {
    before: Option<Arc<Entry>>,
    now: Option<Entry>,
}

impl Touched {
    fn key(&self) -> Option<&Bytes> {
        self.now.as_ref().or(self.before.as_deref()).map(|entry| &entry.key)
    }
}

impl<'a> Overlay<'a> {
    pub fn new(view: &'a View, revision: Revision) -> Overlay<'a> {
        Overlay { view, revision, touched: Vec::new(), places: HashMap::new() }
    }

    pub fn put(&mut self, key: Bytes, value: Bytes, attributes: Attributes, lease: Option<LeaseId>) {
        let revision = self.revision;
        let attributes = if attributes.is_empty() { NONE.clone() } else { attributes };
        let place = self.find(&key);
        let before = match place {
            Some(place) => self.touched[place].before.clone(),
            None => self.view.get(&key),
        };
        let held = match place {
            Some(place) => self.touched[place].now.as_ref(),
            None => before.as_deref(),
        };
        let (create_revision, version) =
            held.map_or((revision, 1), |old| (old.create_revision, old.version + 1));
        // The key is shared by all versions of its entry.
        let key = before.as_ref().map_or(key, |entry| entry.key.clone());
        let now =
            Some(Entry { key, value, attributes, create_revision, mod_revision: revision, version, lease });
        match place {
            Some(place) => self.touched[place].now = now,
            None => self.add(Touched { before, now }),
        }
    }

    pub fn delete(&mut self, key: &Bytes) {
        if let Some(place) = self.find(key) {
            // One that came within the transaction is gone without a trace, and may come again.
            self.touched[place].now = None;
        } else if let Some(before) = self.view.get(key) {
            self.add(Touched { before: Some(before), now: None });
        }
    }

    fn find(&self, key: &Bytes) -> Option<usize> {
        if self.places.is_empty() {
            return self.touched.iter().position(|touched| touched.key() == Some(key));
        }
        self.places.get(key).copied()
    }

    fn add(&mut self, touched: Touched) {
        self.touched.push(touched);
        if self.touched.len() < FEW {
            return;
        }
        let begin = if self.places.is_empty() { 0 } else { self.touched.len() - 1 };
        for (place, touched) in self.touched.iter().enumerate().skip(begin) {
            if let Some(key) = touched.key() {
                self.places.insert(key.clone(), place);
            }
        }
    }

    pub fn changes(self) -> Vec<Change> {
        let revision = self.revision;
        let change = |Touched { before, now }| match now {
            Some(entry) => {
                Some(Change { revision, entry: Arc::new(entry), previous: before, deleted: false })
            }
            None => {
                let last: Arc<Entry> = before?;
                let entry = Arc::new(Entry { mod_revision: revision, ..Entry::clone(&last) });
                Some(Change { revision, entry, previous: Some(last), deleted: true })
            }
        };
        self.touched.into_iter().filter_map(change).collect()
    }
}
