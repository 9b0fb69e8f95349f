//! What a watcher is told, and what it never is. On a store without disk; time is virtual.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::cluster::{put, write};
use crate::store::Store;
use crate::types::{ReadError, Revision, WatchError, WatchItem};
use crate::watch::Watcher;

async fn next(watcher: &mut Watcher) -> Result<WatchItem, WatchError> {
    tokio::time::timeout(Duration::from_secs(600), watcher.next()).await.expect("a word")
}

/// A writer of so many revisions, a third of them under `/a/`. Returns those.
fn writer(store: &Store, count: u64, pause: Duration) -> tokio::task::JoinHandle<Vec<Revision>> {
    let store = store.clone();
    tokio::spawn(async move {
        let mut watched = Vec::new();
        for n in 0..count {
            let prefix = if n % 3 == 0 { "/a/" } else { "/b/" };
            let revision =
                write(&store, vec![put(&format!("{prefix}{}", n % 50), format!("{n}"))]).await.unwrap();
            if n % 3 == 0 {
                watched.push(revision);
            }
            tokio::time::sleep(pause).await;
        }
        watched
    })
}

/// etcd #15220: a bookmark says that everything up to its revision has been delivered; it never overtakes a change, however
/// slowly the watcher reads.
#[tokio::test(start_paused = true)]
async fn etcd_15220_a_bookmark_never_overtakes_a_change() {
    for pause in [0, 3, 40, 700] {
        let store = Store::in_memory();
        let mut watcher = store.watch(Bytes::from_static(b"/a/"), store.revision()).unwrap();
        let writing = writer(&store, 3000, Duration::from_millis(5));
        let (mut seen, mut bookmarks) = (Vec::new(), Vec::new());
        while seen.len() < 1000 {
            match next(&mut watcher).await.unwrap() {
                WatchItem::Changes(changes) => {
                    let revision = changes[0].revision;
                    let promised = bookmarks.last().copied().unwrap_or(0);
                    assert!(revision > promised, "{revision} came after a bookmark for {promised}");
                    seen.push(revision);
                }
                WatchItem::Progress(revision) => bookmarks.push(revision),
            }
            if seen.len() % 100 == 0 {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
        assert_eq!(seen, writing.await.unwrap());
    }
}

/// etcd #17529: a watcher that is far behind gets everything, without a gap, as long as history reaches back to its place.
#[tokio::test(start_paused = true)]
async fn etcd_17529_a_slow_watcher_is_never_skipped_over_anything() {
    let store = Store::in_memory();
    let mut watcher = store.watch(Bytes::from_static(b"/a/"), store.revision()).unwrap();
    let mut expected = writer(&store, 6000, Duration::ZERO).await.unwrap();
    // It has slept through far more than its queue holds; more comes while it reads.
    let writing = writer(&store, 600, Duration::from_millis(1));
    let mut seen = Vec::new();
    while seen.len() < 2200 {
        if let WatchItem::Changes(changes) = next(&mut watcher).await.unwrap() {
            seen.push(changes[0].revision);
        }
        if seen.len().is_multiple_of(64) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    expected.extend(writing.await.unwrap());
    assert_eq!(seen, expected);
}

/// etcd #15402: a watcher that was starved until history had left it behind is cancelled with the reason; what it got up to
/// then has no gap, and it gets nothing behind one.
#[tokio::test(start_paused = true)]
async fn etcd_15402_a_starved_watcher_is_cancelled_with_a_reason() {
    let store = Store::in_memory_with_history(Duration::from_secs(1), 64 << 10);
    let mut watcher = store.watch(Bytes::from_static(b"/a/"), store.revision()).unwrap();
    let writing = writer(&store, 9000, Duration::from_millis(1));
    let written = writing.await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut seen = Vec::new();
    let reason = loop {
        match next(&mut watcher).await {
            Ok(WatchItem::Changes(changes)) => seen.push(changes[0].revision),
            Ok(WatchItem::Progress(revision)) => {
                assert!(Some(&revision) <= seen.last(), "a gap was promised away")
            }
            Err(reason) => break reason,
        }
    };
    assert_eq!(reason, WatchError::TooSlow);
    assert_eq!(seen, written[..seen.len()], "there is a gap before the reason");
    assert!(seen.len() < written.len());
    assert_eq!(next(&mut watcher).await.err(), Some(WatchError::TooSlow), "it stays cancelled");
    let past = store.watch(Bytes::from_static(b"/a/"), written[0]).err();
    assert!(matches!(past, Some(ReadError::Compacted { .. })), "{past:?}");
}

/// etcd #20221: a watch from a revision that is not there yet is refused; it neither hangs nor begins somewhere else.
#[tokio::test(start_paused = true)]
async fn etcd_20221_a_watch_from_the_future_is_refused() {
    let store = Store::in_memory();
    let asked = store.revision() + 3;
    for _ in 0..3 {
        let refused = store.watch(Bytes::new(), asked).err();
        assert_eq!(refused, Some(ReadError::Future { asked, current: store.revision() }));
        write(&store, vec![put("/a/1", "x")]).await.unwrap();
    }
    let mut watcher = store.watch(Bytes::new(), asked).unwrap();
    let fourth = write(&store, vec![put("/a/1", "y")]).await.unwrap();
    let WatchItem::Changes(changes) = next(&mut watcher).await.unwrap() else { panic!("progress first") };
    assert_eq!(changes[0].revision, fourth);
}

/// etcd #17247: a watcher that comes back at the place where it left gets no change twice and misses none, wherever in the
/// stream that was, and while writes go on.
#[tokio::test(start_paused = true)]
async fn etcd_17247_no_change_comes_twice() {
    let store = Store::in_memory();
    let begun = store.revision();
    let writing = {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..2000u64 {
                // Several keys in one revision: they belong together.
                let ops = (0..1 + n % 3).map(|key| put(&format!("/a/{key}"), format!("{n}"))).collect();
                write(&store, ops).await.unwrap();
                if n % 7 == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        })
    };
    let mut place = begun;
    let mut seen: BTreeMap<Revision, usize> = BTreeMap::new();
    let mut stay = 0;
    while seen.len() < 2000 {
        let mut watcher = store.watch(Bytes::from_static(b"/a/"), place).unwrap();
        stay = (stay * 5 + 3) % 17;
        for _ in 0..=stay {
            match next(&mut watcher).await.unwrap() {
                WatchItem::Changes(changes) => {
                    place = changes[0].revision;
                    assert!(seen.insert(place, changes.len()).is_none(), "{place} came twice");
                }
                WatchItem::Progress(revision) => place = place.max(revision),
            }
            if seen.len() == 2000 {
                break;
            }
        }
    }
    writing.await.unwrap();
    for (number, (revision, changes)) in seen.into_iter().enumerate() {
        assert_eq!(revision, begun + 1 + number as u64);
        assert_eq!(changes, 1 + number % 3);
    }
}
