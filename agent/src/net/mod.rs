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
mod dns;
mod ipam;
mod link;
mod reflector;
mod routes;
mod service;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kontiki_proto::DynApi;
use tokio_util::sync::CancellationToken;

pub use cidr::Cidr;
use ipam::Ipam;
use link::{Links, Uplink};
use reflector::reflect;

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
    shared: Arc<Shared>,
}

struct Shared {
    config: Arc<NetConfig>,
    links: Arc<Links>,
    uplink: Uplink,
    /// Locked for the length of a call on one pod's address, never over the kernel's work on its link.
    ipam: parking_lot::Mutex<Ipam>,
    /// One pod's calls follow each other; those of different pods run side by side.
    pods: parking_lot::Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// How long the kernel's part of one attach or detach may take.
const DEADLINE: Duration = Duration::from_secs(30);

impl Network {
    /// Prepares the namespace (forwarding, the DNS address, catch-all routes), takes over the pods recorded under
    /// `root_dir`, and starts services, routes and DNS in the background until `shutdown`. Does not wait for the
    /// control plane.
    pub async fn start(
        config: NetConfig,
        api: DynApi,
        shutdown: CancellationToken,
    ) -> Result<Network, NetError> {
        let ipam = Ipam::open(&config.root_dir.join("net/pods"), config.pod_cidr)?;
        let links = Links::here()?;
        let uplink = links.uplink(config.node_ip).await?;
        link::sysctl("net/ipv4/ip_forward", "1")?;
        // The stricter of this and the link's own setting counts; pods' links set theirs.
        link::sysctl("net/ipv4/conf/all/rp_filter", "0")?;
        links.ensure_dns_link(config.cluster_dns, config.service_cidr, config.node_ip).await?;
        links.catch_all(config.pod_cidr).await?;
        let sockets = dns::bind(config.cluster_dns).await?;

        let config = Arc::new(config);
        let links = Arc::new(links);
        let services = reflect::<Service>(api.clone(), shutdown.clone());
        let slices = reflect::<EndpointSlice>(api.clone(), shutdown.clone());
        let nodes = reflect::<Node>(api, shutdown.clone());
        let view = service::View::from(&*config);
        let of_services = service::follow(services.clone(), slices.clone(), nodes.clone(), view);
        let of_routes = routes::follow(nodes, Arc::clone(&links), uplink, Arc::clone(&config));
        let until = shutdown.clone();
        tokio::spawn(async move { until.run_until_cancelled(of_services).await });
        let until = shutdown.clone();
        tokio::spawn(async move { until.run_until_cancelled(of_routes).await });
        let own =
            (config.cluster_domain.clone(), vec![config.service_cidr, config.pod_cidr], config.cluster_dns);
        tokio::spawn(dns::follow(sockets, services, slices, own, shutdown));

        let shared = Shared { config, links, uplink, ipam: ipam.into(), pods: Default::default() };
        Ok(Network { shared: Arc::new(shared) })
    }

    /// Gives the pod its address and its `eth0` in `netns` (a path such as a bind-mounted `/proc/…/ns/net`).
    /// Idempotent: a pod that is attached keeps its address, and what is missing is made again.
    pub async fn attach(&self, pod_uid: &str, netns: &Path) -> Result<PodIps, NetError> {
        let turn = self.turn(pod_uid);
        let _turn = turn.lock().await;
        let address = self.shared.ipam.lock().assign(pod_uid)?;
        let Shared { config, links, uplink, .. } = &*self.shared;
        bounded("attaching a pod", links.attach(netns, address, config.node_ip, uplink.mtu)).await?;
        Ok(address.into())
    }

    /// The addresses of an attached pod.
    pub fn addresses(&self, pod_uid: &str) -> Option<PodIps> {
        self.shared.ipam.lock().get(pod_uid).map(PodIps::from)
    }

    /// Takes link and address back. A pod that is not attached is no error.
    pub async fn detach(&self, pod_uid: &str) -> Result<(), NetError> {
        let turn = self.turn(pod_uid);
        let _turn = turn.lock().await;
        let Some(address) = self.shared.ipam.lock().get(pod_uid) else { return Ok(()) };
        // The address is free only when nothing answers to it any more.
        bounded("detaching a pod", self.shared.links.detach(address)).await?;
        self.shared.ipam.lock().release(pod_uid)?;
        self.shared.pods.lock().remove(pod_uid);
        Ok(())
    }

    /// Makes the network agree with the pods there are: attaches each of `live` again, detaches all others and
    /// removes links that belong to none. All of it is tried; the first error is returned. Not to be called beside an
    /// `attach` of a pod that is not in `live`.
    pub async fn reconcile(&self, live: &[(String, PathBuf)]) -> Result<(), NetError> {
        let mut result = Ok(());
        let mut note = |outcome: Result<(), NetError>| {
            if let Err(error) = outcome {
                tracing::warn!(%error, "the pod network is not as it should be");
                if result.is_ok() {
                    result = Err(error);
                }
            }
        };
        let wanted: HashSet<&str> = live.iter().map(|(uid, _)| uid.as_str()).collect();
        let recorded: Vec<String> = self.shared.ipam.lock().pods().map(|(uid, _)| uid.to_owned()).collect();
        for uid in recorded.iter().filter(|uid| !wanted.contains(uid.as_str())) {
            note(self.detach(uid).await);
        }
        for (uid, netns) in live {
            note(self.attach(uid, netns).await.map(drop));
        }
        let known: HashSet<Ipv4Addr> = self.shared.ipam.lock().pods().map(|(_, address)| address).collect();
        match self.shared.links.attached().await {
            Ok(attached) => {
                for stray in attached.into_iter().filter(|address| !known.contains(address)) {
                    note(self.shared.links.detach(stray).await);
                }
            }
            Err(error) => note(Err(error)),
        }
        result
    }

    fn turn(&self, pod_uid: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.shared.pods.lock().entry(pod_uid.to_owned()).or_default())
    }
}

async fn bounded<T>(
    what: &'static str,
    work: impl Future<Output = Result<T, NetError>>,
) -> Result<T, NetError> {
    tokio::time::timeout(DEADLINE, work).await.unwrap_or(Err(NetError::Deadline(what, DEADLINE.as_secs())))
}
