//! The one that writes the log: group commit, and going on from file to file.
//!
//! ```text
//!              ┌────────────────────────── jobs wait ──────────────────────────┐
//!              ▼                                                               │
//!   take ──▶ encode into one buffer ──▶ write ──▶ sync ──▶ tell ──▶ remove, make ready
//!              │ the file is full                                              ▲
//!              └─▶ next file is there? ──▶ seal ──▶ write, sync, tell ─────────┘
//! ```
//!
//! A file is sealed only when the next one is there for good, and the next one is written to only when the sealed one is
//! durable. What the sealing left in the old file and what stands in the new one can so be told from a loss.
//!
//! A write or sync that fails ends the process: nobody knows then what the disk has. Only a disk without room for another
//! file is waited for, while proposals are refused.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use tokio::time::Instant;

use super::DiskError;
use super::frame::{self, Kind};
use super::index::{Index, Place};
use super::journal::Shared;
use super::queue::{Done, Job};
use super::segment::{self, FRAMES, Segment};
use crate::environment::{Labour, Pace};
use crate::life;
use crate::mutant::mutated;

/// Bytes that are gathered before they are written.
const GATHER: usize = 1 << 20;
/// Kept free in every file for its seal.
const SEAL: u64 = frame::size(0);
/// With nothing to do for this long, the writer notes that all is durable.
const IDLE: Duration = Duration::from_millis(100);
/// Between two attempts to make a file on a full disk.
const AGAIN: Duration = Duration::from_millis(500);

/// How the log is written, which differs between the two worlds in numbers alone.
pub(super) struct Writing {
    pub file_bytes: u64,
    pace: Option<Arc<dyn Pace>>,
}

impl Writing {
    pub fn of(labour: &Labour) -> Writing {
        match labour {
            Labour::Threads => Writing { file_bytes: 8 << 20, pace: None },
            // Small, so that going on to the next file happens all the time.
            Labour::Inline(pace) => Writing { file_bytes: 128 << 10, pace: Some(pace.clone()) },
        }
    }
}

/// The file behind the one that is written to.
enum Next {
    Absent { not_before: Option<Instant> },
    Making(Receiver<io::Result<Segment>>),
    Ready(Segment),
}

/// Why the writer cannot go on.
struct Fault {
    what: &'static str,
    error: io::Error,
}

fn fault(what: &'static str) -> impl FnOnce(io::Error) -> Fault {
    move |error| Fault { what, error }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    writing: Writing,
    active: Segment,
    next: Next,
    /// Frames that are not written yet; they go where `end` less their length is.
    buffer: Vec<u8>,
    /// Where the next frame goes.
    end: u64,
    /// The file is durable up to here.
    durable: u64,
    /// Whether nothing was ever appended.
    fresh: bool,
    /// Whether the file says all that older ones would have to be kept for. After a start nobody knows.
    begun: bool,
    /// Whether the disk does not say yet how much of it is durable.
    unmarked: bool,
    named: BTreeMap<Vec<u8>, Vec<u8>>,
    /// To be told after the next sync.
    told: Vec<Done>,
    /// Whether the group asked for a sync.
    owed: bool,
    purged: bool,
}

impl Writer {
    pub fn new(
        shared: Arc<Shared>,
        writing: Writing,
        (active, end, ready): (Segment, u64, Option<Segment>),
        named: BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Writer {
        let fresh = shared.held.lock().index == Index::default();
        Writer {
            fresh,
            shared,
            writing,
            active,
            next: ready.map_or(Next::Absent { not_before: None }, Next::Ready),
            buffer: Vec::new(),
            end,
            durable: end,
            begun: false,
            unmarked: true,
            named,
            told: Vec::new(),
            owed: false,
            purged: false,
        }
    }

    pub fn start(self, labour: &Labour) -> Result<(), DiskError> {
        let failed = |error: io::Error| DiskError::Io(format!("no thread for the log: {error}"));
        match labour {
            Labour::Inline(_) => drop(life::spawn(self.run())),
            Labour::Threads => {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(failed)?;
                std::thread::Builder::new()
                    .name("kontiki-log".to_string())
                    .spawn(move || runtime.block_on(self.run()))
                    .map_err(failed)?;
            }
        }
        Ok(())
    }

    async fn run(mut self) {
        let shared = self.shared.clone();
        // However it ends, nobody waits for a writer that is gone.
        let _gone = Gone(&shared);
        if let Err(Fault { what, error }) = self.work().await {
            shared.storage.die(what, &error);
        }
    }

    async fn work(&mut self) -> Result<(), Fault> {
        loop {
            let idle = (self.unmarked && self.end > FRAMES).then_some(IDLE);
            let Some(group) = self.shared.queue.take(idle).await else {
                self.push(Kind::Mark, 0, &[]).await?;
                self.flush()?;
                self.unmarked = false;
                continue;
            };
            if group.is_empty() {
                return Ok(());
            }
            let count = group.len() as u64;
            let mut stopping = None;
            for job in group {
                match job {
                    Job::Stop { done } => {
                        stopping = Some(done);
                        break;
                    }
                    job => self.write(job).await?,
                }
            }
            self.flush()?;
            self.shared.written.fetch_add(count, Ordering::Release);
            if self.owed || stopping.is_some() {
                self.commit().await?;
            }
            if std::mem::take(&mut self.purged) {
                self.remove_purged()?;
            }
            if let Some(done) = stopping {
                self.push(Kind::Mark, 0, &[]).await?;
                self.commit().await?;
                done(Ok(()));
                return Ok(());
            }
            self.look_ahead().await;
        }
    }

    async fn write(&mut self, job: Job) -> Result<(), Fault> {
        match job {
            Job::Append { records, done } => {
                for (index, record) in &records {
                    self.append(*index, record).await?;
                }
                self.told.push(done);
                self.owed = true;
            }
            Job::Truncate { from } if mutated!(TruncationForgotten) => {
                self.shared.held.lock().index.truncate(from);
            }
            Job::Truncate { from } => {
                self.push(Kind::Truncate, from, &[]).await?;
                self.shared.held.lock().index.truncate(from);
            }
            Job::Purge { below } => {
                self.push(Kind::Purge, below, &[]).await?;
                self.shared.held.lock().index.purge(below);
                (self.purged, self.owed) = (true, true);
            }
            Job::Put { name, value, done } => {
                self.push(Kind::Put, 0, &[&[name.len() as u8], name, &value]).await?;
                self.named.insert(name.to_vec(), value);
                self.owed |= done.is_some();
                self.told.extend(done);
            }
            Job::Sync { done } | Job::Stop { done } => {
                self.told.push(done);
                self.owed = true;
            }
        }
        Ok(())
    }

    async fn append(&mut self, index: u64, record: &[u8]) -> Result<(), Fault> {
        if std::mem::take(&mut self.fresh) && index > 0 {
            // A log that never held anything may begin anywhere; so that it does not look as if files were missing.
            self.push(Kind::Purge, index, &[]).await?;
            self.shared.held.lock().index.purge(index);
        }
        let offset = self.push(Kind::Append, index, &[record]).await?;
        let place = Place { file: self.active.number, offset: offset as u32, length: record.len() as u32 };
        let mut held = self.shared.held.lock();
        if !held.index.append(index, place) {
            let problem = format!("entry {index} where {} belongs", held.index.next());
            return Err(Fault { what: "the log was given a hole", error: io::Error::other(problem) });
        }
        Ok(())
    }

    /// Adds a frame, in the next file where this one is full; returns its place.
    async fn push(&mut self, kind: Kind, index: u64, parts: &[&[u8]]) -> Result<u64, Fault> {
        let size = frame::size(parts.iter().map(|part| part.len()).sum());
        let first = if self.begun { 0 } else { self.beginning() };
        if self.end + first + size + SEAL > self.active.length {
            self.go_on(size).await?;
        } else if !self.begun {
            self.begin();
        }
        if self.buffer.len() + size as usize > GATHER {
            self.flush()?;
        }
        Ok(self.encode(kind, index, parts))
    }

    fn encode(&mut self, kind: Kind, index: u64, parts: &[&[u8]]) -> u64 {
        let offset = self.end;
        let before = self.buffer.len();
        frame::encode(&mut self.buffer, self.active.salt, offset, (kind, index, self.durable), parts);
        self.end += (self.buffer.len() - before) as u64;
        offset
    }

    /// Bytes of what [`Writer::begin`] writes.
    fn beginning(&self) -> u64 {
        let puts = self.named.iter().map(|(name, value)| frame::size(1 + name.len() + value.len()));
        frame::size(8) + puts.sum::<u64>()
    }

    /// What every file says before anything else: all that older files would have to be kept for.
    fn begin(&mut self) {
        self.begun = true;
        if self.end == FRAMES {
            let (next, below) = {
                let held = self.shared.held.lock();
                (held.index.next(), held.index.below())
            };
            self.encode(Kind::Begin, next, &[&below.to_le_bytes()]);
        }
        for (name, value) in std::mem::take(&mut self.named) {
            self.encode(Kind::Put, 0, &[&[name.len() as u8], &name, &value]);
            self.named.insert(name, value);
        }
    }

    /// Seals this file and goes on in the next one, which has room for a frame of this size.
    async fn go_on(&mut self, size: u64) -> Result<(), Fault> {
        let length = self.writing.file_bytes.max(FRAMES + self.beginning() + size + SEAL);
        let next = self.next_file(length).await?;
        self.encode(Kind::Seal, u64::from(next.number), &[]);
        self.commit().await?;
        self.shared.held.lock().files.insert(next.number, next.file.clone());
        self.active = next;
        (self.end, self.durable) = (FRAMES, FRAMES);
        self.begin();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Fault> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let offset = self.end - self.buffer.len() as u64;
        self.active.file.write_at(offset, &self.buffer).map_err(fault("the log cannot be written"))?;
        self.buffer.clear();
        self.buffer.shrink_to(GATHER);
        Ok(())
    }

    /// Writes and syncs what was gathered, and tells who waits for it.
    async fn commit(&mut self) -> Result<(), Fault> {
        self.flush()?;
        self.owed = false;
        if self.durable < self.end {
            *self.shared.syncing.lock() = Some(Instant::now());
            if let Some(pace) = &self.writing.pace {
                tokio::time::sleep(pace.sync()).await;
            }
            if !mutated!(FsyncSkipped) {
                self.active.file.sync().map_err(fault("the log cannot be synced"))?;
            }
            *self.shared.syncing.lock() = None;
            self.durable = self.end;
            self.unmarked = true;
        }
        self.told.drain(..).for_each(|done| done(Ok(())));
        Ok(())
    }

    /// One by one and oldest first, each for good: a crash leaves no gap between files. After a sync of the purge mark,
    /// and so of what this file began with.
    fn remove_purged(&mut self) -> Result<(), Fault> {
        loop {
            let number = {
                let mut held = self.shared.held.lock();
                let needed = held.index.oldest_file().unwrap_or(u32::MAX).min(self.active.number);
                match held.files.first_key_value() {
                    Some((number, _)) if *number < needed => {
                        let number = *number;
                        held.files.remove(&number);
                        number
                    }
                    _ => return Ok(()),
                }
            };
            let storage = &self.shared.storage;
            let removed = storage.remove(&segment::name_of(number));
            removed
                .and_then(|()| storage.sync_names(segment::FOLDER))
                .map_err(fault("a purged file of the log cannot be removed"))?;
        }
    }

    /// Begins to make the next file once this one is half full.
    async fn look_ahead(&mut self) {
        if let Next::Making(made) = &self.next {
            match made.try_recv() {
                Ok(made) => self.note(made),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => self.next = Next::Absent { not_before: None },
            }
        }
        let due = self.end > self.active.length / 2;
        let Next::Absent { not_before } = &self.next else { return };
        if !due || not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        if self.writing.pace.is_some() {
            let made = self.make(self.writing.file_bytes).await;
            self.note(made);
            return;
        }
        let (shared, number, length) = (self.shared.clone(), self.active.number + 1, self.writing.file_bytes);
        let (made, making) = sync_channel(1);
        let work = move || {
            let _ = made.send(segment::create(shared.storage.as_ref(), &shared.log, number, length));
        };
        // Without a thread for it, it is made when it is needed.
        if std::thread::Builder::new().name("kontiki-log-next".to_string()).spawn(work).is_ok() {
            self.next = Next::Making(making);
        }
    }

    async fn make(&mut self, length: u64) -> io::Result<Segment> {
        if let Some(pace) = &self.writing.pace {
            tokio::time::sleep(pace.sync()).await;
        }
        segment::create(self.shared.storage.as_ref(), &self.shared.log, self.active.number + 1, length)
    }

    fn note(&mut self, made: io::Result<Segment>) {
        let mut short = self.shared.short.lock();
        match made {
            Ok(segment) => {
                if short.take().is_some() {
                    tracing::info!("the log has room again");
                }
                self.next = Next::Ready(segment);
            }
            Err(error) => {
                if short.is_none() {
                    tracing::error!(%error, "no room for another file of the log: proposals are refused");
                }
                *short = Some(error.to_string());
                self.next = Next::Absent { not_before: Some(Instant::now() + AGAIN) };
            }
        }
    }

    /// The next file, of at least this length. On a full disk it waits for room: what is durable is told first.
    async fn next_file(&mut self, length: u64) -> Result<Segment, Fault> {
        loop {
            match std::mem::replace(&mut self.next, Next::Absent { not_before: None }) {
                Next::Ready(segment) if segment.length >= length => return Ok(segment),
                Next::Ready(segment) => {
                    let storage = &self.shared.storage;
                    storage
                        .remove(&segment::name_of(segment.number))
                        .map_err(fault("a file of the log cannot be replaced by a larger one"))?;
                }
                Next::Making(made) => {
                    let made = made.recv().unwrap_or_else(|_| Err(io::Error::other("it was not made")));
                    self.note(made);
                }
                Next::Absent { .. } => match self.make(length).await {
                    Err(error) if is_full(&error) => {
                        self.note(Err(error));
                        self.commit().await?;
                        tokio::time::sleep(AGAIN).await;
                    }
                    Err(error) => {
                        return Err(Fault { what: "no other file of the log can be made", error });
                    }
                    made => self.note(made),
                },
            }
        }
    }
}

/// Tells whoever waits that nothing will come.
struct Gone<'a>(&'a Shared);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.queue.abandon();
    }
}
