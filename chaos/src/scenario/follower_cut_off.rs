//! A follower is away while so much is written that the log it would need is purged. A snapshot catches it up; its watchers
//! go on where they were, or are told to list again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kontiki_proto::ApiExt;
use kontiki_proto::client::Client;
use rand::Rng;
use serde_json::json;

use super::{Findings, PATIENCE, Stage};
use crate::cluster::{Cut, await_agreement, await_leader, await_writable};

const BULK: &str = "bulk";
/// More bytes than the store lets its log grow by before a checkpoint, and than it keeps of it in memory after one.
const OBJECTS: u64 = 160;
const OBJECT_BYTES: usize = 512 * 1024;
const WRITERS: usize = 8;
/// What the store writes to its log when it installs a snapshot.
const SIGN: &str = "a snapshot was installed";

pub async fn hurt(mut stage: Stage<'_>) -> Result<Findings> {
    let mut findings = Findings::default();
    let everyone: Vec<usize> = (0..stage.cluster.size()).collect();
    let pause = stage.random.random_range(500..1000);
    tokio::time::sleep(Duration::from_millis(pause)).await;
    let leader = await_leader(stage.cluster, &everyone, PATIENCE).await?;
    let followers: Vec<usize> = everyone.iter().copied().filter(|server| *server != leader).collect();
    let away = followers[stage.random.random_range(0..followers.len())];
    ensure!(
        !stage.cluster.said(away, SIGN),
        "server {away} was set up by snapshot already: nothing to see here"
    );
    stage.cluster.cut(away, Cut::Peers).await?;

    let others: Vec<usize> = everyone.iter().copied().filter(|server| *server != away).collect();
    let client = stage.cluster.client(&others, Duration::from_secs(20))?;
    await_writable(&client, BULK, PATIENCE).await?;
    let begun = Instant::now();
    fill(&client).await?;
    let filled = begun.elapsed();
    // The purge follows the checkpoint, and the checkpoint the writes; the store looks once a second.
    tokio::time::sleep(Duration::from_millis(3500)).await;

    let begun = Instant::now();
    stage.cluster.heal(away).await?;
    let deadline = Instant::now() + PATIENCE;
    while !stage.cluster.said(away, SIGN) {
        if Instant::now() > deadline {
            findings.violations.push(format!("server {away} installed no snapshot within {PATIENCE:?}"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    findings.remarks.push(format!(
        "server {away} missed {OBJECTS} objects of {OBJECT_BYTES} bytes, written in {filled:.1?}; snapshot installed {:.1?} after it \
         was back",
        begun.elapsed()
    ));
    await_leader(stage.cluster, &everyone, PATIENCE).await?;
    stage.next_write().await?;
    // Under load the servers agree only in passing; that they do at all shows that it keeps up.
    if let Err(error) = await_agreement(stage.cluster, PATIENCE).await {
        findings.violations.push(format!("{error:#}"));
    }
    Ok(findings)
}

async fn fill(client: &Client) -> Result<()> {
    let number = Arc::new(AtomicU64::new(0));
    let padding = Arc::new("x".repeat(OBJECT_BYTES));
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let (client, number, padding) = (client.clone(), Arc::clone(&number), Arc::clone(&padding));
        writers.push(tokio::spawn(async move {
            loop {
                let n = number.fetch_add(1, Ordering::Relaxed);
                if n >= OBJECTS {
                    return Ok(());
                }
                let object: ConfigMap = serde_json::from_value(json!({
                    "metadata": {"name": format!("bulk-{n}"), "namespace": BULK}, "data": {"padding": *padding}}))?;
                client.create_as(&object).await.context("a write beside the follower that is away")?;
            }
        }));
    }
    for writer in writers {
        writer.await?.map_err(|error: anyhow::Error| error)?;
    }
    Ok(())
}
