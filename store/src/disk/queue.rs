//! What waits for the log's writer: bounded, in order, taken in groups.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

/// Called by the writer once what it belongs to is durable; dropped uncalled where that can no longer be.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

pub(super) enum Job {
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
    /// Durable by the next sync; `done` asks for one. Without it the record waits for company.
    Put {
        name: &'static [u8],
        value: Vec<u8>,
        done: Option<Done>,
    },
    Sync {
        done: Done,
    },
    Stop {
        done: Done,
    },
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Job::Append { records, .. } => records.iter().map(|(_, record)| record.len()).sum(),
            Job::Put { value, .. } => value.len(),
            _ => 0,
        }
    }

    /// Nobody waits for it: it is written with what comes next, or when the writer has nothing to do.
    fn can_wait(&self) -> bool {
        matches!(self, Job::Put { done: None, .. })
    }
}

/// Jobs and bytes that may wait; a caller past that blocks.
const JOBS: usize = 4096;
const BYTES: usize = 64 << 20;
/// So many wake the writer, even where each could wait for company.
const CROWD: usize = 64;
/// Where blocking would stop the writer too, there is more room, and then an error.
const INLINE: usize = 16;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    bytes: usize,
    /// Jobs that were ever enqueued: numbers them.
    count: u64,
    /// What waits is not to wait any longer.
    due: bool,
    /// Nobody will enqueue any more, or nobody will write.
    closed: bool,
}

pub(super) struct Queue {
    state: Mutex<State>,
    room: Condvar,
    wake: Notify,
    blocking: bool,
}

fn stopped() -> io::Error {
    io::Error::other("the log's writer has stopped")
}

impl Queue {
    /// `blocking`: whether the writer has a thread of its own, so that a caller may wait for it.
    pub fn new(blocking: bool) -> Queue {
        Queue { state: Mutex::default(), room: Condvar::new(), wake: Notify::new(), blocking }
    }

    /// Returns the job's number; the first is 1.
    pub fn push(&self, job: Job) -> io::Result<u64> {
        let mut state = self.state.lock();
        let times = if self.blocking { 1 } else { INLINE };
        while !state.closed && (state.jobs.len() >= JOBS * times || state.bytes >= BYTES * times) {
            if !self.blocking {
                return Err(io::Error::other("too much waits for the log's writer"));
            }
            self.room.wait(&mut state);
        }
        if state.closed {
            return Err(stopped());
        }
        state.bytes += job.bytes();
        state.count += 1;
        let number = state.count;
        let wakes = !job.can_wait() || state.jobs.len() >= CROWD;
        state.due |= wakes;
        state.jobs.push_back(job);
        drop(state);
        if wakes {
            self.wake.notify_one();
        }
        Ok(number)
    }

    /// Ends the queue; what waits in it can still be taken.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.room.notify_all();
        self.wake.notify_one();
    }

    /// Ends the queue and forgets what waits in it.
    pub fn abandon(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        self.room.notify_all();
        // Callbacks may do anything when they are dropped.
        drop(jobs);
    }

    /// Waits for jobs and takes all there are. None: nothing came within `idle`. An empty group: the queue has ended.
    pub async fn take(&self, idle: Option<Duration>) -> Option<Vec<Job>> {
        loop {
            if let Some(jobs) = self.take_where(|state| state.due) {
                return Some(jobs);
            }
            match idle {
                None => self.wake.notified().await,
                Some(idle) => {
                    if tokio::time::timeout(idle, self.wake.notified()).await.is_err() {
                        return self.take_where(|state| !state.jobs.is_empty());
                    }
                }
            }
        }
    }

    fn take_where(&self, wanted: impl FnOnce(&State) -> bool) -> Option<Vec<Job>> {
        let mut state = self.state.lock();
        if !wanted(&state) && !state.closed {
            return None;
        }
        (state.bytes, state.due) = (0, false);
        let jobs = Vec::from(std::mem::take(&mut state.jobs));
        self.room.notify_all();
        Some(jobs)
    }
}
