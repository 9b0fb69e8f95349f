//! All servers die at once, twice; what any of them acknowledged must be on their disks.

use std::time::Duration;

use anyhow::Result;
use rand::Rng;

use super::{Findings, PATIENCE, Stage};
use crate::cluster::await_leader;

pub async fn hurt(mut stage: Stage<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    let everyone: Vec<usize> = (0..stage.cluster.size()).collect();
    for _ in 0..2 {
        let pause = stage.random.random_range(800..2000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let killed = everyone.iter().map(|server| stage.cluster.kill(*server));
        futures::future::try_join_all(killed).await?;
        let pause = stage.random.random_range(50..500);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        for server in &everyone {
            stage.cluster.start(*server).await?;
        }
        let back = stage.next_write().await?;
        await_leader(stage.cluster, &everyone, PATIENCE).await?;
        findings.remarks.push(format!(
            "all were killed; the next write was taken {back:.1?} after they were started again"
        ));
    }
    Ok(findings)
}
