//! A leader whose disk stalls gives way, and takes nothing back before the disk has answered. Three real servers, whose
//! disks stall at a word.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use common::{Authority, config, free_address, write};
use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use crate::config::Start;
use crate::disk::DiskError;
use crate::disk::real::RealStorage;
use crate::environment::{Database, Environment, File, Labour, Storage};
use crate::raft::grpc::Grpc;
use crate::store::Store;

/// Syncs wait before it while it is shut.
#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut shut = self.shut.lock();
        while *shut {
            self.opened.wait(&mut shut);
        }
    }

    fn set(&self, shut: bool) {
        *self.shut.lock() = shut;
        self.opened.notify_all();
    }
}

struct Stalling {
    inner: RealStorage,
    gate: Arc<Gate>,
}

struct StallingFile {
    inner: Box<dyn File>,
    gate: Arc<Gate>,
}

impl Stalling {
    fn file(&self, inner: Box<dyn File>) -> Box<dyn File> {
        Box::new(StallingFile { inner, gate: self.gate.clone() })
    }
}

impl Storage for Stalling {
    fn lock(&self) -> Result<(), DiskError> {
        self.inner.lock()
    }
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.inner.list(folder)
    }
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn File>> {
        self.inner.create(name, bytes).map(|file| self.file(file))
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        self.inner.open(name).map(|file| self.file(file))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn sync_names(&self, folder: &str) -> io::Result<()> {
        self.inner.sync_names(folder)
    }
    fn database(&self) -> Result<Box<dyn Database>, DiskError> {
        self.inner.database()
    }
    fn free_bytes(&self) -> Option<u64> {
        self.inner.free_bytes()
    }
    fn used_bytes(&self) -> u64 {
        self.inner.used_bytes()
    }
    fn die(&self, what: &str, error: &dyn Display) {
        self.inner.die(what, error);
    }
}

impl File for StallingFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_at(offset, bytes)
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buffer)
    }
    fn sync(&self) -> io::Result<()> {
        self.gate.pass();
        self.inner.sync()
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
}

struct Server {
    store: Store,
    gate: Arc<Gate>,
    _dir: tempfile::TempDir,
}

async fn server(authority: &Authority, others: &[String]) -> (Server, String) {
    let (dir, address, gate) = (tempfile::tempdir().unwrap(), free_address(), Arc::<Gate>::default());
    let start = if others.is_empty() { Start::Bootstrap } else { Start::Join(others.to_vec()) };
    let config = config(dir.path(), &address, start, authority.peer());
    let environment = Environment {
        storage: Arc::new(Stalling { inner: RealStorage::new(dir.path()), gate: gate.clone() }),
        transport: Arc::new(Grpc::new(&config.tls).unwrap()),
        labour: Labour::Threads,
    };
    let store = Store::open_in(config, environment).await.unwrap();
    if !others.is_empty() {
        store.join(&address, "").await.unwrap();
    }
    (Server { store, gate, _dir: dir }, address)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "not in a minute: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn leader(servers: &[Server]) -> Option<usize> {
    servers.iter().position(|server| server.store.is_leader())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_stalls_gives_way() {
    let authority = Authority::new();
    let (mut servers, mut addresses) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (server, address) = server(&authority, &addresses).await;
        servers.push(server);
        addresses.push(address);
    }
    until("a leader", || leader(&servers).is_some()).await;
    let stalled = leader(&servers).unwrap();
    let others = [(stalled + 1) % 3, (stalled + 2) % 3];
    servers[stalled].gate.set(true);
    // Something for the disk to sync. The others are quorum enough for it.
    write(&servers[others[0]].store, "/a", "x").await;
    until("another leads", || others.iter().any(|number| servers[*number].store.is_leader())).await;
    write(&servers[others[0]].store, "/b", "x").await;
    // Its consensus waits for the disk too; that it leads no more it knows when it has heard nothing for long enough.
    until("it knows", || !servers[stalled].store.is_leader()).await;
    let calm = Instant::now() + Duration::from_secs(3);
    while Instant::now() < calm {
        assert!(!servers[stalled].store.is_leader(), "it took the leadership back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let revision = write(&servers[others[1]].store, "/c", "x").await;

    servers[stalled].gate.set(false);
    servers[stalled].store.wait_for(revision, Duration::from_secs(60)).await.unwrap();
    let id = servers[stalled].store.member_id();
    assert_eq!(servers[others[0]].store.transfer(Some(id)).await.unwrap(), id, "it may lead again");
    write(&servers[stalled].store, "/d", "x").await;
}
