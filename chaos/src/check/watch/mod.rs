//! What a watcher is promised, one file for each promise; they are etcd's, and Kubernetes' list-and-watch rests on them.

pub mod atomic;
pub mod bookmarkable;
pub mod filterable;
pub mod ordered;
pub mod previous;
pub mod reliable;
pub mod resumable;
pub mod unique;

use std::time::Duration;

use crate::history::{Change, End, History, Item, Revision, ServerId, Watched};

/// One connection of a watcher.
struct Stream<'a> {
    watched: &'a Watched,
    server: ServerId,
    after: Revision,
    /// Its number among the watcher's streams, from 0.
    number: usize,
    items: &'a [(Duration, Item)],
}

impl<'a> Stream<'a> {
    fn changes(&self) -> impl Iterator<Item = (Revision, &'a [Change])> {
        self.items.iter().filter_map(|(_, item)| match item {
            Item::Changes { revision, changes } => Some((*revision, changes.as_slice())),
            _ => None,
        })
    }

    /// The revision up to which the stream has shown everything.
    fn reached(&self) -> Revision {
        let reached = self.items.iter().filter_map(|(_, item)| match item {
            Item::Changes { revision, .. } | Item::Bookmark(revision) => Some(*revision),
            _ => None,
        });
        reached.max().unwrap_or_default().max(self.after)
    }

    fn name(&self) -> String {
        let Watched { watcher, prefix, .. } = self.watched;
        format!(
            "watcher {watcher} of {prefix:?}, stream {} from server {} after {}",
            self.number, self.server, self.after
        )
    }
}

fn streams(history: &History) -> Vec<Stream<'_>> {
    let mut streams = Vec::new();
    for watched in &history.watches {
        let mut number = 0;
        for (position, (_, item)) in watched.items.iter().enumerate() {
            let Item::Opened { server, after } = item else { continue };
            let rest = &watched.items[position + 1..];
            let ends = |(_, item): &(Duration, Item)| {
                matches!(item, Item::Opened { .. } | Item::Ended(_) | Item::Listed { .. })
            };
            let length = rest.iter().position(ends).unwrap_or(rest.len());
            streams.push(Stream { watched, server: *server, after: *after, number, items: &rest[..length] });
            number += 1;
        }
    }
    streams
}

/// Whether the watcher was told to list again.
fn listed_again(item: &Item) -> bool {
    matches!(item, Item::Ended(End::ListAgain(_)))
}
