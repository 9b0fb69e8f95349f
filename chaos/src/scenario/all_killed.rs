//! All servers are killed at once and started again. Catches: acknowledgement before the disk has it.

use anyhow::Result;
use futures::FutureExt;

use super::{Scenario, Scene};

pub fn scenario() -> Scenario {
    Scenario {
        name: "all-killed",
        catches: "an acknowledgement that only memory held",
        run: |scene| run(scene).boxed(),
    }
}

async fn run(scene: &Scene) -> Result<()> {
    for _ in 0..2 {
        for server in scene.cluster.servers() {
            scene.cluster.kill(server).await?;
        }
        for server in scene.cluster.servers() {
            scene.cluster.start(server).await?;
        }
        scene.progress(100).await?;
    }
    Ok(())
}
