//! Links, addresses, neighbours and routes by rtnetlink.
//!
//! A pod's `eth0` is made by one message directly in the pod's namespace; creating it here and moving it costs ten times as
//! long. Neighbours are permanent on both sides: no ARP, hence no proxy_arp and nothing to wait for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::Path;

use futures::TryStreamExt;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_core::ErrorMessage;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{
    Handle, LinkBridge, LinkDummy, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use super::{Cidr, NetError};

/// What a pod sees as its router; exists on no link.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Marks our routes in the kernel, so that a later start finds them.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(75);
const POD_LINK: &str = "eth0";
pub(super) const DNS_LINK: &str = "kontiki-dns";
const VETH_PREFIX: &str = "kontiki";

/// A netlink connection to one network namespace.
pub(super) struct Links {
    handle: Handle,
}

/// The interface other nodes are reached through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Uplink {
    pub index: u32,
    pub mtu: u32,
}

trait Explain<T> {
    fn explain(self, what: impl FnOnce() -> String) -> Result<T, NetError>;
}

impl<T> Explain<T> for Result<T, rtnetlink::Error> {
    fn explain(self, what: impl FnOnce() -> String) -> Result<T, NetError> {
        self.map_err(|source| NetError::Netlink { what: what(), source })
    }
}

impl<T> Explain<T> for io::Result<T> {
    fn explain(self, what: impl FnOnce() -> String) -> Result<T, NetError> {
        self.map_err(|source| NetError::Io { what: what(), source })
    }
}

fn errno(error: &rtnetlink::Error) -> i32 {
    match error {
        rtnetlink::Error::NetlinkError(ErrorMessage { code: Some(code), .. }) => code.get().abs(),
        _ => 0,
    }
}

/// Success where the kernel says that it is so already.
fn unless(result: Result<(), rtnetlink::Error>, already: &[i32]) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if already.contains(&errno(&error)) => Ok(()),
        other => other,
    }
}

/// The node's side of a pod's link; unique, as the address is.
pub(super) fn veth_name(pod: Ipv4Addr) -> String {
    format!("{VETH_PREFIX}{:08x}", u32::from(pod))
}

fn pod_of_veth(name: &str) -> Option<Ipv4Addr> {
    let digits = name.strip_prefix(VETH_PREFIX).filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok().map(Ipv4Addr::from)
}

/// Locally administered addresses derived from the pod's, so that they need no record.
fn hardware_address(first: u8, pod: Ipv4Addr) -> Vec<u8> {
    let mut address = vec![first, 0x6b];
    address.extend(pod.octets());
    address
}

impl Links {
    /// Into the namespace this thread is in. Must be called within a tokio runtime.
    pub fn here() -> Result<Links, NetError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().explain(|| "cannot open a netlink socket".into())?;
        tokio::spawn(connection);
        Ok(Links { handle })
    }

    /// Into another namespace: a socket belongs to the namespace its maker was in, so a thread goes there to make it.
    pub async fn inside(netns: &File) -> Result<Links, NetError> {
        let what = || "cannot open a netlink socket in the pod's network namespace".to_owned();
        let netns = netns.try_clone().explain(what)?;
        let runtime = tokio::runtime::Handle::current();
        let (done, made) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("netns".into())
            .spawn(move || {
                let result = setns(netns, CloneFlags::CLONE_NEWNET).map_err(io::Error::from).and_then(|()| {
                    let _guard = runtime.enter();
                    rtnetlink::new_connection()
                });
                // The receiver is gone only when its task was cancelled; the socket closes with the value.
                drop(done.send(result));
            })
            .explain(what)?;
        let result = made.await.map_err(|_| io::Error::other("the thread died")).explain(what)?;
        let (connection, handle, _) = result.explain(what)?;
        tokio::spawn(connection);
        Ok(Links { handle })
    }

    async fn find(&self, name: &str) -> Result<Option<LinkMessage>, NetError> {
        match self.handle.link().get().match_name(name).execute().try_next().await {
            Ok(found) => Ok(found),
            Err(error) if errno(&error) == libc::ENODEV => Ok(None),
            Err(error) => Err(error).explain(|| format!("cannot look {name} up")),
        }
    }

    async fn index(&self, name: &str) -> Result<u32, NetError> {
        let gone = || io::Error::from_raw_os_error(libc::ENODEV);
        let found = self.find(name).await?;
        Ok(found.ok_or_else(gone).explain(|| format!("link {name} vanished"))?.header.index)
    }

    async fn remove(&self, name: &str) -> Result<(), NetError> {
        if let Some(link) = self.find(name).await? {
            unless(self.handle.link().del(link.header.index).execute().await, &[libc::ENODEV])
                .explain(|| format!("cannot remove {name}"))?;
        }
        Ok(())
    }

    async fn up(&self, index: u32) -> Result<(), NetError> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(message).execute().await.explain(|| format!("cannot set link {index} up"))
    }

    async fn address(&self, index: u32, address: Ipv4Addr) -> Result<(), NetError> {
        let added = self.handle.address().add(index, address.into(), 32).execute().await;
        unless(added, &[libc::EEXIST]).explain(|| format!("cannot add address {address}"))
    }

    async fn neighbour(&self, index: u32, address: Ipv4Addr, hardware: &[u8]) -> Result<(), NetError> {
        let request =
            self.handle.neighbours().add(index, address.into()).link_layer_address(hardware).replace();
        request.execute().await.explain(|| format!("cannot add neighbour {address}"))
    }

    async fn route(&self, route: RouteMessage, what: impl FnOnce() -> String) -> Result<(), NetError> {
        self.handle.route().add(route).replace().execute().await.explain(what)
    }

    /// The interface that has the node's address.
    pub async fn uplink(&self, node_ip: Ipv4Addr) -> Result<Uplink, NetError> {
        let mut addresses = self.handle.address().get().set_address_filter(IpAddr::V4(node_ip)).execute();
        let address = addresses.try_next().await.explain(|| "cannot list addresses".into())?;
        let index = address.ok_or(NetError::NodeAddress(node_ip))?.header.index;
        let link = self.handle.link().get().match_index(index).execute().try_next().await;
        let link =
            link.explain(|| format!("cannot look link {index} up"))?.ok_or(NetError::NodeAddress(node_ip))?;
        let mtu = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        // Loopback's 64 KiB would be a lie for a pod whose packets travel.
        Ok(Uplink { index, mtu: mtu.filter(|mtu| (576..=9000).contains(mtu)).unwrap_or(1500) })
    }

    /// The link that carries the DNS address and, by route, the service range, whose packets are rewritten before they
    /// could leave by it. A dummy link, or an empty bridge where the kernel has no dummies.
    pub async fn ensure_dns_link(
        &self,
        dns: Ipv4Addr,
        services: Cidr,
        node_ip: Ipv4Addr,
    ) -> Result<(), NetError> {
        if self.find(DNS_LINK).await?.is_none() {
            let dummy = self.handle.link().add(LinkDummy::new(DNS_LINK).build()).execute().await;
            if let Err(error) = dummy {
                if errno(&error) != libc::EOPNOTSUPP {
                    return Err(error).explain(|| format!("cannot create {DNS_LINK}"));
                }
                let bridge = self.handle.link().add(LinkBridge::new(DNS_LINK).build()).execute().await;
                bridge.explain(|| format!("cannot create {DNS_LINK}"))?;
            }
        }
        let index = self.index(DNS_LINK).await?;
        self.up(index).await?;
        self.address(index, dns).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(services.network(), services.prefix())
            .output_interface(index)
            .scope(RouteScope::Link)
            .protocol(PROTOCOL)
            .pref_source(node_ip)
            .build();
        self.route(route, || format!("cannot route the service range {services}")).await
    }

    /// Packets for pods that are not there are answered, and never leave the node.
    pub async fn catch_all(&self, pods: Cidr) -> Result<(), NetError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(pods.network(), pods.prefix())
            .kind(RouteType::Unreachable)
            .protocol(PROTOCOL)
            .build();
        self.route(route, || format!("cannot add the catch-all route for {pods}")).await
    }

    /// Makes the pod's link, both ends, with addresses and routes; keeps one that is there.
    pub async fn attach(
        &self,
        netns: &Path,
        pod: Ipv4Addr,
        node_ip: Ipv4Addr,
        mtu: u32,
    ) -> Result<(), NetError> {
        let namespace = File::open(netns).explain(|| format!("cannot open {}", netns.display()))?;
        let inside = Links::inside(&namespace).await?;
        let name = veth_name(pod);
        let (host_mac, pod_mac) = (hardware_address(0x0a, pod), hardware_address(0x02, pod));
        let whole = self.find(&name).await?.is_some() && inside.has(POD_LINK, &pod_mac).await?;
        if !whole {
            self.remove(&name).await?;
            inside.remove(POD_LINK).await?;
            let peer = LinkMessageBuilder::<LinkUnspec>::default()
                .name(POD_LINK.to_owned())
                .address(pod_mac.clone())
                .mtu(mtu)
                .setns_by_fd(namespace.as_raw_fd())
                .build();
            let veth = LinkMessageBuilder::<LinkVeth>::new(&name, POD_LINK)
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                .address(host_mac.clone())
                .mtu(mtu)
                .up()
                .build();
            self.handle.link().add(veth).execute().await.explain(|| format!("cannot create {name}"))?;
        }
        inside.furnish(pod, &host_mac).await?;

        let index = self.index(&name).await?;
        self.up(index).await?;
        // A pod may not send as another: what comes from its link must be routed back to it.
        sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "1")?;
        self.neighbour(index, pod, &pod_mac).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(pod, 32)
            .output_interface(index)
            .scope(RouteScope::Link)
            .protocol(PROTOCOL)
            .pref_source(node_ip)
            .build();
        self.route(route, || format!("cannot route pod address {pod}")).await
    }

    async fn has(&self, name: &str, hardware: &[u8]) -> Result<bool, NetError> {
        let found = self.find(name).await?;
        let ours =
            |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::Address(mac) if mac == hardware);
        Ok(found.is_some_and(|link| link.attributes.iter().any(ours)))
    }

    /// The pod's own side.
    async fn furnish(&self, pod: Ipv4Addr, gateway_mac: &[u8]) -> Result<(), NetError> {
        self.up(self.index("lo").await?).await?;
        let index = self.index(POD_LINK).await?;
        self.up(index).await?;
        self.address(index, pod).await?;
        self.neighbour(index, GATEWAY, gateway_mac).await?;
        let gateway = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(GATEWAY, 32)
            .output_interface(index)
            .scope(RouteScope::Link)
            .build();
        self.route(gateway, || "cannot route the pod's gateway".into()).await?;
        let default =
            RouteMessageBuilder::<Ipv4Addr>::new().gateway(GATEWAY).output_interface(index).onlink().build();
        self.route(default, || "cannot add the pod's default route".into()).await
    }

    pub async fn detach(&self, pod: Ipv4Addr) -> Result<(), NetError> {
        self.remove(&veth_name(pod)).await
    }

    /// The addresses that have a link of ours, whether recorded or not.
    pub async fn attached(&self) -> Result<Vec<Ipv4Addr>, NetError> {
        let links: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.explain(|| "cannot list links".into())?;
        let name_of = |link: &LinkMessage| {
            link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => pod_of_veth(name),
                _ => None,
            })
        };
        Ok(links.iter().filter_map(name_of).collect())
    }

    /// Makes the routes by way of other nodes exactly `wanted` (network → node address). Only routes that an earlier call
    /// made are removed.
    pub async fn set_node_routes(
        &self,
        wanted: &BTreeMap<Cidr, Ipv4Addr>,
        uplink: u32,
    ) -> Result<(), NetError> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let present: Vec<RouteMessage> = self
            .handle
            .route()
            .get(all)
            .execute()
            .try_collect()
            .await
            .explain(|| "cannot list routes".into())?;
        let mut keep = BTreeMap::new();
        for route in present {
            let Some((network, gateway)) = node_route(&route) else { continue };
            if wanted.get(&network) == Some(&gateway) {
                keep.insert(network, gateway);
            } else if !wanted.contains_key(&network) {
                unless(self.handle.route().del(route).execute().await, &[libc::ESRCH])
                    .explain(|| format!("cannot remove the route to {network}"))?;
            }
        }
        for (network, gateway) in wanted {
            if keep.contains_key(network) {
                continue;
            }
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(network.network(), network.prefix())
                .gateway(*gateway)
                .output_interface(uplink)
                .protocol(PROTOCOL)
                .onlink()
                .build();
            self.route(route, || format!("cannot route {network} by way of {gateway}")).await?;
        }
        Ok(())
    }
}

/// Network and gateway of a route of ours that leads to another node.
fn node_route(route: &RouteMessage) -> Option<(Cidr, Ipv4Addr)> {
    if route.header.protocol != PROTOCOL || route.header.kind != RouteType::Unicast {
        return None;
    }
    let mut network = None;
    let mut gateway = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => network = Some(*address),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            _ => {}
        }
    }
    Some((Cidr::new(network?, route.header.destination_prefix_length), gateway?))
}

/// Writes a kernel setting of this thread's network namespace; `path` is relative to `/proc/sys`.
pub(super) fn sysctl(path: &str, value: &str) -> Result<(), NetError> {
    let path = format!("/proc/sys/{path}");
    let already = std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value);
    if already {
        return Ok(());
    }
    std::fs::write(&path, value).explain(|| format!("cannot write {value} to {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_name_fits_the_kernel_and_tells_its_pod() {
        let pod = Ipv4Addr::new(10, 244, 1, 200);
        let name = veth_name(pod);
        assert_eq!(name, "kontiki0af401c8");
        assert!(name.len() <= 15);
        assert_eq!(pod_of_veth(&name), Some(pod));
        assert_eq!(pod_of_veth(DNS_LINK), None);
        assert_eq!(pod_of_veth("kontiki-br0"), None);
    }
}
