//! Servers that apply the same log come to the same bytes, whatever else happened to them.

use std::sync::Arc;

use super::alone::{delete, put};
use crate::codec;
use crate::command::{Batch, Command};
use crate::disk::checkpoint::{Checkpoint, Dirty};
use crate::disk::memory::MemoryDisk;
use crate::disk::testing::{chance, mount};
use crate::mvcc::Machine;
use crate::types::{Guard, Op, Txn};

fn random_command(random: &mut impl FnMut(u64) -> u64) -> Command {
    let key = |random: &mut dyn FnMut(u64) -> u64| format!("/{}", random(6));
    match random(10) {
        0 => Command::GrantLease { ttl: random(20) },
        1 => Command::RevokeLease { lease: random(5) },
        2 => Command::ExpireLeases { leases: (0..6).collect() },
        3 => Command::RenewLease { lease: random(5) },
        _ => {
            let guards = (0..random(3))
                .map(|_| Guard { key: key(random).into(), mod_revision: random(3) * random(20) })
                .collect();
            let mut ops: Vec<Op> = (0..random(4))
                .map(|_| match random(3) {
                    0 => delete(&key(random)),
                    _ => put(&key(random), random(1000).to_string()),
                })
                .collect();
            if let Some(Op::Put { lease, .. }) = ops.last_mut()
                && random(2) == 0
            {
                // It may not exist: then nothing of the transaction happens, anywhere.
                *lease = Some(random(5));
            }
            Command::Txn(Txn { guards, ops })
        }
    }
}

/// etcd #18667: all members apply the same transaction to the same bytes: also the one that was restored from its checkpoint
/// half-way, and the one whose history was compacted at another time. Compared by the rolling hash, after each entry.
#[test]
fn etcd_18667_all_members_apply_the_same_entry_to_the_same_bytes() {
    for seed in 0..40 {
        let mut random = chance(seed);
        let (mut steady, mut compacted, mut restored) = (Machine::new(), Machine::new(), Machine::new());
        let open = mount(&MemoryDisk::new()).unwrap();
        for entry in 0..80 {
            let commands = (0..random(3) + 1).map(|_| random_command(&mut random)).collect();
            let batch = Batch { time: entry * 3, commands };
            // What a follower applies went through the log.
            let read: Batch = codec::decode(&codec::encode(&batch)).unwrap();
            let replies = steady.apply(batch).replies;
            assert_eq!(compacted.apply(read.clone()).replies, replies);
            assert_eq!(restored.apply(read).replies, replies);
            if entry % 7 == 0 {
                let revision = compacted.counters().revision;
                compacted.apply(Batch { time: 0, commands: vec![Command::Compact { revision }] });
            }
            if entry % 11 == 0 {
                let (mut checkpoint, _) = Checkpoint::open(open.database.clone(), &open.labour).unwrap();
                let mut dirty = Dirty::default();
                dirty.leases.extend(0..200);
                (0..6).for_each(|n| dirty.key(format!("/{n}").as_bytes(), true));
                let plan = checkpoint.advance(restored.clone(), dirty, Vec::new()).unwrap();
                checkpoint.write(plan).unwrap();
                let (_, found) = Checkpoint::open(open.database.clone(), &open.labour).unwrap();
                restored = found.unwrap().machine;
            }
            for other in [&compacted, &restored] {
                assert_eq!(other.counters(), steady.counters(), "seed {seed}, entry {entry}");
                let entries = |machine: &Machine| -> Vec<Arc<crate::types::Entry>> {
                    machine.view().current.values().cloned().collect()
                };
                assert_eq!(entries(other), entries(&steady), "seed {seed}, entry {entry}");
                assert_eq!(other.leases().table(), steady.leases().table());
            }
        }
    }
}
