//! The leader loses its peers and keeps its clients. It must take no write; the others elect a leader and go on; the old one
//! follows when it can reach them again.

use std::time::Duration;

use anyhow::{Result, ensure};
use rand::Rng;

use super::{Findings, PATIENCE, Stage};
use crate::cluster::{Cut, await_leader};

/// Writes sent to the old leader when it has just been cut off, and again when there is a new one.
const PROBES: usize = 6;

pub async fn hurt(mut stage: Stage<'_>) -> Result<Findings> {
    let everyone: Vec<usize> = (0..stage.cluster.size()).collect();
    let pause = stage.random.random_range(700..1500);
    tokio::time::sleep(Duration::from_millis(pause)).await;
    let old = await_leader(stage.cluster, &everyone, PATIENCE).await?;
    stage.cluster.cut(old, Cut::Peers).await?;
    let cut = stage.traffic.recorder.now();
    let mut probes = stage.traffic.probe(stage.cluster, old, PROBES)?;

    let others: Vec<usize> = everyone.iter().copied().filter(|server| *server != old).collect();
    let new = await_leader(stage.cluster, &others, PATIENCE).await?;
    let elected = stage.traffic.recorder.now() - cut;
    stage.next_write().await?;
    probes.extend(stage.traffic.probe(stage.cluster, old, PROBES)?);
    let pause = stage.random.random_range(3000..5000);
    tokio::time::sleep(Duration::from_millis(pause)).await;
    let healed = stage.traffic.recorder.now();
    stage.cluster.heal(old).await?;
    await_leader(stage.cluster, &everyone, PATIENCE).await?;
    stage.next_write().await?;
    // Clients that were waiting for the old leader come to an end, and it has shown what it makes of them.
    for probe in probes {
        probe.await?;
    }

    let mut findings = Findings::default();
    let (mut asked, mut taken_elsewhere) = (0, 0);
    for operation in stage.traffic.recorder.operations() {
        let within = operation.invoked > cut && operation.returned.is_none_or(|returned| returned < healed);
        if operation.action.is_read() || !within {
            continue;
        }
        let done = operation.is_acknowledged_write();
        if operation.server == Some(old) {
            asked += 1;
            if done {
                findings
                    .violations
                    .push(format!("the old leader acknowledged {operation:?} while it was cut off"));
            }
        } else if done {
            taken_elsewhere += 1;
        }
    }
    ensure!(asked > 0, "no client asked the old leader while it was cut off");
    ensure!(taken_elsewhere > 0, "no client was served by the new leader");
    findings.remarks.push(format!(
        "server {old} led and was cut off; server {new} led {elected:.1?} later; {asked} writes to the old leader, none taken; \
         {taken_elsewhere} taken elsewhere"
    ));
    Ok(findings)
}
