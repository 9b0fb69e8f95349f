//! Clusters that can be hurt.

mod processes;

use anyhow::Result;
use async_trait::async_trait;
use kontiki_proto::client::Client;
use kontiki_proto::pb;

pub use processes::{Network, Processes};

/// A number from 1; the id the cluster gave a server may differ.
pub type Server = u8;

/// Servers with faults at hand. Faults take effect before the call returns.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// All servers there ever were, running or not.
    fn servers(&self) -> Vec<Server>;

    /// A client of this server alone.
    fn client(&self, server: Server) -> Client;

    /// As by `kill -9`.
    async fn kill(&self, server: Server) -> Result<()>;

    /// Starts a server that was killed, on the data it had.
    async fn start(&self, server: Server) -> Result<()>;

    /// Stops all packets between the server and its peers; clients still reach it.
    async fn cut(&self, server: Server) -> Result<()>;

    /// Lets all packets through again.
    async fn heal(&self) -> Result<()>;

    /// What a server says of itself and its peers.
    async fn status(&self, server: Server) -> Result<pb::StatusReply> {
        Ok(self.client(server).cluster_status().await?)
    }

    /// Which server a member id belongs to.
    fn server_of(&self, member: &pb::MemberStatus) -> Option<Server>;
}

/// The server that leads in the eyes of any that answers, the highest term first.
pub async fn leader(cluster: &dyn Cluster) -> Option<Server> {
    let mut best: Option<(u64, Server)> = None;
    for server in cluster.servers() {
        let Ok(status) = cluster.status(server).await else { continue };
        for member in status.members.iter().filter(|member| member.leader) {
            let Some(leader) = cluster.server_of(member) else { continue };
            if best.is_none_or(|(term, _)| member.term > term) {
                best = Some((member.term, leader));
            }
        }
    }
    best.map(|(_, leader)| leader)
}
