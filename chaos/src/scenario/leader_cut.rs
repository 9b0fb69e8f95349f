//! The leader is cut off from its peers, with clients still on it. Catches: split brain, and reads from the past.

use std::time::Duration;

use anyhow::{Result, bail};
use futures::FutureExt;

use super::{RECOVERY, Scenario, Scene};
use crate::cluster::Cluster;

/// After so long a cut-off leader must have noticed, with room for slow machines.
const NOTICED: Duration = Duration::from_secs(5);

pub fn scenario() -> Scenario {
    Scenario {
        name: "leader-cut-off",
        catches: "two leaders that both acknowledge, and a cut-off leader that serves the past",
        run: |scene| run(scene).boxed(),
    }
}

async fn run(scene: &Scene) -> Result<()> {
    let old = scene.leader().await?;
    scene.cluster.cut(old).await?;
    let cut = scene.history.now();
    let deadline = std::time::Instant::now() + RECOVERY;
    loop {
        let others = scene.cluster.servers().into_iter().filter(|server| *server != old);
        let mut elected = false;
        for server in others {
            elected |= leads(&*scene.cluster, server, old).await;
        }
        if elected {
            break;
        }
        if std::time::Instant::now() > deadline {
            bail!("no other server leads after server {old} was cut off");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    scene.progress(200).await?;
    tokio::time::sleep(NOTICED).await;
    if scene.wrote_on(old, cut) {
        bail!("server {old} acknowledged a write that it received after it was cut off");
    }
    scene.cluster.heal().await?;
    scene.converge().await
}

/// Whether this server sees a leader other than the old one.
async fn leads(cluster: &dyn Cluster, server: u8, old: u8) -> bool {
    let Ok(status) = cluster.status(server).await else { return false };
    status.members.iter().any(|member| member.leader && cluster.server_of(member) != Some(old))
}
