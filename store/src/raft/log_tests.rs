//! openraft's own suite for a log store and a state machine, over real sled.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::log::LogStore;
use super::machine::RaftMachine;
use super::types::Types;
use crate::disk::Disk;
use crate::disk::checkpoint::Checkpoint;
use crate::disk::journal::Journal;
use crate::mvcc::Machine;
use crate::replica::Replica;

struct Builder;

impl StoreBuilder<Types, LogStore, RaftMachine, (tempfile::TempDir, Disk)> for Builder {
    async fn build(&self) -> Result<((tempfile::TempDir, Disk), LogStore, RaftMachine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        let (journal, contents) = Journal::open(&disk.log).unwrap();
        let (checkpoint, restored) = Checkpoint::open(&disk.state).unwrap();
        let replica = Arc::new(Replica::new(Machine::new()));
        let machine = RaftMachine::open(replica, checkpoint, restored).unwrap();
        Ok(((dir, disk), LogStore::open(journal, contents).unwrap(), machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_and_state_machine_pass_openrafts_suite() {
    Suite::test_all(Builder).await.unwrap();
}
