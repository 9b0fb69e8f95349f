//! Laws every reconcile keeps, whatever the world: carrying out a plan and planning again at the same time gives an
//! empty plan.

use std::sync::Arc;

use kontiki_proto::api::{ApiExt, DynApi, ListOptions};
use proptest::prelude::*;
use serde_json::json;

use super::{Cluster, Sim, deployment};
use crate::runtime::{Executor, Key, Kind, Now, Plan, Recorder, Visitor, World, visit_kinds};

type Reconcile = fn(&World, &Key, &Now) -> Plan;

/// Reads the whole world from the API.
struct Reader<'a> {
    sim: &'a Arc<Sim>,
    world: World,
}

impl Visitor for Reader<'_> {
    fn visit<K: Kind>(&mut self) {
        let options = ListOptions { field_selector: K::field_selector().into(), ..ListOptions::default() };
        let namespace = K::target().namespace;
        // The simulation never waits.
        let list = futures::executor::block_on(self.sim.list_as::<K>(&namespace, &options));
        for object in list.expect("a list").0 {
            K::store_mut(&mut self.world).insert(Arc::new(object));
        }
    }
}

fn world(cluster: &Cluster) -> World {
    let settings = crate::Settings {
        root_ca_pem: "-- certificate --".into(),
        pod_cidr: "10.244.0.0/16".into(),
        node_grace: std::time::Duration::from_secs(40),
    };
    let mut reader =
        Reader { sim: &cluster.sim, world: World { settings: Arc::new(settings), ..World::default() } };
    visit_kinds(&mut reader);
    reader.world
}

/// Plans, carries out, and plans again, for every key.
async fn check(cluster: &Cluster, name: &str, reconcile: Reconcile, keys: &[Key]) {
    let api: DynApi = cluster.sim.clone();
    let clock = cluster.options.clock.clone();
    let (recorder, _) = Recorder::new(api.clone(), clock.clone(), "law".into());
    let executor = Executor::new(api, recorder);
    for key in keys {
        let now = Now::at(clock.now());
        let plan = reconcile(&world(cluster), key, &now);
        let outcome = executor.execute(&plan.actions).await;
        assert!(outcome.failure.is_none(), "{name} {key}: {:?}\n{plan:#?}", outcome.failure);
        let again = reconcile(&world(cluster), key, &now);
        assert!(again.actions.is_empty(), "{name} {key} is not content:\n{again:#?}\nafter\n{plan:#?}");
    }
}

/// As [`check`], for reconciles whose plans take effect in steps: a few rounds are enough, and then all is quiet.
async fn check_settles(cluster: &Cluster, name: &str, reconcile: Reconcile, keys: &[Key]) {
    let api: DynApi = cluster.sim.clone();
    let clock = cluster.options.clock.clone();
    let (recorder, _) = Recorder::new(api.clone(), clock.clone(), "law".into());
    let executor = Executor::new(api, recorder);
    for key in keys {
        let now = Now::at(clock.now());
        let mut plans = Vec::new();
        for _ in 0..6 {
            let plan = reconcile(&world(cluster), key, &now);
            let outcome = executor.execute(&plan.actions).await;
            assert!(outcome.failure.is_none(), "{name} {key}: {:?}\n{plan:#?}", outcome.failure);
            plans.push(plan);
        }
        assert!(plans[5].actions.is_empty(), "{name} {key} never settles:\n{:#?}\n{:#?}", plans[4], plans[5]);
    }
}

#[derive(Clone, Debug)]
struct Workload {
    replicas: i32,
    surge: i32,
    unavailable: i32,
    recreate: bool,
    images: u8,
    /// For each pod: is it ready, finished, marked for deletion, on which node.
    pods: Vec<(bool, bool, bool, u8)>,
}

fn workload() -> impl Strategy<Value = Workload> {
    let pod = (any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.2), 0u8..4);
    let pods = prop::collection::vec(pod, 0..12);
    (0..8, 0..4, 0..4, prop::bool::weighted(0.2), 1u8..4, pods).prop_map(
        |(replicas, surge, unavailable, recreate, images, pods)| Workload {
            replicas,
            surge,
            unavailable,
            recreate,
            images,
            pods,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// Deployment, ReplicaSet, endpoints, nodes: any mixture of pods, any step of a rollout.
    #[test]
    fn a_plan_carried_out_leaves_nothing_to_plan(workload in workload()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(story(workload));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// Daemons, stateful sets, jobs, budgets: whatever their pods do, planning comes to rest.
    #[test]
    fn planning_comes_to_rest(workload in workload()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(other_story(workload));
    }
}

async fn other_story(workload: Workload) {
    use crate::workloads::{
        cron_job, daemon_set, disruption_budget, finished, job, replication_controller, stateful_set,
    };
    let cluster = Cluster::empty();
    let sim = &cluster.sim;
    for node in 0..4 {
        sim.put("v1", "nodes", json!({"metadata": {"name": format!("node-{node}")}}));
    }
    let template =
        |app: &str| json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "main"}]}});
    let body = |app: &str, more: serde_json::Value| {
        let mut body = json!({
            "metadata": {"name": app, "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": app}}, "template": template(app)},
        });
        more.as_object().into_iter().flatten().for_each(|(key, value)| body["spec"][key] = value.clone());
        body
    };
    let policy = if workload.recreate { "Parallel" } else { "OrderedReady" };
    let mode = if workload.recreate { "Indexed" } else { "NonIndexed" };
    sim.put(
        "apps/v1",
        "daemonsets",
        body(
            "daemon",
            json!({"updateStrategy": {"type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": workload.unavailable, "maxSurge": workload.surge % 2}}}),
        ),
    );
    sim.put(
        "apps/v1",
        "statefulsets",
        body(
            "stateful",
            json!({"replicas": workload.replicas,
        "podManagementPolicy": policy}),
        ),
    );
    sim.put(
        "batch/v1",
        "jobs",
        body(
            "job",
            json!({"completions": workload.replicas.max(1), "completionMode": mode,
        "parallelism": workload.surge, "backoffLimit": workload.unavailable}),
        ),
    );
    sim.put(
        "v1",
        "replicationcontrollers",
        body(
            "old",
            json!({"replicas": workload.replicas,
        "selector": {"app": "old"}}),
        ),
    );
    sim.put(
        "policy/v1",
        "poddisruptionbudgets",
        json!({
        "metadata": {"name": "budget", "namespace": "default"},
        "spec": {"minAvailable": workload.unavailable, "selector": {"matchLabels": {"app": "stateful"}}}}),
    );
    sim.put(
        "batch/v1",
        "cronjobs",
        json!({
        "metadata": {"name": "cron", "namespace": "default"},
        "spec": {"schedule": "@hourly", "jobTemplate": {"spec": {"template": template("cron")}}}}),
    );
    let all: [(&str, Reconcile, &str); 7] = [
        ("daemonset", daemon_set::reconcile, "daemon"),
        ("statefulset", stateful_set::reconcile, "stateful"),
        ("job", job::reconcile, "job"),
        ("ttl", finished::reconcile, "job"),
        ("replication controller", replication_controller::reconcile, "old"),
        ("budget", disruption_budget::reconcile, "budget"),
        ("cronjob", cron_job::reconcile, "cron"),
    ];
    for image in 0..workload.images {
        let change = json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image.to_string()}]}}}});
        cluster.patch("daemonsets", "daemon", change.clone()).await;
        cluster.patch("statefulsets", "stateful", change).await;
        tokio::time::sleep(std::time::Duration::from_secs(4000)).await;
        for _ in 0..3 {
            for (name, reconcile, key) in all {
                check_settles(&cluster, name, reconcile, &[Key::new("default", key)]).await;
            }
            disturb(&cluster, &workload);
        }
    }
}

/// Does to the pods what agents, users and bad luck do.
fn disturb(cluster: &Cluster, workload: &Workload) {
    let pods: Vec<Key> = world(cluster).pods.keys().cloned().collect();
    for (pod, &(ready, finished, deleting, node)) in pods.iter().zip(workload.pods.iter().cycle()) {
        let phase = match (finished, ready) {
            (true, true) => "Succeeded",
            (true, false) => "Failed",
            _ => "Running",
        };
        let mut change = json!({
            "spec": {"nodeName": format!("node-{node}")},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": if ready && !finished { "True" } else { "False" }}]},
        });
        if deleting {
            change["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        }
        cluster.sim.merge("pods", "default", &pod.name, change);
    }
}

async fn story(workload: Workload) {
    let cluster = Cluster::empty();
    let sim = &cluster.sim;
    for node in 0..4 {
        let ready = if node == 3 { "False" } else { "True" };
        sim.put(
            "v1",
            "nodes",
            json!({
                "metadata": {"name": format!("node-{node}")},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            }),
        );
    }
    sim.put(
        "v1",
        "services",
        json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
        }),
    );
    let key = [Key::new("default", "web")];
    let mut web = deployment("web", workload.replicas, "image-0");
    web["spec"]["strategy"] = if workload.recreate {
        json!({"type": "Recreate"})
    } else {
        json!({"type": "RollingUpdate", "rollingUpdate":
            {"maxSurge": workload.surge, "maxUnavailable": workload.unavailable}})
    };
    sim.put("apps/v1", "deployments", web);
    for image in 0..workload.images {
        cluster
            .patch(
                "deployments",
                "web",
                json!({"spec": {"template": {"spec": {"containers":
            [{"name": "main", "image": format!("image-{image}")}]}}}}),
            )
            .await;
        step(&cluster, &workload, &key).await;
    }
    cluster.patch("deployments", "web", json!({"spec": {"replicas": workload.pods.len()}})).await;
    step(&cluster, &workload, &key).await;
}

async fn step(cluster: &Cluster, workload: &Workload, key: &[Key]) {
    use crate::{cluster as nodes, network, workloads};
    for _ in 0..3 {
        check(cluster, "deployment", workloads::deployment::reconcile, key).await;
        let sets: Vec<Key> = world(cluster).replica_sets.keys().cloned().collect();
        check(cluster, "replicaset", workloads::replica_set::reconcile, &sets).await;
        let pods: Vec<Key> = world(cluster).pods.keys().cloned().collect();
        for (pod, &(ready, finished, deleting, node)) in pods.iter().zip(workload.pods.iter()) {
            let mut change = json!({
                "spec": {"nodeName": format!("node-{node}")},
                "status": {
                    "phase": if finished { "Failed" } else { "Running" },
                    "podIP": format!("10.244.0.{}", node + 1),
                    "conditions": [{"type": "Ready", "status": if ready && !finished { "True" } else { "False" }}],
                },
            });
            if deleting {
                change["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
            }
            cluster.sim.merge("pods", "default", &pod.name, change);
        }
        check(cluster, "endpoint slices", network::endpoint_slices::reconcile, key).await;
        check(cluster, "endpoints", network::endpoints::reconcile, key).await;
        let names: Vec<Key> = world(cluster).nodes.keys().cloned().collect();
        check(cluster, "node lifecycle", nodes::node_lifecycle::reconcile, &names).await;
        check(cluster, "taint eviction", nodes::taint_eviction::reconcile, &names).await;
        check(cluster, "pod collector", nodes::pod_collector::reconcile, &names).await;
        check(cluster, "node addresses", nodes::node_addresses::reconcile, &[Key::default()]).await;
        let namespaces: Vec<Key> = world(cluster).namespaces.keys().cloned().collect();
        check(cluster, "namespace content", nodes::namespace_content::reconcile, &namespaces).await;
    }
}
