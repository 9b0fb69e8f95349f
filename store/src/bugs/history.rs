//! Compaction at a delete, and a key that is deleted and made again.

use std::sync::Arc;

use bytes::Bytes;

use super::alone::{delete, put};
use crate::command::{Batch, Command};
use crate::disk::testing::in_virtual_time;
use crate::mvcc::Machine;
use crate::replica::Replica;
use crate::types::*;
use crate::watch::Watcher;

fn replica() -> Replica {
    Replica::new(Machine::new())
}

fn apply(replica: &Replica, command: Command) {
    replica.apply(vec![Batch { time: 1, commands: vec![command] }]);
}

fn txn(replica: &Replica, ops: Vec<Op>) -> Revision {
    apply(replica, Command::Txn(Txn { guards: vec![], ops }));
    replica.view().revision
}

fn compact(replica: &Replica, revision: Revision) {
    apply(replica, Command::Compact { revision });
}

fn at(replica: &Replica, key: &str, revision: Revision) -> Result<Option<Arc<Entry>>, ReadError> {
    let request =
        RangeRequest { prefix: key.to_string().into(), revision: Some(revision), ..RangeRequest::default() };
    replica.view().range(&request).map(|range| range.entries.first().cloned())
}

async fn next(watcher: &mut Watcher) -> Vec<Change> {
    loop {
        match watcher.next().await.unwrap() {
            WatchItem::Changes(changes) => return changes.to_vec(),
            WatchItem::Progress(_) => {}
        }
    }
}

fn watch(replica: &Replica, after: Revision) -> Result<Watcher, ReadError> {
    Watcher::open(replica.feed().clone(), Bytes::new(), after)
}

/// etcd #18089: a watcher that began before a delete gets the delete or is told to list again, also where the history is
/// compacted at the very revision of the delete. It is never left believing that the key is there.
#[test]
fn etcd_18089_compaction_at_a_delete_does_not_swallow_it() {
    in_virtual_time(async {
        let replica = replica();
        let made = txn(&replica, vec![put("/a", "x")]);
        let mut early = watch(&replica, made).unwrap();
        let gone = txn(&replica, vec![delete("/a")]);
        compact(&replica, gone);
        match early.next().await {
            Ok(WatchItem::Changes(changes)) => {
                assert!(changes[0].deleted && changes[0].revision == gone);
                assert_eq!(changes[0].previous.as_ref().unwrap().value, "x");
            }
            Ok(WatchItem::Progress(revision)) => assert!(revision < gone, "the delete was skipped"),
            Err(error) => assert_eq!(error, WatchError::TooSlow),
        }
        let late = watch(&replica, made).err();
        assert_eq!(late, Some(ReadError::Compacted { asked: made, oldest: gone }));
        // Whoever listed at the delete's own revision goes on from there.
        let mut after = watch(&replica, gone).unwrap();
        let again = txn(&replica, vec![put("/a", "y")]);
        let change = next(&mut after).await.remove(0);
        assert_eq!((change.revision, change.entry.version, change.previous), (again, 1, None));
    });
}

/// etcd #19179: after a compaction at a delete's revision, what was written later is still found, at every revision that
/// may be asked for.
#[test]
fn etcd_19179_compaction_at_a_delete_keeps_what_was_written_later() {
    for upto in 0..6 {
        let replica = replica();
        let made = txn(&replica, vec![put("/a", "x")]);
        let gone = txn(&replica, vec![delete("/a")]);
        let again = txn(&replica, vec![put("/a", "y")]);
        let gone_again = txn(&replica, vec![delete("/a")]);
        let last = txn(&replica, vec![put("/a", "z"), put("/b", "z")]);
        compact(&replica, made + upto);
        let oldest = replica.view().oldest;
        let expected =
            [(made, Some("x")), (gone, None), (again, Some("y")), (gone_again, None), (last, Some("z"))];
        for (revision, value) in expected {
            let found = at(&replica, "/a", revision);
            if revision < oldest {
                assert_eq!(found, Err(ReadError::Compacted { asked: revision, oldest }));
                continue;
            }
            let found = found.unwrap();
            assert_eq!(found.as_ref().map(|entry| entry.value.as_ref()), value.map(str::as_bytes));
            assert!(found.is_none_or(|entry| entry.version == 1 && entry.create_revision == revision));
        }
    }
}

/// etcd #22376: deleted and made again in one revision, a key is a new object: one change, version 1, made at that revision,
/// with the old value as what was before; and compaction at that revision leaves it.
#[test]
fn etcd_22376_deleted_and_made_again_in_one_revision() {
    in_virtual_time(async {
        let replica = replica();
        txn(&replica, vec![put("/a", "x")]);
        let before = txn(&replica, vec![put("/a", "y")]);
        let mut watcher = watch(&replica, before).unwrap();
        let swapped = txn(&replica, vec![delete("/a"), put("/a", "z")]);
        assert_eq!(swapped, before + 1);
        let changes = next(&mut watcher).await;
        assert_eq!(changes.len(), 1);
        let change = &changes[0];
        assert!(!change.deleted);
        assert_eq!(change.previous.as_ref().unwrap().value, "y");
        let entry = &change.entry;
        assert_eq!((entry.version, entry.create_revision, entry.mod_revision), (1, swapped, swapped));
        assert_eq!(at(&replica, "/a", before).unwrap().unwrap().value, "y");
        compact(&replica, swapped);
        assert_eq!(at(&replica, "/a", swapped).unwrap().unwrap(), *entry);
        // Made and deleted in one revision, a key that was not there never was.
        let nothing = txn(&replica, vec![put("/b", "x"), delete("/b")]);
        assert_eq!(nothing, swapped, "nothing changed");
        assert_eq!(at(&replica, "/b", swapped), Ok(None));
    });
}
