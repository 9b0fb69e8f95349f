//! The leader, and whoever runs the controllers, on the losing side: in every shape. The losing side acknowledges nothing, and
//! its controllers stop before those of the winning side begin; on healing there is one history.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kontiki_proto::ApiExt;

use super::shape::{Direction, Shape};
use super::{PATIENCE, Stage, probes};
use crate::cluster::{Cluster, ServerId, status_of};

const CONTROLLERS: &str = "kontiki-controllers";
/// What an instance writes to its log when it stops.
const STOPPED: &str = "lost the lease";

pub async fn hurt(stage: &mut Stage) -> Result<()> {
    let servers = stage.members.len();
    for direction in [Direction::Both, Direction::Mute, Direction::Deaf] {
        let leader = stage.leader().await?;
        let holder = holder(stage, &stage.members.clone()).await?;
        // With five servers the losing side has two: the leader, and the holder or another.
        let with = if holder == leader { (leader + 1) % servers } else { holder };
        let mut losing = vec![leader];
        if servers == 5 {
            losing.push(with);
        }
        let rest = stage.others(&losing);
        let shape = match direction {
            Direction::Both => Shape::split(servers, &[&losing, &rest]),
            one_way => Shape::alone(servers, leader, one_way),
        };
        let (losers, winners) = (shape.losers(), shape.winners());
        let stopped = stage.cluster.times_said(holder, STOPPED);
        stage.partition(&shape).await?;
        let cut = stage.traffic.recorder.now();
        let asked = probes(stage, &losers)?;
        let gap = stage.next_write_on(&winners).await?;
        if losers.contains(&holder) {
            let begun = Instant::now();
            while losers.contains(&self::holder(stage, &winners).await?) {
                ensure!(begun.elapsed() < PATIENCE, "nobody on the winning side runs the controllers");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if stage.cluster.times_said(holder, STOPPED) == stopped {
                stage
                    .violations
                    .push(format!("server {holder} runs controllers although another server does"));
            }
        }
        // What is answered after the healing proves nothing.
        for probe in asked {
            probe.await?;
        }
        let healed = stage.traffic.recorder.now();
        stage.mend()?;
        let (writes, reads, answered) = stage.judge_losers(&losers, cut, healed);
        ensure!(writes > 0, "no client asked a server without quorum");
        stage.remark(format!(
            "{}; next write after {gap:.1?}; losing side {losers:?}: {writes} writes, none taken; {reads} reads, {answered} \
             answered; controllers ran on server {holder}",
            shape.what
        ));
        stage.recovered().await?;
    }
    Ok(())
}

/// Who holds the controllers' lease, asked of these servers.
async fn holder(stage: &Stage, among: &[ServerId]) -> Result<ServerId> {
    let begun = Instant::now();
    loop {
        let asked = stage.leader_among(among).await?;
        let client = stage.cluster.client(&[asked], Duration::from_secs(5))?;
        let lease: Option<Lease> = client.find_as("kube-system", CONTROLLERS).await.unwrap_or_default();
        let status = status_of(&*stage.cluster, asked).await?;
        let identity = lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default();
        let member = status.members.iter().find(|member| format!("server-{}", member.id) == identity);
        if let Some(server) = member.and_then(|member| stage.cluster.by_address(&member.address)) {
            return Ok(server);
        }
        ensure!(begun.elapsed() < PATIENCE, "nobody runs the controllers: {identity:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
