//! Whole stories, told by all controllers, the scheduler and simulated agents together.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kontiki_proto::Target;
use kontiki_proto::api::{ApiExt, DeleteOptions};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Cluster, deployment};
use crate::objects::{is_deleting, is_ready, name_of, node_name};

fn condition<'a>(deployment: &'a Deployment, kind: &str) -> (&'a str, &'a str) {
    let conditions = deployment.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions
        .unwrap_or_default()
        .iter()
        .find(|condition| condition.type_ == kind)
        .map_or(("", ""), |c| (c.status.as_str(), c.reason.as_deref().unwrap_or_default()))
}

fn counts(deployment: &Deployment) -> (i32, i32, i32) {
    let status = deployment.status.clone().unwrap_or_default();
    let number = |count: Option<i32>| count.unwrap_or(0);
    (number(status.replicas), number(status.updated_replicas), number(status.available_replicas))
}

/// What `kubectl rollout status` waits for.
async fn rolled_out(cluster: &Cluster, name: &str) -> bool {
    let deployment: Deployment = cluster.get(name).await;
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let seen = deployment.status.as_ref().and_then(|status| status.observed_generation);
    seen >= deployment.metadata.generation && counts(&deployment) == (wanted, wanted, wanted)
}

async fn images(cluster: &Cluster) -> BTreeMap<String, usize> {
    let mut images = BTreeMap::new();
    for pod in cluster.ready_pods().await {
        let image = pod.spec.and_then(|spec| spec.containers[0].image.clone()).unwrap_or_default();
        *images.entry(image).or_default() += 1;
    }
    images
}

async fn events(cluster: &Cluster, reason: &str) -> Vec<String> {
    let events = cluster.list::<Event>().await;
    events.into_iter().filter(|e| e.reason.as_deref() == Some(reason)).filter_map(|e| e.message).collect()
}

#[tokio::test(start_paused = true)]
async fn a_deployment_becomes_available_and_says_so() {
    let cluster = Cluster::start(2);
    cluster.sim.put("apps/v1", "deployments", deployment("web", 3, "one"));
    cluster.until("the rollout is done", || rolled_out(&cluster, "web")).await;
    let deployment: Deployment = cluster.get("web").await;
    assert_eq!(condition(&deployment, "Available"), ("True", "MinimumReplicasAvailable"));
    assert_eq!(condition(&deployment, "Progressing"), ("True", "NewReplicaSetAvailable"));
    assert_eq!(
        deployment.metadata.annotations.expect("annotations")["deployment.kubernetes.io/revision"],
        "1"
    );
    let pods = cluster.ready_pods().await;
    let nodes: HashSet<_> = pods.iter().map(node_name).collect();
    assert_eq!((pods.len(), nodes.len()), (3, 2), "pods are spread over both nodes");
    assert_eq!(events(&cluster, "SuccessfulCreate").await.len(), 3);
    assert_eq!(events(&cluster, "Scheduled").await.len(), 3);
    let set = cluster.list::<ReplicaSet>().await.remove(0);
    let scaled = format!("Scaled up replica set {} from 0 to 3", name_of(&set));
    assert_eq!(events(&cluster, "ScalingReplicaSet").await, [scaled]);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_cluster_writes_nothing() {
    let cluster = Cluster::start(2);
    cluster.sim.put("apps/v1", "deployments", deployment("web", 3, "one"));
    cluster.until("the rollout is done", || rolled_out(&cluster, "web")).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let before = cluster.sim.writes().len();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let writes = cluster.sim.writes();
    let ours: Vec<_> =
        writes[before..].iter().filter(|write| !write.contains("patchstatus /nodes")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}

#[tokio::test(start_paused = true)]
async fn a_rolling_update_keeps_enough_pods_ready_and_can_be_undone() {
    let cluster = Cluster::start(2);
    cluster.sim.put("apps/v1", "deployments", deployment("web", 4, "one"));
    cluster.until("the first rollout is done", || rolled_out(&cluster, "web")).await;
    let image = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}});
    cluster.patch("deployments", "web", image("two")).await;
    cluster
        .until("the second rollout is done", || async {
            let pods = cluster.list::<Pod>().await;
            let ready = pods.iter().filter(|pod| is_ready(pod) && !is_deleting(*pod)).count();
            let active = pods.iter().filter(|pod| !is_deleting(*pod)).count();
            assert!(ready >= 3, "at most one of four may be missing, {ready} are ready");
            assert!(active <= 5, "at most one of four may be extra, {active} are there");
            rolled_out(&cluster, "web").await && images(&cluster).await == [("two".into(), 4)].into()
        })
        .await;
    let sets = cluster.list::<ReplicaSet>().await;
    let mut revisions: Vec<_> = sets
        .iter()
        .map(|set| {
            set.metadata.annotations.as_ref().expect("annotations")["deployment.kubernetes.io/revision"]
                .clone()
        })
        .collect();
    revisions.sort();
    assert_eq!(revisions, ["1", "2"]);

    // `kubectl rollout undo` puts the old template back; its ReplicaSet is used again.
    cluster.patch("deployments", "web", image("one")).await;
    cluster
        .until("the undo is done", || async {
            rolled_out(&cluster, "web").await && images(&cluster).await == [("one".into(), 4)].into()
        })
        .await;
    assert_eq!(cluster.list::<ReplicaSet>().await.len(), 2);
    let deployment: Deployment = cluster.get("web").await;
    assert_eq!(
        deployment.metadata.annotations.expect("annotations")["deployment.kubernetes.io/revision"],
        "3"
    );
}

#[tokio::test(start_paused = true)]
async fn a_rollout_that_does_not_move_is_called_stuck_and_the_old_pods_stay() {
    let cluster = Cluster::start(2);
    cluster.sim.put("apps/v1", "deployments", deployment("web", 4, "one"));
    cluster.until("the first rollout is done", || rolled_out(&cluster, "web")).await;
    cluster.agents.break_image("broken");
    let body = json!({"spec": {"progressDeadlineSeconds": 60,
        "template": {"spec": {"containers": [{"name": "main", "image": "broken"}]}}}});
    cluster.patch("deployments", "web", body).await;
    cluster
        .until("the deadline passes", || async {
            condition(&cluster.get("web").await, "Progressing") == ("False", "ProgressDeadlineExceeded")
        })
        .await;
    let deployment: Deployment = cluster.get("web").await;
    assert_eq!(condition(&deployment, "Available"), ("True", "MinimumReplicasAvailable"));
    assert_eq!(images(&cluster).await, [("one".into(), 3)].into());
}

#[tokio::test(start_paused = true)]
async fn recreate_ends_all_old_pods_before_the_first_new_one() {
    let cluster = Cluster::start(2);
    let mut web = deployment("web", 3, "one");
    web["spec"]["strategy"] = json!({"type": "Recreate"});
    cluster.sim.put("apps/v1", "deployments", web);
    cluster.until("the first rollout is done", || rolled_out(&cluster, "web")).await;
    let body = json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "two"}]}}}});
    cluster.patch("deployments", "web", body).await;
    cluster
        .until("the second rollout is done", || async {
            let pods = cluster.list::<Pod>().await;
            let images: HashSet<_> =
                pods.iter().map(|pod| pod.spec.as_ref().map(|s| s.containers[0].image.clone())).collect();
            assert!(images.len() <= 1, "old and new pods at once");
            rolled_out(&cluster, "web").await && images.contains(&Some(Some("two".into())))
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn scaling_goes_both_ways_and_pause_holds_a_rollout() {
    let cluster = Cluster::start(3);
    cluster.sim.put("apps/v1", "deployments", deployment("web", 2, "one"));
    cluster.until("two", || rolled_out(&cluster, "web")).await;
    for size in [20, 5, 0, 3] {
        cluster.patch("deployments", "web", json!({"spec": {"replicas": size}})).await;
        cluster
            .until("scaled", || async {
                rolled_out(&cluster, "web").await && cluster.list::<Pod>().await.len() == size
            })
            .await;
    }
    let paused = json!({"spec": {"paused": true, "template": {"spec": {"containers": [{"name": "main", "image": "two"}]}}}});
    cluster.patch("deployments", "web", paused).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(images(&cluster).await, [("one".into(), 3)].into());
    assert_eq!(condition(&cluster.get("web").await, "Progressing"), ("Unknown", "DeploymentPaused"));
    cluster.patch("deployments", "web", json!({"spec": {"paused": false}})).await;
    cluster.until("resumed", || async { images(&cluster).await == [("two".into(), 3)].into() }).await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_dead_node_are_replaced_and_the_node_comes_back_clean() {
    let cluster = Cluster::start(2);
    let mut web = deployment("web", 4, "one");
    web["spec"]["template"]["spec"]["tolerations"] = json!([
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 20},
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 20},
    ]);
    cluster.sim.put("apps/v1", "deployments", web);
    cluster.until("the rollout is done", || rolled_out(&cluster, "web")).await;
    cluster.agents.kill("node-0");
    cluster
        .until("the node is unknown", || async {
            let node: Node = cluster.get("node-0").await;
            crate::objects::node_condition(&node, "Ready").is_some_and(|ready| ready.status == "Unknown")
        })
        .await;
    cluster
        .until("all pods are ready on the other node", || async {
            let pods = cluster.ready_pods().await;
            pods.len() == 4 && pods.iter().all(|pod| node_name(pod) == "node-1")
        })
        .await;
    let evicted = cluster.list::<Pod>().await.into_iter().filter(is_deleting).count();
    assert_eq!(evicted, 2, "their agent has not confirmed that they ended");
    cluster.agents.revive("node-0");
    cluster
        .until("the node is clean", || async {
            let node: Node = cluster.get("node-0").await;
            let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
            let pods = cluster.list::<Pod>().await;
            taints.is_empty() && pods.len() == 4 && pods.iter().all(|pod| node_name(pod) == "node-1")
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_node_that_was_deleted_are_collected() {
    let cluster = Cluster::start(2);
    cluster.sim.put("apps/v1", "deployments", deployment("web", 4, "one"));
    cluster.until("the rollout is done", || rolled_out(&cluster, "web")).await;
    cluster.agents.kill("node-0");
    let node = Target::kind::<Node>().named("node-0");
    cluster.api.delete(&node, &DeleteOptions::default()).await.expect("deleted");
    cluster
        .until("all pods are on the other node", || async {
            let pods = cluster.list::<Pod>().await;
            pods.len() == 4 && pods.iter().all(|pod| is_ready(pod) && node_name(pod) == "node-1")
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_gets_its_content_and_is_emptied_when_deleted() {
    let cluster = Cluster::start(1);
    cluster.sim.put("v1", "namespaces", json!({"metadata": {"name": "shop"}}));
    let has = |name: &'static str| {
        let api = cluster.api.clone();
        async move {
            match name {
                "default" => api.find_as::<ServiceAccount>("shop", name).await.expect("an answer").is_some(),
                _ => api.find_as::<ConfigMap>("shop", name).await.expect("an answer").is_some(),
            }
        }
    };
    cluster.until("the service account is there", || has("default")).await;
    cluster.until("the root certificate is there", || has("kube-root-ca.crt")).await;
    let mut web = deployment("web", 2, "one");
    web["metadata"]["namespace"] = "shop".into();
    cluster.sim.put("apps/v1", "deployments", web);
    cluster.until("its pods run", || async { cluster.ready_pods().await.len() == 2 }).await;
    let target = Target::kind::<Namespace>().named("shop");
    cluster.api.delete(&target, &DeleteOptions::default()).await.expect("deleted");
    cluster
        .until("the namespace is gone", || async {
            cluster.api.find_as::<Namespace>("", "shop").await.expect("an answer").is_none()
        })
        .await;
    assert!(cluster.list::<Pod>().await.is_empty());
    assert!(cluster.list::<ReplicaSet>().await.is_empty());
    assert!(!has("default").await, "what the namespace was given is gone too");
}

#[tokio::test(start_paused = true)]
async fn deleting_a_deployment_takes_everything_with_it() {
    for policy in ["Background", "Foreground"] {
        let cluster = Cluster::start(2);
        cluster.sim.put("apps/v1", "deployments", deployment("web", 3, "one"));
        cluster.until("the rollout is done", || rolled_out(&cluster, "web")).await;
        let target = Target::kind::<Deployment>().within("default").named("web");
        cluster.api.delete(&target, &DeleteOptions::default().propagate(policy)).await.expect("deleted");
        cluster
            .until("everything is gone", || async {
                let left =
                    cluster.list::<Deployment>().await.len() + cluster.list::<ReplicaSet>().await.len();
                left + cluster.list::<Pod>().await.len() == 0
            })
            .await;
        let writes = cluster.sim.writes();
        let removed =
            |kind: &str| writes.iter().rposition(|write| write.starts_with(&format!("remove {kind}")));
        if policy == "Foreground" {
            assert!(removed("/pods") < removed("apps/replicasets"), "pods go before their owner");
            assert!(removed("apps/replicasets") < removed("apps/deployments"), "sets go before their owner");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_orphaned_replica_set_is_adopted_by_the_next_deployment() {
    let cluster = Cluster::start(2);
    cluster.sim.put("apps/v1", "deployments", deployment("web", 3, "one"));
    cluster.until("the rollout is done", || rolled_out(&cluster, "web")).await;
    let pods: HashSet<_> = cluster.list::<Pod>().await.iter().map(|pod| name_of(pod).to_string()).collect();
    let target = Target::kind::<Deployment>().within("default").named("web");
    cluster.api.delete(&target, &DeleteOptions::default().propagate("Orphan")).await.expect("deleted");
    cluster.until("it is gone", || async { cluster.list::<Deployment>().await.is_empty() }).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.ready_pods().await.len(), 3);
    cluster.sim.put("apps/v1", "deployments", deployment("web", 3, "one"));
    cluster.until("adopted", || rolled_out(&cluster, "web")).await;
    let after: HashSet<_> = cluster.list::<Pod>().await.iter().map(|pod| name_of(pod).to_string()).collect();
    assert_eq!(pods, after);
}

#[tokio::test(start_paused = true)]
async fn endpoints_follow_readiness() {
    let cluster = Cluster::start(2);
    cluster.sim.put(
        "v1",
        "services",
        json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.7", "selector": {"app": "web"},
                     "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]},
        }),
    );
    let mut web = deployment("web", 3, "one");
    web["spec"]["template"]["spec"]["containers"][0]["ports"] =
        json!([{"name": "http", "containerPort": 8080}]);
    cluster.sim.put("apps/v1", "deployments", web);
    let ready = || async {
        let slices = cluster.list::<EndpointSlice>().await;
        let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        endpoints.filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true)).count()
    };
    cluster.until("three endpoints", || async { ready().await == 3 }).await;
    let slices: Vec<EndpointSlice> = cluster.list().await;
    assert_eq!(slices.len(), 1, "{slices:?}");
    let ports = slices[0].ports.clone().expect("ports");
    assert_eq!((ports[0].name.as_deref(), ports[0].port), (Some("http"), Some(8080)));
    let endpoints: Endpoints = cluster.get("web").await;
    let subset = &endpoints.subsets.expect("subsets")[0];
    assert_eq!(subset.addresses.as_ref().map(Vec::len), Some(3));

    cluster.agents.kill("node-0");
    cluster.until("the endpoints of the dead node are out", || async { ready().await < 3 }).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_fits_nowhere_says_why_and_goes_when_there_is_room() {
    let mut cluster = Cluster::start(2);
    let mut web = deployment("web", 1, "one");
    web["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "node-9"});
    cluster.sim.put("apps/v1", "deployments", web);
    cluster
        .until("it is said why", || async { !events(&cluster, "FailedScheduling").await.is_empty() })
        .await;
    let why = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
    cluster
        .until("all nodes were tried", || async {
            let pods = cluster.list::<Pod>().await;
            let condition = crate::objects::pod_condition(&pods[0], "PodScheduled");
            condition.is_some_and(|c| {
                c.reason.as_deref() == Some("Unschedulable") && c.message.as_deref() == Some(why)
            })
        })
        .await;
    let tasks = &mut cluster.tasks;
    cluster.agents.add("node-9", tasks);
    cluster.until("it runs", || async { cluster.ready_pods().await.len() == 1 }).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_set_says_why_it_cannot_create_pods() {
    let cluster = Cluster::start(1);
    cluster.sim.refuse("pods", Some("exceeded quota: small"));
    cluster.sim.put("apps/v1", "deployments", deployment("web", 3, "one"));
    cluster
        .until("the failure shows", || async {
            condition(&cluster.get("web").await, "ReplicaFailure") == ("True", "FailedCreate")
        })
        .await;
    cluster.sim.refuse("pods", None);
    cluster.until("it recovers", || rolled_out(&cluster, "web")).await;
    cluster
        .until("the failure is gone", || async {
            condition(&cluster.get("web").await, "ReplicaFailure") == ("", "")
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn nodes_get_pod_ranges_of_their_own() {
    let cluster = Cluster::start(5);
    let ranges = || async {
        let nodes = cluster.list::<Node>().await;
        nodes.into_iter().filter_map(|node| node.spec?.pod_cidr).collect::<HashSet<_>>()
    };
    cluster.until("all have one", || async { ranges().await.len() == 5 }).await;
    assert!(ranges().await.contains("10.244.4.0/24"));
}

#[tokio::test(start_paused = true)]
async fn one_instance_leads_and_the_next_takes_over() {
    let mut cluster = Cluster::empty();
    let mut stops = Vec::new();
    for identity in ["first", "second"] {
        let options = crate::Options { identity: identity.into(), ..cluster.options.clone() };
        let stop = CancellationToken::new();
        cluster.tasks.spawn(crate::run(cluster.api.clone(), options, stop.clone()));
        stops.push(stop);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let tasks = &mut cluster.tasks;
    cluster.agents.add("node-0", tasks);
    let holder = || async {
        let lease: k8s_openapi::api::coordination::v1::Lease =
            cluster.api.get_as("kube-system", "kontiki-controllers").await.expect("a lease");
        lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default()
    };
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(holder().await, "first");
    cluster.sim.put("apps/v1", "deployments", deployment("web", 1, "one"));
    cluster.until("the first works", || rolled_out(&cluster, "web")).await;
    stops[0].cancel();
    cluster.until("the second leads", || async { holder().await == "second" }).await;
    cluster.patch("deployments", "web", json!({"spec": {"replicas": 3}})).await;
    cluster.until("the second works", || rolled_out(&cluster, "web")).await;
}

#[tokio::test(start_paused = true)]
async fn watches_that_break_lose_nothing() {
    let cluster = Cluster::start(2);
    cluster.sim.put("apps/v1", "deployments", deployment("web", 1, "one"));
    for size in [6, 2, 9, 0, 4] {
        cluster.patch("deployments", "web", json!({"spec": {"replicas": size}})).await;
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(30)).await;
            cluster.sim.compact();
        }
        cluster
            .until("scaled", || async {
                rolled_out(&cluster, "web").await && cluster.list::<Pod>().await.len() == size
            })
            .await;
    }
    let created = cluster.sim.writes().iter().filter(|write| write.starts_with("create /pods")).count();
    assert_eq!(created, 6 + 7 + 4, "no pod was made twice");
}
