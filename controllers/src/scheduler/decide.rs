//! The decision: one pod, all nodes, the best that fits or the reasons why none does.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use smol_str::SmolStr;

use super::affinity::Survey;
use super::filters::{self, Reason};
use super::scores;
use super::snapshot::{NodeInfo, PodInfo, Snapshot};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Node(SmolStr),
    /// Why not, in upstream's words.
    Nowhere(String),
}

/// Pure: the same snapshot and pod give the same answer.
pub fn schedule(snapshot: &Snapshot, pod: &PodInfo) -> Decision {
    let survey = Survey::of(snapshot, pod);
    let mut fitting: Vec<&NodeInfo> = Vec::new();
    let mut reasons: BTreeMap<Reason, usize> = BTreeMap::new();
    let mut count = 0;
    for node in snapshot.nodes() {
        count += 1;
        let objections = filters::ALL.iter().map(|filter| filter(&survey, pod, node)).find(|o| !o.is_empty());
        match objections {
            None => fitting.push(node),
            Some(objections) => {
                for reason in objections {
                    *reasons.entry(reason).or_default() += 1;
                }
            }
        }
    }
    let scores = scores::total(&survey, pod, &fitting);
    let best = scores.iter().copied().max();
    // Among equals the emptier node, then one that differs from pod to pod.
    let best = fitting
        .iter()
        .zip(&scores)
        .filter(|(_, score)| Some(**score) == best)
        .min_by_key(|(node, _)| (node.pods.len(), lot(pod, node)));
    match best {
        Some((node, _)) => Decision::Node(node.name.clone()),
        None if count == 0 => Decision::Nowhere("no nodes available to schedule pods".into()),
        None => {
            let mut parts: Vec<_> =
                reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            parts.sort();
            Decision::Nowhere(format!("0/{count} nodes are available: {}.", parts.join(", ")))
        }
    }
}

fn lot(pod: &PodInfo, node: &NodeInfo) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&pod.uid, &node.name).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{Node, Pod};
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, more: Value) -> Node {
        let mut node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "spec": {},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}},
        });
        merge(&mut node, more);
        serde_json::from_value(node).expect("a node")
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                from.into_iter().for_each(|(k, v)| merge(into.entry(k).or_insert(Value::Null), v));
            }
            (into, from) => *into = from,
        }
    }

    fn pod(name: &str, node: &str, spec: Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "set",
                                     "controller": true}]},
            "spec": {"containers": [{"name": "main"}], "nodeName": node},
        });
        merge(&mut pod["spec"], spec);
        serde_json::from_value(pod).expect("a pod")
    }

    fn cpu(amount: &str) -> Value {
        json!({"containers": [{"name": "main", "resources": {"requests": {"cpu": amount}}}]})
    }

    fn place(nodes: &[Node], placed: &[Pod], spec: Value) -> Decision {
        let mut snapshot = Snapshot::default();
        nodes.iter().for_each(|node| _ = snapshot.put_node(node));
        placed.iter().for_each(|pod| _ = snapshot.put_pod(pod));
        schedule(&snapshot, &PodInfo::of(&pod("new", "", spec)))
    }

    fn nowhere(why: &str) -> Decision {
        Decision::Nowhere(why.into())
    }

    #[test]
    fn what_keeps_a_pod_off_is_said_in_upstreams_words() {
        let tainted =
            json!({"spec": {"taints": [{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]}});
        let closed = json!({"spec": {"unschedulable": true}});
        let plain = json!({});
        let port =
            json!({"containers": [{"name": "main", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
        let a = |more: &Value| [node("a", more.clone())];
        for (nodes, placed, spec, why) in [
            (&a(&plain)[..0], vec![], json!({}), "no nodes available to schedule pods"),
            (&a(&closed), vec![], json!({}), "0/1 nodes are available: 1 node(s) were unschedulable."),
            (
                &a(&tainted),
                vec![],
                json!({}),
                "0/1 nodes are available: 1 node(s) had untolerated taint {dedicated: db}.",
            ),
            (&a(&plain), vec![], cpu("3"), "0/1 nodes are available: 1 Insufficient cpu."),
            (
                &a(&plain),
                vec![pod("p", "a", cpu("1500m"))],
                cpu("600m"),
                "0/1 nodes are available: 1 Insufficient cpu.",
            ),
            (
                &a(&json!({"status": {"allocatable": {"pods": "1"}}})),
                vec![pod("p", "a", json!({}))],
                json!({}),
                "0/1 nodes are available: 1 Too many pods.",
            ),
            (
                &a(&plain),
                vec![],
                json!({"nodeSelector": {"disk": "ssd"}}),
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            ),
            (
                &a(&plain),
                vec![pod("p", "a", port.clone())],
                port.clone(),
                "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
            ),
            (
                &a(&plain),
                vec![pod("p", "a", json!({}))],
                json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                 {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}}),
                "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.",
            ),
            (
                &a(&plain),
                vec![],
                json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                 {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}}),
                "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.",
            ),
            (
                &a(&plain),
                vec![],
                json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
                 "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}),
                "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label).",
            ),
        ] {
            assert_eq!(place(nodes, &placed, spec), nowhere(why));
        }
        let both = [node("a", tainted), node("b", closed)];
        let why = "0/2 nodes are available: 1 node(s) had untolerated taint {dedicated: db}, 1 node(s) were unschedulable.";
        assert_eq!(place(&both, &[], json!({})), nowhere(why));
    }

    #[test]
    fn the_better_node_wins() {
        let two = [node("a", json!({})), node("b", json!({}))];
        let soft = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
        let preferred = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 10, "preference": {"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": ["a"]}]}}]}}});
        let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
        let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]});
        let on = |node: &str| vec![pod("p", node, cpu("100m"))];
        for (what, nodes, placed, spec, expected) in [
            ("an empty node", &two, on("a"), json!({}), "b"),
            ("a node without soft taints", &[node("a", soft), node("b", json!({}))], vec![], json!({}), "b"),
            ("a preferred node", &two, vec![], preferred, "a"),
            ("a node near its like", &two, on("a"), near.clone(), "a"),
            (
                "the first of its kind goes anywhere",
                &[two[0].clone(), node("b", json!({"spec": {"unschedulable": true}}))],
                vec![],
                near,
                "a",
            ),
            ("an even spread", &two, on("b"), spread, "a"),
        ] {
            assert_eq!(place(nodes, &placed, spec), Decision::Node(expected.into()), "{what}");
        }
    }

    #[test]
    fn pods_that_repel_others_are_heard() {
        let repel = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
        let why = "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.";
        assert_eq!(place(&[node("a", json!({}))], &[pod("p", "a", repel)], json!({})), nowhere(why));
    }

    /// Two thousand pods on a hundred nodes end up even, each decision seeing all before it.
    #[test]
    fn many_pods_spread_evenly() {
        let mut snapshot = Snapshot::default();
        for index in 0..100 {
            let roomy = json!({"status": {"allocatable": {"cpu": "64", "memory": "256Gi", "pods": "110"}}});
            snapshot.put_node(&node(&format!("node-{index}"), roomy));
        }
        for index in 0..2000 {
            let info = Arc::new(PodInfo::of(&pod(&format!("p{index}"), "", json!({}))));
            match schedule(&snapshot, &info) {
                Decision::Node(node) => snapshot.assume(info, &node),
                nowhere => panic!("{nowhere:?}"),
            }
        }
        assert!(snapshot.nodes().all(|node| node.pods.len() == 20));
    }
}
