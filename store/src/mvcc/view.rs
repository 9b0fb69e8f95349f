//! One consistent picture of the replica, read without locks.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;

use super::entries::Entries;
use super::events::Events;
use crate::types::{Entry, Range, RangeRequest, ReadError, Revision};

/// State at one revision, with the history behind it. Persistent maps: a clone shares everything.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub revision: Revision,
    /// The oldest revision that can be read, or watched from.
    pub oldest: Revision,
    /// Raised when the state is replaced from outside the log: positions in the old history mean nothing then.
    pub epoch: u64,
    pub current: Entries,
    /// Superseded entries, by key and the revision that superseded them. An entry was its key's value from its own
    /// `mod_revision` up to that revision; between two of them, and before the first, the key was absent.
    pub history: OrdMap<(Bytes, Revision), Arc<Entry>>,
    pub events: Events,
}

impl View {
    /// The view of a store in which nothing has happened.
    pub fn empty() -> View {
        View {
            revision: 1,
            oldest: 1,
            epoch: 0,
            current: Entries::new(),
            history: OrdMap::new(),
            events: Events::default(),
        }
    }

    pub fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.current.get(key).cloned()
    }

    pub fn readable(&self, revision: Revision) -> Result<(), ReadError> {
        if revision > self.revision {
            return Err(ReadError::Future { asked: revision, current: self.revision });
        }
        if revision < self.oldest {
            return Err(ReadError::Compacted { asked: revision, oldest: self.oldest });
        }
        Ok(())
    }

    pub fn range(&self, request: &RangeRequest) -> Result<Range, ReadError> {
        let revision = request.revision.unwrap_or(self.revision);
        self.readable(revision)?;
        let limit = if request.limit == 0 { usize::MAX } else { request.limit };
        let span = Span::of(&request.prefix, request.after.as_ref());
        let mut entries = Vec::new();
        let mut count = 0u64;
        let take = |entry: &Arc<Entry>| {
            count += 1;
            if entries.len() < limit {
                entries.push(entry.clone());
            }
        };
        if revision == self.revision {
            span.current(self).for_each(take);
        } else {
            self.walk_past(&span, revision, take);
        }
        let more = count > entries.len() as u64;
        Ok(Range { revision, entries, more, count })
    }

    /// Visits, in key order, what the span held at an earlier revision.
    fn walk_past(&self, span: &Span, revision: Revision, mut visit: impl FnMut(&Arc<Entry>)) {
        let mut current = span.current(self).peekable();
        let mut old = self.superseded_after(span.first_past(), revision, span);
        loop {
            let old_is_next = match (&old, current.peek()) {
                (None, None) => return,
                (Some((key, _)), Some(now)) => *key <= now.key,
                (Some(_), None) => true,
                (None, Some(_)) => false,
            };
            if !old_is_next {
                if let Some(entry) = current.next()
                    && entry.mod_revision <= revision
                {
                    visit(entry);
                }
                continue;
            }
            let Some((key, entry)) = old.take() else { return };
            // What was superseded after the revision says all there is to say about its key.
            if entry.mod_revision <= revision {
                visit(&entry);
            }
            if current.peek().is_some_and(|now| now.key == key) {
                current.next();
            }
            old = self.superseded_after(Bound::Excluded((key, Revision::MAX)), revision, span);
        }
    }

    /// The next key with an entry that was superseded after the revision, and the first such entry.
    fn superseded_after(
        &self,
        mut from: Bound<(Bytes, Revision)>,
        revision: Revision,
        span: &Span,
    ) -> Option<(Bytes, Arc<Entry>)> {
        loop {
            let ((key, at), entry) = self.history.range((from, Bound::Unbounded)).next()?;
            if !span.holds(key) {
                return None;
            }
            if *at > revision {
                return Some((key.clone(), entry.clone()));
            }
            // Older than what is asked for: jump over the key's own old entries, or over the key.
            from = Bound::Included((key.clone(), revision + 1));
        }
    }
}

/// The keys a range request means.
struct Span {
    prefix: Bytes,
    low: Bound<Bytes>,
    high: Bound<Bytes>,
}

impl Span {
    fn of(prefix: &Bytes, after: Option<&Bytes>) -> Span {
        let low = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.clone()),
            _ => Bound::Included(prefix.clone()),
        };
        let high = match behind(prefix) {
            Some(end) => Bound::Excluded(end),
            None => Bound::Unbounded,
        };
        Span { prefix: prefix.clone(), low, high }
    }

    fn current<'a>(&self, view: &'a View) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
        view.current.range((self.low.clone(), self.high.clone()))
    }

    fn first_past(&self) -> Bound<(Bytes, Revision)> {
        match &self.low {
            Bound::Excluded(key) => Bound::Excluded((key.clone(), Revision::MAX)),
            Bound::Included(key) => Bound::Included((key.clone(), 0)),
            Bound::Unbounded => Bound::Unbounded,
        }
    }

    fn holds(&self, key: &Bytes) -> bool {
        key.starts_with(&self.prefix)
    }
}

/// The first key behind all keys with the prefix; `None` where there is none.
fn behind(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(Bytes::from(end))
}
