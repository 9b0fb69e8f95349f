//! The log on disk: numbered entries and a few named records, in files that are only ever appended to.
//!
//! ```text
//!   append, truncate, purge, put ──▶ queue ──▶ writer: take all that waits, one write, one sync, tell all
//!                                                │
//!   read ◀── index: file, offset, length ◀───────┴──▶ log/0000000007  sealed
//!                                                     log/0000000008  written to
//!                                                     log/0000000009  made ready
//! ```
//!
//! Truncation and purging are frames like any other, so that what a crash leaves is always some moment of the log. A file
//! goes once all its entries are purged; the named records in it stand in every later file too.
//!
//! **Invariants.** A callback is called after the sync that made its entry durable, in order, and never otherwise. No hole:
//! entries are consecutive from the purge mark on. Nothing that was durable is dropped on opening: it is there, or the
//! directory is refused.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::DiskError;
use super::frame::{self, HEAD, Kind, Look};
use super::index::Index;
pub(crate) use super::queue::Done;
use super::queue::{Job, Queue};
use super::replay;
use super::segment::{self, LogId};
use super::writer::{Writer, Writing};
use crate::environment::{File, Labour, Storage};

/// Shared by the journal's handles and its writer.
pub(super) struct Shared {
    pub storage: Arc<dyn Storage>,
    pub log: LogId,
    pub queue: Queue,
    pub held: Mutex<Held>,
    /// Number of the last job that was written: what it appended can be read.
    pub written: AtomicU64,
    /// When the sync under way began.
    pub syncing: Mutex<Option<Instant>>,
    /// Why there is no room for much more, where there is none.
    pub short: Mutex<Option<String>>,
}

/// What can be read, and from where.
pub(super) struct Held {
    pub index: Index,
    pub files: BTreeMap<u32, Arc<dyn File>>,
}

/// Ends the writer with the last handle.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.queue.close();
    }
}

#[derive(Clone)]
pub(crate) struct Journal {
    shared: Arc<Shared>,
    _handle: Arc<Handle>,
}

/// What the journal held when it was opened.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The first entry, and the one behind the last.
    pub first: u64,
    pub next: u64,
    pub purged_below: u64,
    /// The newest value under each name.
    pub named: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Makes an empty log; its first file is durable when this returns. Blocks.
pub(super) fn create(storage: &dyn Storage, log: &LogId, labour: &Labour) -> Result<(), DiskError> {
    segment::create(storage, log, 1, Writing::of(labour).file_bytes)?;
    Ok(())
}

impl Journal {
    /// Blocks. Starts the writer: a thread, or a task of the runtime this is called in.
    pub(super) fn open(
        storage: Arc<dyn Storage>,
        log: &LogId,
        labour: &Labour,
    ) -> Result<(Journal, Contents), DiskError> {
        let found = replay::replay(storage.as_ref(), log)?;
        let contents = Contents {
            first: found.index.first(),
            next: found.index.next(),
            purged_below: found.index.below(),
            named: found.named.clone(),
        };
        let mut files = found.files;
        files.insert(found.active.number, found.active.file.clone());
        let shared = Arc::new(Shared {
            storage,
            log: *log,
            queue: Queue::new(matches!(labour, Labour::Threads)),
            held: Mutex::new(Held { index: found.index, files }),
            written: AtomicU64::new(0),
            syncing: Mutex::new(None),
            short: Mutex::new(None),
        });
        let position = (found.active, found.end, found.ready);
        Writer::new(shared.clone(), Writing::of(labour), position, found.named).start(labour)?;
        Ok((Journal { _handle: Arc::new(Handle(shared.clone())), shared }, contents))
    }

    /// The number of the job, for [`Journal::written`].
    pub fn append(&self, records: Vec<(u64, Bytes)>, done: Done) -> io::Result<u64> {
        self.shared.queue.push(Job::Append { records, done })
    }

    pub fn truncate(&self, from: u64) -> io::Result<()> {
        self.shared.queue.push(Job::Truncate { from }).map(drop)
    }

    pub fn purge(&self, below: u64) -> io::Result<()> {
        self.shared.queue.push(Job::Purge { below }).map(drop)
    }

    pub fn put(&self, name: &'static [u8], value: Vec<u8>, done: Option<Done>) -> io::Result<()> {
        self.shared.queue.push(Job::Put { name, value, done }).map(drop)
    }

    /// Everything enqueued before is durable when `done` is called.
    pub fn settled(&self, done: Done) -> io::Result<()> {
        self.shared.queue.push(Job::Sync { done }).map(drop)
    }

    /// Everything enqueued before is durable when `done` is called; the writer then ends.
    pub fn stop(&self, done: Done) -> io::Result<()> {
        self.shared.queue.push(Job::Stop { done }).map(drop)
    }

    /// Number of the last job whose entries can be read; those of later ones cannot yet.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Acquire)
    }

    /// For how long the sync under way has taken; `None` where there is none.
    pub fn syncing_for(&self) -> Option<Duration> {
        self.shared.syncing.lock().map(|began| began.elapsed())
    }

    /// Why the log is short of room for what comes, where it is.
    pub fn short_of_room(&self) -> Option<String> {
        self.shared.short.lock().clone()
    }

    /// The first index in the newest files, the one written to and as many before it as asked.
    pub fn first_of_newest(&self, files: u32) -> u64 {
        let held = self.shared.held.lock();
        let newest = held.files.last_key_value().map_or(0, |(number, _)| *number);
        held.index.first_in(newest.saturating_sub(files))
    }

    /// An entry that was written; `None` where it was purged or truncated. Blocks for one read of the disk.
    pub fn read(&self, index: u64) -> Result<Option<Bytes>, DiskError> {
        let (place, file) = {
            let held = self.shared.held.lock();
            let Some(place) = held.index.get(index) else { return Ok(None) };
            let Some(file) = held.files.get(&place.file) else { return Ok(None) };
            (place, file.clone())
        };
        let mut bytes = vec![0; frame::size(place.length as usize) as usize];
        file.read_at(u64::from(place.offset), &mut bytes)?;
        let salt = segment::salt(&self.shared.log, place.file);
        match frame::look(&bytes, salt, u64::from(place.offset)) {
            Look::Whole(head) if head.kind == Kind::Append && head.index == index => {}
            _ => return Err(DiskError::Corrupt(format!("entry {index} of the log is damaged"))),
        }
        bytes.truncate(HEAD + place.length as usize);
        frame::mix(&mut bytes[HEAD..]);
        Ok(Some(Bytes::from(bytes).slice(HEAD..)))
    }
}
