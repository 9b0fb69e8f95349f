//! What a watch guarantees, on a store without disk: ordered, unique, atomic, resumable, bookmarkable, cancelled with a
//! reason.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kontiki_store::*;

fn put(key: &str, value: &str) -> Op {
    Op::Put {
        key: key.to_string().into(),
        value: value.to_string().into(),
        attributes: Arc::from([]),
        lease: None,
    }
}

async fn write(store: &Store, ops: Vec<Op>) -> Revision {
    match store.propose(Txn { guards: vec![], ops }).await.unwrap() {
        Outcome::Committed { revision } => revision,
        conflict => panic!("{conflict:?}"),
    }
}

/// The next changes, passing over progress.
async fn changes(watcher: &mut Watcher) -> Arc<[Change]> {
    loop {
        let item =
            tokio::time::timeout(Duration::from_secs(600), watcher.next()).await.expect("an item").unwrap();
        if let WatchItem::Changes(changes) = item {
            return changes;
        }
    }
}

#[tokio::test]
async fn a_watch_from_the_past_gets_all_since_then_and_goes_on() {
    let store = Store::in_memory();
    let start = store.revision();
    let first = write(&store, vec![put("/a/1", "one"), put("/b/1", "other")]).await;
    write(&store, vec![put("/b/2", "not watched")]).await;
    let mut watcher = store.watch(Bytes::from_static(b"/a/"), start).unwrap();
    let got = changes(&mut watcher).await;
    assert_eq!(got.len(), 1, "only what is under the prefix");
    assert_eq!((got[0].revision, got[0].previous.is_none(), got[0].deleted), (first, true, false));
    assert!(
        matches!(watcher.next().await, Ok(WatchItem::Progress(revision)) if revision == store.revision())
    );
    let third = write(&store, vec![Op::Delete { key: "/a/1".into() }]).await;
    let got = changes(&mut watcher).await;
    assert!(got[0].deleted);
    assert_eq!(got[0].entry.value, "one", "a delete carries the last value");
    assert_eq!(got[0].entry.mod_revision, third, "at the revision of the delete");
    assert_eq!(got[0].previous.as_ref().unwrap().mod_revision, first);
}

/// etcd #20221, #17247: nothing before the asked place, nothing twice, and a place that does not exist yet is an error.
#[tokio::test]
async fn a_watch_begins_where_it_was_asked_to() {
    let store = Store::in_memory();
    write(&store, vec![put("/a", "1")]).await;
    let second = write(&store, vec![put("/a", "2")]).await;
    let mut watcher = store.watch(Bytes::from_static(b"/"), second).unwrap();
    let third = write(&store, vec![put("/a", "3")]).await;
    assert_eq!(changes(&mut watcher).await[0].revision, third);
    let asked = third + 1;
    let refused = store.watch(Bytes::new(), asked).err();
    assert_eq!(refused, Some(ReadError::Future { asked, current: third }));
}

#[tokio::test]
async fn changes_of_one_revision_come_together() {
    let store = Store::in_memory();
    let mut watcher = store.watch(Bytes::from_static(b"/a/"), store.revision()).unwrap();
    write(&store, vec![put("/a/1", "x"), put("/b/1", "x"), put("/a/2", "x")]).await;
    let keys: Vec<Bytes> =
        changes(&mut watcher).await.iter().map(|change| change.entry.key.clone()).collect();
    assert_eq!(keys, ["/a/1", "/a/2"]);
}

/// etcd #15220: progress never overtakes a change; etcd #17529: a watcher far behind is not skipped over anything.
#[tokio::test]
async fn every_watcher_rebuilds_the_state_however_slowly_it_reads() {
    let store = Store::in_memory();
    let start = store.revision();
    let mut tasks = Vec::new();
    for slow in [false, true, false, true] {
        for prefix in ["/", "/a/", "/b/3"] {
            let mut watcher = store.watch(prefix.into(), start).unwrap();
            let store = store.clone();
            tasks.push(tokio::spawn(async move {
                let mut state = BTreeMap::new();
                let mut last = start;
                loop {
                    match watcher.next().await.unwrap() {
                        WatchItem::Progress(revision) => {
                            assert!(revision >= last, "progress went back from {last} to {revision}");
                            last = revision;
                        }
                        WatchItem::Changes(changes) => {
                            let revision = changes[0].revision;
                            assert!(revision > last, "{revision} after {last}");
                            last = revision;
                            for change in changes.iter() {
                                let key = change.entry.key.clone();
                                assert_eq!(change.revision, revision);
                                assert_eq!(change.previous, state.get(&key).cloned());
                                if change.deleted {
                                    state.remove(&key);
                                } else {
                                    state.insert(key, change.entry.clone());
                                }
                                if change.entry.value == "end" && change.entry.key == "/z" {
                                    return;
                                }
                            }
                            if slow {
                                tokio::task::yield_now().await;
                            }
                        }
                    }
                    let newest = store.revision();
                    if last == newest && store.get(b"/z").is_some() {
                        let here = store.range(&RangeRequest { prefix: prefix.into(), ..Default::default() });
                        let expected: BTreeMap<_, _> =
                            here.unwrap().entries.into_iter().map(|e| (e.key.clone(), e)).collect();
                        assert_eq!(state, expected);
                        return;
                    }
                }
            }));
        }
    }
    for n in 0..5000u32 {
        let key = format!("/{}/{}", if n % 3 == 0 { "a" } else { "b" }, n % 7);
        let op = if n % 5 == 4 { Op::Delete { key: key.into() } } else { put(&key, &n.to_string()) };
        write(&store, vec![op, put("/c", "x")]).await;
        if n % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    write(&store, vec![put("/z", "end")]).await;
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(600), task)
            .await
            .expect("the watcher came to the end")
            .unwrap();
    }
}

#[tokio::test]
async fn an_idle_watcher_is_told_how_far_the_store_is() {
    let store = Store::in_memory();
    let mut watcher = store.watch(Bytes::from_static(b"/quiet/"), store.revision()).unwrap();
    assert!(matches!(watcher.next().await, Ok(WatchItem::Progress(_))));
    let revision = write(&store, vec![put("/loud", "x")]).await;
    assert!(matches!(watcher.next().await, Ok(WatchItem::Progress(told)) if told == revision));
}

#[tokio::test]
async fn a_watcher_that_history_has_left_behind_is_cancelled() {
    let store = Store::in_memory_with_history(Duration::from_millis(100), 64 << 20);
    let start = store.revision();
    let mut left_behind = store.watch(Bytes::new(), start).unwrap();
    for n in 0..1000 {
        write(&store, vec![put("/a", &n.to_string())]).await;
    }
    while store.oldest_revision() == start {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(left_behind.next().await.err(), Some(WatchError::TooSlow));
    assert_eq!(left_behind.next().await.err(), Some(WatchError::TooSlow), "it stays cancelled");
    assert!(matches!(store.watch(Bytes::new(), start).err(), Some(ReadError::Compacted { .. })));
}

/// A full queue costs a watcher its queue, not its place.
#[tokio::test]
async fn a_synced_watcher_that_sleeps_through_thousands_of_changes_gets_them_all() {
    let store = Store::in_memory();
    let mut watcher = store.watch(Bytes::from_static(b"/"), store.revision()).unwrap();
    assert!(matches!(watcher.next().await, Ok(WatchItem::Progress(_))));
    let mut written = Vec::new();
    for n in 0..3000 {
        written.push(write(&store, vec![put("/a", &n.to_string())]).await);
    }
    for revision in written {
        assert_eq!(changes(&mut watcher).await[0].revision, revision);
    }
}

#[tokio::test]
async fn watches_end_when_the_store_stops() {
    let store = Store::in_memory();
    let mut synced = store.watch(Bytes::new(), store.revision()).unwrap();
    let mut new = store.watch(Bytes::new(), store.revision()).unwrap();
    assert!(synced.next().await.is_ok());
    store.shutdown().await;
    assert_eq!(synced.next().await.err(), Some(WatchError::Stopped));
    assert_eq!(new.next().await.err(), Some(WatchError::Stopped));
    assert_eq!(store.propose(Txn::default()).await, Err(StoreError::Stopped));
}

#[tokio::test]
async fn a_lease_takes_its_keys_with_it_unless_renewed() {
    let store = Store::in_memory();
    let kept = store.grant_lease(Duration::from_secs(600)).await.unwrap();
    let lost = store.grant_lease(Duration::from_secs(1)).await.unwrap();
    for (key, lease) in [("/kept", kept), ("/lost", lost)] {
        let op =
            Op::Put { key: key.into(), value: "v".into(), attributes: Arc::from([]), lease: Some(lease) };
        write(&store, vec![op]).await;
    }
    let mut watcher = store.watch(Bytes::from_static(b"/lost"), store.revision()).unwrap();
    let keeper = store.clone();
    tokio::spawn(async move {
        while keeper.renew_lease(kept).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    assert!(changes(&mut watcher).await[0].deleted);
    assert!(store.get(b"/kept").is_some());
    assert_eq!(store.renew_lease(lost).await, Err(StoreError::NoSuchLease(lost)));
}
