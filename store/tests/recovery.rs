//! A new cluster out of a backup, and out of one survivor. Real stores over loopback TLS.

mod common;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use kontiki_store::*;

/// Opens a directory whose last user may still be letting go of it.
async fn open(authority: &Authority, dir: &Path, address: &str, start: Start) -> Result<Store, OpenError> {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        match Store::open(config(dir, address, start.clone(), authority.peer())).await {
            Err(OpenError::InUse { .. } | OpenError::Listen { .. })
                if std::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            opened => return opened,
        }
    }
}

fn survivor(dir: &Path) -> Survivor {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        match Survivor::open(dir) {
            Err(RecoveryError::InUse { .. }) if std::time::Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            opened => return opened.unwrap_or_else(|error| panic!("{error}")),
        }
    }
}

async fn lease(store: &Store, key: &str, ttl: Duration) -> LeaseId {
    let lease = store.grant_lease(ttl).await.unwrap();
    let op =
        Op::Put { key: key.to_string().into(), value: "v".into(), attributes: [].into(), lease: Some(lease) };
    store.propose(Txn { guards: vec![], ops: vec![op] }).await.unwrap();
    lease
}

/// What every new cluster keeps to: nobody goes on from a revision of before, and others can join.
async fn is_anew(cluster: Cluster, anew: &Anew, old_revision: Revision) {
    let mut cluster = cluster;
    let store = cluster.store(0).clone();
    assert_eq!((store.cluster_id(), store.member_id()), (anew.cluster_id.as_str(), anew.member));
    assert!(store.revision() >= anew.revision && anew.revision > old_revision + 900_000_000);
    for old in [1, old_revision, old_revision + 1000] {
        let watch = store.watch(Bytes::from_static(b"/"), old);
        assert!(matches!(watch.err(), Some(ReadError::Compacted { .. })), "watched on from {old}");
        let page = store.range(&RangeRequest { revision: Some(old), ..RangeRequest::default() });
        assert!(matches!(page, Err(ReadError::Compacted { .. })), "listed on at {old}");
    }
    write(&store, "/anew", "x").await;
    for _ in 0..2 {
        let joined = cluster.add().await;
        assert!(joined.member_id() > anew.member, "an id is given out twice");
        assert_eq!(value(&joined, "/anew").as_deref(), Some("x"));
    }
    cluster.converge().await;
    cluster.stop(0).await;
    write(cluster.store(1), "/after", "x").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_becomes_a_new_cluster() {
    let old = Cluster::start(3).await;
    let (one, other) = (old.store(0).clone(), old.store(1).clone());
    let kept = lease(&one, "/leased", Duration::from_secs(600)).await;
    for n in 0..40 {
        // Two keys that change together are the same in any state there ever was.
        let ops = vec![put("/pair/a", n.to_string()), put("/pair/b", n.to_string())];
        one.propose(Txn { guards: vec![], ops }).await.unwrap();
    }
    let writing = tokio::spawn(async move {
        for n in 0..60 {
            let ops = vec![put("/pair/a", n.to_string()), put("/pair/b", n.to_string())];
            one.propose(Txn { guards: vec![], ops }).await.unwrap();
        }
    });
    let file: Vec<u8> = other.backup().await.unwrap().flatten().collect();
    writing.await.unwrap();
    let late = write(&other, "/late", "x").await;

    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("store");
    let authority = Authority::new();
    let (summary, anew) = restore_backup(file.as_slice(), &dir, &authority.peer().ca_pem).unwrap();
    assert_eq!(summary.cluster_id, other.cluster_id());
    assert_ne!(anew.cluster_id, summary.cluster_id);
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1, "nothing is left beside");

    let address = free_address();
    let store = open(&authority, &dir, &address, Start::Bootstrap).await.unwrap();
    assert!(value(&store, "/pair/a").is_some());
    assert_eq!(value(&store, "/pair/a"), value(&store, "/pair/b"));
    assert_eq!(value(&store, "/late"), None);
    assert!(store.get(b"/leased").is_some());
    store.renew_lease(kept).await.unwrap();
    assert!(store.grant_lease(Duration::from_secs(60)).await.unwrap() > kept + 1000);
    let server = Server { dir: parent, address, store: Some(store) };
    let cluster = Cluster { authority, servers: vec![server], request: Duration::from_secs(20) };
    is_anew(cluster, &anew, late).await;
}

/// A lease that had nearly run out when the backup was taken has its whole time again, and then runs out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_leases_begin_anew_and_end() {
    let old = Store::in_memory();
    lease(&old, "/short", Duration::from_secs(2)).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let file: Vec<u8> = old.backup().await.unwrap().flatten().collect();
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    restore_backup(file.as_slice(), dir.path(), &authority.peer().ca_pem).unwrap();
    let opened = std::time::Instant::now();
    let store = open(&authority, dir.path(), &free_address(), Start::Bootstrap).await.unwrap();
    let mut ended = None;
    while ended.is_none() {
        assert!(opened.elapsed() < Duration::from_secs(30), "the lease never ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
        ended = store.get(b"/short").is_none().then(|| opened.elapsed());
    }
    assert!(ended > Some(Duration::from_millis(1900)), "the lease ended after {ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_whole_is_not_restored() {
    let old = Store::in_memory();
    for n in 0..20 {
        write(&old, &format!("/{n}"), "x").await;
    }
    let file: Vec<u8> = old.backup().await.unwrap().flatten().collect();
    let (parent, ca) = (tempfile::tempdir().unwrap(), Authority::new().peer().ca_pem);
    let dir = parent.path().join("store");
    let refused = |file: &[u8]| match restore_backup(file, &dir, &ca) {
        Err(RecoveryError::Backup(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    for place in (0..file.len()).step_by(7) {
        let mut damaged = file.clone();
        damaged[place] ^= 0x10;
        refused(&damaged);
        assert!(refused(&file[..place]).contains("ends after"));
    }
    assert!(refused(b"something else entirely").contains("not a backup"));
    assert!(!dir.exists() && std::fs::read_dir(parent.path()).unwrap().count() == 0, "something was changed");

    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("precious"), "data").unwrap();
    let error = restore_backup(file.as_slice(), &dir, &ca).unwrap_err();
    assert!(matches!(error, RecoveryError::NotEmpty { .. }), "{error}");
    assert_eq!(std::fs::read(dir.join("precious")).unwrap(), b"data");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_survivor_becomes_a_new_cluster() {
    let mut old = Cluster::start(3).await;
    let kept = lease(old.store(0), "/leased", Duration::from_secs(600)).await;
    for n in 0..50 {
        write(old.store(n % 3), &format!("/{n}"), "x").await;
    }
    old.converge().await;
    let revision = old.store(0).revision();
    let (member, cluster_id) = (old.store(2).member_id(), old.store(2).cluster_id().to_string());
    let in_use = Survivor::open(old.servers[2].dir.path()).err();
    assert!(matches!(in_use, Some(RecoveryError::InUse { .. })), "a running server is not recovered");
    for number in [0, 1, 2] {
        old.stop(number).await;
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(
        Survivor::open(&empty.path().join("no")).err(),
        Some(RecoveryError::NothingThere { .. })
    ));
    assert!(matches!(Survivor::open(empty.path()).err(), Some(RecoveryError::NothingThere { .. })));

    // As a server lays it out: the store's directory below its own.
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("store");
    std::fs::rename(old.servers[2].dir.path(), &dir).unwrap();
    let survivor = survivor(&dir);
    let found = survivor.found().clone();
    assert_eq!(
        (found.member, found.cluster_id.as_str(), found.revision),
        (member, cluster_id.as_str(), revision)
    );
    assert_eq!((found.members.len(), found.entries), (3, 51));
    assert!(found.last_index > 50 && found.last_term >= 1 && found.term >= found.last_term);
    let meanwhile = Store::open(config(&dir, &free_address(), Start::Bootstrap, old.authority.peer())).await;
    assert!(matches!(meanwhile.err(), Some(OpenError::InUse { .. })), "a server started in between");
    let (anew, aside) = survivor.recover().unwrap();
    assert!(aside.join("member").exists(), "the old directory is kept");
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 2);

    let address = free_address();
    let store = open(&old.authority, &dir, &address, Start::Bootstrap).await.unwrap();
    for n in 0..50 {
        assert_eq!(
            value(&store, &format!("/{n}")).as_deref(),
            Some("x"),
            "/{n} was acknowledged and is gone"
        );
    }
    store.renew_lease(kept).await.unwrap();
    // A server that comes back after all belongs to the old cluster, and is told so.
    let join = Start::Join(vec![address.clone()]);
    let back = open(&old.authority, old.servers[0].dir.path(), &old.servers[0].address, join).await;
    assert!(matches!(back.err(), Some(OpenError::OtherCluster { .. })));
    let server = Server { dir: parent, address, store: Some(store) };
    let cluster =
        Cluster { authority: old.authority, servers: vec![server], request: Duration::from_secs(20) };
    is_anew(cluster, &anew, revision).await;
}
