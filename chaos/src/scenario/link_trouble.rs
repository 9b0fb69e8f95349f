//! The network is bad rather than broken: nothing may be lost or stale, and writes go on, however slowly.

use anyhow::Result;

use super::Stage;

/// Packets between servers are late.
pub async fn delay(stage: &mut Stage) -> Result<()> {
    let (leader, ticket) = (stage.leader().await?, stage.hurt("servers' packets are late"));
    let follower = stage.any_of(&stage.others(&[leader]));
    let how = stage.cluster.slow_link(leader, true)?;
    stage.cluster.slow_link(follower, true)?;
    stage.calm(4000..5000).await;
    stage.next_write().await?;
    stage.cluster.slow_link(leader, false)?;
    stage.cluster.slow_link(follower, false)?;
    stage.healed(ticket);
    stage.remark(format!("what servers {leader} and {follower} sent had {how}"));
    stage.recovered().await
}

/// Packets between servers are lost, more of them on the leader's side.
pub async fn loss(stage: &mut Stage) -> Result<()> {
    let (leader, ticket) = (stage.leader().await?, stage.hurt("packets between servers are lost"));
    for server in stage.members.clone() {
        stage.cluster.lose(server, if server == leader { 15 } else { 5 })?;
    }
    stage.calm(4000..5000).await;
    stage.next_write().await?;
    for server in stage.members.clone() {
        stage.cluster.lose(server, 0)?;
    }
    stage.healed(ticket);
    stage.recovered().await
}

/// Connections to a living leader are reset: it leads on, and nobody takes it for dead.
pub async fn reset(stage: &mut Stage) -> Result<()> {
    stage.calm(500..1000).await;
    let before = stage.leader().await?;
    for _ in 0..4 {
        let ticket = stage.hurt(format!("connections of server {before} are reset"));
        stage.cluster.reset_connections(before).await?;
        stage.healed(ticket);
        stage.calm(300..800).await;
        stage.next_write().await?;
    }
    let after = stage.leader().await?;
    // On a busy machine a heartbeat may be late for reasons of its own, so that this is told and not judged.
    stage.remark(format!("connections of server {before} were reset four times; server {after} leads"));
    stage.recovered().await
}
