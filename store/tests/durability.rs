//! One server is a cluster of one, as durable as any. This file counts the program's true syncs: it shadows `fsync`.

mod common;

use std::os::raw::c_int;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::*;
use kontiki_store::*;

static SYNCS: AtomicU64 = AtomicU64::new(0);
static SYNCS_OF_DATA: AtomicU64 = AtomicU64::new(0);

#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    SYNCS.fetch_add(1, Ordering::SeqCst);
    // SAFETY: the call itself, which checks its descriptor.
    unsafe { libc::syscall(libc::SYS_fsync, fd) as c_int }
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    SYNCS_OF_DATA.fetch_add(1, Ordering::SeqCst);
    // SAFETY: the call itself, which checks its descriptor.
    unsafe { libc::syscall(libc::SYS_fdatasync, fd) as c_int }
}

fn syncs() -> u64 {
    SYNCS.load(Ordering::SeqCst) + SYNCS_OF_DATA.load(Ordering::SeqCst)
}

async fn alone(dir: &std::path::Path, authority: &Authority) -> Result<Store, OpenError> {
    Store::open(config(dir, &free_address(), Start::Bootstrap, authority.peer())).await
}

/// etcd #14370: nothing is acknowledged before an fsync of its own. And many writes at once share one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_was_synced_and_many_share_a_sync() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let store = alone(dir.path(), &authority).await.unwrap();
    for n in 0..20 {
        let before = syncs();
        write(&store, &format!("/{n}"), "v").await;
        assert!(syncs() > before, "write {n} was acknowledged without a sync");
    }
    let before = syncs();
    let writes = (0..500).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { write(&store, &format!("/many/{n}"), "v").await })
    });
    for done in futures::future::join_all(writes).await {
        done.unwrap();
    }
    let shared = syncs() - before;
    assert!((1..250).contains(&shared), "500 writes at once took {shared} syncs");
    store.shutdown().await;
}

/// A server that is not shut down, but forgotten, has everything it acknowledged when it is opened again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_crash() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let copy = tempfile::tempdir().unwrap();
    let store = alone(dir.path(), &authority).await.unwrap();
    let mut newest = 0;
    for n in 0..40usize {
        newest = write(&store, &format!("/{n}"), &"x".repeat(n * 7000)).await;
    }
    // The disk as it is now, with the server still running: what a kill would leave.
    copy_tree(dir.path(), copy.path());
    let again = alone(copy.path(), &authority).await.unwrap();
    assert_eq!(again.cluster_id(), store.cluster_id());
    assert_eq!(again.revision(), newest);
    for n in 0..40usize {
        assert_eq!(value(&again, &format!("/{n}")), Some("x".repeat(n * 7000)));
    }
    assert!(write(&again, "/more", "x").await > newest);
    store.shutdown().await;
    again.shutdown().await;
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A checkpoint is written, the log below it purged, and what is opened again is the same; the revision is stored, not
/// counted (etcd #17780).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_log_is_checkpointed_and_purged_and_nothing_is_missing() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let store = alone(dir.path(), &authority).await.unwrap();
    let writers = (0..32).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..60 {
                let op = put(&format!("/{writer}/{}", n % 10), vec![n as u8; 20_000]);
                store.propose(Txn { guards: vec![], ops: vec![op] }).await.unwrap();
            }
        })
    });
    for done in futures::future::join_all(writers).await {
        done.unwrap();
    }
    let newest = write(&store, "/deleted-last", "x").await;
    let delete = Txn { guards: vec![], ops: vec![Op::Delete { key: "/deleted-last".into() }] };
    let Ok(Outcome::Committed { revision }) = store.propose(delete).await else { panic!("no delete") };
    assert_eq!(revision, newest + 1);
    store.checkpoint().await.unwrap();
    write(&store, "/behind-the-checkpoint", "x").await;
    let revision = store.revision();
    store.shutdown().await;
    drop(store);
    let store = loop {
        match alone(dir.path(), &authority).await {
            Err(OpenError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            opened => break opened.unwrap(),
        }
    };
    assert_eq!(store.revision(), revision);
    for writer in 0..32 {
        for n in 50..60u8 {
            let entry = store.get(format!("/{writer}/{}", n % 10).as_bytes()).unwrap();
            assert_eq!(entry.value, vec![n; 20_000]);
        }
    }
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_in_use_of_another_authority_or_damaged_is_refused() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let store = alone(dir.path(), &authority).await.unwrap();
    write(&store, "/a", "x").await;
    assert!(matches!(alone(dir.path(), &authority).await.err(), Some(OpenError::InUse { .. })));
    let copies: Vec<tempfile::TempDir> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    store.shutdown().await;
    drop(store);
    for copy in &copies {
        copy_tree(dir.path(), copy.path());
    }
    let other = Authority::new();
    assert!(matches!(alone(copies[0].path(), &other).await.err(), Some(OpenError::OtherAuthority { .. })));

    std::fs::remove_dir_all(copies[1].path().join("checkpoint")).unwrap();
    let error = alone(copies[1].path(), &authority).await.err().unwrap();
    assert!(
        matches!(error, OpenError::Corrupt { .. }) && error.to_string().contains("join again"),
        "{error}"
    );

    let first =
        copies[2].path().join("log").read_dir().unwrap().flatten().map(|entry| entry.path()).min().unwrap();
    let mut bytes = std::fs::read(&first).unwrap();
    bytes.iter_mut().skip(700).take(300).for_each(|byte| *byte ^= 0x55);
    std::fs::write(&first, bytes).unwrap();
    let error = alone(copies[2].path(), &authority).await.err();
    assert!(matches!(error, Some(OpenError::Corrupt { .. })), "{error:?}");

    assert!(matches!(
        Store::open(config(copies[3].path(), "127.0.0.1:0", Start::Bootstrap, authority.peer())).await.err(),
        Some(OpenError::Config { field: "peer_listen", .. })
    ));
    let mut wrong = config(copies[3].path(), &free_address(), Start::Bootstrap, authority.issue("somebody"));
    let error = Store::open(wrong.clone()).await.err().unwrap();
    assert!(matches!(error, OpenError::Tls { field: "cert_pem", .. }), "{error}");
    wrong.tls.cert_pem = "nonsense".to_string();
    assert!(matches!(Store::open(wrong).await.err(), Some(OpenError::Tls { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_or_has_no_lease_is_refused_and_changes_nothing() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let store = alone(dir.path(), &authority).await.unwrap();
    let before = store.revision();
    let large = Txn { guards: vec![], ops: vec![put("/a", vec![0; 3 << 20])] };
    assert!(matches!(store.propose(large).await, Err(StoreError::TooLarge { .. })));
    let mut op = put("/a", "x");
    if let Op::Put { lease, .. } = &mut op {
        *lease = Some(77);
    }
    assert_eq!(store.propose(Txn { guards: vec![], ops: vec![op] }).await, Err(StoreError::NoSuchLease(77)));
    assert_eq!(store.revision(), before);
    store.shutdown().await;
    assert_eq!(store.propose(Txn::default()).await, Err(StoreError::Stopped));
    assert_eq!(store.barrier().await, Err(StoreError::Stopped));
}
