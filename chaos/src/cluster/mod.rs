//! Clusters that can be hurt.

mod process;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use kontiki_proto::client::Client;
use kontiki_proto::pb::{MemberStatus, StatusReply};
use tokio::time::Instant;

pub(crate) use process::command;
pub use process::{Extras, Options, Processes, kontiki_program};

pub use crate::history::ServerId;

/// What scenarios do to servers, whatever these are made of.
#[async_trait]
pub trait Cluster: Send + Sync {
    fn size(&self) -> usize;
    /// Starts a server that does not run, with the data it has.
    async fn start(&self, server: ServerId) -> Result<()>;
    /// Ends it without notice (`kill -9`) and waits until it is gone. One that does not run is no error.
    async fn kill(&self, server: ServerId) -> Result<()>;
    /// Stops its execution, connections stay open (SIGSTOP); [`Cluster::resume`] lets it go on.
    async fn pause(&self, server: ServerId) -> Result<()>;
    async fn resume(&self, server: ServerId) -> Result<()>;
    /// A client that talks to these servers alone, the first one first.
    fn client(&self, servers: &[ServerId], deadline: Duration) -> Result<Client>;
    /// The last lines a server wrote.
    fn last_words(&self, server: ServerId) -> String;
    /// Whether a server wrote this text since it was first started.
    fn said(&self, server: ServerId, text: &str) -> bool;
    /// Which server is known to its cluster under this peer address.
    fn by_address(&self, peer_address: &str) -> Option<ServerId>;
}

/// What one server knows of the cluster.
pub async fn status_of(cluster: &dyn Cluster, server: ServerId) -> Result<StatusReply> {
    let client = cluster.client(&[server], Duration::from_secs(2))?;
    Ok(tokio::time::timeout(Duration::from_secs(3), client.cluster_status()).await??)
}

/// The server that a majority of the reachable ones, `among` alone, takes for the leader.
///
/// # Errors
/// When there is none within `patience`.
pub async fn await_leader(cluster: &dyn Cluster, among: &[ServerId], patience: Duration) -> Result<ServerId> {
    let deadline = Instant::now() + patience;
    loop {
        let replies = futures::future::join_all(among.iter().map(|server| status_of(cluster, *server))).await;
        let votes: Vec<ServerId> = replies
            .iter()
            .flatten()
            .filter_map(|reply| reply.members.iter().find(|member| member.leader))
            .filter_map(|member| cluster.by_address(&member.address))
            .collect();
        let leader = votes.iter().find(|&leader| {
            among.contains(leader) && votes.iter().filter(|vote| *vote == leader).count() * 2 > among.len()
        });
        if let Some(leader) = leader {
            return Ok(*leader);
        }
        if Instant::now() > deadline {
            let problems: Vec<String> =
                replies.iter().map(|reply| format!("{:?}", reply.as_ref().map(|r| &r.members))).collect();
            bail!("no leader among {among:?} within {patience:?}: {problems:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until every server runs, votes, and has applied the same transactions to the same state.
///
/// # Errors
/// When they do not agree within `patience`.
pub async fn await_agreement(cluster: &dyn Cluster, patience: Duration) -> Result<()> {
    let everyone: Vec<ServerId> = (0..cluster.size()).collect();
    await_agreement_of(cluster, &everyone, patience).await
}

/// As [`await_agreement`], of these servers alone.
///
/// # Errors
/// When they do not agree within `patience`.
pub async fn await_agreement_of(
    cluster: &dyn Cluster,
    servers: &[ServerId],
    patience: Duration,
) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let asked = servers.iter().map(|server| status_of(cluster, *server));
        let replies = futures::future::join_all(asked).await;
        let own: Vec<Option<MemberStatus>> = replies
            .iter()
            .map(|reply| {
                let reply = reply.as_ref().ok()?;
                reply.members.iter().find(|member| member.id == reply.answered_by).cloned()
            })
            .collect();
        let agreed = own.iter().all(|one| {
            one.as_ref().is_some_and(|one| {
                let first = own[0].as_ref();
                one.voter
                    && first.is_some_and(|f| (f.revision, f.state_hash) == (one.revision, one.state_hash))
            })
        });
        if agreed {
            return Ok(());
        }
        // Equal revisions with different states never heal.
        for pair in own.iter().flatten().collect::<Vec<_>>().windows(2) {
            if pair[0].revision == pair[1].revision && pair[0].state_hash != pair[1].state_hash {
                bail!("members {} and {} differ at revision {}", pair[0].id, pair[1].id, pair[0].revision);
            }
        }
        if Instant::now() > deadline {
            bail!("the servers do not agree within {patience:?}: {own:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the cluster accepts writes, and makes the namespace all traffic is in.
///
/// # Errors
/// When it does not within `patience`.
pub async fn await_writable(client: &Client, namespace: &str, patience: Duration) -> Result<()> {
    use k8s_openapi::api::core::v1::Namespace;
    use kontiki_proto::ApiExt;
    let object: Namespace = serde_json::from_value(serde_json::json!({"metadata": {"name": namespace}}))?;
    let deadline = Instant::now() + patience;
    loop {
        match client.create_as(&object).await {
            Ok(_) => return Ok(()),
            Err(status) if status.is_already_exists() => return Ok(()),
            Err(status) if Instant::now() > deadline => {
                return Err(status).context(format!("no write was taken within {patience:?}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
