//! Consensus between servers; no openraft type leaves this module.

use std::sync::Arc;

use kontiki_proto::pb;

use crate::command::{Command, Reply};
use crate::config::{Config, OpenError};
use crate::replica::Replica;
use crate::types::{MemberId, StoreError};

pub(crate) struct Node {
    replica: Arc<Replica>,
}

impl Node {
    pub async fn open(_config: Config) -> Result<Arc<Node>, OpenError> {
        Err(OpenError::Consensus("not built yet".to_string()))
    }
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }
    pub async fn submit(&self, _command: Command) -> Result<Reply, StoreError> {
        Err(StoreError::NoLeader)
    }
    pub async fn barrier(&self) -> Result<(), StoreError> {
        Err(StoreError::NoLeader)
    }
    pub fn cluster_id(&self) -> &str {
        ""
    }
    pub fn member_id(&self) -> MemberId {
        0
    }
    pub fn is_leader(&self) -> bool {
        false
    }
    pub fn client_addresses(&self) -> Vec<String> {
        Vec::new()
    }
    pub async fn status(&self) -> pb::StatusReply {
        pb::StatusReply::default()
    }
    pub async fn join(&self, _peer: &str, _client: &str) -> Result<MemberId, StoreError> {
        Err(StoreError::NoLeader)
    }
    pub async fn leave(&self, _id: MemberId) -> Result<(), StoreError> {
        Err(StoreError::NoLeader)
    }
    pub async fn transfer(&self, _to: Option<MemberId>) -> Result<MemberId, StoreError> {
        Err(StoreError::NoLeader)
    }
    pub async fn shutdown(&self) {}
}
