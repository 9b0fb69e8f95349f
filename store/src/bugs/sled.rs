//! sled's own promises, which it does not keep by itself, and what becomes of a server whose power goes at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::os::raw::c_int;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::alone::{Alone, put, write};
use crate::disk::memory::MemoryDisk;
use crate::disk::real::RealStorage;
use crate::disk::testing::{chance, in_virtual_time};
use crate::environment::{Changes, Storage};

/// Files and directories that were truly synced, in order.
static SYNCED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Shadows libc's function for this test program.
#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    if let Ok(path) = std::fs::read_link(format!("/proc/self/fd/{fd}")) {
        SYNCED.lock().push(path);
    }
    // SAFETY: the call itself, which checks its descriptor.
    unsafe { libc::syscall(libc::SYS_fsync, fd) as c_int }
}

fn synced(path: &std::path::Path) -> usize {
    SYNCED.lock().iter().filter(|synced| *synced == path).count()
}

/// sled #1351: what sled calls flushed has gone through a true `fsync` of its file, not through a call that leaves it to the
/// disk's cache.
#[test]
fn sled_1351_a_flush_is_a_true_sync() {
    let dir = tempfile::tempdir().unwrap();
    let database = RealStorage::new(dir.path()).database().unwrap();
    let file = dir.path().canonicalize().unwrap().join("checkpoint/db");
    for n in 0..10u8 {
        let before = synced(&file);
        let mut changes = Changes::default();
        changes.put([n], [n; 100]);
        database.apply(changes).unwrap();
        database.sync().unwrap();
        assert!(synced(&file) > before, "write {n} was called durable without a sync");
    }
}

/// sled #1452: a young database opens again after a power cut, since its configuration, its file, and the names that lead to
/// both are synced when it is opened, which sled itself does not do.
#[test]
fn sled_1452_a_young_database_is_durable_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    drop(RealStorage::new(&root).database().unwrap());
    let mut expected = BTreeSet::from([root.clone(), root.join("checkpoint")]);
    for entry in root.join("checkpoint").read_dir().unwrap().map(Result::unwrap) {
        expected.insert(entry.path());
    }
    assert!(expected.contains(&root.join("checkpoint/conf")));
    for path in expected {
        assert!(synced(&path) > 0, "{} was never synced", path.display());
    }
}

/// sled #1533: the power may go at any write: every acknowledged transaction is there, the database opens, and nothing is
/// there that nobody wrote.
#[test]
fn sled_1533_the_power_goes_at_any_write() {
    for seed in 0..15 {
        in_virtual_time(async {
            let mut random = chance(seed);
            let mut disk = MemoryDisk::new();
            let mut held: BTreeMap<String, u64> = BTreeMap::new();
            let mut count = 0;
            for life in 0..4 {
                let server = Alone::open(&disk).await;
                // What the last life wrote at its end may be there or not.
                for (key, at_least) in &mut held {
                    let found = server.store.get(key.as_bytes());
                    let found =
                        found.map_or(0, |entry| u64::from_be_bytes(entry.value[..8].try_into().unwrap()));
                    assert!(found >= *at_least, "seed {seed}, life {life}: {key} was {at_least}, is {found}");
                    assert!(found <= count, "seed {seed}, life {life}: nobody wrote {found}");
                    *at_least = found;
                }
                let acknowledged = Arc::new(Mutex::new(BTreeMap::new()));
                let mut clients = Vec::new();
                for client in 0..4 {
                    let (store, acknowledged) = (server.store.clone(), acknowledged.clone());
                    let key = format!("/{client}");
                    held.entry(key.clone()).or_default();
                    let first = count + 1;
                    count += 30;
                    let size = random(6000) as usize;
                    clients.push(tokio::spawn(async move {
                        for number in first..first + 30 {
                            let mut value = number.to_be_bytes().to_vec();
                            value.resize(8 + size, 1);
                            if write(&store, vec![put(&key, value)]).await.is_err() {
                                return;
                            }
                            acknowledged.lock().insert(key.clone(), number);
                        }
                    }));
                }
                let store = server.store.clone();
                let from = random(20);
                clients.push(tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(from)).await;
                    let _ = store.checkpoint().await;
                }));
                tokio::time::sleep(Duration::from_millis(random(60) + 1)).await;
                clients.iter().for_each(tokio::task::JoinHandle::abort);
                held.extend(acknowledged.lock().clone());
                disk = server.power_cut(random(1 << 40));
            }
        });
    }
}
