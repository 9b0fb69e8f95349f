//! Services, endpoints, ingress, and what guards the network.

use serde_json::Value;

use super::Entry;
use super::columns::{
    AGE, Cx, NAME, NONE, UNKNOWN, UNSET, few, join, label_selector, or, plain_map, string, strings,
};
use crate::strategy::value::{has, int, list, text};

pub(super) static TABLES: &[Entry] = &[
    (
        "",
        "services",
        &[
            NAME,
            string("Type", |c| text(c.spec(), "type").into()),
            string("Cluster-IP", |c| {
                let first = strings(c.spec(), "clusterIPs").next().unwrap_or(text(c.spec(), "clusterIP"));
                or(first, NONE)
            }),
            string("External-IP", |c| external(c).into()),
            string("Port(s)", ports),
            AGE,
            string("Selector", |c| plain_map(c.spec(), "selector")).wide(),
        ],
    ),
    ("", "endpoints", &[NAME, string("Endpoints", |c| endpoints(c).into()), AGE]),
    (
        "discovery.k8s.io",
        "endpointslices",
        &[
            NAME,
            string("AddressType", |c| text(c.object, "addressType").into()),
            string("Ports", slice_ports),
            string("Endpoints", |c| {
                let all: Vec<String> = list(c.object, "endpoints")
                    .iter()
                    .flat_map(|endpoint| strings(endpoint, "addresses"))
                    .map(str::to_owned)
                    .collect();
                or(&few(&all, 3), UNSET)
            }),
            AGE,
        ],
    ),
    (
        "networking.k8s.io",
        "ingresses",
        &[
            NAME,
            string("Class", |c| {
                let annotation = || text(&c.meta()["annotations"], "kubernetes.io/ingress.class");
                match text(c.spec(), "ingressClassName") {
                    "" => or(annotation(), NONE),
                    class => class.into(),
                }
            }),
            string("Hosts", |c| {
                let hosts: Vec<String> = list(c.spec(), "rules")
                    .iter()
                    .map(|rule| text(rule, "host").to_owned())
                    .filter(|host| !host.is_empty())
                    .collect();
                or(&few(&hosts, 3), "*")
            }),
            string("Address", |c| balancer(c).into()),
            string("Ports", |c| match list(c.spec(), "tls").is_empty() {
                true => "80".into(),
                false => "80, 443".into(),
            }),
            AGE,
        ],
    ),
    (
        "networking.k8s.io",
        "ingressclasses",
        &[
            NAME,
            string("Controller", |c| text(c.spec(), "controller").into()),
            string("Parameters", |c| {
                if !has(c.spec(), "parameters") {
                    return NONE.into();
                }
                let parameters = &c.spec()["parameters"];
                let group = match text(parameters, "apiGroup") {
                    "" => String::new(),
                    group => format!(".{group}"),
                };
                format!("{}{group}/{}", text(parameters, "kind"), text(parameters, "name")).into()
            }),
            AGE,
        ],
    ),
    (
        "networking.k8s.io",
        "networkpolicies",
        &[NAME, string("Pod-Selector", |c| label_selector(&c.spec()["podSelector"])), AGE],
    ),
    (
        "networking.k8s.io",
        "ipaddresses",
        &[
            NAME,
            string("ParentRef", |c| {
                let parent = &c.spec()["parentRef"];
                let parts = [
                    match text(parent, "group") {
                        "" => text(parent, "resource").to_owned(),
                        group => format!("{}.{group}", text(parent, "resource")),
                    },
                    text(parent, "namespace").to_owned(),
                    text(parent, "name").to_owned(),
                ];
                join(parts.iter().map(String::as_str).filter(|part| !part.is_empty()), "/").into()
            }),
            AGE,
        ],
    ),
    (
        "networking.k8s.io",
        "servicecidrs",
        &[NAME, string("CIDRs", |c| join(strings(c.spec(), "cidrs"), ",").into()), AGE],
    ),
];

fn balancer(c: &Cx) -> String {
    let ingress = list(&c.status()["loadBalancer"], "ingress").iter();
    let names = ingress.map(|one| match text(one, "ip") {
        "" => text(one, "hostname"),
        ip => ip,
    });
    join(names.filter(|name| !name.is_empty()), ",")
}

fn external(c: &Cx) -> String {
    let own = join(strings(c.spec(), "externalIPs"), ",");
    match text(c.spec(), "type") {
        "ClusterIP" | "NodePort" if own.is_empty() => NONE.into(),
        "ClusterIP" | "NodePort" => own,
        "LoadBalancer" => match (balancer(c), own) {
            (given, own) if given.is_empty() && own.is_empty() => "<pending>".into(),
            (given, own) if own.is_empty() => given,
            (given, own) if given.is_empty() => own,
            (given, own) => format!("{given},{own}"),
        },
        "ExternalName" => text(c.spec(), "externalName").to_owned(),
        _ => UNKNOWN.into(),
    }
}

fn ports(c: &Cx) -> Value {
    let shown: Vec<String> = list(c.spec(), "ports")
        .iter()
        .map(|port| {
            let (number, protocol) = (int(port, "port").unwrap_or(0), text(port, "protocol"));
            match int(port, "nodePort").unwrap_or(0) {
                0 => format!("{number}/{protocol}"),
                node_port => format!("{number}:{node_port}/{protocol}"),
            }
        })
        .collect();
    or(&shown.join(","), NONE)
}

fn endpoints(c: &Cx) -> String {
    let subsets = list(c.object, "subsets");
    if subsets.is_empty() {
        return NONE.into();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let ports = list(subset, "ports");
        for address in list(subset, "addresses").iter().map(|address| text(address, "ip")) {
            if ports.is_empty() {
                all.push(address.to_owned());
            }
        }
        for port in ports {
            let number = int(port, "port").unwrap_or(0);
            for address in list(subset, "addresses").iter().map(|address| text(address, "ip")) {
                all.push(match address.contains(':') {
                    true => format!("[{address}]:{number}"),
                    false => format!("{address}:{number}"),
                });
            }
        }
    }
    few(&all, 3)
}

fn slice_ports(c: &Cx) -> Value {
    let all: Vec<String> = list(c.object, "ports")
        .iter()
        .map(|port| match (int(port, "port"), port.get("name").and_then(Value::as_str)) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) if !name.is_empty() => name.to_owned(),
            _ => "*".to_owned(),
        })
        .collect();
    or(&few(&all, 3), UNSET)
}
