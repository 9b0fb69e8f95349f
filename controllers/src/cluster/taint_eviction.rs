//! Eviction by taints: pods leave a node whose NoExecute taints they do not tolerate, or no longer.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint, Toleration};

use crate::objects::{is_deleting, name_of, namespace_of, node_name, reference};
use crate::runtime::{Action, Controller, EventSpec, Key, Now, Plan, Severity, World};

pub fn controller() -> Controller {
    Controller::new("taint-eviction", reconcile).of::<Node>().watching::<Pod>(|_, old, new| {
        let came = new.filter(|new| old.is_none_or(|old| node_name(old) != node_name(new)));
        came.map(node_name)
            .filter(|node| !node.is_empty())
            .map(|node| Key::new("", node))
            .into_iter()
            .collect()
    })
}

/// Whether the toleration covers the taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |field: &Option<String>| field.as_deref().unwrap_or_default().to_string();
    let (effect, key) = (set(&toleration.effect), set(&toleration.key));
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    let (wanted, value) = (set(&toleration.value), taint.value.as_deref().unwrap_or_default());
    let numbers = || Some((value.parse::<i64>().ok()?, wanted.parse::<i64>().ok()?));
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => !key.is_empty() && wanted == value,
        "Exists" => true,
        "Lt" => numbers().is_some_and(|(value, wanted)| value < wanted),
        "Gt" => numbers().is_some_and(|(value, wanted)| value > wanted),
        _ => false,
    }
}

/// How long the pod may stay: `None` for ever.
fn stay(pod: &Pod, taints: &[&Taint], now: &Now) -> Option<Duration> {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let mut stay: Option<Duration> = None;
    for taint in taints {
        let matching: Vec<_> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if matching.is_empty() {
            return Some(Duration::ZERO);
        }
        let patience = matching.iter().filter_map(|toleration| toleration.toleration_seconds).min();
        if let Some(seconds) = patience {
            let patience = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            let tainted_for = taint.time_added.as_ref().map(|time| now.since(time)).unwrap_or_default();
            let left = patience.saturating_sub(tainted_for);
            stay = Some(stay.map_or(left, |other| other.min(left)));
        }
    }
    stay
}

pub fn reconcile(world: &World, key: &Key, now: &Now) -> Plan {
    let mut plan = Plan::none();
    let Some(node) = world.nodes.get(key) else { return plan };
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let taints: Vec<_> = taints.iter().filter(|taint| taint.effect == "NoExecute").collect();
    if taints.is_empty() {
        return plan;
    }
    for pod in world.pods.on_node(&key.name).filter(|pod| !is_deleting(pod.as_ref())) {
        match stay(pod, &taints, now) {
            None => {}
            Some(Duration::ZERO) => evict(&mut plan, pod, now),
            Some(left) => plan.again_after(left),
        }
    }
    plan
}

fn evict(plan: &mut Plan, pod: &Pod, now: &Now) {
    let message = "Taint manager: deleting due to NoExecute taint";
    if let Some(marked) = disrupted(pod, "DeletionByTaintManager", message, now) {
        plan.push(Action::update_status(&marked));
    }
    plan.push(Action::delete(pod).saying(EventSpec {
        regarding: reference(pod),
        severity: Severity::Normal,
        component: "taint-eviction-controller",
        reason: "TaintManagerEviction".into(),
        message: format!("Marking for deletion Pod {}/{}", namespace_of(pod), name_of(pod)),
    }));
}

/// The pod with the condition that tells its owner it was pushed out; `None` where it is there already.
pub fn disrupted(pod: &Pod, reason: &str, message: &str, now: &Now) -> Option<Pod> {
    let mut pod = pod.clone();
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    if conditions.iter().any(|c| c.type_ == "DisruptionTarget" && c.status == "True") {
        return None;
    }
    conditions.retain(|condition| condition.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(now.stamp()),
        ..PodCondition::default()
    });
    Some(pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates_the_taint() {
        let taint: Taint = serde_json::from_value(json!({
            "key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}))
        .expect("a taint");
        let now = Now::at("2026-01-01T00:00:10Z".parse().expect("a time"));
        let seconds = Duration::from_secs;
        for (tolerations, expected) in [
            (json!([]), Some(seconds(0))),
            (json!([{"operator": "Exists"}]), None),
            (
                json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
                     "tolerationSeconds": 300}]),
                Some(seconds(290)),
            ),
            (
                json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 5}]),
                Some(seconds(0)),
            ),
            (
                json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoSchedule"}]),
                Some(seconds(0)),
            ),
            (json!([{"key": "node.kubernetes.io/unreachable", "value": "x"}]), Some(seconds(0))),
        ] {
            let pod: Pod = serde_json::from_value(
                json!({"metadata": {"name": "p"}, "spec": {"containers": [], "tolerations": tolerations}}),
            )
            .expect("a pod");
            assert_eq!(stay(&pod, &[&taint], &now), expected, "{:?}", pod.spec);
        }
    }
}
