//! The scheduler: gives each pod a node.
//!
//! ```text
//!   pods, nodes, namespaces ──informers──▶ Snapshot
//!         └─ pods without a node ──▶ Queue ──▶ schedule(&Snapshot, &Pod) ──▶ assume ──▶ bind (side by side)
//!                                      ▲                │ nowhere                 │ refused: forget
//!                                      └──── room ◀─────┴─────────────────────────┘
//! ```
//! One pod is decided at a time, on a snapshot that counts all earlier decisions; bindings are written many at once.

mod affinity;
mod decide;
mod filters;
mod queue;
mod resources;
mod scores;
mod sinks;
mod snapshot;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kontiki_proto::api::{DynApi, PatchType, Shape, WriteOptions, encode};
use kontiki_proto::{Status, Target};
use parking_lot::Mutex;
use serde_json::json;
use smol_str::SmolStr;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub use affinity::node_fits;
pub use decide::{Decision, schedule};
pub use filters::untolerated;
pub use snapshot::{NodeInfo, PodInfo, Snapshot};

use crate::Options;
use crate::runtime::informer::{Collection, follow};
use crate::runtime::{Clock, EventSpec, Recorder, Severity, seconds};
use queue::Queue;

const COMPONENT: &str = "default-scheduler";
/// Writes under way at once.
const PARALLEL: usize = 64;

struct Scheduler {
    api: DynApi,
    clock: Clock,
    recorder: Recorder,
    snapshot: Mutex<Snapshot>,
    queue: Queue,
}

/// Schedules, without election, until dropped.
pub async fn run(api: DynApi, options: Options) {
    let (recorder, writer) = Recorder::new(api.clone(), options.clock.clone(), options.identity);
    let scheduler = Arc::new(Scheduler {
        api: api.clone(),
        clock: options.clock,
        recorder,
        snapshot: Mutex::default(),
        queue: Queue::default(),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(writer);
    let mut synced = Vec::new();
    let mut ready = || {
        let (sender, receiver) = watch::channel(false);
        synced.push(receiver);
        sender
    };
    let collection = |target| Collection { target, field_selector: String::new(), shape: Shape::Object };
    let nodes = sinks::Nodes { scheduler: scheduler.clone(), synced: ready() };
    tasks.spawn(follow(api.clone(), collection(Target::kind::<k8s_openapi::api::core::v1::Node>()), nodes));
    let namespaces = sinks::Namespaces { scheduler: scheduler.clone(), synced: ready() };
    let target = Target::kind::<k8s_openapi::api::core::v1::Namespace>();
    tasks.spawn(follow(api.clone(), collection(target), namespaces));
    let pods = sinks::Pods { scheduler: scheduler.clone(), synced: ready() };
    tasks.spawn(follow(api.clone(), collection(Target::kind::<Pod>()), pods));
    for receiver in &mut synced {
        if receiver.wait_for(|synced| *synced).await.is_err() {
            return;
        }
    }
    scheduler.work(tasks).await;
}

impl Scheduler {
    async fn work(self: Arc<Scheduler>, mut tasks: JoinSet<()>) {
        let permits = Arc::new(Semaphore::new(PARALLEL));
        loop {
            let pod = self.queue.next().await;
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let decision = {
                let mut snapshot = self.snapshot.lock();
                if snapshot.is_placed(&pod.uid) {
                    // Its binding is under way, or the news of it.
                    continue;
                }
                let decision = schedule(&snapshot, &pod);
                if let Decision::Node(node) = &decision {
                    snapshot.assume(pod.clone(), node);
                }
                decision
            };
            let scheduler = self.clone();
            tasks.spawn(async move {
                match decision {
                    Decision::Node(node) => scheduler.bind(&pod, &node).await,
                    Decision::Nowhere(why) => scheduler.report(&pod, &why).await,
                }
                drop(permit);
            });
            while tasks.try_join_next().is_some() {}
        }
    }

    async fn bind(&self, pod: &Arc<PodInfo>, node: &SmolStr) {
        match self.write_binding(pod, node).await {
            Ok(()) => {
                self.queue.remove(&pod.uid);
                let message = format!("Successfully assigned {} to {node}", pod.key);
                self.record(pod, Severity::Normal, "Scheduled", message);
            }
            Err(status) => {
                self.snapshot.lock().forget(&pod.uid);
                if status.is_not_found() {
                    self.queue.remove(&pod.uid);
                    return;
                }
                tracing::info!(pod = %pod.key, %node, %status, "cannot bind");
                self.queue.retry(&pod.uid);
            }
        }
    }

    async fn write_binding(&self, pod: &PodInfo, node: &str) -> Result<(), Status> {
        let binding = Binding {
            metadata: ObjectMeta {
                namespace: Some(pod.key.namespace.to_string()),
                name: Some(pod.key.name.to_string()),
                uid: Some(pod.uid.to_string()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".into()),
                name: Some(node.into()),
                ..ObjectReference::default()
            },
        };
        let target = Target::kind::<Pod>().within(&pod.key.namespace).named(&pod.key.name).sub("binding");
        self.api.create(&target, encode(&binding)?, &WriteOptions::default()).await.map(drop)
    }

    /// Says in the pod's condition and in an event why it has no node, and lets it wait for room.
    async fn report(&self, pod: &Arc<PodInfo>, why: &str) {
        self.record(pod, Severity::Warning, "FailedScheduling", why.into());
        self.queue.park(&pod.uid);
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why,
            "lastTransitionTime": Time(seconds(self.clock.now())),
        });
        let body = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
        let target = Target::kind::<Pod>().within(&pod.key.namespace).named(&pod.key.name).sub("status");
        let written = async {
            let options = WriteOptions::default();
            self.api.patch(&target, PatchType::StrategicMerge, encode(&body)?, &options).await
        };
        if let Err(status) = written.await {
            tracing::debug!(pod = %pod.key, %status, "cannot say why the pod is not scheduled");
        }
    }

    fn record(&self, pod: &PodInfo, severity: Severity, reason: &str, message: String) {
        let regarding = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(pod.key.namespace.to_string()),
            name: Some(pod.key.name.to_string()),
            uid: Some(pod.uid.to_string()),
            ..ObjectReference::default()
        };
        self.recorder.record(EventSpec {
            regarding,
            severity,
            component: COMPONENT,
            reason: reason.into(),
            message,
        });
    }
}
