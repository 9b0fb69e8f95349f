//! A node writes its own Node, Lease and CSINode, and the pods bound to it; nothing of other nodes.
//!
//! Tokens a node asks for are checked where they are made: `auth::node::check_token`.

use serde_json::Value;

use super::{Admission, Call, Operation, Refusal, items};

/// Labels under which an administrator keeps nodes apart; a node may not give them to itself.
const RESERVED_LABEL: &str = "node-restriction.kubernetes.io/";

pub(super) fn admit(admission: &Admission, call: &mut Call<'_>) -> Result<(), Refusal> {
    let Some(node) = call.user.node() else { return Ok(()) };
    let refusal = match (call.row.group.as_str(), call.row.plural.as_str()) {
        ("", "nodes") => on_node(node, call),
        ("", "pods") => on_pod(admission, node, call),
        ("coordination.k8s.io", "leases") => on_lease(node, call),
        ("storage.k8s.io", "csinodes") if call.name() != node => {
            Some(format!("node {node:?} can only access its own CSINode"))
        }
        _ => None,
    };
    match refusal {
        None => Ok(()),
        Some(why) => Err(call.forbidden(&why).into()),
    }
}

fn on_node(node: &str, call: &Call<'_>) -> Option<String> {
    if call.name() != node {
        return Some(format!("node {node:?} is not allowed to modify node {:?}", call.name()));
    }
    let reserved = |object: &Value| -> Vec<(String, Value)> {
        let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
        labels
            .filter(|(key, _)| {
                key.split_once('/').is_some_and(|(prefix, _)| {
                    let domain = RESERVED_LABEL.trim_end_matches('/');
                    prefix == domain || prefix.ends_with(&format!(".{domain}"))
                })
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    match call.operation {
        Operation::Create if !reserved(call.object).is_empty() => {
            Some(format!("is not allowed to set labels under {RESERVED_LABEL}"))
        }
        Operation::Update => {
            let old = call.old?;
            if reserved(old) != reserved(call.object) {
                return Some(format!("is not allowed to modify labels under {RESERVED_LABEL}"));
            }
            let taints = |object: &Value| items(&object["spec"]["taints"]).cloned().collect::<Vec<_>>();
            (call.target.subresource.is_empty() && taints(old) != taints(call.object))
                .then(|| format!("node {node:?} is not allowed to modify taints"))
        }
        _ => None,
    }
}

fn on_pod(admission: &Admission, node: &str, call: &Call<'_>) -> Option<String> {
    let bound = |pod: &Value| pod["spec"]["nodeName"] == node;
    match (call.operation, call.target.subresource.as_str()) {
        (Operation::Create, "") => {
            if !call.is_mirror_pod() {
                Some(format!(
                    "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
                ))
            } else if !bound(call.object) {
                Some(format!("node {node:?} can only create pods with spec.nodeName set to itself"))
            } else {
                None
            }
        }
        (Operation::Update | Operation::Delete, "" | "status") => {
            let own = call.old.is_some_and(bound);
            (!own).then(|| format!("node {node:?} can only change pods with spec.nodeName set to itself"))
        }
        (Operation::Create, "eviction") => {
            let own =
                admission.objects.get("", "pods", call.namespace(), call.name()).is_some_and(|p| bound(&p));
            (!own).then(|| format!("node {node:?} can only evict pods with spec.nodeName set to itself"))
        }
        (_, subresource) => {
            Some(format!("node {node:?} may not use the subresource {subresource:?} of pods"))
        }
    }
}

fn on_lease(node: &str, call: &Call<'_>) -> Option<String> {
    if call.namespace() != "kube-node-lease" {
        Some("can only access leases in the \"kube-node-lease\" system namespace".to_string())
    } else if call.name() != node {
        Some("can only access node lease with the same name as the requesting node".to_string())
    } else {
        None
    }
}
