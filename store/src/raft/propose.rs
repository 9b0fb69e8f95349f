//! Proposals: let in while there is room, gathered while others are under way, sent to whoever leads, answered with what
//! is known of their outcome.
//!
//! ```text
//!   submit ──▶ lane (bulk | kept free) ──▶ gather ──▶ leader? ──here──▶ stamp, encode, raft
//!     │ Busy: no room                        ▲           └──there─▶ one message to the leader
//!     ▼                                      └── nobody: wait for an election, until the deadline: NoLeader
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
const GROUPS: usize = 4;
/// Time beyond a request's own that its caller gives the outcome to come back in.
const GRACE: Duration = Duration::from_millis(250);

struct Job {
    command: Command,
    size: usize,
    deadline: Instant,
    answer: oneshot::Sender<Result<Reply, StoreError>>,
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

    pub async fn submit(&self, core: &Core, command: Command) -> Result<Reply, StoreError> {
        if core.stop.is_cancelled() {
            return Err(StoreError::Stopped);
        }
        let size = size_of(&command);
        let bulk = matches!(command, Command::Txn(_));
        if adds(&command) {
            core.refuse_when_full()?;
        }
        let busy = |_| StoreError::Busy;
        let room = if bulk {
            let kib = size.div_ceil(1024).min(BULK_KIB) as u32;
            let bytes = self.bulk_kib.clone().try_acquire_many_owned(kib).map_err(busy)?;
            (self.bulk_count.clone().try_acquire_owned().map_err(busy)?, Some(bytes))
        } else {
            (self.free_count.clone().try_acquire_owned().map_err(busy)?, None)
        };
        let within = core.timings.request;
        let deadline = Instant::now() + within;
        let (answer, outcome) = oneshot::channel();
        let job = Job { command, size, deadline, answer, _room: room };
        let lane = if bulk { &self.bulk } else { &self.free };
        lane.send(job).map_err(|_| StoreError::Stopped)?;
        tokio::select! {
            outcome = outcome => outcome.unwrap_or(Err(StoreError::Unknown(within))),
            () = tokio::time::sleep_until(deadline + GRACE) => Err(StoreError::Unknown(within)),
            () = core.stop.cancelled() => Err(StoreError::Unknown(within)),
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
        while group.len() < GROUP_COUNT && bytes < GROUP_BYTES {
            let Some(job) = self.free.try_recv().or_else(|_| self.bulk.try_recv()).ok() else { break };
            bytes += job.size;
            group.push(job);
        }
        Some(group)
    }
}

/// What became of a group.
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

async fn decide(core: &Core, group: Vec<Job>) {
    let now = Instant::now();
    let (group, late): (Vec<Job>, Vec<Job>) = group.into_iter().partition(|job| job.deadline > now);
    for job in late {
        let _ = job.answer.send(Err(StoreError::NoLeader));
    }
    let Some(deadline) = group.iter().map(|job| job.deadline).min() else { return };
    let (commands, answers): (Vec<Command>, Vec<_>) =
        group.into_iter().map(|job| (job.command, (job.answer, job._room))).unzip();
    let error = match send(core, commands, deadline).await {
        Fate::Done { replies, .. } if replies.len() == answers.len() => {
            for ((answer, _), reply) in answers.into_iter().zip(replies) {
                // Whoever asked may have given up; the outcome stands.
                let _ = answer.send(Ok(reply));
            }
            return;
        }
        Fate::Refused(error) => error,
        Fate::NotLeader => StoreError::NoLeader,
        Fate::Done { .. } | Fate::Unknown => StoreError::Unknown(core.timings.request),
    };
    for (answer, _) in answers {
        let _ = answer.send(Err(error.clone()));
    }
}

/// Tries every leader there is until the deadline, as long as nothing has been proposed.
async fn send(core: &Core, commands: Vec<Command>, deadline: Instant) -> Fate {
    let mut commands = commands;
    while Instant::now() < deadline {
        let fate = match core.route() {
            Route::Here => write(core, &mut commands, deadline).await,
            Route::There { id, peer } => {
                let within = deadline.saturating_duration_since(Instant::now());
                let ask = Ask::Propose { commands, within };
                let leader = Route::There { id, peer: peer.clone() };
                let told = tokio::select! {
                    told = core.ask(id, &peer, &ask, deadline) => told,
                    () = core.deposed(&leader) => {
                        Err(PeerError::Lost("the leader was deposed before it answered".to_string()))
                    }
                };
                let Ask::Propose { commands: back, .. } = ask else { return Fate::Unknown };
                commands = back;
                forwarded(core, told, deadline).await
            }
            Route::Nowhere => Fate::NotLeader,
        };
        if !matches!(fate, Fate::NotLeader) {
            return fate;
        }
        core.leader_may_have_changed(deadline).await;
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

/// A follower's proposals, on the leader.
pub(crate) async fn answer(core: &Core, mut commands: Vec<Command>, within: Duration) -> Told {
    if commands.iter().any(adds)
        && let Err(error) = core.refuse_when_full()
    {
        return Told::Failed(error);
    }
    if !core.leads() {
        return Told::NotLeader;
    }
    match write(core, &mut commands, Instant::now() + within.min(core.timings.request)).await {
        Fate::Done { index, replies } => Told::Done { index, replies },
        Fate::NotLeader => Told::NotLeader,
        Fate::Refused(error) => Told::Failed(error),
        Fate::Unknown => Told::Failed(StoreError::Unknown(within)),
    }
}
