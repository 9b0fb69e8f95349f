//! A follower is away while so much is written that the log it would need is purged. A snapshot catches it up; its watchers
//! go on where they were, or are told to list again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kontiki_proto::ApiExt;
use kontiki_proto::client::Client;
use serde_json::json;

use super::shape::{Direction, Shape};
use super::{PATIENCE, Stage};
use crate::cluster::{Cluster, await_writable};

const BULK: &str = "bulk";
/// More bytes than the store lets its log grow by before a checkpoint, and than it keeps of it in memory after one.
const OBJECTS: u64 = 200;
const OBJECT_BYTES: usize = 512 * 1024;
/// What the store writes to its log when it installs a snapshot.
const SIGN: &str = "a snapshot was installed";

pub async fn hurt(stage: &mut Stage) -> Result<()> {
    let away = stage.follower().await?;
    let before = stage.cluster.times_said(away, SIGN);
    stage.partition(&Shape::alone(stage.members.len(), away, Direction::Both)).await?;
    let client = stage.cluster.client(&stage.others(&[away]), Duration::from_secs(20))?;
    await_writable(&client, BULK, PATIENCE).await?;
    fill(&client).await?;
    // The purge follows the checkpoint, and the checkpoint the writes; the store looks once a second.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    stage.mend()?;
    let begun = Instant::now();
    while stage.cluster.times_said(away, SIGN) == before {
        if begun.elapsed() > PATIENCE {
            stage.violations.push(format!("server {away} installed no snapshot within {PATIENCE:?}"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stage.remark(format!("server {away} missed {OBJECTS} objects; snapshot after {:.1?}", begun.elapsed()));
    stage.recovered().await
}

async fn fill(client: &Client) -> Result<()> {
    let (number, padding) = (Arc::new(AtomicU64::new(0)), Arc::new("x".repeat(OBJECT_BYTES)));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (client, number, padding) = (client.clone(), Arc::clone(&number), Arc::clone(&padding));
        writers.spawn(async move {
            loop {
                let n = number.fetch_add(1, Ordering::Relaxed);
                if n >= OBJECTS {
                    return anyhow::Ok(());
                }
                let object: ConfigMap = serde_json::from_value(json!({
                    "metadata": {"name": format!("bulk-{n}"), "namespace": BULK}, "data": {"padding": *padding}}))?;
                let begun = Instant::now();
                while let Err(status) = client.create_as(&object).await {
                    // A busy machine may need longer than a client waits; what came of it does not matter here.
                    if status.is_already_exists() {
                        break;
                    }
                    ensure!(begun.elapsed() < PATIENCE, "a write beside the follower that is away: {status}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer??;
    }
    Ok(())
}
