//! The network breaks around the leader, in one shape or another. Whoever has no quorum takes no write, the others go on, and
//! everybody follows when it is whole again.

use anyhow::{Result, ensure};

use super::shape::{Direction, Shape};
use super::{Stage, probes};

/// Both ways, one way, or with a bridge.
pub async fn leader_cut_off(stage: &mut Stage) -> Result<()> {
    around(stage, |servers, leader| Shape::alone(servers, leader, Direction::Both)).await
}

/// It sends heartbeats, and hears of no acknowledgement.
pub async fn leader_deaf(stage: &mut Stage) -> Result<()> {
    around(stage, |servers, leader| Shape::alone(servers, leader, Direction::Deaf)).await
}

/// It hears everything, and says nothing that arrives.
pub async fn leader_mute(stage: &mut Stage) -> Result<()> {
    around(stage, |servers, leader| Shape::alone(servers, leader, Direction::Mute)).await
}

/// A follower is the only one that both sides reach: no lease may be kept fresh through it.
pub async fn bridge(stage: &mut Stage) -> Result<()> {
    around(stage, |servers, leader| Shape::bridge(servers, (leader + 1) % servers)).await
}

/// The leader and one more against three.
pub async fn split(stage: &mut Stage) -> Result<()> {
    around(stage, |servers, leader| {
        let with = (leader + 1) % servers;
        let rest: Vec<usize> = (0..servers).filter(|server| ![leader, with].contains(server)).collect();
        Shape::split(servers, &[&[leader, with], &rest])
    })
    .await
}

async fn around(stage: &mut Stage, shape: fn(usize, usize) -> Shape) -> Result<()> {
    stage.calm(500..1200).await;
    let leader = stage.leader().await?;
    let shape = shape(stage.members.len(), leader);
    let (losers, winners) = (shape.losers(), shape.winners());
    stage.partition(&shape).await?;
    let cut = stage.traffic.recorder.now();
    let asked = probes(stage, &losers)?;
    let gap = stage.next_write_on(&winners).await?;
    let later = probes(stage, &losers)?;
    stage.calm(2000..4000).await;
    // What is answered after the healing proves nothing.
    for probe in asked.into_iter().chain(later) {
        probe.await?;
    }
    let healed = stage.traffic.recorder.now();
    stage.mend()?;
    let (writes, reads, answered) = stage.judge_losers(&losers, cut, healed);
    ensure!(losers.is_empty() || writes > 0, "no client asked a server without quorum");
    stage.remark(format!(
        "{}; the next write was taken after {gap:.1?}; without quorum {losers:?}: {writes} writes, none taken; {reads} reads, \
         {answered} answered",
        shape.what
    ));
    stage.recovered().await
}
