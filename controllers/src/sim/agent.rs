//! Agents that do what an agent does as the API sees it: heartbeats, running pods, letting them go.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kontiki_proto::Target;
use kontiki_proto::api::{ApiExt, DeleteOptions, DynApi, ListOptions, PatchType, WriteOptions, encode};
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinSet;

use crate::objects::{is_deleting, is_ready, name_of, namespace_of, node_name, pod_phase};
use crate::runtime::Clock;

#[derive(Clone)]
pub struct Agents {
    api: DynApi,
    clock: Clock,
    dead: Arc<Mutex<HashSet<String>>>,
    /// Images whose containers never become ready.
    broken: Arc<Mutex<HashSet<String>>>,
}

impl Agents {
    pub fn new(api: DynApi, clock: Clock) -> Agents {
        Agents { api, clock, dead: Arc::default(), broken: Arc::default() }
    }

    /// Registers a node and starts its agent.
    pub fn add(&self, name: &str, tasks: &mut JoinSet<()>) {
        let (agents, name) = (self.clone(), name.to_string());
        tasks.spawn(async move { agents.run(&name).await });
    }

    pub fn kill(&self, name: &str) {
        self.dead.lock().insert(name.into());
    }

    pub fn revive(&self, name: &str) {
        self.dead.lock().remove(name);
    }

    pub fn break_image(&self, image: &str) {
        self.broken.lock().insert(image.into());
    }

    async fn run(&self, name: &str) {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
        });
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": {},
        });
        let leases = Target::kind::<k8s_openapi::api::coordination::v1::Lease>().within("kube-node-lease");
        let nodes = Target::kind::<k8s_openapi::api::core::v1::Node>();
        let options = WriteOptions::default();
        self.api.create(&nodes, encode(&node).expect("json"), &options).await.expect("a node");
        self.api.create(&leases, encode(&lease).expect("json"), &options).await.expect("a lease");
        let mut ticks = 0u32;
        loop {
            if !self.dead.lock().contains(name) {
                if ticks.is_multiple_of(50) {
                    self.beat(name, &nodes, &leases).await;
                }
                self.tend(name).await;
                ticks += 1;
            } else {
                ticks = 0;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn beat(&self, name: &str, nodes: &Target, leases: &Target) {
        let now = self.clock.now();
        let renewed = json!({"spec": {"renewTime": MicroTime(now), "holderIdentity": name}});
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "lastHeartbeatTime": Time(now), "reason": "Fine"});
        let status = json!({"status": {"conditions": [
            condition("Ready", "True"),
            condition("MemoryPressure", "False"),
            condition("DiskPressure", "False"),
            condition("PIDPressure", "False"),
        ]}});
        for (target, body) in
            [(leases.clone().named(name), renewed), (nodes.clone().named(name).sub("status"), status)]
        {
            let body = encode(&body).expect("json");
            let options = WriteOptions::default();
            self.api.patch(&target, PatchType::StrategicMerge, body, &options).await.expect("a heartbeat");
        }
    }

    /// Runs what is bound here, and lets go of what is to end.
    async fn tend(&self, name: &str) {
        let (pods, _) = self.api.list_as::<Pod>("", &ListOptions::default()).await.expect("pods");
        for (index, pod) in pods.iter().enumerate().filter(|(_, pod)| node_name(pod) == name) {
            let target = Target::kind::<Pod>().within(namespace_of(pod)).named(name_of(pod));
            if is_deleting(pod) {
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                let gone = self.api.delete(&target, &DeleteOptions::default().only(&uid).grace(0)).await;
                assert!(gone.is_ok() || gone.is_err_and(|status| status.is_not_found()));
                continue;
            }
            let images = pod.spec.iter().flat_map(|spec| &spec.containers).filter_map(|c| c.image.clone());
            let image = images.into_iter().next().unwrap_or_default();
            let ends = match image.as_str() {
                "succeeds" => Some("Succeeded"),
                "fails" => Some("Failed"),
                _ => None,
            };
            if let Some(phase) = ends.filter(|phase| pod_phase(pod) != *phase) {
                let at = Time(self.clock.now());
                let body = json!({"status": {"phase": phase, "containerStatuses": [{
                    "name": "main", "image": image, "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": 0, "finishedAt": at}},
                }]}});
                let body = encode(&body).expect("json");
                let options = WriteOptions::default();
                let _ = self.api.patch(&target.sub("status"), PatchType::Merge, body, &options).await;
                continue;
            }
            if !is_ready(pod) && ends.is_none() && !self.broken.lock().contains(&image) {
                let address = format!("10.244.{}.{}", index / 250, index % 250 + 1);
                let body = json!({"status": {
                    "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": Time(self.clock.now())}],
                }});
                let body = encode(&body).expect("json");
                let options = WriteOptions::default();
                let target = target.sub("status");
                // Somebody may have deleted it meanwhile.
                let _ = self.api.patch(&target, PatchType::StrategicMerge, body, &options).await;
            }
        }
    }
}
