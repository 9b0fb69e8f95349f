//! Who leads, what a leader may say, and what becomes of those who wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::cluster::{Cluster, insist, keys, put, write};
use crate::store::Store;
use crate::types::StoreError;

/// Writers and readers that go on until they are told to stop. A read may fail; one that succeeds sees all that had been
/// acknowledged to anyone before it began.
struct Readers {
    done: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<u64>>,
}

fn key(number: u64) -> String {
    format!("/n/{number:08}")
}

impl Readers {
    fn start(cluster: &Cluster) -> Readers {
        let done = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let next = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for number in 0..cluster.count() {
            let store = cluster.store(number).clone();
            let (acknowledged, next, over) = (acknowledged.clone(), next.clone(), done.clone());
            let writer = store.clone();
            let newest = acknowledged.clone();
            tasks.push(tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed) + 1;
                    if write(&writer, vec![put(&key(n), "x")]).await.is_ok() {
                        newest.fetch_max(n, Ordering::Relaxed);
                    }
                    tokio::time::sleep(Duration::from_millis(8)).await;
                }
                0
            }));
            let over = done.clone();
            tasks.push(tokio::spawn(async move {
                let mut reads = 0;
                while !over.load(Ordering::Relaxed) {
                    let owed = acknowledged.load(Ordering::Relaxed);
                    if store.barrier().await.is_ok() {
                        reads += 1;
                        let seen = owed == 0 || store.get(key(owed).as_bytes()).is_some();
                        assert!(seen, "server {number} read the past: {owed} was acknowledged before");
                    }
                    tokio::time::sleep(Duration::from_millis(4)).await;
                }
                reads
            }));
        }
        Readers { done, tasks }
    }

    async fn stop(self) {
        self.done.store(true, Ordering::Relaxed);
        let mut reads = 0;
        for task in self.tasks {
            reads += task.await.unwrap();
        }
        assert!(reads > 100, "only {reads} reads succeeded");
    }
}

/// etcd #20418: a read index that was asked of one leader is never used under another.
#[tokio::test(start_paused = true)]
async fn etcd_20418_a_read_across_many_hand_overs_is_never_stale() {
    let cluster = Cluster::start(3).await;
    let readers = Readers::start(&cluster);
    for round in 0..8 {
        tokio::time::sleep(Duration::from_millis(170)).await;
        // One that comes too early for the new leader is refused, which is as good.
        let _ = cluster.store(round % 3).transfer(None).await;
    }
    readers.stop().await;
    cluster.converge().await;
}

/// etcd #21387: a read index that is asked again because the leader was cut off is never stale, and neither is what the
/// cut-off leader itself says when it is back.
#[tokio::test(start_paused = true)]
async fn etcd_21387_a_read_that_is_asked_again_is_never_stale() {
    let cluster = Cluster::start(3).await;
    let readers = Readers::start(&cluster);
    for _ in 0..3 {
        let old = cluster.leader().await;
        cluster.isolate(old);
        let others: Vec<usize> = (0..3).filter(|number| *number != old).collect();
        cluster.leader_among(&others).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        cluster.net.heal();
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    readers.stop().await;
    cluster.converge().await;
}

/// Whether the write is acknowledged within its time.
async fn is_acknowledged(store: &Store, key: &str) -> bool {
    match write(store, vec![put(key, "x")]).await {
        Ok(_) => true,
        Err(StoreError::NoLeader | StoreError::Unknown(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

/// openraft #1802: with five voters at five different places in the log, nothing counts as committed that two have.
#[tokio::test(start_paused = true)]
async fn openraft_1802_two_of_five_commit_nothing() {
    let cluster = Cluster::start(5).await;
    let leader = cluster.leader().await;
    let others: Vec<usize> = (0..5).filter(|number| *number != leader).collect();
    let store = cluster.store(leader);
    // They fall behind one after the other, so that each has come to another place.
    for (order, number) in others[..3].iter().enumerate() {
        if order == 2 {
            // The last that a quorum needs: what is written while it goes may or may not be acknowledged.
            tokio::join!(is_acknowledged(store, "/while-it-goes"), async { cluster.isolate(*number) });
        } else {
            cluster.isolate(*number);
        }
        for n in 0..3 {
            let acknowledged = is_acknowledged(store, &format!("/{order}/{n}")).await;
            assert_eq!(acknowledged, order < 2, "with {} of five cut off", order + 1);
        }
    }
    let with = others[3];
    assert!(keys(cluster.store(with), "/2/").is_empty() && keys(store, "/2/").is_empty());
    cluster.net.heal();
    cluster.converge().await;
    for number in 0..5 {
        assert_eq!(keys(cluster.store(number), "/0/").len() + keys(cluster.store(number), "/1/").len(), 6);
    }
}

/// openraft #2080: an old leader that reaches but one server, through which a quorum could meet, does not keep that server
/// from voting for another.
#[tokio::test(start_paused = true)]
async fn openraft_2080_a_leader_without_a_quorum_does_not_hold_the_bridge() {
    let cluster = Cluster::start(5).await;
    insist(cluster.store(0), vec![put("/before", "x")]).await;
    let old = cluster.leader().await;
    let others: Vec<usize> = (0..5).filter(|number| *number != old).collect();
    let (bridge, a, b, alone) = (others[0], others[1], others[2], others[3]);
    cluster.isolate(alone);
    cluster.cut(old, a);
    cluster.cut(old, b);
    let new = cluster.leader_among(&[bridge, a, b]).await;
    insist(cluster.store(bridge), vec![put("/after", "x")]).await;
    assert_ne!(new, old);
    cluster.net.heal();
    cluster.converge().await;
}

/// openraft #1960: whatever order the disk's answers come in, nobody is left waiting for one that was overtaken.
#[tokio::test(start_paused = true)]
async fn openraft_1960_no_write_waits_for_an_answer_that_was_overtaken() {
    let cluster = Cluster::start(3).await;
    let mut writers = Vec::new();
    for writer in 0..24usize {
        let store = cluster.store(writer % 3).clone();
        let paces: Vec<Arc<AtomicU64>> = cluster.servers.iter().map(|server| server.pace.clone()).collect();
        writers.push(tokio::spawn(async move {
            for n in 0..40usize {
                // From nothing to twelve milliseconds, another one for each disk and each moment.
                paces[(writer + n) % 3]
                    .store((writer * 7919 + n * 104_729) as u64 % 12_000, Ordering::Relaxed);
                write(&store, vec![put(&format!("/{writer}/{n}"), vec![7; 500])]).await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.expect("every write is answered in its time");
    }
    cluster.converge().await;
}

/// openraft #1761: a proposal that a deposed leader still waits for ends when the log is replaced by a snapshot behind its
/// place, and the server goes on.
#[tokio::test(start_paused = true)]
async fn openraft_1761_a_snapshot_ends_what_a_deposed_leader_waits_for() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|number| *number != old).collect();
    cluster.isolate(old);
    let store = cluster.store(old).clone();
    let waiting: Vec<_> = (0..10)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { is_acknowledged(&store, &format!("/lost/{n}")).await })
        })
        .collect();
    let new = cluster.leader_among(&others).await;
    for n in 0..50 {
        insist(cluster.store(new), vec![put(&format!("/kept/{n}"), "x")]).await;
    }
    for number in &others {
        cluster.store(*number).checkpoint().await.unwrap();
    }
    cluster.net.heal();
    for one in waiting {
        let acknowledged =
            tokio::time::timeout(Duration::from_secs(60), one).await.expect("it ends").unwrap();
        assert!(!acknowledged, "no quorum had it");
    }
    cluster.converge().await;
    assert_eq!(keys(&store, "/kept/").len(), 50);
    assert!(keys(&store, "/lost/").is_empty());
    write(&store, vec![put("/again", "x")]).await.unwrap();
}
