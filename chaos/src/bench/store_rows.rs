//! Transactions per second of the store alone, round about with etcd.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;

use super::load::{Rate, drive};
use super::server_rows::told;
use super::stores::{Creates, Kind, Stores};
use super::table::{Budget, Row, Table};

const CLIENTS: [usize; 4] = [1, 16, 64, 256];
const VALUE: usize = 1024;

/// What is asked of Kontiki, as a multiple of etcd's rate.
fn budget(servers: usize, clients: usize) -> Budget {
    match (servers, clients) {
        (3, 16 | 64) => Budget::AtLeastTimes(2.0),
        (3, 1) | (1, 64) => Budget::AtLeastTimes(1.3),
        _ => Budget::None,
    }
}

type Rounds = BTreeMap<(usize, usize), Vec<Rate>>;

/// Each round measures both, on clusters of their own, one directly after the other; who is first takes turns.
pub async fn rates(table: &mut Table, span: Duration, rounds: usize, with_etcd: bool) {
    let (mut own, mut etcd) = (Rounds::new(), Rounds::new());
    let mut failed: BTreeMap<usize, String> = BTreeMap::new();
    for round in 0..rounds {
        for servers in [3, 1] {
            let mut order = [Kind::Kontiki, Kind::Etcd];
            order.rotate_left(round % 2);
            for kind in order {
                if kind == Kind::Etcd && !with_etcd {
                    continue;
                }
                let rates = if kind == Kind::Etcd { &mut etcd } else { &mut own };
                if let Err(problem) = told(one_round(kind, servers, span, rates).await) {
                    eprintln!("{kind:?}, {servers} servers: {problem}");
                    if kind == Kind::Kontiki {
                        failed.insert(servers, problem);
                    }
                }
            }
        }
    }
    for servers in [3, 1] {
        for clients in CLIENTS {
            let place = (servers, clients);
            let middle = |rounds: &Rounds| rounds.get(&place).and_then(|rates| Rate::median_of(rates));
            add(table, servers, clients, middle(&own), middle(&etcd), failed.get(&servers));
        }
    }
}

fn add(
    table: &mut Table,
    servers: usize,
    clients: usize,
    own: Option<Rate>,
    etcd: Option<Rate>,
    failed: Option<&String>,
) {
    let missing = || failed.cloned().unwrap_or_else(|| "no round".to_owned());
    let of = |figure: fn(Rate) -> f64| own.map(figure).ok_or_else(missing);
    let what = format!("{servers} server{}, {clients} clients", if servers == 1 { "" } else { "s" });
    let throughput = of(|rate| rate.per_second);
    let mut row = Row::new(format!("transactions, {what}"), "/s", budget(servers, clients), throughput);
    row.etcd = etcd.map(|rate| rate.per_second);
    row.note = own.map(|rate| rate.note()).unwrap_or_default();
    if let Some(etcd) = etcd {
        row.note = format!("{}; etcd {}", row.note, etcd.note());
    }
    table.add(row);
    if servers == 3 && (clients == 16 || clients == 64) {
        let slowest = of(|rate| rate.p99);
        let mut row = Row::new(format!("p99, {what}"), "ms", Budget::AtMostTimes(0.5), slowest);
        row.etcd = etcd.map(|rate| rate.p99);
        table.add(row);
    }
}

async fn one_round(kind: Kind, servers: usize, span: Duration, rounds: &mut Rounds) -> Result<()> {
    let stores = Stores::start(kind, servers, false).await?;
    let (value, numbers) = (Bytes::from(vec![b'v'; VALUE]), Arc::new(AtomicU64::new(0)));
    for clients in CLIENTS {
        let callers = stores.clients(clients).await?.into_iter();
        let callers = callers.map(|client| Creates { client, value: value.clone() }).collect();
        let rate = drive(callers, span, &numbers).await?;
        eprintln!(
            "  {kind:?}, {servers} servers, {clients} clients: {:.0} /s, {}",
            rate.per_second,
            rate.note()
        );
        rounds.entry((servers, clients)).or_default().push(rate);
    }
    stores.stop().await;
    Ok(())
}
