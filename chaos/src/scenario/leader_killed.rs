//! The leader is killed under load, three times. Catches: acknowledgement before a quorum has it.

use anyhow::{Result, bail};
use futures::FutureExt;

use super::{Scenario, Scene};

pub fn scenario() -> Scenario {
    Scenario {
        name: "leader-killed",
        catches: "an acknowledgement before a quorum has the write on disk",
        run: |scene| run(scene).boxed(),
    }
}

async fn run(scene: &Scene) -> Result<()> {
    for _ in 0..3 {
        let leader = scene.leader().await?;
        scene.cluster.kill(leader).await?;
        scene.progress(100).await?;
        let next = scene.leader().await?;
        if next == leader {
            bail!("server {leader} was killed and still leads");
        }
        scene.cluster.start(leader).await?;
        scene.progress(100).await?;
    }
    Ok(())
}
