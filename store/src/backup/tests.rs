//! A backup comes back as it was, or not at all.

use bytes::Bytes;

use super::*;
use crate::command::{Batch, Command};
use crate::types::{Op, Txn};

/// A state of `count` keys with values of `size` bytes and two leases.
fn state(count: usize, size: usize) -> State {
    let mut machine = Machine::new();
    let mut apply = |command| {
        machine.apply(Batch { time: 1000, commands: vec![command] });
    };
    apply(Command::GrantLease { ttl: 5000 });
    apply(Command::GrantLease { ttl: 60_000 });
    for number in 0..count {
        let key = format!("/k/{number:05}").into();
        let value = vec![number as u8; size].into();
        let op = Op::Put { key, value, attributes: [("a".into(), "b".into())].into(), lease: Some(1) };
        apply(Command::Txn(Txn { guards: vec![], ops: vec![op] }));
    }
    State::of(&machine)
}

fn bytes(state: &State) -> Vec<u8> {
    Backup::new("a-cluster".to_string(), state.clone()).flatten().collect()
}

#[test]
fn a_backup_comes_back_as_it_was() {
    for (count, size) in [(0, 0), (1, 0), (3, 1_200_000), (3000, 1000)] {
        let before = state(count, size);
        let file = bytes(&before);
        let (summary, after) = read_state(file.as_slice()).unwrap();
        assert_eq!(after.entries, before.entries);
        assert_eq!(after.leases, before.leases);
        assert_eq!(after.counters, before.counters);
        let expected = BackupSummary {
            cluster_id: "a-cluster".to_string(),
            revision: 1 + count as u64,
            entries: count as u64,
            leases: 2,
            bytes: file.len() as u64,
        };
        assert_eq!(summary, expected);
        assert_eq!(verify_backup(file.as_slice()).unwrap(), expected);
    }
}

#[test]
fn one_frame_is_in_memory_at_a_time() {
    let before = state(3000, 1000);
    let largest = Backup::new("a".to_string(), before).map(|frame| frame.len()).max().unwrap();
    assert!(largest < 2 * FRAME, "a frame has {largest} bytes");
}

#[test]
fn it_may_come_in_pieces_of_any_size() {
    let file = bytes(&state(40, 100));
    for size in [1, 7, 4096] {
        let mut check = BackupCheck::new();
        file.chunks(size).for_each(|piece| check.push(piece).unwrap());
        assert_eq!(check.finish().unwrap().entries, 40);
    }
}

#[test]
fn a_bit_that_flipped_anywhere_is_noticed() {
    let file = bytes(&state(8, 30));
    for place in 0..file.len() {
        for bit in [0x01, 0x80] {
            let mut damaged = file.clone();
            damaged[place] ^= bit;
            assert!(verify_backup(damaged.as_slice()).is_err(), "byte {place} was changed unnoticed");
        }
    }
}

#[test]
fn an_end_that_is_missing_is_noticed_wherever_it_was_cut() {
    let file = bytes(&state(8, 30));
    for length in 0..file.len() {
        let error = verify_backup(&file[..length]).unwrap_err();
        assert!(matches!(error, BackupError::Cut(at) if at == length as u64), "cut at {length}: {error}");
    }
}

#[test]
fn what_is_no_backup_of_this_kind_is_told_so() {
    let check = |file: &[u8], expected: &str| {
        let error = verify_backup(file).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let file = bytes(&state(3, 10));
    check(b"\x1f\x8b something gzipped", "is not a backup");
    check(b"KONTIKI-BACKUP of another sort", "is not a backup");
    check(b"", "ends after 0 bytes");
    let mut newer = file.clone();
    newer[MARK.len()] = 2;
    check(&newer, "layout is version 2, this program knows 1; use the kontiki that wrote it");
    check(&[file.as_slice(), b"x"].concat(), "something follows the trailer");
    check(&[file.as_slice(), file.as_slice()].concat(), "something follows the trailer");
    let mut long = file;
    long[PREAMBLE..PREAMBLE + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    check(&long, "a frame longer than any");
}

/// Whole frames that are each right, but not in their places.
#[test]
fn frames_that_moved_are_noticed() {
    let frames: Vec<Bytes> = Backup::new("a".to_string(), state(2000, 1000)).collect();
    assert!(frames.len() > 5);
    let without = |place: usize| [&frames[..place], &frames[place + 1..]].concat();
    for place in 0..frames.len() {
        assert!(
            verify_backup(without(place).concat().as_slice()).is_err(),
            "frame {place} was left out unnoticed"
        );
        let mut doubled = frames.clone();
        doubled.insert(place, frames[place].clone());
        assert!(verify_backup(doubled.concat().as_slice()).is_err(), "frame {place} was doubled unnoticed");
        let mut moved = frames.clone();
        moved.swap(place, (place + 1) % frames.len());
        assert!(verify_backup(moved.concat().as_slice()).is_err(), "frame {place} was moved unnoticed");
    }
}
