//! Watches: every change after a place, once, in order, whole revisions together; or an error that says to list again.
//!
//! ```text
//!                 ┌──────────── reads the shared history, holds no queue ─────────────┐
//!   watch() ──▶ CATCHING ──── reached the newest revision ───▶ SYNCED ──▶ Changes, Progress
//!                 ▲  │                                           │ its queue is full
//!                 │  └─ its place was compacted away: TooSlow    │
//!                 └──────────────────────────────────────────────┘
//! ```
//!
//! A change is encoded once and shared by all watchers and by the history. A synced watcher has a bounded queue, filled
//! when a change under its prefix becomes visible. One that does not keep up loses the queue, not its place: it goes back
//! to reading the history from there, and is cancelled only when history no longer reaches back to it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::mutant::mutated;
use crate::mvcc::{Event, View};
use crate::types::{Change, ReadError, Revision, WatchError, WatchItem};

/// Revisions a synced watcher may be behind before it has to read them from the history.
const QUEUE: usize = 512;
/// A watcher without changes of its own is told this often how far the store has come.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// Events a catching watcher looks at before it lets others run.
const STRIDE: usize = 4096;

/// Where all watchers of a replica are known, by prefix.
pub(crate) struct Hub {
    inner: Mutex<Inner>,
    /// Every change up to here is in the queues of the watchers it concerns. Stored after the queues are filled.
    published: AtomicU64,
}

#[derive(Default)]
struct Inner {
    /// By the prefix's length, so that a change asks as many tables as there are lengths, not as there are watchers.
    by_length: BTreeMap<usize, HashMap<Bytes, Vec<Arc<Slot>>>>,
    epoch: u64,
    stopped: bool,
}

struct Slot {
    state: Mutex<SlotState>,
    wake: Notify,
}

#[derive(Default)]
struct SlotState {
    queue: VecDeque<(Revision, Arc<[Change]>)>,
    /// What the watcher had before it registered.
    after: Revision,
    overflown: bool,
    ended: Option<WatchError>,
}

impl Hub {
    pub fn new(revision: Revision) -> Hub {
        Hub { inner: Mutex::default(), published: AtomicU64::new(revision) }
    }

    /// Hands on what has just become visible. One caller at a time, in revision order.
    pub fn publish(&self, events: &[Arc<Event>]) {
        let Some(last) = events.last() else { return };
        let inner = self.inner.lock();
        for event in events {
            for (length, prefixes) in &inner.by_length {
                inner.offer(event, *length, prefixes);
            }
        }
        self.published.store(last.revision, Ordering::Release);
    }

    /// The state was replaced: every watcher ends, and may start again at the new state's revision.
    pub fn replace(&self, revision: Revision, epoch: u64) {
        let mut inner = self.inner.lock();
        inner.epoch = epoch;
        inner.end_all(&WatchError::Replaced);
        self.published.store(revision, Ordering::Release);
    }

    pub fn stop(&self) {
        let mut inner = self.inner.lock();
        inner.stopped = true;
        inner.end_all(&WatchError::Stopped);
    }

    fn published(&self) -> Revision {
        self.published.load(Ordering::Acquire)
    }

    fn unregister(&self, prefix: &Bytes, slot: &Arc<Slot>) {
        let mut inner = self.inner.lock();
        let Some(prefixes) = inner.by_length.get_mut(&prefix.len()) else { return };
        if let Some(slots) = prefixes.get_mut(prefix) {
            slots.retain(|other| !Arc::ptr_eq(other, slot));
            if slots.is_empty() {
                prefixes.remove(prefix);
            }
        }
        if prefixes.is_empty() {
            inner.by_length.remove(&prefix.len());
        }
    }
}

impl Inner {
    fn offer(&self, event: &Event, length: usize, prefixes: &HashMap<Bytes, Vec<Arc<Slot>>>) {
        let mut done: Vec<&[u8]> = Vec::new();
        for change in event.changes.iter() {
            let Some(prefix) = change.entry.key.get(..length) else { continue };
            if done.contains(&prefix) {
                continue;
            }
            done.push(prefix);
            let Some(slots) = prefixes.get(prefix) else { continue };
            let Some(changes) = under(prefix, &event.changes) else { continue };
            for slot in slots {
                slot.push(event.revision, &changes);
            }
        }
    }

    fn end_all(&mut self, why: &WatchError) {
        for slot in std::mem::take(&mut self.by_length).into_values().flat_map(HashMap::into_values).flatten()
        {
            slot.end(why.clone());
        }
    }
}

impl Slot {
    fn push(&self, revision: Revision, changes: &Arc<[Change]>) {
        let mut state = self.state.lock();
        let dropped = mutated!(WatchEventDropped) && revision.is_multiple_of(64);
        if revision <= state.after || state.overflown || dropped {
            return;
        }
        if state.queue.len() == QUEUE {
            state.overflown = true;
        } else {
            state.queue.push_back((revision, changes.clone()));
        }
        drop(state);
        self.wake.notify_one();
    }

    fn end(&self, why: WatchError) {
        self.state.lock().ended = Some(why);
        self.wake.notify_one();
    }
}

/// The changes under the prefix, sharing the slice where all are.
fn under(prefix: &[u8], changes: &Arc<[Change]>) -> Option<Arc<[Change]>> {
    let holds = |change: &&Change| change.entry.key.starts_with(prefix);
    match changes.iter().filter(holds).count() {
        0 => None,
        all if all == changes.len() => Some(changes.clone()),
        _ => Some(changes.iter().filter(holds).cloned().collect()),
    }
}

/// What watchers read from: the replica's published view and its hub.
pub(crate) struct Feed {
    pub view: ArcSwap<View>,
    pub hub: Hub,
}

enum Mode {
    Catching,
    Synced(Arc<Slot>),
    Ended(WatchError),
}

/// An ordered stream of changes; see [`WatchItem`].
pub struct Watcher {
    feed: Arc<Feed>,
    prefix: Bytes,
    /// Everything up to here has been handed out.
    position: Revision,
    epoch: u64,
    mode: Mode,
    progress_at: Instant,
}

/// What one look at the queue came to.
enum Look {
    Item(WatchItem),
    End(WatchError),
    FellBehind,
    Nothing,
}

impl Watcher {
    pub(crate) fn open(feed: Arc<Feed>, prefix: Bytes, after: Revision) -> Result<Watcher, ReadError> {
        let view = feed.view.load();
        view.readable(after)?;
        let epoch = view.epoch;
        drop(view);
        let progress_at = Instant::now() + PROGRESS_EVERY;
        Ok(Watcher { feed, prefix, position: after, epoch, mode: Mode::Catching, progress_at })
    }

    /// The next item. The first [`WatchItem::Progress`] comes when the watcher has caught up with the store, later ones
    /// every few seconds while it has nothing else to deliver and the store moves on.
    ///
    /// Cancel-safe. An error is the last word: it is repeated when asked again.
    pub async fn next(&mut self) -> Result<WatchItem, WatchError> {
        loop {
            match &self.mode {
                Mode::Ended(why) => return Err(why.clone()),
                Mode::Catching => match self.catch_up() {
                    Some(item) => return Ok(item),
                    None => tokio::task::yield_now().await,
                },
                Mode::Synced(slot) => {
                    let slot = slot.clone();
                    match self.look(&slot) {
                        Look::Item(item) => return Ok(item),
                        Look::End(why) => self.mode = Mode::Ended(why),
                        Look::FellBehind => {
                            self.feed.hub.unregister(&self.prefix, &slot);
                            self.mode = Mode::Catching;
                        }
                        Look::Nothing => {
                            // A timeout is no error: it is time to look whether there is progress to tell.
                            let _ = tokio::time::timeout_at(self.progress_at, slot.wake.notified()).await;
                        }
                    }
                }
            }
        }
    }

    fn look(&mut self, slot: &Slot) -> Look {
        // Read before the queue: what was published before has then been queued before, and cannot be overtaken.
        let published = self.feed.hub.published();
        let mut state = slot.state.lock();
        if mutated!(BookmarkOvertakes) && state.queue.len() > 1 && published > self.position {
            self.position = published;
            return Look::Item(WatchItem::Progress(published));
        }
        if let Some((revision, changes)) = state.queue.pop_front() {
            self.position = revision;
            self.progress_at = Instant::now() + PROGRESS_EVERY;
            return Look::Item(WatchItem::Changes(changes));
        }
        if let Some(why) = &state.ended {
            return Look::End(why.clone());
        }
        if state.overflown {
            return Look::FellBehind;
        }
        drop(state);
        let now = Instant::now();
        if now >= self.progress_at {
            self.progress_at = now + PROGRESS_EVERY;
            if published > self.position {
                self.position = published;
                return Look::Item(WatchItem::Progress(published));
            }
        }
        Look::Nothing
    }

    /// One stride through the history; registers with the hub where it ends.
    fn catch_up(&mut self) -> Option<WatchItem> {
        let view = self.feed.view.load_full();
        if view.epoch != self.epoch {
            self.mode = Mode::Ended(WatchError::Replaced);
            return None;
        }
        if self.position < view.oldest {
            self.mode = Mode::Ended(WatchError::TooSlow);
            return None;
        }
        for (revision, changes) in view.events.after(self.position).take(STRIDE) {
            self.position = revision;
            if let Some(changes) = under(&self.prefix, &changes) {
                return Some(WatchItem::Changes(changes));
            }
        }
        if self.position < view.revision && view.events.after(self.position).next().is_some() {
            return None;
        }
        self.position = self.position.max(view.revision);
        self.register();
        matches!(self.mode, Mode::Synced(_)).then_some(WatchItem::Progress(self.position))
    }

    /// Asks for what comes after the position, unless something has come already.
    fn register(&mut self) {
        let mut inner = self.feed.hub.inner.lock();
        if inner.stopped {
            self.mode = Mode::Ended(WatchError::Stopped);
        } else if inner.epoch != self.epoch {
            self.mode = Mode::Ended(WatchError::Replaced);
        } else if self.feed.hub.published() <= self.position {
            let state = SlotState { after: self.position, ..SlotState::default() };
            let slot = Arc::new(Slot { state: Mutex::new(state), wake: Notify::new() });
            let prefixes = inner.by_length.entry(self.prefix.len()).or_default();
            prefixes.entry(self.prefix.clone()).or_default().push(slot.clone());
            self.progress_at = Instant::now() + PROGRESS_EVERY;
            self.mode = Mode::Synced(slot);
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Mode::Synced(slot) = &self.mode {
            self.feed.hub.unregister(&self.prefix, slot);
        }
    }
}
