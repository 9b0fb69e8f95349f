//! What was acknowledged is there, and nothing is there twice.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::alone::{Alone, delete, put, write};
use crate::disk::memory::MemoryDisk;
use crate::disk::testing::{chance, in_virtual_time};

/// etcd #14370: a single server acknowledges nothing before its own sync, and shows nothing either.
#[test]
fn etcd_14370_a_single_server_acknowledges_nothing_before_its_own_sync() {
    in_virtual_time(async {
        let server = Alone::open(&MemoryDisk::new()).await;
        server.syncs.0.store(2000, Ordering::SeqCst);
        let writing = write(&server.store, vec![put("/a", "x")]);
        assert!(tokio::time::timeout(Duration::from_millis(1900), writing).await.is_err());
        assert!(server.store.get(b"/a").is_none(), "it can be read and may yet be lost");
    });
    for seed in 0..15 {
        in_virtual_time(async {
            let server = Alone::open(&MemoryDisk::new()).await;
            let revision = write(&server.store, vec![put("/a", "x")]).await.unwrap();
            let again = Alone::open(&server.power_cut(seed)).await;
            assert_eq!(again.store.revision(), revision, "seed {seed}");
            assert_eq!(again.store.get(b"/a").unwrap().value, "x", "seed {seed}");
        });
    }
}

/// etcd #13766: the applied index and the data it covers become durable in one step, so that no entry is applied twice and
/// none is left out, wherever in a checkpoint the power goes. A key's version counts its writes, and its value says
/// which write it was.
#[test]
fn etcd_13766_no_entry_is_applied_twice_or_left_out_after_a_crash_in_a_checkpoint() {
    for seed in 0..20 {
        in_virtual_time(async {
            let mut random = chance(seed);
            let mut disk = MemoryDisk::new();
            let mut written: BTreeMap<String, u64> = BTreeMap::new();
            for _ in 0..3 {
                let server = Alone::open(&disk).await;
                for _ in 0..random(20) + 1 {
                    let key = format!("/{}", random(5));
                    let count = written.entry(key.clone()).or_default();
                    *count += 1;
                    let mut value = count.to_string();
                    value.push_str(&" ".repeat(random(4000) as usize));
                    write(&server.store, vec![put(&key, value)]).await.unwrap();
                }
                let checkpoint = server.store.checkpoint();
                let _ = tokio::time::timeout(Duration::from_millis(random(30)), checkpoint).await;
                disk = server.power_cut(random(1 << 40));
            }
            let server = Alone::open(&disk).await;
            for (key, count) in &written {
                let entry = server.store.get(key.as_bytes()).unwrap();
                let value = String::from_utf8(entry.value.to_vec()).unwrap();
                assert_eq!((entry.version, value.trim()), (*count, &*count.to_string()), "seed {seed}");
            }
            assert_eq!(server.store.revision(), 1 + written.values().sum::<u64>(), "seed {seed}");
        });
    }
}

/// etcd #17780: the current revision is stored, never derived from the keys that survive.
#[test]
fn etcd_17780_the_revision_is_kept_when_the_newest_keys_are_gone() {
    for checkpointed in [true, false] {
        in_virtual_time(async {
            let server = Alone::open(&MemoryDisk::new()).await;
            write(&server.store, vec![put("/stays", "x")]).await.unwrap();
            for n in 0..5 {
                write(&server.store, vec![put("/goes", n.to_string())]).await.unwrap();
            }
            let newest = write(&server.store, vec![delete("/goes")]).await.unwrap();
            let newest = newest.max(write(&server.store, vec![delete("/stays")]).await.unwrap());
            if checkpointed {
                server.store.checkpoint().await.unwrap();
            }
            let again = Alone::open(&server.power_cut(7)).await;
            assert_eq!(again.store.revision(), newest);
            assert_eq!(write(&again.store, vec![put("/new", "x")]).await.unwrap(), newest + 1);
        });
    }
}
