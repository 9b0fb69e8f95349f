//! Clients that write, read and watch, and remember.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kontiki_proto::api::{EventType, ListOptions, WatchOptions, decode};
use kontiki_proto::client::Client;
use kontiki_proto::{Api, ApiExt, Status, Target};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, ServerId};
use crate::history::{Action, Final, Outcome, Recorder, Register, Seen, Value, Watched};

pub const NAMESPACE: &str = "chaos";
pub const REGISTERS: Register = 8;
/// Longest time a client waits for an answer.
const DEADLINE: Duration = Duration::from_secs(6);
/// The client number of probes, each of which is a client for one operation.
const PROBE: usize = usize::MAX - 100;
/// After an operation that did not succeed, so that a dead server does not fill the history.
const PAUSE: Duration = Duration::from_millis(60);

/// Numbers that are given once.
#[derive(Debug, Default)]
pub struct Numbers(AtomicU64);

impl Numbers {
    pub fn next(&self) -> Value {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

fn register_name(register: Register) -> String {
    format!("register-{register}")
}

fn config_map(name: &str, value: Value, revision: Option<u64>) -> ConfigMap {
    let mut document = json!({
        "metadata": {"name": name, "namespace": NAMESPACE}, "data": {"value": value.to_string()}});
    if let Some(revision) = revision {
        document["metadata"]["resourceVersion"] = json!(revision.to_string());
    }
    // The document is made here and is a ConfigMap.
    serde_json::from_value(document).unwrap_or_default()
}

fn read_back(object: &ConfigMap) -> Option<(Value, u64)> {
    let value = object.data.as_ref()?.get("value")?.parse().ok()?;
    Some((value, object.metadata.resource_version.as_ref()?.parse().ok()?))
}

/// Whether the server has certainly done nothing: it says so by 503 and by every answer that blames the request.
fn failed(status: &Status) -> Outcome {
    let text = format!("{} {}", status.code, status.message);
    match status.code {
        503 | 400..=499 => Outcome::Refused(text),
        _ => Outcome::Unknown(text),
    }
}

fn written(result: Result<ConfigMap, Status>) -> Outcome {
    match result {
        Ok(object) => match read_back(&object) {
            Some((_, revision)) => Outcome::Done { revision },
            None => Outcome::Unknown("an answer without revision".into()),
        },
        Err(status) => failed(&status),
    }
}

async fn within<T>(work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(DEADLINE, work)
        .await
        .unwrap_or_else(|_| Err(Status::timeout("the client waited no longer".to_owned())))
}

/// Creates the registers; they hold their own numbers from here on.
///
/// # Errors
/// A write that was not taken.
pub async fn prepare(client: &Client, recorder: &Recorder, numbers: &Numbers) -> anyhow::Result<()> {
    for register in 0..REGISTERS {
        let (value, invoked) = (numbers.next(), recorder.now());
        let created = client.create_as(&config_map(&register_name(register), value, None)).await?;
        recorder.record((usize::MAX, None), Action::Write(register, value), invoked, written(Ok(created)));
    }
    Ok(())
}

/// Clients and watchers at work.
pub struct Traffic {
    stop: CancellationToken,
    clients: Vec<JoinHandle<()>>,
    stop_watching: CancellationToken,
    watchers: Vec<JoinHandle<Watched>>,
    pub recorder: Arc<Recorder>,
    pub numbers: Arc<Numbers>,
}

impl Traffic {
    /// `each` clients on every server alone, one that goes wherever it is answered, and one watcher on every server.
    ///
    /// # Errors
    /// A client that cannot be made, or a list that fails.
    pub async fn start(cluster: &dyn Cluster, each: usize, seed: u64) -> anyhow::Result<Traffic> {
        let recorder = Arc::new(Recorder::default());
        let numbers = Arc::new(Numbers::default());
        let everywhere: Vec<ServerId> = (0..cluster.size()).collect();
        let any = cluster.client(&everywhere, DEADLINE)?;
        prepare(&any, &recorder, &numbers).await?;
        let target = Target::kind::<ConfigMap>().within(NAMESPACE);
        let start: u64 = any.list(&target, &ListOptions::default()).await?.resource_version.parse()?;

        let (stop, stop_watching) = (CancellationToken::new(), CancellationToken::new());
        let mut watchers = Vec::new();
        for server in 0..cluster.size() {
            let client = cluster.client(&[server], DEADLINE)?;
            watchers.push(tokio::spawn(watch(client, server, start, stop_watching.clone())));
        }
        let mut clients = Vec::new();
        for number in 0..each * cluster.size() + 1 {
            let server = number.checked_sub(1).map(|number| number % cluster.size());
            let client = match server {
                Some(server) => cluster.client(&[server], DEADLINE)?,
                None => any.clone(),
            };
            let worker = Worker {
                client,
                identity: (number, server),
                recorder: Arc::clone(&recorder),
                numbers: Arc::clone(&numbers),
                random: StdRng::seed_from_u64(
                    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number as u64),
                ),
            };
            let stop = stop.clone();
            clients.push(tokio::spawn(async move { worker.run(stop).await }));
        }
        Ok(Traffic { stop, clients, stop_watching, watchers, recorder, numbers })
    }

    /// Sends `count` creates to one server at once, each recorded when it ends; their clients wait like all others.
    ///
    /// # Errors
    /// A client that cannot be made.
    pub fn probe(
        &self,
        cluster: &dyn Cluster,
        server: ServerId,
        count: usize,
    ) -> anyhow::Result<Vec<JoinHandle<()>>> {
        let client = cluster.client(&[server], DEADLINE)?;
        let probes = (0..count).map(|_| {
            let (client, recorder) = (client.clone(), Arc::clone(&self.recorder));
            let name = format!("object-{}", self.numbers.next());
            tokio::spawn(async move {
                let invoked = recorder.now();
                let outcome = written(within(client.create_as(&config_map(&name, 0, None))).await);
                recorder.record((PROBE, Some(server)), Action::Create(name), invoked, outcome);
            })
        });
        Ok(probes.collect())
    }

    /// Ends the clients, each after its current operation, and reads every register once more through every server.
    ///
    /// # Errors
    /// A server that does not answer at the end.
    pub async fn finish(
        self,
        cluster: &dyn Cluster,
    ) -> anyhow::Result<(Arc<Recorder>, Vec<Watched>, Vec<Final>)> {
        self.stop.cancel();
        for client in self.clients {
            client.await?;
        }
        let mut finals = Vec::new();
        for server in 0..cluster.size() {
            let client = cluster.client(&[server], DEADLINE)?;
            for register in 0..REGISTERS {
                let invoked = self.recorder.now();
                let outcome = read(&client, register).await;
                anyhow::ensure!(
                    matches!(outcome, Outcome::Found { .. }),
                    "server {server}, last read: {outcome:?}"
                );
                let who = (usize::MAX - 1 - server, Some(server));
                self.recorder.record(who, Action::Read(register), invoked, outcome);
            }
            finals.push(last_state(&client).await?);
        }
        // A sign for the watchers: who has seen it has seen everything before it.
        let sign = cluster.client(&(0..cluster.size()).collect::<Vec<_>>(), DEADLINE)?;
        sign.create_as(&config_map(SIGN, 0, None)).await?;
        let mut watched = Vec::new();
        for watcher in self.watchers {
            match tokio::time::timeout(Duration::from_secs(15), watcher).await {
                Ok(record) => watched.push(record?),
                Err(_) => anyhow::bail!("a watcher has not seen the last write 15 s after it"),
            }
        }
        self.stop_watching.cancel();
        Ok((self.recorder, watched, finals))
    }
}

const SIGN: &str = "the-end";

async fn last_state(client: &Client) -> anyhow::Result<Final> {
    let target = Target::kind::<ConfigMap>().within(NAMESPACE);
    let list = client.list(&target, &ListOptions::default()).await?;
    let mut last = Final { revision: list.resource_version.parse()?, ..Final::default() };
    for item in &list.items {
        let object: ConfigMap = decode(item)?;
        // Kubernetes' own objects of the namespace hold no number.
        if let Some((_, revision)) = read_back(&object) {
            last.listed += 1;
            last.objects.insert(object.metadata.name.unwrap_or_default(), revision);
        }
    }
    Ok(last)
}

async fn read(client: &Client, register: Register) -> Outcome {
    match within(client.get_as::<ConfigMap>(NAMESPACE, &register_name(register))).await {
        Ok(object) => match read_back(&object) {
            Some((value, revision)) => Outcome::Found { value, revision },
            None => Outcome::Unknown("an answer without value".into()),
        },
        Err(status) => failed(&status),
    }
}

struct Worker {
    client: Client,
    identity: (usize, Option<ServerId>),
    recorder: Arc<Recorder>,
    numbers: Arc<Numbers>,
    random: StdRng,
}

impl Worker {
    async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let pause = if self.step().await {
                Duration::from_millis(self.random.random_range(0..12))
            } else {
                PAUSE
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One operation, or two for a guarded write; says whether the last one succeeded.
    async fn step(&mut self) -> bool {
        let register = self.random.random_range(0..REGISTERS);
        let invoked = self.recorder.now();
        match self.random.random_range(0..100) {
            0..35 => {
                let outcome = read(&self.client, register).await;
                self.note(Action::Read(register), invoked, outcome)
            }
            35..60 => {
                let value = self.numbers.next();
                let object = config_map(&register_name(register), value, None);
                let outcome = written(within(self.client.update_as(&object)).await);
                self.note(Action::Write(register, value), invoked, outcome)
            }
            60..80 => {
                let before = read(&self.client, register).await;
                let found = match before {
                    Outcome::Found { value, revision } => Some((value, revision)),
                    _ => None,
                };
                self.note(Action::Read(register), invoked, before);
                let Some((expected, revision)) = found else { return false };
                let (value, invoked) = (self.numbers.next(), self.recorder.now());
                let object = config_map(&register_name(register), value, Some(revision));
                let outcome = written(within(self.client.update_as(&object)).await);
                self.note(Action::Swap { register, expected, value }, invoked, outcome)
            }
            _ => {
                let name = format!("object-{}", self.numbers.next());
                let outcome = written(within(self.client.create_as(&config_map(&name, 0, None))).await);
                self.note(Action::Create(name), invoked, outcome)
            }
        }
    }

    fn note(&self, action: Action, invoked: Duration, outcome: Outcome) -> bool {
        // A lost race is an answer like any other.
        let fine = match &outcome {
            Outcome::Refused(reason) => reason.starts_with("409"),
            Outcome::Unknown(_) => false,
            Outcome::Done { .. } | Outcome::Found { .. } => true,
        };
        self.recorder.record(self.identity, action, invoked, outcome);
        fine
    }
}

/// Watches from `start` until the sign, however often the connection breaks.
async fn watch(client: Client, server: ServerId, start: u64, stop: CancellationToken) -> Watched {
    let mut record = Watched { server, start, ..Watched::default() };
    let mut revision = start;
    while !stop.is_cancelled() {
        match watch_once(&client, &mut revision, &mut record).await {
            Ok(true) => return record,
            Ok(false) => {}
            Err(status) if status.code == 410 => {
                let target = Target::kind::<ConfigMap>().within(NAMESPACE);
                if let Ok(list) = client.list(&target, &ListOptions::default()).await
                    && let Ok(listed) = list.resource_version.parse()
                {
                    revision = listed;
                    record.relisted.insert(record.seen.len(), listed);
                }
            }
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    record
}

async fn watch_once(client: &Client, revision: &mut u64, record: &mut Watched) -> Result<bool, Status> {
    let target = Target::kind::<ConfigMap>().within(NAMESPACE);
    let options = WatchOptions {
        resource_version: revision.to_string(),
        allow_bookmarks: true,
        ..WatchOptions::default()
    };
    let mut stream = client.watch(&target, &options).await?;
    record.connections += 1;
    while let Some(event) = stream.next().await {
        let event = event?;
        let object: ConfigMap = decode(&event.object)?;
        let at: Option<u64> = object.metadata.resource_version.as_ref().and_then(|at| at.parse().ok());
        let Some(at) = at else { continue };
        let event_type = event.event_type;
        if event_type == EventType::Bookmark {
            // A bookmark that went back would make the next connection repeat events, which the checker sees.
            *revision = at;
            continue;
        }
        let value = read_back(&object).map(|(value, _)| value);
        let name = object.metadata.name.unwrap_or_default();
        if name == SIGN {
            return Ok(true);
        }
        record.seen.push(Seen { revision: at, event: event_type.as_str(), name, value });
        *revision = at;
    }
    Ok(false)
}
