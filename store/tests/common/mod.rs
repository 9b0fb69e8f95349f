//! Real stores in one process, over loopback TLS, with certificates made for the test.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kontiki_store::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "kontiki-test-ca");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { issuer }
    }

    /// A certificate of this authority for a peer, or for whatever the organisation says.
    pub fn issue(&self, organisation: &str) -> PeerTls {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_string()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "a-server");
        params.distinguished_name.push(DnType::OrganizationName, organisation);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        PeerTls { ca_pem: self.issuer.pem(), cert_pem: cert.pem(), key_pem: key.serialize_pem() }
    }

    pub fn peer(&self) -> PeerTls {
        self.issue("kontiki:peers")
    }
}

/// An address on loopback that nobody listens on now.
pub fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

pub fn config(dir: &Path, peer: &str, start: Start, tls: PeerTls) -> Config {
    Config {
        data_dir: dir.to_path_buf(),
        start,
        peer_listen: peer.to_string(),
        peer_advertise: peer.to_string(),
        client_advertise: format!("api-of-{peer}"),
        tls,
        timings: Timings { request: Duration::from_secs(20), ..Timings::default() },
        max_txn_bytes: 2 << 20,
        history: Duration::from_secs(300),
        history_bytes: 64 << 20,
    }
}

/// Servers that can be stopped and started again on their directories.
pub struct Cluster {
    pub authority: Authority,
    pub servers: Vec<Server>,
    pub request: Duration,
}

pub struct Server {
    pub dir: tempfile::TempDir,
    pub address: String,
    pub store: Option<Store>,
}

impl Cluster {
    pub async fn start(count: usize) -> Cluster {
        Cluster::with_patience(count, Duration::from_secs(20)).await
    }

    /// With requests that wait no longer than this.
    pub async fn with_patience(count: usize, request: Duration) -> Cluster {
        let mut cluster = Cluster { authority: Authority::new(), servers: Vec::new(), request };
        for _ in 0..count {
            cluster.add().await;
        }
        cluster
    }

    /// Adds a server, the first by bootstrap, and waits until it votes.
    pub async fn add(&mut self) -> Store {
        let dir = tempfile::tempdir().unwrap();
        let address = free_address();
        let start = match self.servers.first() {
            None => Start::Bootstrap,
            Some(_) => Start::Join(self.servers.iter().map(|server| server.address.clone()).collect()),
        };
        let mut config = config(dir.path(), &address, start, self.authority.peer());
        config.timings.request = self.request;
        let store = Store::open(config).await.unwrap();
        if !self.servers.is_empty() {
            assert_eq!(store.join(&address, "").await.unwrap(), store.member_id());
        }
        self.servers.push(Server { dir, address, store: Some(store.clone()) });
        store
    }

    pub fn store(&self, number: usize) -> &Store {
        self.servers[number].store.as_ref().unwrap()
    }

    pub fn running(&self) -> Vec<Store> {
        self.servers.iter().filter_map(|server| server.store.clone()).collect()
    }

    pub async fn stop(&mut self, number: usize) {
        if let Some(store) = self.servers[number].store.take() {
            store.shutdown().await;
        }
    }

    pub async fn start_again(&mut self, number: usize) -> Store {
        let server = &self.servers[number];
        let config = config(server.dir.path(), &server.address, Start::Bootstrap, self.authority.peer());
        // The old server's thread may hold its directory for a moment.
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let store = loop {
            match Store::open(config.clone()).await {
                Ok(store) => break store,
                Err(OpenError::InUse { .. } | OpenError::Listen { .. })
                    if std::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("{error}"),
            }
        };
        self.servers[number].store = Some(store.clone());
        store
    }

    /// The number of the server that leads, once one does.
    pub async fn leader(&self) -> usize {
        for _ in 0..600 {
            for (number, server) in self.servers.iter().enumerate() {
                if server.store.as_ref().is_some_and(Store::is_leader) {
                    return number;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no server leads");
    }

    /// All running servers come to the same revision and hash.
    pub async fn converge(&self) {
        let stores = self.running();
        for store in &stores {
            store.barrier().await.unwrap();
        }
        let newest = stores.iter().map(Store::revision).max().unwrap();
        for store in &stores {
            store.wait_for(newest, Duration::from_secs(20)).await.unwrap();
        }
        let status = stores[0].status().await;
        let hashes: Vec<(u64, u64)> = status
            .members
            .iter()
            .filter(|member| member.reachable)
            .map(|member| (member.revision, member.state_hash))
            .collect();
        assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "servers differ: {hashes:?}");
    }
}

pub fn put(key: &str, value: impl Into<bytes::Bytes>) -> Op {
    Op::Put { key: key.to_string().into(), value: value.into(), attributes: Arc::from([]), lease: None }
}

pub async fn write(store: &Store, key: &str, value: &str) -> Revision {
    let ops = vec![put(key, value.to_string())];
    match store.propose(Txn { guards: vec![], ops }).await {
        Ok(Outcome::Committed { revision }) => revision,
        other => panic!("writing {key}: {other:?}"),
    }
}

pub fn value(store: &Store, key: &str) -> Option<String> {
    store.get(key.as_bytes()).map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
}
