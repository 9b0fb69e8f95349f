//! The log as consensus sees it: readable at once, durable when the callback says so.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, RaftTypeConfig};
use parking_lot::Mutex;

use super::types::{LogEntry, LogId, Types, Vote};
use crate::codec;
use crate::disk::DiskError;
use crate::disk::journal::{Contents, Journal};

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED_ID: &[u8] = b"purged-id";
/// Newest entries kept in memory; older ones are read from disk.
const CACHE_BYTES: usize = 16 << 20;
/// What an entry costs in memory beside its bytes.
const ENTRY_OVERHEAD: usize = 200;
/// Entries handed to one replication message, at least one.
const READ_BYTES: usize = 1 << 20;

/// What is known without touching the disk.
struct Known {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Consecutive, the newest entry last.
    recent: VecDeque<(usize, LogEntry)>,
    recent_bytes: usize,
    /// Bytes appended since the program started: drives checkpoints.
    appended: u64,
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
        let named = |name: &[u8]| -> Result<Option<sled::IVec>, DiskError> { journal.get(name) };
        let vote = named(VOTE)?.map(|record| codec::decode(&record)).transpose()?;
        let committed = named(COMMITTED)?.map(|record| codec::decode(&record)).transpose()?;
        let purged: Option<LogId> = named(PURGED_ID)?.map(|record| codec::decode(&record)).transpose()?;
        if purged.as_ref().map_or(0, |id| id.index + 1) < contents.purged_below {
            return Err(DiskError::Corrupt("the log is purged further than its mark says".to_string()));
        }
        let mut recent = VecDeque::new();
        let mut last = purged;
        let mut recent_bytes = 0;
        for (index, record) in &contents.records {
            let entry: LogEntry = codec::decode(record)?;
            if entry.index() != *index {
                return Err(DiskError::Corrupt(format!("log record {index} holds entry {}", entry.index())));
            }
            if Some(entry.log_id) <= last {
                continue;
            }
            last = Some(entry.log_id);
            let size = record.len() + ENTRY_OVERHEAD;
            recent_bytes += size;
            recent.push_back((size, entry));
            while recent_bytes > CACHE_BYTES && recent.len() > 1 {
                recent_bytes -= recent.pop_front().map_or(0, |(size, _)| size);
            }
        }
        let known = Known { vote, committed, purged, last, recent, recent_bytes, appended: 0 };
        Ok(LogStore { journal, known: Arc::new(Mutex::new(known)) })
    }

    pub fn purged(&self) -> Option<LogId> {
        self.known.lock().purged
    }

    pub fn last(&self) -> Option<LogId> {
        self.known.lock().last
    }

    /// The first index that is held in memory.
    pub fn memory_begins(&self) -> u64 {
        let known = self.known.lock();
        let end = known.last.map_or(0, |id| id.index + 1);
        known.recent.front().map_or(end, |(_, entry)| entry.index())
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
            let front = known.recent.front().map_or(end, |(_, entry)| entry.index());
            let skip = from.saturating_sub(front) as usize;
            let take = end.saturating_sub(from.max(front)) as usize;
            let mut size = 0;
            let recent = known.recent.iter().skip(skip).take(take).take_while(|(one, _)| {
                let fits = size == 0 || size + one <= limit;
                size += one;
                fits
            });
            (from, front.min(end), recent.cloned().collect())
        };
        for index in first..end {
            let Some(record) = self.journal.read(index).map_err(disk_error)? else {
                // Purged while it was being read: absence at the beginning is what the caller expects then.
                if found.is_empty() {
                    continue;
                }
                return Err(io::Error::other(format!("log entry {index} is missing")));
            };
            bytes += record.len();
            if bytes > limit && !found.is_empty() {
                return Ok(found);
            }
            found.push(codec::decode(&record).map_err(|error| io::Error::other(error.to_string()))?);
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

impl Known {
    /// Lets go of the oldest entries that the disk has.
    fn shrink(&mut self, written: u64) {
        while self.recent_bytes > CACHE_BYTES
            && self.recent.front().is_some_and(|(_, entry)| entry.index() + 1 < written)
        {
            self.recent_bytes -= self.recent.pop_front().map_or(0, |(size, _)| size);
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
        {
            let mut known = self.known.lock();
            for entry in entries {
                let record = codec::encode(&entry);
                known.last = Some(entry.log_id);
                let size = record.len() + ENTRY_OVERHEAD;
                known.recent_bytes += size;
                known.appended += size as u64;
                known.recent.push_back((size, entry));
                let index = known.last.map_or(0, |id| id.index);
                records.push((index, Bytes::from(record)));
            }
            known.shrink(self.journal.written());
        }
        self.journal.append(records, Box::new(move |result| callback.io_completed(result)))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |id| id.index + 1);
        let mut known = self.known.lock();
        while known.recent.back().is_some_and(|(_, entry)| entry.index() >= from) {
            known.recent_bytes -= known.recent.pop_back().map_or(0, |(size, _)| size);
        }
        known.last = known.last.min(last).max(known.purged);
        drop(known);
        self.journal.truncate(from)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let mut known = self.known.lock();
        while known.recent.front().is_some_and(|(_, entry)| entry.index() <= upto.index) {
            known.recent_bytes -= known.recent.pop_front().map_or(0, |(size, _)| size);
        }
        known.purged = known.purged.max(Some(upto));
        known.last = known.last.max(Some(upto));
        drop(known);
        self.journal.put(PURGED_ID, codec::encode(&upto), None)?;
        self.journal.purge(upto.index + 1)
    }
}
