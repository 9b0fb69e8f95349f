//! The leader dies, three times; what it acknowledged must be there, and it must be able to return.

use std::time::Duration;

use anyhow::Result;
use rand::Rng;

use super::{Findings, PATIENCE, Stage};
use crate::cluster::await_leader;

pub async fn hurt(mut stage: Stage<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    let everyone: Vec<usize> = (0..stage.cluster.size()).collect();
    for _ in 0..3 {
        let pause = stage.random.random_range(700..1500);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let leader = await_leader(stage.cluster, &everyone, PATIENCE).await?;
        stage.cluster.kill(leader).await?;
        let gap = stage.next_write().await?;
        findings.remarks.push(format!(
            "server {leader} led and was killed; the next write began and was taken within {gap:.1?}"
        ));
        let pause = stage.random.random_range(300..1200);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        stage.cluster.start(leader).await?;
    }
    stage.next_write().await?;
    Ok(findings)
}
