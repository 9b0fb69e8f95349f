//! What the store needs: memory for many keys, disk for large values, and both over a million writes to few keys.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;

use super::load::{Caller, drive_while};
use super::server_rows::told;
use super::stores::{Client, Creates, Kind, Stores};
use super::table::{Budget, Row, Table};

const CLIENTS: usize = 64;
const KB: usize = 1024;
const MB: f64 = 1_048_576.0;
/// Keys that a million writes go to.
const FEW: u64 = 16;

/// Resident memory beside the data it holds; the server has had time to put things in order.
pub async fn memory(table: &mut Table, keys: u64, with_etcd: bool) {
    let measured = told(filled(Kind::Kontiki, keys).await);
    #[allow(clippy::cast_precision_loss)]
    let data = keys as f64 * KB as f64 / MB;
    let what = format!("resident memory, {keys} keys of 1 KB, of the data");
    let mut row = Row::new(what, "times", Budget::AtMost(1.3), measured.clone().map(|mb| mb / data));
    row.note = measured.map(|mb| format!("{mb:.0} MB for {data:.0} MB")).unwrap_or_default();
    if with_etcd {
        match told(filled(Kind::Etcd, keys).await) {
            Ok(mb) => row.etcd = Some(mb / data),
            Err(problem) => row.note = format!("{}; etcd: {problem}", row.note),
        }
    }
    table.add(row);
}

async fn filled(kind: Kind, keys: u64) -> Result<f64> {
    let stores = Stores::start(kind, 1, false).await?;
    let value = Bytes::from(vec![b'v'; KB]);
    let callers = stores.clients(CLIENTS).await?.into_iter();
    let callers = callers.map(|client| Creates { client, value: value.clone() }).collect();
    drive_while(callers, &Arc::new(AtomicU64::new(0)), move |number| number < keys).await?;
    let at_once = stores.resident(0)?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let resident = stores.resident(0)?;
    eprintln!("  {kind:?}: {at_once:.0} MB after the last write, {resident:.0} MB 5 s later");
    stores.stop().await;
    Ok(resident)
}

/// Writes large values again and again, kills the server, and reads back what was acknowledged last.
pub async fn values(table: &mut Table, short: bool) {
    for (size, name, writes) in [(300 * KB, "300 KB", 1000), (1200 * KB, "1.2 MB", 400)] {
        let writes = if short { writes / 20 } else { writes };
        let measured = told(large(size, writes).await);
        let (rate, disk) = (measured.clone().map(|m| m.rate), measured.clone().map(|m| m.disk));
        let mut row = Row::new(format!("values of {name}, 8 clients, durable"), "/s", Budget::None, rate);
        row.note = "read back after kill -9".into();
        table.add(row);
        let mut row = Row::new(format!("disk, values of {name}, largest"), "MB", Budget::AtMost(500.0), disk);
        row.note = measured.map(|m| format!("{:.0} MB written", m.written)).unwrap_or_default();
        table.add(row);
    }
}

#[derive(Clone)]
struct Large {
    rate: f64,
    disk: f64,
    written: f64,
}

/// One client, which alone writes its key.
struct Rewrites {
    client: Client,
    key: String,
    size: usize,
    last: Option<Bytes>,
}

impl Rewrites {
    async fn write(&mut self, number: u64) -> Result<()> {
        let value = Bytes::from(format!("{number:020}").repeat(self.size / 20 + 1)).slice(..self.size);
        self.client.put(&self.key, &value).await?;
        self.last = Some(value);
        Ok(())
    }
}

async fn large(size: usize, writes: u64) -> Result<Large> {
    let mut stores = Stores::start(Kind::Kontiki, 1, false).await?;
    let mut writers = Vec::new();
    for (number, client) in stores.clients(8).await?.into_iter().enumerate() {
        writers.push(Rewrites { client, key: format!("/large/{number}"), size, last: None });
    }
    let begun = std::time::Instant::now();
    let (mut written, mut disk) = (0, 0f64);
    while written < writes {
        let round = writers.iter_mut().enumerate();
        let round = round.map(|(place, writer)| writer.write(written + place as u64));
        futures::future::try_join_all(round).await?;
        written += writers.len() as u64;
        disk = disk.max(stores.on_disk(0));
    }
    #[allow(clippy::cast_precision_loss)]
    let (rate, megabytes) =
        (written as f64 / begun.elapsed().as_secs_f64(), written as f64 * size as f64 / MB);
    stores.kill(0).await?;
    stores.start_member(0)?;
    stores.await_write(0, "again").await?;
    let mut reader = stores.client(0).await?;
    for writer in &writers {
        let found = reader.get(&writer.key).await?;
        ensure!(found == writer.last, "{} does not hold what was acknowledged last", writer.key);
    }
    stores.stop().await;
    Ok(Large { rate, disk, written: megabytes })
}

struct FewKeys {
    client: Client,
    value: Bytes,
}

#[async_trait]
impl Caller for FewKeys {
    async fn call(&mut self, number: u64) -> Result<()> {
        self.client.put(&format!("/few/{}", number % FEW), &self.value).await
    }
}

/// Memory and disk while few keys are written over and over; both are largest at some time and must not grow from there.
pub async fn rewrites(table: &mut Table, writes: u64) {
    let measured = told(rewritten(writes).await);
    let memory = measured.clone().map(|samples| largest(&samples, |sample| sample.0));
    let disk = measured.clone().map(|samples| largest(&samples, |sample| sample.1));
    let series = measured
        .map(|samples| {
            let parts = samples.iter().map(|(memory, disk)| format!("{memory:.0}/{disk:.0}"));
            format!("MB in memory/on disk at each tenth: {}", parts.collect::<Vec<_>>().join(" "))
        })
        .unwrap_or_default();
    let what = format!("{writes} writes to {FEW} keys");
    let mut row = Row::new(format!("resident memory, {what}, largest"), "MB", Budget::AtMost(300.0), memory);
    row.note = series;
    table.add(row);
    table.add(Row::new(format!("disk, {what}, largest"), "MB", Budget::AtMost(500.0), disk));
}

fn largest(samples: &[(f64, f64)], of: fn(&(f64, f64)) -> f64) -> f64 {
    samples.iter().map(of).fold(0.0, f64::max)
}

async fn rewritten(writes: u64) -> Result<Vec<(f64, f64)>> {
    let stores = Stores::start(Kind::Kontiki, 1, false).await?;
    let (value, numbers) = (Bytes::from(vec![b'v'; KB]), Arc::new(AtomicU64::new(0)));
    let mut samples = Vec::new();
    for tenth in 1..=10 {
        let upto = writes / 10 * tenth;
        let callers = stores.clients(CLIENTS).await?.into_iter();
        let callers = callers.map(|client| FewKeys { client, value: value.clone() }).collect();
        drive_while(callers, &numbers, move |number| number < upto).await?;
        samples.push((stores.resident(0)?, stores.on_disk(0)));
    }
    stores.stop().await;
    Ok(samples)
}
