//! Stories of the other workloads: daemons, stateful sets, jobs, budgets.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

use super::{Cluster, deployment};
use crate::objects::{is_deleting, is_ready, name_of, node_name, pod_phase};

/// A workload with selector and template.
fn workload(name: &str, image: &str, more: Value) -> Value {
    let mut workload = deployment(name, 1, image);
    workload["spec"].as_object_mut().expect("a map").remove("replicas");
    for (key, value) in more.as_object().expect("a map") {
        workload["spec"][key] = value.clone();
    }
    workload
}

fn image(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone()).unwrap_or_default()
}

fn new_image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}})
}

#[tokio::test(start_paused = true)]
async fn a_daemon_runs_on_every_node_and_rolls_one_at_a_time() {
    let mut cluster = Cluster::start(3);
    cluster.sim.put("apps/v1", "daemonsets", workload("log", "one", json!({})));
    let on = || async {
        let pods = cluster.ready_pods().await;
        pods.iter().map(|pod| (node_name(pod).to_string(), image(pod))).collect::<BTreeMap<_, _>>()
    };
    cluster.until("one on each of three", || async { on().await.len() == 3 }).await;
    cluster.patch("daemonsets", "log", new_image("two")).await;
    cluster
        .until("all are new", || async {
            let there = on().await;
            assert!(there.len() >= 2, "one at a time");
            there.len() == 3 && there.values().all(|image| image == "two")
        })
        .await;
    cluster
        .until("the status says so", || async {
            let status = cluster.get::<DaemonSet>("log").await.status.unwrap_or_default();
            status.updated_number_scheduled == Some(3) && status.number_available == Some(3)
        })
        .await;
    assert_eq!(cluster.list::<ControllerRevision>().await.len(), 2);
    let tasks = &mut cluster.tasks;
    cluster.agents.add("node-9", tasks);
    cluster
        .until("the new node has one too", || async {
            cluster.ready_pods().await.iter().any(|pod| node_name(pod) == "node-9")
        })
        .await;
    cluster
        .patch(
            "daemonsets",
            "log",
            json!({"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "node-1"}}}}}),
        )
        .await;
    cluster
        .until("only the chosen node keeps its own", || async {
            let pods = cluster.list::<Pod>().await;
            pods.len() == 1 && node_name(&pods[0]) == "node-1" && is_ready(&pods[0])
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_stateful_set_grows_in_order_and_updates_from_the_end() {
    let cluster = Cluster::start(2);
    let more = json!({"replicas": 3, "serviceName": "db", "volumeClaimTemplates": [
        {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]});
    cluster.sim.put("apps/v1", "statefulsets", workload("db", "one", more));
    let ready = || async {
        let pods = cluster.ready_pods().await;
        pods.iter().map(|pod| (name_of(pod).to_string(), image(pod))).collect::<BTreeMap<_, _>>()
    };
    cluster
        .until("three are ready", || async {
            let pods = cluster.list::<Pod>().await;
            for (index, pod) in pods.iter().enumerate() {
                assert_eq!(name_of(pod), format!("db-{index}"));
                assert!(is_ready(pod) || index == pods.len() - 1, "each waits for the one before");
            }
            ready().await.len() == 3
        })
        .await;
    let claims: HashSet<_> = cluster
        .list::<PersistentVolumeClaim>()
        .await
        .iter()
        .map(|claim| name_of(claim).to_string())
        .collect();
    assert_eq!(claims, ["data-db-0", "data-db-1", "data-db-2"].map(String::from).into());

    cluster.patch("statefulsets", "db", new_image("two")).await;
    cluster
        .until("all are new", || async {
            let there = ready().await;
            assert!(there.len() >= 2, "one at a time");
            let new: Vec<_> =
                there.iter().filter(|(_, image)| *image == "two").map(|(name, _)| name.as_str()).collect();
            assert!(new.is_empty() || new.contains(&"db-2") || there.len() == 2, "the last goes first");
            new.len() == 3
        })
        .await;
    cluster
        .until("the new revision is the current one", || async {
            let status = cluster.get::<StatefulSet>("db").await.status.unwrap_or_default();
            status.current_revision == status.update_revision && status.updated_replicas == Some(3)
        })
        .await;

    cluster.patch("statefulsets", "db", json!({"spec": {"replicas": 1}})).await;
    cluster
        .until("one is left", || async {
            ready().await.keys().eq(["db-0"]) && cluster.list::<Pod>().await.len() == 1
        })
        .await;
    assert_eq!(cluster.list::<PersistentVolumeClaim>().await.len(), 3, "claims outlive their pods");
}

#[tokio::test(start_paused = true)]
async fn a_stateful_set_with_a_partition_updates_the_rest_alone() {
    let cluster = Cluster::start(2);
    let more = json!({"replicas": 3, "serviceName": "db", "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}});
    cluster.sim.put("apps/v1", "statefulsets", workload("db", "one", more));
    cluster.until("three are ready", || async { cluster.ready_pods().await.len() == 3 }).await;
    cluster.patch("statefulsets", "db", new_image("two")).await;
    let images = || async {
        let pods = cluster.ready_pods().await;
        pods.iter().map(|pod| (name_of(pod).to_string(), image(pod))).collect::<Vec<_>>()
    };
    let wanted =
        [("db-0", "one"), ("db-1", "one"), ("db-2", "two")].map(|(a, b)| (a.to_string(), b.to_string()));
    cluster.until("the last is new", || async { images().await == wanted }).await;
    // A pod below the partition comes back as it was.
    let target = kontiki_proto::Target::kind::<Pod>().within("default").named("db-0");
    cluster.api.delete(&target, &Default::default()).await.expect("deleted");
    cluster.until("it is gone", || async { images().await.len() == 2 }).await;
    cluster.until("it is back", || async { images().await == wanted }).await;
}

fn job(name: &str, image: &str, more: Value) -> Value {
    let mut job = workload(name, image, more);
    job["spec"].as_object_mut().expect("a map").remove("selector");
    job["spec"]["template"]["spec"]["restartPolicy"] = "Never".into();
    job
}

async fn ended(cluster: &Cluster, name: &str) -> Option<(String, String)> {
    let job: Job = cluster.get(name).await;
    let end = crate::workloads::job::finished(&job)?;
    Some((end.type_.clone(), end.reason.clone().unwrap_or_default()))
}

#[tokio::test(start_paused = true)]
async fn a_job_completes_and_is_cleared_away() {
    let cluster = Cluster::start(2);
    let more = json!({"completions": 5, "parallelism": 2, "ttlSecondsAfterFinished": 30});
    cluster.sim.put("batch/v1", "jobs", job("sum", "succeeds", more));
    cluster
        .until("it is complete", || async {
            let pods = cluster.list::<Pod>().await;
            assert!(pods.iter().filter(|pod| pod_phase(pod) != "Succeeded").count() <= 2, "two at a time");
            ended(&cluster, "sum").await == Some(("Complete".into(), "CompletionsReached".into()))
        })
        .await;
    let job: Job = cluster.get("sum").await;
    let status = job.status.expect("a status");
    assert_eq!((status.succeeded, status.failed, status.active), (Some(5), None, None));
    let pods = cluster.list::<Pod>().await;
    assert_eq!(pods.len(), 5);
    assert!(
        pods.iter().all(|pod| pod.metadata.finalizers.iter().flatten().next().is_none()),
        "all are released"
    );
    cluster.until("it is gone", || async { cluster.list::<Job>().await.is_empty() }).await;
    cluster.until("its pods are gone", || async { cluster.list::<Pod>().await.is_empty() }).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_keeps_failing_gives_up() {
    let cluster = Cluster::start(2);
    cluster.sim.put("batch/v1", "jobs", job("sum", "fails", json!({"completions": 1, "backoffLimit": 2})));
    let start = tokio::time::Instant::now();
    cluster
        .until("it has failed", || async {
            ended(&cluster, "sum").await == Some(("Failed".into(), "BackoffLimitExceeded".into()))
        })
        .await;
    let job: Job = cluster.get("sum").await;
    assert_eq!(job.status.and_then(|status| status.failed), Some(3));
    assert!(start.elapsed() >= Duration::from_secs(29), "10 and 20 seconds between attempts");
}

#[tokio::test(start_paused = true)]
async fn a_job_past_its_deadline_is_ended() {
    let cluster = Cluster::start(1);
    cluster.sim.put("batch/v1", "jobs", job("sum", "runs", json!({"activeDeadlineSeconds": 60})));
    cluster.until("it runs", || async { cluster.ready_pods().await.len() == 1 }).await;
    cluster
        .until("it has failed", || async {
            ended(&cluster, "sum").await == Some(("Failed".into(), "DeadlineExceeded".into()))
        })
        .await;
    assert!(cluster.list::<Pod>().await.iter().all(is_deleting));
}

#[tokio::test(start_paused = true)]
async fn an_indexed_job_runs_each_index_once() {
    let cluster = Cluster::start(2);
    let more = json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed"});
    cluster.sim.put("batch/v1", "jobs", job("sum", "succeeds", more));
    cluster.until("it is complete", || async { ended(&cluster, "sum").await.is_some() }).await;
    let job: Job = cluster.get("sum").await;
    assert_eq!(job.status.and_then(|status| status.completed_indexes).as_deref(), Some("0-3"));
    let hosts: HashSet<_> =
        cluster.list::<Pod>().await.into_iter().filter_map(|pod| pod.spec?.hostname).collect();
    assert_eq!(hosts, ["sum-0", "sum-1", "sum-2", "sum-3"].map(String::from).into());
}

#[tokio::test(start_paused = true)]
async fn a_suspended_job_waits() {
    let cluster = Cluster::start(1);
    cluster.sim.put("batch/v1", "jobs", job("sum", "runs", json!({"suspend": true})));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(cluster.list::<Pod>().await.is_empty());
    cluster.patch("jobs", "sum", json!({"spec": {"suspend": false}})).await;
    cluster.until("it runs", || async { cluster.ready_pods().await.len() == 1 }).await;
    cluster.patch("jobs", "sum", json!({"spec": {"suspend": true}})).await;
    cluster.until("it is ended", || async { cluster.list::<Pod>().await.is_empty() }).await;
    let job: Job = cluster.get("sum").await;
    assert_eq!(job.status.and_then(|status| status.failed), None, "a pause is no failure");
}

#[tokio::test(start_paused = true)]
async fn a_cron_job_starts_jobs_on_time_and_keeps_few() {
    let cluster = Cluster::start(1);
    let template = job("x", "succeeds", json!({"completions": 1}));
    cluster.sim.put(
        "batch/v1",
        "cronjobs",
        json!({
            "metadata": {"name": "tick", "namespace": "default"},
            "spec": {"schedule": "*/5 * * * *", "successfulJobsHistoryLimit": 2,
                     "jobTemplate": {"spec": template["spec"]}},
        }),
    );
    tokio::time::sleep(Duration::from_secs(31 * 60)).await;
    let jobs = cluster.list::<Job>().await;
    assert_eq!(jobs.len(), 2, "the last two are kept");
    let cron: CronJob = cluster.get("tick").await;
    let status = cron.status.expect("a status");
    assert_eq!(status.last_schedule_time.expect("a time").0.to_string(), "2026-01-01T00:30:00Z");
    assert!(status.last_successful_time.is_some());
    let created = cluster.sim.writes().iter().filter(|write| write.starts_with("create batch/jobs")).count();
    assert_eq!(created, 6);
}

#[tokio::test(start_paused = true)]
async fn a_budget_counts_what_may_be_disrupted() {
    let cluster = Cluster::start(2);
    cluster.sim.put(
        "policy/v1",
        "poddisruptionbudgets",
        json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"maxUnavailable": "25%", "selector": {"matchLabels": {"app": "web"}}},
        }),
    );
    cluster.sim.put("apps/v1", "deployments", deployment("web", 4, "one"));
    let allowed = || async {
        let budget: PodDisruptionBudget = cluster.get("web").await;
        let status = budget.status.unwrap_or_default();
        (status.expected_pods, status.desired_healthy, status.current_healthy, status.disruptions_allowed)
    };
    cluster.until("one of four", || async { allowed().await == (Some(4), Some(3), Some(4), Some(1)) }).await;
    cluster.agents.kill("node-0");
    cluster.until("none any more", || async { allowed().await.3 == Some(0) }).await;
}
