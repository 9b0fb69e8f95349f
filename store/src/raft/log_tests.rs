//! openraft's own suite for a log store and a state machine, over real files and over the disk in memory.

use std::sync::Arc;
use std::time::Duration;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

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
