//! Namespaces, nodes, and classes of the cluster.

use std::collections::BTreeSet;

use kontiki_proto::status::FieldError;
use serde_json::{Value, json};

use super::check::{Errors, all, immutable};
use super::names::{self, NameRule};
use super::value::{carry, default, has, int, list, object, same, set, text};
use super::{Entry, PLAIN, Strategy, meta, pod};
use crate::schema::Path;

pub(super) static KINDS: &[Entry] = &[
    (
        "",
        "namespaces",
        Strategy {
            names: NameRule::Label,
            default: namespace,
            prepare_create: open,
            prepare_update: keep_finalizers,
            validate: validate_namespace,
            ..PLAIN
        },
    ),
    (
        "",
        "nodes",
        Strategy {
            default: node,
            keeps_status: true,
            validate: validate_node,
            validate_update: update_node,
            ..PLAIN
        },
    ),
    (
        "scheduling.k8s.io",
        "priorityclasses",
        Strategy {
            default: priority_class,
            validate: validate_priority,
            validate_update: update_priority,
            generation: true,
            ..PLAIN
        },
    ),
    (
        "node.k8s.io",
        "runtimeclasses",
        Strategy { validate: validate_runtime, validate_update: update_runtime, ..PLAIN },
    ),
    ("coordination.k8s.io", "leases", Strategy { validate: validate_lease, create_on_update: true, ..PLAIN }),
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

fn validate_namespace(namespace: &Value, errors: &mut Errors) {
    let path = Path::of("spec");
    let here = path.key("finalizers");
    for (at, finalizer) in list(&namespace["spec"], "finalizers").iter().enumerate() {
        let finalizer = finalizer.as_str().unwrap_or_default();
        meta::finalizer(finalizer, &here.item(at), &here.item(at), errors);
    }
}

fn validate_node(node: &Value, errors: &mut Errors) {
    let (spec, path) = (&node["spec"], Path::of("spec"));
    let here = path.key("taints");
    let mut known = BTreeSet::new();
    for (at, taint) in list(spec, "taints").iter().enumerate() {
        let place = here.item(at);
        let key = text(taint, "key");
        all(place.key("key"), key, names::qualified(key), errors);
        let value = text(taint, "value");
        let problems = names::label_value(value);
        if !problems.is_empty() {
            errors.push(FieldError::invalid(place.key("value"), value, &problems.join(";")));
        }
        pod::taint_effect(taint, true, &place, errors);
        if !known.insert((key, text(taint, "effect"))) {
            let mut shown = FieldError::duplicate(place, taint);
            shown.message.push_str(": taints must be unique by key and effect pair");
            errors.push(shown);
        }
    }
    let here = path.key("podCIDRs");
    for (at, range) in list(spec, "podCIDRs").iter().enumerate() {
        let range = range.as_str().unwrap_or_default();
        if let Some(message) = names::cidr(range) {
            errors.push(FieldError::invalid(here.item(at), range, &message));
        }
    }
}

fn update_node(new: &Value, old: &Value, errors: &mut Errors) {
    let (new, old) = (&new["spec"], &old["spec"]);
    let forbid = |field: &str| {
        let name = field.trim_end_matches('s');
        let why = format!("node updates may not change {name} except from \"\" to valid");
        FieldError::forbidden(Path::of("spec").key(field), &why)
    };
    if !list(old, "podCIDRs").is_empty() && !same(&new["podCIDRs"], &old["podCIDRs"]) {
        errors.push(forbid("podCIDRs"));
    }
    if !text(old, "providerID").is_empty() && text(new, "providerID") != text(old, "providerID") {
        errors.push(forbid("providerID"));
    }
}

/// The classes above belong to the system.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

fn validate_priority(class: &Value, errors: &mut Errors) {
    let name = text(&class["metadata"], "name");
    let value = int(class, "value").unwrap_or(0);
    if name.starts_with("system-") {
        if !matches!(name, "system-node-critical" | "system-cluster-critical") {
            let why = "priority class names with 'system-' prefix are reserved for system use only. error: priority class name is not one of the known system priority classes";
            errors.push(FieldError::forbidden("metadata.name", why));
        }
    } else if value > HIGHEST_USER_PRIORITY {
        let why = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
        errors.push(FieldError::forbidden("value", &why));
    }
    let known = ["Never", "PreemptLowerPriority"];
    super::check::one_of(class, "preemptionPolicy", &Path::Root, &known, errors);
}

fn update_priority(new: &Value, old: &Value, errors: &mut Errors) {
    if int(new, "value").unwrap_or(0) != int(old, "value").unwrap_or(0) {
        errors.push(FieldError::forbidden("value", "may not be changed in an update."));
    }
    immutable(new, old, "preemptionPolicy", &Path::Root, errors);
}

fn validate_runtime(class: &Value, errors: &mut Errors) {
    let handler = text(class, "handler");
    all("handler", handler, names::label(handler), errors);
}

fn update_runtime(new: &Value, old: &Value, errors: &mut Errors) {
    immutable(new, old, "handler", &Path::Root, errors);
}

fn validate_lease(lease: &Value, errors: &mut Errors) {
    let (spec, path) = (&lease["spec"], Path::of("spec"));
    for key in ["leaseDurationSeconds", "leaseTransitions"] {
        let least = i64::from(key == "leaseDurationSeconds");
        if let Some(number) = int(spec, key).filter(|number| *number < least) {
            let why = if least == 1 { "must be greater than 0" } else { super::check::NOT_NEGATIVE };
            errors.push(FieldError::invalid(path.key(key), number, why));
        }
    }
    if has(spec, "holderIdentity") && text(spec, "holderIdentity").is_empty() {
        errors.push(FieldError::invalid(path.key("holderIdentity"), "", "must not be empty"));
    }
}
