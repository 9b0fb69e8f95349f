//! A cluster on one thread, in virtual time, over disks in memory and a network that can be cut.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::net::Net;
use crate::config::{Config, PeerTls, Start, Timings};
use crate::disk::memory::MemoryDisk;
use crate::environment::{Environment, Labour, Pace};
use crate::life::Life;
use crate::store::Store;
use crate::types::{Op, Outcome, RangeRequest, Revision, StoreError, Txn};

/// Virtual time, so that it costs nothing to be generous.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) struct Cluster {
    pub net: Net,
    pub servers: Vec<Server>,
}

pub(super) struct Server {
    pub address: String,
    pub disk: MemoryDisk,
    /// Microseconds a sync takes.
    pub pace: Arc<AtomicU64>,
    life: Life,
    store: Option<Store>,
}

struct Steady(Arc<AtomicU64>);

impl Pace for Steady {
    fn sync(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

impl Cluster {
    pub async fn start(count: usize) -> Cluster {
        let mut cluster = Cluster { net: Net::default(), servers: Vec::new() };
        for number in 0..count {
            cluster.servers.push(Server {
                address: format!("server-{number}:2380"),
                disk: MemoryDisk::new(),
                pace: Arc::new(AtomicU64::new(300)),
                life: Life::new(),
                store: None,
            });
            cluster.open(number).await;
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while cluster.store(0).status().await.members.iter().filter(|member| member.voter).count() < count {
            assert!(tokio::time::Instant::now() < deadline, "not all servers vote");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        cluster
    }

    /// Starts a server: the first by bootstrap, the others by joining, and any of them on what its disk holds.
    pub async fn open(&mut self, number: usize) {
        let others = self.servers.iter().filter(|server| server.store.is_some());
        let others: Vec<String> = others.map(|server| server.address.clone()).collect();
        let server = &mut self.servers[number];
        let start = if number == 0 { Start::Bootstrap } else { Start::Join(others) };
        let none = String::new;
        let config = Config {
            data_dir: PathBuf::from(format!("/nowhere/{number}")),
            start,
            peer_listen: server.address.clone(),
            peer_advertise: server.address.clone(),
            client_advertise: format!("api-{number}:6443"),
            tls: PeerTls { ca_pem: none(), cert_pem: none(), key_pem: none() },
            timings: Timings::default(),
            max_txn_bytes: 2 << 20,
            history: Duration::from_secs(3600),
            history_bytes: 64 << 20,
        };
        server.life = Life::new();
        let environment = Environment {
            storage: server.disk.mount(),
            transport: self.net.transport(&server.address),
            labour: Labour::Inline(Arc::new(Steady(server.pace.clone()))),
        };
        let opened = server.life.spawn(Store::open_in(config, environment));
        let opened = tokio::time::timeout(PATIENCE, opened).await.expect("it opens").expect("it lives");
        server.store = Some(opened.unwrap());
    }

    pub fn store(&self, number: usize) -> &Store {
        self.servers[number].store.as_ref().unwrap()
    }

    pub fn count(&self) -> usize {
        self.servers.len()
    }

    /// As `kill -9`.
    pub fn kill(&mut self, number: usize) {
        let server = &mut self.servers[number];
        server.life.end();
        server.disk.kill();
        self.net.dead(&server.address);
        server.store = None;
    }

    /// As an operator does it.
    pub async fn stop(&mut self, number: usize) {
        if let Some(store) = self.servers[number].store.take() {
            store.shutdown().await;
            self.servers[number].life.end();
            self.net.dead(&self.servers[number].address);
        }
    }

    pub fn cut(&self, one: usize, other: usize) {
        let (one, other) = (&self.servers[one].address, &self.servers[other].address);
        self.net.cut(one, other);
        self.net.cut(other, one);
    }

    /// Leaves the server without any other.
    pub fn isolate(&self, number: usize) {
        (0..self.count()).filter(|other| *other != number).for_each(|other| self.cut(number, other));
    }

    /// The number of the server that leads, as it says itself.
    pub async fn leader(&self) -> usize {
        self.leader_among(&(0..self.count()).collect::<Vec<_>>()).await
    }

    pub async fn leader_among(&self, numbers: &[usize]) -> usize {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let leads = |number: &&usize| self.servers[**number].store.as_ref().is_some_and(Store::is_leader);
            if let Some(leader) = numbers.iter().find(leads) {
                return *leader;
            }
            assert!(tokio::time::Instant::now() < deadline, "none of {numbers:?} leads");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// All running servers come to the same state, and serve.
    pub async fn converge(&self) {
        let stores: Vec<&Store> = self.servers.iter().filter_map(|server| server.store.as_ref()).collect();
        let mut newest = 0;
        for store in &stores {
            newest = newest.max(insist(store, vec![put("/converge", "x")]).await);
        }
        for store in &stores {
            store.wait_for(newest, PATIENCE).await.expect("it catches up");
        }
        let status = stores[0].status().await;
        let here = status.members.iter().filter(|member| member.reachable);
        let states: Vec<_> = here.map(|member| (member.revision, member.state_hash)).collect();
        assert_eq!(states.len(), stores.len());
        assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "servers differ: {states:?}");
    }
}

pub(super) fn put(key: &str, value: impl Into<bytes::Bytes>) -> Op {
    Op::Put { key: key.to_string().into(), value: value.into(), attributes: Arc::from([]), lease: None }
}

pub(super) async fn write(store: &Store, ops: Vec<Op>) -> Result<Revision, StoreError> {
    match store.propose(Txn { guards: Vec::new(), ops }).await? {
        Outcome::Committed { revision } => Ok(revision),
        conflict => panic!("{conflict:?}"),
    }
}

/// Writes again and again until it is acknowledged.
pub(super) async fn insist(store: &Store, ops: Vec<Op>) -> Revision {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match write(store, ops.clone()).await {
            Ok(revision) => return revision,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(super) fn keys(store: &Store, prefix: &str) -> Vec<String> {
    let request = RangeRequest { prefix: prefix.to_string().into(), ..RangeRequest::default() };
    let entries = store.range(&request).unwrap().entries;
    entries.iter().map(|entry| String::from_utf8(entry.key.to_vec()).unwrap()).collect()
}
