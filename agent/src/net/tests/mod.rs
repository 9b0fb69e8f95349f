//! The network on real kernels: nodes and pods are network namespaces of this process, which needs root.

mod bench;
mod fake;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{NetConfig, Network, PodIps};
use bench::{Netns, root, talk, until};
use fake::Fake;

const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 5);

fn config(name: &str, node_ip: &str, pods: &str, dir: &std::path::Path) -> NetConfig {
    NetConfig {
        node_name: name.into(),
        node_ip: node_ip.parse().unwrap(),
        pod_cidr: pods.parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        cluster_dns: DNS,
        cluster_domain: "cluster.local".into(),
        root_dir: dir.to_owned(),
    }
}

fn v4(ips: &PodIps) -> Ipv4Addr {
    match ips.primary {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address}"),
    }
}

fn node(name: &str, address: &str, pods: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"podCIDR": pods},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]}})
}

/// `web.shop` on [`VIP`], TCP 80 and UDP 90.
fn service(more: Value) -> Value {
    let mut spec = json!({"clusterIP": VIP.to_string(), "clusterIPs": [VIP.to_string()], "ports": [
        {"name": "http", "port": 80}, {"name": "udp", "port": 90, "protocol": "UDP"}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})
}

fn slice(endpoints: &[(Ipv4Addr, &str)]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, node)| json!({"addresses": [address.to_string()], "nodeName": node}))
        .collect();
    json!({"metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [
            {"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "udp", "port": 9090, "protocol": "UDP"}]})
}

/// One node with two pods that serve, `a` and `b`.
struct Single {
    api: Arc<Fake>,
    node: Netns,
    network: Network,
    a: (Netns, Ipv4Addr),
    b: (Netns, Ipv4Addr),
    dir: tempfile::TempDir,
    shutdown: CancellationToken,
}

impl Single {
    async fn start(node: Netns) -> Single {
        let api = Fake::new();
        api.put("nodes", self::node("n1", "192.168.77.1", "10.244.1.0/24"));
        let dir = tempfile::tempdir().unwrap();
        let shutdown = CancellationToken::new();
        let config = config("n1", "192.168.77.1", "10.244.1.0/24", dir.path());
        let network = Network::start(config, api.clone(), shutdown.clone()).await.unwrap();
        let mut pods = Vec::new();
        for name in ["a", "b"] {
            let netns = Netns::new();
            let address = v4(&network.attach(name, &netns.path()).await.unwrap());
            netns.serve(address, 8080, name);
            pods.push((netns, address));
        }
        let (b, a) = (pods.pop().unwrap(), pods.pop().unwrap());
        Single { api, node, network, a, b, dir, shutdown }
    }

    /// The agent dies and another one starts; the pods know nothing of it.
    async fn restart(&mut self) {
        self.shutdown.cancel();
        self.shutdown = CancellationToken::new();
        let config = config("n1", "192.168.77.1", "10.244.1.0/24", self.dir.path());
        // The old one's DNS socket closes a moment after.
        loop {
            match Network::start(config.clone(), self.api.clone(), self.shutdown.clone()).await {
                Ok(network) => return self.network = network,
                Err(super::NetError::Io { source, .. }) if source.kind() == std::io::ErrorKind::AddrInUse => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn serve_both(&self, more: Value) {
        self.api.put("services", service(more));
        self.api.put("endpointslices", slice(&[(self.a.1, "n1"), (self.b.1, "n1")]));
    }
}

/// Everybody who answers 40 connections.
async fn answering(client: &Netns, address: Ipv4Addr, port: u16) -> String {
    let mut found = BTreeSet::new();
    for _ in 0..40 {
        found.insert(client.call(address, port).await);
    }
    found.into_iter().collect::<Vec<_>>().join(" ")
}

#[test]
fn root_pods_and_their_node_reach_each_other() {
    if !root() {
        return;
    }
    let netns = Netns::with_address("192.168.77.1");
    netns.clone().block_on(async move {
        let s = Single::start(netns).await;
        assert_eq!(s.a.0.call(s.b.1, 8080).await, "b");
        assert_eq!(s.b.0.call(s.a.1, 8080).await, "a");
        assert_eq!(s.node.call(s.a.1, 8080).await, "a");
        s.node.serve("192.168.77.1".parse().unwrap(), 7070, "node");
        assert_eq!(s.a.0.call("192.168.77.1".parse().unwrap(), 7070).await, "node");
        let nobody = s.a.0.call("10.244.1.200".parse().unwrap(), 80).await;
        assert_eq!(nobody, "HostUnreachable", "a pod that is not there is told so at once");
    });
}

#[test]
fn root_attaching_again_changes_nothing_and_detaching_leaves_nothing() {
    if !root() {
        return;
    }
    let netns = Netns::with_address("192.168.77.1");
    netns.clone().block_on(async move {
        let mut s = Single::start(netns).await;
        let open = s.a.0.connect(s.b.1, 8080).await;
        assert_eq!(v4(&s.network.attach("b", &s.b.0.path()).await.unwrap()), s.b.1);
        s.restart().await;
        assert_eq!(v4(&s.network.attach("b", &s.b.0.path()).await.unwrap()), s.b.1);
        assert_eq!(talk(&open), "b hello\n");

        s.network.reconcile(&[("b".into(), s.b.0.path())]).await.unwrap();
        assert_eq!(s.network.addresses("a"), None);
        s.network.detach("b").await.unwrap();
        s.network.detach("b").await.unwrap();
        let links =
            s.node.run(|| std::process::Command::new("ip").args(["-o", "link"]).output().unwrap()).await;
        let links = String::from_utf8(links.stdout).unwrap();
        assert!(!links.contains("kontiki0af4"), "{links}");
        assert_eq!(std::fs::read_dir(s.dir.path().join("net/pods")).unwrap().count(), 0);
    });
}

#[test]
fn root_a_service_spreads_over_its_endpoints_and_forgets_removed_ones() {
    if !root() {
        return;
    }
    let netns = Netns::with_address("192.168.77.1");
    netns.clone().block_on(async move {
        let s = Single::start(netns).await;
        let client = Netns::new();
        s.network.attach("client", &client.path()).await.unwrap();
        s.serve_both(json!({"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}));
        until("a b", || answering(&client, VIP, 80)).await;
        until("a b", || answering(&s.node, VIP, 80)).await;
        // Its own service may lead a pod back to itself.
        until("a b", || answering(&s.a.0, VIP, 80)).await;
        until("a b", || answering(&client, "192.168.77.1".parse().unwrap(), 30080)).await;
        assert_eq!(client.call(VIP, 81).await, "ConnectionRefused");
        assert_eq!(s.node.call("10.96.9.9".parse().unwrap(), 80).await, "ConnectionRefused");

        s.api.put("endpointslices", slice(&[(s.b.1, "n1")]));
        until("b", || answering(&client, VIP, 80)).await;
        s.api.put("endpointslices", slice(&[]));
        until("ConnectionRefused", || client.call(VIP, 80)).await;
        until("ConnectionRefused", || s.node.call("192.168.77.1".parse().unwrap(), 30080)).await;
        s.api.put("endpointslices", slice(&[(s.a.1, "n1")]));
        until("a", || client.call(VIP, 80)).await;
        s.api.remove("services", "shop", "web");
        until("ConnectionRefused", || client.call(VIP, 80)).await;
    });
}

#[test]
fn root_connections_and_stickiness_survive_the_agent() {
    if !root() {
        return;
    }
    let netns = Netns::with_address("192.168.77.1");
    netns.clone().block_on(async move {
        let mut s = Single::start(netns).await;
        let client = Netns::new();
        s.network.attach("client", &client.path()).await.unwrap();
        s.serve_both(json!({"sessionAffinity": "ClientIP"}));
        until("true", || async { ["a", "b"].contains(&client.call(VIP, 80).await.as_str()).to_string() })
            .await;
        let stuck = client.call(VIP, 80).await;
        assert_eq!(answering(&client, VIP, 80).await, stuck);
        let open = client.connect(VIP, 80).await;

        s.shutdown.cancel();
        assert_eq!(client.call(VIP, 80).await, stuck, "services go on without an agent");
        s.restart().await;
        assert_eq!(talk(&open), format!("{stuck} hello\n"));
        // A change that the new agent has made shows that it is in charge.
        s.api.put("services", service(json!({"sessionAffinity": "ClientIP", "externalIPs": ["192.0.2.7"]})));
        until("true", || async {
            let answer = client.call("192.0.2.7".parse().unwrap(), 80).await;
            ["a", "b"].contains(&answer.as_str()).to_string()
        })
        .await;
        assert_eq!(answering(&client, VIP, 80).await, stuck);

        // An endpoint that is gone holds nobody.
        let (other, address) = if stuck == "a" { ("b", s.b.1) } else { ("a", s.a.1) };
        s.api.put("endpointslices", slice(&[(address, "n1")]));
        until(other, || client.call(VIP, 80)).await;
        assert_eq!(answering(&client, VIP, 80).await, other);
    });
}

#[test]
fn root_a_udp_flow_leaves_a_removed_endpoint() {
    if !root() {
        return;
    }
    if std::process::Command::new("conntrack").arg("--version").output().is_err() {
        println!("skipped: needs the conntrack tool");
        return;
    }
    let netns = Netns::with_address("192.168.77.1");
    netns.clone().block_on(async move {
        let s = Single::start(netns).await;
        let mut servers = Vec::new();
        for (netns, address) in [&s.a, &s.b] {
            let address = *address;
            let socket = netns.run(move || UdpSocket::bind((address, 9090)).unwrap()).await;
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            servers.push(socket);
        }
        let client = Netns::new();
        s.network.attach("client", &client.path()).await.unwrap();
        let sender = client.run(|| UdpSocket::bind("0.0.0.0:4567").unwrap()).await;
        s.api.put("services", service(json!({})));
        let heard = async |endpoint: usize, expected: &str| {
            until(expected, || {
                sender.send_to(b"x", (VIP, 90)).unwrap();
                let got = servers[endpoint].recv(&mut [0; 8]).is_ok();
                // recv blocks this thread; the agent's tasks need their turn.
                async move {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    if got { "heard".to_owned() } else { "silent".to_owned() }
                }
            })
            .await;
        };
        s.api.put("endpointslices", slice(&[(s.a.1, "n1")]));
        heard(0, "heard").await;
        s.api.put("endpointslices", slice(&[(s.b.1, "n1")]));
        heard(1, "heard").await;
        heard(0, "silent").await;
    });
}

#[test]
fn root_names_are_answered_over_udp_and_tcp() {
    if !root() {
        return;
    }
    let netns = Netns::with_address("192.168.77.1");
    netns.clone().block_on(async move {
        let s = Single::start(netns).await;
        s.serve_both(json!({}));
        let name = "web.shop.svc.cluster.local.";
        until("10.96.0.5 NoError", || s.a.0.resolve(DNS, name, false)).await;
        assert_eq!(s.a.0.resolve(DNS, name, true).await, "10.96.0.5 NoError");
        assert_eq!(s.node.resolve(DNS, name, false).await, "10.96.0.5 NoError");
        assert_eq!(s.a.0.resolve(DNS, "none.shop.svc.cluster.local.", false).await, "NXDomain");
        let headless = json!({"clusterIP": "None", "clusterIPs": ["None"]});
        s.api.put("services", service(headless));
        let both = format!("{} {} NoError", s.a.1, s.b.1);
        until(&both, || s.b.0.resolve(DNS, name, false)).await;
    });
}

/// Two nodes on one wire, as processes of their own would be: each with its own runtime in its own namespace.
#[test]
fn root_pods_reach_pods_and_services_on_another_node() {
    if !root() {
        return;
    }
    let (one, two) = (Netns::new(), Netns::new());
    one.ip(&format!("link add kontiki-t type veth peer name kontiki-t netns {}", two.path().display()));
    for (netns, address) in [(&one, "192.168.77.1"), (&two, "192.168.77.2")] {
        netns.ip(&format!("addr add {address}/24 dev kontiki-t"));
        netns.ip("link set kontiki-t up");
    }
    let api = Fake::new();
    api.put("nodes", node("n1", "192.168.77.1", "10.244.1.0/24"));
    api.put("nodes", node("n2", "192.168.77.2", "10.244.2.0/24"));
    let remote = Netns::new();
    let (up, address) = tokio::sync::oneshot::channel();
    let shutdown = CancellationToken::new();
    let second = {
        let (two, remote, api, shutdown) = (two.clone(), remote.clone(), api.clone(), shutdown.clone());
        std::thread::spawn(move || {
            two.block_on(async move {
                let dir = tempfile::tempdir().unwrap();
                let config = config("n2", "192.168.77.2", "10.244.2.0/24", dir.path());
                let network = Network::start(config, api, shutdown.clone()).await.unwrap();
                up.send(v4(&network.attach("remote", &remote.path()).await.unwrap())).unwrap();
                shutdown.cancelled().await;
            });
        })
    };
    let stop = shutdown.clone();
    one.clone().block_on(async move {
        let _stop = stop.drop_guard();
        let dir = tempfile::tempdir().unwrap();
        let config = config("n1", "192.168.77.1", "10.244.1.0/24", dir.path());
        let network = Network::start(config, api.clone(), shutdown.clone()).await.unwrap();
        let local = Netns::new();
        network.attach("local", &local.path()).await.unwrap();
        let address = address.await.unwrap();
        assert_eq!(address.octets()[2], 2);
        remote.serve(address, 8080, "remote");
        until("remote", || local.call(address, 8080)).await;
        until("remote", || one.call(address, 8080)).await;

        api.put(
            "services",
            service(json!({"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]})),
        );
        api.put("endpointslices", slice(&[(address, "n2")]));
        until("remote", || local.call(VIP, 80)).await;
        until("remote", || one.call(VIP, 80)).await;
        until("remote", || remote.call(VIP, 80)).await;
        until("remote", || two.call("192.168.77.1".parse().unwrap(), 30080)).await;

        api.remove("nodes", "", "n2");
        until("HostUnreachable TimedOut NetworkUnreachable", || async {
            match local.call(address, 8080).await.as_str() {
                "HostUnreachable" | "TimedOut" | "NetworkUnreachable" => {
                    "HostUnreachable TimedOut NetworkUnreachable".to_owned()
                }
                other => other.to_owned(),
            }
        })
        .await;
    });
    second.join().unwrap();
}
