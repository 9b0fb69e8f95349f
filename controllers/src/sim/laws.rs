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
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Deployment, ReplicaSet, endpoints, nodes: any mixture of pods, any step of a rollout.
    #[test]
    fn a_plan_carried_out_leaves_nothing_to_plan(workload in workload()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(story(workload));
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
