//! Leadership given away on purpose.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::*;
use kontiki_store::*;

/// A leader that is stopped as planned fails no write of the servers that stay, and none has an unknown end: each is
/// there exactly once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_stop_fails_no_write() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let done = Arc::new(AtomicBool::new(false));
    let slowest = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = cluster.store((leader + 1 + writer % 2) % 3).clone();
            let (done, slowest) = (done.clone(), slowest.clone());
            tokio::spawn(async move {
                let mut written = 0;
                while !done.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    write(&store, &format!("/{writer}/{written}"), "x").await;
                    slowest.fetch_max(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
                    written += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                written
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    slowest.store(0, Ordering::Relaxed);
    let term = cluster.store(leader).status().await.members[leader].term;
    cluster.stop(leader).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    done.store(true, Ordering::Relaxed);
    let mut written = 0;
    for writer in writers {
        written += writer.await.expect("no write fails");
    }
    println!("the slowest write around the stop took {} ms", slowest.load(Ordering::Relaxed));
    cluster.converge().await;
    let store = cluster.store((leader + 1) % 3);
    let all = RangeRequest { prefix: "/".into(), ..RangeRequest::default() };
    assert_eq!(store.range(&all).unwrap().count, written);
    let now = store.status().await.members.iter().map(|member| member.term).max().unwrap();
    assert!(now > term);
}
