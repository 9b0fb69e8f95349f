//! What all parts of the agent share.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use kontiki_proto::DynApi;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::Options;
use crate::net::Network;
use crate::pod::env::Sources;
use crate::pod::events::Recorder;
use crate::pod::objects::Objects;
use crate::runtime::Containerd;
use crate::volume::token::Tokens;

/// How many containers start at the same time; more of them only wait for each other in runc.
const STARTS: usize = 4;
const PULLS: usize = 4;

/// The pods' side of the node's network.
#[async_trait]
pub trait PodNetwork: Send + Sync {
    /// Idempotent; the primary address first.
    async fn attach(&self, pod_uid: &str, netns: &Path) -> Result<Vec<IpAddr>, String>;
    async fn detach(&self, pod_uid: &str) -> Result<(), String>;
}

#[async_trait]
impl PodNetwork for Network {
    async fn attach(&self, pod_uid: &str, netns: &Path) -> Result<Vec<IpAddr>, String> {
        Network::attach(self, pod_uid, netns).await.map(|ips| ips.all).map_err(|e| e.to_string())
    }

    async fn detach(&self, pod_uid: &str) -> Result<(), String> {
        Network::detach(self, pod_uid).await.map_err(|e| e.to_string())
    }
}

pub type DynNetwork = Arc<dyn PodNetwork>;

/// What this machine has and lets the agent do; read once.
#[derive(Clone, Debug)]
pub struct Machine {
    pub cpus: usize,
    pub memory_bytes: u64,
    /// The least `oom_score_adj` the agent may give.
    pub oom_floor: i32,
    /// Capabilities the agent itself has, and so may hand on.
    pub capabilities: Vec<&'static str>,
}

impl Machine {
    pub fn read() -> Machine {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bounding = status
            .lines()
            .find_map(|l| l.strip_prefix("CapBnd:"))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(u64::MAX);
        let capabilities = crate::runtime::spec::ALL_CAPABILITIES
            .into_iter()
            .enumerate()
            .filter(|(bit, _)| bounding & (1 << bit) != 0)
            .map(|(_, name)| name)
            .collect::<Vec<_>>();
        let own = std::fs::read_to_string("/proc/self/oom_score_adj")
            .ok()
            .and_then(|s| s.trim().parse().ok())
            .unwrap_or(0);
        // Lowering the score is a privilege; without it a container creation would fail with a misleading error.
        let may_lower = capabilities.contains(&"CAP_SYS_RESOURCE");
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory_kb = memory
            .lines()
            .find_map(|l| l.strip_prefix("MemTotal:"))
            .and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0);
        Machine {
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: memory_kb * 1024,
            oom_floor: if may_lower { -1000 } else { own },
            capabilities,
        }
    }

    /// CPU and memory as quantities, by resource name.
    pub fn allocatable(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("cpu".to_string(), self.cpus.to_string()),
            ("memory".to_string(), format!("{}Ki", self.memory_bytes / 1024)),
        ])
    }
}

/// Shared by everything on this node; lives as long as the agent.
pub struct Ctx {
    pub options: Options,
    pub machine: Machine,
    pub api: DynApi,
    pub containerd: Containerd,
    /// `None` until the node has a pod network range.
    pub network: watch::Receiver<Option<DynNetwork>>,
    pub objects: Objects,
    pub tokens: Tokens,
    pub events: Recorder,
    pub starts: Semaphore,
    pub pulls: Semaphore,
    /// The pod of each running container, by container id: whom an event concerns.
    pub owners: Mutex<HashMap<String, String>>,
}

impl Ctx {
    pub fn new(
        options: Options,
        api: DynApi,
        containerd: Containerd,
        network: watch::Receiver<Option<DynNetwork>>,
        events: Recorder,
    ) -> Ctx {
        Ctx {
            machine: Machine::read(),
            objects: Objects::new(api.clone()),
            tokens: Tokens::new(api.clone()),
            options,
            api,
            containerd,
            network,
            events,
            starts: Semaphore::new(STARTS),
            pulls: Semaphore::new(PULLS),
            owners: Mutex::default(),
        }
    }

    /// The sources of downward fields, without objects.
    pub fn fields(&self, pod_ips: Vec<IpAddr>) -> Sources {
        Sources {
            pod_ips,
            node_ip: Some(self.options.node_ip),
            node_name: self.options.node_name.clone(),
            allocatable: self.machine.allocatable(),
            ..Sources::default()
        }
    }

    /// The cgroup of a pod, below the node's own.
    pub fn pod_cgroup(&self, uid: &str) -> String {
        format!("/{}/pod{uid}", self.options.cgroup_parent.trim_matches('/'))
    }
}
