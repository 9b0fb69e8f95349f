//! A follower is cut off until the log it misses is purged, then let in again. Catches: a snapshot that loses or repeats.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::FutureExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kontiki_proto::Target;
use kontiki_proto::api::{Api, WriteOptions, encode};
use serde_json::json;

use super::{Scenario, Scene};
use crate::traffic::NAMESPACE;

/// Bytes and number of the objects that push the log past its purge.
const FILLER_BYTES: usize = 2_000;
const FILLERS: usize = 6_000;
const AT_ONCE: usize = 32;

pub fn scenario() -> Scenario {
    Scenario {
        name: "follower-cut-off",
        catches: "a snapshot that loses, repeats or mixes what a follower missed",
        run: |scene| run(scene).boxed(),
    }
}

async fn run(scene: &Scene) -> Result<()> {
    let leader = scene.leader().await?;
    let follower =
        scene.cluster.servers().into_iter().find(|server| *server != leader).context("there is a follower")?;
    scene.cluster.cut(follower).await?;
    let cut = scene.history.now();
    fill(scene, leader).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    if scene.wrote_on(follower, cut) {
        bail!("server {follower} acknowledged a write while it was cut off");
    }
    scene.cluster.heal().await?;
    scene.converge().await
}

/// Overwrites one object again and again, so that the log grows and the state does not.
async fn fill(scene: &Scene, leader: u8) -> Result<()> {
    let client = scene.cluster.client(leader);
    let target = Target::kind::<ConfigMap>().within(NAMESPACE);
    let body = |number: usize| -> Result<Bytes> {
        let data = json!({ "number": number.to_string(), "filler": "x".repeat(FILLER_BYTES) });
        let name = format!("filler-{}", number % AT_ONCE);
        Ok(encode(&json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": data }))?)
    };
    for number in 0..AT_ONCE {
        client.create(&target, body(number)?, &WriteOptions::default()).await?;
    }
    for round in 1..FILLERS / AT_ONCE {
        let writes = (0..AT_ONCE).map(|lane| {
            let (client, target) = (client.clone(), target.clone().named(&format!("filler-{lane}")));
            let body = body(round * AT_ONCE + lane);
            async move { anyhow::Ok(client.update(&target, body?, &WriteOptions::default()).await?) }
        });
        futures::future::try_join_all(writes).await?;
    }
    Ok(())
}
