//! The log as consensus sees it: readable at once, durable when the callback says so.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, RaftTypeConfig};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use super::types::{LogEntry, LogId, Types, Vote};
use crate::codec;
use crate::disk::DiskError;
use crate::disk::journal::{Contents, Journal};
use crate::mutant::mutated;

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED_ID: &[u8] = b"purged-id";
/// Newest entries kept in memory; older ones are read from disk.
const CACHE_BYTES: usize = 2 << 20;
/// What an entry costs in memory beside its bytes.
const ENTRY_OVERHEAD: usize = 200;
/// Entries handed to one replication message, at least one.
const READ_BYTES: usize = 1 << 20;
/// Files of the log kept beside the one written to, for followers that are a little behind.
const KEEP_FILES: u32 = 2;

/// What is known without touching the disk.
struct Known {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Consecutive, the newest entry last.
    recent: VecDeque<Recent>,
    recent_bytes: usize,
    /// Bytes appended since the program started: drives checkpoints.
    appended: u64,
}

/// An entry in memory.
struct Recent {
    entry: LogEntry,
    size: usize,
    /// The journal's job that writes it: until that is done, the entry is nowhere else.
    job: u64,
}

#[derive(Clone)]
pub(crate) struct LogStore {
    journal: Journal,
    known: Arc<Mutex<Known>>,
}

fn disk_error(error: DiskError) -> io::Error {
    io::Error::other(error.to_string())
}

impl LogStore {
    pub fn open(journal: Journal, contents: Contents) -> Result<LogStore, DiskError> {
        let vote = named(&contents, VOTE)?;
        let committed = named(&contents, COMMITTED)?;
        let purged: Option<LogId> = named(&contents, PURGED_ID)?;
        if purged.as_ref().map_or(0, |id| id.index + 1) < contents.purged_below {
            return Err(DiskError::Corrupt("the log is purged further than its mark says".to_string()));
        }
        let mut recent = VecDeque::new();
        let mut recent_bytes = 0;
        // The record may be ahead of the purge that it announces.
        let first = contents.first.max(purged.as_ref().map_or(0, |id| id.index + 1));
        if first > contents.purged_below {
            journal.purge(first)?;
        }
        for index in (first..contents.next).rev() {
            let (entry, size) = decode(&journal, index)?
                .ok_or_else(|| DiskError::Corrupt(format!("entry {index} of the log is missing")))?;
            recent_bytes += size;
            recent.push_front(Recent { entry, size, job: 0 });
            if recent_bytes > CACHE_BYTES {
                break;
            }
        }
        let last = recent.back().map(|newest| newest.entry.log_id).or(purged);
        let known = Known { vote, committed, purged, last, recent, recent_bytes, appended: 0 };
        Ok(LogStore { journal, known: Arc::new(Mutex::new(known)) })
    }

    pub fn purged(&self) -> Option<LogId> {
        self.known.lock().purged
    }

    /// The vote that is durable.
    #[cfg(feature = "simulation")]
    pub fn vote(&self) -> Option<Vote> {
        self.known.lock().vote
    }

    pub fn last(&self) -> Option<LogId> {
        self.known.lock().last
    }

    /// The first index that is better kept, even where a checkpoint makes it superfluous: a follower that is a little
    /// behind is served from there.
    pub fn keep_from(&self) -> u64 {
        self.journal.first_of_newest(KEEP_FILES)
    }

    /// For how long the disk has been busy with a sync, if it is.
    pub fn syncing_for(&self) -> Option<Duration> {
        self.journal.syncing_for()
    }

    /// Why the log is short of room, where it is.
    pub fn short_of_room(&self) -> Option<String> {
        self.journal.short_of_room()
    }

    pub fn is_empty(&self) -> bool {
        let known = self.known.lock();
        known.vote.is_none() && known.last.is_none()
    }

    /// Bytes appended since the program started.
    pub fn appended(&self) -> u64 {
        self.known.lock().appended
    }

    /// Waits until everything enqueued is durable, and ends the writer.
    pub async fn stop(&self) {
        let (done, stopped) = tokio::sync::oneshot::channel();
        if self.journal.stop(Box::new(move |result| drop(done.send(result)))).is_ok() {
            // A writer that is gone has nothing left to make durable.
            let _ = stopped.await;
        }
    }

    pub(super) fn read(&self, from: u64, to: u64, limit: usize) -> Result<Vec<LogEntry>, io::Error> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let (first, end, recent): (u64, u64, Vec<(usize, LogEntry)>) = {
            let known = self.known.lock();
            let from = from.max(known.purged.map_or(0, |id| id.index + 1));
            let end = known.last.map_or(0, |id| id.index + 1).min(to);
            let front = known.recent.front().map_or(end, |oldest| oldest.entry.index());
            let skip = from.saturating_sub(front) as usize;
            let take = end.saturating_sub(from.max(front)) as usize;
            let mut size = 0;
            let recent = known.recent.iter().skip(skip).take(take).take_while(|one| {
                let fits = size == 0 || size + one.size <= limit;
                size += one.size;
                fits
            });
            (from, front.min(end), recent.map(|one| (one.size, one.entry.clone())).collect())
        };
        for index in first..end {
            let Some((entry, size)) = decode(&self.journal, index).map_err(disk_error)? else {
                // Purged while it was being read: absence at the beginning is what the caller expects then.
                if found.is_empty() {
                    continue;
                }
                return Err(io::Error::other(format!("log entry {index} is missing")));
            };
            bytes += size;
            if bytes > limit && !found.is_empty() {
                return Ok(found);
            }
            found.push(entry);
        }
        for (size, entry) in recent {
            bytes += size;
            if bytes > limit && !found.is_empty() {
                break;
            }
            found.push(entry);
        }
        Ok(found)
    }
}

fn named<T: DeserializeOwned>(contents: &Contents, name: &[u8]) -> Result<Option<T>, DiskError> {
    let decoded = contents.named.get(name).map(|record| codec::decode(record)).transpose();
    decoded.map_err(|error| {
        DiskError::Corrupt(format!("the log's record {}: {error}", String::from_utf8_lossy(name)))
    })
}

/// An entry from the disk, and what it would take in memory.
fn decode(journal: &Journal, index: u64) -> Result<Option<(LogEntry, usize)>, DiskError> {
    let Some(record) = journal.read(index)? else { return Ok(None) };
    let entry: LogEntry = codec::decode(&record)
        .map_err(|error| DiskError::Corrupt(format!("entry {index} of the log: {error}")))?;
    if entry.index() != index {
        return Err(DiskError::Corrupt(format!("entry {index} of the log holds entry {}", entry.index())));
    }
    Ok(Some((entry, record.len() + ENTRY_OVERHEAD)))
}

impl Known {
    /// Lets go of the oldest entries that the disk has.
    fn shrink(&mut self, written: u64) {
        while self.recent_bytes > CACHE_BYTES
            && self.recent.front().is_some_and(|oldest| oldest.job <= written)
        {
            self.recent_bytes -= self.recent.pop_front().map_or(0, |oldest| oldest.size);
        }
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        self.read(from, to, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.known.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, io::Error> {
        self.read(start, end, READ_BYTES)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let known = self.known.lock();
        Ok(LogState { last_purged_log_id: known.purged, last_log_id: known.last })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if mutated!(VoteNotPersisted) {
            self.known.lock().vote = Some(*vote);
            return Ok(());
        }
        let (done, durable) = tokio::sync::oneshot::channel();
        let told = move |result: io::Result<()>| drop(done.send(result));
        self.journal.put(VOTE, codec::encode(vote), Some(Box::new(told)))?;
        durable.await.map_err(|_| io::Error::other("the log's writer has stopped"))??;
        self.known.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        // Durability is not owed: it only spares a restarted server the wait for the leader's word.
        if let Some(committed) = committed {
            self.journal.put(COMMITTED, codec::encode(&committed), None)?;
        }
        self.known.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let known = self.known.lock();
        // It is written behind the entries; after a crash it may be older than they are, never newer.
        Ok(known.committed.filter(|committed| Some(*committed) <= known.last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = <Types as RaftTypeConfig>::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        let mut fresh = Vec::new();
        for entry in entries {
            let record = codec::encode(&entry);
            let size = record.len() + ENTRY_OVERHEAD;
            records.push((entry.index(), Bytes::from(record)));
            fresh.push(Recent { entry, size, job: 0 });
        }
        // The lock is held while it is enqueued, so that nobody sees an entry whose job is not known yet.
        let mut known = self.known.lock();
        let job = self.journal.append(records, Box::new(move |result| callback.io_completed(result)))?;
        for one in fresh {
            known.last = Some(one.entry.log_id);
            known.recent_bytes += one.size;
            known.appended += one.size as u64;
            known.recent.push_back(Recent { job, ..one });
        }
        known.shrink(self.journal.written());
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |id| id.index + 1);
        let mut known = self.known.lock();
        while known.recent.back().is_some_and(|newest| newest.entry.index() >= from) {
            known.recent_bytes -= known.recent.pop_back().map_or(0, |newest| newest.size);
        }
        known.last = known.last.min(last).max(known.purged);
        drop(known);
        self.journal.truncate(from)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let mut known = self.known.lock();
        while known.recent.front().is_some_and(|oldest| oldest.entry.index() <= upto.index) {
            known.recent_bytes -= known.recent.pop_front().map_or(0, |oldest| oldest.size);
        }
        known.purged = known.purged.max(Some(upto));
        known.last = known.last.max(Some(upto));
        drop(known);
        self.journal.put(PURGED_ID, codec::encode(&upto), None)?;
        self.journal.purge(upto.index + 1)
    }
}
