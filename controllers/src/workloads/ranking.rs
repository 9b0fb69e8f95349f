//! Which pods go first when there are too many.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::objects::{is_ready, node_name, pod_phase, ready_since};
use crate::runtime::Now;

/// The cost of deleting a pod, as its owner sees it; pods that cost less go first.
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Sorts pods so that those to be deleted first stand first. `crowd` says how many related pods share each node:
/// pods on crowded nodes go before others.
pub fn sort_for_deletion(pods: &mut [Arc<Pod>], crowd: &HashMap<String, usize>, now: &Now) {
    pods.sort_by(|a, b| compare(a, b, crowd, now));
}

fn compare(a: &Pod, b: &Pod, crowd: &HashMap<String, usize>, now: &Now) -> Ordering {
    let early = |pod: &Pod| {
        let phase = match pod_phase(pod) {
            "Pending" => 0,
            "Running" => 2,
            _ => 1,
        };
        let crowded = crowd.get(node_name(pod)).copied().unwrap_or(0);
        (!node_name(pod).is_empty(), phase, is_ready(pod), cost(pod), Reverse(crowded))
    };
    early(a)
        .cmp(&early(b))
        .then_with(|| match (is_ready(a), is_ready(b)) {
            // Readiness times far in the past count by order of magnitude, so that the choice among old pods is even.
            (true, true) => magnitude(ready_since(a), now).cmp(&magnitude(ready_since(b), now)),
            _ => Ordering::Equal,
        })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| {
            let age = |pod: &Pod| magnitude(pod.metadata.creation_timestamp.as_ref(), now);
            age(a).cmp(&age(b))
        })
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn magnitude(time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>, now: &Now) -> u32 {
    time.map_or(0, |time| {
        let seconds = now.since(time).as_secs();
        if seconds == 0 { 0 } else { seconds.ilog2() + 1 }
    })
}

fn cost(pod: &Pod) -> i32 {
    pod.metadata.annotations.as_ref().and_then(|a| a.get(COST)).and_then(|c| c.parse().ok()).unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|container| container.restart_count).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str, phase: &str, ready: bool, extra: serde_json::Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase, "conditions": [{
                "type": "Ready", "status": if ready { "True" } else { "False" },
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }]},
        });
        json_patch_merge(&mut pod, extra);
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    fn json_patch_merge(into: &mut serde_json::Value, from: serde_json::Value) {
        match (into, from) {
            (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
                for (key, value) in from {
                    json_patch_merge(into.entry(key).or_insert(serde_json::Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }

    #[test]
    fn the_least_useful_pod_goes_first() {
        let cheap = json!({"metadata": {"annotations": {COST: "-5"}}});
        let restarted = json!({"status": {"containerStatuses": [
            {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 3}]}});
        let young = json!({"metadata": {"creationTimestamp": "2026-01-01T00:59:59Z"}});
        let mut pods = [
            pod("old", "n1", "Running", true, json!({})),
            pod("young", "n1", "Running", true, young),
            pod("restarted", "n1", "Running", true, restarted),
            pod("crowded", "n2", "Running", true, json!({})),
            pod("cheap", "n1", "Running", true, cheap),
            pod("unready", "n1", "Running", false, json!({})),
            pod("pending", "n1", "Pending", false, json!({})),
            pod("unbound", "", "Pending", false, json!({})),
        ];
        let crowd = HashMap::from([("n1".to_string(), 1), ("n2".to_string(), 2)]);
        let now = Now::at("2026-01-01T01:00:00Z".parse().expect("a time"));
        sort_for_deletion(&mut pods, &crowd, &now);
        let names: Vec<_> = pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
        assert_eq!(names, ["unbound", "pending", "unready", "cheap", "crowded", "restarted", "young", "old"]);
    }
}
