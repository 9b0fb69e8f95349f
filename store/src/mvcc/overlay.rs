//! The net effect of a transaction's operations, before it becomes state.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::View;
use crate::types::{Attributes, Change, Entry, LeaseId, Revision};

/// Operations on a view that is not touched. A revision shows each key once, however often the transaction wrote it: a
/// delete and a put of one key make one change, of an object that is new (`version` 1).
pub(super) struct Overlay<'a> {
    view: &'a View,
    revision: Revision,
    /// What each touched key holds now, in the order of first touch.
    touched: Vec<(Bytes, Option<Entry>)>,
    places: HashMap<Bytes, usize>,
}

impl<'a> Overlay<'a> {
    pub fn new(view: &'a View, revision: Revision) -> Overlay<'a> {
        Overlay { view, revision, touched: Vec::new(), places: HashMap::new() }
    }

    pub fn put(&mut self, key: &Bytes, value: Bytes, attributes: Attributes, lease: Option<LeaseId>) {
        let revision = self.revision;
        let slot = self.slot(key);
        let (create_revision, version) =
            slot.1.as_ref().map_or((revision, 1), |old| (old.create_revision, old.version + 1));
        slot.1 = Some(Entry {
            key: key.clone(),
            value,
            attributes,
            create_revision,
            mod_revision: revision,
            version,
            lease,
        });
    }

    pub fn delete(&mut self, key: &Bytes) {
        self.slot(key).1 = None;
    }

    fn slot(&mut self, key: &Bytes) -> &mut (Bytes, Option<Entry>) {
        let place = match self.places.get(key) {
            Some(place) => *place,
            None => {
                let held = self.view.current.get(key).map(|entry| Entry::clone(entry));
                self.touched.push((key.clone(), held));
                self.places.insert(key.clone(), self.touched.len() - 1);
                self.touched.len() - 1
            }
        };
        &mut self.touched[place]
    }

    pub fn changes(self) -> Vec<Change> {
        let Overlay { view, revision, touched, .. } = self;
        let change = |(key, held): (Bytes, Option<Entry>)| {
            let previous = view.get(&key);
            match held {
                Some(entry) => Some(Change { revision, entry: Arc::new(entry), previous, deleted: false }),
                None => {
                    let last = previous?;
                    let entry = Arc::new(Entry { mod_revision: revision, ..Entry::clone(&last) });
                    Some(Change { revision, entry, previous: Some(last), deleted: true })
                }
            }
        };
        touched.into_iter().filter_map(change).collect()
    }
}
