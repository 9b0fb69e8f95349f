//! What one server does: starting, memory, creates, lists, watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use http::Method;
use k8s_openapi::api::core::v1::ConfigMap;
use kontiki_proto::api::{WatchOptions, WriteOptions};
use kontiki_proto::client::Client;
use kontiki_proto::{Api, ApiExt, Target};
use serde_json::json;

use super::load::{Caller, Rate, drive};
use super::rest::{Connection, Entrance};
use super::stores::{Creates, Kind, Stores};
use super::table::{Budget, Row, Table, median, seconds};
use crate::cluster::{Cluster, Options, Processes, await_writable, kontiki_program};

const NAMESPACE: &str = "bench";
const OBJECTS: u64 = 20_000;
const CLIENTS: [usize; 3] = [1, 16, 64];
const WATCHERS: usize = 1000;
const DEADLINE: Duration = Duration::from_secs(30);

pub(super) fn processes(servers: u8) -> Result<Processes> {
    Processes::new(Options { program: kontiki_program()?, servers, apart: false })
}

/// One running server with the namespace of the benchmarks.
async fn one_server() -> Result<Processes> {
    let processes = processes(1)?;
    processes.start_all().await?;
    await_writable(&processes.client(&[0], DEADLINE)?, NAMESPACE, DEADLINE).await?;
    Ok(processes)
}

fn entrance(processes: &Processes) -> Result<Entrance> {
    let admin = processes.admin();
    Entrance::new(processes.api_address(0), processes.ca_pem(), &admin.cert_pem, &admin.key_pem)
}

fn object(number: u64) -> Bytes {
    let document = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": format!("object-{number}"), "namespace": NAMESPACE}, "data": {"value": "v".repeat(1024)}});
    Bytes::from(document.to_string())
}

pub(super) fn told<T>(result: Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{error:#}"))
}

/// Resident memory of a server, in MB.
pub(super) fn resident(processes: &Processes, server: usize) -> Result<f64> {
    let pid = processes.pid(server).context("the server does not run")?;
    super::resident_of(pid.cast_unsigned())
}

pub async fn start(table: &mut Table) {
    let measure = async {
        let mut times = Vec::new();
        let mut memory = 0.0;
        for _ in 0..3 {
            let processes = processes(1)?;
            let entrance = entrance(&processes)?;
            let begun = Instant::now();
            processes.start(0).await?;
            loop {
                let ready = async {
                    let mut connection = entrance.connect().await?;
                    connection.ask(Method::GET, "/readyz", Bytes::new()).await
                };
                if ready.await.is_ok() {
                    break;
                }
                ensure!(
                    begun.elapsed() < DEADLINE,
                    "not ready after {DEADLINE:?}: {}",
                    processes.last_words(0)
                );
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            times.push(begun.elapsed());
            tokio::time::sleep(Duration::from_secs(3)).await;
            memory = resident(&processes, 0)?;
        }
        anyhow::Ok((median(&seconds(&times)), memory))
    };
    let measured = told(measure.await);
    let time = measured.clone().map(|(time, _)| time);
    table.add(Row::new("start to ready, empty", "s", Budget::AtMost(0.4), time));
    let mut row =
        Row::new("resident memory, idle", "MB", Budget::AtMost(40.0), measured.map(|(_, memory)| memory));
    row.note = "store, API, controllers, scheduler in one process".into();
    table.add(row);
}

struct RestCreates(Connection);

#[async_trait]
impl Caller for RestCreates {
    async fn call(&mut self, number: u64) -> Result<()> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
        self.0.ask(Method::POST, &path, object(number)).await.map(drop)
    }
}

struct GrpcCreates(Client);

#[async_trait]
impl Caller for GrpcCreates {
    async fn call(&mut self, number: u64) -> Result<()> {
        let target = Target::kind::<ConfigMap>().within(NAMESPACE);
        self.0.create(&target, object(number), &WriteOptions::default()).await?;
        Ok(())
    }
}

pub async fn creates(table: &mut Table, span: Duration, with_etcd: bool) {
    let budgets = [1200.0, 6000.0, 9000.0];
    let numbers = Arc::new(AtomicU64::new(0));
    let mut beside = [None, None, None];
    if with_etcd {
        for (n, clients) in CLIENTS.into_iter().enumerate() {
            match etcd_rate(clients, span, &numbers).await {
                Ok(rate) => beside[n] = Some(rate),
                Err(error) => eprintln!("etcd, {clients} clients: {error:#}"),
            }
        }
    }
    for front in ["REST", "gRPC"] {
        for (n, clients) in CLIENTS.into_iter().enumerate() {
            let measured = told(own_rate(front, clients, span, &numbers).await);
            let what = format!("create 1 KB ConfigMaps, {clients} clients, {front}");
            let figure = measured.clone().map(|rate| rate.per_second);
            let mut row = Row::new(what, "/s", Budget::AtLeast(budgets[n]), figure);
            row.etcd = beside[n].map(|rate| rate.per_second);
            row.note = measured.map(|rate| rate.note()).unwrap_or_default();
            if let Some(rate) = beside[n] {
                row.note = format!("{}; etcd {}", row.note, rate.note());
            }
            table.add(row);
        }
    }
}

async fn own_rate(front: &str, clients: usize, span: Duration, numbers: &Arc<AtomicU64>) -> Result<Rate> {
    let processes = one_server().await?;
    if front == "REST" {
        let entrance = entrance(&processes)?;
        let mut callers = Vec::new();
        for _ in 0..clients {
            callers.push(RestCreates(entrance.connect().await?));
        }
        drive(callers, span, numbers).await
    } else {
        let callers = (0..clients)
            .map(|_| Ok(GrpcCreates(processes.client(&[0], DEADLINE)?)))
            .collect::<Result<Vec<_>>>()?;
        drive(callers, span, numbers).await
    }
}

async fn etcd_rate(clients: usize, span: Duration, numbers: &Arc<AtomicU64>) -> Result<Rate> {
    let etcd = Stores::start(Kind::Etcd, 1, false).await?;
    let value = object(0);
    let callers = etcd.clients(clients).await?.into_iter();
    let callers = callers.map(|client| Creates { client, value: value.clone() }).collect();
    let rate = drive(callers, span, numbers).await;
    etcd.stop().await;
    rate
}

pub async fn lists(table: &mut Table, span: Duration) {
    let filled = told(filled_server().await);
    let whole = match &filled {
        Ok(processes) => told(list_whole(processes).await),
        Err(error) => Err(error.clone()),
    };
    let figure = whole.clone().map(|(time, _)| time);
    let mut row = Row::new("list 20,000 ConfigMaps", "s", Budget::AtMost(0.08), figure);
    row.note = whole.map(|(_, bytes)| format!("{:.1} MB", bytes / 1e6)).unwrap_or_default();
    table.add(row);
    let pages = match &filled {
        Ok(processes) => told(pages(processes, span).await),
        Err(error) => Err(error.clone()),
    };
    let figure = pages.clone().map(|rate| rate.per_second);
    let mut row = Row::new("list pages of 500, 4 clients", "/s", Budget::AtLeast(1000.0), figure);
    row.note = pages.map(|rate| rate.note()).unwrap_or_default();
    table.add(row);
}

async fn filled_server() -> Result<Processes> {
    let processes = one_server().await?;
    let client = processes.client(&[0], DEADLINE)?;
    let numbers = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..64 {
        let (mut caller, numbers) = (GrpcCreates(client.clone()), Arc::clone(&numbers));
        tasks.push(tokio::spawn(async move {
            loop {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                if number >= OBJECTS {
                    return anyhow::Ok(());
                }
                caller.call(number).await?;
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(processes)
}

async fn list_whole(processes: &Processes) -> Result<(f64, f64)> {
    let mut connection = entrance(processes)?.connect().await?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    let mut times = Vec::new();
    let mut bytes = 0;
    for _ in 0..5 {
        let begun = Instant::now();
        bytes = connection.ask(Method::GET, &path, Bytes::new()).await?.len();
        times.push(begun.elapsed());
    }
    #[allow(clippy::cast_precision_loss)]
    Ok((median(&seconds(&times)), bytes as f64))
}

/// Walks the whole list again and again, a page a call.
struct Pages {
    connection: Connection,
    next: String,
}

#[async_trait]
impl Caller for Pages {
    async fn call(&mut self, _: u64) -> Result<()> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps?limit=500&continue={}", self.next);
        let body = self.connection.ask(Method::GET, &path, Bytes::new()).await?;
        self.next = continuation(&body);
        Ok(())
    }
}

/// The continue token, which stands in the metadata at either end of a list; parsing the whole page would measure the client.
fn continuation(body: &[u8]) -> String {
    const KEY: &[u8] = b"\"continue\":\"";
    let ends = [&body[..body.len().min(600)], &body[body.len().saturating_sub(600)..]];
    for end in ends {
        if let Some(at) = end.windows(KEY.len()).position(|window| window == KEY) {
            let rest = &end[at + KEY.len()..];
            let token = rest.split(|byte| *byte == b'"').next().unwrap_or_default();
            return String::from_utf8_lossy(token).into_owned();
        }
    }
    String::new()
}

async fn pages(processes: &Processes, span: Duration) -> Result<Rate> {
    let entrance = entrance(processes)?;
    let mut callers = Vec::new();
    for _ in 0..4 {
        callers.push(Pages { connection: entrance.connect().await?, next: String::new() });
    }
    drive(callers, span, &Arc::default()).await
}

pub async fn watchers(table: &mut Table) {
    let measured = told(fan_out().await);
    let mut row = Row::new("1,000 watchers of one object", "ms", Budget::AtMost(50.0), measured);
    row.note = "write sent to last delivery, median of 7, gRPC".into();
    table.add(row);
}

async fn fan_out() -> Result<f64> {
    let processes = one_server().await?;
    let client = processes.client(&[0], DEADLINE)?;
    let target = Target::kind::<ConfigMap>().within(NAMESPACE);
    let created: ConfigMap =
        kontiki_proto::api::decode(&client.create(&target, object(1), &WriteOptions::default()).await?)?;
    let revision = created.metadata.resource_version.clone().unwrap_or_default();
    let (delivered, mut deliveries) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        // HTTP/2 allows a limited number of streams on one connection.
        let client = processes.client(&[0], DEADLINE)?;
        for _ in 0..WATCHERS / 20 {
            let options = WatchOptions {
                field_selector: "metadata.name=object-1".into(),
                resource_version: revision.clone(),
                ..WatchOptions::default()
            };
            let mut stream = client.watch(&target, &options).await?;
            let delivered = delivered.clone();
            tasks.spawn(async move {
                while let Some(Ok(_)) = stream.next().await {
                    if delivered.send(Instant::now()).is_err() {
                        return;
                    }
                }
            });
        }
    }
    let mut times = Vec::new();
    for round in 0..7 {
        let mut changed = created.clone();
        changed.metadata.resource_version = None;
        changed.data.get_or_insert_default().insert("round".into(), round.to_string());
        let begun = Instant::now();
        client.update_as(&changed).await?;
        let mut last = begun;
        for _ in 0..WATCHERS {
            let at = tokio::time::timeout(Duration::from_secs(10), deliveries.recv()).await;
            last = last.max(at.context("an event is missing after 10 s")?.context("all watchers ended")?);
        }
        times.push((last - begun).as_secs_f64() * 1000.0);
    }
    Ok(median(&times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_continue_token_is_found_at_either_end() {
        let head = format!(r#"{{"metadata":{{"continue":"abc"}},"items":["{}"]}}"#, "x".repeat(2000));
        let tail = format!(
            r#"{{"items":["{}"],"metadata":{{"resourceVersion":"1","continue":"def"}}}}"#,
            "x".repeat(2000)
        );
        assert_eq!(continuation(head.as_bytes()), "abc");
        assert_eq!(continuation(tail.as_bytes()), "def");
        assert_eq!(continuation(b"{}"), "");
    }
}
