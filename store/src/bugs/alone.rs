//! A cluster of one over a disk in memory, in virtual time: what a server has to get right without any other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, PeerTls, Start, Timings};
use crate::disk::memory::MemoryDisk;
use crate::disk::testing::chance;
use crate::environment::{Environment, Labour, Pace};
use crate::life::Life;
use crate::raft::transport::{Answer, Conduit, Listener, PeerError, PeerService, Probe, Transport};
use crate::store::Store;
use crate::types::{Op, Outcome, Revision, StoreError, Txn};

/// A network without anybody in it.
struct Nobody;

impl Transport for Nobody {
    fn authority(&self) -> Vec<u8> {
        vec![1]
    }

    fn listen(&self, _: &str) -> BoxFuture<'static, Result<Box<dyn Listener>, String>> {
        Box::pin(async { Ok(Box::new(Nobody) as Box<dyn Listener>) })
    }

    fn connect(&self, address: &str) -> Answer<Arc<dyn Conduit>> {
        let problem = format!("nobody is at {address}");
        Box::pin(async { Err(PeerError::Unreachable(problem)) })
    }

    fn probe(&self, _: &str) -> BoxFuture<'static, Probe> {
        Box::pin(async { Probe::Refused })
    }
}

impl Listener for Nobody {
    fn serve(self: Box<Self>, _: Arc<dyn PeerService>, _: CancellationToken) {}
}

/// Milliseconds a sync takes.
pub(crate) struct Syncs(pub AtomicU64);

impl Pace for Syncs {
    fn sync(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

pub(crate) struct Alone {
    pub disk: MemoryDisk,
    pub store: Store,
    pub syncs: Arc<Syncs>,
    life: Life,
}

impl Alone {
    pub async fn open(disk: &MemoryDisk) -> Alone {
        let syncs = Arc::new(Syncs(AtomicU64::new(1)));
        let config = Config {
            data_dir: "disk".into(),
            start: Start::Bootstrap,
            peer_listen: "alone:1".to_string(),
            peer_advertise: "alone:1".to_string(),
            client_advertise: "alone:2".to_string(),
            tls: PeerTls { ca_pem: String::new(), cert_pem: String::new(), key_pem: String::new() },
            timings: Timings::default(),
            max_txn_bytes: 2 << 20,
            history: Duration::from_secs(300),
            history_bytes: 64 << 20,
        };
        let environment = Environment {
            storage: disk.mount(),
            transport: Arc::new(Nobody),
            labour: Labour::Inline(syncs.clone()),
        };
        let life = Life::new();
        let store = life.spawn(Store::open_in(config, environment)).await.unwrap().unwrap();
        Alone { disk: disk.clone(), store, syncs, life }
    }

    /// The power goes, and the server with it.
    pub fn power_cut(self, seed: u64) -> MemoryDisk {
        self.disk.crash(&mut chance(seed));
        self.life.end();
        self.disk
    }
}

pub(crate) fn put(key: &str, value: impl Into<Bytes>) -> Op {
    Op::Put { key: key.to_string().into(), value: value.into(), attributes: Arc::from([]), lease: None }
}

pub(crate) fn delete(key: &str) -> Op {
    Op::Delete { key: key.to_string().into() }
}

pub(crate) async fn write(store: &Store, ops: Vec<Op>) -> Result<Revision, StoreError> {
    match store.propose(Txn { guards: vec![], ops }).await? {
        Outcome::Committed { revision } => Ok(revision),
        Outcome::Conflict { .. } => panic!("there was no guard"),
    }
}
