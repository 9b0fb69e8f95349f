//! openraft's own suite for a log store and a state machine, over real files and over the disk in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::testing::log_id;
use openraft::{EntryPayload, StorageError};

use super::log::LogStore;
use super::machine::RaftMachine;
use super::types::Types;
use crate::disk::checkpoint::Checkpoint;
use crate::disk::memory::MemoryDisk;
use crate::disk::real::RealStorage;
use crate::disk::{Disk, Identity};
use crate::environment::{Labour, Pace, Storage};
use crate::mvcc::Machine;
use crate::replica::Replica;

fn build(storage: Arc<dyn Storage>, labour: Labour) -> (LogStore, RaftMachine) {
    let disk = Disk::open("here".as_ref(), storage, labour).unwrap();
    disk.claim(&Identity { cluster_id: "c".to_string(), member: 1, authority: Vec::new() }).unwrap();
    let (journal, contents) = disk.journal().unwrap();
    let (checkpoint, restored) = Checkpoint::open(disk.database.clone(), &disk.labour).unwrap();
    let replica = Arc::new(Replica::new(Machine::new()));
    let machine = RaftMachine::open(replica, Arc::new(disk), checkpoint, restored).unwrap();
    machine.stands_on(journal.clone());
    (LogStore::open(journal, contents).unwrap(), machine)
}

struct OverFiles;

impl StoreBuilder<Types, LogStore, RaftMachine, tempfile::TempDir> for OverFiles {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, RaftMachine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let (log, machine) = build(Arc::new(RealStorage::new(dir.path())), Labour::Threads);
        Ok((dir, log, machine))
    }
}

struct InMemory;

struct Millisecond;

impl Pace for Millisecond {
    fn sync(&self) -> Duration {
        Duration::from_millis(1)
    }
}

impl StoreBuilder<Types, LogStore, RaftMachine, MemoryDisk> for InMemory {
    async fn build(&self) -> Result<(MemoryDisk, LogStore, RaftMachine), StorageError<Types>> {
        let disk = MemoryDisk::new();
        let (log, machine) = build(disk.mount(), Labour::Inline(Arc::new(Millisecond)));
        Ok((disk, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_and_state_machine_pass_openrafts_suite_over_files() {
    Suite::test_all(OverFiles).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn log_and_state_machine_pass_openrafts_suite_in_memory() {
    Suite::test_all(InMemory).await.unwrap();
}

/// A disk whose syncs take a minute once it stalls.
#[derive(Default)]
struct Stalling(AtomicBool);

impl Pace for Stalling {
    fn sync(&self) -> Duration {
        if self.0.swap(false, Ordering::Relaxed) { Duration::from_secs(60) } else { Duration::from_millis(1) }
    }
}

/// A follower applies what a quorum of others has, while its own disk stalls. A checkpoint of that must not survive a
/// power cut that the log does not survive.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_never_gets_ahead_of_the_log() {
    let (disk, pace) = (MemoryDisk::new(), Arc::new(Stalling::default()));
    let (mut log, mut machine) = build(disk.mount(), Labour::Inline(pace.clone()));
    pace.0.store(true, Ordering::Relaxed);
    let entry = openraft::Entry { log_id: log_id::<Types>(1, 1, 0), payload: EntryPayload::Blank };
    log.append([entry.clone()], IOFlushed::noop()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    machine.apply(stream::iter([Ok((entry, None))])).await.unwrap();
    let checkpoint = tokio::time::timeout(Duration::from_secs(10), machine.build_snapshot()).await;
    assert!(checkpoint.is_err(), "a checkpoint was written before the log was durable");
    disk.crash(&mut |_| 0);
    let open = Disk::open("here".as_ref(), disk.mount(), Labour::Inline(pace)).unwrap();
    let (_, restored) = Checkpoint::open(open.database.clone(), &open.labour).unwrap();
    assert!(restored.is_none(), "the checkpoint is ahead of the log");
}
