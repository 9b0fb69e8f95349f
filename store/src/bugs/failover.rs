//! How long nobody is served when a leader goes. In virtual time, so that the machine has no part in it.

use std::time::Duration;

use tokio::time::Instant;

use super::cluster::{Cluster, insist, put, write};
use crate::types::StoreError;

const TRIALS: usize = 7;

fn median(mut gaps: Vec<Duration>) -> Duration {
    gaps.sort();
    println!("{gaps:?}");
    gaps[gaps.len() / 2]
}

/// The leader is cut off: from then to the next acknowledged write of a server that is not.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_is_replaced_within_a_second_and_a_half() {
    let mut gaps = Vec::new();
    let cluster = Cluster::start(3).await;
    for trial in 0..TRIALS {
        let old = cluster.leader().await;
        let store = cluster.store((old + 1 + trial % 2) % 3);
        insist(store, vec![put("/a", "before")]).await;
        cluster.isolate(old);
        let begun = Instant::now();
        insist(store, vec![put("/a", "after")]).await;
        gaps.push(begun.elapsed());
        cluster.net.heal();
        cluster.converge().await;
    }
    assert!(median(gaps) <= Duration::from_millis(1500));
}

/// A proposal that is under way when its leader is cut off has its answer, that nobody knows, long before its deadline.
#[tokio::test(start_paused = true)]
async fn what_a_cut_off_leader_had_taken_is_answered_promptly() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader().await;
    cluster.isolate(old);
    let begun = Instant::now();
    assert!(write(cluster.store(old), vec![put("/a", "x")]).await.is_err());
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    // What comes later waits for a leader, and is refused when its time is over.
    let begun = Instant::now();
    assert_eq!(write(cluster.store(old), vec![put("/a", "x")]).await, Err(StoreError::NoLeader));
    assert!(begun.elapsed() <= Duration::from_secs(6), "{:?}", begun.elapsed());
}

/// The leader's process dies: its connections say so.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_killed_is_replaced_within_a_tenth_of_a_second() {
    let mut gaps = Vec::new();
    let mut cluster = Cluster::start(3).await;
    for trial in 0..TRIALS {
        let old = cluster.leader().await;
        let store = cluster.store((old + 1 + trial % 2) % 3).clone();
        insist(&store, vec![put("/a", "before")]).await;
        cluster.kill(old);
        let begun = Instant::now();
        insist(&store, vec![put("/a", "after")]).await;
        gaps.push(begun.elapsed());
        cluster.open(old).await;
        cluster.converge().await;
    }
    assert!(median(gaps) <= Duration::from_millis(100));
}

/// The leader is stopped as planned: no write of the others fails, and none takes longer than a tenth of a second.
#[tokio::test(start_paused = true)]
async fn a_planned_stop_fails_no_write_and_delays_none() {
    let mut cluster = Cluster::start(3).await;
    for _ in 0..3 {
        let old = cluster.leader().await;
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let store = cluster.store((old + 1 + writer % 2) % 3).clone();
                tokio::spawn(async move {
                    let mut slowest = Duration::ZERO;
                    for n in 0..80 {
                        let begun = Instant::now();
                        write(&store, vec![put(&format!("/{writer}/{n}"), "x")])
                            .await
                            .expect("no write fails");
                        slowest = slowest.max(begun.elapsed());
                    }
                    slowest
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(60)).await;
        cluster.stop(old).await;
        for writer in writers {
            let slowest = writer.await.unwrap();
            assert!(slowest <= Duration::from_millis(100), "{slowest:?}");
        }
        cluster.open(old).await;
        cluster.converge().await;
    }
}
