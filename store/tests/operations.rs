//! Operations on a cluster that lives, and what is refused to keep it alive. Real stores over loopback TLS.

mod common;

use std::path::Path;

use common::*;
use kontiki_store::*;

fn refusal<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Membership(problem)) => problem,
        other => panic!("not refused: {other:?}"),
    }
}

/// Starts a server with an empty directory that asks the running ones for admission.
fn newcomer(cluster: &Cluster) -> (tempfile::TempDir, String, tokio::task::JoinHandle<Store>) {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let members = cluster.servers.iter().filter(|server| server.store.is_some());
    let join = Start::Join(members.map(|server| server.address.clone()).collect());
    let config = config(dir.path(), &address, join, cluster.authority.peer());
    let opening = tokio::spawn(async move { Store::open(config).await.unwrap() });
    (dir, address, opening)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_server_is_replaced_by_one_command() {
    let mut cluster = Cluster::start(3).await;
    write(cluster.store(0), "/before", "x").await;
    let leader = cluster.leader().await;
    let (dead, asked) = ((leader + 1) % 3, (leader + 2) % 3);
    let gone = cluster.store(dead).member_id();
    cluster.stop(dead).await;

    let (dir, address, opening) = newcomer(&cluster);
    let id = cluster.store(asked).replace(gone, &address).await.unwrap();
    let store = opening.await.unwrap();
    assert_eq!((id, store.member_id()), (4, 4), "ids are never reused");
    assert_eq!(cluster.store(asked).replace(gone, &address).await, Ok(id), "asked again, it is done already");
    cluster.servers[dead] = Server { dir, address, store: Some(store.clone()) };

    write(&store, "/after", "x").await;
    cluster.converge().await;
    assert_eq!(value(&store, "/before").as_deref(), Some("x"));
    let status = store.status().await;
    assert!(status.members.iter().all(|member| member.reachable && member.voter && member.id != gone));
    assert_eq!(status.members.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_is_refused_where_it_would_do_harm() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (other, asked) = ((leader + 1) % 3, cluster.store((leader + 2) % 3).clone());
    let id = cluster.store(other).member_id();
    let nowhere = free_address();
    for alive in [id, cluster.store(leader).member_id()] {
        let problem = refusal(asked.replace(alive, &nowhere).await);
        assert!(problem.contains(&format!("member {alive} is alive")), "{problem}");
    }
    let problem = refusal(asked.replace(77, &nowhere).await);
    assert!(problem.contains("there is no member 77"), "{problem}");
    cluster.stop(other).await;
    let problem = refusal(asked.replace(id, &nowhere).await);
    assert!(problem.contains("no new server is waiting at"), "{problem}");
    let status = asked.status().await;
    assert_eq!(status.members.len(), 3, "nothing was changed");
    write(&asked, "/still", "x").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_member_leaves_that_the_quorum_needs() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (dead, needed) = ((leader + 1) % 3, (leader + 2) % 3);
    let (dead_id, needed_id) = (cluster.store(dead).member_id(), cluster.store(needed).member_id());
    cluster.stop(dead).await;
    let store = cluster.store(leader).clone();
    let problem = refusal(store.leave(needed_id).await);
    assert!(problem.contains("would stop") && problem.contains(&format!("member {dead_id}")), "{problem}");
    write(&store, "/still", "x").await;
    store.leave(dead_id).await.unwrap();
    store.leave(needed_id).await.unwrap();
    write(&store, "/alone", "x").await;
    let problem = refusal(store.leave(store.member_id()).await);
    assert!(problem.contains("last voter"), "{problem}");
    write(&store, "/alone", "y").await;
}

/// A server that nobody can reach becomes no member, and one that is not there is not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_down_is_not_added() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store(0);
    let dir = tempfile::tempdir().unwrap();
    let join = Start::Join(vec![cluster.servers[0].address.clone()]);
    let mut config = config(dir.path(), &free_address(), join, cluster.authority.peer());
    config.peer_advertise = free_address();
    let opening = tokio::spawn(Store::open(config.clone()));
    let problem = refusal(store.join(&config.peer_advertise, "").await);
    assert!(problem.contains("nobody listens at"), "{problem}");
    opening.abort();
    assert_eq!(store.status().await.members.len(), 1);
    write(store, "/still", "x").await;
}

/// Two servers must not act under one id: of a directory and its copy, one is turned away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_directory_is_turned_away() {
    let mut cluster = Cluster::start(3).await;
    write(cluster.store(0), "/a", "x").await;
    cluster.converge().await;
    let number = (cluster.leader().await + 1) % 3;
    let id = cluster.store(number).member_id();
    cluster.stop(number).await;
    let twin = tempfile::tempdir().unwrap();
    copy(cluster.servers[number].dir.path(), twin.path());
    cluster.start_again(number).await;

    let at = |address: &str| config(twin.path(), address, Start::Bootstrap, cluster.authority.peer());
    let open = |address: String| {
        let config = at(&address);
        async move { Store::open(config).await.err().map(|error| (error.to_string(), error)) }
    };
    let (said, error) = open(cluster.servers[number].address.clone()).await.unwrap();
    assert!(matches!(error, OpenError::Twin { member, .. } if member == id), "{said}");
    let (said, error) = open(free_address()).await.unwrap();
    assert!(matches!(error, OpenError::OtherAddress { member, .. } if member == id), "{said}");
    assert!(said.contains(&format!("kontiki cluster replace {id} --with")), "{said}");

    cluster.converge().await;
    write(cluster.store(number), "/b", "x").await;
    assert_eq!(cluster.store(0).status().await.members.len(), 3);
}

/// A single server may move: those who join it are told where it is now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_alone_takes_its_new_address_along() {
    let mut cluster = Cluster::start(1).await;
    write(cluster.store(0), "/a", "x").await;
    cluster.stop(0).await;
    cluster.servers[0].address = free_address();
    let store = cluster.start_again(0).await;
    let status = store.status().await;
    assert_eq!(status.members[0].address, cluster.servers[0].address);
    assert_eq!(store.client_addresses(), [format!("api-of-{}", cluster.servers[0].address)]);
    cluster.add().await;
    cluster.converge().await;
}

/// A backup is taken while writes go on, on any server, and holds everything acknowledged before it was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_whole_wherever_it_is_taken() {
    let cluster = Cluster::start(3).await;
    for number in 0..3 {
        let store = cluster.store(number).clone();
        let acknowledged = write(cluster.store((number + 1) % 3), &format!("/n/{number}"), "x").await;
        let writer = store.clone();
        let writing = tokio::spawn(async move {
            for n in 0..50 {
                write(&writer, &format!("/meanwhile/{n}"), "x").await;
            }
        });
        let mut backup = store.backup().await.unwrap();
        let expected = backup.summary();
        assert!(expected.revision >= acknowledged);
        let mut check = BackupCheck::new();
        for piece in &mut backup {
            check.push(&piece).unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(check.finish().unwrap(), BackupSummary { bytes: backup.summary().bytes, ..expected });
        writing.await.unwrap();
    }
}
