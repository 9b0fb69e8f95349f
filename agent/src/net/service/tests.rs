use std::process::{Command, Stdio};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::compile::{View, compile};
use super::conntrack::stale;
use super::ruleset::Ruleset;

fn view() -> View {
    View {
        node_name: "n1".into(),
        node_ip: "10.0.0.1".parse().unwrap(),
        pod_cidr: "10.244.1.0/24".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        cluster_dns: "10.96.0.10".parse().unwrap(),
    }
}

fn service(spec: Value) -> Arc<Service> {
    let document = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
    Arc::new(serde_json::from_value(document).unwrap())
}

/// Endpoints by address, node and readiness, on port 8080.
fn slice(endpoints: &[(&str, &str, bool)]) -> Arc<EndpointSlice> {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, node, ready)| {
            json!({"addresses": [address], "nodeName": node, "conditions": {"ready": ready}})
        })
        .collect();
    let document = json!({
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}, {"name": "udp", "port": 5353, "protocol": "UDP"}],
        "endpoints": endpoints,
    });
    Arc::new(serde_json::from_value(document).unwrap())
}

fn compiled(spec: Value, endpoints: &[(&str, &str, bool)]) -> Ruleset {
    compile(&[service(spec)], &[slice(endpoints)], &[], &view())
}

/// The `add element` commands of a compiled service, without what every node has.
#[track_caller]
fn check(spec: Value, endpoints: &[(&str, &str, bool)], expected: &[&str]) {
    let script = compiled(spec, endpoints).take_over();
    let lines: Vec<&str> = script
        .lines()
        .filter_map(|line| line.strip_prefix("add element ip kontiki "))
        .filter(|line| !line.starts_with("inside"))
        .collect();
    assert_eq!(lines, expected);
}

const TWO: &[(&str, &str, bool)] = &[("10.244.1.2", "n1", true), ("10.244.2.2", "n2", true)];

fn cluster_ip(more: Value) -> Value {
    let mut spec = json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

#[test]
fn a_service_is_one_verdict_and_one_slot_for_each_ready_endpoint() {
    let endpoints = [TWO, &[("10.244.1.9", "n1", false)]].concat();
    check(
        cluster_ip(json!({})),
        &endpoints,
        &[
            "svc { tcp . 10.96.0.5 . 80 : goto n2 }",
            "eps { tcp . 10.96.0.5 . 80 . 0 : 10.244.1.2 . 8080, tcp . 10.96.0.5 . 80 . 1 : 10.244.2.2 . 8080 }",
            "hairpin { 10.244.1.2 . 10.244.1.2 }",
        ],
    );
}

#[test]
fn without_endpoints_clients_are_refused() {
    check(cluster_ip(json!({})), &[], &["deny { tcp . 10.96.0.5 . 80 : goto refuse }"]);
}

#[test]
fn an_internal_policy_of_local_keeps_to_this_node() {
    let spec = cluster_ip(json!({"internalTrafficPolicy": "Local"}));
    check(
        spec.clone(),
        TWO,
        &[
            "svc { tcp . 10.96.0.5 . 80 : goto n1 }",
            "eps { tcp . 10.96.0.5 . 80 . 0 : 10.244.1.2 . 8080 }",
            "hairpin { 10.244.1.2 . 10.244.1.2 }",
        ],
    );
    check(spec, &[("10.244.2.2", "n2", true)], &["deny { tcp . 10.96.0.5 . 80 : drop }"]);
}

#[test]
fn a_node_port_is_served_on_the_nodes_address_and_masqueraded() {
    let spec = cluster_ip(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}));
    check(
        spec,
        &[("10.244.2.2", "n2", true)],
        &[
            "svc { tcp . 10.0.0.1 . 30080 : goto m1, tcp . 10.96.0.5 . 80 : goto n1 }",
            "eps { tcp . 10.0.0.1 . 30080 . 0 : 10.244.2.2 . 8080, tcp . 10.96.0.5 . 80 . 0 : 10.244.2.2 . 8080 }",
        ],
    );
}

#[test]
fn an_external_policy_of_local_keeps_the_client_and_serves_insiders_from_anywhere() {
    let spec = cluster_ip(json!({
        "type": "NodePort", "externalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30080}]}));
    check(
        spec.clone(),
        TWO,
        &[
            "svc { tcp . 10.0.0.1 . 30080 : goto n1, tcp . 10.96.0.5 . 80 : goto n2 }",
            "eps { tcp . 10.0.0.1 . 30080 . 0 : 10.244.1.2 . 8080, tcp . 10.96.0.5 . 80 . 0 : 10.244.1.2 . 8080, tcp . 10.96.0.5 . 80 . 1 : 10.244.2.2 . 8080 }",
            "hairpin { 10.244.1.2 . 10.244.1.2 }",
        ],
    );
    check(
        spec,
        &[("10.244.2.2", "n2", true)],
        &[
            "svc { tcp . 10.96.0.5 . 80 : goto n1 }",
            "near { tcp . 10.0.0.1 . 30080 : goto m1 }",
            "eps { tcp . 10.0.0.1 . 30080 . 0 : 10.244.2.2 . 8080, tcp . 10.96.0.5 . 80 . 0 : 10.244.2.2 . 8080 }",
            "deny { tcp . 10.0.0.1 . 30080 : drop }",
        ],
    );
}

#[test]
fn a_sticky_service_draws_an_address_that_is_kept() {
    let spec = cluster_ip(json!({
        "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 90}}}));
    check(
        spec,
        &[("10.244.2.2", "n2", true)],
        &[
            "svc { tcp . 10.96.0.5 . 80 : goto a1 }",
            "draw { tcp . 10.96.0.5 . 80 . 0 : 0x0af40202 }",
            "held { 0x0af40202 . tcp . 10.96.0.5 . 80 : 10.244.2.2 . 8080 }",
            "holds { 0x0af40202 . tcp . 10.96.0.5 . 80 }",
            "keep { tcp . 10.96.0.5 . 80 : goto t90 }",
        ],
    );
}

#[test]
fn headless_external_and_dns_services_have_no_rules() {
    check(
        json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}),
        TWO,
        &[
        // Nothing: no endpoint of a service without address can be reached through one.
    ],
    );
    check(json!({"type": "ExternalName", "externalName": "x.example"}), &[], &[]);
    check(json!({"clusterIP": "10.96.0.10", "ports": [{"port": 53}]}), &[], &[]);
}

#[test]
fn more_endpoints_than_chains_share_the_large_chain_evenly() {
    let addresses: Vec<String> = (0..100).map(|n| format!("10.244.2.{n}")).collect();
    let endpoints: Vec<(&str, &str, bool)> = addresses.iter().map(|a| (a.as_str(), "n2", true)).collect();
    let script = compiled(cluster_ip(json!({})), &endpoints).take_over();
    assert!(script.contains("goto n1024 }"), "{script}");
    let share = |address: &str| script.matches(&format!(": {address} . 8080")).count();
    assert!(addresses.iter().all(|address| (10..=11).contains(&share(address))));
}

#[test]
fn a_change_is_its_elements_alone() {
    let before = compiled(cluster_ip(json!({})), TWO);
    let after = compiled(cluster_ip(json!({})), &TWO[..1]);
    assert_eq!(before.schema(), after.schema());
    assert_eq!(
        after.change_from(&before),
        "delete element ip kontiki svc { tcp . 10.96.0.5 . 80 }\n\
         add element ip kontiki svc { tcp . 10.96.0.5 . 80 : goto n1 }\n\
         delete element ip kontiki eps { tcp . 10.96.0.5 . 80 . 1 }\n"
    );
    assert_eq!(after.change_from(&after), "");
}

#[test]
fn a_new_stickiness_needs_new_chains() {
    let sticky = |seconds: i32| {
        let config = json!({"clientIP": {"timeoutSeconds": seconds}});
        compiled(cluster_ip(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config})), TWO)
    };
    assert_eq!(sticky(10_800).schema(), compiled(cluster_ip(json!({})), TWO).schema());
    assert_ne!(sticky(77).schema(), sticky(78).schema());
}

#[test]
fn udp_flows_of_a_removed_endpoint_are_stale_and_tcp_flows_are_not() {
    let spec = cluster_ip(json!({"ports": [{"port": 80}, {"name": "udp", "port": 53, "protocol": "UDP"}]}));
    let (none, one, two) =
        (compiled(spec.clone(), &[]), compiled(spec.clone(), &TWO[..1]), compiled(spec, TWO));
    let told = |old: &Ruleset, new: &Ruleset| -> Vec<String> {
        stale(old, new).iter().map(|flow| format!("{} {:?}", flow.front, flow.endpoint)).collect()
    };
    assert_eq!(told(&two, &one), ["udp . 10.96.0.5 . 53 Some(10.244.2.2)"]);
    assert_eq!(told(&none, &one), ["udp . 10.96.0.5 . 53 None"]);
    assert!(told(&one, &two).is_empty());
}

#[test]
fn the_inside_is_pods_nodes_and_services_without_overlap() {
    let node = |name: &str, address: &str, pods: &str| -> Arc<Node> {
        let addresses = json!([{"type": "InternalIP", "address": address}]);
        let document = json!({"metadata": {"name": name}, "spec": {"podCIDR": pods}, "status": {"addresses": addresses}});
        Arc::new(serde_json::from_value(document).unwrap())
    };
    let nodes = [node("n1", "10.0.0.1", "10.244.1.0/24"), node("odd", "10.244.1.7", "10.244.2.0/24")];
    let script = compile(&[], &[], &nodes, &view()).take_over();
    let expected =
        "add element ip kontiki inside { 10.0.0.1/32, 10.244.1.0/24, 10.244.2.0/24, 10.96.0.0/16 }\n";
    assert!(script.contains(expected), "{script}");
}

/// `nft -c` checks the whole transaction against the kernel and changes nothing.
#[test]
fn root_nft_accepts_every_transaction() {
    // SAFETY: geteuid has no precondition and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: needs root");
        return;
    }
    let spec = cluster_ip(json!({"type": "NodePort", "sessionAffinity": "ClientIP",
        "ports": [{"port": 80, "nodePort": 30080}, {"name": "udp", "port": 53, "protocol": "UDP"}]}));
    for rules in [compiled(spec, TWO), compiled(cluster_ip(json!({})), &[])] {
        let mut nft = Command::new("nft").args(["-c", "-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut nft.stdin.take().unwrap(), rules.load().as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success());
    }
}
