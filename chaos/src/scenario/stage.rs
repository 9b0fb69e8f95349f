//! What a scenario works with: who, hurt, heal, look.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::Rng;
use rand::rngs::StdRng;

use super::PATIENCE;
use super::shape::Shape;
use crate::check::Violation;
use crate::cluster::{self, Cluster, Processes, ServerId};
use crate::history::Operation;
use crate::observe::FaultTicket;
use crate::traffic::Traffic;

/// A cluster under load, the dice, and a place for what is found.
pub struct Stage {
    pub cluster: Arc<Processes>,
    pub traffic: Traffic,
    pub random: StdRng,
    /// The servers there are, by number; a scenario that changes membership keeps this true.
    pub members: Vec<ServerId>,
    pub remarks: Vec<String>,
    pub violations: Vec<Violation>,
    pub(super) network: Option<FaultTicket>,
    pub(super) faults: usize,
}

impl Stage {
    /// Lets clients work for a while.
    pub async fn calm(&mut self, milliseconds: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.random.random_range(milliseconds))).await;
    }

    pub fn remark(&mut self, text: impl Into<String>) {
        self.remarks.push(text.into());
    }

    /// The server that a majority of the members takes for the leader.
    ///
    /// # Errors
    /// When there is none for longer than a busy machine explains.
    pub async fn leader(&self) -> Result<ServerId> {
        self.leader_among(&self.members).await
    }

    /// As [`Stage::leader`], in the eyes of these alone.
    ///
    /// # Errors
    /// As there.
    pub async fn leader_among(&self, servers: &[ServerId]) -> Result<ServerId> {
        cluster::await_leader(&*self.cluster, servers, PATIENCE).await
    }

    /// Members without these.
    pub fn others(&self, without: &[ServerId]) -> Vec<ServerId> {
        self.members.iter().copied().filter(|server| !without.contains(server)).collect()
    }

    /// A member that does not lead.
    ///
    /// # Errors
    /// When nobody leads.
    pub async fn follower(&mut self) -> Result<ServerId> {
        let others = self.others(&[self.leader().await?]);
        Ok(self.any_of(&others))
    }

    pub fn any_of(&mut self, servers: &[ServerId]) -> ServerId {
        servers[self.random.random_range(0..servers.len())]
    }

    /// Writes down that something is done to servers.
    pub fn hurt(&mut self, what: impl Into<String>) -> FaultTicket {
        self.faults += 1;
        self.traffic.observer.hurt(what, Vec::new())
    }

    pub fn healed(&self, ticket: FaultTicket) {
        self.traffic.observer.heal(ticket);
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When the process cannot be killed.
    pub async fn kill(&mut self, server: ServerId) -> Result<()> {
        let ticket = self.hurt(format!("server {server} is killed"));
        self.cluster.kill(server).await?;
        self.healed(ticket);
        Ok(())
    }

    /// # Errors
    /// When it runs, or cannot be started.
    pub async fn start(&self, server: ServerId) -> Result<()> {
        self.cluster.start(server).await
    }

    /// Breaks the network in this shape; [`Stage::mend`] makes it whole.
    ///
    /// # Errors
    /// What `nft` says.
    pub async fn partition(&mut self, shape: &Shape) -> Result<()> {
        self.mend()?;
        self.faults += 1;
        self.cluster.sever(shape.severed.clone())?;
        self.network = Some(self.traffic.observer.hurt(shape.what.clone(), shape.sides.clone()));
        Ok(())
    }

    /// # Errors
    /// What `nft` says.
    pub fn mend(&mut self) -> Result<()> {
        if let Some(ticket) = self.network.take() {
            self.healed(ticket);
        }
        self.cluster.sever(std::collections::BTreeSet::new())
    }

    /// Waits until a write that began after now has been acknowledged, anywhere; the time that took.
    ///
    /// # Errors
    /// When none is within a minute.
    pub async fn next_write(&self) -> Result<Duration> {
        self.next_write_on(&[]).await
    }

    /// As [`Stage::next_write`], by a client of one of these servers.
    ///
    /// # Errors
    /// When none is within a minute.
    pub async fn next_write_on(&self, servers: &[ServerId]) -> Result<Duration> {
        let (from, begun) = (self.traffic.recorder.now(), Instant::now());
        let is_new = |operation: &Operation| {
            operation.invoked > from
                && operation.is_acknowledged_write()
                && (servers.is_empty() || operation.server.is_some_and(|server| servers.contains(&server)))
        };
        while !self.traffic.recorder.operations().iter().any(is_new) {
            ensure!(begun.elapsed() < PATIENCE, "no write was acknowledged for {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(begun.elapsed())
    }

    /// Every member leads or follows again, and has a write taken.
    ///
    /// # Errors
    /// When one does not within a minute.
    pub async fn recovered(&self) -> Result<()> {
        self.leader().await?;
        for server in &self.members {
            self.next_write_on(&[*server]).await?;
        }
        Ok(())
    }

    /// What servers that had no quorum made of what they were asked between two moments: they must have taken no write.
    /// Returns how many writes and reads they were asked, and how many reads they answered, which the checkers judge.
    pub fn judge_losers(
        &mut self,
        losers: &[ServerId],
        from: Duration,
        until: Duration,
    ) -> (usize, usize, usize) {
        let (mut writes, mut reads, mut answered) = (0, 0, 0);
        for operation in self.traffic.recorder.operations() {
            let within =
                operation.invoked > from && operation.returned.is_none_or(|returned| returned < until);
            let asked = operation.server.is_some_and(|server| losers.contains(&server));
            if !within || !asked || operation.invoked > until {
                continue;
            }
            if operation.action.is_read() {
                reads += 1;
                answered += usize::from(operation.is_acknowledged());
            } else {
                writes += 1;
                if operation.is_acknowledged_write() {
                    self.violations.push(format!("without a quorum it was acknowledged: {operation}"));
                }
            }
        }
        (writes, reads, answered)
    }
}
