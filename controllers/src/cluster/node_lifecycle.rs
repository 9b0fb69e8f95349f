//! Node lifecycle: notices silent nodes, says so in their conditions, and turns conditions into taints.
//!
//! A heartbeat is a renewed lease in `kube-node-lease` or a new heartbeat time of the Ready condition, counted from
//! when this process saw it, so that clocks of nodes do not matter.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use kontiki_proto::api::PatchType;
use serde_json::json;

use crate::objects::{is_ready, name_of, node_condition, reference};
use crate::runtime::{Action, Controller, EventSpec, Key, Now, Plan, Severity, World};

const COMPONENT: &str = "node-controller";
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that go Unknown when a node falls silent.
const HEARD_OF: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Conditions that, when true, keep new pods away.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

pub fn controller() -> Controller {
    Controller::new("node-lifecycle", reconcile).of::<Node>().watching::<Lease>(|world, old, new| {
        let name = old.or(new).and_then(|lease| lease.metadata.name.as_deref()).unwrap_or_default();
        // A node that is well needs no look at each of its heartbeats.
        let key = Key::new("", name);
        let well = |node: &Node| node_condition(node, "Ready").is_some_and(|ready| ready.status == "True");
        if world.nodes.get(&key).is_none_or(|node| well(node)) { Vec::new() } else { vec![key] }
    })
}

pub fn reconcile(world: &World, key: &Key, now: &Now) -> Plan {
    let mut plan = Plan::none();
    let Some(node) = world.nodes.get(key) else { return plan };
    let grace = world.settings.node_grace;
    let heard = world.heartbeats.get(&key.name).copied().unwrap_or(now.time);
    let silence = std::time::Duration::try_from(now.time.duration_since(heard)).unwrap_or_default();
    let mut updated = (**node).clone();
    if silence >= grace {
        fall_silent(&mut updated, now);
    } else {
        plan.again_after(grace - silence);
    }
    if updated.status != node.status {
        let message = format!("Node {} status is now: NodeNotReady", name_of(node.as_ref()));
        plan.push(Action::update_status(&updated).saying(EventSpec {
            regarding: reference(node.as_ref()),
            severity: Severity::Normal,
            component: COMPONENT,
            reason: "NodeNotReady".into(),
            message,
        }));
    }
    let present = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let wanted = taints(&updated, &present, now);
    if wanted != present {
        let body = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": wanted},
        });
        plan.push(Action::patch(node.as_ref(), "", PatchType::Merge, body));
    }
    if node_condition(&updated, "Ready").is_some_and(|ready| ready.status == "Unknown") {
        for pod in world.pods.on_node(&key.name) {
            if is_ready(pod) {
                plan.push(Action::update_status(&unready(pod, now)));
            }
        }
    }
    plan
}

/// Nobody knows any more how the node is.
fn fall_silent(node: &mut Node, now: &Now) {
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    for kind in HEARD_OF {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(condition) if condition.status != "Unknown" => {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
                condition.last_transition_time = Some(now.stamp());
            }
            Some(_) => {}
            None => conditions.push(NodeCondition {
                type_: kind.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(now.stamp()),
            }),
        }
    }
}

/// The taints the node's conditions ask for; others stay as they are.
fn taints(node: &Node, present: &[Taint], now: &Now) -> Vec<Taint> {
    let status = |kind: &str| node_condition(node, kind).map(|condition| condition.status.as_str());
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match status("Ready") {
        Some("True") => {}
        Some("False") => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        Some(_) => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        // Just registered: pods may not come yet, and none has to go.
        None => wanted.push((NOT_READY, "NoSchedule")),
    }
    for (condition, taint) in PRESSURES {
        if status(condition) == Some("True") {
            wanted.push((taint, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let managed = |taint: &Taint| {
        let key = taint.key.as_str();
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key) || PRESSURES.iter().any(|(_, k)| *k == key)
    };
    let asked =
        |taint: &Taint| wanted.iter().any(|(key, effect)| taint.key == *key && taint.effect == *effect);
    let mut taints: Vec<Taint> =
        present.iter().filter(|taint| !managed(taint) || asked(taint)).cloned().collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint { key: key.into(), effect: effect.into(), value: None, time_added: None });
        }
    }
    // Evictions count from when a taint came.
    for taint in &mut taints {
        if taint.effect == "NoExecute" {
            taint.time_added.get_or_insert_with(|| now.stamp());
        }
    }
    taints
}

/// A pod on a silent node takes no traffic until its agent says otherwise.
fn unready(pod: &Pod, now: &Now) -> Pod {
    let mut pod = pod.clone();
    for condition in pod.status.iter_mut().flat_map(|status| status.conditions.iter_mut()).flatten() {
        if condition.type_ == "Ready" {
            condition.status = "False".into();
            condition.last_transition_time = Some(now.stamp());
        }
    }
    pod
}
