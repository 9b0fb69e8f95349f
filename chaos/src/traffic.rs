//! Clients that use a cluster while it is hurt, and write down what happened.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kontiki_proto::api::{
    Api, ApiExt, EventType, GetOptions, ListOptions, PatchType, WatchOptions, WriteOptions, decode, encode,
};
use kontiki_proto::{Status, Target};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::check::Seen;
use crate::cluster::{Cluster, Server};
use crate::history::{Action, History, Operation, Outcome};

pub const NAMESPACE: &str = "chaos";
const REGISTERS: u32 = 4;
/// Pause of one client between two operations, so that two cores are left for the servers.
const PAUSE: Duration = Duration::from_millis(4);

/// Traffic under way; stop it before its history is judged.
pub struct Traffic {
    pub history: Arc<History>,
    stretches: Arc<Mutex<Vec<Seen>>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Traffic {
    /// Makes the namespace and the registers, then starts `clients` clients on each server, and a watcher.
    ///
    /// # Errors
    /// The cluster does not serve before anything was hurt.
    pub async fn start(cluster: Arc<dyn Cluster>, clients: usize, seed: u64) -> anyhow::Result<Traffic> {
        let first = cluster.client(cluster.servers()[0]);
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
        let namespaces = Target::kind::<k8s_openapi::api::core::v1::Namespace>();
        ignore_existing(first.create(&namespaces, encode(&namespace)?, &WriteOptions::default()).await)?;
        for register in 0..REGISTERS {
            let object = config_map(&register_name(register), &json!({}));
            ignore_existing(first.create(&collection(), encode(&object)?, &WriteOptions::default()).await)?;
        }

        let traffic = Traffic {
            history: Arc::default(),
            stretches: Arc::default(),
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        let mut traffic = traffic;
        let mut number = 0;
        for server in cluster.servers() {
            for _ in 0..clients {
                let client = Worker {
                    number,
                    server,
                    cluster: cluster.clone(),
                    history: traffic.history.clone(),
                    random: StdRng::seed_from_u64(seed.wrapping_add(number as u64)),
                };
                traffic.tasks.spawn(client.run(traffic.stop.clone()));
                number += 1;
            }
            traffic.tasks.spawn(follow(
                cluster.clone(),
                server,
                traffic.stretches.clone(),
                traffic.stop.clone(),
            ));
        }
        Ok(traffic)
    }

    /// Ends all clients and returns what the watchers saw.
    pub async fn stop(mut self) -> (Arc<History>, Vec<Seen>) {
        // Let the watchers see the last events.
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        let stretches = std::mem::take(&mut *self.stretches.lock());
        (self.history, stretches)
    }
}

fn collection() -> Target {
    Target::kind::<ConfigMap>().within(NAMESPACE)
}

fn register_name(register: u32) -> String {
    format!("register-{register}")
}

fn config_map(name: &str, data: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": data })
}

fn ignore_existing<T>(result: Result<T, Status>) -> Result<(), Status> {
    match result {
        Err(status) if !status.is_already_exists() => Err(status),
        _ => Ok(()),
    }
}

struct Worker {
    number: usize,
    server: Server,
    cluster: Arc<dyn Cluster>,
    history: Arc<History>,
    random: StdRng,
}

impl Worker {
    async fn run(mut self, stop: CancellationToken) {
        let mut counter: u64 = 0;
        while !stop.is_cancelled() {
            counter += 1;
            // Unique over all clients, and never 0.
            let unique = (self.number as u64 + 1) * 1_000_000 + counter;
            let register = self.random.random_range(0..REGISTERS);
            let action = match self.random.random_range(0..10) {
                0..4 => Action::Read { register },
                4..7 => Action::Write { register, value: unique },
                _ => Action::Create { name: format!("created-{unique}") },
            };
            let invoked = self.history.now();
            let outcome = self.perform(&action).await;
            let returned = self.history.now();
            let failed = outcome == Outcome::Unknown || outcome == Outcome::Refused;
            self.history.record(Operation {
                client: self.number,
                server: self.server,
                action,
                invoked,
                returned,
                outcome,
            });
            tokio::time::sleep(if failed { PAUSE * 10 } else { PAUSE }).await;
        }
    }

    async fn perform(&self, action: &Action) -> Outcome {
        let client = self.cluster.client(self.server);
        let answer = match action {
            Action::Read { register } => {
                client.get(&collection().named(&register_name(*register)), &GetOptions::default()).await
            }
            Action::Write { register, value } => {
                let patch = json!({ "data": { "value": value.to_string() } });
                let target = collection().named(&register_name(*register));
                match encode(&patch) {
                    Ok(patch) => client.patch(&target, PatchType::Merge, patch, &WriteOptions::default()).await,
                    Err(status) => Err(status),
                }
            }
            Action::Create { name } => match encode(&config_map(name, &json!({}))) {
                Ok(body) => client.create(&collection(), body, &WriteOptions::default()).await,
                Err(status) => Err(status),
            },
        };
        match answer.and_then(|document| decode::<Value>(&document)) {
            Ok(object) => Outcome::Done {
                value: object["data"]["value"].as_str().and_then(|text| text.parse().ok()),
                revision: revision_of(&object),
            },
            // A refusal by the API itself changed nothing; of anything else nobody knows.
            Err(status) if (400..500).contains(&status.code) => Outcome::Refused,
            Err(_) => Outcome::Unknown,
        }
    }
}

fn revision_of(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Watches the created objects on one server, resuming where it was, listing again when it is told to.
async fn follow(cluster: Arc<dyn Cluster>, server: Server, stretches: Arc<Mutex<Vec<Seen>>>, stop: CancellationToken) {
    let client = cluster.client(server);
    let mut seen = Seen { server, ..Seen::default() };
    let mut revision = String::new();
    while !stop.is_cancelled() {
        if revision.is_empty() {
            let options = ListOptions { limit: 1, ..ListOptions::default() };
            match client.list(&collection(), &options).await {
                Ok(list) => revision = list.resource_version,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            }
        }
        let options = WatchOptions { resource_version: revision.clone(), ..WatchOptions::default() };
        let Ok(mut events) = client.watch(&collection(), &options).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = stop.cancelled() => None,
            };
            match event {
                Some(Ok(event)) => {
                    let Ok(object) = decode::<Value>(&event.object) else { break };
                    let at = revision_of(&object);
                    revision = at.to_string();
                    if event.event_type == EventType::Added {
                        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_string();
                        seen.events.push((name, at));
                    }
                }
                Some(Err(status)) if status.code == 410 => {
                    // The server said that there is a gap: the next stretch begins behind it.
                    seen.announced_gaps += 1;
                    stretches.lock().push(std::mem::replace(&mut seen, Seen { server, ..Seen::default() }));
                    revision.clear();
                    break;
                }
                Some(Err(_)) | None => break,
            }
        }
    }
    stretches.lock().push(seen);
}

/// Names of all created objects, as this server lists them now.
///
/// # Errors
/// The server does not answer.
pub async fn listed(cluster: &dyn Cluster, server: Server) -> Result<Vec<String>, Status> {
    let (objects, _): (Vec<ConfigMap>, _) =
        cluster.client(server).list_as(NAMESPACE, &ListOptions::default()).await?;
    Ok(objects.into_iter().filter_map(|object| object.metadata.name).filter(|n| n.starts_with("created-")).collect())
}
