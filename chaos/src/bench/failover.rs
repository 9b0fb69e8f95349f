//! The time without a leader: from the last acknowledged write to the next, as clients of the other servers see it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use async_trait::async_trait;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::ConfigMap;
use kontiki_proto::ApiExt;
use serde_json::json;

use super::server_rows::told;
use super::stores::{Kind, Stores};
use super::table::{Budget, Row, Table, median};
use crate::cluster::{
    Cluster, Options, Processes, await_agreement, await_leader, await_writable, kontiki_program,
};

const NAMESPACE: &str = "bench";
const DEADLINE: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(60);
/// Between attempts. Each survivor is asked in turn, and none is waited for: a server without a leader may keep a question
/// for seconds.
const EVERY: Duration = Duration::from_millis(5);
/// Writes flow for so long before the leader is lost.
const BEFORE: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// `kill -9`.
    Killed,
    /// No packet gets through to or from the other servers.
    CutOff,
}

/// Sends one write; whether it was acknowledged.
type Write = Box<dyn Fn(String) -> BoxFuture<'static, bool> + Send + Sync>;

/// A cluster whose leader can be lost.
#[async_trait]
trait Victim: Send + Sync {
    async fn leader(&self) -> Result<usize>;
    /// A way to write through each of the servers; connections are there, as those of real clients are.
    async fn writers(&self, through: &[usize]) -> Result<Vec<Write>>;
    async fn lose(&mut self, server: usize, loss: Loss) -> Result<()>;
    /// Takes the loss back, and waits until the cluster is whole.
    async fn mend(&mut self, server: usize, loss: Loss) -> Result<()>;
}

#[async_trait]
impl Victim for Stores {
    async fn leader(&self) -> Result<usize> {
        Stores::leader(self).await
    }

    async fn writers(&self, through: &[usize]) -> Result<Vec<Write>> {
        let mut writers: Vec<Write> = Vec::new();
        for server in through {
            self.await_write(*server, &format!("writer-{}", rand::random::<u64>())).await?;
            let client = self.client(*server).await?;
            writers.push(Box::new(move |name| {
                let mut client = client.clone();
                Box::pin(async move { client.create(&name, &bytes::Bytes::new()).await.is_ok() })
            }));
        }
        Ok(writers)
    }

    async fn lose(&mut self, server: usize, loss: Loss) -> Result<()> {
        match loss {
            Loss::Killed => self.kill(server).await,
            Loss::CutOff => self.cut_off(Some(server)),
        }
    }

    async fn mend(&mut self, server: usize, loss: Loss) -> Result<()> {
        match loss {
            Loss::Killed => self.start_member(server)?,
            Loss::CutOff => self.cut_off(None)?,
        }
        self.await_write(server, &format!("back-{}", rand::random::<u64>())).await
    }
}

#[async_trait]
impl Victim for Processes {
    async fn leader(&self) -> Result<usize> {
        await_leader(self, &(0..self.size()).collect::<Vec<_>>(), PATIENCE).await
    }

    async fn writers(&self, through: &[usize]) -> Result<Vec<Write>> {
        let mut writers: Vec<Write> = Vec::new();
        for server in through {
            let client = self.client(&[*server], DEADLINE)?;
            client.cluster_status().await?;
            writers.push(Box::new(move |name| {
                let client = client.clone();
                Box::pin(async move {
                    let document = json!({"metadata": {"name": name, "namespace": NAMESPACE}});
                    match serde_json::from_value::<ConfigMap>(document) {
                        Ok(object) => client.create_as(&object).await.is_ok(),
                        Err(_) => false,
                    }
                })
            }));
        }
        Ok(writers)
    }

    async fn lose(&mut self, server: usize, loss: Loss) -> Result<()> {
        match loss {
            Loss::Killed => Cluster::kill(self, server).await,
            Loss::CutOff => {
                let others = (0..self.size()).filter(|other| *other != server);
                self.sever(others.flat_map(|other| [(server, other), (other, server)]).collect())
            }
        }
    }

    async fn mend(&mut self, server: usize, loss: Loss) -> Result<()> {
        match loss {
            Loss::Killed => Cluster::start(self, server).await?,
            Loss::CutOff => self.sever(std::collections::BTreeSet::new())?,
        }
        await_agreement(self, PATIENCE).await
    }
}

type Figure = fn(&[f64]) -> f64;

/// Who is measured: the whole server, or the store alone where the server's program is not there; and etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Server,
    Store(Kind),
}

pub async fn rows(table: &mut Table, trials: usize, with_etcd: bool) {
    let own = if kontiki_program().is_ok() { Who::Server } else { Who::Store(Kind::Kontiki) };
    let cases = [
        ("leader killed", 3, Loss::Killed, 0.1, 1.0),
        ("leader killed", 5, Loss::Killed, 0.1, 1.0),
        ("leader cut off", 3, Loss::CutOff, 1.5, 5.0),
    ];
    for (what, servers, loss, budget, worst) in cases {
        let measured = told(times(own, servers, loss, trials).await);
        let etcd = match with_etcd {
            true => Some(told(times(Who::Store(Kind::Etcd), servers, loss, trials).await)),
            false => None,
        };
        let what = format!("{what} to next write, {servers} servers");
        let figures: [(&str, Figure, f64); 2] = [("median", median, budget), ("worst", longest, worst)];
        for (name, figure, budget) in figures {
            let own_figure = measured.clone().map(|times| figure(&times));
            let mut row = Row::new(format!("{what}, {name}"), "s", Budget::AtMost(budget), own_figure);
            row.note = format!("{trials} trials");
            if own != Who::Server {
                row.note += ", the store alone";
            }
            match &etcd {
                Some(Ok(times)) => row.etcd = Some(figure(times)),
                Some(Err(problem)) => row.note += &format!("; etcd: {problem}"),
                None => {}
            }
            table.add(row);
        }
    }
}

fn longest(times: &[f64]) -> f64 {
    times.iter().copied().fold(0.0, f64::max)
}

async fn times(who: Who, servers: usize, loss: Loss, trials: usize) -> Result<Vec<f64>> {
    let apart = loss == Loss::CutOff;
    match who {
        Who::Store(kind) => {
            let mut stores = Stores::start(kind, servers, apart).await?;
            let times = lose_again_and_again(&mut stores, servers, loss, trials).await;
            stores.stop().await;
            times
        }
        Who::Server => {
            let options = Options { program: kontiki_program()?, servers: servers as u8, apart };
            let mut processes = Processes::new(options)?;
            processes.start_all().await?;
            let everyone: Vec<usize> = (0..servers).collect();
            await_writable(&processes.client(&everyone, DEADLINE)?, NAMESPACE, DEADLINE).await?;
            lose_again_and_again(&mut processes, servers, loss, trials).await
        }
    }
}

async fn lose_again_and_again(
    victim: &mut dyn Victim,
    servers: usize,
    loss: Loss,
    trials: usize,
) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for trial in 0..trials {
        let leader = victim.leader().await?;
        let survivors: Vec<usize> = (0..servers).filter(|server| *server != leader).collect();
        let writers = victim.writers(&survivors).await?;
        times.push(without_a_leader(victim, leader, loss, &writers, trial).await?.as_secs_f64());
        victim.mend(leader, loss).await?;
    }
    Ok(times)
}

/// The longest time between two acknowledgements, from the last before the loss to the first of a write that was sent
/// after it.
async fn without_a_leader(
    victim: &mut dyn Victim,
    leader: usize,
    loss: Loss,
    writers: &[Write],
    trial: usize,
) -> Result<Duration> {
    let mut under_way = FuturesUnordered::new();
    let mut ticks = tokio::time::interval(EVERY);
    let begun = Instant::now();
    let (mut sent, mut last_answer, mut longest) = (0, None, Duration::ZERO);
    let mut lost: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let (at, write) = (Instant::now(), &writers[sent % writers.len()]);
                let attempt = write(format!("failover-{trial}-{sent}"));
                under_way.push(async move { (at, attempt.await) });
                sent += 1;
            }
            Some((at, acknowledged)) = under_way.next() => if acknowledged {
                let now = Instant::now();
                if let (Some(_), Some(before)) = (lost, last_answer) {
                    longest = longest.max(now.duration_since(before));
                }
                last_answer = Some(now);
                if lost.is_some_and(|lost| at > lost) {
                    return Ok(longest);
                }
            },
        }
        if lost.is_none() && begun.elapsed() > BEFORE {
            ensure!(last_answer.is_some(), "no write was acknowledged before the leader was lost");
            victim.lose(leader, loss).await?;
            lost = Some(Instant::now());
        }
        if begun.elapsed() > PATIENCE {
            bail!("no write was taken within {PATIENCE:?}");
        }
    }
}
