//! Consensus between servers; no openraft type leaves this module.
//!
//! | file | holds |
//! |---|---|
//! | here | [`Node`]: this server's part in the cluster, and its opening |
//! | `core` | who leads, what time it is, who else is a member |
//! | `propose` | proposals: admission, coalescing, forwarding, outcomes |
//! | `barrier` | linearizable reads, many to one question |
//! | `membership` | promotion, leave, transfer, status |
//! | `admission` | a new server's way in, and who is turned away |
//! | `replace` | a new server for a dead one |
//! | `steward` | what runs beside: leases, compaction, checkpoints |
//! | `failover` | electing at once when the leader's process has died |
//! | `log`, `machine`, `snapshot` | openraft's storage over `disk` and `mvcc` |
//! | `transport` | the seam between servers |
//! | `mesh` | standing connections to the other members |
//! | `offline` | a data directory without its server |
//! | `stall` | a leader whose disk does not answer gives way |
//! | `network`, `server`, `wire` | what is said to peers, and what they ask |
//! | `grpc`, `tls` | the product's transport |
//! | `runtime` | where consensus runs |

mod admission;
mod barrier;
#[cfg(test)]
mod checkpoint_bugs;
mod core;
mod failover;
pub(crate) mod grpc;
mod log;
#[cfg(test)]
mod log_tests;
#[cfg(feature = "simulation")]
mod look;
pub(crate) mod machine;
mod membership;
mod mesh;
mod network;
pub(crate) mod offline;
mod propose;
mod replace;
mod runtime;
mod server;
mod snapshot;
mod stall;
#[cfg(test)]
mod stall_tests;
mod steward;
mod tls;
pub mod transport;
pub(crate) mod types;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kontiki_proto::pb;
use openraft::SnapshotPolicy;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::core::Core;
use self::log::LogStore;
use self::machine::RaftMachine;
use self::mesh::Mesh;
use self::network::Network;
pub(crate) use self::tls::authority;
use self::transport::Transport;
use self::types::{Member, Raft};
use self::wire::Speaker;
use crate::command::{Command, Reply};
use crate::config::{Config, OpenError, Start, Timings};
use crate::disk::checkpoint::Checkpoint;
use crate::disk::{Disk, DiskError, Identity};
use crate::environment::{Environment, Labour};
use crate::life::Life;
use crate::mvcc::{FIRST_MEMBER, Machine};
use crate::replica::Replica;
use crate::types::{MemberId, StoreError};

/// Log entries between two checkpoints at most; bytes and time may call for one earlier.
const ENTRIES_PER_CHECKPOINT: u64 = 5000;
/// How long opening waits for what only others can give: admission, a leader, the state of the cluster.
const OPENING: Duration = Duration::from_secs(60);

/// This server's part in the cluster.
pub(crate) struct Node {
    core: Arc<Core>,
    proposals: propose::Queue,
    barriers: barrier::Queue,
    ground: Ground,
}

/// Where consensus, its timers and its connections run.
enum Ground {
    /// On a thread of their own, so that a busy API does not make the server look dead to its peers.
    Thread { runtime: tokio::runtime::Handle, end: CancellationToken },
    /// On the runtime of whoever opened the node, as part of that life.
    Here(Option<Life>),
}

impl Drop for Node {
    fn drop(&mut self) {
        self.core.stop.cancel();
        self.ground.end();
    }
}

impl Ground {
    async fn thread() -> Result<Ground, OpenError> {
        let failed = |problem: &dyn std::fmt::Display| OpenError::Consensus(problem.to_string());
        let end = CancellationToken::new();
        let (started, handle) = tokio::sync::oneshot::channel();
        let ended = end.clone();
        std::thread::Builder::new()
            .name("kontiki-store".to_string())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                match runtime {
                    Ok(runtime) => {
                        let _ = started.send(Ok(runtime.handle().clone()));
                        runtime.block_on(ended.cancelled());
                        runtime.shutdown_background();
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            })
            .map_err(|error| failed(&error))?;
        let runtime = handle.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        Ok(Ground::Thread { runtime, end })
    }

    fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        match self {
            Ground::Thread { runtime, .. } => runtime.spawn(work),
            Ground::Here(Some(life)) => life.spawn(work),
            Ground::Here(None) => tokio::spawn(work),
        }
    }

    fn end(&self) {
        if let Ground::Thread { end, .. } = self {
            end.cancel();
        }
    }
}

impl Node {
    pub async fn open(config: Config, environment: Environment) -> Result<Arc<Node>, OpenError> {
        let failed = |problem: &dyn std::fmt::Display| OpenError::Consensus(problem.to_string());
        let ground = match environment.labour {
            Labour::Threads => Ground::thread().await?,
            Labour::Inline(_) => Ground::Here(Life::current()),
        };
        // Where opening fails, or whoever waits for it gives up, the thread goes too.
        let guard = match &ground {
            Ground::Thread { end, .. } => Some(end.clone().drop_guard()),
            Ground::Here(_) => None,
        };
        let opened = ground.spawn(open(config, environment)).await.map_err(|error| failed(&error))?;
        let (core, proposals, barriers) = opened?;
        guard.map(|guard| guard.disarm());
        Ok(Arc::new(Node { core, proposals, barriers, ground }))
    }

    pub fn replica(&self) -> &Arc<Replica> {
        &self.core.replica
    }

    /// Proposes a command and returns its reply once it is applied here.
    pub async fn submit(&self, command: Command) -> Result<Reply, StoreError> {
        self.proposals.submit(&self.core, command).await
    }

    pub async fn barrier(&self) -> Result<(), StoreError> {
        self.barriers.wait(&self.core).await
    }

    pub fn cluster_id(&self) -> &str {
        &self.core.speaker.cluster_id
    }

    pub fn member_id(&self) -> MemberId {
        self.core.speaker.me
    }

    pub fn is_leader(&self) -> bool {
        self.core.leads()
    }

    pub fn client_addresses(&self) -> Vec<String> {
        self.core.members().into_values().map(|member| member.client).collect()
    }

    /// Runs where the store does, wherever the caller is.
    async fn at_home<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.ground.spawn(work).await.map_err(|_| StoreError::Stopped)
    }

    pub async fn status(&self) -> pb::StatusReply {
        let core = self.core.clone();
        self.at_home(async move { membership::status(&core).await }).await.unwrap_or_default()
    }

    pub async fn join(&self, peer: &str, client: &str) -> Result<MemberId, StoreError> {
        let (core, peer, client) = (self.core.clone(), peer.to_string(), client.to_string());
        self.at_home(async move { admission::await_join(&core, &peer, &client).await }).await?
    }

    pub async fn leave(&self, id: MemberId) -> Result<(), StoreError> {
        let core = self.core.clone();
        self.at_home(async move { membership::leave(&core, id).await }).await?
    }

    pub async fn replace(&self, dead: MemberId, peer: &str) -> Result<MemberId, StoreError> {
        let (core, peer) = (self.core.clone(), peer.to_string());
        self.at_home(async move { replace::replace(&core, dead, &peer).await }).await?
    }

    pub async fn transfer(&self, to: Option<MemberId>) -> Result<MemberId, StoreError> {
        let core = self.core.clone();
        self.at_home(async move { membership::transfer(&core, to).await }).await?
    }

    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        let core = self.core.clone();
        self.at_home(async move { steward::checkpoint(&core).await }).await?
    }

    pub async fn shutdown(&self) {
        if self.core.stop.is_cancelled() {
            return;
        }
        let core = self.core.clone();
        let stopped = self.at_home(async move {
            membership::resign(&core).await;
            core.stop.cancel();
            core.replica.stop();
            if let Err(error) = core.raft.shutdown().await {
                tracing::warn!(%error, "consensus did not stop cleanly");
            }
            core.log.stop().await;
        });
        if tokio::time::timeout(Duration::from_secs(10), stopped).await.is_err() {
            tracing::warn!("the store did not stop in time");
        }
        self.core.stop.cancel();
        self.core.replica.stop();
        self.ground.end();
    }
}

fn check(config: &Config) -> Result<(), OpenError> {
    let addresses = [
        ("peer_listen", &config.peer_listen),
        ("peer_advertise", &config.peer_advertise),
        ("client_advertise", &config.client_advertise),
    ];
    for (field, address) in addresses {
        let problem = |text: &str| OpenError::Config { field, problem: format!("{address:?} {text}") };
        let (host, port) = address.rsplit_once(':').ok_or_else(|| problem("is not host:port"))?;
        if host.is_empty() {
            return Err(problem("has no host"));
        }
        match port.parse::<u16>() {
            Ok(0) => return Err(problem("has port 0, which no other server could be told of")),
            Ok(_) => {}
            Err(_) => return Err(problem("has no port number")),
        }
    }
    let Timings { heartbeat, election_min, election_max, request } = config.timings;
    if heartbeat.is_zero()
        || election_min <= heartbeat * 2
        || election_max <= election_min
        || request.is_zero()
    {
        return Err(OpenError::Config {
            field: "timings",
            problem: "heartbeats have to be more than twice as frequent as elections, and no time zero"
                .to_string(),
        });
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    labour: &Labour,
    dir: &std::path::Path,
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, OpenError> {
    match labour.run(work).await {
        Ok(result) => result.map_err(|error| error.at(dir)),
        Err(error) => Err(OpenError::Consensus(error)),
    }
}

async fn open(
    config: Config,
    environment: Environment,
) -> Result<(Arc<Core>, propose::Queue, barrier::Queue), OpenError> {
    check(&config)?;
    let Environment { storage, transport, labour } = environment;
    let (dir, on_disk) = (config.data_dir.clone(), labour.clone());
    let disk = blocking(&labour, &config.data_dir, move || Disk::open(&dir, storage, on_disk)).await?;
    let disk = Arc::new(disk);
    admission::refuse_twin(&config, &disk, &*transport).await?;
    let listening = transport.listen(&config.peer_listen).await;
    let listener =
        listening.map_err(|problem| OpenError::Listen { address: config.peer_listen.clone(), problem })?;
    let me = Member { peer: config.peer_advertise.clone(), client: config.client_advertise.clone() };
    let identity = identify(&config, &disk, &*transport, &me).await?;
    let speaker = Speaker { cluster_id: identity.cluster_id.as_str().into(), me: identity.member };

    let found = disk.clone();
    let (log, machine, replica) = blocking(&labour, &config.data_dir, move || {
        let (journal, contents) = found.journal()?;
        let log = LogStore::open(journal.clone(), contents)?;
        let (checkpoint, restored) = Checkpoint::open(found.database.clone(), &found.labour)?;
        let replica = Arc::new(Replica::new(Machine::new()));
        let machine = RaftMachine::open(replica.clone(), found, checkpoint, restored)?;
        machine.stands_on(journal);
        if log.purged() > machine.applied() {
            return Err(DiskError::Corrupt(
                "the checkpoint is older than what the log still holds".to_string(),
            ));
        }
        if log.is_empty() && machine.applied().is_some() {
            return Err(DiskError::Corrupt("there is a checkpoint, but no log".to_string()));
        }
        if machine.follows_the_log() && log.last() < machine.applied() {
            return Err(DiskError::Corrupt("the log ends before what was applied from it".to_string()));
        }
        Ok((log, machine, replica))
    })
    .await?;

    let mesh = Arc::new(Mesh::new(transport));
    let raft = start_raft(&config, &mesh, &speaker, log.clone(), machine.clone()).await?;
    if let Err(error) = admission::check_address(&raft, &speaker, &me, &config.data_dir).await {
        let _ = raft.shutdown().await;
        log.stop().await;
        return Err(error);
    }
    let failed = |error: &dyn std::fmt::Display| OpenError::Consensus(error.to_string());
    if matches!(config.start, Start::Bootstrap) && speaker.me == FIRST_MEMBER && log.is_empty() {
        let members = BTreeMap::from([(speaker.me, me.clone())]);
        raft.initialize(members).await.map_err(|error| failed(&error))?;
    }
    let (proposals, proposed) = propose::Queue::new();
    let (barriers, asked) = barrier::Queue::new();
    let core =
        Core::new(&config, raft, replica, machine, log, speaker, mesh, labour, disk, proposals.clone());
    let core = Arc::new(core);
    listener.serve(Arc::new(server::Service { core: core.clone() }), core.stop.clone());
    propose::run(core.clone(), proposed);
    barrier::run(core.clone(), asked);
    steward::run(core.clone(), config.history, config.history_bytes);
    failover::run(core.clone());
    core.settle(OPENING).await;
    admission::adopt_address(&core, &me).await;
    Ok((core, proposals, barriers))
}

/// Whose directory this is; an empty one is made this server's own.
async fn identify(
    config: &Config,
    disk: &Disk,
    transport: &dyn Transport,
    me: &Member,
) -> Result<Identity, OpenError> {
    let dir = config.data_dir.clone();
    if let Some(identity) = disk.identity() {
        if identity.authority != transport.authority() {
            return Err(OpenError::OtherAuthority { dir });
        }
        if let Start::Join(addresses) = &config.start {
            admission::check_cluster(transport, addresses, &identity, &dir).await?;
        }
        return Ok(identity);
    }
    let (cluster_id, member) = match &config.start {
        Start::Bootstrap => (uuid::Uuid::new_v4().to_string(), FIRST_MEMBER),
        Start::Join(addresses) => admission::ask_admission(transport, addresses, me, OPENING).await?,
    };
    let identity = Identity { cluster_id, member, authority: transport.authority() };
    disk.claim(&identity).map_err(|error| error.at(&dir))?;
    Ok(identity)
}

async fn start_raft(
    config: &Config,
    mesh: &Arc<Mesh>,
    speaker: &Speaker,
    log: LogStore,
    machine: RaftMachine,
) -> Result<Raft, OpenError> {
    let timings = &config.timings;
    let raft_config = openraft::Config {
        cluster_name: speaker.cluster_id.to_string(),
        heartbeat_interval: timings.heartbeat.as_millis() as u64,
        election_timeout_min: timings.election_min.as_millis() as u64,
        election_timeout_max: timings.election_max.as_millis() as u64,
        install_snapshot_timeout: 30_000,
        max_payload_entries: 256,
        replication_lag_threshold: ENTRIES_PER_CHECKPOINT * 2,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(ENTRIES_PER_CHECKPOINT),
        // The steward purges, by bytes rather than by count.
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        // A leader without a quorum stops talking to those it still reaches, or they would never elect another
        // (openraft #2080). As short as consensus lets it be.
        quorum_loss_probe_interval: Some(2 * timings.election_max.as_millis() as u64),
        ..openraft::Config::default()
    };
    let failed = |error: &dyn std::fmt::Display| OpenError::Consensus(error.to_string());
    let raft_config = Arc::new(raft_config.validate().map_err(|error| failed(&error))?);
    let network = Network { mesh: mesh.clone(), speaker: speaker.clone() };
    Raft::new(speaker.me, raft_config, network, log, machine).await.map_err(|error| failed(&error))
}
