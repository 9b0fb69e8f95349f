//! The handle that everyone else holds.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kontiki_proto::pb;

use crate::backup::{Backup, State};
use crate::command::{Command, Reply};
use crate::config::{Config, OpenError};
use crate::disk::real::RealStorage;
use crate::environment::{Environment, Labour};
use crate::housekeeping::Limits;
use crate::memory::Memory;
use crate::mvcc::{FIRST_MEMBER, Machine};
use crate::raft::Node;
use crate::raft::grpc::Grpc;
use crate::replica::Replica;
use crate::types::*;
use crate::watch::Watcher;

/// A handle on this server's replica. Cheap to clone; reads are local and never wait.
#[derive(Clone)]
pub struct Store {
    replica: Arc<Replica>,
    backend: Backend,
    max_txn_bytes: usize,
}

#[derive(Clone)]
enum Backend {
    Memory(Arc<Memory>),
    Raft(Arc<Node>),
}

const DEFAULT_TXN_BYTES: usize = 2 << 20;

impl Store {
    /// Opens the data directory, joins or bootstraps where it is empty, and serves peers. Returns when the server is a
    /// member and has applied what its own log knew to be committed; a leader need not be there yet.
    pub async fn open(config: Config) -> Result<Store, OpenError> {
        let storage = Arc::new(RealStorage::new(&config.data_dir));
        let transport = Arc::new(Grpc::new(&config.tls)?);
        Store::open_in(config, Environment { storage, transport, labour: Labour::Threads }).await
    }

    /// As [`Store::open`], in another environment than the real one.
    #[cfg(feature = "simulation")]
    pub async fn open_simulated(config: Config, environment: Environment) -> Result<Store, OpenError> {
        Store::open_in(config, environment).await
    }

    pub(crate) async fn open_in(config: Config, environment: Environment) -> Result<Store, OpenError> {
        let max_txn_bytes = config.max_txn_bytes;
        let node = Node::open(config, environment).await?;
        Ok(Store { replica: node.replica().clone(), backend: Backend::Raft(node), max_txn_bytes })
    }

    /// A store of one member without disk or network, for tests and simulation. Leases expire only where it is made
    /// inside a tokio runtime.
    pub fn in_memory() -> Store {
        let Limits { history, history_bytes } = Limits::default();
        Store::in_memory_with_history(history, history_bytes)
    }

    /// As [`Store::in_memory`], with history kept for this long and of about this many bytes.
    pub fn in_memory_with_history(history: Duration, history_bytes: usize) -> Store {
        let replica = Arc::new(Replica::new(Machine::new()));
        let cluster_id = format!("memory-{:016x}", rand::random::<u64>());
        let memory = Memory::start(replica.clone(), cluster_id, Limits { history, history_bytes });
        Store { replica, backend: Backend::Memory(memory), max_txn_bytes: DEFAULT_TXN_BYTES }
    }

    async fn submit(&self, command: Command) -> Result<Reply, StoreError> {
        match &self.backend {
            Backend::Memory(memory) => memory.submit(command),
            Backend::Raft(node) => node.submit(command).await,
        }
    }

    /// Commits and applies here, or says why not. Forwarded to the leader where this server is not it.
    ///
    /// After `Unknown` the transaction may or may not happen; after any other error it does not.
    pub async fn propose(&self, txn: Txn) -> Result<Outcome, StoreError> {
        let size = txn.size();
        if size > self.max_txn_bytes {
            return Err(StoreError::TooLarge { size, limit: self.max_txn_bytes });
        }
        match self.submit(Command::Txn(txn)).await? {
            Reply::Txn(outcome) => Ok(outcome),
            Reply::NoSuchLease(lease) => Err(StoreError::NoSuchLease(lease)),
            other => Err(mismatch("a transaction", &other)),
        }
    }

    /// Linearizable read barrier: when it returns, local reads see everything acknowledged anywhere before the call.
    /// Returns the revision reached here. `NoLeader` where no leader can prove in time that it is one.
    pub async fn barrier(&self) -> Result<Revision, StoreError> {
        if let Backend::Raft(node) = &self.backend {
            node.barrier().await?;
        }
        Ok(self.revision())
    }

    /// Waits until this server has applied the revision; `Unknown` where it has not by the deadline.
    pub async fn wait_for(&self, revision: Revision, deadline: Duration) -> Result<(), StoreError> {
        self.replica.wait_for(revision, deadline).await
    }

    /// The newest revision applied here.
    pub fn revision(&self) -> Revision {
        self.replica.view().revision
    }

    /// The oldest revision that can be read or watched from. Differs between servers: history is not replicated to one
    /// that was restarted or got a snapshot.
    pub fn oldest_revision(&self) -> Revision {
        self.replica.view().oldest
    }

    /// What the key holds here and now.
    pub fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.replica.view().get(key)
    }

    /// What the keys under a prefix hold, or held at an earlier revision. Never waits; costs in proportion to the keys
    /// under the prefix, whatever the limit.
    pub fn range(&self, request: &RangeRequest) -> Result<Range, ReadError> {
        self.replica.feed().view.load_full().range(request)
    }

    /// Every change under the prefix with a revision above `after`, then the coming ones. A revision this server has
    /// not reached is refused as `Future`: see [`Store::wait_for`].
    pub fn watch(&self, prefix: Bytes, after: Revision) -> Result<Watcher, ReadError> {
        Watcher::open(self.replica.feed().clone(), prefix, after)
    }

    /// A lease that takes its keys with it `ttl` after its last renewal, or later: never while the cluster has no
    /// leader to say so.
    pub async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        match self.submit(Command::GrantLease { ttl: ttl.as_millis() as u64 }).await? {
            Reply::Lease(lease) => Ok(lease),
            other => Err(mismatch("a lease grant", &other)),
        }
    }

    /// Starts the lease's time anew. A lease that was revoked or has expired stays so.
    pub async fn renew_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.lease_command(Command::RenewLease { lease }).await
    }

    /// Ends the lease and deletes its keys, in one revision.
    pub async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.lease_command(Command::RevokeLease { lease }).await
    }

    async fn lease_command(&self, command: Command) -> Result<(), StoreError> {
        match self.submit(command).await? {
            Reply::Done => Ok(()),
            Reply::NoSuchLease(lease) => Err(StoreError::NoSuchLease(lease)),
            other => Err(mismatch("a lease command", &other)),
        }
    }

    /// Names the cluster for ever; a UUID.
    pub fn cluster_id(&self) -> &str {
        match &self.backend {
            Backend::Memory(memory) => &memory.cluster_id,
            Backend::Raft(node) => node.cluster_id(),
        }
    }

    pub fn member_id(&self) -> MemberId {
        match &self.backend {
            Backend::Memory(_) => FIRST_MEMBER,
            Backend::Raft(node) => node.member_id(),
        }
    }

    /// Whether this server takes itself for the leader; another may have been elected since.
    pub fn is_leader(&self) -> bool {
        match &self.backend {
            Backend::Memory(_) => true,
            Backend::Raft(node) => node.is_leader(),
        }
    }

    /// API addresses of all members, this one included.
    pub fn client_addresses(&self) -> Vec<String> {
        match &self.backend {
            Backend::Memory(_) => Vec::new(),
            Backend::Raft(node) => node.client_addresses(),
        }
    }

    /// Asks every member for its state; a member that does not answer within a second is listed as unreachable.
    pub async fn status(&self) -> pb::StatusReply {
        match &self.backend {
            Backend::Memory(memory) => pb::StatusReply {
                cluster_id: memory.cluster_id.clone(),
                members: vec![memory.status()],
                answered_by: FIRST_MEMBER,
            },
            Backend::Raft(node) => node.status().await,
        }
    }

    /// Adds the server that waits for admission at the peer address; returns when it votes.
    pub async fn join(&self, peer: &str, client: &str) -> Result<MemberId, StoreError> {
        self.raft()?.join(peer, client).await
    }

    /// Removes a member. Refused where it is the last voter, or where the voters that live would be no quorum without it.
    pub async fn leave(&self, id: MemberId) -> Result<(), StoreError> {
        self.raft()?.leave(id).await
    }

    /// Exchanges a dead member for the server that listens for peers at the address, under an id of its own, in one
    /// change; returns when it votes. Refused where the member lives, or the new server does not.
    pub async fn replace(&self, dead: MemberId, peer: &str) -> Result<MemberId, StoreError> {
        self.raft()?.replace(dead, peer).await
    }

    /// Hands leadership to a voter (`None`: any other) and returns the new leader.
    pub async fn transfer(&self, to: Option<MemberId>) -> Result<MemberId, StoreError> {
        self.raft()?.transfer(to).await
    }

    /// Writes a checkpoint of this server's state now, and purges its log below it. Happens by itself as the log grows.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        match &self.backend {
            Backend::Memory(_) => Ok(()),
            Backend::Raft(node) => node.checkpoint().await,
        }
    }

    /// What this server knows, log entries from the index on included, for a simulation. `None` of a store in memory.
    #[cfg(feature = "simulation")]
    pub fn look(&self, log_from: u64, at_most: u64) -> Option<crate::simulation::Look> {
        match &self.backend {
            Backend::Memory(_) => None,
            Backend::Raft(node) => Some(node.look(log_from, at_most)),
        }
    }

    /// The state at one revision, with everything acknowledged anywhere before the call, as the bytes of a backup. Writes
    /// go on meanwhile; what they replace stays in memory until the backup is dropped.
    pub async fn backup(&self) -> Result<Backup, StoreError> {
        self.barrier().await?;
        Ok(Backup::new(self.cluster_id().to_string(), self.replica.inspect(State::of)))
    }

    fn raft(&self) -> Result<&Node, StoreError> {
        match &self.backend {
            Backend::Raft(node) => Ok(node),
            Backend::Memory(_) => {
                Err(StoreError::Membership("a store in memory has one member for ever".to_string()))
            }
        }
    }

    /// Hands leadership over where it can, stops raft and the peer server, and flushes. Watches end with `Stopped`, proposals are refused with it.
    pub async fn shutdown(&self) {
        match &self.backend {
            Backend::Memory(memory) => memory.stop(),
            Backend::Raft(node) => node.shutdown().await,
        }
    }
}

/// Only a defect of the store leads here; the caller learns that it cannot know what happened.
fn mismatch(asked: &str, reply: &Reply) -> StoreError {
    tracing::error!(?reply, "the reply to {asked} is of another kind");
    StoreError::Unknown(Duration::ZERO)
}
