//! What a pod has to look like: the pod as a whole.

use std::collections::BTreeSet;

use kontiki_proto::status::FieldError;
use serde_json::Value;

use super::{container, placement, volume};
use crate::schema::Path;
use crate::strategy::check::{Errors, all, one_of, required_one_of};
use crate::strategy::value::{flag, has, int, list, text};
use crate::strategy::{meta, names};

pub(super) fn pod(pod: &Value, errors: &mut Errors) {
    let path = Path::of("spec");
    spec(&pod["spec"], true, &path, errors);
    let spec = &pod["spec"];
    for kind in ["containers", "initContainers", "ephemeralContainers"] {
        let here = path.key(kind);
        for (at, container) in list(spec, kind).iter().enumerate() {
            let image = text(container, "image");
            if image.trim() != image {
                let why = "must not have leading or trailing whitespace";
                errors.push(FieldError::invalid(here.item(at).key("image"), image, why));
            }
        }
    }
    if text(spec, "serviceAccountName").is_empty() {
        nameless_tokens(spec, &path.key("volumes"), errors);
    }
}

/// A token is some service account's.
fn nameless_tokens(spec: &Value, path: &Path, errors: &mut Errors) {
    for (at, volume) in list(spec, "volumes").iter().enumerate() {
        let here = path.item(at);
        let projected = here.key("projected");
        let sources = projected.key("sources");
        for (nth, source) in list(&volume["projected"], "sources").iter().enumerate() {
            if has(source, "serviceAccountToken") {
                let why = "must not be specified when serviceAccountName is not set";
                errors.push(FieldError::forbidden(sources.item(nth).key("serviceAccountToken"), why));
            }
        }
    }
}

/// What a new pod may not have yet.
pub(super) fn new_pod(pod: &Value, errors: &mut Errors) {
    let (spec, path) = (&pod["spec"], Path::of("spec"));
    if !list(spec, "ephemeralContainers").is_empty() {
        errors.push(FieldError::forbidden(path.key("ephemeralContainers"), "cannot be set on create"));
    }
    if !text(spec, "nodeName").is_empty() && !list(spec, "schedulingGates").is_empty() {
        let why = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden(path.key("nodeName"), why));
    }
}

/// The template at a key of a workload's `spec`.
pub(crate) fn template(template: &Value, path: &Path, errors: &mut Errors) {
    let own = &template["metadata"];
    meta::labels(&own["labels"], &path.key("labels"), errors);
    meta::annotations(own, &path.key("annotations"), errors);
    spec(&template["spec"], false, &path.key("spec"), errors);
    if !list(&template["spec"], "ephemeralContainers").is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(path.key("spec").key("ephemeralContainers"), why));
    }
}

/// `alone` for a pod of its own, not one inside a template.
fn spec(spec: &Value, alone: bool, path: &Path, errors: &mut Errors) {
    let volumes = volume::all(spec, &path.key("volumes"), errors);
    containers(spec, alone, &volumes, path, errors);
    required_one_of(spec, "restartPolicy", path, &["Always", "OnFailure", "Never"], errors);
    dns(spec, path, errors);
    meta::labels(&spec["nodeSelector"], &path.key("nodeSelector"), errors);
    security(spec, path, errors);
    for key in ["serviceAccountName", "nodeName", "runtimeClassName", "priorityClassName"] {
        let name = text(spec, key);
        if !name.is_empty() {
            all(path.key(key), name, names::subdomain(name), errors);
        }
    }
    if let Some(seconds) = int(spec, "activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let why = "must be between 1 and 2147483647, inclusive";
        errors.push(FieldError::invalid(path.key("activeDeadlineSeconds"), seconds, why));
    }
    for key in ["hostname", "subdomain"] {
        let name = text(spec, key);
        if !name.is_empty() {
            all(path.key(key), name, names::label(name), errors);
        }
    }
    if has(spec, "preemptionPolicy") {
        one_of(spec, "preemptionPolicy", path, &["PreemptLowerPriority", "Never"], errors);
    }
    if has(&spec["os"], "name") {
        one_of(&spec["os"], "name", &path.key("os"), &["linux", "windows"], errors);
    }
    placement::check(spec, path, errors);
    let aliases = path.key("hostAliases");
    for (at, alias) in list(spec, "hostAliases").iter().enumerate() {
        let here = aliases.item(at);
        let ip = text(alias, "ip");
        if let Some(message) = names::ip(ip) {
            errors.push(FieldError::invalid(here.key("ip"), ip, &message));
        }
        let hosts = here.key("hostnames");
        for (nth, host) in list(alias, "hostnames").iter().enumerate() {
            let host = host.as_str().unwrap_or_default();
            all(hosts.item(nth), host, names::subdomain(host), errors);
        }
    }
    let gates = path.key("readinessGates");
    for (at, gate) in list(spec, "readinessGates").iter().enumerate() {
        let kind = text(gate, "conditionType");
        all(gates.item(at).key("conditionType"), kind, names::qualified(kind), errors);
    }
    let gates = path.key("schedulingGates");
    let mut known = BTreeSet::new();
    for (at, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        all(gates.item(at), name, names::qualified(name), errors);
        if !known.insert(name) {
            errors.push(FieldError::duplicate(gates.item(at), name));
        }
    }
}

fn containers(spec: &Value, alone: bool, volumes: &BTreeSet<String>, path: &Path, errors: &mut Errors) {
    let mut all_names = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    let here = path.key("containers");
    if list(spec, "containers").is_empty() {
        errors.push(FieldError::required(here, ""));
    }
    for kind in ["containers", "initContainers", "ephemeralContainers"] {
        let here = path.key(kind);
        for (at, one) in list(spec, kind).iter().enumerate() {
            let place = here.item(at);
            let name = text(one, "name");
            if name.is_empty() {
                errors.push(FieldError::required(place.key("name"), ""));
            } else {
                all(place.key("name"), name, names::label(name), errors);
                if !all_names.insert(name) {
                    errors.push(FieldError::duplicate(place.key("name"), name));
                }
            }
            container::check(one, spec, volumes, &place, errors);
            match kind {
                "initContainers" => container::check_init(one, &place, errors),
                "ephemeralContainers" => container::check_ephemeral(one, &place, errors),
                _ => {
                    let ports = place.key("ports");
                    for (nth, port) in list(one, "ports").iter().enumerate() {
                        host_port(
                            port,
                            flag(spec, "hostNetwork"),
                            alone,
                            &ports.item(nth),
                            &mut host_ports,
                            errors,
                        );
                    }
                }
            }
        }
    }
}

fn host_port(
    port: &Value,
    host_network: bool,
    alone: bool,
    path: &Path,
    taken: &mut BTreeSet<String>,
    errors: &mut Errors,
) {
    let number = int(port, "hostPort").unwrap_or(0);
    if host_network && (alone || number != 0) && number != int(port, "containerPort").unwrap_or(0) {
        let why = "must match `containerPort` when `hostNetwork` is true";
        errors.push(FieldError::invalid(path.key("hostPort"), number, why));
    }
    if number > 0 {
        let key = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
        if !taken.insert(key.clone()) {
            errors.push(FieldError::duplicate(path.key("hostPort"), key));
        }
    }
}

fn dns(spec: &Value, path: &Path, errors: &mut Errors) {
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    required_one_of(spec, "dnsPolicy", path, &policies, errors);
    let config = path.key("dnsConfig");
    let servers = list(&spec["dnsConfig"], "nameservers");
    if text(spec, "dnsPolicy") == "None" {
        if !has(spec, "dnsConfig") {
            let why = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(FieldError::required(config, why));
        } else if servers.is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(FieldError::required(config.key("nameservers"), why));
        }
    }
    if servers.len() > 3 {
        let why = "must not have more than 3 nameservers";
        errors.push(FieldError::invalid(config.key("nameservers"), servers, why));
    }
    for (at, server) in servers.iter().enumerate() {
        let server = server.as_str().unwrap_or_default();
        if let Some(message) = names::ip(server) {
            errors.push(FieldError::invalid(config.key("nameservers").item(at), server, &message));
        }
    }
    let searches = list(&spec["dnsConfig"], "searches");
    let here = config.key("searches");
    if searches.len() > 32 {
        errors.push(FieldError::invalid(here, searches, "must not have more than 32 search paths"));
    }
    for (at, search) in searches.iter().enumerate() {
        let search = search.as_str().unwrap_or_default();
        if search != "." && !is_search(search.strip_suffix('.').unwrap_or(search)) {
            all(here.item(at), search, names::subdomain(search), errors);
        }
    }
    let options = config.key("options");
    for (at, option) in list(&spec["dnsConfig"], "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.push(FieldError::required(options.item(at), "must not be empty"));
        }
    }
}

fn security(spec: &Value, path: &Path, errors: &mut Errors) {
    let here = path.key("securityContext");
    let context = &spec["securityContext"];
    for key in ["runAsUser", "runAsGroup", "fsGroup"] {
        id(context, key, &here, errors);
    }
    let groups = here.key("supplementalGroups");
    for (at, group) in list(context, "supplementalGroups").iter().enumerate() {
        if group.as_i64().is_none_or(|id| !(0..=i64::from(i32::MAX)).contains(&id)) {
            errors.push(FieldError::invalid(groups.item(at), group, ID));
        }
    }
    one_of(context, "fsGroupChangePolicy", &here, &["Always", "OnRootMismatch"], errors);
    let sysctls = here.key("sysctls");
    let mut known = BTreeSet::new();
    for (at, sysctl) in list(context, "sysctls").iter().enumerate() {
        let name = text(sysctl, "name");
        if name.is_empty() {
            errors.push(FieldError::required(sysctls.item(at).key("name"), ""));
        } else if !is_sysctl(name) {
            errors.push(FieldError::invalid(sysctls.item(at).key("name"), name, SYSCTL));
        } else if !known.insert(name) {
            errors.push(FieldError::duplicate(sysctls.item(at).key("name"), name));
        }
    }
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(here.key("shareProcessNamespace"), true, why));
    }
    seccomp(context, &here, errors);
}

/// A subdomain in which resolvers take underscores too.
fn is_search(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_');
    name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
        })
}

const SYSCTL: &str = r"must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

fn is_sysctl(name: &str) -> bool {
    let edge = |letter: Option<u8>| letter.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_');
    name.len() <= 253
        && name
            .split(['.', '/'])
            .all(|part| edge(part.bytes().next()) && edge(part.bytes().last()) && part.bytes().all(inner))
}

const ID: &str = "must be between 0 and 2147483647, inclusive";

/// A user or group id.
pub(super) fn id(context: &Value, key: &str, path: &Path, errors: &mut Errors) {
    if let Some(id) = int(context, key)
        && !(0..=i64::from(i32::MAX)).contains(&id)
    {
        errors.push(FieldError::invalid(path.key(key), id, ID));
    }
}

pub(super) fn seccomp(context: &Value, path: &Path, errors: &mut Errors) {
    if !has(context, "seccompProfile") {
        return;
    }
    let here = path.key("seccompProfile");
    let profile = &context["seccompProfile"];
    if text(profile, "type").is_empty() {
        let why = "type is required when seccompProfile is set";
        errors.push(FieldError::required(here.key("type"), why));
    }
    one_of(profile, "type", &here, &["Localhost", "RuntimeDefault", "Unconfined"], errors);
    match (text(profile, "type"), has(profile, "localhostProfile")) {
        ("Localhost", false) => errors.push(FieldError::required(
            here.key("localhostProfile"),
            "must be set when seccomp type is Localhost",
        )),
        ("Localhost", true) => {
            volume::relative(text(profile, "localhostProfile"), false, &here.key("localhostProfile"), errors);
        }
        (_, true) => errors.push(FieldError::invalid(
            here.key("localhostProfile"),
            profile,
            "can only be set when seccomp type is Localhost",
        )),
        _ => (),
    }
}
