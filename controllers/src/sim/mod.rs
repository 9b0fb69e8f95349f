//! A cluster in memory: an API that behaves as controllers may expect of the real one, and agents that obey it.
//!
//! Tests run the whole runtime on it under tokio's paused clock, so that an hour of waiting takes no time.

mod agent;
mod api;
mod laws;
mod scenarios;
mod workloads;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kontiki_proto::api::{ApiExt, DynApi, ListOptions, Object};
use serde_json::{Value, json};
use tokio::task::JoinSet;

pub use agent::Agents;
pub use api::Sim;

use crate::Options;
use crate::objects::is_ready;
use crate::runtime::Clock;

/// A simulated cluster with all controllers at work. Dropping it stops everything.
pub struct Cluster {
    pub sim: Arc<Sim>,
    pub api: DynApi,
    pub agents: Agents,
    pub options: Options,
    pub tasks: JoinSet<()>,
}

impl Cluster {
    pub fn empty() -> Cluster {
        let clock = Clock::tokio("2026-01-01T00:00:00Z".parse().expect("a time"));
        let sim = Arc::new(Sim::new(clock.clone()));
        let api: DynApi = sim.clone();
        let agents = Agents::new(api.clone(), clock.clone());
        let options = Options {
            identity: "test".into(),
            root_ca_pem: "-- certificate --".into(),
            clock,
            ..Options::default()
        };
        let cluster = Cluster { sim, api, agents, options, tasks: JoinSet::new() };
        for namespace in ["default", "kube-system", "kube-node-lease"] {
            cluster.sim.put("v1", "namespaces", json!({"metadata": {"name": namespace}}));
        }
        cluster
    }

    /// Controllers, scheduler and `nodes` nodes.
    pub fn start(nodes: usize) -> Cluster {
        let mut cluster = Cluster::empty();
        cluster.tasks.spawn(crate::control(cluster.api.clone(), cluster.options.clone()));
        cluster.tasks.spawn(crate::scheduler::run(cluster.api.clone(), cluster.options.clone()));
        for index in 0..nodes {
            cluster.agents.add(&format!("node-{index}"), &mut cluster.tasks);
        }
        cluster
    }

    pub async fn list<K: Object>(&self) -> Vec<K> {
        self.api.list_as::<K>("", &ListOptions::default()).await.expect("a list").0
    }

    pub async fn get<K: Object>(&self, name: &str) -> K {
        let namespace = if Sim::is_namespaced(K::URL_PATH_SEGMENT) { "default" } else { "" };
        self.api.get_as(namespace, name).await.expect("an object")
    }

    pub async fn ready_pods(&self) -> Vec<Pod> {
        self.list::<Pod>().await.into_iter().filter(is_ready).collect()
    }

    pub async fn patch(&self, resource: &str, name: &str, body: Value) {
        self.sim.merge(resource, "default", name, body);
    }

    /// Waits until the condition holds; fails after an hour of simulated time.
    pub async fn until<F: Future<Output = bool>>(&self, what: &str, condition: impl Fn() -> F) {
        let wait = async {
            while !condition().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(3600), wait).await.is_err() {
            panic!("never happened: {what}\n{}", self.sim.summary());
        }
    }
}

/// A Deployment of one container.
pub fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": image}]},
            },
        },
    })
}
