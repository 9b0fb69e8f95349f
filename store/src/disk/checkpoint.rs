//! The state on disk: what the log below the applied index came to.
//!
//! ```text
//!   'h'                               → Head { number, base, content, … }: which records count
//!   'e' length key number chunk       → an entry as this checkpoint found it, in chunks; the first tells their number
//!   'l' lease number                  → a lease as this checkpoint found it
//!
//!   write what changed, under the next number, in strides ──▶ sync ──▶ head names the number ──▶ sync ──▶ sweep
//! ```
//!
//! A record counts if its number is the highest of its name between the head's base and the head's number. So nothing that
//! counts is touched before the head is switched, in one step with the applied index and the counters (etcd #13766); a crash
//! leaves one state or the other, however large the change. A state that replaces everything is written the same way and
//! raises the base.
//!
//! The head also tells how many records count, and a sum over which ones they are: a record that was lost, or came back
//! older, is noticed on opening.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::DiskError;
use crate::codec;
use crate::environment::{Changes, Database, Labour};
use crate::lease::Lease;
use crate::mutant::mutated;
use crate::mvcc::{Counters, Entries, Machine};
use crate::types::{Entry, LeaseId};

const HEAD: &[u8] = b"h";
/// A leaf of sled's past a quarter segment leaves for a file that sled never syncs. A leaf has about 16 records, so that
/// chunks of this size stay at half of that.
pub(crate) const CHUNK: usize = 4 << 10;
/// Bytes written between two syncs: what a large checkpoint takes in memory.
const STRIDE: usize = 1 << 20;
/// In a simulation the strides are short, so that crashes between them are common.
const SHORT_STRIDE: usize = 8 << 10;
/// Records swept at a time.
const SWEEP: usize = 2048;

/// What the records that count come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    records: u64,
    /// Independent of order, so that it can be kept up incrementally.
    sum: u64,
}

impl Content {
    fn add(&mut self, name: &[u8], number: u64) {
        self.records = self.records.wrapping_add(1);
        self.sum = self.sum.wrapping_add(digest(name, number));
    }

    fn remove(&mut self, name: &[u8], number: u64) {
        self.records = self.records.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(digest(name, number));
    }
}

/// A number that stands for one version of one record.
fn digest(name: &[u8], number: u64) -> u64 {
    let spread = |word: u64| {
        let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    };
    let first = u64::from(crc32fast::hash(name));
    let mut hasher = crc32fast::Hasher::new_with_initial(0x6b6f_6e74);
    hasher.update(&number.to_le_bytes());
    hasher.update(name);
    spread(spread(first << 32 | u64::from(hasher.finalize())) ^ number)
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Head {
    number: u64,
    /// Records of lower numbers count no more.
    base: u64,
    counters: Counters,
    /// Consensus' own words: applied index and membership. Opaque here.
    position: Vec<u8>,
    content: Content,
}

/// What has changed since the last checkpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dirty {
    /// Each with whether the last checkpoint has it.
    keys: BTreeMap<Bytes, bool>,
    pub leases: BTreeSet<LeaseId>,
}

impl Dirty {
    /// Takes note of a change to a key, which was there before it or not. Changes come in order.
    pub fn key(&mut self, key: &[u8], was_there: bool) {
        if !self.keys.contains_key(key) {
            // A copy: a key that is shared with its entry would cost more than it does, for good.
            self.keys.insert(Bytes::copy_from_slice(key), was_there);
        }
    }
}

pub(crate) struct Checkpoint {
    db: Arc<dyn Database>,
    stride: usize,
    number: u64,
    base: u64,
    content: Content,
    /// A plan was begun and not carried out.
    unfinished: bool,
}

/// A state read back, and the position it was written with.
pub(crate) struct Restored {
    pub machine: Machine,
    pub position: Vec<u8>,
}

/// A checkpoint in the making.
pub(crate) struct Plan {
    state: Machine,
    head: Head,
    /// Each with whether there may be an older record of it.
    keys: Vec<(Bytes, bool)>,
    leases: Vec<LeaseId>,
    /// Keys and leases done.
    done: usize,
    phase: Phase,
}

enum Phase {
    Write,
    Switch,
    /// The names of the plan have superseded records.
    Sweep,
    /// Everything below the base is superseded; swept up to this key.
    SweepAll(Vec<u8>),
}

impl Plan {
    fn names(&self) -> usize {
        self.keys.len() + self.leases.len()
    }

    fn name(&self, number: usize) -> Vec<u8> {
        match self.keys.get(number) {
            Some((key, _)) => entry_name(key),
            None => lease_name(self.leases[number - self.keys.len()]),
        }
    }

    /// Whether a record under the name may be superseded.
    fn is_known(&self, number: usize) -> bool {
        self.keys.get(number).is_none_or(|(_, known)| *known)
    }
}

impl Checkpoint {
    /// Blocks. `None` beside it: no state has been written yet.
    pub fn open(db: Arc<dyn Database>, labour: &Labour) -> Result<(Checkpoint, Option<Restored>), DiskError> {
        let stride = match labour {
            Labour::Threads => STRIDE,
            Labour::Inline(_) => SHORT_STRIDE,
        };
        let head: Option<Head> = match db.get(HEAD)? {
            Some(record) => {
                Some(codec::decode(&record).map_err(|error| damaged(&format!("its head: {error}")))?)
            }
            None => None,
        };
        let (number, base) = head.as_ref().map_or((0, 1), |head| (head.number, head.base));
        let content = head.as_ref().map_or(Content::default(), |head| head.content);
        let checkpoint = Checkpoint { db, stride, number, base, content, unfinished: false };
        let loaded = checkpoint.load()?;
        let Some(head) = head else { return Ok((checkpoint, None)) };
        if loaded.content != head.content {
            return Err(damaged("it does not hold the records that were written to it"));
        }
        let machine = Machine::restore(head.counters, loaded.entries, loaded.leases);
        Ok((checkpoint, Some(Restored { machine, position: head.position })))
    }

    /// Plans to write what changed.
    pub fn advance(
        &mut self,
        state: Machine,
        mut dirty: Dirty,
        position: Vec<u8>,
    ) -> Result<Plan, DiskError> {
        if mutated!(CheckpointForgets) {
            dirty.keys.pop_first();
        }
        let keys = dirty.keys.into_iter().collect();
        self.plan(state, keys, dirty.leases.into_iter().collect(), position, false)
    }

    /// Plans to write a state that replaces the old one.
    pub fn replace(&mut self, state: Machine, position: Vec<u8>) -> Result<Plan, DiskError> {
        // All that was there before is swept at once.
        let keys = state.view().current.values().map(|entry| (entry.key.clone(), false)).collect();
        let leases = state.leases().table().keys().copied().collect();
        self.plan(state, keys, leases, position, true)
    }

    fn plan(
        &mut self,
        state: Machine,
        keys: Vec<(Bytes, bool)>,
        leases: Vec<LeaseId>,
        position: Vec<u8>,
        replaces: bool,
    ) -> Result<Plan, DiskError> {
        if std::mem::replace(&mut self.unfinished, true) {
            return Err(DiskError::Io("a checkpoint was begun and never finished".to_string()));
        }
        let number = self.number + 1;
        let (base, content) = if replaces { (number, Content::default()) } else { (self.base, self.content) };
        let head = Head { number, base, counters: state.counters().clone(), position, content };
        Ok(Plan { state, head, keys, leases, done: 0, phase: Phase::Write })
    }

    /// Carries out the plan. Blocks; durable when it returns.
    pub fn write(&mut self, mut plan: Plan) -> Result<(), DiskError> {
        while self.step(&mut plan)? {}
        Ok(())
    }

    /// Carries out the next part of the plan; false: that was the last. What it wrote counts when the head is switched.
    /// Blocks.
    pub fn step(&mut self, plan: &mut Plan) -> Result<bool, DiskError> {
        match &mut plan.phase {
            Phase::Write => {
                self.write_stride(plan)?;
                if plan.done == plan.names() {
                    plan.phase = Phase::Switch;
                }
            }
            Phase::Switch => {
                let mut changes = Changes::default();
                changes.put(HEAD, codec::encode(&plan.head));
                self.db.apply(changes)?;
                self.db.sync()?;
                let replaces = plan.head.base == plan.head.number;
                (self.number, self.base) = (plan.head.number, plan.head.base);
                self.content = plan.head.content;
                plan.done = 0;
                plan.phase = if replaces { Phase::SweepAll(Vec::new()) } else { Phase::Sweep };
            }
            Phase::Sweep => {
                let mut changes = Changes::default();
                while plan.done < plan.names() && changes.0.len() < SWEEP {
                    if plan.is_known(plan.done) {
                        self.superseded(&plan.name(plan.done), &mut changes)?;
                    }
                    plan.done += 1;
                }
                self.db.apply(changes)?;
                self.unfinished = plan.done < plan.names();
                return Ok(self.unfinished);
            }
            Phase::SweepAll(from) => {
                let mut changes = Changes::default();
                let base = self.base;
                self.db.scan(&from.clone(), &mut |key, _| {
                    from.clear();
                    from.extend_from_slice(key);
                    if parse(key)?.is_some_and(|place| place.number < base) {
                        changes.remove(key);
                    }
                    Ok(changes.0.len() < SWEEP)
                })?;
                self.unfinished = changes.0.len() >= SWEEP;
                self.db.apply(changes)?;
                return Ok(self.unfinished);
            }
        }
        Ok(true)
    }

    fn write_stride(&self, plan: &mut Plan) -> Result<(), DiskError> {
        let mut changes = Changes::default();
        let mut bytes = 0;
        let number = plan.head.number;
        while plan.done < plan.names() && bytes < self.stride {
            let name = plan.name(plan.done);
            let known = plan.head.base != number && plan.is_known(plan.done);
            if known && let Some(old) = self.counting(&name)? {
                plan.head.content.remove(&name, old);
            }
            let (gone, size) = match plan.keys.get(plan.done) {
                Some((key, _)) => match plan.state.view().get(key) {
                    Some(entry) => (false, put_entry(&mut changes, &name, number, &entry)),
                    None => (true, 0),
                },
                None => {
                    let lease = plan.leases[plan.done - plan.keys.len()];
                    match plan.state.leases().table().get(&lease) {
                        Some(held) => {
                            changes.put(place(&name, number, None), codec::encode(held));
                            (false, 64)
                        }
                        None => (true, 0),
                    }
                }
            };
            if gone && known {
                // Says that what older checkpoints have under the name counts no more.
                let chunk = (name[0] == b'e').then_some(0);
                changes.put(place(&name, number, chunk), Vec::new());
            } else if !gone {
                plan.head.content.add(&name, number);
            }
            bytes += size + name.len() + 64;
            plan.done += 1;
        }
        self.db.apply(changes)?;
        self.db.sync()
    }

    /// The number of the record that counts under a name.
    fn counting(&self, name: &[u8]) -> Result<Option<u64>, DiskError> {
        let mut found = None;
        let counts = self.base..=self.number;
        self.db.scan(name, &mut |key, value| {
            let Some(place) = parse(key)?.filter(|place| place.name == name) else { return Ok(false) };
            if counts.contains(&place.number) && place.chunk == 0 {
                found = (!value.is_empty()).then_some(place.number);
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// Removes what does not count under a name any more, and what says so.
    fn superseded(&self, name: &[u8], changes: &mut Changes) -> Result<(), DiskError> {
        self.db.scan(name, &mut |key, value| {
            let Some(place) = parse(key)?.filter(|place| place.name == name) else { return Ok(false) };
            if place.number < self.number || value.is_empty() {
                changes.remove(key);
            }
            Ok(true)
        })
    }

    /// Reads everything, and removes what does not count: what a crash left of a checkpoint or a sweep.
    fn load(&self) -> Result<Loaded, DiskError> {
        let mut loaded = Loaded::default();
        let mut from = Vec::new();
        let mut swept = false;
        loop {
            let mut ended = true;
            self.db.scan(&from.clone(), &mut |key, value| {
                from.clear();
                from.extend_from_slice(key);
                from.push(0);
                if let Some(place) = parse(key)? {
                    loaded.take(place, value, self.base..=self.number)?;
                }
                ended = loaded.dead.0.len() < SWEEP;
                Ok(ended)
            })?;
            if ended {
                loaded.finish_name()?;
            }
            if !loaded.dead.is_empty() {
                self.db.apply(std::mem::take(&mut loaded.dead))?;
                swept = true;
            }
            if ended {
                break;
            }
        }
        if swept {
            // A number that is given out again must not meet what is swept now.
            self.db.sync()?;
        }
        Ok(loaded)
    }
}

fn damaged(problem: &str) -> DiskError {
    DiskError::Corrupt(format!("checkpoint: {problem}"))
}

fn entry_name(key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(key.len() + 15);
    name.push(b'e');
    name.extend_from_slice(&(key.len() as u32).to_be_bytes());
    name.extend_from_slice(key);
    name
}

fn lease_name(lease: LeaseId) -> Vec<u8> {
    let mut name = vec![b'l'];
    name.extend_from_slice(&lease.to_be_bytes());
    name
}

/// The database's key of a record, or of a chunk of one.
fn place(name: &[u8], number: u64, chunk: Option<u16>) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 10);
    key.extend_from_slice(name);
    key.extend_from_slice(&number.to_be_bytes());
    if let Some(chunk) = chunk {
        key.extend_from_slice(&chunk.to_be_bytes());
    }
    key
}

struct Place<'a> {
    name: &'a [u8],
    number: u64,
    chunk: u16,
}

/// `None` for records of no checkpoint.
fn parse(key: &[u8]) -> Result<Option<Place<'_>>, DiskError> {
    let unknown = || damaged("a record is of no known kind");
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let (name, rest) = match key.first() {
        Some(b'e') => {
            let length = key.get(1..5).map(number).ok_or_else(unknown)? as usize;
            key.split_at_checked(5 + length).ok_or_else(unknown)?
        }
        Some(b'l') => key.split_at_checked(9).ok_or_else(unknown)?,
        Some(b'h' | b'o') if key.len() == 1 => return Ok(None),
        _ => return Err(unknown()),
    };
    let chunk = match (name[0], rest.len()) {
        (b'e', 10) => number(&rest[8..]) as u16,
        (b'l', 8) => 0,
        _ => return Err(unknown()),
    };
    Ok(Some(Place { name, number: number(&rest[..8]), chunk }))
}

/// Returns the bytes of the record.
fn put_entry(changes: &mut Changes, name: &[u8], number: u64, entry: &Entry) -> usize {
    let record = codec::encode(entry);
    let count = record.len().div_ceil(CHUNK).max(1) as u16;
    for (chunk, part) in record.chunks(CHUNK).enumerate() {
        let mut value = Vec::with_capacity(part.len() + 2);
        if chunk == 0 {
            value.extend_from_slice(&count.to_be_bytes());
        }
        value.extend_from_slice(part);
        changes.put(place(name, number, Some(chunk as u16)), value);
    }
    record.len()
}

/// What is read back, name by name.
#[derive(Default)]
struct Loaded {
    entries: Entries,
    leases: OrdMap<LeaseId, Lease>,
    content: Content,
    dead: Changes,
    /// The name being read, and its newest version that counts: its number, and its chunks.
    name: Vec<u8>,
    newest: Option<(u64, Vec<Vec<u8>>)>,
}

impl Loaded {
    fn take(
        &mut self,
        place: Place<'_>,
        value: &[u8],
        counts: std::ops::RangeInclusive<u64>,
    ) -> Result<(), DiskError> {
        if self.name != place.name {
            self.finish_name()?;
            self.name = place.name.to_vec();
        }
        if !counts.contains(&place.number) {
            let chunk = (place.name[0] == b'e').then_some(place.chunk);
            self.dead.remove(self::place(place.name, place.number, chunk));
            return Ok(());
        }
        match &mut self.newest {
            Some((number, chunks)) if *number == place.number => {
                if chunks.len() != place.chunk as usize {
                    return Err(damaged("an entry lacks a chunk"));
                }
                chunks.push(value.to_vec());
            }
            _ => {
                self.drop_newest();
                if place.chunk != 0 {
                    return Err(damaged("an entry lacks its first chunk"));
                }
                self.newest = Some((place.number, vec![value.to_vec()]));
            }
        }
        Ok(())
    }

    fn drop_newest(&mut self) {
        let Some((number, chunks)) = self.newest.take() else { return };
        for chunk in 0..chunks.len() as u16 {
            let chunk = (self.name[0] == b'e').then_some(chunk);
            self.dead.remove(place(&self.name, number, chunk));
        }
    }

    fn finish_name(&mut self) -> Result<(), DiskError> {
        let Some((number, chunks)) = &self.newest else { return Ok(()) };
        if chunks[0].is_empty() {
            self.drop_newest();
            return Ok(());
        }
        if self.name[0] == b'l' {
            let id = self.name[1..].iter().fold(0, |id, byte| id << 8 | u64::from(*byte));
            let lease =
                codec::decode(&chunks[0]).map_err(|error| damaged(&format!("lease {id}: {error}")))?;
            self.leases.insert(id, lease);
        } else {
            let entry = join(chunks)?;
            if self.name[5..] != entry.key {
                return Err(damaged("an entry stands under another key"));
            }
            self.entries.insert(Arc::new(entry));
        }
        self.content.add(&self.name, *number);
        self.newest = None;
        Ok(())
    }
}

fn join(chunks: &[Vec<u8>]) -> Result<Entry, DiskError> {
    let (count, first) = chunks[0].split_at_checked(2).ok_or_else(|| damaged("an entry has no length"))?;
    if chunks.len() != usize::from(u16::from_be_bytes([count[0], count[1]])) {
        return Err(damaged("an entry lacks chunks"));
    }
    let mut record = first.to_vec();
    chunks[1..].iter().for_each(|chunk| record.extend_from_slice(chunk));
    codec::decode(&record).map_err(|error| damaged(&format!("an entry: {error}")))
}
