//! Namespaces, nodes, and classes of the cluster.

use serde_json::{Value, json};

use super::names::NameRule;
use super::value::{carry, default, has, object, set, text};
use super::{Entry, PLAIN, Strategy};

pub(super) static KINDS: &[Entry] = &[
    (
        "",
        "namespaces",
        Strategy {
            names: NameRule::Label,
            default: namespace,
            prepare_create: open,
            prepare_update: keep_finalizers,
            ..PLAIN
        },
    ),
    ("", "nodes", Strategy { default: node, keeps_status: true, ..PLAIN }),
    ("scheduling.k8s.io", "priorityclasses", Strategy { default: priority_class, generation: true, ..PLAIN }),
    ("node.k8s.io", "runtimeclasses", PLAIN),
    ("coordination.k8s.io", "leases", Strategy { create_on_update: true, ..PLAIN }),
];

fn namespace(namespace: &mut Value) {
    let name = text(&namespace["metadata"], "name").to_owned();
    if !name.is_empty() {
        set(object(object(namespace, "metadata"), "labels"), "kubernetes.io/metadata.name", name);
    }
    default(object(namespace, "status"), "phase", "Active");
}

fn open(namespace: &mut Value) {
    set(namespace, "status", json!({"phase": "Active"}));
    let finalizers = object(namespace, "spec");
    match finalizers.get_mut("finalizers").and_then(Value::as_array_mut) {
        Some(list) if list.iter().any(|one| one == "kubernetes") => (),
        Some(list) => list.push("kubernetes".into()),
        None => set(finalizers, "finalizers", json!(["kubernetes"])),
    }
}

/// Only the `finalize` subresource takes a namespace's finalizers away.
fn keep_finalizers(new: &mut Value, old: &Value) {
    carry(object(new, "spec"), &old["spec"], "finalizers");
}

fn node(node: &mut Value) {
    let status = object(node, "status");
    if !has(status, "allocatable") && has(status, "capacity") {
        let capacity = status["capacity"].clone();
        set(status, "allocatable", capacity);
    }
}

fn priority_class(class: &mut Value) {
    default(class, "preemptionPolicy", "PreemptLowerPriority");
}
