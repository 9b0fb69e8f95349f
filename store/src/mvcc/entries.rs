//! The current entries, by key. The key stands in the entry and nowhere else: a place costs one pointer.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdSet;

use crate::types::Entry;

/// An entry that is ordered and found by its key alone.
#[derive(Clone, Debug)]
struct Keyed(Arc<Entry>);

impl Keyed {
    fn key(&self) -> &[u8] {
        &self.0.key
    }
}

impl PartialEq for Keyed {
    fn eq(&self, other: &Keyed) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Keyed {}

impl PartialOrd for Keyed {
    fn partial_cmp(&self, other: &Keyed) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Keyed {
    fn cmp(&self, other: &Keyed) -> Ordering {
        self.key().cmp(other.key())
    }
}

impl Borrow<[u8]> for Keyed {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

/// A persistent map from key to entry: a clone shares everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries(OrdSet<Keyed>);

impl Entries {
    pub fn new() -> Entries {
        Entries::default()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn get(&self, key: &[u8]) -> Option<&Arc<Entry>> {
        self.0.get(key).map(|held| &held.0)
    }

    /// Stands under the entry's own key, in place of what stood there.
    pub fn insert(&mut self, entry: Arc<Entry>) {
        self.0.insert(Keyed(entry));
    }

    pub fn remove(&mut self, key: &[u8]) {
        self.0.remove(key);
    }

    /// In key order.
    pub fn values(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.0.iter().map(|held| &held.0)
    }

    /// In key order. Bounds that exclude everything are taken for what they say.
    pub fn range(
        &self,
        (low, high): (Bound<Bytes>, Bound<Bytes>),
    ) -> impl Iterator<Item = &Arc<Entry>> + use<'_> {
        let bounds = (low.as_ref().map(Bytes::as_ref), high.as_ref().map(Bytes::as_ref));
        // The set's own range does not like to be asked for less than nothing.
        let nothing = match bounds {
            (Bound::Included(low) | Bound::Excluded(low), Bound::Excluded(high)) => low >= high,
            (Bound::Included(low), Bound::Included(high)) => low > high,
            (Bound::Excluded(low), Bound::Included(high)) => low >= high,
            _ => false,
        };
        let bounds = if nothing { (Bound::Included(&[][..]), Bound::Excluded(&[][..])) } else { bounds };
        self.0.range::<_, [u8]>(bounds).map(|held| &held.0)
    }
}

impl PartialEq for Entries {
    /// Equal in everything, not in keys alone.
    fn eq(&self, other: &Entries) -> bool {
        self.len() == other.len() && self.values().eq(other.values())
    }
}

impl Extend<Arc<Entry>> for Entries {
    fn extend<I: IntoIterator<Item = Arc<Entry>>>(&mut self, entries: I) {
        entries.into_iter().for_each(|entry| self.insert(entry));
    }
}

impl FromIterator<Arc<Entry>> for Entries {
    fn from_iter<I: IntoIterator<Item = Arc<Entry>>>(entries: I) -> Entries {
        let mut all = Entries::new();
        all.extend(entries);
        all
    }
}
