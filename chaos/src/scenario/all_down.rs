//! All servers go at once, twice; what any of them acknowledged must be on their disks.

use anyhow::Result;
use futures::future::try_join_all;
use rand::Rng;

use super::Stage;
use crate::cluster::Cluster;

/// `kill -9`.
pub async fn killed(stage: &mut Stage) -> Result<()> {
    go(stage, false).await
}

/// What they had not synced is gone too.
pub async fn power_cut(stage: &mut Stage) -> Result<()> {
    go(stage, true).await
}

async fn go(stage: &mut Stage, power: bool) -> Result<()> {
    for _ in 0..2 {
        stage.calm(800..1800).await;
        let (cluster, members) = (stage.cluster.clone(), stage.members.clone());
        let ticket = stage.hurt(if power { "all lose power" } else { "all are killed" });
        let seeds: Vec<u64> = members.iter().map(|_| stage.random.random()).collect();
        let hurt = members.iter().zip(seeds).map(|(server, seed)| {
            let cluster = &cluster;
            async move {
                if power {
                    return cluster.cut_power(*server, seed).await.map(drop);
                }
                cluster.kill(*server).await
            }
        });
        try_join_all(hurt).await?;
        stage.healed(ticket);
        stage.calm(50..400).await;
        for server in members {
            stage.start(server).await?;
        }
        let back = stage.next_write().await?;
        stage.remark(format!("all went at once; a write was taken {back:.1?} after they were started again"));
        stage.recovered().await?;
    }
    Ok(())
}
