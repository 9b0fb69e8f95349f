//! watch: what is there, then every change, in revision order, as the selection sees it.
//!
//! ```text
//!   Initial ──(all sent, end bookmark)──▶ Following ──timeout──▶ end
//!                                             └──too slow, replaced──▶ 410, end
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use kontiki_proto::api::{Event, EventType, VersionMatch, WatchOptions, WatchStream};
use kontiki_proto::status::{FieldError, Status};
use kontiki_store::{Change, Entry, RangeRequest, Revision, Store, WatchError, WatchItem, Watcher};
use rand::Rng;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::Call;
use super::read::{catch_up, parse_revision, refuse_options};
use super::select::Selection;
use super::shape::{self, Shaper};
use crate::server::Context;
use crate::storage;

/// How often a client that asked for bookmarks gets one.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// A watch without a timeout of its own ends after this many seconds, so that load spreads anew.
const LIFETIME: std::ops::Range<u64> = 1800..3600;

fn check(options: &WatchOptions) -> Result<(), Status> {
    let mut errors = Vec::new();
    let field = "resourceVersionMatch";
    if options.send_initial_events {
        if options.version_match != VersionMatch::NotOlderThan {
            errors.push(FieldError::forbidden(
                field,
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        if !options.allow_bookmarks {
            errors.push(FieldError::forbidden(
                "allowWatchBookmarks",
                "sendInitialEvents requires allowWatchBookmarks",
            ));
        }
    } else if options.version_match != VersionMatch::Unset {
        errors.push(FieldError::forbidden(
            field,
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ));
    }
    refuse_options(&errors)
}

/// What an event is to a watcher that saw `before` and sees `after` selected, or not.
fn seen_as(before: bool, after: bool) -> Option<EventType> {
    match (before, after) {
        (false, true) => Some(EventType::Added),
        (true, true) => Some(EventType::Modified),
        (true, false) => Some(EventType::Deleted),
        (false, false) => None,
    }
}

struct Following {
    call: Call,
    selection: Selection,
    shaper: Shaper,
    watcher: Watcher,
    initial: std::vec::IntoIter<Arc<Entry>>,
    /// To be sent once all of `initial` is.
    initial_end: bool,
    ready: VecDeque<Event>,
    /// Every change up to here has been put into `ready`.
    reached: Revision,
    bookmarks: Option<Interval>,
    deadline: Instant,
    over: bool,
}

impl Following {
    fn event(&mut self, event_type: EventType, entry: &Entry) -> Result<Event, Status> {
        let document = storage::document_for(&self.call.row, entry)?;
        Ok(Event { event_type, object: self.shaper.event(&self.call.row, document)? })
    }

    fn take(&mut self, change: &Change) -> Result<(), Status> {
        let before = change.previous.as_ref().is_some_and(|entry| self.selection.selects(entry));
        let after = !change.deleted && self.selection.selects(&change.entry);
        let Some(event_type) = seen_as(before, after) else { return Ok(()) };
        let event = match (event_type, &change.previous) {
            // What left the selection is shown as it was last seen, at the revision it left.
            (EventType::Deleted, Some(previous)) if !change.deleted => {
                let left = Entry { mod_revision: change.revision, ..(**previous).clone() };
                self.event(event_type, &left)?
            }
            _ => self.event(event_type, &change.entry)?,
        };
        self.ready.push_back(event);
        Ok(())
    }

    fn bookmark(&self, initial_end: bool) -> Result<Event, Status> {
        let object = shape::bookmark(&self.call.row, self.reached, initial_end, self.shaper.form())?;
        Ok(Event { event_type: EventType::Bookmark, object })
    }

    /// The next event, an error that ends the watch, or `None` at its timeout.
    async fn next(&mut self) -> Option<Result<Event, Status>> {
        loop {
            if self.over {
                return None;
            }
            if let Some(entry) = self.initial.next() {
                return Some(self.event(EventType::Added, &entry));
            }
            if std::mem::take(&mut self.initial_end) {
                return Some(self.bookmark(true));
            }
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            let tick = async {
                match &mut self.bookmarks {
                    Some(interval) => drop(interval.tick().await),
                    None => std::future::pending().await,
                }
            };
            let item = tokio::select! {
                biased;
                () = tokio::time::sleep_until(self.deadline) => {
                    self.over = true;
                    return None;
                }
                item = self.watcher.next() => item,
                () = tick => return Some(self.bookmark(false)),
            };
            let taken = match item {
                Ok(WatchItem::Progress(revision)) => {
                    self.reached = self.reached.max(revision);
                    Ok(())
                }
                Ok(WatchItem::Changes(changes)) => {
                    let taken = changes.iter().try_for_each(|change| self.take(change));
                    self.reached =
                        changes.iter().map(|change| change.revision).fold(self.reached, Revision::max);
                    taken
                }
                Err(error @ (WatchError::TooSlow | WatchError::Replaced)) => {
                    Err(Status::expired(error.to_string()))
                }
                Err(error @ WatchError::Stopped) => Err(Status::unavailable(error.to_string())),
            };
            if let Err(status) = taken {
                self.over = true;
                return Some(Err(status));
            }
        }
    }
}

/// Objects there are now and the revision they were read at, or none and the revision to go on from.
async fn start(
    store: &Store,
    selection: &Selection,
    options: &WatchOptions,
) -> Result<(Vec<Arc<Entry>>, Revision), Status> {
    let version = options.resource_version.as_str();
    if !options.send_initial_events && !matches!(version, "" | "0") {
        return Ok((Vec::new(), parse_revision(version)?));
    }
    catch_up(store, version).await?;
    let request = RangeRequest { prefix: selection.prefix().clone(), ..RangeRequest::default() };
    let range = store.range(&request).map_err(storage::read_error)?;
    let mut entries = range.entries;
    entries.retain(|entry| selection.selects(entry));
    Ok((entries, range.revision))
}

/// Fails at once for bad options alone; what is wrong with the revision comes as the stream's only item, as upstream
/// does it.
pub(super) async fn watch(
    context: &Context,
    call: &Call,
    options: &WatchOptions,
) -> Result<WatchStream, Status> {
    check(options)?;
    let selection =
        Selection::new(&call.row, &call.target, &options.label_selector, &options.field_selector)?;
    if !matches!(options.resource_version.as_str(), "" | "0") {
        parse_revision(&options.resource_version)?;
    }
    let store = &context.store;
    let lifetime = match options.timeout_seconds {
        Some(seconds) if seconds > 0 => seconds,
        _ => rand::rng().random_range(LIFETIME),
    };
    let deadline = Instant::now() + Duration::from_secs(lifetime);
    let started = async {
        let (initial, after) = start(store, &selection, options).await?;
        // A client may know a revision that this server is about to apply.
        super::read::not_older(store, after).await?;
        let watcher = store.watch(selection.prefix().clone(), after).map_err(storage::read_error)?;
        Ok((initial, after, watcher))
    };
    let (initial, after, watcher) = match started.await {
        Ok(started) => started,
        Err(status) => return Ok(stream::iter([Err(status)]).boxed()),
    };
    let bookmarks = options.allow_bookmarks.then(|| {
        let mut interval = tokio::time::interval_at(Instant::now() + BOOKMARKS, BOOKMARKS);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    });
    let following = Following {
        call: call.clone(),
        selection,
        shaper: Shaper::new(call.form(options.shape)),
        watcher,
        initial: initial.into_iter(),
        initial_end: options.send_initial_events,
        ready: VecDeque::new(),
        reached: after,
        bookmarks,
        deadline,
        over: false,
    };
    Ok(stream::unfold(following, async |mut following| {
        let event = following.next().await?;
        following.over |= event.is_err();
        Some((event, following))
    })
    .boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_enters_or_leaves_the_selection_is_added_or_deleted() {
        for (before, after, expected) in [
            (false, true, Some(EventType::Added)),
            (true, true, Some(EventType::Modified)),
            (true, false, Some(EventType::Deleted)),
            (false, false, None),
        ] {
            assert_eq!(seen_as(before, after), expected);
        }
    }
}
