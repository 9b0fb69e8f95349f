//! The log on disk: numbered records and a few named ones, written by one thread.
//!
//! ```text
//!   append, truncate, purge, put ──▶ queue ──▶ writer: take all that waits, write in order, one fsync, tell all
//! ```
//!
//! A record is cut into chunks (key = index, chunk), the first of which begins with the record's length. Truncation
//! removes from the tail backwards, so that no crash leaves a hole. The purge mark is durable before anything is
//! deleted; what a crash leaves below it is swept on opening. A last record that is incomplete was never acknowledged
//! and is dropped; any other gap is damage.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;

use super::{CHUNK, DiskError, die};

pub(super) const ENTRIES: &[u8] = b"entries";
const NAMED: &[u8] = b"named";
const PURGED: &[u8] = b"purged-below";
/// Jobs that may wait for the writer; a caller past that blocks.
const QUEUE: usize = 4096;
/// Jobs of one group commit.
const GROUP: usize = 4096;

/// Called on the writer's thread once what it belongs to is durable.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

enum Job {
    Append {
        records: Vec<(u64, Bytes)>,
        done: Done,
    },
    /// Removes the index and all behind it.
    Truncate {
        from: u64,
    },
    /// Forgets everything below the index.
    Purge {
        below: u64,
    },
    /// Durable by the next sync; `done` asks for one.
    Put {
        name: &'static [u8],
        value: Vec<u8>,
        done: Option<Done>,
    },
    Stop {
        done: Done,
    },
}

#[derive(Clone)]
pub(crate) struct Journal {
    entries: sled::Tree,
    named: sled::Tree,
    queue: SyncSender<Job>,
    /// Indexes below this one are readable from the database.
    written: Arc<AtomicU64>,
}

/// What the journal held when it was opened.
pub(crate) struct Contents {
    /// Consecutive, from the purge mark on.
    pub records: BTreeMap<u64, Bytes>,
    pub purged_below: u64,
}

fn chunk_key(index: u64, chunk: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&chunk.to_be_bytes());
    key
}

fn parse_key(key: &[u8]) -> Result<(u64, u16), DiskError> {
    let bad = || DiskError::Corrupt("a log record has a key of the wrong length".to_string());
    let index =
        key.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes).ok_or_else(bad)?;
    let chunk =
        key.get(8..).and_then(|bytes| bytes.try_into().ok()).map(u16::from_be_bytes).ok_or_else(bad)?;
    Ok((index, chunk))
}

/// Puts a record together again; `None` where chunks are missing.
fn assemble(chunks: &[sled::IVec]) -> Result<Option<Bytes>, DiskError> {
    let Some(first) = chunks.first() else { return Ok(None) };
    let short = || DiskError::Corrupt("the first chunk of a log record has no length".to_string());
    let length =
        first.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes).ok_or_else(short)?;
    let mut record = Vec::with_capacity(length as usize);
    record.extend_from_slice(&first[4..]);
    chunks[1..].iter().for_each(|chunk| record.extend_from_slice(chunk));
    if record.len() > length as usize {
        return Err(DiskError::Corrupt("a log record is longer than it says".to_string()));
    }
    Ok((record.len() == length as usize).then(|| Bytes::from(record)))
}

impl Journal {
    /// Blocks. Starts the writer.
    pub fn open(log: &sled::Db) -> Result<(Journal, Contents), DiskError> {
        let entries = log.open_tree(ENTRIES)?;
        let named = log.open_tree(NAMED)?;
        let purged_below = match named.get(PURGED)? {
            Some(bytes) => {
                let bytes = bytes.as_ref().try_into();
                u64::from_be_bytes(
                    bytes.map_err(|_| DiskError::Corrupt("the purge mark is damaged".to_string()))?,
                )
            }
            None => 0,
        };
        for item in entries.range(..chunk_key(purged_below, 0)) {
            entries.remove(item?.0)?;
        }
        let records = read_all(&entries, purged_below)?;
        let written = records.last_key_value().map_or(purged_below, |(last, _)| last + 1);
        let written = Arc::new(AtomicU64::new(written));
        let (queue, jobs) = sync_channel(QUEUE);
        let writer = Writer {
            log: log.clone(),
            entries: entries.clone(),
            named: named.clone(),
            written: written.clone(),
        };
        std::thread::Builder::new()
            .name("kontiki-log".to_string())
            .spawn(move || writer.run(&jobs))
            .map_err(|error| DiskError::Io(format!("no thread for the log: {error}")))?;
        Ok((Journal { entries, named, queue, written }, Contents { records, purged_below }))
    }

    fn send(&self, job: Job) -> io::Result<()> {
        self.queue.send(job).map_err(|_| io::Error::other("the log's writer has stopped"))
    }

    pub fn append(&self, records: Vec<(u64, Bytes)>, done: Done) -> io::Result<()> {
        self.send(Job::Append { records, done })
    }

    pub fn truncate(&self, from: u64) -> io::Result<()> {
        self.send(Job::Truncate { from })
    }

    pub fn purge(&self, below: u64) -> io::Result<()> {
        self.send(Job::Purge { below })
    }

    pub fn put(&self, name: &'static [u8], value: Vec<u8>, done: Option<Done>) -> io::Result<()> {
        self.send(Job::Put { name, value, done })
    }

    /// What was last put under the name and written.
    pub fn get(&self, name: &[u8]) -> Result<Option<sled::IVec>, DiskError> {
        Ok(self.named.get(name)?)
    }

    /// Everything enqueued before is durable when `done` is called; the writer then ends.
    pub fn stop(&self, done: Done) -> io::Result<()> {
        self.send(Job::Stop { done })
    }

    /// First index that may not be readable from the database yet.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// A written record; `None` where it was purged or truncated.
    pub fn read(&self, index: u64) -> Result<Option<Bytes>, DiskError> {
        let chunks: Result<Vec<sled::IVec>, sled::Error> =
            self.entries.scan_prefix(index.to_be_bytes()).values().collect();
        assemble(&chunks?)
    }
}

fn read_all(entries: &sled::Tree, first: u64) -> Result<BTreeMap<u64, Bytes>, DiskError> {
    let mut chunks: BTreeMap<u64, Vec<sled::IVec>> = BTreeMap::new();
    for item in entries.iter() {
        let (key, value) = item?;
        let (index, chunk) = parse_key(&key)?;
        let known = chunks.entry(index).or_default();
        if known.len() != chunk as usize {
            return Err(DiskError::Corrupt(format!("log record {index} lacks a chunk before {chunk}")));
        }
        known.push(value);
    }
    let last = chunks.last_key_value().map(|(last, _)| *last);
    let mut records = BTreeMap::new();
    for (expected, (index, chunks)) in (first..).zip(chunks) {
        if index != expected {
            return Err(DiskError::Corrupt(format!("log record {expected} is missing, {index} is there")));
        }
        match assemble(&chunks)? {
            Some(record) => {
                records.insert(index, record);
            }
            None if Some(index) == last => {
                // Written when the power went, so nobody was told of it.
                for chunk in (0..chunks.len() as u16).rev() {
                    entries.remove(chunk_key(index, chunk))?;
                }
            }
            None => return Err(DiskError::Corrupt(format!("log record {index} is incomplete"))),
        }
    }
    Ok(records)
}

struct Writer {
    log: sled::Db,
    entries: sled::Tree,
    named: sled::Tree,
    written: Arc<AtomicU64>,
}

impl Writer {
    fn run(self, jobs: &Receiver<Job>) {
        let mut stopping = false;
        while !stopping {
            let Ok(first) = jobs.recv() else { return };
            let mut told = Vec::new();
            let mut purged = None;
            let group = std::iter::once(first).chain(std::iter::from_fn(|| jobs.try_recv().ok())).take(GROUP);
            for job in group {
                stopping |= matches!(job, Job::Stop { .. });
                if let Err(error) = self.write(job, &mut told, &mut purged) {
                    die("the log cannot be written", &error);
                }
            }
            if (!told.is_empty() || purged.is_some())
                && let Err(error) = self.log.flush()
            {
                die("the log cannot be synced", &error);
            }
            for done in told {
                done(Ok(()));
            }
            if let Some(below) = purged
                && let Err(error) = self.sweep(below)
            {
                die("the log cannot be purged", &error);
            }
        }
    }

    fn write(&self, job: Job, told: &mut Vec<Done>, purged: &mut Option<u64>) -> Result<(), sled::Error> {
        match job {
            Job::Append { records, done } => {
                for (index, record) in records {
                    self.insert(index, &record)?;
                    self.written.store(index + 1, Ordering::Release);
                }
                told.push(done);
            }
            Job::Truncate { from } => {
                for item in self.entries.range(chunk_key(from, 0)..).keys().rev() {
                    self.entries.remove(item?)?;
                }
                self.written.fetch_min(from, Ordering::AcqRel);
            }
            Job::Purge { below } => {
                self.named.insert(PURGED, &below.to_be_bytes())?;
                *purged = Some(below);
            }
            Job::Put { name, value, done } => {
                self.named.insert(name, value)?;
                told.extend(done);
            }
            Job::Stop { done } => told.push(done),
        }
        Ok(())
    }

    fn insert(&self, index: u64, record: &[u8]) -> Result<(), sled::Error> {
        let mut first = Vec::with_capacity(4 + record.len().min(CHUNK));
        first.extend_from_slice(&(record.len() as u32).to_be_bytes());
        let (head, rest) = record.split_at(record.len().min(CHUNK));
        first.extend_from_slice(head);
        self.entries.insert(chunk_key(index, 0), first)?;
        for (number, chunk) in rest.chunks(CHUNK).enumerate() {
            self.entries.insert(chunk_key(index, number as u16 + 1), chunk)?;
        }
        Ok(())
    }

    /// After the mark is durable. Not synced: what comes back is swept on opening.
    fn sweep(&self, below: u64) -> Result<(), sled::Error> {
        for item in self.entries.range(..chunk_key(below, 0)).keys() {
            self.entries.remove(item?)?;
        }
        Ok(())
    }
}
