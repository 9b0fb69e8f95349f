//! What the disk layer holds over a reopening, and what it refuses.

use std::sync::Arc;
use std::sync::mpsc::channel;

use bytes::Bytes;

use super::checkpoint::{Checkpoint, Dirty};
use super::journal::{Contents, Journal};
use super::{CHUNK, Disk, DiskError, Identity};
use crate::command::{Batch, Command};
use crate::mvcc::Machine;
use crate::types::{Op, Txn};

fn identity() -> Identity {
    Identity { cluster_id: "c".to_string(), member: 1, authority: vec![7; 32] }
}

fn disk(dir: &tempfile::TempDir) -> Disk {
    let disk = Disk::open(dir.path()).unwrap();
    disk.claim(&identity()).unwrap();
    disk
}

fn append(journal: &Journal, records: Vec<(u64, Bytes)>) {
    let (told, done) = channel();
    journal.append(records, Box::new(move |result| told.send(result).unwrap())).unwrap();
    done.recv().unwrap().unwrap();
}

fn close(journal: &Journal) {
    let (told, done) = channel();
    journal.stop(Box::new(move |result| told.send(result).unwrap())).unwrap();
    done.recv().unwrap().unwrap();
}

fn record(index: u64, size: usize) -> Bytes {
    (0..size).map(|place| (index as usize * 31 + place * 7) as u8).collect::<Vec<u8>>().into()
}

fn reopen(journal: Journal, disk: Disk, dir: &tempfile::TempDir) -> (Disk, Journal, Contents) {
    close(&journal);
    drop((journal, disk));
    // The writer's thread lets go of the database a moment after it said so.
    let disk = loop {
        match Disk::open(dir.path()) {
            Err(DiskError::InUse) => std::thread::sleep(std::time::Duration::from_millis(10)),
            opened => break opened.unwrap(),
        }
    };
    let (journal, contents) = Journal::open(&disk.log).unwrap();
    (disk, journal, contents)
}

#[test]
fn records_of_all_sizes_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let first = disk(&dir);
    let (journal, _) = Journal::open(&first.log).unwrap();
    let sizes = [0, 1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 50_000, 300_000, 1_200_000];
    let records: Vec<(u64, Bytes)> =
        sizes.iter().enumerate().map(|(index, size)| (index as u64, record(index as u64, *size))).collect();
    append(&journal, records.clone());
    let (again, journal, contents) = reopen(journal, first, &dir);
    assert_eq!(contents.records.into_iter().collect::<Vec<_>>(), records);
    assert_eq!(journal.read(9).unwrap(), Some(record(9, 1_200_000)));
    assert!(
        !dir.path().join("log/blobs").exists()
            || dir.path().join("log/blobs").read_dir().unwrap().count() == 0
    );
    assert_eq!(again.identity().unwrap(), Some(identity()));
}

/// Whatever is written, sled keeps it in the file it syncs.
#[test]
fn no_value_leaves_for_a_file_that_is_never_synced() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir);
    let (journal, _) = Journal::open(&disk.log).unwrap();
    let (mut checkpoint, _) = Checkpoint::open(&disk.state).unwrap();
    let (mut machine, mut dirty) = (Machine::new(), Dirty::default());
    for round in 0..3u64 {
        let records: Vec<(u64, Bytes)> =
            (0..40).map(|n| (round * 40 + n, record(n, 200_000 + n as usize))).collect();
        append(&journal, records);
        let ops = (0..40).map(|n| put(&format!("/{round}/{n}"), 100_000)).collect();
        write(&mut machine, &mut dirty, ops);
        checkpoint.advance(&machine, &std::mem::take(&mut dirty), vec![round as u8]).unwrap();
    }
    for database in ["log", "checkpoint"] {
        let blobs = dir.path().join(database).join("blobs");
        let count = blobs.read_dir().map_or(0, |entries| entries.count());
        assert_eq!(count, 0, "{database} has blobs");
    }
}

#[test]
fn what_is_truncated_or_purged_stays_away() {
    let dir = tempfile::tempdir().unwrap();
    let first = disk(&dir);
    let (journal, _) = Journal::open(&first.log).unwrap();
    append(&journal, (0..10).map(|index| (index, record(index, 100_000))).collect());
    journal.truncate(6).unwrap();
    append(&journal, vec![(6, record(600, 10))]);
    journal.purge(3).unwrap();
    let (_disk, _journal, contents) = reopen(journal, first, &dir);
    assert_eq!(contents.purged_below, 3);
    let held: Vec<u64> = contents.records.keys().copied().collect();
    assert_eq!(held, [3, 4, 5, 6]);
    assert_eq!(contents.records[&6], record(600, 10));
}

#[test]
fn a_hole_in_the_log_is_damage_and_a_torn_end_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let first = disk(&dir);
    let (journal, _) = Journal::open(&first.log).unwrap();
    append(&journal, (0..3).map(|index| (index, record(index, 100_000))).collect());
    let entries = first.log.open_tree("entries").unwrap();
    let last_chunk = entries.iter().keys().next_back().unwrap().unwrap();
    entries.remove(last_chunk).unwrap();
    drop(entries);
    let (disk, journal, contents) = reopen(journal, first, &dir);
    assert_eq!(
        contents.records.keys().copied().collect::<Vec<_>>(),
        [0, 1],
        "the torn record was never acknowledged"
    );
    let entries = disk.log.open_tree("entries").unwrap();
    for key in entries.scan_prefix(0u64.to_be_bytes()).keys() {
        entries.remove(key.unwrap()).unwrap();
    }
    close(&journal);
    assert!(matches!(Journal::open(&disk.log), Err(DiskError::Corrupt(_))));
}

#[test]
fn an_open_directory_cannot_be_opened_twice() {
    let dir = tempfile::tempdir().unwrap();
    let _disk = disk(&dir);
    assert!(matches!(Disk::open(dir.path()), Err(DiskError::InUse)));
}

fn write(machine: &mut Machine, dirty: &mut Dirty, ops: Vec<Op>) {
    let batch = Batch { time: 1, commands: vec![Command::Txn(Txn { guards: vec![], ops })] };
    for event in machine.apply(&batch).events {
        dirty.keys.extend(event.changes.iter().map(|change| change.entry.key.clone()));
    }
}

fn put(key: &str, size: usize) -> Op {
    Op::Put {
        key: key.to_string().into(),
        value: record(size as u64, size),
        attributes: Arc::from([]),
        lease: None,
    }
}

fn check(disk: &Disk, machine: &Machine, position: &[u8]) {
    let (_, restored) = Checkpoint::open(&disk.state).unwrap();
    let restored = restored.unwrap();
    assert_eq!(restored.position, position);
    assert_eq!(restored.machine.counters(), machine.counters());
    let entries = |machine: &Machine| machine.view().current.values().cloned().collect::<Vec<_>>();
    assert_eq!(entries(&restored.machine), entries(machine));
    assert_eq!(restored.machine.leases().table(), machine.leases().table());
}

#[test]
fn checkpoints_add_up_to_the_state() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir);
    let (mut checkpoint, restored) = Checkpoint::open(&disk.state).unwrap();
    assert!(restored.is_none());
    let (mut machine, mut dirty) = (Machine::new(), Dirty::default());
    machine.apply(&Batch { time: 1, commands: vec![Command::GrantLease { ttl: 5 }, Command::NewMember] });
    dirty.leases.insert(1);
    write(&mut machine, &mut dirty, vec![put("/a", 10), put("/big", 300_000), put("/gone", 70_000)]);
    checkpoint.advance(&machine, &std::mem::take(&mut dirty), vec![1]).unwrap();
    check(&disk, &machine, &[1]);
    // A value that shrinks leaves no chunk behind, nor does a deleted one.
    write(&mut machine, &mut dirty, vec![put("/big", 20), Op::Delete { key: "/gone".into() }, put("/b", 0)]);
    checkpoint.advance(&machine, &std::mem::take(&mut dirty), vec![2]).unwrap();
    check(&disk, &machine, &[2]);
    assert_eq!(disk.state.len(), 5, "head, lease and three keys of one chunk each");
}

/// etcd #14685, #20653: until the new state is whole, the old one is what is found.
#[test]
fn a_replacement_that_was_cut_short_leaves_the_old_state() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir);
    let (mut checkpoint, _) = Checkpoint::open(&disk.state).unwrap();
    let (mut old, mut dirty) = (Machine::new(), Dirty::default());
    write(&mut old, &mut dirty, vec![put("/old", 1000)]);
    checkpoint.advance(&old, &dirty, vec![1]).unwrap();
    let head = disk.state.get("h").unwrap().unwrap();
    let mut new = Machine::new();
    write(&mut new, &mut dirty, (0..2000).map(|n| put(&format!("/new/{n}"), 100)).collect());
    checkpoint.replace(&new, vec![2]).unwrap();
    check(&disk, &new, &[2]);
    assert_eq!(disk.state.len(), 2001, "the old generation is swept");

    // As if the power had gone before the head was switched: the next generation is there, the head names this one.
    let new_head = disk.state.get("h").unwrap().unwrap();
    let mut third = Machine::new();
    write(&mut third, &mut dirty, vec![put("/third", 10)]);
    checkpoint.replace(&third, vec![3]).unwrap();
    disk.state.insert("h", new_head).unwrap();
    let (_, restored) = Checkpoint::open(&disk.state).unwrap();
    assert_eq!(restored.unwrap().position, [2]);
    assert!(disk.state.len() <= 1, "what the head does not name is swept");
    drop(head);
}

#[test]
fn damaged_records_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir);
    let (mut checkpoint, _) = Checkpoint::open(&disk.state).unwrap();
    let (mut machine, mut dirty) = (Machine::new(), Dirty::default());
    write(&mut machine, &mut dirty, vec![put("/a", 200_000)]);
    checkpoint.advance(&machine, &dirty, vec![1]).unwrap();
    for (key, value) in disk.state.iter().map(Result::unwrap) {
        let mut damaged = value.to_vec();
        let place = damaged.len() / 2;
        damaged[place] ^= 1;
        disk.state.insert(&key, damaged).unwrap();
        assert!(matches!(Checkpoint::open(&disk.state), Err(DiskError::Corrupt(_))), "{key:?}");
        disk.state.remove(&key).unwrap();
        if key.as_ref() != b"h" {
            assert!(matches!(Checkpoint::open(&disk.state), Err(DiskError::Corrupt(_)) | Ok((_, Some(_)))));
        }
        disk.state.insert(key, value).unwrap();
    }
    check(&disk, &machine, &[1]);
}
