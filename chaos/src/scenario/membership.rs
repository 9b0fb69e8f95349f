//! Membership changes under load.

use std::time::Duration;

use anyhow::{Context, Result};
use kontiki_proto::pb;

use super::{PATIENCE, Stage};
use crate::cluster::{Cluster, ServerId, status_of};

/// 1 → 3 → 5 → 3, the leader among those that leave.
pub async fn growing_and_shrinking(stage: &mut Stage) -> Result<()> {
    for server in 1..5 {
        stage.start(server).await?;
        stage.cluster.await_voters(server + 1).await?;
        stage.members.push(server);
        stage.next_write_on(&[server]).await?;
    }
    for leave_leader in [false, true] {
        stage.calm(300..800).await;
        let leader = stage.leader().await?;
        let server = if leave_leader { leader } else { stage.follower().await? };
        leave(stage, server).await?;
    }
    let members = stage.members.clone();
    stage.remark(format!("grew from one server to five and shrank to {members:?}"));
    stage.recovered().await
}

/// A server loses everything: it leaves, and comes back empty under another id. Server 0 founded the cluster.
pub async fn wiped(stage: &mut Stage) -> Result<()> {
    let follower = stage.follower().await?;
    for server in [0, follower] {
        stage.calm(300..800).await;
        let ticket = stage.hurt(format!("server {server} loses its data"));
        stage.cluster.wipe(server).await?;
        stage.next_write_on(&stage.others(&[server])).await?;
        leave(stage, server).await?;
        stage.start(server).await?;
        stage.members.push(server);
        stage.cluster.await_voters(stage.members.len()).await?;
        stage.healed(ticket);
        stage.recovered().await?;
    }
    stage.remark(format!("servers 0 and {follower} lost everything and joined anew"));
    Ok(())
}

/// Removes a server and ends its process.
async fn leave(stage: &mut Stage, server: ServerId) -> Result<()> {
    let others = stage.others(&[server]);
    let asked = others[0];
    let status = status_of(&*stage.cluster, asked).await?;
    let gone = |member: &&pb::MemberStatus| stage.cluster.by_address(&member.address) == Some(server);
    let id = status.members.iter().find(gone).context("the server that leaves is no member")?.id;
    let client = stage.cluster.client(&others, Duration::from_secs(20))?;
    let begun = std::time::Instant::now();
    while let Err(status) = client.cluster().leave(pb::LeaveRequest { id }).await {
        // Told to a server that has just stopped leading, or a second time.
        let left = status_of(&*stage.cluster, asked)
            .await
            .is_ok_and(|now| now.members.iter().all(|member| member.id != id));
        if left {
            break;
        }
        anyhow::ensure!(begun.elapsed() < PATIENCE, "member {id} could not leave: {status}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    stage.kill(server).await?;
    stage.members.retain(|member| *member != server);
    Ok(())
}
