//! What a cluster does with a large Deployment, on simulated nodes.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kontiki_proto::api::{EventType, WatchOptions, decode};
use kontiki_proto::client::Client;
use kontiki_proto::{Api, ApiExt, Target};
use serde_json::json;

use super::server_rows::{processes, resident, told};
use super::table::{Budget, Row, Table};
use crate::cluster::{Cluster, await_writable};

const NAMESPACE: &str = "bench";
const NODES: usize = 100;
const PODS: usize = 2000;
const DEADLINE: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn pods(table: &mut Table) {
    let measured = told(bind_pods().await);
    let time = measured.clone().map(|(time, _)| time);
    table.add(Row::new("Deployment of 2,000 pods bound to 100 nodes", "s", Budget::AtMost(1.2), time));
    let memory = measured.map(|(_, memory)| memory);
    table.add(Row::new("resident memory, 100 nodes, 2,000 pods", "MB", Budget::AtMost(120.0), memory));
}

/// A node as an agent reports it, without an agent: large, ready, and with a lease.
async fn fake_node(client: &Client, number: usize) -> Result<()> {
    let name = format!("node-{number}");
    let node: Node = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    let mut node = client.create_as(&node).await?;
    let size = json!({"cpu": "32", "memory": "64Gi", "pods": "110"});
    let now = jiff::Timestamp::now().to_string();
    node.status = Some(serde_json::from_value(json!({"capacity": size, "allocatable": size,
        "addresses": [{"type": "InternalIP", "address": format!("10.10.0.{number}")}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "Simulated", "message": "",
            "lastHeartbeatTime": now, "lastTransitionTime": now}]}))?);
    node.metadata.resource_version = None;
    client.update_status_as(&node).await?;
    let lease: Lease =
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": micro_time()}}))?;
    client.create_as(&lease).await?;
    Ok(())
}

fn micro_time() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

async fn heartbeat(client: Client) {
    loop {
        tokio::time::sleep(Duration::from_secs(10)).await;
        for number in 0..NODES {
            let name = format!("node-{number}");
            if let Ok(mut lease) = client.get_as::<Lease>("kube-node-lease", &name).await {
                lease.spec.get_or_insert_default().renew_time =
                    serde_json::from_value(json!(micro_time())).ok();
                if let Err(status) = client.update_as(&lease).await {
                    tracing::warn!(%status, name, "no heartbeat");
                }
            }
        }
    }
}

async fn bind_pods() -> Result<(f64, f64)> {
    let processes = processes(1)?;
    processes.start_all().await?;
    let client = processes.client(&[0], DEADLINE)?;
    await_writable(&client, NAMESPACE, DEADLINE).await?;
    await_writable(&client, "kube-node-lease", DEADLINE).await?;
    let mut nodes: FuturesUnordered<_> = (0..NODES).map(|number| fake_node(&client, number)).collect();
    while let Some(made) = nodes.next().await {
        made.context("a simulated node")?;
    }
    let heart = tokio::spawn(heartbeat(client.clone()));
    let begun = Instant::now();
    // Nodes begin with a taint until the node controller has seen that they are ready.
    loop {
        let (nodes, _) = client.list_as::<Node>("", &Default::default()).await?;
        let tainted = nodes
            .iter()
            .filter(|node| {
                node.spec.as_ref().is_some_and(|spec| spec.taints.as_ref().is_some_and(|t| !t.is_empty()))
            })
            .count();
        if tainted == 0 && nodes.len() == NODES {
            break;
        }
        ensure!(begun.elapsed() < PATIENCE, "{tainted} simulated nodes are still tainted after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let revision = client.list_as::<Pod>(NAMESPACE, &Default::default()).await?.1;
    let options = WatchOptions { resource_version: revision, ..WatchOptions::default() };
    let mut events = client.watch(&Target::kind::<Pod>().within(NAMESPACE), &options).await?;
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "large", "namespace": NAMESPACE},
        "spec": {"replicas": PODS, "selector": {"matchLabels": {"app": "large"}}, "template": {
            "metadata": {"labels": {"app": "large"}},
            "spec": {"containers": [{"name": "main", "image": "example.test/app:1",
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]}}}}))?;
    let begun = Instant::now();
    client.create_as(&deployment).await?;
    let mut bound = HashSet::new();
    while bound.len() < PODS {
        let left = PATIENCE.saturating_sub(begun.elapsed());
        let event = tokio::time::timeout(left, events.next()).await;
        let event =
            event.with_context(|| format!("{} of {PODS} pods are bound after {PATIENCE:?}", bound.len()))?;
        let event = event.context("the watch ended")??;
        let pod: Pod = decode(&event.object)?;
        let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        if event.event_type != EventType::Deleted && placed {
            bound.insert(pod.metadata.uid);
        }
    }
    let time = begun.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let memory = resident(&processes, 0)?;
    heart.abort();
    Ok((time, memory))
}
