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
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cluster::{Cluster, Processes, ServerId, status_of};
use crate::history::{
    Action, Change, End, Final, Item, Key, Outcome, Recorder, Revision, Value, Version, Watched,
};
use crate::observe::{Fact, Observer};

/// A register is a ConfigMap that holds one number.
pub type Register = u32;

pub const NAMESPACE: &str = "chaos";
pub const REGISTERS: Register = 8;
/// Longest time a client waits for an answer.
const DEADLINE: Duration = Duration::from_secs(6);
/// Longest wait for the last event and the last read; generous, since the machine may be busy.
const LAST_EVENT: Duration = Duration::from_secs(60);
/// Between two looks at one server.
const LOOK: Duration = Duration::from_millis(150);
/// The client number of probes, less their value: each of which is a client for one operation.
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

fn register_name(register: Register) -> Key {
    format!("register-{register}").into()
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

fn read_back(object: &ConfigMap) -> Option<Version> {
    let value = object.data.as_ref()?.get("value")?.parse().ok()?;
    Some(Version { value, revision: object.metadata.resource_version.as_ref()?.parse().ok()? })
}

/// Whether the server has certainly done nothing: it says so by 503 and by every answer that blames the request.
fn failed(status: &Status) -> Outcome {
    let text = format!("{} {}", status.code, status.message);
    match status.code {
        409 => Outcome::Conflict { revision: 0, current: Vec::new() },
        503 | 400..=499 => Outcome::Refused(text),
        _ => Outcome::Unknown(text),
    }
}

fn written(result: Result<ConfigMap, Status>) -> Outcome {
    match result {
        Ok(object) => match read_back(&object) {
            Some(version) => Outcome::Done { revision: version.revision },
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
        let (name, begun) = (register_name(register), tokio::time::Instant::now());
        loop {
            let (value, invoked) = (numbers.next(), recorder.now());
            let created = within(client.create_as(&config_map(&name, value, None))).await;
            let there = created.as_ref().map_or_else(Status::is_already_exists, |_| true);
            let problem = created.as_ref().err().map(ToString::to_string);
            recorder.record((usize::MAX, None), Action::swap(&name, 0, value), invoked, written(created));
            if there {
                break;
            }
            // A busy machine may need longer than a client waits.
            anyhow::ensure!(begun.elapsed() < LAST_EVENT, "{name} could not be created: {problem:?}");
        }
    }
    Ok(())
}

/// Clients and watchers at work.
pub struct Traffic {
    stop: CancellationToken,
    clients: Vec<JoinHandle<()>>,
    stop_watching: CancellationToken,
    watchers: Vec<(ServerId, JoinHandle<Watched>)>,
    observing: JoinHandle<()>,
    /// A scenario that fails in the middle leaves no clients behind.
    _ends: [DropGuard; 2],
    pub recorder: Arc<Recorder>,
    /// What is done to servers and seen of them, in the same time as the history.
    pub observer: Arc<Observer>,
    pub numbers: Arc<Numbers>,
}

/// What is known when all has ended.
pub struct Ended {
    pub recorder: Arc<Recorder>,
    pub observer: Arc<Observer>,
    pub watched: Vec<Watched>,
    pub finals: Vec<Final>,
}

impl Traffic {
    /// `each` clients on every server alone, running or not, one that goes wherever it is answered, and one watcher on each
    /// of the `running` ones.
    ///
    /// # Errors
    /// A client that cannot be made, or a list that fails.
    pub async fn start(
        cluster: &Arc<Processes>,
        running: usize,
        each: usize,
        seed: u64,
    ) -> anyhow::Result<Traffic> {
        let (recorder, observer) = (Arc::new(Recorder::default()), Arc::new(Observer::default()));
        let numbers = Arc::new(Numbers::default());
        let everywhere: Vec<ServerId> = (0..cluster.size()).collect();
        let any = cluster.client(&everywhere, DEADLINE)?;
        prepare(&any, &recorder, &numbers).await?;
        let target = Target::kind::<ConfigMap>().within(NAMESPACE);
        let start: u64 = any.list(&target, &ListOptions::default()).await?.resource_version.parse()?;

        let (stop, stop_watching) = (CancellationToken::new(), CancellationToken::new());
        let mut watchers = Vec::new();
        for server in 0..running {
            let client = cluster.client(&[server], DEADLINE)?;
            let watching = watch(client, server, start, Arc::clone(&recorder), stop_watching.clone());
            watchers.push((server, tokio::spawn(watching)));
        }
        let observing =
            tokio::spawn(observe(Arc::clone(cluster), Arc::clone(&observer), stop_watching.clone()));
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
        let _ends = [stop.clone().drop_guard(), stop_watching.clone().drop_guard()];
        Ok(Traffic { stop, clients, stop_watching, watchers, observing, _ends, recorder, observer, numbers })
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
            let (name, value) = new_object(&self.numbers);
            tokio::spawn(async move {
                let client_number = PROBE - value as usize;
                let ticket = recorder.invoke(client_number, Some(server), Action::swap(&name, 0, value));
                let outcome = written(within(client.create_as(&config_map(&name, value, None))).await);
                recorder.complete(ticket, outcome);
            })
        });
        Ok(probes.collect())
    }

    /// Ends the clients, each after its current operation, and reads every register once more through each of these servers.
    ///
    /// # Errors
    /// A server that does not answer at the end, or a watcher of it that is not told of the last write.
    pub async fn finish(self, cluster: &dyn Cluster, servers: &[ServerId]) -> anyhow::Result<Ended> {
        self.stop.cancel();
        for client in self.clients {
            client.await?;
        }
        // A sign for the watchers: who has seen it has seen everything before it.
        let sign = cluster.client(servers, DEADLINE)?;
        let (name, value) = (Key::from(SIGN), self.numbers.next());
        let ticket = self.recorder.invoke(PROBE, None, Action::swap(&name, 0, value));
        let created = sign.create_as(&config_map(SIGN, value, None)).await?;
        self.recorder.complete(ticket, written(Ok(created)));
        let mut watched = Vec::new();
        let (staying, gone): (Vec<_>, Vec<_>) =
            self.watchers.into_iter().partition(|(server, _)| servers.contains(server));
        for (server, watcher) in staying {
            match tokio::time::timeout(LAST_EVENT, watcher).await {
                Ok(record) => watched.push(record?),
                Err(_) => anyhow::bail!(
                    "the watcher of server {server} has not seen the last write {LAST_EVENT:?} after it"
                ),
            }
        }
        let mut finals = Vec::new();
        for &server in servers {
            let client = cluster.client(&[server], DEADLINE)?;
            for register in 0..REGISTERS {
                let invoked = self.recorder.now();
                let outcome = read_patiently(&client, register).await;
                anyhow::ensure!(
                    matches!(outcome, Outcome::Found { .. }),
                    "server {server}, last read: {outcome:?}"
                );
                let who = (usize::MAX - 1 - server, Some(server));
                self.recorder.record(who, Action::get(&register_name(register)), invoked, outcome);
            }
            finals.push(last_state(&client, server).await?);
        }
        self.stop_watching.cancel();
        for (_, watcher) in gone {
            watched.push(watcher.await?);
        }
        self.observing.await?;
        Ok(Ended { recorder: self.recorder, observer: self.observer, watched, finals })
    }
}

/// Looks at every server a few times a second.
async fn observe(cluster: Arc<Processes>, observer: Arc<Observer>, stop: CancellationToken) {
    let look = |server| {
        let (cluster, observer) = (Arc::clone(&cluster), Arc::clone(&observer));
        async move {
            loop {
                let life = cluster.life(server);
                if let Ok(reply) = status_of(&*cluster, server).await
                    && let Some(own) = reply.members.iter().find(|member| member.id == reply.answered_by)
                    && cluster.life(server) == life
                {
                    let term = own.term;
                    let role = if own.leader { Fact::Leads { term } } else { Fact::Follows { term } };
                    observer.saw(server, life, role);
                    let (revision, hash) = (own.revision, own.state_hash);
                    observer.saw(server, life, Fact::State { revision, hash });
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    };
    let all = futures::future::join_all((0..cluster.size()).map(look));
    tokio::select! { _ = all => {}, () = stop.cancelled() => {} }
}

/// A server that was hurt a moment ago may need one to answer; what it refuses until then is no news.
async fn read_patiently(client: &Client, register: Register) -> Outcome {
    let deadline = tokio::time::Instant::now() + LAST_EVENT;
    loop {
        match read(client, register).await {
            Outcome::Refused(_) | Outcome::Unknown(_) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

const SIGN: &str = "the-end";

/// A name and a value that are used once.
fn new_object(numbers: &Numbers) -> (Key, Value) {
    let value = numbers.next();
    (format!("object-{value}").into(), value)
}

async fn list(client: &Client) -> anyhow::Result<(Revision, Vec<(Key, Version)>)> {
    let target = Target::kind::<ConfigMap>().within(NAMESPACE);
    let list = client.list(&target, &ListOptions::default()).await?;
    let mut entries = Vec::new();
    for item in &list.items {
        let object: ConfigMap = decode(item)?;
        // Kubernetes' own objects of the namespace hold no number.
        if let Some(version) = read_back(&object) {
            entries.push((object.metadata.name.unwrap_or_default().into(), version));
        }
    }
    Ok((list.resource_version.parse()?, entries))
}

async fn last_state(client: &Client, server: ServerId) -> anyhow::Result<Final> {
    let (revision, entries) = list(client).await?;
    Ok(Final {
        server,
        revision,
        state_hash: None,
        listed: entries.len(),
        entries: entries.into_iter().collect(),
    })
}

async fn read(client: &Client, register: Register) -> Outcome {
    match within(client.get_as::<ConfigMap>(NAMESPACE, &register_name(register))).await {
        Ok(object) => match read_back(&object) {
            Some(version) => {
                Outcome::Found { revision: None, entries: vec![(register_name(register), version)] }
            }
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
        let name = register_name(register);
        match self.random.random_range(0..100) {
            0..35 => self.run_one(Action::get(&name), read(&self.client, register)).await.0,
            35..60 => {
                let value = self.numbers.next();
                let object = config_map(&name, value, None);
                let work = async { written(within(self.client.update_as(&object)).await) };
                self.run_one(Action::put(&name, value), work).await.0
            }
            60..80 => {
                let (_, before) = self.run_one(Action::get(&name), read(&self.client, register)).await;
                let Outcome::Found { entries, .. } = before else { return false };
                let Some((_, found)) = entries.first() else { return false };
                let value = self.numbers.next();
                let object = config_map(&name, value, Some(found.revision));
                let work = async { written(within(self.client.update_as(&object)).await) };
                self.run_one(Action::swap(&name, found.revision, value), work).await.0
            }
            _ => {
                let (name, value) = new_object(&self.numbers);
                let object = config_map(&name, value, None);
                let work = async { written(within(self.client.create_as(&object)).await) };
                self.run_one(Action::swap(&name, 0, value), work).await.0
            }
        }
    }

    /// Performs and records one operation; says whether it was answered. A lost race is an answer like any other.
    async fn run_one(&self, action: Action, work: impl Future<Output = Outcome>) -> (bool, Outcome) {
        let ticket = self.recorder.invoke(self.identity.0, self.identity.1, action);
        let outcome = work.await;
        self.recorder.complete(ticket, outcome.clone());
        (!matches!(outcome, Outcome::Refused(_) | Outcome::Unknown(_)), outcome)
    }
}

/// Watches from `start` until the sign, however often the connection breaks.
async fn watch(
    client: Client,
    server: ServerId,
    start: Revision,
    recorder: Arc<Recorder>,
    stop: CancellationToken,
) -> Watched {
    let mut record = Watched { watcher: server, ..Watched::default() };
    let mut revision = start;
    while !stop.is_cancelled() {
        let watching = watch_once(&client, (server, &recorder), &mut revision, &mut record);
        let ended = tokio::select! { ended = watching => ended, () = stop.cancelled() => break };
        let ended = match ended {
            Ok(true) => {
                record.must_reach = Some(revision);
                return record;
            }
            Ok(false) => End::Broken("the stream ended".into()),
            Err(status) if status.code == 410 => End::ListAgain(status.message),
            Err(status) => End::Broken(status.message),
        };
        let again = matches!(ended, End::ListAgain(_));
        record.items.push((recorder.now(), Item::Ended(ended)));
        if again && let Ok((listed, entries)) = list(&client).await {
            revision = listed;
            record.items.push((recorder.now(), Item::Listed { revision, entries }));
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    record
}

async fn watch_once(
    client: &Client,
    (server, recorder): (ServerId, &Recorder),
    revision: &mut Revision,
    record: &mut Watched,
) -> Result<bool, Status> {
    let target = Target::kind::<ConfigMap>().within(NAMESPACE);
    let options = WatchOptions {
        resource_version: revision.to_string(),
        allow_bookmarks: true,
        ..WatchOptions::default()
    };
    let mut stream = client.watch(&target, &options).await?;
    record.items.push((recorder.now(), Item::Opened { server, after: *revision }));
    while let Some(event) = stream.next().await {
        let event = event?;
        let object: ConfigMap = decode(&event.object)?;
        let at: Option<Revision> = object.metadata.resource_version.as_ref().and_then(|at| at.parse().ok());
        let Some(at) = at else { continue };
        *revision = at;
        if event.event_type == EventType::Bookmark {
            record.items.push((recorder.now(), Item::Bookmark(at)));
            continue;
        }
        let Some(Version { value, .. }) = read_back(&object) else { continue };
        let name = object.metadata.name.unwrap_or_default();
        let (value, previous) = match event.event_type {
            EventType::Deleted => (None, None),
            EventType::Added => (Some(value), Some(None)),
            _ => (Some(value), None),
        };
        let is_sign = name == SIGN;
        let change = Change { key: name.into(), value, previous };
        record.items.push((recorder.now(), Item::Changes { revision: at, changes: vec![change] }));
        if is_sign {
            return Ok(true);
        }
    }
    Ok(false)
}
