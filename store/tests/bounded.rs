//! Memory and disk stay bounded through many writes to few keys, without a command. The million is `make bench`'s.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::*;
use kontiki_store::*;

const VALUE: usize = 64 << 10;

fn bytes_below(dir: &Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        // A file may go while one looks.
        let Ok(metadata) = entry.metadata() else { continue };
        sum += if metadata.is_dir() { bytes_below(&entry.path()) } else { metadata.len() };
    }
    sum
}

async fn fill(store: &Store, round: usize, writes: usize, keys: usize) {
    let writers = (0..8).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in (writer..writes).step_by(8) {
                let op = put(&format!("/{}", n % keys), vec![(round + n) as u8; VALUE]);
                while store.propose(Txn { guards: vec![], ops: vec![op.clone()] }).await.is_err() {}
            }
        })
    });
    for done in futures::future::join_all(writers).await {
        done.unwrap();
    }
}

/// Comes to hold by itself, at the pace of housekeeping.
async fn settles(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(150);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} does not settle");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_to_few_keys_and_deleted_data_fill_no_disk() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let mut config = config(dir.path(), &free_address(), Start::Bootstrap, authority.peer());
    config.history_bytes = 16 << 20;
    let store = Store::open(config).await.unwrap();
    // 100 MB of values into 8 keys: twice what a checkpoint waits for.
    fill(&store, 0, 1600, 8).await;
    let bound = 128 << 20;
    settles("the disk", || bytes_below(dir.path()) < bound).await;
    settles("the history", || store.revision() - store.oldest_revision() < 600).await;

    // 20 MB of keys, written and deleted six times over.
    for round in 0..6 {
        fill(&store, round, 320, 320).await;
        let ops = (0..320).map(|n| Op::Delete { key: format!("/{n}").into() }).collect();
        store.propose(Txn { guards: vec![], ops }).await.unwrap();
    }
    settles("the disk", || bytes_below(dir.path()) < bound).await;
    assert_eq!(store.range(&RangeRequest::default()).unwrap().count, 0);
    store.shutdown().await;
}
