//! Events about pods and the node, as `kubectl describe` shows them. The same event again raises its count.
//!
//! Events are told best effort: a full queue or an API that does not answer drops them.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kontiki_proto::api::{ApiExt, PatchType, WriteOptions, encode};
use kontiki_proto::{DynApi, Status, Target};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::model::{Role, container, name, namespace, uid};

const QUEUE: usize = 1000;
const REMEMBERED: usize = 4000;

#[derive(Clone, Debug)]
struct Told {
    about: ObjectReference,
    kind: &'static str,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Cheap to clone; never blocks.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Told>,
}

impl Recorder {
    /// Writes events in the background until the shutdown, in the order they are told.
    pub fn start(api: DynApi, node: String, shutdown: CancellationToken) -> Recorder {
        let (queue, told) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            tokio::select! {
                () = write_all(api, node, told) => {}
                () = shutdown.cancelled() => {}
            }
        });
        Recorder { queue }
    }

    /// About a pod, or about one of its containers.
    pub fn pod(
        &self,
        pod: &Pod,
        container_name: Option<&str>,
        kind: &'static str,
        reason: &str,
        message: String,
    ) {
        let path = container_name.map(|c| {
            let role = pod.spec.as_ref().and_then(|s| container(s, c)).map_or(Role::Main, |(role, _)| role);
            let list = if role == Role::Main { "containers" } else { "initContainers" };
            format!("spec.{list}{{{c}}}")
        });
        self.tell(Told {
            about: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(name(pod).into()),
                namespace: Some(namespace(pod).into()),
                uid: Some(uid(pod).into()),
                resource_version: pod.metadata.resource_version.clone(),
                field_path: path,
            },
            kind,
            reason: reason.into(),
            message,
            at: Timestamp::now(),
        });
    }

    pub fn node(&self, node: &Node, kind: &'static str, reason: &str, message: String) {
        let name = node.metadata.name.clone();
        self.tell(Told {
            about: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                uid: node.metadata.uid.clone().or(name.clone()),
                name,
                ..ObjectReference::default()
            },
            kind,
            reason: reason.into(),
            message,
            at: Timestamp::now(),
        });
    }

    fn tell(&self, told: Told) {
        tracing::debug!(reason = told.reason, about = told.about.name, message = told.message, "event");
        if self.queue.try_send(told).is_err() {
            tracing::debug!("an event was dropped: too many are waiting");
        }
    }
}

async fn write_all(api: DynApi, node: String, mut told: mpsc::Receiver<Told>) {
    let mut written = Counts::new();
    while let Some(event) = told.recv().await {
        let about = &event.about;
        let key = format!(
            "{:?} {:?} {} {} {}",
            about.uid, about.field_path, event.kind, event.reason, event.message
        );
        if written.len() >= REMEMBERED {
            written.clear();
        }
        // A server that is busy, or a leader that has just gone, is back in a moment; an event is worth waiting for that.
        for pause in [Some(300), Some(1500), None] {
            let write = write(&api, &node, &event, &key, &mut written);
            match (tokio::time::timeout(Duration::from_secs(15), write).await, pause) {
                (Ok(Err(error)), Some(pause)) if error.is_retriable() => {
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                    continue;
                }
                (Ok(Err(error)), _) => {
                    tracing::debug!(%error, reason = event.reason, "an event was not written");
                }
                (Err(_), _) => tracing::debug!(reason = event.reason, "an event was not written in time"),
                (Ok(Ok(())), _) => {}
            }
            break;
        }
    }
}

/// What has been written, to count repetitions: namespace, name and count of the event.
type Counts = HashMap<String, (String, String, i32)>;

async fn write(
    api: &DynApi,
    node: &str,
    event: &Told,
    key: &str,
    written: &mut Counts,
) -> Result<(), Status> {
    if let Some((namespace, name, count)) = written.get_mut(key) {
        let target = Target::kind::<Event>().within(namespace).named(name);
        let patch = encode(&json!({"count": *count + 1, "lastTimestamp": Time(event.at)}))?;
        match api.patch(&target, PatchType::Merge, patch, &WriteOptions::default()).await {
            // Events expire; then it is told anew.
            Err(status) if status.is_not_found() => {}
            Err(status) => return Err(status),
            Ok(_) => {
                *count += 1;
                return Ok(());
            }
        }
    }
    let document = document(event, node);
    let (namespace, name) = (document.metadata.namespace.clone(), document.metadata.name.clone());
    api.create_as(&document).await?;
    written.insert(key.into(), (namespace.unwrap_or_default(), name.unwrap_or_default(), 1));
    Ok(())
}

fn document(event: &Told, node: &str) -> Event {
    let namespace = event.about.namespace.clone().unwrap_or_else(|| "default".into());
    let stem = event.about.name.clone().unwrap_or_default();
    let suffix = uuid::Uuid::new_v4().simple().to_string();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{stem}.{}", &suffix[..16])),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        involved_object: event.about.clone(),
        type_: Some(event.kind.into()),
        reason: Some(event.reason.clone()),
        message: Some(event.message.chars().take(1024).collect()),
        count: Some(1),
        first_timestamp: Some(Time(event.at)),
        last_timestamp: Some(Time(event.at)),
        source: Some(EventSource { component: Some("kubelet".into()), host: Some(node.into()) }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(node.into()),
        ..Event::default()
    }
}
