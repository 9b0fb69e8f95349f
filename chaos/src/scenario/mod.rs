//! Faults, each named by the bug it would catch. [`all`] is the list; a file holds scenario and what it expects.

mod all_killed;
mod follower_cut;
mod leader_cut;
mod leader_killed;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::future::BoxFuture;

use crate::check::{durable, linearizable, monotonic, watch};
use crate::cluster::{Cluster, Network, Processes, Server, leader};
use crate::history::{Action, History, Outcome};
use crate::traffic::{Traffic, listed};

/// Longest wait for a cluster to be whole again.
const RECOVERY: Duration = Duration::from_secs(60);
/// Clients on each server.
const CLIENTS: usize = 3;

/// What a scenario may use.
pub struct Scene {
    pub cluster: Arc<dyn Cluster>,
    pub history: Arc<History>,
}

/// A fault on a cluster under load.
pub struct Scenario {
    pub name: &'static str,
    /// The bug it would catch.
    pub catches: &'static str,
    pub run: for<'a> fn(&'a Scene) -> BoxFuture<'a, Result<()>>,
}

pub fn all() -> Vec<Scenario> {
    vec![leader_killed::scenario(), leader_cut::scenario(), follower_cut::scenario(), all_killed::scenario()]
}

/// Runs one scenario on a cluster of its own and judges it. Returns the findings, line by line.
///
/// # Errors
/// The first guarantee that was broken, or what kept the scenario from running.
pub async fn run(scenario: &Scenario, program: &Path, seed: u64) -> Result<Vec<String>> {
    let processes = Processes::start(program.to_path_buf(), 3, Network::Namespaces).await?;
    let cluster: Arc<dyn Cluster> = Arc::new(processes);
    let traffic = Traffic::start(cluster.clone(), CLIENTS, seed).await?;
    let scene = Scene { cluster: cluster.clone(), history: traffic.history.clone() };
    scene.progress(100).await.context("before anything was hurt")?;
    let ran = (scenario.run)(&scene).await;
    cluster.heal().await?;
    for server in cluster.servers() {
        cluster.start(server).await?;
    }
    scene.converge().await.context("after healing")?;
    scene.progress(50).await.context("after healing")?;
    let (history, stretches) = traffic.stop().await;
    ran?;
    scene.converge().await?;

    let operations = history.operations();
    let mut found = Vec::new();
    for server in cluster.servers() {
        found.push((server, listed(&*cluster, server).await?));
    }
    let created: Vec<(String, u64)> = operations
        .iter()
        .filter_map(|operation| match (&operation.action, &operation.outcome) {
            (Action::Create { name }, Outcome::Done { revision, .. }) => Some((name.clone(), *revision)),
            _ => None,
        })
        .collect();
    let verdicts = [
        durable(&history.created(), &found),
        linearizable(&operations),
        monotonic(&operations),
        watch(&created, &stretches),
    ];
    let mut lines = Vec::new();
    for verdict in verdicts {
        lines.push(verdict.map_err(anyhow::Error::msg)?);
    }
    lines.push("all servers hold the same state".into());
    Ok(lines)
}

impl Scene {
    /// The server that leads now.
    ///
    /// # Errors
    /// None does within the time for recovery.
    pub async fn leader(&self) -> Result<Server> {
        let deadline = Instant::now() + RECOVERY;
        loop {
            if let Some(leader) = leader(&*self.cluster).await {
                return Ok(leader);
            }
            if Instant::now() > deadline {
                bail!("no server leads");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until so many more operations are acknowledged.
    ///
    /// # Errors
    /// The traffic stands still.
    pub async fn progress(&self, operations: usize) -> Result<()> {
        let goal = self.history.acknowledged() + operations;
        let deadline = Instant::now() + RECOVERY;
        while self.history.acknowledged() < goal {
            if Instant::now() > deadline {
                bail!("traffic stands still at {} operations", self.history.acknowledged());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Waits until every server is a voter that answers, and all hold the same state at the same revision.
    ///
    /// # Errors
    /// What still differs when the time is over.
    pub async fn converge(&self) -> Result<()> {
        let deadline = Instant::now() + RECOVERY;
        loop {
            let last = match self.differs().await {
                None => return Ok(()),
                Some(why) => why,
            };
            if Instant::now() > deadline {
                bail!("the servers do not converge: {last}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Compares members that report the same revision; under load two in a row rarely do, so it is asked often.
    async fn differs(&self) -> Option<String> {
        let servers = self.cluster.servers();
        let mut members = None;
        for &server in &servers {
            match self.cluster.status(server).await {
                Ok(status) => members = Some(status.members),
                Err(status) => return Some(format!("server {server}: {status}")),
            }
        }
        let members = members?;
        if members.len() != servers.len() || members.iter().any(|m| !m.reachable || !m.voter) {
            return Some(format!("not all of {} servers vote and answer", servers.len()));
        }
        if members.iter().filter(|m| m.leader).count() != 1 {
            return Some("not exactly one leads".into());
        }
        let first = &members[0];
        let same = members.iter().all(|m| m.revision == first.revision && m.state_hash == first.state_hash);
        let states: Vec<_> = members.iter().map(|m| (m.id, m.revision, m.state_hash)).collect();
        (!same).then(|| format!("states differ: {states:?}"))
    }

    /// Whether the server acknowledged a write or a create since then.
    pub fn wrote_on(&self, server: Server, since: Duration) -> bool {
        self.history.operations().iter().any(|operation| {
            let writes = !matches!(operation.action, Action::Read { .. });
            writes
                && operation.server == server
                && operation.invoked > since
                && matches!(operation.outcome, Outcome::Done { .. })
        })
    }
}
