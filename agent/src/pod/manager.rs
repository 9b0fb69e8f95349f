//! All pods of this node: a worker for each, fed by a watch, found again after a restart.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use containerd_client::events::TaskExit;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kontiki_proto::api::{ApiExt, EventType, ListOptions, WatchOptions, decode};
use kontiki_proto::{Status, Target};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::dirs::{self, PodDir};
use super::model::uid;
use super::worker::{self, Handle, Message};
use super::{sandbox, start};
use crate::ctx::Ctx;
use crate::runtime::cgroup;

/// The workers by pod uid. Cheap to clone.
#[derive(Clone)]
pub struct Manager {
    ctx: Arc<Ctx>,
    workers: Arc<Mutex<HashMap<String, Handle>>>,
    shutdown: CancellationToken,
}

impl Manager {
    pub fn new(ctx: Arc<Ctx>, shutdown: CancellationToken) -> Manager {
        Manager { ctx, workers: Arc::default(), shutdown }
    }

    /// Adopts the pods this node knows from before, then follows the API until the shutdown.
    pub async fn run(&self) {
        self.adopt();
        tokio::join!(self.follow_api(), self.follow_containerd());
    }

    /// How many pods have something on this node.
    pub fn count(&self) -> usize {
        self.workers.lock().len()
    }

    /// Workers for all pods on disk, before the API has said anything: it may be away for long.
    fn adopt(&self) {
        for known in dirs::known(&self.ctx.options.root_dir) {
            match PodDir::new(&self.ctx.options.root_dir, &known).load_pod() {
                Ok(pod) => {
                    self.ensure(pod);
                }
                Err(error) => {
                    tracing::warn!(%error, pod = known, "a pod on disk is not readable; it waits for the API")
                }
            }
        }
    }

    /// The pod's worker; `true` where it was made for this.
    fn ensure(&self, pod: Pod) -> (Handle, bool) {
        let key = uid(&pod).to_string();
        let mut workers = self.workers.lock();
        if let Some(handle) = workers.get(&key) {
            return (handle.clone(), false);
        }
        let forget = {
            let (workers, key) = (self.workers.clone(), key.clone());
            move || {
                workers.lock().remove(&key);
            }
        };
        let handle = worker::spawn(self.ctx.clone(), pod, self.shutdown.clone(), forget);
        workers.insert(key, handle.clone());
        (handle, true)
    }

    async fn tell(&self, pod: Pod) {
        let (handle, fresh) = self.ensure(pod.clone());
        if !fresh && handle.messages.send(Message::Pod(Box::new(pod.clone()))).await.is_err() {
            // It ended just now: the object is being deleted, or is another pod's.
            tracing::debug!(pod = uid(&pod), "a pod changed as its worker ended");
        }
    }

    async fn drop_worker(&self, uid: &str) {
        let handle = self.workers.lock().get(uid).cloned();
        if let Some(handle) = handle {
            // A worker that does not listen has ended.
            let _ = handle.messages.send(Message::Removed).await;
        }
    }

    async fn follow_api(&self) {
        let mut pause = Duration::from_millis(200);
        while !self.shutdown.is_cancelled() {
            let outcome = tokio::select! {
                outcome = self.list_and_watch(&mut pause) => outcome,
                () = self.shutdown.cancelled() => return,
            };
            if let Err(error) = outcome {
                tracing::debug!(%error, "the pods of this node cannot be watched; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shutdown.cancelled() => return,
            }
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    async fn list_and_watch(&self, pause: &mut Duration) -> Result<(), Status> {
        let field_selector = format!("spec.nodeName={}", self.ctx.options.node_name);
        let options = ListOptions { field_selector: field_selector.clone(), ..ListOptions::default() };
        let (pods, mut revision) = self.ctx.api.list_as::<Pod>("", &options).await?;
        let listed = pods.iter().map(|p| uid(p).to_string()).collect::<Vec<_>>();
        for pod in pods {
            self.tell(pod).await;
        }
        let gone = self.workers.lock().keys().filter(|k| !listed.contains(k)).cloned().collect::<Vec<_>>();
        for key in gone {
            self.drop_worker(&key).await;
        }
        self.sweep(&listed).await;
        loop {
            let options = WatchOptions {
                field_selector: field_selector.clone(),
                resource_version: revision.clone(),
                allow_bookmarks: true,
                ..WatchOptions::default()
            };
            let mut stream = self.ctx.api.watch(&Target::kind::<Pod>(), &options).await?;
            while let Some(event) = stream.next().await {
                let event = event?;
                *pause = Duration::from_millis(200);
                let pod = decode::<Pod>(&event.object)?;
                if let Some(version) = &pod.metadata.resource_version {
                    revision.clone_from(version);
                }
                match event.event_type {
                    EventType::Added | EventType::Modified => self.tell(pod).await,
                    EventType::Deleted => self.drop_worker(uid(&pod)).await,
                    EventType::Bookmark => {}
                }
            }
            // The stream ended at its timeout; it goes on where it was.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Removes what is on the node of pods that have no worker and are not in the API: a list has just said so.
    async fn sweep(&self, listed: &[String]) {
        let orphan = |uid: &String| !listed.contains(uid) && !self.workers.lock().contains_key(uid);
        let mut uids = dirs::known(&self.ctx.options.root_dir).into_iter().filter(orphan).collect::<Vec<_>>();
        match self.ctx.containerd.containers(None).await {
            Ok(containers) => {
                let labelled = containers.into_iter().filter_map(|c| c.labels.get(start::LABEL_UID).cloned());
                uids.extend(labelled.filter(orphan));
            }
            Err(error) => tracing::warn!(%error, "leftover containers cannot be looked for"),
        }
        uids.sort_unstable();
        uids.dedup();
        for uid in uids {
            tracing::info!(pod = uid, "removing what is left of a pod that is gone");
            if let Err(error) = self.remove(&uid).await {
                tracing::warn!(%error, pod = uid, "what is left of a pod was not removed; trying again later");
            }
        }
    }

    async fn remove(&self, uid: &str) -> Result<(), String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let label = Some((start::LABEL_UID, uid));
        for found in self.ctx.containerd.containers(label).await.map_err(|e| text(&e))? {
            self.ctx.containerd.remove(&found.id).await.map_err(|e| text(&e))?;
        }
        let network = self.ctx.network.borrow().clone();
        if let Some(network) = network {
            network.detach(uid).await?;
        }
        let dir = PodDir::new(&self.ctx.options.root_dir, uid);
        sandbox::unmake(&dir).map_err(|e| text(&e))?;
        cgroup::remove(&self.ctx.pod_cgroup(uid));
        match std::fs::remove_dir_all(dir.path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    /// Passes containerd's events on as hints. After each (re)connection everything is looked at once.
    async fn follow_containerd(&self) {
        while !self.shutdown.is_cancelled() {
            let follow = async {
                let mut events = self.ctx.containerd.exits().await?;
                self.look_at_all();
                while let Ok(Some(event)) = events.message().await {
                    let exit = event.event.and_then(|e| TaskExit::decode(e.value.as_slice()).ok());
                    // Of processes beside the main one, whoever started them hears by itself.
                    if let Some(exit) = exit.filter(|e| e.id.is_empty() || e.id == e.container_id) {
                        self.look_at(&exit.container_id);
                    }
                }
                Ok::<(), crate::runtime::RuntimeError>(())
            };
            tokio::select! {
                outcome = follow => if let Err(error) = outcome {
                    tracing::debug!(%error, "containerd does not answer");
                },
                () = self.shutdown.cancelled() => return,
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    fn look_at(&self, container_id: &str) {
        let owner = self.ctx.owners.lock().get(container_id).cloned();
        let look = owner.and_then(|uid| self.workers.lock().get(&uid).map(|h| h.look.clone()));
        match look {
            Some(look) => look.notify_one(),
            None => self.look_at_all(),
        }
    }

    fn look_at_all(&self) {
        let looks = self.workers.lock().values().map(|h| h.look.clone()).collect::<Vec<Arc<Notify>>>();
        looks.iter().for_each(|l| l.notify_one());
    }
}
