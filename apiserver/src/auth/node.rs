//! What a node may do beyond RBAC: everything its own pods need, and no more.
//!
//! Reads of secrets, config maps and volume claims are tied to the pods bound to the node, as is asking for a token
//! of a service account. Which objects it may write is narrowed further by the `node_restriction` admission.

use serde_json::Value;

use super::{Access, Objects};

const READ: &[&str] = &["get", "list", "watch"];
const GET: &[&str] = &["get"];
const CREATE: &[&str] = &["create"];
const UPDATE: &[&str] = &["update", "patch"];
const OWN: &[&str] = &["create", "get", "update", "patch", "delete"];
const EVENTS: &[&str] = &["create", "update", "patch"];

/// Group, resource (with subresource), verbs: allowed whatever the object's name.
static ALLOWED: &[(&str, &str, &[&str])] = &[
    ("", "nodes", &["create", "get", "list", "watch", "update", "patch", "delete"]),
    ("", "nodes/status", UPDATE),
    ("", "pods", &["get", "list", "watch", "create", "delete"]),
    ("", "pods/status", UPDATE),
    ("", "pods/eviction", CREATE),
    ("", "services", READ),
    ("", "endpoints", READ),
    ("", "namespaces", READ),
    ("", "events", EVENTS),
    ("events.k8s.io", "events", EVENTS),
    ("discovery.k8s.io", "endpointslices", READ),
    ("networking.k8s.io", "networkpolicies", READ),
    ("networking.k8s.io", "servicecidrs", READ),
    ("coordination.k8s.io", "leases", OWN),
    ("node.k8s.io", "runtimeclasses", READ),
    ("storage.k8s.io", "csidrivers", READ),
    ("storage.k8s.io", "csinodes", OWN),
    ("storage.k8s.io", "volumeattachments", GET),
    ("storage.k8s.io", "storageclasses", READ),
    (
        "resource.k8s.io",
        "resourceslices",
        &["create", "get", "list", "watch", "update", "patch", "delete", "deletecollection"],
    ),
    ("resource.k8s.io", "resourceclaims", GET),
    ("", "persistentvolumes", GET),
    ("certificates.k8s.io", "certificatesigningrequests", &["create", "get", "list", "watch"]),
    ("authentication.k8s.io", "tokenreviews", CREATE),
    ("authorization.k8s.io", "subjectaccessreviews", CREATE),
    ("authorization.k8s.io", "localsubjectaccessreviews", CREATE),
];

/// Resources allowed only where a pod on the node uses the object.
static TIED: &[(&str, &str, &[&str])] = &[
    ("", "secrets", READ),
    ("", "configmaps", READ),
    ("", "persistentvolumeclaims", GET),
    ("", "persistentvolumeclaims/status", &["get", "update", "patch"]),
    ("", "serviceaccounts", GET),
    ("", "serviceaccounts/token", CREATE),
];

/// `Ok` allows; an error is no veto, for RBAC may still allow. It holds the reason, which may be empty.
pub fn authorize(objects: &dyn Objects, node: &str, access: &Access<'_>) -> Result<(), String> {
    if access.path.is_some() {
        return Err(String::new());
    }
    let listed = |rows: &[(&str, &str, &[&str])]| {
        rows.iter().any(|(group, resource, verbs)| {
            let (of, sub) = resource.split_once('/').unwrap_or((resource, ""));
            *group == access.group
                && of == access.resource
                && sub == access.subresource
                && verbs.contains(&access.verb)
        })
    };
    if listed(ALLOWED) {
        return Ok(());
    }
    if !listed(TIED) {
        return Err(String::new());
    }
    if access.name.is_empty() || access.namespace.is_empty() {
        let what = access.resource;
        return Err(format!("can only read {what} of one name, which a pod of the node refers to"));
    }
    let uses = |pod: &Value| refers(pod, access.resource, access.name);
    if objects.pods_on(node, access.namespace).iter().any(uses) {
        Ok(())
    } else {
        Err(format!("no relationship found between node '{node}' and this object"))
    }
}

/// A node may have a service account's token only bound to a pod that runs on it. The error is the reason.
pub fn check_token(
    objects: &dyn Objects,
    node: &str,
    namespace: &str,
    request: &Value,
) -> Result<(), String> {
    let bound = &request["spec"]["boundObjectRef"];
    let (Some(name), Some(uid)) = (bound["name"].as_str(), bound["uid"].as_str()) else {
        return Err(format!("node {node:?} can only ask for tokens bound to a pod by name and uid"));
    };
    if bound["kind"] != "Pod" {
        return Err(format!("node {node:?} can only ask for tokens bound to a pod"));
    }
    let pod = objects.get("", "pods", namespace, name);
    if pod.is_some_and(|pod| pod["metadata"]["uid"] == uid && pod["spec"]["nodeName"] == node) {
        Ok(())
    } else {
        Err(format!("node {node:?} requested a token bound to a pod scheduled on a different node"))
    }
}

/// Whether the pod uses the object of that resource and name in its own namespace.
fn refers(pod: &Value, resource: &str, name: &str) -> bool {
    let spec = &pod["spec"];
    if matches!(resource, "serviceaccounts") {
        return spec["serviceAccountName"].as_str().unwrap_or("default") == name;
    }
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let volumes = list(&spec["volumes"]);
    let claims = || {
        let by_name = volumes.iter().any(|v| v["persistentVolumeClaim"]["claimName"] == name);
        // An ephemeral volume's claim is named after pod and volume.
        let pod = pod["metadata"]["name"].as_str().unwrap_or_default();
        let made = volumes.iter().filter(|v| v["ephemeral"].is_object());
        by_name || made.filter_map(|v| v["name"].as_str()).any(|v| name == format!("{pod}-{v}"))
    };
    let (source, environment, key, volume_name) = match resource {
        "persistentvolumeclaims" => return claims(),
        "secrets" => ("secretRef", "secret", "secretKeyRef", "secretName"),
        "configmaps" => ("configMapRef", "configMap", "configMapKeyRef", "name"),
        _ => return false,
    };
    let in_volumes = volumes.iter().any(|volume| {
        volume[environment][volume_name] == name
            || list(&volume["projected"]["sources"]).iter().any(|s| s[environment]["name"] == name)
            || (resource == "secrets" && volume_secret(volume, name))
    });
    let in_containers = ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .flat_map(|kind| list(&spec[*kind]))
        .any(|container| {
            list(&container["envFrom"]).iter().any(|from| from[source]["name"] == name)
                || list(&container["env"]).iter().any(|env| env["valueFrom"][key]["name"] == name)
        });
    let pulled =
        resource == "secrets" && list(&spec["imagePullSecrets"]).iter().any(|secret| secret["name"] == name);
    in_volumes || in_containers || pulled
}

/// Secrets that drivers of other volume kinds are given.
fn volume_secret(volume: &Value, name: &str) -> bool {
    let kinds = volume.as_object().into_iter().flatten();
    kinds.filter(|(kind, _)| *kind != "secret").any(|(_, source)| {
        source["secretRef"]["name"] == name || source["nodePublishSecretRef"]["name"] == name
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::User;
    use crate::auth::objects::fixture::Fixture;

    fn check(verb: &str, resource: &str, namespace: &str, name: &str, allowed: bool) {
        let pod = |name: &str, node: &str, secret: &str| {
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": name},
                "spec": {
                    "nodeName": node, "serviceAccountName": "web",
                    "imagePullSecrets": [{"name": format!("{secret}-pull")}],
                    "volumes": [
                        {"name": "a", "secret": {"secretName": secret}},
                        {"name": "b", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}},
                        {"name": "c", "persistentVolumeClaim": {"claimName": "disk"}},
                    ],
                    "containers": [{
                        "name": "c",
                        "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "x"}}}],
                        "envFrom": [{"secretRef": {"name": format!("{secret}-env")}}],
                    }],
                },
            })
        };
        let objects = Fixture::default().with([pod("mine", "n1", "own"), pod("other", "n2", "foreign")]);
        let user = User::new("system:node:n1", [crate::auth::NODES]);
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let group = match resource {
            "leases" => "coordination.k8s.io",
            _ => "",
        };
        let access = Access {
            group,
            version: "v1",
            resource,
            subresource,
            namespace,
            name,
            ..Access::path(&user, verb, "")
        };
        let access = Access { path: None, ..access };
        let answer = authorize(&objects, "n1", &access);
        assert_eq!(answer.is_ok(), allowed, "{verb} {resource} {namespace}/{name}: {answer:?}");
    }

    #[test]
    fn a_node_reads_what_its_pods_use() {
        for (resource, name, allowed) in [
            ("secrets", "own", true),
            ("secrets", "own-pull", true),
            ("secrets", "own-env", true),
            ("secrets", "foreign", false),
            ("secrets", "", false),
            ("configmaps", "settings", true),
            ("configmaps", "kube-root-ca.crt", true),
            ("configmaps", "else", false),
            ("persistentvolumeclaims", "disk", true),
            ("persistentvolumeclaims", "tape", false),
        ] {
            check("get", resource, "shop", name, allowed);
            check("get", resource, "elsewhere", name, false);
            check("delete", resource, "shop", name, false);
        }
        check("watch", "secrets", "shop", "own", true);
        check("create", "serviceaccounts/token", "shop", "web", true);
        check("create", "serviceaccounts/token", "shop", "other", false);
    }

    #[test]
    fn a_node_writes_what_nodes_write() {
        check("patch", "nodes/status", "", "n1", true);
        check("update", "leases", "kube-node-lease", "n1", true);
        check("patch", "pods/status", "shop", "mine", true);
        check("create", "events", "shop", "", true);
        check("list", "services", "", "", true);
        check("update", "pods", "shop", "mine", false);
        check("create", "secrets", "shop", "x", false);
        check("list", "secrets", "", "", false);
    }
}
