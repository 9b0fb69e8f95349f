//! The leader stops for longer than an election takes and goes on as if nothing had happened: it must not believe that it
//! still leads.

use anyhow::Result;

use super::Stage;
use crate::cluster::Cluster;

pub async fn hurt(stage: &mut Stage) -> Result<()> {
    for _ in 0..2 {
        stage.calm(500..1000).await;
        let leader = stage.leader().await?;
        let ticket = stage.hurt(format!("server {leader} is stopped (SIGSTOP)"));
        stage.cluster.pause(leader).await?;
        let others = stage.others(&[leader]);
        let gap = stage.next_write_on(&others).await?;
        stage.calm(500..2500).await;
        stage.cluster.resume(leader).await?;
        stage.healed(ticket);
        stage.remark(format!("server {leader} led and stood still; the others took a write after {gap:.1?}"));
        stage.recovered().await?;
    }
    Ok(())
}
