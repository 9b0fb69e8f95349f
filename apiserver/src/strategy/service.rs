//! Services and the endpoints behind them.

use serde_json::{Value, json};

use super::names::NameRule;
use super::value::{carry, default, has, is_set, list, list_mut, object, remove, set, text};
use super::{Entry, PLAIN, Strategy};

pub(super) static KINDS: &[Entry] = &[
    ("", "services", Strategy { names: NameRule::Label1035, default: service, prepare_update, ..PLAIN }),
    ("", "endpoints", Strategy { default: endpoints, create_on_update: true, ..PLAIN }),
    ("discovery.k8s.io", "endpointslices", Strategy { default: slice, generation: true, ..PLAIN }),
];

fn service(service: &mut Value) {
    let spec = object(service, "spec");
    default(spec, "sessionAffinity", "None");
    default(spec, "type", "ClusterIP");
    if spec["sessionAffinity"] == "ClientIP" {
        let client = object(object(spec, "sessionAffinityConfig"), "clientIP");
        default(client, "timeoutSeconds", 10_800);
    } else {
        remove(spec, "sessionAffinityConfig");
    }
    for port in list_mut(spec, "ports") {
        default(port, "protocol", "TCP");
        if matches!(port["targetPort"].as_i64(), Some(0)) || !is_set(port, "targetPort") {
            let number = port["port"].clone();
            if !number.is_null() {
                set(port, "targetPort", number);
            }
        }
    }
    let kind = text(spec, "type").to_owned();
    let balanced = kind == "LoadBalancer";
    if balanced || kind == "NodePort" || (kind == "ClusterIP" && !list(spec, "externalIPs").is_empty()) {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        default(spec, "internalTrafficPolicy", "Cluster");
        default(spec, "ipFamilyPolicy", "SingleStack");
        if list(spec, "ipFamilies").is_empty() {
            let headless_without_pods = text(spec, "clusterIP") == "None" && !is_set(spec, "selector");
            let family = match text(spec, "clusterIP").contains(':') {
                true if !headless_without_pods => "IPv6",
                _ => "IPv4",
            };
            set(spec, "ipFamilies", json!([family]));
        }
    }
    if balanced {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// What has been given to a service stays with it when the client leaves it out; what its type cannot have goes.
fn prepare_update(new: &mut Value, old: &Value) {
    let old = &old["spec"];
    let new = object(new, "spec");
    let (kind, before) = (text(new, "type").to_owned(), text(old, "type").to_owned());
    let external = kind == "ExternalName";
    if external && before != "ExternalName" {
        for key in ["clusterIP", "clusterIPs"] {
            if new.get(key) == old.get(key) {
                remove(new, key);
            }
        }
        for key in ["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if new.get(key) == old.get(key) {
                remove(new, key);
            }
        }
    }
    if !external && before != "ExternalName" {
        if !is_set(new, "clusterIP") {
            carry(new, old, "clusterIP");
        }
        if list(new, "clusterIPs").is_empty() && new.get("clusterIP") == old.get("clusterIP") {
            carry(new, old, "clusterIPs");
        }
        for key in ["ipFamilies", "ipFamilyPolicy"] {
            if !has(new, key) {
                carry(new, old, key);
            }
        }
    }
    let node_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    let known = list(old, "ports").to_vec();
    if node_ports(&kind) && node_ports(&before) {
        for port in list_mut(new, "ports").filter(|port| port["nodePort"].as_i64().unwrap_or(0) == 0) {
            let same =
                |other: &&Value| other["port"] == port["port"] && other["protocol"] == port["protocol"];
            if let Some(number) = known.iter().find(same).and_then(|p| p.get("nodePort")) {
                set(port, "nodePort", number.clone());
            }
        }
        if !has(new, "healthCheckNodePort") && text(new, "externalTrafficPolicy") == "Local" {
            carry(new, old, "healthCheckNodePort");
        }
    } else if node_ports(&before) && !node_ports(&kind) {
        for port in list_mut(new, "ports") {
            if known.iter().any(|other| other["nodePort"] == port["nodePort"]) {
                remove(port, "nodePort");
            }
        }
        for key in [
            "externalTrafficPolicy",
            "healthCheckNodePort",
            "allocateLoadBalancerNodePorts",
            "loadBalancerClass",
        ] {
            if new.get(key) == old.get(key)
                && (key != "externalTrafficPolicy" || list(new, "externalIPs").is_empty())
            {
                remove(new, key);
            }
        }
    }
}

fn endpoints(endpoints: &mut Value) {
    for subset in list_mut(endpoints, "subsets") {
        for port in list_mut(subset, "ports") {
            default(port, "protocol", "TCP");
        }
    }
}

fn slice(slice: &mut Value) {
    for port in list_mut(slice, "ports") {
        if !has(port, "name") {
            set(port, "name", "");
        }
        default(port, "protocol", "TCP");
    }
}
