//! Leases end when the cluster says so, and for good.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::cluster::{Cluster, insist, keys};
use crate::store::Store;
use crate::types::{LeaseId, Op, StoreError};

const TTL: Duration = Duration::from_secs(3);

async fn leased(store: &Store, count: usize) -> Vec<LeaseId> {
    let mut leases = Vec::new();
    for n in 0..count {
        let lease = store.grant_lease(TTL).await.unwrap();
        let op = Op::Put {
            key: format!("/leased/{n}").into(),
            value: "x".into(),
            attributes: Arc::from([]),
            lease: Some(lease),
        };
        insist(store, vec![op]).await;
        leases.push(lease);
    }
    leases
}

/// Renews all of them, time and again; any answer but that the lease is gone will do, as long as most succeed.
fn renew(store: &Store, leases: Vec<LeaseId>, done: Arc<AtomicBool>) -> tokio::task::JoinHandle<()> {
    let store = store.clone();
    tokio::spawn(async move {
        while !done.load(Ordering::Relaxed) {
            for lease in &leases {
                let renewed = store.renew_lease(*lease).await;
                let gone = matches!(renewed, Err(StoreError::NoSuchLease(_)));
                assert!(!gone, "lease {lease} ended while it was renewed");
            }
            tokio::time::sleep(TTL / 10).await;
        }
    })
}

/// etcd #12528: a leader that was cut off ends no lease when it is back, however long ago it last heard of a renewal.
#[tokio::test(start_paused = true)]
async fn etcd_12528_a_leader_that_was_cut_off_ends_no_lease() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|number| *number != old).collect();
    let leases = leased(cluster.store(old), 5).await;
    let done = Arc::new(AtomicBool::new(false));
    let renewing = renew(cluster.store(others[0]), leases.clone(), done.clone());
    cluster.isolate(old);
    cluster.leader_among(&others).await;
    tokio::time::sleep(TTL * 4).await;
    cluster.net.heal();
    tokio::time::sleep(TTL * 2).await;
    done.store(true, Ordering::Relaxed);
    renewing.await.expect("no lease ends while it is renewed");
    cluster.converge().await;
    assert_eq!(keys(cluster.store(old), "/leased/").len(), leases.len());
    // Nobody renews them any more.
    tokio::time::sleep(TTL * 2).await;
    cluster.converge().await;
    assert!(keys(cluster.store(others[1]), "/leased/").is_empty());
}

/// etcd #15247: a leader whose disk stands still for long ends no lease that was renewed elsewhere in the meantime.
#[tokio::test(start_paused = true)]
async fn etcd_15247_a_leader_whose_disk_stalled_ends_no_lease() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader().await;
    let leases = leased(cluster.store(old), 5).await;
    let done = Arc::new(AtomicBool::new(false));
    let renewing = renew(cluster.store((old + 1) % 3), leases.clone(), done.clone());
    let pace: &AtomicU64 = &cluster.servers[old].pace;
    let usual = pace.swap(2_000_000, Ordering::Relaxed);
    tokio::time::sleep(TTL * 4).await;
    pace.store(usual, Ordering::Relaxed);
    tokio::time::sleep(TTL * 2).await;
    done.store(true, Ordering::Relaxed);
    renewing.await.expect("no lease ends while it is renewed");
    cluster.converge().await;
    assert_eq!(keys(cluster.store(old), "/leased/").len(), leases.len());
}

/// etcd #20616: once a revocation is acknowledged, no renewal succeeds any more, on whichever server it is asked for.
#[tokio::test(start_paused = true)]
async fn etcd_20616_a_revoked_lease_cannot_be_renewed() {
    let cluster = Cluster::start(3).await;
    for round in 0..20 {
        let lease = cluster.store(round % 3).grant_lease(TTL).await.unwrap();
        let revoked = Arc::new(AtomicBool::new(false));
        let renewing: Vec<_> = (0..3)
            .map(|number| {
                let (store, revoked) = (cluster.store(number).clone(), revoked.clone());
                tokio::spawn(async move {
                    loop {
                        let too_late = revoked.load(Ordering::Relaxed);
                        match store.renew_lease(lease).await {
                            Ok(()) => assert!(!too_late, "renewed after it was revoked"),
                            Err(StoreError::NoSuchLease(_)) => return,
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(round as u64)).await;
        cluster.store((round + 1) % 3).revoke_lease(lease).await.unwrap();
        revoked.store(true, Ordering::Relaxed);
        for one in renewing {
            one.await.unwrap();
        }
    }
}
