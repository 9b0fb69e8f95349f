//! From Services and EndpointSlices to the elements of the maps: a pure function.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::super::{Cidr, NetConfig, routes};
use super::ruleset::{Deny, Dispatch, Ruleset};

/// Upstream's default of `sessionAffinityConfig.clientIP.timeoutSeconds`: three hours.
const DEFAULT_STICKINESS: u32 = 10_800;
/// Service counts with this many endpoints or fewer have a chain of their own; see [`slots`].
pub(super) const EXACT: usize = 64;
/// The one size above; also the most endpoints of one service port that get traffic from a node.
pub(super) const LARGE: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::net) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    fn parse(name: Option<&str>) -> Option<Protocol> {
        match name.unwrap_or("TCP") {
            "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// Where clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::net) struct Front {
    pub protocol: Protocol,
    pub address: Ipv4Addr,
    pub port: u16,
}

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} . {} . {}", self.protocol, self.address, self.port)
    }
}

/// Where they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::net) struct Back {
    pub address: Ipv4Addr,
    pub port: u16,
}

impl fmt::Display for Back {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} . {}", self.address, self.port)
    }
}

/// What of the node the rules depend on.
#[derive(Clone, Debug)]
pub(in crate::net) struct View {
    pub node_name: String,
    pub node_ip: Ipv4Addr,
    pub pod_cidr: Cidr,
    pub service_cidr: Cidr,
    pub cluster_dns: Ipv4Addr,
}

impl From<&NetConfig> for View {
    fn from(config: &NetConfig) -> View {
        View {
            node_name: config.node_name.clone(),
            node_ip: config.node_ip,
            pod_cidr: config.pod_cidr,
            service_cidr: config.service_cidr,
            cluster_dns: config.cluster_dns,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    back: Back,
    local: bool,
}

type Slices<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>;

/// The same input gives the same ruleset; of two services that claim one address and port the first by namespace and name has it.
pub(in crate::net) fn compile(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    nodes: &[Arc<Node>],
    view: &View,
) -> Ruleset {
    let mut rules = Ruleset::new(view.clone());
    for node in nodes {
        let peer = routes::peer(node);
        rules.inside.extend(peer.pods);
        rules.inside.extend(peer.address.map(|address| Cidr::new(address, 32)));
    }
    rules.inside.extend([view.pod_cidr, view.service_cidr, Cidr::new(view.node_ip, 32)]);

    let mut by_service = Slices::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let labels = slice.metadata.labels.as_ref();
        if let (Some(namespace), Some(service)) = (
            slice.metadata.namespace.as_deref(),
            labels.and_then(|labels| labels.get("kubernetes.io/service-name")),
        ) {
            by_service.entry((namespace, service.as_str())).or_default().push(slice);
        }
    }
    for service in services {
        add_service(&mut rules, service, &by_service);
    }
    rules
}

fn add_service(rules: &mut Ruleset, service: &Service, slices: &Slices<'_>) {
    let Some(spec) = &service.spec else { return };
    let cluster_addresses = cluster_addresses(service);
    if spec.type_.as_deref() == Some("ExternalName") || cluster_addresses.is_empty() {
        return;
    }
    let metadata = &service.metadata;
    let key =
        (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default());
    let slices = slices.get(&key).map_or(&[][..], Vec::as_slice);
    let sticky = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        let seconds = config.and_then(|config| config.timeout_seconds).and_then(|s| u32::try_from(s).ok());
        seconds.filter(|seconds| (1..=86_400).contains(seconds)).unwrap_or(DEFAULT_STICKINESS)
    });
    let local_inside = spec.internal_traffic_policy.as_deref() == Some("Local");
    let local_outside = spec.external_traffic_policy.as_deref() == Some("Local");

    for port in spec.ports.iter().flatten() {
        let (Some(protocol), Ok(number)) =
            (Protocol::parse(port.protocol.as_deref()), u16::try_from(port.port))
        else {
            continue;
        };
        let candidates = endpoints(slices, port, protocol, &rules.view.node_name);
        rules.hairpin.extend(candidates.iter().filter(|c| c.local).map(|c| c.back.address));
        let all: Vec<Back> = candidates.iter().map(|candidate| candidate.back).collect();
        let local: Vec<Back> = candidates.iter().filter(|c| c.local).map(|c| c.back).collect();

        for address in &cluster_addresses {
            if *address == rules.view.cluster_dns {
                continue;
            }
            let front = Front { protocol, address: *address, port: number };
            let chosen = if local_inside { &local } else { &all };
            match (chosen.is_empty(), all.is_empty()) {
                (false, _) => {
                    rules.serve(front, chosen, Dispatch { masquerade: false, sticky, inside_only: false })
                }
                (true, false) => rules.deny(front, Deny::Drop),
                (true, true) => rules.deny(front, Deny::Refuse),
            }
        }
        for (address, port) in outside_fronts(service, port, number, rules.view.node_ip) {
            let front = Front { protocol, address, port };
            let cluster_wide = Dispatch { masquerade: true, sticky, inside_only: false };
            match (all.is_empty(), local_outside, local.is_empty()) {
                (true, _, _) => rules.deny(front, Deny::Refuse),
                (false, false, _) => rules.serve(front, &all, cluster_wide),
                (false, true, false) => {
                    rules.serve(front, &local, Dispatch { masquerade: false, sticky, inside_only: false });
                }
                // What comes from outside was meant for another node; what comes from inside may use any endpoint.
                (false, true, true) => {
                    rules.serve(front, &all, Dispatch { inside_only: true, ..cluster_wide });
                    rules.deny(front, Deny::Drop);
                }
            }
        }
    }
}

/// IPv4 cluster addresses; none for headless services.
fn cluster_addresses(service: &Service) -> Vec<Ipv4Addr> {
    let spec = service.spec.iter();
    let addresses: BTreeSet<Ipv4Addr> = spec
        .flat_map(|spec| spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip))
        .filter_map(|address| address.parse().ok())
        .collect();
    addresses.into_iter().collect()
}

/// Node port, external addresses and load-balancer addresses of a port.
fn outside_fronts(
    service: &Service,
    port: &ServicePort,
    number: u16,
    node_ip: Ipv4Addr,
) -> Vec<(Ipv4Addr, u16)> {
    let mut fronts = Vec::new();
    if let Some(node_port) = port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
    {
        fronts.push((node_ip, node_port));
    }
    let spec = service.spec.iter();
    let external = spec.flat_map(|spec| spec.external_ips.iter().flatten()).map(String::as_str);
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.into_iter().flat_map(|status| status.ingress.iter().flatten());
    // `Proxy` asks that traffic from inside goes through the balancer itself.
    let ingress =
        ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy")).flat_map(|i| i.ip.as_deref());
    fronts.extend(
        external.chain(ingress).filter_map(|address| address.parse().ok()).map(|address| (address, number)),
    );
    fronts
}

/// Ready endpoints; where there are none, those that still serve while they terminate.
fn endpoints(
    slices: &[&EndpointSlice],
    port: &ServicePort,
    protocol: Protocol,
    node: &str,
) -> Vec<Candidate> {
    let mut ready = BTreeSet::new();
    let mut leaving = BTreeSet::new();
    let wanted = port.name.as_deref().unwrap_or_default();
    for slice in slices {
        let matching = slice.ports.iter().flatten().find(|candidate| {
            candidate.name.as_deref().unwrap_or_default() == wanted
                && Protocol::parse(candidate.protocol.as_deref()) == Some(protocol)
        });
        let Some(target) = matching.and_then(|port| port.port).and_then(|port| u16::try_from(port).ok())
        else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let is_ready = conditions.ready.unwrap_or(true);
            let serves = conditions.serving.unwrap_or(is_ready);
            let set = match (is_ready, serves && conditions.terminating.unwrap_or(false)) {
                (true, _) => &mut ready,
                (false, true) => &mut leaving,
                (false, false) => continue,
            };
            let local = endpoint.node_name.as_deref() == Some(node);
            if let Some(address) = endpoint.addresses.first().and_then(|address| address.parse().ok()) {
                set.insert(Candidate { back: Back { address, port: target }, local });
            }
        }
    }
    let chosen = if ready.is_empty() { leaving } else { ready };
    chosen.into_iter().collect()
}

/// How the endpoints fill the slots of a chain. Up to [`EXACT`] each has one slot; more are spread over [`LARGE`] slots, where
/// no endpoint has more than a fifteenth above its share.
pub(super) fn slots(backs: &[Back]) -> (usize, impl Iterator<Item = (usize, Back)> + '_) {
    let size = if backs.len() <= EXACT { backs.len() } else { LARGE };
    (size, backs.iter().cycle().take(size).copied().enumerate())
}
