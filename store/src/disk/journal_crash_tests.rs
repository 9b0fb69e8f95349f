//! The log against a model, with the power going at any moment.
//!
//! After a crash the log is what it was after some job that had been given to it, and not before the last one that was
//! acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::journal::{Contents, Done, Journal};
use super::memory::MemoryDisk;
use super::testing::*;

#[derive(Clone, Debug)]
enum Step {
    /// Entries of these sizes.
    Append(Vec<usize>),
    /// So many of the newest.
    Truncate(u64),
    /// So many of the oldest.
    Purge(u64),
    Put(bool, u8),
    Wait(u64),
    Crash(u64),
    Kill,
    Stop,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![4 => 0usize..600, 2 => 1000usize..20_000, 1 => 60_000usize..200_000];
    prop_oneof![
        8 => prop::collection::vec(size, 1..4).prop_map(Step::Append),
        2 => (1u64..6).prop_map(Step::Truncate),
        2 => (1u64..12).prop_map(Step::Purge),
        2 => (any::<bool>(), any::<u8>()).prop_map(|(first, value)| Step::Put(first, value)),
        5 => (0u64..4).prop_map(Step::Wait),
        1 => Just(Step::Wait(300)),
        3 => any::<u64>().prop_map(Step::Crash),
        1 => Just(Step::Kill),
        1 => Just(Step::Stop),
    ]
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    below: u64,
    first: u64,
    entries: BTreeMap<u64, Bytes>,
    named: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Model {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn of(journal: &Journal, contents: &Contents) -> Model {
        Model {
            below: contents.purged_below,
            first: contents.first,
            entries: read_all(journal, contents).into_iter().collect(),
            named: contents.named.clone(),
        }
    }
}

/// Every state the log was told to go through, and which of them are acknowledged.
struct Course {
    states: Vec<Model>,
    acknowledged: Arc<AtomicUsize>,
    count: u64,
}

impl Course {
    fn new(state: Model) -> Course {
        Course { states: vec![state], acknowledged: Arc::default(), count: 0 }
    }

    fn now(&self) -> Model {
        self.states[self.states.len() - 1].clone()
    }

    fn acknowledges(&self) -> Done {
        let (acknowledged, state) = (self.acknowledged.clone(), self.states.len() - 1);
        Box::new(move |result| {
            result.unwrap();
            let before = acknowledged.swap(state, Ordering::SeqCst);
            assert!(before <= state, "told out of order");
        })
    }

    fn enqueue(&mut self, journal: &Journal, step: &Step) {
        let mut state = self.now();
        match step {
            Step::Append(sizes) => {
                let mut records = Vec::new();
                for size in sizes {
                    self.count += 1;
                    let (index, value) = (state.next(), record(self.count, *size));
                    state.entries.insert(index, value.clone());
                    self.states.push(state.clone());
                    records.push((index, value));
                }
                journal.append(records, self.acknowledges()).unwrap();
            }
            Step::Truncate(count) => {
                let from = state.next().saturating_sub(*count).max(state.first);
                state.entries.split_off(&from);
                self.states.push(state);
                journal.truncate(from).unwrap();
            }
            Step::Purge(count) => {
                // Now and then beyond the end, as after a snapshot.
                let below = state.first + count;
                state.entries = state.entries.split_off(&below);
                (state.first, state.below) = (below, below);
                self.states.push(state);
                journal.purge(below).unwrap();
            }
            Step::Put(first, value) => {
                let name: &'static [u8] = if *first { b"first" } else { b"second" };
                state.named.insert(name.to_vec(), vec![*value; 40]);
                self.states.push(state);
                journal.put(name, vec![*value; 40], Some(self.acknowledges())).unwrap();
            }
            Step::Wait(_) | Step::Crash(_) | Step::Kill | Step::Stop => {}
        }
    }

    /// Finds what was read back among what it may be, and goes on from there.
    fn resume(&mut self, found: Model) {
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        let known = self.states[acknowledged..].contains(&found);
        assert!(
            known,
            "entries {}..{} of {} states, {acknowledged} acknowledged; the last is {}..{}",
            found.first,
            found.next(),
            self.states.len(),
            self.now().first,
            self.now().next(),
        );
        *self = Course { count: self.count, ..Course::new(found) };
    }
}

async fn run(steps: Vec<Step>) {
    let disk = MemoryDisk::new();
    let (mut journal, contents) = open(&disk).unwrap();
    let mut course = Course::new(Model::of(&journal, &contents));
    for step in steps {
        match &step {
            Step::Wait(millis) => tokio::time::sleep(Duration::from_millis(*millis)).await,
            Step::Crash(_) | Step::Kill | Step::Stop => {
                match &step {
                    Step::Crash(seed) => disk.crash(&mut chance(*seed)),
                    Step::Stop => {
                        stop(journal).await;
                        let last = course.states.len() - 1;
                        course.acknowledged.store(last, Ordering::SeqCst);
                    }
                    _ => disk.kill(),
                }
                let opened = open(&disk).unwrap();
                journal = opened.0;
                course.resume(Model::of(&journal, &opened.1));
            }
            step => course.enqueue(&journal, step),
        }
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_crash_leaves_a_moment_of_the_log_that_holds_all_that_was_acknowledged(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        in_virtual_time(run(steps));
    }
}
