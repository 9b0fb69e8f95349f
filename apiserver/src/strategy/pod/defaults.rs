//! What a pod gets that says nothing about it.

use serde_json::{Value, json};

use crate::strategy::value::{default, flag, has, is_set, list_mut, object, set, text};

/// A pod as an object of its own: its specification, and what only pods get.
pub(super) fn pod(pod: &mut Value) {
    let spec = object(pod, "spec");
    template_spec(spec);
    default(spec, "enableServiceLinks", true);
    let host_network = flag(spec, "hostNetwork");
    for kind in ["containers", "initContainers"] {
        for container in list_mut(spec, kind) {
            requests_from_limits(&mut container["resources"]);
            for port in list_mut(container, "ports").filter(|_| host_network) {
                if port["hostPort"].as_i64().unwrap_or(0) == 0 {
                    let number = port["containerPort"].clone();
                    set(port, "hostPort", number);
                }
            }
        }
    }
    if has(spec, "resources") {
        requests_from_limits(&mut spec["resources"]);
    }
}

/// The pod template at a key of `owner`.
pub(crate) fn template(owner: &mut Value) {
    let template = object(owner, "template");
    object(template, "metadata");
    template_spec(object(template, "spec"));
}

fn requests_from_limits(resources: &mut Value) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else {
        return;
    };
    let requests = object(resources, "requests");
    for (name, amount) in limits {
        default(requests, &name, amount);
    }
}

/// Upstream keeps the old and the new name of the service account's field equal.
pub(super) fn pair_service_account(spec: &mut Value) {
    let name = match text(spec, "serviceAccountName") {
        "" => text(spec, "serviceAccount"),
        name => name,
    };
    if !name.is_empty() {
        let name = name.to_owned();
        set(spec, "serviceAccount", name.clone());
        set(spec, "serviceAccountName", name);
    }
}

fn template_spec(spec: &mut Value) {
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "restartPolicy", "Always");
    default(spec, "securityContext", json!({}));
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "schedulerName", "default-scheduler");
    pair_service_account(spec);
    for kind in ["containers", "initContainers", "ephemeralContainers"] {
        list_mut(spec, kind).for_each(container);
    }
    list_mut(spec, "volumes").for_each(volume);
}

fn container(container: &mut Value) {
    let policy = pull_policy(text(container, "image"));
    default(container, "imagePullPolicy", policy);
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    default(container, "resources", json!({}));
    for port in list_mut(container, "ports") {
        default(port, "protocol", "TCP");
    }
    for variable in list_mut(container, "env") {
        if has(&variable["valueFrom"], "fieldRef") {
            default(&mut variable["valueFrom"]["fieldRef"], "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if has(container, name) {
            probe(&mut container[name]);
        }
    }
    for hook in ["postStart", "preStop"] {
        if has(&container["lifecycle"], hook) {
            http_get(&mut container["lifecycle"][hook]);
        }
    }
}

fn probe(probe: &mut Value) {
    for (key, count) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe[key].as_i64().unwrap_or(0) == 0 {
            set(probe, key, count);
        }
    }
    http_get(probe);
    if has(probe, "grpc") && !has(&probe["grpc"], "service") {
        set(&mut probe["grpc"], "service", "");
    }
}

fn http_get(handler: &mut Value) {
    if has(handler, "httpGet") {
        default(&mut handler["httpGet"], "path", "/");
        default(&mut handler["httpGet"], "scheme", "HTTP");
    }
}

/// An image that may change under its name is pulled always.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
        None if digest => "IfNotPresent",
        None => "Always",
    }
}

fn volume(volume: &mut Value) {
    let sources = volume.as_object().map_or(0, |map| map.keys().filter(|key| *key != "name").count());
    if sources == 0 {
        set(volume, "emptyDir", json!({}));
        return;
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if has(volume, source) {
            default(&mut volume[source], "defaultMode", 0o644);
        }
    }
    if has(volume, "downwardAPI") {
        downward_items(&mut volume["downwardAPI"]);
    }
    for source in list_mut(&mut volume["projected"], "sources") {
        if has(source, "downwardAPI") {
            downward_items(&mut source["downwardAPI"]);
        }
        if has(source, "serviceAccountToken") {
            default(&mut source["serviceAccountToken"], "expirationSeconds", 3600);
        }
    }
    if volume["projected"].is_null() {
        super::super::value::remove(volume, "projected");
    }
    if has(volume, "hostPath") && !has(&volume["hostPath"], "type") {
        set(&mut volume["hostPath"], "type", "");
    }
    if has(volume, "ephemeral") && has(&volume["ephemeral"], "volumeClaimTemplate") {
        let claim = object(&mut volume["ephemeral"]["volumeClaimTemplate"], "spec");
        default(claim, "volumeMode", "Filesystem");
    }
    for (source, key, with) in [
        ("iscsi", "iscsiInterface", json!("default")),
        ("azureDisk", "cachingMode", json!("ReadWrite")),
        ("azureDisk", "fsType", json!("ext4")),
        ("azureDisk", "kind", json!("Shared")),
        ("azureDisk", "readOnly", json!(false)),
    ] {
        if has(volume, source) {
            default(&mut volume[source], key, with);
        }
    }
}

fn downward_items(source: &mut Value) {
    for item in list_mut(source, "items") {
        if is_set(item, "fieldRef") {
            default(&mut item["fieldRef"], "apiVersion", "v1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_decides_the_pull_policy() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.25", "IfNotPresent"),
            ("localhost:5000/a/nginx", "Always"),
            ("localhost:5000/a/nginx:2", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("nginx:latest@sha256:abc", "Always"),
            ("", "Always"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn a_volume_without_a_source_is_empty() {
        let mut bare = json!({"name": "a"});
        volume(&mut bare);
        assert_eq!(bare, json!({"name": "a", "emptyDir": {}}));
        let mut secret = json!({"name": "a", "secret": {"secretName": "s"}});
        volume(&mut secret);
        assert_eq!(secret, json!({"name": "a", "secret": {"secretName": "s", "defaultMode": 420}}));
        let mut path = json!({"name": "a", "hostPath": {"path": "/x"}});
        volume(&mut path);
        assert_eq!(path["hostPath"], json!({"path": "/x", "type": ""}));
        assert!(path.get("projected").is_none());
    }
}
