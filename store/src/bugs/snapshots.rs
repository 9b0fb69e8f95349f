//! Watchers on a server whose state is replaced by a snapshot.

use std::time::Duration;

use bytes::Bytes;

use super::cluster::{Cluster, insist, put};
use crate::types::{Revision, WatchError, WatchItem};
use crate::watch::Watcher;

/// Cuts a follower off until the others no longer have the log that it would need.
async fn leave_behind(cluster: &Cluster, behind: usize, round: usize) {
    cluster.isolate(behind);
    let others: Vec<usize> = (0..3).filter(|number| *number != behind).collect();
    let leader = cluster.leader_among(&others).await;
    // Until what was on its way to it is given up: that would arrive after the cut.
    tokio::time::sleep(Duration::from_secs(10)).await;
    for n in 0..40 {
        insist(cluster.store(leader), vec![put(&format!("/a/{n}"), format!("{round}"))]).await;
    }
    // What is being sent to the one behind is not purged, so that once may not be enough.
    for again in 0..6 {
        for number in &others {
            cluster.store(*number).checkpoint().await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(2300)).await;
        insist(
            cluster.store(leader),
            vec![put("/a/0", format!("{round}")), put("/again", format!("{again}"))],
        )
        .await;
    }
}

/// Reads until the revision: each one's changes once, in order, none left out; or it is told to list again. Returns the
/// last revision seen, and whether it was told.
async fn follow(watcher: &mut Watcher, mut last: Revision, to: Revision) -> (Revision, bool) {
    loop {
        match tokio::time::timeout(Duration::from_secs(600), watcher.next()).await.expect("a word") {
            Ok(WatchItem::Changes(changes)) => {
                assert_eq!(changes[0].revision, last + 1, "a change was replayed or left out");
                last = changes[0].revision;
            }
            Ok(WatchItem::Progress(revision)) => assert!(revision >= last),
            Err(WatchError::Replaced) => return (last, true),
            Err(error) => panic!("{error}"),
        }
        if last >= to {
            return (last, false);
        }
    }
}

/// etcd #15271: a watcher on a server that caught up by a snapshot goes on at its place or is told to list again; it never
/// sees a change twice, and never misses one unawares.
#[tokio::test(start_paused = true)]
async fn etcd_15271_a_snapshot_neither_replays_nor_skips() {
    let cluster = Cluster::start(3).await;
    let behind = (cluster.leader().await + 1) % 3;
    let store = cluster.store(behind).clone();
    cluster.converge().await;
    let begun = store.revision();
    let mut watcher = store.watch(Bytes::from_static(b"/"), begun).unwrap();
    let newest = insist(&store, vec![put("/a/0", "x")]).await;
    assert_eq!(follow(&mut watcher, begun, newest).await, (newest, false));
    let seen = newest;
    leave_behind(&cluster, behind, 0).await;
    cluster.net.heal();
    let newest = insist(&store, vec![put("/a/1", "x")]).await;
    let (last, told) = follow(&mut watcher, seen, newest).await;
    assert!(told, "it came by the log: the test does not test what it should");
    assert!(last < newest);
    // It lists and watches again, from there on without a gap.
    let mut again = store.watch(Bytes::from_static(b"/"), store.revision()).unwrap();
    let from = store.revision();
    let newest = insist(&store, vec![put("/a/2", "x")]).await;
    assert_eq!(follow(&mut again, from, newest).await, (newest, false));
}

/// etcd #18055: two snapshots in quick succession, and a watcher that was opened between them: each watcher is told, once,
/// and the server has what the second one brought.
#[tokio::test(start_paused = true)]
async fn etcd_18055_two_snapshots_in_quick_succession() {
    let cluster = Cluster::start(3).await;
    let behind = (cluster.leader().await + 1) % 3;
    let store = cluster.store(behind).clone();
    cluster.converge().await;
    let mut first = store.watch(Bytes::from_static(b"/a/"), store.revision()).unwrap();
    leave_behind(&cluster, behind, 1).await;
    cluster.net.heal();
    insist(&store, vec![put("/between", "x")]).await;
    let between = store.revision();
    let mut second = store.watch(Bytes::from_static(b"/a/"), between).unwrap();
    leave_behind(&cluster, behind, 2).await;
    cluster.net.heal();
    let newest = insist(&store, vec![put("/after", "x")]).await;
    for watcher in [&mut first, &mut second] {
        loop {
            match tokio::time::timeout(Duration::from_secs(600), watcher.next()).await.expect("a word") {
                Err(WatchError::Replaced) => break,
                Ok(WatchItem::Progress(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    cluster.converge().await;
    assert!(store.revision() > newest);
    for n in 0..40 {
        assert_eq!(store.get(format!("/a/{n}").as_bytes()).unwrap().value, "2");
    }
}
