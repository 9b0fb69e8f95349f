//! What the tests of the disk share: one server's life on a disk in memory, in virtual time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::test_runner::{Config as ProptestConfig, RngSeed};

use super::journal::{Contents, Done, Journal};
use super::memory::MemoryDisk;
use super::{Disk, DiskError, Identity};
use crate::environment::{Labour, Pace};

/// The same cases each time, unless the environment asks for others: `PROPTEST_CASES`, `PROPTEST_RNG_SEED`.
pub(crate) fn cases() -> ProptestConfig {
    let given = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let asked = |name: &str| std::env::var_os(name).is_some();
    ProptestConfig {
        cases: if asked("PROPTEST_CASES") { given.cases } else { 100 },
        rng_seed: if asked("PROPTEST_RNG_SEED") { given.rng_seed } else { RngSeed::Fixed(3) },
        ..given
    }
}

pub(crate) struct Millisecond;

impl Pace for Millisecond {
    fn sync(&self) -> Duration {
        Duration::from_millis(1)
    }
}

pub(crate) fn labour() -> Labour {
    Labour::Inline(Arc::new(Millisecond))
}

pub(crate) fn identity() -> Identity {
    Identity { cluster_id: "c".to_string(), member: 1, authority: vec![7; 32] }
}

/// Runs in virtual time; nothing of it outlives the call.
pub(crate) fn in_virtual_time<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(test)
}

/// Random numbers that a seed repeats.
pub(crate) fn chance(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    move |below| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((u128::from(state ^ state >> 29) * u128::from(below)) >> 64) as u64
    }
}

/// Opens the disk as the next server does; claims it where nobody has.
pub(crate) fn mount(disk: &MemoryDisk) -> Result<Disk, DiskError> {
    let open = Disk::open("disk".as_ref(), disk.mount(), labour())?;
    if open.identity().is_none() {
        open.claim(&identity())?;
    }
    Ok(open)
}

pub(crate) fn open(disk: &MemoryDisk) -> Result<(Journal, Contents), DiskError> {
    mount(disk)?.journal()
}

/// A callback, and what waits for it: false where it was dropped uncalled.
pub(crate) fn told() -> (Done, impl Future<Output = bool>) {
    let (tell, told) = tokio::sync::oneshot::channel();
    let done = Box::new(move |result: std::io::Result<()>| drop(tell.send(result)));
    (done, async move { matches!(told.await, Ok(Ok(()))) })
}

pub(crate) async fn append(journal: &Journal, records: Vec<(u64, Bytes)>) -> bool {
    let (done, told) = told();
    journal.append(records, done).unwrap();
    told.await
}

pub(crate) async fn put(journal: &Journal, name: &'static [u8], value: &[u8]) -> bool {
    let (done, told) = told();
    journal.put(name, value.to_vec(), Some(done)).unwrap();
    told.await
}

pub(crate) async fn settle(journal: &Journal) -> bool {
    let (done, told) = told();
    journal.settled(done).unwrap();
    told.await
}

pub(crate) async fn stop(journal: Journal) {
    let (done, told) = told();
    journal.stop(done).unwrap();
    assert!(told.await);
}

pub(crate) fn record(index: u64, size: usize) -> Bytes {
    (0..size).map(|place| (index as usize * 31 + place * 7) as u8).collect::<Vec<u8>>().into()
}

/// All entries, as they are read.
pub(crate) fn read_all(journal: &Journal, contents: &Contents) -> Vec<(u64, Bytes)> {
    (contents.first..contents.next).map(|index| (index, journal.read(index).unwrap().unwrap())).collect()
}
