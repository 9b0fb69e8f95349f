//! What every part of a server asks: who leads, who is a member, what time it is in the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, RaftMetrics, ServerState};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::log::LogStore;
use super::machine::RaftMachine;
use super::mesh::Mesh;
use super::propose;
use super::transport::{Call, PeerError};
use super::types::{Member, Raft, Types};
use super::wire::{Ask, Speaker, Told};
use crate::codec;
use crate::command::Millis;
use crate::config::{Config, Timings};
use crate::disk::Disk;
use crate::environment::Labour;
use crate::replica::Replica;
use crate::types::{MemberId, StoreError};

/// How long opening waits for word of an admission where the members are known, and this server is none of them.
const STRANGER: Duration = Duration::from_secs(10);

pub(crate) struct Core {
    pub raft: Raft,
    pub replica: Arc<Replica>,
    pub machine: RaftMachine,
    pub log: LogStore,
    pub speaker: Speaker,
    pub mesh: Arc<Mesh>,
    pub labour: Labour,
    pub disk: Arc<Disk>,
    pub timings: Timings,
    pub stop: CancellationToken,
    /// Less space is free than the store needs to go on.
    pub disk_full: AtomicBool,
    /// One change of membership at a time.
    pub membership: tokio::sync::Mutex<()>,
    pub proposals: propose::Queue,
    /// Questions of other servers that are being answered.
    pub answering: TaskTracker,
    /// Where the leader is, as [`observe`] sees it; wakes those who wait for an answer that will not come.
    leader: watch::Sender<Route>,
    clock: Mutex<Clock>,
}

/// Cluster time as this leader counts it: what the log had come to when it became leader, and its own monotonic clock
/// since then. A wall clock that jumps moves nothing.
struct Clock {
    term: u64,
    base: Millis,
    since: Instant,
}

/// Where a request for the leader has to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Here,
    There { id: MemberId, peer: String },
    Nowhere,
}

/// Follows where the leader is until the store stops. Ends the process where consensus has stopped by itself: a server
/// that takes no part any more must not look as if it did.
pub(crate) async fn observe(core: Arc<Core>) {
    let mut server = core.raft.server_metrics();
    loop {
        server.borrow_and_update();
        let route = core.route();
        let leads = server.borrow_watched().state == ServerState::Leader;
        let look_again = match (&route, leads) {
            (Route::Here, _) => core.lease().max(Duration::from_millis(10)),
            // A quorum may come back without a word in these metrics.
            (_, true) => core.timings.heartbeat / 2,
            _ => Duration::from_secs(1),
        };
        core.leader.send_if_modified(|known| std::mem::replace(known, route.clone()) != route);
        if let Ok(Err(_)) = tokio::time::timeout(look_again, server.changed()).await {
            core.leader.send_replace(Route::Nowhere);
            // Where the store is being stopped, this task ends with it.
            tokio::time::sleep(core.timings.heartbeat).await;
            let why = core
                .metrics()
                .running_state
                .err()
                .map_or("no reason is known".to_string(), |why| why.to_string());
            return core.die("consensus has stopped", &why);
        }
    }
}

impl Core {
    #[allow(clippy::too_many_arguments, reason = "called once, by the opening")]
    pub fn new(
        config: &Config,
        raft: Raft,
        replica: Arc<Replica>,
        machine: RaftMachine,
        log: LogStore,
        speaker: Speaker,
        mesh: Arc<Mesh>,
        labour: Labour,
        disk: Arc<Disk>,
        proposals: propose::Queue,
    ) -> Core {
        Core {
            raft,
            replica,
            machine,
            log,
            speaker,
            mesh,
            labour,
            disk,
            timings: config.timings.clone(),
            stop: CancellationToken::new(),
            disk_full: AtomicBool::new(false),
            membership: tokio::sync::Mutex::new(()),
            proposals,
            answering: TaskTracker::new(),
            leader: watch::Sender::new(Route::Nowhere),
            clock: Mutex::new(Clock { term: 0, base: 0, since: Instant::now() }),
        }
    }

    pub fn metrics(&self) -> RaftMetrics<Types> {
        self.raft.metrics().borrow_watched().clone()
    }

    /// All members by id, learners included, as this server knows them.
    pub fn members(&self) -> BTreeMap<MemberId, Member> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.nodes().map(|(id, member)| (*id, member.clone())).collect()
    }

    /// Whether this server leads, and a quorum has said so of late. A leader that was cut off answers no.
    pub fn leads(&self) -> bool {
        let server = self.raft.server_metrics();
        let server = server.borrow_watched();
        if server.state != ServerState::Leader || server.current_leader != Some(self.speaker.me) {
            return false;
        }
        let alone = server.membership_config.voter_ids().count() == 1;
        drop(server);
        alone || !self.lease().is_zero()
    }

    /// How long a quorum has promised to follow no other leader than this server.
    fn lease(&self) -> Duration {
        let acked = self.raft.data_metrics().borrow_watched().last_quorum_acked.map(|at| at.elapsed());
        acked.map_or(Duration::ZERO, |ago| self.timings.election_max.saturating_sub(ago))
    }

    pub fn route(&self) -> Route {
        let server = self.raft.server_metrics();
        let (leader, member) = {
            let server = server.borrow_watched();
            let Some(leader) = server.current_leader else { return Route::Nowhere };
            (leader, server.membership_config.get_node(&leader).cloned())
        };
        if leader == self.speaker.me {
            return if self.leads() { Route::Here } else { Route::Nowhere };
        }
        member.map_or(Route::Nowhere, |member| Route::There { id: leader, peer: member.peer })
    }

    /// Returns when the leader may have changed, or after a moment: how one waits for an election.
    pub async fn leader_may_have_changed(&self, deadline: Instant) {
        let mut server = self.raft.server_metrics();
        // A receiver that is new takes what is there for a change.
        server.borrow_and_update();
        let moment = (Instant::now() + Duration::from_millis(20)).min(deadline);
        // The caller looks again. Where consensus has stopped nothing will change, and the caller must not spin.
        if let Ok(Err(_)) = tokio::time::timeout_at(moment, server.changed()).await {
            tokio::time::sleep_until(moment).await;
        }
    }

    /// Resolves when an answer of the leader found by `route` is not to be waited for: for a while it has not been the
    /// leader. Whoever hands leadership over still answers; whoever is cut off does not.
    pub async fn deposed(&self, route: &Route) {
        self.leader_gone(|now| now != route).await;
    }

    /// Resolves when this server led and has lost its quorum. What it proposed may still happen, but nobody knows when.
    /// While another leads, the log will tell.
    pub async fn cut_off(&self) {
        self.leader_gone(|now| *now == Route::Nowhere).await;
    }

    async fn leader_gone(&self, gone: impl Fn(&Route) -> bool) {
        let mut leader = self.leader.subscribe();
        loop {
            if leader.wait_for(&gone).await.is_err() {
                // The sender is this very struct.
                return std::future::pending().await;
            }
            tokio::time::sleep(self.timings.heartbeat * 2).await;
            if gone(&leader.borrow()) {
                return;
            }
        }
    }

    /// The cluster's time, for a leader to stamp a command with.
    pub fn now(&self) -> Millis {
        let term = self.raft.server_metrics().borrow_watched().vote.leader_id.term;
        let applied = self.replica.inspect(|machine| machine.counters().time);
        let mut clock = self.clock.lock();
        if clock.term != term {
            *clock = Clock { term, base: applied, since: Instant::now() };
        }
        (clock.base + clock.since.elapsed().as_millis() as Millis).max(applied)
    }

    /// Waits until this server has applied the log entry.
    pub async fn applied(&self, index: u64, deadline: Instant) -> bool {
        let mut next = self.machine.watch_applied();
        matches!(tokio::time::timeout_at(deadline, next.wait_for(|next| *next > index)).await, Ok(Ok(_)))
    }

    /// Asks another server, on a connection that carries no log traffic.
    pub async fn ask(
        &self,
        id: MemberId,
        peer: &str,
        ask: &Ask,
        deadline: Instant,
    ) -> Result<Told, PeerError> {
        let lane = self.mesh.to(peer).talk;
        let conduit = match tokio::time::timeout_at(deadline, lane.conduit()).await {
            Ok(conduit) => conduit?,
            Err(_) => return Err(PeerError::Unreachable("no connection in time".to_string())),
        };
        let asked = conduit.ask(Call::Forward, self.speaker.say(id, ask));
        let answer = match tokio::time::timeout_at(deadline, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(PeerError::Lost("no answer in time".to_string())),
        };
        match answer {
            Ok(answer) => codec::decode(&answer.payload).map_err(|error| PeerError::Lost(error.to_string())),
            Err(error) => {
                // It may be the connection that is dead, not the server.
                if !matches!(error, PeerError::Refused(_)) {
                    lane.forget(&conduit);
                }
                Err(error)
            }
        }
    }

    /// The server cannot go on: see [`Storage::die`](crate::environment::Storage::die).
    pub fn die(&self, what: &str, error: &dyn std::fmt::Display) {
        self.disk.storage.die(what, error)
    }

    pub fn refuse_when_full(&self) -> Result<(), StoreError> {
        if let Some(problem) = self.log.short_of_room() {
            return Err(StoreError::Disk(format!("the log below {}: {problem}", self.disk.dir.display())));
        }
        if self.disk_full.load(Ordering::Acquire) {
            return Err(StoreError::Disk(format!(
                "too little space is left below {}",
                self.disk.dir.display()
            )));
        }
        Ok(())
    }

    /// Waits a while for what a newly opened server should have: a member's place, and, where it is alone, its own
    /// leadership. A cluster without a quorum does not keep it from opening.
    pub async fn settle(&self, patience: Duration) {
        let begun = Instant::now();
        let deadline = begun + patience;
        loop {
            let members = self.members();
            if members.contains_key(&self.speaker.me) {
                break;
            }
            // Who is not among the members it knows has left, or is told of its admission soon.
            let until = if members.is_empty() { deadline } else { deadline.min(begun + STRANGER) };
            if Instant::now() >= until {
                tracing::warn!(
                    member = self.speaker.me,
                    "this server is no member of its cluster: it has left, or was replaced. To let it in again, stop it, \
                     remove its data directory and start it with --join"
                );
                break;
            }
            self.leader_may_have_changed(until).await;
        }
        let voters: Vec<MemberId> = {
            let server = self.raft.server_metrics();
            let server = server.borrow_watched();
            server.membership_config.voter_ids().collect()
        };
        if voters != [self.speaker.me] {
            return;
        }
        // Nobody else could be elected, so there is nothing to wait for.
        if let Err(error) = self.raft.trigger().elect(false).await {
            tracing::warn!(%error, "no election");
        }
        // What the log held may have been acknowledged: it is applied before anyone reads.
        match super::barrier::ask(self, deadline).await {
            Ok(index) if self.applied(index, deadline).await => {}
            _ => tracing::warn!("opened before everything in the log was applied"),
        }
    }
}
