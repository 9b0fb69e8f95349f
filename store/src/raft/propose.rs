//! Proposals: let in while there is room, gathered while others are under way, sent to whoever leads, answered with what
//! is known of their outcome.
//!
//! ```text
//!   submit ──▶ lane (bulk | kept free) ──▶ gather ──▶ leader? ──here──▶ stamp, encode, raft
//!     │ Busy: no room      ▲                 ▲           └──there─▶ one message to the leader
//!     │                    │                 └── nobody: wait for an election, until the deadline: NoLeader
//!     ▼                    └── answer: a follower's group waits with the leader's own, and goes into one entry with it
//!   reply, when it is applied here; Unknown once something was sent and no answer came
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::core::{Core, Route};
use super::transport::PeerError;
use super::types::{Answer, Payload};
use super::wire::{Ask, Told};
use crate::codec;
use crate::command::{Batch, Command, Reply};
use crate::types::{Op, StoreError};

/// Transactions that may wait, and their bytes.
const BULK_COUNT: usize = 8192;
const BULK_KIB: usize = 64 << 10;
/// Places kept for leases, housekeeping and membership, which must get through when transactions do not.
const KEPT_FREE: usize = 1024;
/// Commands and bytes of one log entry.
const GROUP_COUNT: usize = 512;
const GROUP_BYTES: usize = 256 << 10;
/// Groups under way at once: enough to fill the pipe, few enough that what waits is gathered.
const GROUPS: usize = 1;
/// Time beyond a request's own that its caller gives the outcome to come back in.
const GRACE: Duration = Duration::from_millis(250);

/// Commands that were asked for together: one, or what a follower had gathered.
struct Job {
    commands: Vec<Command>,
    size: usize,
    deadline: Instant,
    asker: Asker,
}

struct Asker {
    /// How many commands are its own.
    count: usize,
    /// It is another server, which looks for the leader itself.
    is_peer: bool,
    answer: oneshot::Sender<Fate>,
    _room: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

#[derive(Clone)]
pub(crate) struct Queue {
    bulk: mpsc::UnboundedSender<Job>,
    free: mpsc::UnboundedSender<Job>,
    bulk_count: Arc<Semaphore>,
    bulk_kib: Arc<Semaphore>,
    free_count: Arc<Semaphore>,
}

/// The other end. The channels have no bound of their own: the permits are it.
pub(crate) struct Waiting {
    bulk: mpsc::UnboundedReceiver<Job>,
    free: mpsc::UnboundedReceiver<Job>,
}

impl Queue {
    pub fn new() -> (Queue, Waiting) {
        let (bulk, waiting_bulk) = mpsc::unbounded_channel();
        let (free, waiting_free) = mpsc::unbounded_channel();
        let queue = Queue {
            bulk,
            free,
            bulk_count: Arc::new(Semaphore::new(BULK_COUNT)),
            bulk_kib: Arc::new(Semaphore::new(BULK_KIB)),
            free_count: Arc::new(Semaphore::new(KEPT_FREE)),
        };
        (queue, Waiting { bulk: waiting_bulk, free: waiting_free })
    }

    /// Lets the commands wait their turn, where there is room.
    fn enter(
        &self,
        core: &Core,
        commands: Vec<Command>,
        is_peer: bool,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Fate>, StoreError> {
        if core.stop.is_cancelled() {
            return Err(StoreError::Stopped);
        }
        if commands.iter().any(adds) {
            core.refuse_when_full()?;
        }
        let size = commands.iter().map(size_of).sum::<usize>();
        let count = commands.len();
        let bulk = commands.iter().all(|command| matches!(command, Command::Txn(_)));
        let busy = |_| StoreError::Busy;
        let places = count.min(KEPT_FREE) as u32;
        let room = if bulk {
            let kib = size.div_ceil(1024).min(BULK_KIB) as u32;
            let bytes = self.bulk_kib.clone().try_acquire_many_owned(kib).map_err(busy)?;
            (self.bulk_count.clone().try_acquire_many_owned(places).map_err(busy)?, Some(bytes))
        } else {
            (self.free_count.clone().try_acquire_many_owned(places).map_err(busy)?, None)
        };
        let (answer, outcome) = oneshot::channel();
        let asker = Asker { count, is_peer, answer, _room: room };
        let lane = if bulk { &self.bulk } else { &self.free };
        lane.send(Job { commands, size, deadline, asker }).map_err(|_| StoreError::Stopped)?;
        Ok(outcome)
    }

    pub async fn submit(&self, core: &Core, command: Command) -> Result<Reply, StoreError> {
        let within = core.timings.request;
        let deadline = Instant::now() + within;
        let outcome = self.enter(core, vec![command], false, deadline)?;
        let fate = tokio::select! {
            fate = outcome => fate.unwrap_or(Fate::Unknown),
            () = tokio::time::sleep_until(deadline + GRACE) => Fate::Unknown,
            () = core.stop.cancelled() => Fate::Unknown,
        };
        match fate {
            Fate::Done { mut replies, .. } => replies.pop().ok_or(StoreError::Unknown(within)),
            Fate::Refused(error) => Err(error),
            Fate::NotLeader => Err(StoreError::NoLeader),
            Fate::Unknown => Err(StoreError::Unknown(within)),
        }
    }
}

fn size_of(command: &Command) -> usize {
    match command {
        Command::Txn(txn) => txn.size() + 64,
        Command::ExpireLeases { leases } => leases.len() * 8,
        _ => 16,
    }
}

/// Whether the command may need disk space for good. Deletes and renewals always get through: they give space back.
fn adds(command: &Command) -> bool {
    match command {
        Command::Txn(txn) => txn.ops.iter().any(|op| matches!(op, Op::Put { .. })),
        Command::GrantLease { .. } | Command::NewMember => true,
        _ => false,
    }
}

/// Gathers and sends until the store stops.
pub(crate) fn run(core: Arc<Core>, mut waiting: Waiting) {
    let stop = core.stop.clone();
    crate::life::spawn(stop.run_until_cancelled_owned(async move {
        let places = Arc::new(Semaphore::new(GROUPS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let Some(group) = waiting.gather().await else { return };
            let core = core.clone();
            crate::life::spawn(async move {
                decide(&core, group).await;
                drop(place);
            });
        }
    }));
}

impl Waiting {
    /// What waits, up to a log entry's worth; waits for the first.
    async fn gather(&mut self) -> Option<Vec<Job>> {
        let first = tokio::select! {
            biased;
            job = self.free.recv() => job?,
            job = self.bulk.recv() => job?,
        };
        let mut bytes = first.size;
        let mut group = vec![first];
        let mut count = group[0].commands.len();
        while count < GROUP_COUNT && bytes < GROUP_BYTES {
            let Some(job) = self.free.try_recv().or_else(|_| self.bulk.try_recv()).ok() else { break };
            bytes += job.size;
            count += job.commands.len();
            group.push(job);
        }
        Some(group)
    }
}

/// What became of a group, or of a part of it.
#[derive(Clone)]
enum Fate {
    Done {
        index: u64,
        replies: Vec<Reply>,
    },
    /// Nothing was proposed.
    Refused(StoreError),
    NotLeader,
    Unknown,
}

/// A group on its way: the commands of all askers, one after the other.
struct Group {
    commands: Vec<Command>,
    askers: Vec<Asker>,
}

impl Group {
    fn of(jobs: Vec<Job>) -> Group {
        let mut group = Group { commands: Vec::new(), askers: Vec::with_capacity(jobs.len()) };
        for job in jobs {
            if group.commands.is_empty() {
                group.commands = job.commands;
            } else {
                group.commands.extend(job.commands);
            }
            group.askers.push(job.asker);
        }
        group
    }

    /// Other servers look for the leader themselves; what they asked for is dropped.
    fn turn_peers_away(&mut self) {
        if !self.askers.iter().any(|asker| asker.is_peer) {
            return;
        }
        let mut commands = std::mem::take(&mut self.commands).into_iter();
        for asker in std::mem::take(&mut self.askers) {
            let own = commands.by_ref().take(asker.count);
            if asker.is_peer {
                own.for_each(drop);
                let _ = asker.answer.send(Fate::NotLeader);
            } else {
                self.commands.extend(own);
                self.askers.push(asker);
            }
        }
    }

    /// Whoever asked may have given up; the outcome stands.
    fn tell(self, fate: Fate) {
        match fate {
            Fate::Done { index, replies } if replies.len() == self.count() => {
                let mut replies = replies.into_iter();
                for asker in self.askers {
                    let replies = replies.by_ref().take(asker.count).collect();
                    let _ = asker.answer.send(Fate::Done { index, replies });
                }
            }
            fate => {
                let fate = if matches!(fate, Fate::Done { .. }) { Fate::Unknown } else { fate };
                for asker in self.askers {
                    let _ = asker.answer.send(fate.clone());
                }
            }
        }
    }

    fn count(&self) -> usize {
        self.askers.iter().map(|asker| asker.count).sum()
    }
}

async fn decide(core: &Core, jobs: Vec<Job>) {
    let now = Instant::now();
    let (jobs, late): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.deadline > now);
    for job in late {
        let _ = job.asker.answer.send(Fate::NotLeader);
    }
    // The first to lose patience ends the search for a leader. It does not end the wait for what was sent: whoever gives
    // up before the others does so by itself.
    let Some(first) = jobs.iter().map(|job| job.deadline).min() else { return };
    let last = jobs.iter().map(|job| job.deadline).max().unwrap_or(first);
    let mut group = Group::of(jobs);
    let fate = send(core, &mut group, first, last).await;
    group.tell(fate);
}

/// Tries every leader there is until the deadline, as long as nothing has been proposed.
async fn send(core: &Core, group: &mut Group, patience: Instant, deadline: Instant) -> Fate {
    while Instant::now() < patience {
        let fate = match core.route() {
            Route::Here => write(core, &mut group.commands, deadline).await,
            Route::There { id, peer } => {
                group.turn_peers_away();
                if group.askers.is_empty() {
                    return Fate::NotLeader;
                }
                let within = deadline.saturating_duration_since(Instant::now());
                let ask = Ask::Propose { commands: std::mem::take(&mut group.commands), within };
                let leader = Route::There { id, peer: peer.clone() };
                let told = tokio::select! {
                    told = core.ask(id, &peer, &ask, deadline) => told,
                    () = core.deposed(&leader) => {
                        Err(PeerError::Lost("the leader was deposed before it answered".to_string()))
                    }
                };
                let Ask::Propose { commands: back, .. } = ask else { return Fate::Unknown };
                group.commands = back;
                forwarded(core, told, deadline).await
            }
            Route::Nowhere => Fate::NotLeader,
        };
        if !matches!(fate, Fate::NotLeader) {
            return fate;
        }
        group.turn_peers_away();
        if group.askers.is_empty() {
            return fate;
        }
        core.leader_may_have_changed(patience).await;
    }
    Fate::NotLeader
}

async fn forwarded(core: &Core, told: Result<Told, PeerError>, deadline: Instant) -> Fate {
    match told {
        Ok(Told::Done { index, replies }) => {
            // The caller reads here next. Where this server lags, the outcome is known all the same.
            core.applied(index, deadline).await;
            Fate::Done { index, replies }
        }
        Ok(Told::NotLeader) => Fate::NotLeader,
        Ok(Told::Failed(error)) => Fate::Refused(error),
        Ok(Told::Index(_) | Told::Member(_)) => Fate::Unknown,
        Err(error @ (PeerError::Unreachable(_) | PeerError::Refused(_))) => {
            tracing::debug!(%error, "a proposal could not be forwarded yet");
            Fate::NotLeader
        }
        Err(error @ PeerError::Lost(_)) => {
            tracing::warn!(%error, "the outcome of forwarded proposals is unknown");
            Fate::Unknown
        }
    }
}

/// Proposes here. The commands are left in place where nothing was proposed.
async fn write(core: &Core, commands: &mut Vec<Command>, deadline: Instant) -> Fate {
    let batch = Batch { time: core.now(), commands: std::mem::take(commands) };
    let payload = Payload(Bytes::from(codec::encode(&batch)));
    let written = tokio::select! {
        written = tokio::time::timeout_at(deadline, core.raft.client_write(payload)) => written,
        () = core.cut_off() => return Fate::Unknown,
    };
    match written {
        Ok(Ok(response)) => {
            let Answer(replies) = response.data;
            Fate::Done { index: response.log_id.index, replies }
        }
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
            *commands = batch.commands;
            Fate::NotLeader
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "the outcome of proposals is unknown");
            Fate::Unknown
        }
        Err(_) => Fate::Unknown,
    }
}

/// A follower's proposals, on the leader: they wait with the leader's own.
pub(crate) async fn answer(core: &Core, commands: Vec<Command>, within: Duration) -> Told {
    if !core.leads() {
        return Told::NotLeader;
    }
    let deadline = Instant::now() + within.min(core.timings.request);
    let outcome = match core.proposals.enter(core, commands, true, deadline) {
        Ok(outcome) => outcome,
        // Its leadership has been handed over, or will be missed.
        Err(StoreError::Stopped) => return Told::NotLeader,
        Err(error) => return Told::Failed(error),
    };
    let fate = tokio::time::timeout_at(deadline + GRACE, outcome).await;
    match fate.unwrap_or(Ok(Fate::Unknown)).unwrap_or(Fate::Unknown) {
        Fate::Done { index, replies } => Told::Done { index, replies },
        Fate::NotLeader => Told::NotLeader,
        Fate::Refused(error) => Told::Failed(error),
        Fate::Unknown => Told::Failed(StoreError::Unknown(within)),
    }
}
