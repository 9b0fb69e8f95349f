//! What a cluster must survive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Cluster, eventually, kill};
use crate::tour::sample_image;

fn pod(name: &str, node: &str, image: &str, container: &Value) -> Value {
    let mut container = container.clone();
    container["name"] = json!("main");
    container["image"] = json!(image);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "nodeSelector": { "kubernetes.io/hostname": node },
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
        },
    })
}

fn service(name: &str, port: u16, target: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name },
        "spec": { "selector": { "app": name }, "ports": [{ "port": port, "targetPort": target }] },
    })
}

fn ready_endpoints(cluster: &Cluster, service: &str) -> usize {
    let slices = cluster.json(&format!("get endpointslices -l kubernetes.io/service-name={service}"));
    let endpoints = slices["items"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
    endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true).count()
}

/// A client on node-1 reaches a server on node-2 through a Service's name, short and full.
pub fn a_service_is_reached_by_name_across_nodes(cluster: &Cluster) {
    let image = sample_image(cluster);
    let client = json!({ "command": ["sh", "-c",
        "while true; do busybox timeout 3 wget -qO- http://far && busybox timeout 3 wget -qO- http://far.default.svc.cluster.local && echo both; sleep 1; done"] });
    let file = cluster.manifest(
        "far.yaml",
        &[
            pod("far", "node-2", &image, &json!({})),
            service("far", 80, 8080),
            pod("near", "node-1", &image, &client),
        ],
    );
    cluster.kubectl(&format!("apply -f {file}"));
    cluster.kubectl("wait --for=condition=Ready pod/far pod/near --timeout=90s");
    eventually("the service answers by its name", || {
        let logs = cluster.kubectl("logs near");
        (logs.contains("hello v1 from far") && logs.contains("both")).then_some(())
    });
    cluster.kubectl(&format!("delete -f {file}"));
}

/// An endpoint is there while the probe succeeds, and only then.
pub fn a_failing_probe_takes_the_endpoint_out(cluster: &Cluster) {
    let image = sample_image(cluster);
    let container = json!({
        "command": ["sh", "-c", "touch /tmp/ok; sleep 12; rm /tmp/ok; sleep 3600"],
        "readinessProbe": { "exec": { "command": ["cat", "/tmp/ok"] }, "periodSeconds": 1, "failureThreshold": 1 },
    });
    let file = cluster
        .manifest("fades.yaml", &[pod("fades", "node-1", &image, &container), service("fades", 80, 80)]);
    cluster.kubectl(&format!("apply -f {file}"));
    eventually("the endpoint is in", || (ready_endpoints(cluster, "fades") == 1).then_some(()));
    eventually("the endpoint is out", || (ready_endpoints(cluster, "fades") == 0).then_some(()));
    assert_eq!(cluster.json("get pod fades")["status"]["phase"], "Running");
    cluster.kubectl(&format!("delete -f {file}"));
}

/// Under a loop of creates and a scale, the leader dies: every acknowledged object is there, the loop goes on, no
/// container stops, and the old leader comes back as a follower with the same state.
pub fn the_leader_is_killed(cluster: &Cluster) {
    let nodes = ["node-1", "node-2"];
    let before: Vec<_> = nodes.map(|node| cluster.containers(node)).into_iter().flatten().collect();
    let leader = cluster.leader();
    let (stop, killed) = (AtomicBool::new(false), AtomicBool::new(false));
    let (acknowledged, after_kill) = std::thread::scope(|scope| {
        let (stop, killed) = (&stop, &killed);
        let creator = scope.spawn(move || {
            let (mut acknowledged, mut after_kill) = (Vec::new(), 0);
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let name = format!("loop-{number}");
                let was_killed = killed.load(Ordering::Relaxed);
                let created =
                    cluster.try_kubectl(&format!("create configmap {name} --from-literal=n={number}"));
                if created.status.success() {
                    acknowledged.push(name);
                    after_kill += usize::from(was_killed);
                }
            }
            (acknowledged, after_kill)
        });
        std::thread::sleep(Duration::from_secs(2));
        let scaler = scope.spawn(|| {
            eventually("a scale goes through", || {
                cluster.try_kubectl("scale deployment hello --replicas=4").status.success().then_some(())
            });
        });
        kill(i32::try_from(leader["pid"].as_i64().unwrap()).unwrap());
        killed.store(true, Ordering::Relaxed);
        scaler.join().unwrap();
        std::thread::sleep(Duration::from_secs(5));
        stop.store(true, Ordering::Relaxed);
        creator.join().unwrap()
    });
    assert!(after_kill > 0, "the loop goes on after the kill");
    let list = cluster.json("get configmaps");
    let names: Vec<&str> =
        list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect();
    for name in &acknowledged {
        assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name} was acknowledged");
    }
    let new_leader = cluster.leader();
    assert_ne!(new_leader["id"], leader["id"], "another server leads");

    cluster.up();
    eventually("the old leader follows with the same state", || {
        let members = cluster.members();
        let old = members.iter().find(|m| m["id"] == leader["id"])?;
        let follows = old["reachable"] == true && old["leader"] == false && old["voter"] == true;
        let same = members.iter().all(|m| m["state_hash"] == old["state_hash"]);
        (follows && same).then_some(())
    });
    let after: Vec<_> = nodes.map(|node| cluster.containers(node)).into_iter().flatten().collect();
    for container in &before {
        assert!(after.contains(container), "container {container:?} never stopped");
    }
    cluster.kubectl("scale deployment hello --replicas=3");
    cluster.kubectl("rollout status deployment/hello --timeout=90s");
}

/// Containers keep their ids and start times while agent and containerd are killed and come back.
pub fn agent_and_containerd_are_killed(cluster: &Cluster) {
    let before = cluster.containers("node-1");
    assert!(!before.is_empty(), "node-1 runs something");
    cluster.kill("node-1-agent");
    cluster.up();
    assert_eq!(cluster.containers("node-1"), before, "the agent's death disturbs no container");
    cluster.kill("node-1-containerd");
    cluster.up();
    assert_eq!(cluster.containers("node-1"), before, "containerd's death disturbs no container");
    // The node goes on to work: a new pod runs.
    let file = cluster.manifest("late.yaml", &[pod("late", "node-1", &sample_image(cluster), &json!({}))]);
    cluster.kubectl(&format!("apply -f {file}"));
    cluster.kubectl("wait --for=condition=Ready pod/late --timeout=90s");
    cluster.kubectl("delete pod late");
    assert_eq!(cluster.containers("node-1"), before);
}

/// A node whose agent is gone becomes NotReady, its pods are replaced on the other, and it comes back without
/// leftovers.
pub fn a_node_is_stopped_and_comes_back(cluster: &Cluster) {
    let image = sample_image(cluster);
    let tolerations: Vec<Value> = ["not-ready", "unreachable"]
        .map(|taint| {
            json!({
                "key": format!("node.kubernetes.io/{taint}"),
                "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2,
            })
        })
        .into();
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": "moves" },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "moves" } },
            "template": {
                "metadata": { "labels": { "app": "moves" } },
                "spec": {
                    "tolerations": tolerations,
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{ "name": "main", "image": image }],
                },
            },
        },
    });
    let file = cluster.manifest("moves.yaml", &[deployment]);
    cluster.kubectl(&format!("apply -f {file}"));
    cluster.kubectl("rollout status deployment/moves --timeout=90s");

    cluster.kill("node-2-agent");
    let ready = || {
        let node = cluster.json("get node node-2");
        let conditions = node["status"]["conditions"].as_array().unwrap().clone();
        conditions.iter().find(|c| c["type"] == "Ready").unwrap()["status"].as_str().unwrap().to_string()
    };
    eventually("node-2 is NotReady", || (ready() != "True").then_some(()));
    eventually("both replicas run on node-1", || {
        let pods = cluster.json("get pods -l app=moves --field-selector spec.nodeName=node-1");
        let running = pods["items"].as_array().unwrap().iter().filter(|pod| {
            pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
        });
        (running.count() == 2).then_some(())
    });

    cluster.up();
    eventually("node-2 is Ready again", || (ready() == "True").then_some(()));
    eventually("the evicted pods are gone", || {
        let pods = cluster.json("get pods -l app=moves");
        (pods["items"].as_array().unwrap().len() == 2).then_some(())
    });
    cluster.kubectl("delete deployment moves");
    eventually("node-2 runs what the API knows, and nothing else", || {
        let known: usize = cluster.json("get pods -A --field-selector spec.nodeName=node-2")["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pod| pod["spec"]["containers"].as_array().unwrap().len())
            .sum();
        (cluster.containers("node-2").len() == known).then_some(())
    });
}
