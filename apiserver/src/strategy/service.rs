//! Services and the endpoints behind them.

use std::collections::BTreeSet;

use kontiki_proto::status::FieldError;
use serde_json::{Value, json};

use super::check::{Errors, all, one_of, port, port_number, required_one_of};
use super::names::{self, NameRule};
use super::value::{carry, default, has, int, is_set, list, list_mut, object, remove, same, set, text};
use super::{Entry, PLAIN, Strategy, meta};
use crate::schema::Path;

pub(super) static KINDS: &[Entry] = &[
    (
        "",
        "services",
        Strategy {
            names: NameRule::Label1035,
            default: service,
            prepare_create: pair_addresses,
            prepare_update,
            validate,
            validate_update,
            ..PLAIN
        },
    ),
    (
        "",
        "endpoints",
        Strategy { default: endpoints, validate: validate_endpoints, create_on_update: true, ..PLAIN },
    ),
    (
        "discovery.k8s.io",
        "endpointslices",
        Strategy {
            default: slice,
            validate: validate_slice,
            validate_update: update_slice,
            generation: true,
            ..PLAIN
        },
    ),
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

/// `clusterIP` is the first of `clusterIPs`, whichever of them the client wrote.
fn pair_addresses(service: &mut Value) {
    let spec = object(service, "spec");
    let first = list(spec, "clusterIPs").first().cloned();
    match (is_set(spec, "clusterIP"), first) {
        (true, None) => {
            let address = spec["clusterIP"].clone();
            set(spec, "clusterIPs", json!([address]));
        }
        (false, Some(first)) => set(spec, "clusterIP", first),
        _ => (),
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
        let changed = is_set(new, "clusterIP") && new.get("clusterIP") != old.get("clusterIP");
        if changed && new.get("clusterIPs") == old.get("clusterIPs") {
            let address = new["clusterIP"].clone();
            set(new, "clusterIPs", json!([address]));
        }
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

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

fn validate(service: &Value, errors: &mut Errors) {
    let (spec, path) = (&service["spec"], Path::of("spec"));
    let kind = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None";
    if list(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required(path.key("ports"), ""));
    }
    required_one_of(spec, "type", &path, &TYPES, errors);
    let addresses = path.key("clusterIPs");
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let why = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid(addresses.item(0), "None", &why));
        }
        "ExternalName" => {
            if is_set(spec, "clusterIP") || !list(spec, "clusterIPs").is_empty() {
                let why = "may not be set for ExternalName services";
                errors.push(FieldError::forbidden(addresses, why));
            }
            for key in ["ipFamilies", "ipFamilyPolicy"] {
                if has(spec, key) {
                    let why = "may not be set for ExternalName services";
                    errors.push(FieldError::forbidden(path.key(key), why));
                }
            }
            let name = text(spec, "externalName").trim_end_matches('.');
            if name.is_empty() {
                errors.push(FieldError::required(path.key("externalName"), ""));
            } else {
                all(path.key("externalName"), text(spec, "externalName"), names::subdomain(name), errors);
            }
        }
        _ => (),
    }
    ports(spec, &path, errors);
    meta::labels(&spec["selector"], &path.key("selector"), errors);
    affinity(spec, &path, errors);
    cluster_addresses(spec, &path, errors);
    let external = path.key("externalIPs");
    for (at, ip) in list(spec, "externalIPs").iter().enumerate() {
        let ip = ip.as_str().unwrap_or_default();
        if let Some(message) = names::ip(ip).or_else(|| special(ip).map(str::to_owned)) {
            errors.push(FieldError::invalid(external.item(at), ip, &message));
        }
    }
    // Upstream spells the field so in its messages.
    let ranges = path.key("LoadBalancerSourceRanges");
    if !list(spec, "loadBalancerSourceRanges").is_empty() && kind != "LoadBalancer" {
        let why = "may only be used when `type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden(ranges, why));
    }
    for (at, range) in list(spec, "loadBalancerSourceRanges").iter().enumerate() {
        let range = range.as_str().unwrap_or_default().trim();
        if let Some(message) = names::cidr(range) {
            errors.push(FieldError::invalid(ranges.item(at), range, &message));
        }
    }
    if has(spec, "allocateLoadBalancerNodePorts") && kind != "LoadBalancer" {
        let why = "may only be used when `type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden(path.key("allocateLoadBalancerNodePorts"), why));
    }
    let checked = kind == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local";
    if let Some(port) = int(spec, "healthCheckNodePort").filter(|port| *port != 0 && !checked) {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid(path.key("healthCheckNodePort"), port, why));
    }
    if is_set(spec, "loadBalancerClass") && kind != "LoadBalancer" {
        let why = "may only be used when `type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden(path.key("loadBalancerClass"), why));
    }
    traffic(spec, kind, &path, errors);
}

/// Why an address cannot be one to reach a service from outside.
fn special(ip: &str) -> Option<&'static str> {
    let ip: std::net::IpAddr = ip.parse().ok()?;
    let link_local = match ip {
        std::net::IpAddr::V4(ip) => ip.is_link_local(),
        std::net::IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if ip.is_unspecified() {
        Some("may not be unspecified (0.0.0.0 or ::)")
    } else if ip.is_loopback() {
        Some("may not be in the loopback range (127.0.0.0/8, ::1/128)")
    } else if link_local {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    } else {
        None
    }
}

fn traffic(spec: &Value, kind: &str, path: &Path, errors: &mut Errors) {
    let outside = matches!(kind, "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && !list(spec, "externalIPs").is_empty());
    let policy = text(spec, "externalTrafficPolicy");
    match (outside, policy) {
        (true, "") => errors.push(FieldError::required(path.key("externalTrafficPolicy"), "")),
        (false, policy) if !policy.is_empty() => errors.push(FieldError::invalid(
            path.key("externalTrafficPolicy"),
            policy,
            "may only be set for externally-accessible services",
        )),
        _ => one_of(spec, "externalTrafficPolicy", path, &["Cluster", "Local"], errors),
    }
    one_of(spec, "internalTrafficPolicy", path, &["Cluster", "Local"], errors);
    one_of(spec, "trafficDistribution", path, &["PreferClose", "PreferSameNode", "PreferSameZone"], errors);
    one_of(spec, "ipFamilyPolicy", path, &["SingleStack", "PreferDualStack", "RequireDualStack"], errors);
    let families = path.key("ipFamilies");
    let mut known = BTreeSet::new();
    for (at, family) in list(spec, "ipFamilies").iter().enumerate() {
        let family = family.as_str().unwrap_or_default();
        if !matches!(family, "IPv4" | "IPv6") {
            errors.push(FieldError::not_supported(families.item(at), family, &["IPv4", "IPv6"]));
        } else if !known.insert(family) {
            errors.push(FieldError::duplicate(families.item(at), family));
        }
    }
}

fn ports(spec: &Value, path: &Path, errors: &mut Errors) {
    let here = path.key("ports");
    let all_ports = list(spec, "ports");
    let kind = text(spec, "type");
    let (mut known_names, mut known, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (at, one) in all_ports.iter().enumerate() {
        let place = here.item(at);
        let name = text(one, "name");
        if name.is_empty() {
            if all_ports.len() > 1 {
                errors.push(FieldError::required(place.key("name"), ""));
            }
        } else {
            all(place.key("name"), name, names::label(name), errors);
            if !known_names.insert(name) {
                errors.push(FieldError::duplicate(place.key("name"), name));
            }
        }
        port_number(&one["port"], &place.key("port"), errors);
        required_one_of(one, "protocol", &place, &["SCTP", "TCP", "UDP"], errors);
        port(&one["targetPort"], &place.key("targetPort"), errors);
        let application = text(one, "appProtocol");
        if !application.is_empty() {
            all(place.key("appProtocol"), application, names::qualified(application), errors);
        }
        let protocol = text(one, "protocol");
        if !known.insert((protocol, int(one, "port"))) {
            let shown = json!({"protocol": protocol, "port": one["port"]});
            errors.push(FieldError::duplicate(place, shown));
        }
        let Some(node_port) = int(one, "nodePort").filter(|port| *port != 0) else { continue };
        if kind == "ClusterIP" {
            let why = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(place.key("nodePort"), why));
        }
        if !node_ports.insert((protocol, node_port)) {
            errors.push(FieldError::duplicate(place.key("nodePort"), node_port));
        }
    }
}

/// A day, which upstream takes for long enough.
const LONGEST_AFFINITY: i64 = 86_400;

fn affinity(spec: &Value, path: &Path, errors: &mut Errors) {
    required_one_of(spec, "sessionAffinity", path, &["ClientIP", "None"], errors);
    if text(spec, "sessionAffinity") == "ClientIP"
        && let Some(seconds) = int(&spec["sessionAffinityConfig"]["clientIP"], "timeoutSeconds")
        && !(1..=LONGEST_AFFINITY).contains(&seconds)
    {
        let (config, client) = (path.key("sessionAffinityConfig"), "clientIP");
        let client = config.key(client);
        let why = format!("must be greater than 0 and less than {LONGEST_AFFINITY}");
        errors.push(FieldError::invalid(client.key("timeoutSeconds"), seconds, &why));
    }
}

fn cluster_addresses(spec: &Value, path: &Path, errors: &mut Errors) {
    let here = path.key("clusterIPs");
    let addresses = list(spec, "clusterIPs");
    if let Some(first) = addresses.first()
        && is_set(spec, "clusterIP")
        && first != &spec["clusterIP"]
    {
        errors.push(FieldError::invalid(here, addresses, "first value must match `clusterIP`"));
    }
    for (at, address) in addresses.iter().enumerate() {
        let address = address.as_str().unwrap_or_default();
        if address == "None" {
            if at > 0 {
                let why = "'None' must be the first and only value";
                errors.push(FieldError::invalid(here.item(at), address, why));
            }
        } else if let Some(message) = names::ip(address) {
            errors.push(FieldError::invalid(here.item(at), address, &message));
        }
    }
    if addresses.len() > 2 {
        let why = "may only hold up to 2 values";
        errors.push(FieldError::invalid(here, addresses, why));
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old, path) = (&new["spec"], &old["spec"], Path::of("spec"));
    let named = |spec: &Value| text(spec, "type") == "ExternalName";
    if named(new) || named(old) {
        return;
    }
    let here = path.key("clusterIPs");
    let (now, before) = (list(new, "clusterIPs"), list(old, "clusterIPs"));
    if let Some(first) = before.first()
        && now.first() != Some(first)
    {
        errors.push(FieldError::invalid(here.item(0), now, "may not change once set"));
    }
    if is_set(old, "loadBalancerClass")
        && text(new, "type") == "LoadBalancer"
        && text(old, "type") == "LoadBalancer"
        && !same(&new["loadBalancerClass"], &old["loadBalancerClass"])
    {
        let why = "may not change once set";
        errors.push(FieldError::invalid(path.key("loadBalancerClass"), &new["loadBalancerClass"], why));
    }
}

fn validate_endpoints(endpoints: &Value, errors: &mut Errors) {
    let subsets = Path::of("subsets");
    for (at, subset) in list(endpoints, "subsets").iter().enumerate() {
        let here = subsets.item(at);
        if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
            let why = "must specify `addresses` or `notReadyAddresses`";
            errors.push(FieldError::required(here, why));
        }
        for kind in ["addresses", "notReadyAddresses"] {
            let place = here.key(kind);
            for (nth, address) in list(subset, kind).iter().enumerate() {
                let ip = text(address, "ip");
                if let Some(message) = names::ip(ip) {
                    errors.push(FieldError::invalid(place.item(nth).key("ip"), ip, &message));
                }
            }
        }
        let (place, many) = (here.key("ports"), list(subset, "ports").len() > 1);
        for (nth, one) in list(subset, "ports").iter().enumerate() {
            let spot = place.item(nth);
            if many && text(one, "name").is_empty() {
                errors.push(FieldError::required(spot.key("name"), ""));
            } else if !text(one, "name").is_empty() {
                all(spot.key("name"), text(one, "name"), names::label(text(one, "name")), errors);
            }
            port_number(&one["port"], &spot.key("port"), errors);
            required_one_of(one, "protocol", &spot, &["SCTP", "TCP", "UDP"], errors);
        }
    }
}

fn validate_slice(slice: &Value, errors: &mut Errors) {
    let kind = text(slice, "addressType");
    required_one_of(slice, "addressType", &Path::Root, &["FQDN", "IPv4", "IPv6"], errors);
    let endpoints = Path::of("endpoints");
    if list(slice, "endpoints").len() > 1000 {
        errors.push(FieldError::invalid(
            "endpoints",
            list(slice, "endpoints").len(),
            "must have at most 1000 items",
        ));
        return;
    }
    for (at, endpoint) in list(slice, "endpoints").iter().enumerate() {
        let here = endpoints.item(at);
        let place = here.key("addresses");
        let addresses = list(endpoint, "addresses");
        if addresses.is_empty() {
            errors.push(FieldError::required(place, "must contain at least 1 address"));
        }
        for (nth, address) in addresses.iter().enumerate() {
            let address = address.as_str().unwrap_or_default();
            let message = match (kind, address.parse::<std::net::IpAddr>()) {
                ("IPv4", Ok(ip)) if ip.is_ipv4() => continue,
                ("IPv6", Ok(ip)) if ip.is_ipv6() => continue,
                ("IPv4", _) => "must be a valid IPv4 address",
                ("IPv6", _) => "must be a valid IPv6 address",
                _ => continue,
            };
            errors.push(FieldError::invalid(place.item(nth), address, message));
        }
        let name = text(endpoint, "nodeName");
        if !name.is_empty() {
            all(here.key("nodeName"), name, names::subdomain(name), errors);
        }
    }
    let (ports, mut known) = (Path::of("ports"), BTreeSet::new());
    for (at, one) in list(slice, "ports").iter().enumerate() {
        let here = ports.item(at);
        let name = text(one, "name");
        if !name.is_empty() {
            all(here.key("name"), name, names::label(name), errors);
        }
        if !known.insert(name) {
            errors.push(FieldError::duplicate(here.key("name"), name));
        }
        required_one_of(one, "protocol", &here, &["SCTP", "TCP", "UDP"], errors);
        if has(one, "port") {
            port_number(&one["port"], &here.key("port"), errors);
        }
    }
}

fn update_slice(new: &Value, old: &Value, errors: &mut Errors) {
    super::check::immutable(new, old, "addressType", &Path::Root, errors);
}
