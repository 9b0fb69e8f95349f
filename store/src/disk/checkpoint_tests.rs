//! What the checkpoint holds over a reopening and a crash, and what it refuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::DiskError;
use super::checkpoint::{CHUNK, Checkpoint, Dirty, Restored};
use super::memory::MemoryDisk;
use super::real::RealStorage;
use super::testing::{cases, chance, labour, mount, record};
use crate::command::{Batch, Command};
use crate::environment::{Database, Labour, Storage};
use crate::mvcc::Machine;
use crate::types::{Op, Txn};

fn apply(machine: &mut Machine, dirty: &mut Dirty, commands: Vec<Command>) {
    let applied = machine.apply(Batch { time: 1, commands });
    for change in applied.events.iter().flat_map(|event| event.changes.iter()) {
        dirty.key(&change.entry.key, change.previous.is_some());
    }
    dirty.leases.extend(applied.leases);
}

fn write(machine: &mut Machine, dirty: &mut Dirty, ops: Vec<Op>) {
    apply(machine, dirty, vec![Command::Txn(Txn { guards: vec![], ops })]);
}

fn put(key: &str, size: usize) -> Op {
    Op::Put {
        key: key.to_string().into(),
        value: record(size as u64, size),
        attributes: Arc::from([]),
        lease: None,
    }
}

fn delete(key: &str) -> Op {
    Op::Delete { key: key.to_string().into() }
}

fn database(disk: &MemoryDisk) -> Arc<dyn Database> {
    mount(disk).unwrap().database.clone()
}

fn open(database: &Arc<dyn Database>) -> (Checkpoint, Option<Restored>) {
    Checkpoint::open(database.clone(), &labour()).unwrap()
}

fn advance(checkpoint: &mut Checkpoint, machine: &Machine, dirty: &mut Dirty, position: &[u8]) {
    let plan = checkpoint.advance(machine.clone(), std::mem::take(dirty), position.to_vec()).unwrap();
    checkpoint.write(plan).unwrap();
}

fn replace(checkpoint: &mut Checkpoint, machine: &Machine, position: &[u8]) {
    let plan = checkpoint.replace(machine.clone(), position.to_vec()).unwrap();
    checkpoint.write(plan).unwrap();
}

fn same(restored: &Restored, machine: &Machine, position: &[u8]) -> bool {
    let entries = |machine: &Machine| machine.view().current.values().cloned().collect::<Vec<_>>();
    restored.position == position
        && restored.machine.counters() == machine.counters()
        && entries(&restored.machine) == entries(machine)
        && restored.machine.leases().table() == machine.leases().table()
}

#[track_caller]
fn check(database: &Arc<dyn Database>, machine: &Machine, position: &[u8]) {
    let (_, restored) = open(database);
    assert!(same(&restored.unwrap(), machine, position));
}

fn records(database: &Arc<dyn Database>) -> usize {
    let mut count = 0;
    let mut visit = |_: &[u8], _: &[u8]| {
        count += 1;
        Ok(true)
    };
    database.scan(&[], &mut visit).unwrap();
    count
}

#[test]
fn checkpoints_add_up_to_the_state() {
    let database = database(&MemoryDisk::new());
    let (mut checkpoint, restored) = open(&database);
    assert!(restored.is_none());
    let (mut machine, mut dirty) = (Machine::new(), Dirty::default());
    apply(&mut machine, &mut dirty, vec![Command::GrantLease { ttl: 5 }, Command::NewMember]);
    apply(&mut machine, &mut dirty, vec![Command::GrantLease { ttl: 9 }]);
    write(&mut machine, &mut dirty, vec![put("/a", 10), put("/big", 300_000), put("/gone", 70_000)]);
    advance(&mut checkpoint, &machine, &mut dirty, &[1]);
    check(&database, &machine, &[1]);
    // A value that shrinks leaves no chunk behind, nor does a deleted one, nor what never lasted to a checkpoint.
    write(&mut machine, &mut dirty, vec![put("/big", 20), delete("/gone"), put("/b", 0)]);
    write(&mut machine, &mut dirty, vec![put("/brief", 10)]);
    write(&mut machine, &mut dirty, vec![delete("/brief")]);
    apply(&mut machine, &mut dirty, vec![Command::RevokeLease { lease: 2 }]);
    advance(&mut checkpoint, &machine, &mut dirty, &[2]);
    check(&database, &machine, &[2]);
    assert_eq!(records(&database), 6, "owner, head, lease and three keys of one chunk each");
    let mut other = Machine::new();
    write(&mut other, &mut dirty, vec![put("/new", CHUNK * 3)]);
    replace(&mut checkpoint, &other, &[3]);
    check(&database, &other, &[3]);
    assert_eq!(records(&database), 6, "owner, head, and four chunks");
}

/// Keys may hold any bytes, and one may be the beginning of another.
#[test]
fn names_that_contain_each_other_are_kept_apart() {
    let database = database(&MemoryDisk::new());
    let (mut checkpoint, _) = open(&database);
    let (mut machine, mut dirty) = (Machine::new(), Dirty::default());
    let names = ["", "\0", "a", "a\0", "a\0\0\0\0\0\0\0\0\x01", "a\0\0\0\0\0\0\0\0\x01\0\0", "e", "h"];
    for round in 1..4 {
        let ops = names.iter().map(|name| put(name, 5000 * round)).collect();
        write(&mut machine, &mut dirty, ops);
        advance(&mut checkpoint, &machine, &mut dirty, &[round as u8]);
        check(&database, &machine, &[round as u8]);
    }
}

/// Whatever is written, sled keeps it in the file it syncs, and opens again with all of it.
#[test]
fn sled_keeps_large_values_in_the_file_that_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let (mut machine, mut dirty) = (Machine::new(), Dirty::default());
    {
        let database: Arc<dyn Database> = Arc::from(RealStorage::new(dir.path()).database().unwrap());
        let (mut checkpoint, _) = Checkpoint::open(database.clone(), &Labour::Threads).unwrap();
        for round in 0..3u64 {
            let ops = (0..40).map(|n| put(&format!("/{round}/{n}"), 100_000 + n)).collect();
            write(&mut machine, &mut dirty, ops);
            advance(&mut checkpoint, &machine, &mut dirty, &[round as u8]);
        }
    }
    let blobs = dir.path().join("checkpoint/blobs");
    assert_eq!(blobs.read_dir().map_or(0, |entries| entries.count()), 0);
    let database: Arc<dyn Database> = Arc::from(RealStorage::new(dir.path()).database().unwrap());
    check(&database, &machine, &[2]);
}

/// Each record, in turn, is changed, lost, or doubled under another number: all of it is noticed.
#[test]
fn damaged_lost_or_old_records_are_refused() {
    let disk = MemoryDisk::new();
    let (mut machine, mut dirty) = (Machine::new(), Dirty::default());
    let mut older = BTreeMap::new();
    {
        let database = database(&disk);
        let (mut checkpoint, _) = open(&database);
        apply(&mut machine, &mut dirty, vec![Command::GrantLease { ttl: 5 }]);
        write(&mut machine, &mut dirty, vec![put("/a", 10_000), put("/b", 10)]);
        advance(&mut checkpoint, &machine, &mut dirty, &[1]);
        disk.tamper_records(|records| older = records.clone());
        write(&mut machine, &mut dirty, vec![put("/b", 20)]);
        advance(&mut checkpoint, &machine, &mut dirty, &[2]);
    }
    let mut whole = BTreeMap::new();
    disk.tamper_records(|records| whole = records.clone());
    let check = |what: &str, records: BTreeMap<Vec<u8>, Vec<u8>>, noticed: bool| {
        let copy = disk.copy();
        copy.tamper_records(|place| *place = records);
        let opened = mount(&copy).and_then(|open| Checkpoint::open(open.database.clone(), &labour()));
        match opened {
            Err(DiskError::Corrupt(_)) if noticed => {}
            Err(error) => panic!("{what}: {error:?}"),
            Ok((_, None)) => {}
            Ok((_, Some(restored))) => assert!(!noticed && same(&restored, &machine, &[2]), "{what}"),
        }
    };
    for (key, value) in &whole {
        let mut changed = whole.clone();
        changed.get_mut(key).unwrap()[value.len() / 2] ^= 1;
        check(&format!("{key:?} is changed"), changed, true);
        if key != b"h" {
            let mut lost = whole.clone();
            lost.remove(key);
            check(&format!("{key:?} is lost"), lost, true);
        }
    }
    // The newer version is lost, and the older one is back.
    let mut back = whole.clone();
    back.retain(|key, _| !key.windows(2).any(|pair| pair == b"/b"));
    back.extend(older.into_iter().filter(|(key, _)| key.windows(2).any(|pair| pair == b"/b")));
    check("an older version is back", back.clone(), true);
    // Beside the newer one it is what a sweep that was cut short leaves.
    back.extend(whole.clone());
    check("an older version was not swept", back, false);
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(u8, Option<u16>)>),
    Lease(bool),
    /// Carries out so many steps of a checkpoint; many are all.
    Advance(usize),
    Replace(usize),
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let op = (0u8..12, prop::option::weighted(0.7, prop_oneof![0u16..200, 3000u16..20_000]));
    let steps = prop_oneof![0usize..5, Just(usize::MAX)];
    prop_oneof![
        4 => prop::collection::vec(op, 1..8).prop_map(Step::Write),
        1 => any::<bool>().prop_map(Step::Lease),
        3 => steps.clone().prop_map(Step::Advance),
        1 => steps.prop_map(Step::Replace),
        2 => any::<u64>().prop_map(Step::Crash),
    ]
}

/// etcd #13766, #14685: a crash at any point leaves one checkpoint or the other, whole.
fn run(steps: Vec<Step>) {
    let disk = MemoryDisk::new();
    let mut database = database(&disk);
    let mut checkpoint = open(&database).0;
    let (mut machine, mut dirty) = (Machine::new(), Dirty::default());
    // The state that is durable for certain, and the one that may be.
    let mut durable: Option<(Machine, Vec<u8>)> = None;
    let mut written: Option<(Machine, Vec<u8>)> = None;
    let mut count = 0u32;
    for step in steps {
        let mut crash = None;
        match step {
            Step::Write(ops) => {
                let op = |(key, size): (u8, Option<u16>)| match size {
                    Some(size) => put(&format!("/{key}"), size.into()),
                    None => delete(&format!("/{key}")),
                };
                write(&mut machine, &mut dirty, ops.into_iter().map(op).collect());
            }
            Step::Lease(grant) => {
                let lease = machine.counters().next_lease.saturating_sub(1);
                let command =
                    if grant { Command::GrantLease { ttl: 7 } } else { Command::RevokeLease { lease } };
                apply(&mut machine, &mut dirty, vec![command]);
            }
            Step::Advance(parts) | Step::Replace(parts) => {
                count += 1;
                let position = count.to_be_bytes().to_vec();
                let mut plan = match step {
                    Step::Replace(_) => checkpoint.replace(machine.clone(), position.clone()),
                    _ => checkpoint.advance(machine.clone(), dirty.clone(), position.clone()),
                }
                .unwrap();
                dirty = Dirty::default();
                written = Some((machine.clone(), position));
                let mut more = true;
                for _ in 0..parts {
                    more = checkpoint.step(&mut plan).unwrap();
                    if !more {
                        durable = written.clone();
                        break;
                    }
                }
                // A checkpoint is carried out, or the server is dead.
                crash = more.then_some(u64::from(count));
            }
            Step::Crash(seed) => crash = Some(seed),
        }
        if let Some(seed) = crash {
            disk.crash(&mut chance(seed));
            database = self::database(&disk);
            let (again, restored) = open(&database);
            checkpoint = again;
            let is = |state: &Option<(Machine, Vec<u8>)>| match (&restored, state) {
                (Some(restored), Some((machine, position))) => same(restored, machine, position),
                (None, None) => true,
                _ => false,
            };
            let found = if is(&written) { &written } else { &durable };
            assert!(is(found), "what was found is no checkpoint that was written");
            machine = found.as_ref().map_or_else(Machine::new, |(machine, _)| machine.clone());
            dirty = Dirty::default();
            durable = found.clone();
            written = durable.clone();
        }
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_crash_leaves_one_checkpoint_or_the_other(steps in prop::collection::vec(step(), 1..40)) {
        run(steps);
    }
}
