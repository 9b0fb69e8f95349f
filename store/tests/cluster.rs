//! Three real stores over loopback TLS.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::*;
use kontiki_store::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_anywhere_is_read_everywhere() {
    let cluster = Cluster::start(3).await;
    for (number, store) in cluster.running().iter().enumerate() {
        let key = format!("/from/{number}");
        let revision = write(store, &key, "x").await;
        assert_eq!(value(store, &key).as_deref(), Some("x"), "what was written here is seen here");
        for other in cluster.running() {
            assert!(other.barrier().await.unwrap() >= revision);
            assert_eq!(value(&other, &key).as_deref(), Some("x"));
        }
    }
    cluster.converge().await;
    let status = cluster.store(1).status().await;
    assert_eq!(status.members.len(), 3);
    assert_eq!(status.members.iter().filter(|member| member.leader).count(), 1);
    for member in &status.members {
        assert!(member.reachable && member.voter && member.db_bytes > 0 && member.pid == std::process::id());
        assert!(member.client_address.starts_with("api-of-"));
    }
    let mut addresses = cluster.store(2).client_addresses();
    addresses.sort();
    let mut expected: Vec<String> =
        cluster.servers.iter().map(|server| format!("api-of-{}", server.address)).collect();
    expected.sort();
    assert_eq!(addresses, expected);
}

/// A watcher on a follower goes through a change of leader without a gap, and every acknowledged write is there, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_stops_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let store = cluster.store(follower).clone();
    let mut watcher = store.watch(Bytes::from_static(b"/n/"), store.revision()).unwrap();
    for n in 0..50 {
        write(&store, &format!("/n/{n}"), "before").await;
    }
    cluster.stop(leader).await;
    for n in 50..100 {
        let txn = Txn { guards: vec![], ops: vec![put(&format!("/n/{n}"), "after")] };
        // A write under way while the leader goes may come to an unknown end; it is tried again.
        while !matches!(store.propose(txn.clone()).await, Ok(Outcome::Committed { .. })) {}
    }
    assert_ne!(cluster.leader().await, leader);
    let mut last = 0;
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 100 {
        match tokio::time::timeout(Duration::from_secs(20), watcher.next()).await.unwrap().unwrap() {
            WatchItem::Progress(revision) => assert!(revision >= last),
            WatchItem::Changes(changes) => {
                assert!(changes[0].revision > last);
                last = changes[0].revision;
                seen.extend(changes.iter().map(|change| change.entry.key.clone()));
            }
        }
    }
    cluster.start_again(leader).await;
    cluster.converge().await;
    let all = RangeRequest { prefix: "/n/".into(), ..RangeRequest::default() };
    assert_eq!(cluster.store(leader).range(&all).unwrap().count, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_servers_stop_and_come_back_with_everything() {
    let mut cluster = Cluster::start(3).await;
    let lease = cluster.store(0).grant_lease(Duration::from_secs(3600)).await.unwrap();
    let mut newest = 0;
    for n in 0..30 {
        newest = write(cluster.store(n % 3), &format!("/n/{n}"), &"v".repeat(n * 1000)).await;
    }
    for number in 0..3 {
        cluster.stop(number).await;
    }
    for number in 0..3 {
        cluster.start_again(number).await;
    }
    cluster.leader().await;
    cluster.converge().await;
    for store in cluster.running() {
        assert_eq!(store.revision(), newest, "the revision is the one that was stored");
        for n in 0..30 {
            assert_eq!(value(&store, &format!("/n/{n}")), Some("v".repeat(n * 1000)));
        }
        store.renew_lease(lease).await.unwrap();
    }
}
