//! Routes to the pods of other nodes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;

use super::link::{Links, Uplink};
use super::reflector::Cache;
use super::{Cidr, NetConfig};

const RETRY: Duration = Duration::from_secs(2);

/// A node as the network sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub address: Option<Ipv4Addr>,
    pub pods: Option<Cidr>,
}

pub(super) fn peer(node: &Node) -> Peer {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let address = addresses
        .into_iter()
        .flatten()
        .find_map(|address| (address.type_ == "InternalIP").then(|| address.address.parse().ok()).flatten());
    let spec = node.spec.as_ref();
    let networks = spec.into_iter().flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
    Peer { address, pods: networks.filter_map(|network| network.parse().ok()).next() }
}

/// The routes this node needs. Where two nodes claim one network, the first by name has it.
pub(super) fn plan(nodes: &[Arc<Node>], config: &NetConfig) -> BTreeMap<Cidr, Ipv4Addr> {
    let mut routes = BTreeMap::new();
    for node in nodes {
        if node.metadata.name.as_deref() == Some(&config.node_name) {
            continue;
        }
        if let Peer { address: Some(address), pods: Some(pods) } = peer(node)
            && address != config.node_ip
            && pods != config.pod_cidr
        {
            routes.entry(pods).or_insert(address);
        }
    }
    routes
}

/// Follows the Nodes for ever; an error of the kernel is logged and tried again.
pub(super) async fn follow(
    nodes: Arc<Cache<Node>>,
    links: Arc<Links>,
    uplink: Uplink,
    config: Arc<NetConfig>,
) {
    let mut version = nodes.version();
    let mut done: Option<BTreeMap<Cidr, Ipv4Addr>> = None;
    loop {
        if version.wait_for(|version| *version > 0).await.is_err() {
            return;
        }
        version.mark_unchanged();
        let wanted = plan(&nodes.all(), &config);
        if done.as_ref() != Some(&wanted) {
            match links.set_node_routes(&wanted, uplink.index).await {
                Ok(()) => done = Some(wanted),
                Err(error) => {
                    tracing::warn!(%error, "routes to other nodes are incomplete; trying again");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
        }
        if version.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, address: &str, pods: &str) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name},
                "spec": {"podCIDR": pods, "podCIDRs": [pods]},
                "status": {"addresses": [
                    {"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}]},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn each_other_node_gets_one_route_and_this_one_none() {
        let config = NetConfig {
            node_name: "a".into(),
            node_ip: "10.0.0.1".parse().unwrap(),
            pod_cidr: "10.244.0.0/24".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            cluster_dns: "10.96.0.10".parse().unwrap(),
            cluster_domain: "cluster.local".into(),
            root_dir: "/nonexistent".into(),
        };
        let nodes = [
            node("a", "10.0.0.1", "10.244.0.0/24"),
            node("b", "10.0.0.2", "10.244.1.0/24"),
            node("thief", "10.0.0.9", "10.244.0.0/24"),
            node("new", "10.0.0.4", ""),
        ];
        let expected: BTreeMap<Cidr, Ipv4Addr> =
            [("10.244.1.0/24".parse().unwrap(), "10.0.0.2".parse().unwrap())].into();
        assert_eq!(plan(&nodes, &config), expected);
    }
}
