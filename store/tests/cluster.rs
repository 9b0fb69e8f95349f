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

/// A follower that was away for longer than the log is kept catches up by a snapshot; its watchers are told to list
/// again (etcd #15271), and it serves what it has missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_behind_the_purged_log_gets_a_snapshot() {
    let mut cluster = Cluster::start(3).await;
    write(cluster.store(0), "/first", "x").await;
    cluster.converge().await;
    let away = (cluster.leader().await + 1) % 3;
    cluster.stop(away).await;
    let store = cluster.store(cluster.leader().await).clone();
    let missed_from = store.revision();
    for round in 0..4u8 {
        let writers = (0..16).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..40 {
                    let op = put(&format!("/{writer}/{}", n % 8), vec![round; 12_000]);
                    assert!(store.propose(Txn { guards: vec![], ops: vec![op] }).await.is_ok());
                }
            })
        });
        for done in futures::future::join_all(writers).await {
            done.unwrap();
        }
        for running in cluster.running() {
            running.checkpoint().await.unwrap();
        }
    }
    let returned = cluster.start_again(away).await;
    let here = returned.revision();
    let mut watcher = returned.watch(Bytes::from_static(b"/"), here).unwrap();
    let status = cluster.store(away).status().await;
    assert_eq!(status.members.len(), 3);
    returned.barrier().await.unwrap();
    cluster.converge().await;
    assert_eq!(returned.get(b"/15/7").unwrap().value, vec![3u8; 12_000]);
    assert!(returned.oldest_revision() > missed_from + 1000, "it came by the log");
    // Either it came by the log, change by change, or the watch says that it did not.
    let mut last = here;
    loop {
        match tokio::time::timeout(Duration::from_secs(20), watcher.next()).await.unwrap() {
            Ok(WatchItem::Changes(changes)) => {
                assert_eq!(changes[0].revision, last + 1, "a change was skipped");
                last = changes[0].revision;
            }
            Ok(WatchItem::Progress(revision)) if revision >= store.revision() => break,
            Ok(WatchItem::Progress(_)) => {}
            Err(WatchError::Replaced) => {
                assert!(returned.oldest_revision() > here);
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    write(&returned, "/after", "x").await;
    cluster.converge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_join_leave_and_hand_over() {
    let mut cluster = Cluster::start(1).await;
    for n in 0..200 {
        write(cluster.store(0), &format!("/n/{n}"), "x").await;
    }
    cluster.add().await;
    cluster.add().await;
    cluster.converge().await;
    let ids: Vec<MemberId> = cluster.running().iter().map(Store::member_id).collect();
    assert_eq!(ids, [1, 2, 3], "ids come from the log, in order");

    let leader = cluster.leader().await;
    let to = (leader + 1) % 3;
    let asked = cluster.store((leader + 2) % 3);
    assert_eq!(asked.transfer(Some(ids[to])).await.unwrap(), ids[to]);
    write(asked, "/after-transfer", "x").await;
    assert_eq!(cluster.leader().await, to);
    assert_ne!(asked.transfer(None).await.unwrap(), ids[to]);
    assert!(matches!(asked.transfer(Some(99)).await, Err(StoreError::Membership(_))));

    // The leader itself is taken out: it hands over first.
    let leaving = cluster.leader().await;
    let id = ids[leaving];
    cluster.store((leaving + 1) % 3).leave(id).await.unwrap();
    cluster.stop(leaving).await;
    let gone = cluster.servers.remove(leaving);
    let revision = write(cluster.store(0), "/after-leave", "x").await;
    let status = cluster.store(0).status().await;
    assert_eq!(status.members.len(), 2);
    assert!(status.members.iter().all(|member| member.id != id && member.voter));
    assert!(matches!(cluster.store(0).leave(id).await, Err(StoreError::Membership(_))));

    // What left and still has its data opens, well before the minute that admission may take, and is nobody.
    let authority = &cluster.authority;
    let others: Vec<String> = cluster.servers.iter().map(|server| server.address.clone()).collect();
    let stranger = config(gone.dir.path(), &gone.address, Start::Join(others.clone()), authority.peer());
    let opened = tokio::time::timeout(Duration::from_secs(40), Store::open(stranger)).await;
    let stranger = opened.expect("it does not wait for an admission").unwrap();
    assert_eq!(stranger.member_id(), id);
    assert_eq!(cluster.store(0).status().await.members.len(), 2);
    stranger.shutdown().await;

    // It comes back without its data, at its old address, as somebody new.
    let dir = tempfile::tempdir().unwrap();
    let back =
        Store::open(config(dir.path(), &gone.address, Start::Join(others), authority.peer())).await.unwrap();
    assert_eq!(back.member_id(), 4, "an id is never used twice");
    cluster.store(0).join(&gone.address, "").await.unwrap();
    back.wait_for(revision, Duration::from_secs(20)).await.unwrap();
    assert_eq!(value(&back, "/n/199").as_deref(), Some("x"));
    cluster.servers.push(Server { dir, address: gone.address, store: Some(back) });
    cluster.converge().await;
}

/// A server that lost its disk takes its old place under a new id, while its old id is still a member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_server_comes_back_under_a_new_id() {
    let mut cluster = Cluster::start(3).await;
    write(cluster.store(0), "/a", "x").await;
    let wiped = (cluster.leader().await + 1) % 3;
    let old = cluster.store(wiped).member_id();
    cluster.stop(wiped).await;
    let address = cluster.servers[wiped].address.clone();
    let others: Vec<String> = cluster
        .servers
        .iter()
        .map(|server| server.address.clone())
        .filter(|other| *other != address)
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let tls = cluster.authority.peer();
    let back = loop {
        match Store::open(config(dir.path(), &address, Start::Join(others.clone()), tls.clone())).await {
            Err(OpenError::Listen { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
            opened => break opened.unwrap(),
        }
    };
    assert_ne!(back.member_id(), old);
    cluster.servers[wiped] = Server { dir, address: address.clone(), store: Some(back.clone()) };
    cluster.store(wiped).join(&address, "").await.unwrap();
    cluster.converge().await;
    assert_eq!(value(&back, "/a").as_deref(), Some("x"));
    let status = back.status().await;
    assert_eq!(status.members.len(), 3);
    assert!(status.members.iter().all(|member| member.id != old && member.reachable));
}

/// Without a quorum nothing is acknowledged and nothing is read as if it were current.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_refuses_writes_and_linearizable_reads() {
    let mut cluster = Cluster::with_patience(3, Duration::from_secs(4)).await;
    write(cluster.store(0), "/a", "x").await;
    let left = cluster.leader().await;
    for number in (0..3).filter(|number| *number != left) {
        cluster.stop(number).await;
    }
    let store = cluster.store(left).clone();
    // While the leader still takes itself for one the outcome may be unknown; soon it knows better.
    let refused = async {
        loop {
            match store.propose(Txn { guards: vec![], ops: vec![put("/b", "x")] }).await {
                Err(StoreError::NoLeader) => return,
                Err(StoreError::Unknown(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(90), refused).await.unwrap();
    assert_eq!(store.barrier().await, Err(StoreError::NoLeader));
    assert!(!store.is_leader());
    assert_eq!(value(&store, "/a").as_deref(), Some("x"), "a local read does not care");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_kept_out() {
    let cluster = Cluster::start(1).await;
    let at = vec![cluster.servers[0].address.clone()];
    let dir = tempfile::tempdir().unwrap();
    let opened =
        Store::open(config(dir.path(), &free_address(), Start::Join(at.clone()), Authority::new().peer()));
    match tokio::time::timeout(Duration::from_secs(20), opened).await.unwrap() {
        Err(OpenError::NotAdmitted(problem)) => {
            assert!(problem.contains("another certificate authority"), "{problem}");
        }
        other => panic!("{:?}", other.err()),
    }
    assert_eq!(cluster.store(0).status().await.members.len(), 1);

    // A directory of another cluster under the same authority.
    let dir = tempfile::tempdir().unwrap();
    let address = free_address();
    let own =
        Store::open(config(dir.path(), &address, Start::Bootstrap, cluster.authority.peer())).await.unwrap();
    own.shutdown().await;
    drop(own);
    let error = loop {
        match Store::open(config(dir.path(), &address, Start::Join(at.clone()), cluster.authority.peer()))
            .await
        {
            Err(OpenError::InUse { .. } | OpenError::Listen { .. }) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            opened => break opened.err(),
        }
    };
    assert!(matches!(error, Some(OpenError::OtherCluster { .. })), "{error:?}");
}

/// Leases live through a change of leader, end for good when nobody renews them, and only then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_kept_by_whoever_leads() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let store = cluster.store((leader + 1) % 3).clone();
    let short = store.grant_lease(Duration::from_secs(1)).await.unwrap();
    let long = store.grant_lease(Duration::from_secs(600)).await.unwrap();
    for (key, lease) in [("/short", short), ("/long", long)] {
        let op = Op::Put { key: key.into(), value: "v".into(), attributes: [].into(), lease: Some(lease) };
        store.propose(Txn { guards: vec![], ops: vec![op] }).await.unwrap();
    }
    cluster.stop(leader).await;
    let mut watcher = store.watch(Bytes::from_static(b"/short"), store.revision()).unwrap();
    loop {
        let item = tokio::time::timeout(Duration::from_secs(30), watcher.next()).await.unwrap().unwrap();
        if let WatchItem::Changes(changes) = item {
            assert!(changes[0].deleted);
            break;
        }
    }
    assert_eq!(store.renew_lease(short).await, Err(StoreError::NoSuchLease(short)));
    store.renew_lease(long).await.unwrap();
    assert!(store.get(b"/long").is_some());
    cluster.start_again(leader).await;
    cluster.converge().await;
}
