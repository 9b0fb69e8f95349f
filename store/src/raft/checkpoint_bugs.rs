//! Checkpoints and snapshots that are cut short, or come at the same time.

use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::log_id;
use openraft::{Entry, EntryPayload};

use crate::bugs::alone::{Alone, put, write};
use crate::codec;
use crate::command::{Batch, Command};
use crate::disk::checkpoint::Checkpoint;
use crate::disk::memory::MemoryDisk;
use crate::disk::testing::{chance, in_virtual_time, mount};
use crate::life::Life;
use crate::mvcc::Machine;
use crate::raft::machine::RaftMachine;
use crate::raft::types::{Image, Payload, Position, SnapshotMeta, StoredMembership, Types};
use crate::replica::Replica;
use crate::types::Txn;

/// etcd #14685: a crash at any moment of a checkpoint loses nothing, however large it is.
#[test]
fn etcd_14685_a_crash_in_the_middle_of_a_checkpoint_loses_nothing() {
    for moment in (0..60).step_by(3) {
        in_virtual_time(async {
            let server = Alone::open(&MemoryDisk::new()).await;
            let value = |n: usize| vec![n as u8; 2000 + n * 50];
            for n in 0..60 {
                write(&server.store, vec![put(&format!("/{n}"), value(n))]).await.unwrap();
                if n == 20 {
                    server.store.checkpoint().await.unwrap();
                }
            }
            let revision = server.store.revision();
            let checkpoint = server.store.checkpoint();
            let _ = tokio::time::timeout(Duration::from_millis(moment), checkpoint).await;
            let again = Alone::open(&server.power_cut(moment)).await;
            assert_eq!(again.store.revision(), revision, "cut after {moment} ms");
            for n in 0..60 {
                let held = again.store.get(format!("/{n}").as_bytes()).unwrap();
                assert_eq!(held.value, value(n), "cut after {moment} ms");
            }
        });
    }
}

fn machine_over(disk: &MemoryDisk) -> (RaftMachine, Arc<Replica>) {
    let disk = mount(disk).unwrap();
    let (checkpoint, restored) = Checkpoint::open(disk.database.clone(), &disk.labour).unwrap();
    let replica = Arc::new(Replica::new(Machine::new()));
    (RaftMachine::open(replica.clone(), Arc::new(disk), checkpoint, restored).unwrap(), replica)
}

fn batch(index: u64) -> Batch {
    let ops = vec![put(&format!("/{}", index % 7), vec![index as u8; 3000])];
    Batch { time: index, commands: vec![Command::Txn(Txn { guards: vec![], ops })] }
}

async fn apply(machine: &mut RaftMachine, index: u64) {
    let payload = EntryPayload::Normal(Payload(codec::encode(&batch(index)).into()));
    let entry = Entry { log_id: log_id::<Types>(1, 1, index), payload };
    machine.apply(stream::iter([Ok((entry, None))])).await.unwrap();
}

/// The state after entries up to this one.
fn state_after(last: u64) -> Machine {
    let mut machine = Machine::new();
    (1..=last).for_each(|index| drop(machine.apply(batch(index))));
    machine
}

/// etcd #20653: a snapshot that is installed while a checkpoint is being written is not written over by the older state;
/// and whenever the power goes, what is found is the one or the other, with the position that belongs to it.
#[test]
fn etcd_20653_a_snapshot_installed_during_a_checkpoint_is_not_lost() {
    let mut positions = std::collections::BTreeSet::new();
    for moment in 0..80 {
        in_virtual_time(async {
            let disk = MemoryDisk::new();
            let (mut machine, replica) = machine_over(&disk);
            for index in 1..=20 {
                apply(&mut machine, index).await;
            }
            let (life, mut building, mut installing) = (Life::new(), machine.clone(), machine.clone());
            life.spawn(async move { building.build_snapshot().await.map(drop) });
            let installed = life.spawn(async move {
                // Now the one, now the other comes first.
                tokio::time::sleep(Duration::from_millis(moment % 3)).await;
                let meta = SnapshotMeta {
                    last_log_id: Some(log_id::<Types>(1, 1, 40)),
                    last_membership: StoredMembership::default(),
                };
                installing.install_snapshot(&meta, Image::of(&state_after(40))).await
            });
            tokio::time::sleep(Duration::from_millis(moment)).await;
            let whole = installed.is_finished();
            if whole {
                assert_eq!(replica.machine().counters(), state_after(40).counters());
                assert_eq!(machine.durable().map(|id| id.index), Some(40));
            }
            disk.crash(&mut chance(moment));
            life.end();
            let open = mount(&disk).unwrap();
            let (_, restored) = Checkpoint::open(open.database.clone(), &open.labour).unwrap();
            let (index, found) = match restored {
                None => (0, Machine::new()),
                Some(restored) => {
                    let position: Position = codec::decode(&restored.position).unwrap();
                    (position.applied.map_or(0, |id| id.index), restored.machine)
                }
            };
            assert!([0, 20, 40].contains(&index) && (index == 40 || !whole), "{index} after {moment} ms");
            let expected = state_after(index);
            assert_eq!(found.counters(), expected.counters(), "cut after {moment} ms");
            let keys = |machine: &Machine| machine.view().current.values().cloned().collect::<Vec<_>>();
            assert_eq!(keys(&found), keys(&expected), "cut after {moment} ms");
            positions.insert(index);
        });
    }
    assert_eq!(positions.into_iter().collect::<Vec<_>>(), [0, 20, 40], "every outcome came up");
}
