//! After a restore nobody goes on from a revision of before: etcd #16028, kubernetes#118501.
//!
//! There a restored store took up its revisions where the backup had them. Clients that had seen newer ones of the old
//! store waited for revisions that meant something else now, or took old objects for newer than the ones that were there.

use bytes::Bytes;

use crate::backup::{Backup, State, read_state};
use crate::command::{Batch, Command, Reply};
use crate::mvcc::Machine;
use crate::recovery::{REVISION_STEP, anew};
use crate::replica::Replica;
use crate::types::{Op, Outcome, RangeRequest, ReadError, Txn};
use crate::watch::Watcher;

fn put(key: &str) -> Command {
    let op = Op::Put { key: key.to_string().into(), value: "v".into(), attributes: [].into(), lease: None };
    Command::Txn(Txn { guards: vec![], ops: vec![op] })
}

fn write(machine: &mut Machine, key: &str) -> u64 {
    let applied = machine.apply(&Batch { time: 5000, commands: vec![put(key)] });
    match &applied.replies[0] {
        Reply::Txn(Outcome::Committed { revision }) => *revision,
        other => panic!("{other:?}"),
    }
}

/// A store with ten writes, its backup, and ten more writes that the backup does not know.
fn before() -> (Vec<u8>, Machine) {
    let mut machine = Machine::new();
    for number in 0..10 {
        write(&mut machine, &format!("/{number}"));
    }
    let file = Backup::new("old".to_string(), State::of(&machine)).flatten().collect();
    for number in 0..10 {
        write(&mut machine, &format!("/later/{number}"));
    }
    (file, machine)
}

fn restored(file: &[u8]) -> Machine {
    anew(read_state(file).unwrap().1).0
}

#[test]
fn etcd_16028_a_restored_store_is_ahead_of_every_revision_the_old_one_gave_out() {
    let (file, old) = before();
    let mut new = restored(&file);
    assert_eq!(new.view().revision, 11 + REVISION_STEP);
    assert!(new.view().revision > old.view().revision);
    assert!(write(&mut new, "/first") > new.view().oldest);
    let (left, here) = (new.counters().clone(), old.counters());
    assert!(
        left.next_lease > here.next_lease && left.next_member > here.next_member,
        "an id is given out twice"
    );
}

#[test]
fn kubernetes_118501_whoever_watched_or_listed_before_a_restore_lists_again() {
    let (file, old) = before();
    let replica = Replica::new(restored(&file));
    for revision in 1..=old.view().revision {
        let watch = Watcher::open(replica.feed().clone(), Bytes::from_static(b"/"), revision);
        assert!(matches!(watch.err(), Some(ReadError::Compacted { .. })), "watched on from {revision}");
        let request = RangeRequest { revision: Some(revision), ..RangeRequest::default() };
        let page = replica.view().range(&request);
        assert!(matches!(page, Err(ReadError::Compacted { .. })), "listed on at {revision}");
    }
    let listed = replica.view().range(&RangeRequest::default()).unwrap();
    assert_eq!(listed.entries.len(), 10);
    assert!(Watcher::open(replica.feed().clone(), Bytes::from_static(b"/"), listed.revision).is_ok());
}
