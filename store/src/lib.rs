//! The store: consensus, log, MVCC, watch, leases. It knows keys, bytes and revisions; never a kind.

mod config;
mod types;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kontiki_proto::pb;

pub use config::{Config, PeerTls, Start, Timings};
pub use types::*;

/// Why a store did not open; the message says the way out.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{0}")]
    Failed(String),
}

/// A handle on this server's replica. Cheap to clone.
#[derive(Clone)]
pub struct Store {}

impl Store {
    /// Opens the data directory, joins or bootstraps where it is empty, and serves peers.
    pub async fn open(_config: Config) -> Result<Store, OpenError> {
        unimplemented!()
    }

    /// A store of one member without disk or network, for tests and simulation.
    pub fn in_memory() -> Store {
        unimplemented!()
    }

    /// Commits and applies here, or says why not. Forwarded to the leader where this server is not it.
    pub async fn propose(&self, _txn: Txn) -> Result<Outcome, StoreError> {
        unimplemented!()
    }

    /// Linearizable read barrier: when it returns, local reads see everything acknowledged before the call.
    pub async fn barrier(&self) -> Result<Revision, StoreError> {
        unimplemented!()
    }

    /// Waits until this server has applied the revision.
    pub async fn wait_for(&self, _revision: Revision, _deadline: Duration) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// The newest revision applied here.
    pub fn revision(&self) -> Revision {
        unimplemented!()
    }

    /// The oldest revision that can be read or watched from.
    pub fn oldest_revision(&self) -> Revision {
        unimplemented!()
    }

    pub fn get(&self, _key: &[u8]) -> Option<Arc<Entry>> {
        unimplemented!()
    }

    pub fn range(&self, _request: &RangeRequest) -> Result<Range, ReadError> {
        unimplemented!()
    }

    /// Every change under the prefix with a revision above `after`, then the coming ones.
    pub fn watch(&self, _prefix: Bytes, _after: Revision) -> Result<Watcher, ReadError> {
        unimplemented!()
    }

    /// A lease that takes its keys with it `ttl` after its last renewal.
    pub async fn grant_lease(&self, _ttl: Duration) -> Result<LeaseId, StoreError> {
        unimplemented!()
    }

    pub async fn renew_lease(&self, _lease: LeaseId) -> Result<(), StoreError> {
        unimplemented!()
    }

    pub async fn revoke_lease(&self, _lease: LeaseId) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Names the cluster for ever; a UUID.
    pub fn cluster_id(&self) -> &str {
        unimplemented!()
    }

    pub fn member_id(&self) -> MemberId {
        unimplemented!()
    }

    pub fn is_leader(&self) -> bool {
        unimplemented!()
    }

    /// API addresses of all members, this one included.
    pub fn client_addresses(&self) -> Vec<String> {
        unimplemented!()
    }

    /// Asks every member for its state; a member that does not answer within a second is listed as unreachable.
    pub async fn status(&self) -> pb::StatusReply {
        unimplemented!()
    }

    /// Adds the server that waits for admission at the peer address; returns when it votes.
    pub async fn join(&self, _peer: &str, _client: &str) -> Result<MemberId, StoreError> {
        unimplemented!()
    }

    /// Removes a member. The last voter cannot leave.
    pub async fn leave(&self, _id: MemberId) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Hands leadership to a voter (`None`: any other) and returns the new leader.
    pub async fn transfer(&self, _to: Option<MemberId>) -> Result<MemberId, StoreError> {
        unimplemented!()
    }

    /// Stops raft and the peer server, and flushes.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}

/// An ordered stream of changes; see [`WatchItem`].
pub struct Watcher {}

impl Watcher {
    /// Cancel-safe.
    pub async fn next(&mut self) -> Result<WatchItem, WatchError> {
        unimplemented!()
    }
}
