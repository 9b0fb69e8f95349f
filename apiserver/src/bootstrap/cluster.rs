//! The fixed objects of every cluster, and the endpoints of its API.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

/// In the order they have to be made.
pub(super) fn namespaces() -> Vec<Value> {
    ["default", "kube-system", "kube-public", "kube-node-lease"]
        .into_iter()
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .collect()
}

/// Priority classes, the service network, and the two services with an address of their own.
pub(super) fn objects(service_cidr: &str, api_port: u16) -> Vec<Value> {
    let class = |name: &str, value: i64, description: &str| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description,
        })
    };
    let mut objects = vec![
        class(
            "system-cluster-critical",
            2_000_000_000,
            "For pods the cluster needs, on whichever node they run.",
        ),
        class(
            "system-node-critical",
            2_000_001_000,
            "For pods a node needs, which cannot run on another one.",
        ),
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": [service_cidr]},
        }),
    ];
    if let Some(address) = address(service_cidr, 1) {
        objects.push(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "namespace": "default", "name": "kubernetes",
                "labels": {"component": "apiserver", "provider": "kubernetes"},
            },
            "spec": {
                "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": api_port}],
            },
        }));
    }
    if let Some(address) = address(service_cidr, 10) {
        objects.push(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "namespace": "kube-system", "name": "kube-dns",
                "labels": {
                    "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
                },
            },
            "spec": {
                "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
                ],
            },
        }));
    }
    objects
}

/// The n-th address of an IPv4 network; `None` where it is none or has no such address.
fn address(cidr: &str, n: u32) -> Option<String> {
    let (network, bits) = cidr.split_once('/')?;
    let bits: u32 = bits.parse().ok().filter(|bits| *bits <= 32)?;
    let network = u32::from(network.parse::<Ipv4Addr>().ok()?);
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    let address = (network & mask) | n;
    (address & mask == network & mask).then(|| Ipv4Addr::from(address).to_string())
}

/// Those of the addresses that a pod can reach, by port. Names and loopback addresses lead a pod nowhere.
fn by_port(addresses: &[String]) -> BTreeMap<u16, Vec<IpAddr>> {
    let mut ports: BTreeMap<u16, Vec<IpAddr>> = BTreeMap::new();
    for address in addresses.iter().filter_map(|address| address.parse::<SocketAddr>().ok()) {
        let ip = address.ip();
        if ip.is_ipv4() && !ip.is_loopback() && !ip.is_unspecified() {
            ports.entry(address.port()).or_default().push(ip);
        }
    }
    for ips in ports.values_mut() {
        ips.sort_unstable();
        ips.dedup();
    }
    ports
}

/// Names the maker of a slice, so that only our own are ever deleted.
pub(super) const MANAGED_BY: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "kontiki-apiserver");

/// One slice for each port the servers listen on, and the `Endpoints` with all of them. Nothing without a reachable
/// server.
pub(super) fn endpoints(addresses: &[String]) -> Vec<Value> {
    let ports = by_port(addresses);
    let mut objects = Vec::new();
    let mut subsets = Vec::new();
    for (at, (port, ips)) in ports.iter().enumerate() {
        let name = if at == 0 { "kubernetes".to_string() } else { format!("kubernetes-{port}") };
        let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
        let endpoints: Vec<_> =
            ips.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
        objects.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "namespace": "default", "name": name,
                "labels": {"kubernetes.io/service-name": "kubernetes", MANAGED_BY.0: MANAGED_BY.1},
            },
            "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
        }));
        let ips: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        subsets.push(json!({"addresses": ips, "ports": ports}));
    }
    if !subsets.is_empty() {
        objects.push(json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {
                "namespace": "default", "name": "kubernetes",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
            },
            "subsets": subsets,
        }));
    }
    objects
}

/// The port most servers listen on.
pub(super) fn usual_port(addresses: &[String]) -> u16 {
    let parsed = addresses.iter().filter_map(|address| address.rsplit_once(':')?.1.parse().ok());
    parsed.min().unwrap_or(6443)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_on_one_port_share_a_slice() {
        let addresses = ["10.0.0.2:6443", "10.0.0.1:6443", "127.0.0.1:6443", "name:6443"].map(String::from);
        let objects = endpoints(&addresses);
        assert_eq!(objects.len(), 2);
        let ips: Vec<_> =
            objects[0]["endpoints"].as_array().expect("a list").iter().map(|e| &e["addresses"][0]).collect();
        assert_eq!(ips, ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(objects[1]["subsets"][0]["ports"][0]["port"], 6443);
    }

    #[test]
    fn servers_on_several_ports_have_a_slice_each() {
        let addresses = ["10.0.0.1:7001", "10.0.0.1:7002"].map(String::from);
        let objects = endpoints(&addresses);
        let names: Vec<_> = objects.iter().map(|o| &o["metadata"]["name"]).collect();
        assert_eq!(names, ["kubernetes", "kubernetes-7002", "kubernetes"]);
        assert_eq!(objects[2]["subsets"].as_array().map(Vec::len), Some(2));
        assert!(endpoints(&["127.0.0.1:6443".into()]).is_empty());
    }

    #[test]
    fn service_addresses_come_from_the_network() {
        for (cidr, n, expected) in [
            ("10.96.0.0/16", 1, Some("10.96.0.1")),
            ("10.96.0.0/16", 10, Some("10.96.0.10")),
            ("10.0.0.0/30", 10, None),
            ("fd00::/64", 1, None),
            ("nonsense", 1, None),
        ] {
            assert_eq!(address(cidr, n).as_deref(), expected, "{cidr}");
        }
    }
}
