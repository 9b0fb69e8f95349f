//! What the log holds over a reopening, and what it refuses.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::memory::{Faults, MemoryDisk};
use super::real::RealStorage;
use super::segment::written_end;
use super::testing::*;
use super::{Disk, DiskError};
use crate::environment::Labour;

const VOTE: &[u8] = b"vote";

fn log_files(disk: &MemoryDisk) -> Vec<String> {
    disk.names().into_iter().filter(|name| name.starts_with("log/")).collect()
}

/// Files of the log that something was written to.
fn used_files(disk: &MemoryDisk) -> Vec<String> {
    let used = |name: &String| written_end(&disk.contents(name).unwrap()) > 512;
    log_files(disk).into_iter().filter(used).collect()
}

#[track_caller]
fn check_refused(disk: &MemoryDisk, what: &str) {
    match open(disk) {
        Err(error @ DiskError::Corrupt(_)) => {
            let words = error.at("disk".as_ref()).to_string();
            assert!(words.contains("join again"), "{what}: no way out in {words:?}");
        }
        Err(other) => panic!("{what}: {other:?}"),
        Ok(_) => panic!("{what}: nobody noticed"),
    }
}

#[test]
fn records_of_all_sizes_come_back() {
    in_virtual_time(async {
        let disk = MemoryDisk::new();
        let (journal, contents) = open(&disk).unwrap();
        assert_eq!((contents.first, contents.next, contents.purged_below), (0, 0, 0));
        let sizes = [0, 1, 7, 8, 1000, 4096, 50_000, 140_000, 300_000, 1_200_000, 2_500_000, 3];
        let records: Vec<(u64, Bytes)> = (0..).zip(sizes).map(|(n, size)| (n, record(n, size))).collect();
        assert!(append(&journal, records.clone()).await);
        assert!(put(&journal, VOTE, b"mine").await);
        for (index, record) in &records {
            assert_eq!(journal.read(*index).unwrap().as_ref(), Some(record));
        }
        stop(journal).await;
        let (journal, contents) = open(&disk).unwrap();
        assert_eq!(read_all(&journal, &contents), records);
        assert_eq!(contents.named[VOTE], b"mine");
    });
}

/// The same over real files, with a writer that is a thread.
#[test]
fn real_files_hold_what_was_appended() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let storage = std::sync::Arc::new(RealStorage::new(dir.path()));
        let disk = Disk::open(dir.path(), storage, Labour::Threads)?;
        if disk.identity().is_none() {
            disk.claim(&identity())?;
        }
        let opened = disk.journal()?;
        Ok::<_, DiskError>((disk, opened.0, opened.1))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let records: Vec<(u64, Bytes)> = (0..40).map(|n| (n, record(n, 500_000))).collect();
    runtime.block_on(async {
        let (disk, journal, _) = open().unwrap();
        assert!(matches!(open(), Err(DiskError::InUse)));
        for one in &records {
            assert!(append(&journal, vec![one.clone()]).await);
        }
        journal.truncate(35).unwrap();
        journal.purge(30).unwrap();
        stop(journal).await;
        drop(disk);
    });
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let (disk, journal, contents) = loop {
        match open() {
            // The writer's thread lets go a moment after it said so.
            Err(DiskError::InUse) if std::time::Instant::now() < deadline => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    assert_eq!(read_all(&journal, &contents), records[30..35]);
    let files = dir.path().join("log").read_dir().unwrap().count();
    assert!(files <= 3, "{files} files for 5 entries");
    assert!(disk.bytes() < 32 << 20);
}

#[test]
fn what_is_truncated_or_purged_stays_away() {
    in_virtual_time(async {
        let disk = MemoryDisk::new();
        let (journal, _) = open(&disk).unwrap();
        assert!(append(&journal, (0..10).map(|n| (n, record(n, 50_000))).collect()).await);
        journal.truncate(6).unwrap();
        assert!(append(&journal, vec![(6, record(600, 10))]).await);
        journal.purge(3).unwrap();
        stop(journal).await;
        let (journal, contents) = open(&disk).unwrap();
        assert_eq!((contents.first, contents.next, contents.purged_below), (3, 7, 3));
        assert_eq!(journal.read(2).unwrap(), None);
        assert_eq!(journal.read(6).unwrap(), Some(record(600, 10)));
        assert_eq!(journal.read(7).unwrap(), None);
        // A snapshot may take the log further than it ever was.
        journal.purge(100).unwrap();
        assert!(append(&journal, vec![(100, record(100, 10))]).await);
        stop(journal).await;
        let (_journal, contents) = open(&disk).unwrap();
        assert_eq!((contents.first, contents.next, contents.purged_below), (100, 101, 100));
    });
}

/// Named records that are never written again outlive every file they were in, and the disk stays bounded.
#[test]
fn the_disk_stays_bounded_and_named_records_outlive_their_files() {
    in_virtual_time(async {
        let disk = MemoryDisk::new();
        let (journal, _) = open(&disk).unwrap();
        assert!(put(&journal, VOTE, b"old").await && put(&journal, b"other", b"kept").await);
        assert!(put(&journal, VOTE, b"new").await);
        for group in 0..1000u64 {
            let from = group * 100;
            assert!(append(&journal, (from..from + 100).map(|n| (n, record(n, 60))).collect()).await);
            journal.purge((from + 100).saturating_sub(500)).unwrap();
            assert!(log_files(&disk).len() <= 4, "{:?}", log_files(&disk));
        }
        stop(journal).await;
        assert!(!log_files(&disk).contains(&"log/0000000001".to_string()));
        let (journal, contents) = open(&disk).unwrap();
        assert_eq!((contents.first, contents.next), (99_500, 100_000));
        assert_eq!(contents.named[VOTE], b"new");
        assert_eq!(contents.named[&b"other"[..]], b"kept");
        assert_eq!(journal.read(99_999).unwrap(), Some(record(99_999, 60)));
    });
}

/// A group that the power cut short was never acknowledged: it goes, whatever part of it there is, and the log goes on.
#[test]
fn a_torn_tail_is_dropped_wherever_it_is_torn() {
    in_virtual_time(async {
        let disk = MemoryDisk::new();
        let (journal, _) = open(&disk).unwrap();
        let held: Vec<(u64, Bytes)> = (0..3).map(|n| (n, record(n, 100))).collect();
        assert!(append(&journal, held.clone()).await);
        let name = "log/0000000001";
        let start = written_end_exact(&disk.contents(name).unwrap());
        assert!(append(&journal, vec![(3, Bytes::from(vec![0; 1500]))]).await);
        let whole = disk.contents(name).unwrap();
        let end = written_end_exact(&whole);
        for cut in start..end {
            let torn = disk.copy();
            let mut bytes = whole.clone();
            bytes[cut..].fill(0);
            torn.tamper(name, Some(bytes));
            let (journal, contents) = open(&torn).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
            assert_eq!(read_all(&journal, &contents), held, "cut at {cut}");
            assert!(append(&journal, vec![(3, record(33, 20))]).await);
            stop(journal).await;
            let (journal, contents) = open(&torn).unwrap();
            assert_eq!(read_all(&journal, &contents)[3..], [(3, record(33, 20))], "cut at {cut}");
        }
    });
}

fn written_end_exact(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// The last frame is not excepted: nothing behind it says that it was durable, its own sectors do.
#[test]
fn a_flipped_bit_is_refused_wherever_it_is() {
    in_virtual_time(async {
        let disk = MemoryDisk::new();
        let (journal, _) = open(&disk).unwrap();
        assert!(put(&journal, VOTE, b"mine").await);
        assert!(append(&journal, (0..3).map(|n| (n, Bytes::from(vec![0; 700]))).collect()).await);
        journal.truncate(2).unwrap();
        assert!(append(&journal, vec![(2, record(2, 30))]).await);
        for name in ["log/0000000001", "member"] {
            let whole = disk.contents(name).unwrap();
            for place in 0..written_end_exact(&whole) {
                let damaged = disk.copy();
                let mut bytes = whole.clone();
                bytes[place] ^= 1 << (place % 8);
                damaged.tamper(name, Some(bytes));
                check_refused(&damaged, &format!("{name}, byte {place}"));
            }
        }
    });
}

/// What was known to be durable is never taken for a torn tail, even where it looks like one: whole sectors of zeros.
#[test]
fn sectors_that_vanish_are_refused_once_the_log_has_rested() {
    in_virtual_time(async {
        let disk = MemoryDisk::new();
        let (journal, _) = open(&disk).unwrap();
        assert!(append(&journal, (0..5).map(|n| (n, record(n, 700))).collect()).await);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let whole = disk.contents("log/0000000001").unwrap();
        let end = written_end_exact(&whole);
        // The mark itself may go: it says nothing that a file without it would not be.
        let marked = end - 40;
        for sector in (0..marked).step_by(512) {
            let damaged = disk.copy();
            let mut bytes = whole.clone();
            bytes[sector..(sector + 512).min(marked)].fill(0);
            damaged.tamper("log/0000000001", Some(bytes));
            check_refused(&damaged, &format!("sector at {sector}"));
        }
    });
}

#[test]
fn a_log_whose_files_are_missing_cut_mixed_up_or_foreign_is_refused() {
    in_virtual_time(async {
        let fill = async |disk: &MemoryDisk| {
            let (journal, _) = open(disk).unwrap();
            assert!(put(&journal, VOTE, b"mine").await);
            for n in 0..40 {
                assert!(append(&journal, vec![(n, record(n, 10_000))]).await);
            }
            journal.purge(2).unwrap();
            assert!(settle(&journal).await);
        };
        let (disk, other) = (MemoryDisk::new(), MemoryDisk::new());
        fill(&disk).await;
        fill(&other).await;
        let files = used_files(&disk);
        assert!(files.len() >= 3);
        for name in &files {
            let whole = disk.contents(name).unwrap();
            let changed = |bytes: Option<Vec<u8>>| {
                let copy = disk.copy();
                copy.tamper(name, bytes);
                copy
            };
            check_refused(&changed(None), &format!("{name} is missing"));
            for length in [0, 100, 512, 600, whole.len() / 2, whole.len() - 1] {
                let cut = whole[..length].to_vec();
                check_refused(&changed(Some(cut)), &format!("{name} has {length} bytes"));
            }
            check_refused(&changed(other.contents(name)), &format!("{name} is another log's"));
            check_refused(&changed(Some(vec![0; whole.len()])), &format!("{name} is blank"));
        }
        let swapped = disk.copy();
        swapped.tamper(&files[0], disk.contents(&files[1]));
        swapped.tamper(&files[1], disk.contents(&files[0]));
        check_refused(&swapped, "two files have changed places");
        let strange = disk.copy();
        strange.tamper("log/notes.txt", Some(vec![1; 10]));
        check_refused(&strange, "a file that is not of the log");
        let emptied = disk.copy();
        log_files(&disk).iter().for_each(|name| emptied.tamper(name, None));
        check_refused(&emptied, "no file is left");
        let nameless = disk.copy();
        nameless.tamper("member", None);
        check_refused(&nameless, "nobody knows whose it is");
        let bare = disk.copy();
        bare.tamper_records(|records| records.clear());
        check_refused(&bare, "the checkpoint's database is new");

        let old = MemoryDisk::new();
        old.tamper("log/db", Some(vec![1; 100]));
        old.tamper("log/conf", Some(vec![1; 100]));
        let error = open(&old).err().unwrap().at("disk".as_ref()).to_string();
        assert!(error.contains("earlier version") && error.contains("joins again"), "{error}");
    });
}

/// Nothing is acknowledged that a full disk keeps from being written, nothing is lost, and the server lives on.
#[test]
fn a_full_disk_is_waited_for() {
    in_virtual_time(async {
        let disk = MemoryDisk::new();
        let (journal, _) = open(&disk).unwrap();
        disk.set_faults(Faults { full: true, ..Faults::default() });
        let mut waiting = Vec::new();
        for n in 0..30 {
            let (done, told) = told();
            journal.append(vec![(n, record(n, 10_000))], done).unwrap();
            waiting.push(tokio::spawn(told));
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        let told: Vec<bool> = waiting.iter().map(|one| one.is_finished()).collect();
        assert!(told[..8].iter().all(|told| *told), "there was room for these: {told:?}");
        assert!(!told[20]);
        assert!(journal.short_of_room().is_some());
        assert_eq!(disk.died(), None);
        disk.set_faults(Faults::default());
        for one in waiting {
            assert!(one.await.unwrap());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(journal.short_of_room(), None);
        stop(journal).await;
        assert_eq!(open(&disk).unwrap().1.next, 30);
    });
}

#[test]
fn a_failing_sync_acknowledges_nothing_and_ends_the_server() {
    in_virtual_time(async {
        for faults in [
            Faults { sync_fails: true, ..Faults::default() },
            Faults { write_fails: true, ..Faults::default() },
        ] {
            let disk = MemoryDisk::new();
            let (journal, _) = open(&disk).unwrap();
            assert!(append(&journal, vec![(0, record(0, 10))]).await);
            disk.set_faults(faults);
            assert!(!append(&journal, vec![(1, record(1, 10))]).await);
            assert!(disk.died().is_some());
            assert!(journal.truncate(1).is_err(), "who comes later is told");
        }
    });
}

/// A record that nobody waits for costs no write of its own, and is not forgotten.
#[test]
fn what_can_wait_is_written_with_what_cannot() {
    in_virtual_time(async {
        let named = |disk: &MemoryDisk| open(&disk.copy()).unwrap().1.named.get(VOTE).cloned();
        let disk = MemoryDisk::new();
        let (journal, _) = open(&disk).unwrap();
        assert!(append(&journal, vec![(0, record(0, 10))]).await);
        journal.put(VOTE, b"first".to_vec(), None).unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(named(&disk), None);
        assert!(append(&journal, vec![(1, record(1, 10))]).await);
        assert_eq!(named(&disk).as_deref(), Some(&b"first"[..]));
        // Many wait for nobody, or nobody would make room for them.
        for number in 0..10_000u32 {
            journal.put(VOTE, number.to_be_bytes().to_vec(), None).unwrap();
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(named(&disk).is_some_and(|found| found[..] > 9_900u32.to_be_bytes()[..]));
        stop(journal).await;
        assert_eq!(named(&disk), Some(9_999u32.to_be_bytes().to_vec()));
    });
}

/// What a killed process had written and never synced is built on by the next one: so that one syncs it first.
#[test]
fn what_was_read_back_survives_the_next_power_cut() {
    in_virtual_time(async {
        for seed in 0..50 {
            let disk = MemoryDisk::new();
            let (journal, _) = open(&disk).unwrap();
            assert!(append(&journal, vec![(0, record(0, 10))]).await);
            journal.put(VOTE, b"unsynced".to_vec(), None).unwrap();
            // The writer has nothing else to do.
            tokio::time::sleep(Duration::from_millis(150)).await;
            disk.kill();
            let (_journal, contents) = open(&disk).unwrap();
            assert_eq!(contents.named[VOTE], b"unsynced");
            disk.crash(&mut chance(seed));
            let (_journal, contents) = open(&disk).unwrap();
            assert_eq!(contents.named[VOTE], b"unsynced");
        }
    });
}

/// A sync that failed leaves in the cache what the disk does not have, and a second sync does not write it. The next process
/// reads it all the same, and what it builds on has to be durable.
#[test]
fn what_a_failed_sync_left_in_the_cache_is_written_again() {
    in_virtual_time(async {
        for seed in 0..20 {
            let disk = MemoryDisk::new();
            let (journal, _) = open(&disk).unwrap();
            assert!(append(&journal, vec![(0, record(0, 10))]).await);
            disk.set_faults(Faults { sync_fails: true, ..Faults::default() });
            assert!(!append(&journal, vec![(1, record(1, 2000))]).await);
            disk.set_faults(Faults::default());
            let (_journal, contents) = open(&disk).unwrap();
            assert_eq!(contents.next, 2, "it was written");
            disk.crash(&mut chance(seed));
            let (journal, contents) = open(&disk).unwrap();
            assert_eq!(contents.next, 2, "seed {seed}");
            assert_eq!(journal.read(1).unwrap(), Some(record(1, 2000)));
        }
    });
}

/// Whenever the power goes while the directory is being claimed, it can be claimed again.
#[test]
fn a_claim_that_was_cut_short_is_made_again() {
    in_virtual_time(async {
        let mut seen = BTreeSet::new();
        for seed in 0..300 {
            let disk = MemoryDisk::new();
            drop(mount(&disk).unwrap());
            disk.crash(&mut chance(seed));
            let again = Disk::open("disk".as_ref(), disk.mount(), labour()).unwrap();
            // A claim that returned is for good.
            assert_eq!(again.identity(), Some(identity()));
            seen.insert(disk.names());
        }
        assert_eq!(seen.len(), 1);
    });
}
