//! A container's environment, command and arguments. Pure: what they refer to has been read before.

use std::collections::BTreeMap;
use std::net::IpAddr;

use indexmap::IndexMap;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, ResourceFieldSelector, Secret, Service};
use kontiki_proto::quantity::Quantity;

use super::model::{container as find_container, name, namespace, uid};

/// What a container's definition may refer to. A missing object is `None`.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub config_maps: BTreeMap<String, Option<ConfigMap>>,
    pub secrets: BTreeMap<String, Option<Secret>>,
    pub services: Vec<Service>,
    pub pod_ips: Vec<IpAddr>,
    pub node_ip: Option<IpAddr>,
    pub node_name: String,
    /// Of the node, for limits that are not set.
    pub allocatable: BTreeMap<String, String>,
}

/// Names of the ConfigMaps and Secrets a container's environment needs.
pub fn references(c: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for from in c.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for value in c.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        maps.extend(value.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(value.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

/// The variables in the order they take effect. The error is what `CreateContainerConfigError` says.
pub fn environment(pod: &Pod, c: &Container, sources: &Sources) -> Result<IndexMap<String, String>, String> {
    let mut all = IndexMap::new();
    let spec = pod.spec.as_ref();
    let links = spec.and_then(|s| s.enable_service_links).unwrap_or(true);
    service_variables(namespace(pod), links, &sources.services, &mut all);
    for from in c.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &from.config_map_ref {
            match sources.config_maps.get(&r.name).and_then(Option::as_ref) {
                Some(map) => {
                    all.extend(map.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), v.clone())))
                }
                None if r.optional == Some(true) => {}
                None => return Err(format!("configmap \"{}\" not found", r.name)),
            }
        }
        if let Some(r) = &from.secret_ref {
            match sources.secrets.get(&r.name).and_then(Option::as_ref) {
                Some(secret) => {
                    all.extend(
                        secret.data.iter().flatten().map(|(k, v)| {
                            (format!("{prefix}{k}"), String::from_utf8_lossy(&v.0).into_owned())
                        }),
                    )
                }
                None if r.optional == Some(true) => {}
                None => return Err(format!("secret \"{}\" not found", r.name)),
            }
        }
    }
    for variable in c.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => Some(expand(value, &all)),
            (None, None) => Some(String::new()),
            (None, Some(from)) => {
                if let Some(field) = &from.field_ref {
                    Some(field_value(pod, sources, &field.field_path)?)
                } else if let Some(resource) = &from.resource_field_ref {
                    Some(resource_value(pod, c, resource, &sources.allocatable)?)
                } else if let Some(r) = &from.config_map_key_ref {
                    let map = sources.config_maps.get(&r.name).and_then(Option::as_ref);
                    let value = map.and_then(|m| m.data.as_ref()?.get(&r.key)).cloned();
                    required(value, map.is_some(), r.optional, "configmap", namespace(pod), &r.name, &r.key)?
                } else if let Some(r) = &from.secret_key_ref {
                    let secret = sources.secrets.get(&r.name).and_then(Option::as_ref);
                    let value = secret
                        .and_then(|s| s.data.as_ref()?.get(&r.key))
                        .map(|v| String::from_utf8_lossy(&v.0).into_owned());
                    required(value, secret.is_some(), r.optional, "secret", namespace(pod), &r.name, &r.key)?
                } else {
                    return Err(format!(
                        "the source of variable {} is not supported on this node",
                        variable.name
                    ));
                }
            }
        };
        if let Some(value) = value {
            // A later definition of the same name stands where it is defined last.
            all.shift_remove(&variable.name);
            all.insert(variable.name.clone(), value);
        }
    }
    Ok(all)
}

fn required(
    value: Option<String>,
    exists: bool,
    optional: Option<bool>,
    kind: &str,
    namespace: &str,
    name: &str,
    key: &str,
) -> Result<Option<String>, String> {
    let kind_name = if kind == "secret" { "Secret" } else { "ConfigMap" };
    match value {
        Some(value) => Ok(Some(value)),
        None if optional == Some(true) => Ok(None),
        None if exists => Err(format!("couldn't find key {key} in {kind_name} {namespace}/{name}")),
        None => Err(format!("{kind} \"{name}\" not found")),
    }
}

/// `KUBERNETES_SERVICE_HOST` and its like always; those of other services where links are wanted.
fn service_variables(namespace: &str, links: bool, services: &[Service], all: &mut IndexMap<String, String>) {
    for service in services {
        let (Some(service_name), Some(spec)) = (&service.metadata.name, &service.spec) else { continue };
        let home = service.metadata.namespace.as_deref().unwrap_or_default();
        let api = home == "default" && service_name == "kubernetes";
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
            continue;
        };
        let Some(first) = spec.ports.as_ref().and_then(|p| p.first()) else { continue };
        let linked = links && home == namespace;
        if !api && !linked {
            continue;
        }
        let upper = |s: &str| s.to_uppercase().replace('-', "_");
        let prefix = upper(service_name);
        all.insert(format!("{prefix}_SERVICE_HOST"), ip.into());
        all.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
        for port in spec.ports.iter().flatten() {
            if let Some(port_name) = &port.name {
                all.insert(format!("{prefix}_SERVICE_PORT_{}", upper(port_name)), port.port.to_string());
            }
        }
        let url = |protocol: &str, port: i32| format!("{}://{ip}:{port}", protocol.to_lowercase());
        let first_protocol = first.protocol.as_deref().unwrap_or("TCP");
        all.insert(format!("{prefix}_PORT"), url(first_protocol, first.port));
        for port in spec.ports.iter().flatten() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let stem = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
            all.insert(stem.clone(), url(protocol, port.port));
            all.insert(format!("{stem}_PROTO"), protocol.to_lowercase());
            all.insert(format!("{stem}_PORT"), port.port.to_string());
            all.insert(format!("{stem}_ADDR"), ip.into());
        }
    }
}

/// Replaces `$(NAME)` by the variable's value; `$$` is a dollar; an unknown name stays as it is.
pub fn expand(text: &str, variables: &IndexMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match variables.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// A field of the pod as the downward API names it.
pub fn field_value(pod: &Pod, sources: &Sources, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let ips = |list: &[IpAddr]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(format!("field path {path} is not supported")),
        };
        return Ok(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let lines = |map: &Option<BTreeMap<String, String>>| {
        map.iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect::<Vec<_>>().join("\n")
    };
    Ok(match path {
        "metadata.name" => name(pod).into(),
        "metadata.namespace" => namespace(pod).into(),
        "metadata.uid" => uid(pod).into(),
        "metadata.labels" => lines(&meta.labels),
        "metadata.annotations" => lines(&meta.annotations),
        "spec.nodeName" => sources.node_name.clone(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => sources.node_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        "status.hostIPs" => ips(sources.node_ip.as_slice()),
        "status.podIP" => sources.pod_ips.first().map(ToString::to_string).unwrap_or_default(),
        "status.podIPs" => ips(&sources.pod_ips),
        _ => return Err(format!("field path {path} is not supported")),
    })
}

/// A container's request or limit in units of the divisor, rounded up.
pub fn resource_value(
    pod: &Pod,
    own: &Container,
    selector: &ResourceFieldSelector,
    allocatable: &BTreeMap<String, String>,
) -> Result<String, String> {
    let c = match (&selector.container_name, &pod.spec) {
        (Some(wanted), Some(spec)) => find_container(spec, wanted).map_or(own, |(_, c)| c),
        _ => own,
    };
    let (kind, resource) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("resource {} is not supported", selector.resource))?;
    let resources = c.resources.as_ref();
    let limits = || resources.and_then(|r| r.limits.as_ref()?.get(resource)).map(|q| q.0.clone());
    let requests = || resources.and_then(|r| r.requests.as_ref()?.get(resource)).map(|q| q.0.clone());
    let text = match kind {
        "limits" => limits().or_else(|| allocatable.get(resource).cloned()),
        "requests" => requests(),
        _ => return Err(format!("resource {} is not supported", selector.resource)),
    }
    .unwrap_or_else(|| "0".into());
    let parse = |text: &str| Quantity::parse(text).map_err(|e| format!("quantity {text}: {e}"));
    let value = parse(&text)?;
    let divisor = match selector.divisor.as_ref().map(|d| d.0.as_str()) {
        None | Some("" | "0") => Quantity::new(1),
        Some(text) => parse(text)?,
    };
    // Milli units are exact for CPUs; bytes beyond what milli units hold are whole numbers anyway.
    let (value, divisor) = (i128::from(value.milli()), i128::from(divisor.milli().max(1)));
    Ok(((value + divisor - 1) / divisor).to_string())
}

/// What is executed: the container's command and arguments, or the image's.
pub fn arguments(
    c: &Container,
    entrypoint: &[String],
    cmd: &[String],
    variables: &IndexMap<String, String>,
) -> Vec<String> {
    let expanded = |list: &[String]| list.iter().map(|t| expand(t, variables)).collect::<Vec<_>>();
    let command = c.command.as_deref().filter(|l| !l.is_empty());
    let args = c.args.as_deref().filter(|l| !l.is_empty());
    let (head, tail) = match (command, args) {
        // The image's own arguments belong to the image's own command.
        (Some(command), args) => (expanded(command), args.map(expanded).unwrap_or_default()),
        (None, Some(args)) => (entrypoint.to_vec(), expanded(args)),
        (None, None) => (entrypoint.to_vec(), cmd.to_vec()),
    };
    head.into_iter().chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(container: serde_json::Value) -> (Pod, Container) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u", "labels": {"app": "x"}},
            "spec": {"containers": [container], "enableServiceLinks": false},
        }))
        .unwrap();
        let c = pod.spec.as_ref().unwrap().containers[0].clone();
        (pod, c)
    }

    #[test]
    fn variables_see_those_before_them() {
        let vars = IndexMap::from([("A".to_string(), "1".to_string())]);
        for (text, expected) in
            [("$(A)", "1"), ("x$(A)y$(B)", "x1y$(B)"), ("$$(A)", "$(A)"), ("$A $", "$A $"), ("$(A", "$(A")]
        {
            assert_eq!(expand(text, &vars), expected);
        }
    }

    #[test]
    fn the_downward_api_names_fields_and_resources() {
        let field = |n: &str, path: &str| json!({"name": n, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let (pod, c) = pod(json!({
            "name": "c",
            "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}},
            "env": [
                field("NAME", "metadata.name"),
                field("LABEL", "metadata.labels['app']"),
                field("IP", "status.podIP"),
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "MILLI", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
                {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "BOTH", "value": "$(NAME)-$(LABEL)"},
            ],
        }));
        let sources = Sources { pod_ips: vec!["10.0.0.1".parse().unwrap()], ..Sources::default() };
        let env = environment(&pod, &c, &sources).unwrap();
        let values = env.values().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(values, ["p", "x", "10.0.0.1", "2", "1500", "64", "p-x"]);
    }

    #[test]
    fn what_is_missing_is_named_unless_it_is_optional() {
        let reference = |optional: bool| {
            json!({"name": "c", "env": [{"name": "A", "valueFrom": {"configMapKeyRef":
                {"name": "m", "key": "k", "optional": optional}}}]})
        };
        let (p, c) = pod(reference(false));
        let mut sources = Sources::default();
        assert_eq!(environment(&p, &c, &sources).unwrap_err(), "configmap \"m\" not found");
        sources.config_maps.insert("m".into(), Some(ConfigMap::default()));
        assert_eq!(environment(&p, &c, &sources).unwrap_err(), "couldn't find key k in ConfigMap d/m");
        let (p, c) = pod(reference(true));
        assert!(environment(&p, &c, &sources).unwrap().is_empty());
    }

    #[test]
    fn a_command_replaces_the_images_arguments_too() {
        let list = |l: &[&str]| l.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (entry, cmd) = (list(&["e"]), list(&["c"]));
        for (definition, expected) in [
            (json!({"name": "c"}), list(&["e", "c"])),
            (json!({"name": "c", "args": ["a"]}), list(&["e", "a"])),
            (json!({"name": "c", "command": ["x"]}), list(&["x"])),
            (json!({"name": "c", "command": ["x"], "args": ["a"]}), list(&["x", "a"])),
        ] {
            let (_, c) = pod(definition);
            assert_eq!(arguments(&c, &entry, &cmd, &IndexMap::new()), expected);
        }
    }

    #[test]
    fn services_are_announced_as_docker_links_were() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "my-db", "namespace": "d"},
            "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "sql", "port": 5432}]},
        }))
        .unwrap();
        let mut all = IndexMap::new();
        service_variables("d", true, &[service], &mut all);
        assert_eq!(all["MY_DB_SERVICE_HOST"], "10.96.0.9");
        assert_eq!(all["MY_DB_SERVICE_PORT_SQL"], "5432");
        assert_eq!(all["MY_DB_PORT_5432_TCP"], "tcp://10.96.0.9:5432");
    }
}
