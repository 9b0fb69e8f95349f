//! The node itself: its certificate, its object and heartbeat, its network.

pub mod identity;
pub mod status;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ContainerImage, Node, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kontiki_proto::api::{ApiExt, GetOptions, PatchType, WriteOptions, decode, encode};
use kontiki_proto::{Status, Target};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::ctx::{Ctx, DynNetwork};
use crate::net::{Cidr, NetConfig, Network};
use crate::pod::dirs::{self, PodDir};
use status::Findings;

const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
/// Short enough for clusters that give a node no more than ten seconds.
const BEAT: Duration = Duration::from_secs(3);
/// How often the node looks at itself, and how often it reports where nothing changed.
const LOOK: Duration = Duration::from_secs(2);
const REPORT: Duration = Duration::from_secs(300);
const SERVICE_CIDR: &str = "10.96.0.0/16";

/// Registers the node and keeps its object and lease fresh until the shutdown.
pub async fn keep(ctx: Arc<Ctx>, shutdown: CancellationToken) {
    let work = async {
        tokio::join!(keep_status(&ctx), keep_lease(&ctx));
    };
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
}

async fn keep_status(ctx: &Ctx) {
    let mut said: Option<NodeStatus> = None;
    let mut said_at = tokio::time::Instant::now();
    let mut registered = false;
    let mut before = NodeStatus::default();
    loop {
        if !registered {
            match register(ctx).await {
                Ok(node) => {
                    registered = true;
                    said = None;
                    before = node.status.clone().unwrap_or_default();
                    ctx.events.node(&node, "Normal", "Starting", "Starting the node's agent.".into());
                }
                Err(error) => tracing::debug!(%error, "the node is not registered yet"),
            }
        }
        if registered {
            let found = findings(ctx).await;
            let old = said.as_ref().unwrap_or(&before);
            let wanted = status::status(&ctx.options, &ctx.machine, &found, old, Timestamp::now());
            let changed = said.as_ref().is_none_or(|s| status::differs(s, &wanted));
            let due = changed || said_at.elapsed() >= REPORT || was_overruled(ctx, &wanted).await;
            if due {
                match report(ctx, &wanted).await {
                    Ok(()) => {
                        said = Some(wanted);
                        said_at = tokio::time::Instant::now();
                    }
                    // Somebody deleted the object: it is made again.
                    Err(error) if error.is_not_found() => registered = false,
                    Err(error) => tracing::debug!(%error, "the node's status was not written"),
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether the API says something else of the node's conditions than the node does: after a silence the node lifecycle
/// controller declares them unknown, and only the node can say better.
async fn was_overruled(ctx: &Ctx, wanted: &NodeStatus) -> bool {
    let known = GetOptions { resource_version: "0".into(), ..GetOptions::default() };
    let target = Target::kind::<Node>().named(&ctx.options.node_name);
    let Ok(document) = ctx.api.get(&target, &known).await else { return false };
    let Ok(node) = decode::<Node>(&document) else { return false };
    let live = node.status.and_then(|status| status.conditions).unwrap_or_default();
    wanted
        .conditions
        .iter()
        .flatten()
        .any(|ours| live.iter().any(|theirs| theirs.type_ == ours.type_ && theirs.status != ours.status))
}

async fn register(ctx: &Ctx) -> Result<Node, Status> {
    let wanted = status::node(&ctx.options);
    match ctx.api.create_as(&wanted).await {
        Err(status) if status.is_already_exists() => {
            let labels = json!({"metadata": {"labels": wanted.metadata.labels}});
            let target = Target::kind::<Node>().named(&ctx.options.node_name);
            let body = encode(&labels)?;
            decode(&ctx.api.patch(&target, PatchType::Merge, body, &WriteOptions::default()).await?)
        }
        other => other,
    }
}

async fn report(ctx: &Ctx, wanted: &NodeStatus) -> Result<(), Status> {
    let target = Target::kind::<Node>().named(&ctx.options.node_name).sub("status");
    let body = encode(&json!({"status": wanted}))?;
    ctx.api.patch(&target, PatchType::StrategicMerge, body, &WriteOptions::default()).await?;
    Ok(())
}

async fn findings(ctx: &Ctx) -> Findings {
    let containerd = tokio::time::timeout(Duration::from_secs(5), ctx.containerd.version()).await;
    let containerd = containerd.ok().and_then(Result::ok);
    let images = match &containerd {
        Some(_) => images(ctx).await,
        None => Vec::new(),
    };
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))
        .and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok())
        // Where the kernel does not say, nothing is claimed to be short.
        .map_or(u64::MAX, |kb| kb * 1024);
    let disk = nix::sys::statvfs::statvfs(&ctx.options.root_dir)
        .map(|s| (s.blocks() * s.fragment_size(), s.blocks_available() * s.fragment_size()))
        .unwrap_or_default();
    Findings {
        containerd,
        network: ctx.network.borrow().is_some(),
        memory_available: available,
        disk,
        images,
    }
}

/// At most 50, as upstream reports.
async fn images(ctx: &Ctx) -> Vec<ContainerImage> {
    let mut images = ctx
        .containerd
        .images()
        .await
        .unwrap_or_default()
        .into_iter()
        .map(|image| {
            let repository = image.name.rsplit_once(['@', ':']).map_or(image.name.as_str(), |(r, _)| r);
            let by_digest = format!("{repository}@{}", image.target.digest);
            ContainerImage { names: Some(vec![by_digest, image.name.clone()]), size_bytes: None }
        })
        .collect::<Vec<_>>();
    images.sort_by(|a, b| a.names.cmp(&b.names));
    images.truncate(50);
    images
}

/// The sign of life that the node lifecycle controller looks for.
async fn keep_lease(ctx: &Ctx) {
    let mut known: Option<Lease> = None;
    loop {
        let beat = tokio::time::timeout(BEAT, renew(ctx, known.take()));
        match beat.await {
            Ok(Ok(lease)) => known = Some(lease),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the node's lease was not renewed");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            Err(_) => continue,
        }
        tokio::time::sleep(BEAT).await;
    }
}

async fn renew(ctx: &Ctx, known: Option<Lease>) -> Result<Lease, Status> {
    let name = &ctx.options.node_name;
    let current = match known {
        Some(lease) => Some(lease),
        None => ctx.api.find_as::<Lease>(LEASE_NAMESPACE, name).await?,
    };
    let now = MicroTime(Timestamp::now());
    let spec = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        renew_time: Some(now),
        ..LeaseSpec::default()
    };
    match current {
        Some(mut lease) => {
            lease.spec = Some(spec);
            ctx.api.update_as(&lease).await
        }
        None => {
            let node = ctx.api.get_as::<Node>("", name).await?;
            let owner = OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.clone(),
                uid: node.metadata.uid.unwrap_or_default(),
                ..OwnerReference::default()
            };
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some(LEASE_NAMESPACE.into()),
                    owner_references: Some(vec![owner]),
                    ..ObjectMeta::default()
                },
                spec: Some(spec),
            };
            ctx.api.create_as(&lease).await
        }
    }
}

/// Starts the pod network as soon as the node has its range, which is remembered for starts without the API.
pub async fn bring_up_network(
    ctx: Arc<Ctx>,
    up: watch::Sender<Option<DynNetwork>>,
    shutdown: CancellationToken,
) {
    let remembered = ctx.options.root_dir.join("pod-cidr");
    let work = async {
        loop {
            let cidr = match std::fs::read_to_string(&remembered) {
                Ok(text) => Some(text.trim().to_string()),
                Err(_) => from_api(&ctx).await,
            };
            if let Some(cidr) = cidr {
                match start_network(&ctx, &cidr, &shutdown).await {
                    Ok(network) => {
                        if let Err(error) = dirs::write(&remembered, cidr.as_bytes()) {
                            tracing::warn!(%error, "the node's pod range was not written to disk");
                        }
                        up.send_replace(Some(network));
                        return;
                    }
                    Err(error) => tracing::warn!(error, "the pod network did not start; trying again"),
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => return,
    }
    // The sender lives on, so that what reads the channel need not mind its end.
    shutdown.cancelled().await;
    drop(up);
}

async fn from_api(ctx: &Ctx) -> Option<String> {
    let node = ctx.api.find_as::<Node>("", &ctx.options.node_name).await;
    node.ok().flatten()?.spec?.pod_cidr.filter(|c| !c.is_empty())
}

async fn start_network(ctx: &Ctx, cidr: &str, shutdown: &CancellationToken) -> Result<DynNetwork, String> {
    let text = |e: crate::net::NetError| e.to_string();
    let (IpAddr::V4(node_ip), IpAddr::V4(cluster_dns)) = (ctx.options.node_ip, ctx.options.cluster_dns)
    else {
        return Err("the pod network needs IPv4 addresses of node and cluster DNS".into());
    };
    let config = NetConfig {
        node_name: ctx.options.node_name.clone(),
        node_ip,
        pod_cidr: cidr.parse::<Cidr>().map_err(text)?,
        service_cidr: SERVICE_CIDR.parse::<Cidr>().map_err(text)?,
        cluster_dns,
        cluster_domain: ctx.options.cluster_domain.clone(),
        root_dir: ctx.options.root_dir.clone(),
    };
    let network = Network::start(config, ctx.api.clone(), shutdown.clone()).await.map_err(text)?;
    network.reconcile(&attached(&ctx.options.root_dir)).await.map_err(text)?;
    Ok(Arc::new(network))
}

/// The pods with a network namespace on disk.
fn attached(root: &Path) -> Vec<(String, std::path::PathBuf)> {
    dirs::known(root)
        .into_iter()
        .map(|uid| {
            let netns = PodDir::new(root, &uid).namespace("net");
            (uid, netns)
        })
        .filter(|(_, netns)| crate::pod::sandbox::is_mount_point(netns))
        .collect()
}
