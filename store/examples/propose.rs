//! How many transactions of 1 KB a cluster in one process takes: `propose [SERVERS] [CLIENTS] [SECONDS]`.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{Cluster, put};
use kontiki_store::{Store, Txn};

fn argument(place: usize, default: usize) -> usize {
    std::env::args().nth(place).and_then(|word| word.parse().ok()).unwrap_or(default)
}

async fn client(store: Store, number: usize, until: Instant) -> Vec<Duration> {
    let mut took = Vec::new();
    while Instant::now() < until {
        let op = put(&format!("/{number}/{}", took.len() % 1000), vec![7u8; 1024]);
        let begun = Instant::now();
        if store.propose(Txn { guards: vec![], ops: vec![op] }).await.is_ok() {
            took.push(begun.elapsed());
        }
    }
    took
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (servers, clients, seconds) = (argument(1, 1), argument(2, 64), argument(3, 5));
    let cluster = Cluster::start(servers).await;
    let store = cluster.store(cluster.leader().await).clone();
    let until = Instant::now() + Duration::from_secs(seconds as u64);
    let clients = (0..clients).map(|number| tokio::spawn(client(store.clone(), number, until)));
    let mut took: Vec<Duration> = Vec::new();
    for one in futures::future::join_all(clients).await {
        took.extend(one.unwrap_or_default());
    }
    took.sort();
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!(
        "{servers} servers, {} clients: {} per s, p50 {:?}, p99 {:?}, term {}",
        argument(2, 64),
        took.len() / seconds,
        at(0.5),
        at(0.99),
        store.status().await.members.iter().map(|member| member.term).max().unwrap_or_default()
    );
}
