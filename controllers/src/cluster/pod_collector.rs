//! Pod garbage collection: pods whose node is gone, pods nobody will ever finish, and finished pods beyond measure.
//!
//! The keys are node names; the empty one stands for pods without a node and for the count of finished pods.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::taint_eviction::disrupted;
use crate::objects::{is_deleting, is_finished, node_condition, node_name, pod_condition};
use crate::runtime::{Action, Controller, Key, Now, Plan, World};

/// Finished pods kept in the cluster.
const FINISHED: usize = 12_500;
/// A pod that was bound this recently may be ahead of the news of its node.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

pub fn controller() -> Controller {
    Controller::new("pod-collector", reconcile).of::<Node>().watching::<Pod>(|world, old, new| {
        let Some(pod) = new else { return Vec::new() };
        let mut keys = Vec::new();
        let node = Key::new("", node_name(pod));
        let homeless = !node.name.is_empty() && world.nodes.get(&node).is_none();
        if is_deleting(pod) || homeless {
            keys.push(node);
        }
        if is_finished(pod) && old.is_none_or(|old| !is_finished(old)) && world.pods.len() > FINISHED {
            keys.push(Key::default());
        }
        keys
    })
}

/// Deletes a pod whose agent cannot say that it has ended.
fn collect(plan: &mut Plan, pod: &Pod, reason: &str, message: &str, now: &Now) {
    if !is_finished(pod) {
        let mut failed = disrupted(pod, reason, message, now).unwrap_or_else(|| pod.clone());
        failed.status.get_or_insert_default().phase = Some("Failed".into());
        plan.push(Action::update_status(&failed));
    }
    plan.push(Action::delete_with(pod, |options| options.grace(0)));
}

pub fn reconcile(world: &World, key: &Key, now: &Now) -> Plan {
    let mut plan = Plan::none();
    if key.name.is_empty() {
        for pod in world.pods.on_node("").filter(|pod| is_deleting(pod.as_ref())) {
            plan.push(Action::delete_with(pod.as_ref(), |options| options.grace(0)));
        }
        if world.pods.len() > FINISHED {
            let mut finished: Vec<_> =
                world.pods.iter().filter(|pod| is_finished(pod) && !is_deleting(pod.as_ref())).collect();
            finished.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
            for pod in finished.iter().take(finished.len().saturating_sub(FINISHED)) {
                plan.push(Action::delete_with(pod.as_ref(), |options| options.grace(0)));
            }
        }
        return plan;
    }
    match world.nodes.get(key) {
        None => {
            for pod in world.pods.on_node(&key.name) {
                let bound = pod_condition(pod, "PodScheduled").and_then(|c| c.last_transition_time.as_ref());
                let bound = bound.or(pod.metadata.creation_timestamp.as_ref());
                let age = bound.map(|time| now.since(time)).unwrap_or(QUARANTINE);
                if age < QUARANTINE {
                    plan.again_after(QUARANTINE - age);
                } else {
                    let message = "PodGC: node no longer exists";
                    collect(&mut plan, pod, "DeletionByPodGC", message, now);
                }
            }
        }
        Some(node) => {
            let ready = node_condition(node, "Ready").is_some_and(|ready| ready.status == "True");
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
            if !ready && taints.iter().any(|taint| taint.key == OUT_OF_SERVICE) {
                for pod in world.pods.on_node(&key.name).filter(|pod| is_deleting(pod.as_ref())) {
                    collect(&mut plan, pod, "DeletionByPodGC", "PodGC: node is out of service", now);
                }
            }
        }
    }
    plan
}
