//! Ingress, network policies, and address allocation.

use kontiki_proto::status::FieldError;
use serde_json::{Value, json};

use super::check::{Errors, all, immutable, label_selector, one_of, port, required};
use super::names::{self, NameRule};
use super::value::{default, has, int, list, list_mut, object, set, text};
use super::{Entry, PLAIN, Strategy};
use crate::schema::Path;

pub(super) static KINDS: &[Entry] = &[
    ("networking.k8s.io", "ingresses", Strategy { validate: validate_ingress, generation: true, ..PLAIN }),
    (
        "networking.k8s.io",
        "ingressclasses",
        Strategy {
            default: class,
            validate: validate_class,
            validate_update: |new, old, errors| {
                immutable(&new["spec"], &old["spec"], "controller", &Path::of("spec"), errors);
            },
            generation: true,
            ..PLAIN
        },
    ),
    (
        "networking.k8s.io",
        "networkpolicies",
        Strategy { default: policy, validate: validate_policy, generation: true, ..PLAIN },
    ),
    (
        "networking.k8s.io",
        "ipaddresses",
        Strategy {
            names: NameRule::Own,
            validate: validate_address,
            validate_update: |new, old, errors| {
                immutable(&new["spec"], &old["spec"], "parentRef", &Path::of("spec"), errors);
            },
            ..PLAIN
        },
    ),
    ("networking.k8s.io", "servicecidrs", Strategy { validate: validate_ranges, ..PLAIN }),
];

fn class(class: &mut Value) {
    if has(&class["spec"], "parameters") {
        default(&mut class["spec"]["parameters"], "scope", "Cluster");
    }
}

fn policy(policy: &mut Value) {
    let spec = object(policy, "spec");
    for rules in ["ingress", "egress"] {
        for rule in list_mut(spec, rules) {
            for port in list_mut(rule, "ports") {
                default(port, "protocol", "TCP");
            }
        }
    }
    if list(spec, "policyTypes").is_empty() {
        let types = match list(spec, "egress").is_empty() {
            true => json!(["Ingress"]),
            false => json!(["Ingress", "Egress"]),
        };
        set(spec, "policyTypes", types);
    }
}

fn validate_ingress(ingress: &Value, errors: &mut Errors) {
    let (spec, path) = (&ingress["spec"], Path::of("spec"));
    let class = text(spec, "ingressClassName");
    if has(spec, "ingressClassName") {
        all(path.key("ingressClassName"), class, names::subdomain(class), errors);
    }
    if list(spec, "rules").is_empty() && !has(spec, "defaultBackend") {
        let why = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid(path, spec, why));
    }
    if has(spec, "defaultBackend") {
        backend(&spec["defaultBackend"], &path.key("defaultBackend"), errors);
    }
    let rules = path.key("rules");
    for (at, rule) in list(spec, "rules").iter().enumerate() {
        let here = rules.item(at);
        host(text(rule, "host"), &here.key("host"), errors);
        if !has(rule, "http") {
            continue;
        }
        let http = here.key("http");
        let paths = http.key("paths");
        if list(&rule["http"], "paths").is_empty() {
            errors.push(FieldError::required(paths, ""));
        }
        for (nth, one) in list(&rule["http"], "paths").iter().enumerate() {
            ingress_path(one, &paths.item(nth), errors);
        }
    }
    let tls = path.key("tls");
    for (at, one) in list(spec, "tls").iter().enumerate() {
        let here = tls.item(at);
        let hosts = here.key("hosts");
        for (nth, name) in list(one, "hosts").iter().enumerate() {
            host(name.as_str().unwrap_or_default(), &hosts.item(nth), errors);
        }
    }
}

fn host(host: &str, path: &Path, errors: &mut Errors) {
    if host.is_empty() {
        return;
    }
    if host.parse::<std::net::IpAddr>().is_ok() {
        errors.push(FieldError::invalid(path, host, "must be a DNS name, not an IP address"));
    } else if host.contains('*') {
        all(path, host, names::wildcard_subdomain(host), errors);
    } else {
        all(path, host, names::subdomain(host), errors);
    }
}

fn ingress_path(one: &Value, path: &Path, errors: &mut Errors) {
    let own = text(one, "path");
    match text(one, "pathType") {
        "" => errors.push(FieldError::required(path.key("pathType"), "pathType must be specified")),
        "Exact" | "Prefix" => {
            if !own.starts_with('/') {
                errors.push(FieldError::invalid(path.key("path"), own, "must be an absolute path"));
            } else {
                for bad in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|bad| own.contains(bad)) {
                    let why = format!("must not contain '{bad}'");
                    errors.push(FieldError::invalid(path.key("path"), own, &why));
                }
            }
        }
        "ImplementationSpecific" => {
            if !own.is_empty() && !own.starts_with('/') {
                errors.push(FieldError::invalid(path.key("path"), own, "must be an absolute path"));
            }
        }
        other => {
            let known = ["Exact", "ImplementationSpecific", "Prefix"];
            errors.push(FieldError::not_supported(path.key("pathType"), other, &known));
        }
    }
    backend(&one["backend"], &path.key("backend"), errors);
}

fn backend(backend: &Value, path: &Path, errors: &mut Errors) {
    match (has(backend, "service"), has(backend, "resource")) {
        (true, true) => {
            let why = "cannot set both resource and service backends";
            errors.push(FieldError::invalid(path, "", why));
        }
        (false, false) => errors.push(FieldError::required(path, "resource or service backend is required")),
        (false, true) => {
            let here = path.key("resource");
            required(&backend["resource"], "kind", &here, errors);
            required(&backend["resource"], "name", &here, errors);
        }
        (true, false) => {
            let (service, here) = (&backend["service"], path.key("service"));
            let name = text(service, "name");
            if required(service, "name", &here, errors) {
                all(here.key("name"), name, names::label_1035(name), errors);
            }
            let port_path = here.key("port");
            let (named, number) =
                (text(&service["port"], "name"), int(&service["port"], "number").unwrap_or(0));
            if !named.is_empty() && number != 0 {
                errors.push(FieldError::invalid(port_path, "", "cannot set both port name & port number"));
            } else if !named.is_empty() {
                all(port_path.key("name"), named, names::port_name(named), errors);
            } else if number != 0 {
                port(&service["port"]["number"], &port_path.key("number"), errors);
            } else {
                errors.push(FieldError::required(port_path, "port name or number is required"));
            }
        }
    }
}

fn validate_class(class: &Value, errors: &mut Errors) {
    let (spec, path) = (&class["spec"], Path::of("spec"));
    let controller = text(spec, "controller");
    if required(spec, "controller", &path, errors) && controller.len() > 250 {
        errors.push(FieldError::too_long(path.key("controller"), 250));
    }
    if has(spec, "parameters") {
        let (parameters, here) = (&spec["parameters"], path.key("parameters"));
        required(parameters, "kind", &here, errors);
        required(parameters, "name", &here, errors);
        one_of(parameters, "scope", &here, &["Cluster", "Namespace"], errors);
        match (text(parameters, "scope"), text(parameters, "namespace")) {
            ("Namespace", "") => {
                let why = "`parameters.scope` is set to 'Namespace'";
                errors.push(FieldError::required(here.key("namespace"), why));
            }
            ("Cluster", namespace) if !namespace.is_empty() => {
                let why = "`parameters.scope` is set to 'Cluster'";
                errors.push(FieldError::forbidden(here.key("namespace"), why));
            }
            _ => (),
        }
    }
}

fn validate_policy(policy: &Value, errors: &mut Errors) {
    let (spec, path) = (&policy["spec"], Path::of("spec"));
    label_selector(&spec["podSelector"], &path.key("podSelector"), errors);
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        let here = path.key(rules);
        for (at, rule) in list(spec, rules).iter().enumerate() {
            let place = here.item(at);
            let ports = place.key("ports");
            for (nth, one) in list(rule, "ports").iter().enumerate() {
                let spot = ports.item(nth);
                one_of(one, "protocol", &spot, &["SCTP", "TCP", "UDP"], errors);
                if has(one, "port") {
                    port(&one["port"], &spot.key("port"), errors);
                }
                if let Some(end) = int(one, "endPort") {
                    match int(one, "port") {
                        None => {
                            let why = "may not be specified when `port` is non-numeric";
                            errors.push(FieldError::invalid(spot.key("endPort"), end, why));
                        }
                        Some(start) if end < start => {
                            let why = "must be greater than or equal to `port`";
                            errors.push(FieldError::invalid(spot.key("endPort"), end, why));
                        }
                        Some(_) => (),
                    }
                }
            }
            let all_peers = place.key(peers);
            for (nth, one) in list(rule, peers).iter().enumerate() {
                peer(one, &all_peers.item(nth), errors);
            }
        }
    }
    let types = list(spec, "policyTypes");
    let here = path.key("policyTypes");
    if types.len() > 2 {
        errors.push(FieldError::invalid(here, types, "may not specify more than two policyTypes"));
        return;
    }
    for (at, kind) in types.iter().enumerate() {
        if kind != "Ingress" && kind != "Egress" {
            errors.push(FieldError::not_supported(here.item(at), kind, &["Egress", "Ingress"]));
        }
    }
}

fn peer(peer: &Value, path: &Path, errors: &mut Errors) {
    let given =
        ["podSelector", "namespaceSelector", "ipBlock"].into_iter().filter(|key| has(peer, key)).count();
    if given == 0 {
        errors.push(FieldError::required(path, "must specify a peer"));
    }
    for key in ["podSelector", "namespaceSelector"] {
        label_selector(&peer[key], &path.key(key), errors);
    }
    if !has(peer, "ipBlock") {
        return;
    }
    if given > 1 {
        let why = "may not specify both ipBlock and another peer";
        errors.push(FieldError::forbidden(path, why));
    }
    let here = path.key("ipBlock");
    let range = text(&peer["ipBlock"], "cidr");
    if required(&peer["ipBlock"], "cidr", &here, errors)
        && let Some(message) = names::cidr(range)
    {
        errors.push(FieldError::invalid(here.key("cidr"), range, &message));
    }
    let except = here.key("except");
    for (at, hole) in list(&peer["ipBlock"], "except").iter().enumerate() {
        let hole = hole.as_str().unwrap_or_default();
        if let Some(message) = names::cidr(hole) {
            errors.push(FieldError::invalid(except.item(at), hole, &message));
        }
    }
}

fn validate_address(address: &Value, errors: &mut Errors) {
    let name = text(&address["metadata"], "name");
    if names::ip(name).is_some() {
        errors.push(FieldError::invalid("metadata.name", name, "must be a valid IP address"));
    }
    let (spec, path) = (&address["spec"], Path::of("spec"));
    if !has(spec, "parentRef") {
        errors.push(FieldError::required(path.key("parentRef"), ""));
        return;
    }
    let here = path.key("parentRef");
    required(&spec["parentRef"], "resource", &here, errors);
    required(&spec["parentRef"], "name", &here, errors);
}

fn validate_ranges(ranges: &Value, errors: &mut Errors) {
    let (spec, path) = (&ranges["spec"], Path::of("spec"));
    let here = path.key("cidrs");
    let all_ranges = list(spec, "cidrs");
    if all_ranges.is_empty() {
        errors.push(FieldError::required(here, "at least one CIDR required"));
    }
    if all_ranges.len() > 2 {
        errors.push(FieldError::invalid(here, all_ranges, "may only hold up to 2 values"));
    }
    for (at, range) in all_ranges.iter().enumerate() {
        let range = range.as_str().unwrap_or_default();
        if let Some(message) = names::cidr(range) {
            errors.push(FieldError::invalid(here.item(at), range, &message));
        }
    }
}
