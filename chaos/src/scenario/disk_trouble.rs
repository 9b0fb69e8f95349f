//! Something is wrong with one server's disk. The others go on; the server itself takes no write that is not safe.

use std::time::Duration;

use anyhow::{Result, ensure};
use rand::Rng;

use super::{PATIENCE, Stage};
use crate::cluster::ServerId;
use crate::disk::Faults;

/// One server loses power, three times: the leader, a follower, and one that was killed and started again a moment before.
pub async fn power_cut(stage: &mut Stage) -> Result<()> {
    for round in 0..3 {
        stage.calm(500..1200).await;
        let server = if round == 0 { stage.leader().await? } else { stage.follower().await? };
        if round == 2 {
            stage.kill(server).await?;
            stage.start(server).await?;
            stage.calm(300..900).await;
        }
        let (seed, ticket) = (stage.random.random(), stage.hurt(format!("server {server} loses power")));
        let loss = stage.cluster.cut_power(server, seed).await?;
        stage.healed(ticket);
        stage.calm(50..400).await;
        stage.start(server).await?;
        stage.remark(format!("server {server} lost power: {loss:?}"));
        stage.recovered().await?;
    }
    Ok(())
}

/// Every write and every sync of the leader's disk takes its time.
pub async fn slow(stage: &mut Stage) -> Result<()> {
    let faults = Faults {
        per_write: Duration::from_millis(2),
        per_sync: Duration::from_millis(60),
        ..Faults::default()
    };
    let leader = with(stage, faults, "has a slow disk").await?;
    stage.calm(3000..4000).await;
    stage.next_write().await?;
    heal(stage, leader).await
}

/// The leader's disk answers nothing for a while: others must take over.
pub async fn stalled(stage: &mut Stage) -> Result<()> {
    let leader = with(stage, Faults { stalled: true, ..Faults::default() }, "has a disk that stalls").await?;
    let gap = stage.next_write_on(&stage.others(&[leader])).await?;
    stage.remark(format!("the leader's disk stalled; the others took a write after {gap:.1?}"));
    heal(stage, leader).await
}

/// The leader's syncs fail: its process must end, and the others go on.
pub async fn failing(stage: &mut Stage) -> Result<()> {
    let leader =
        with(stage, Faults { failing_syncs: true, ..Faults::default() }, "has a disk that cannot sync")
            .await?;
    ensure!(
        stage.cluster.await_end(leader, PATIENCE).await,
        "server {leader} went on although its disk cannot sync"
    );
    let gap = stage.next_write_on(&stage.others(&[leader])).await?;
    stage.remark(format!("server {leader} ended by itself; the others took a write after {gap:.1?}"));
    heal(stage, leader).await
}

/// The leader's disk is full: nothing that was acknowledged suffers, and there is service again when there is room.
pub async fn full(stage: &mut Stage) -> Result<()> {
    let leader = with(stage, Faults { full: true, ..Faults::default() }, "has a full disk").await?;
    stage.calm(4000..5000).await;
    let lives = stage.cluster.runs(leader).await;
    stage.remark(format!("with a full disk server {leader} {}", if lives { "went on" } else { "ended" }));
    heal(stage, leader).await
}

async fn with(stage: &mut Stage, faults: Faults, what: &str) -> Result<ServerId> {
    stage.calm(500..1200).await;
    let leader = stage.leader().await?;
    stage.hurt(format!("server {leader} {what}"));
    stage.cluster.disk(leader)?.set(faults);
    Ok(leader)
}

/// The disk is well again; a server that ended comes back, without what its disk never had.
async fn heal(stage: &mut Stage, server: ServerId) -> Result<()> {
    stage.cluster.disk(server)?.set(Faults::default());
    if !stage.cluster.runs(server).await {
        let seed = stage.random.random();
        stage.cluster.cut_power(server, seed).await?;
        stage.start(server).await?;
    }
    stage.recovered().await
}
