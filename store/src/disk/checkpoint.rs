//! The state on disk: what the log below the applied index came to.
//!
//! A checkpoint writes the keys that changed since the last one, together with the applied index, in one atomic batch
//! (etcd #13766). A state that replaces everything is written beside the old one, as a new generation, before the one
//! record that names the generation is switched; so neither is ever seen half.
//!
//! ```text
//!   'h'                                → Head { generation, … }
//!   generation 'e' key chunk           → an entry, in chunks; the first tells their number
//!   generation 'l' lease               → a lease
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{CHUNK, DiskError};
use crate::codec;
use crate::lease::Lease;
use crate::mvcc::{Counters, Machine};
use crate::types::{Entry, LeaseId};

const HEAD: &[u8] = b"h";
/// Records of one batch while a whole state is written.
const STRIDE: usize = 512;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Head {
    generation: u32,
    counters: Counters,
    /// Consensus' own words: applied index and membership. Opaque here.
    position: Vec<u8>,
}

/// What has changed since the last checkpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dirty {
    pub keys: BTreeSet<Bytes>,
    pub leases: BTreeSet<LeaseId>,
}

pub(crate) struct Checkpoint {
    db: sled::Db,
    generation: u32,
}

/// A state read back, and the position it was written with.
pub(crate) struct Restored {
    pub machine: Machine,
    pub position: Vec<u8>,
}

impl Checkpoint {
    /// Blocks. `None` beside it: no state has been written yet.
    pub fn open(db: &sled::Db) -> Result<(Checkpoint, Option<Restored>), DiskError> {
        let Some(head) = db.get(HEAD)? else {
            return Ok((Checkpoint { db: db.clone(), generation: 0 }, None));
        };
        let head: Head = codec::decode(&head)?;
        let checkpoint = Checkpoint { db: db.clone(), generation: head.generation };
        checkpoint.sweep()?;
        let machine = checkpoint.load(head.counters)?;
        Ok((checkpoint, Some(Restored { machine, position: head.position })))
    }

    /// Writes what changed, atomically; durable when it returns. Blocks.
    pub fn advance(&mut self, state: &Machine, dirty: &Dirty, position: Vec<u8>) -> Result<(), DiskError> {
        let mut batch = sled::Batch::default();
        for key in &dirty.keys {
            let chunks_before = self.chunks_of(key)?;
            let chunks = match state.view().get(key) {
                Some(entry) => self.put_entry(&mut batch, self.generation, &entry),
                None => 0,
            };
            for chunk in chunks..chunks_before {
                batch.remove(entry_key(self.generation, key, chunk));
            }
        }
        for lease in &dirty.leases {
            let key = lease_key(self.generation, *lease);
            match state.leases().table().get(lease) {
                Some(held) => batch.insert(key, codec::encode(held)),
                None => batch.remove(key),
            }
        }
        let head = Head { generation: self.generation, counters: state.counters().clone(), position };
        batch.insert(HEAD, codec::encode(&head));
        self.db.apply_batch(batch)?;
        self.db.flush()?;
        Ok(())
    }

    /// Writes a state that replaces the old one; durable when it returns, the old one whole until then. Blocks.
    pub fn replace(&mut self, state: &Machine, position: Vec<u8>) -> Result<(), DiskError> {
        let generation = self.generation.wrapping_add(1);
        self.remove_generation(generation)?;
        let mut batch = sled::Batch::default();
        for (number, entry) in state.view().current.values().enumerate() {
            self.put_entry(&mut batch, generation, entry);
            if number % STRIDE == STRIDE - 1 {
                self.db.apply_batch(std::mem::take(&mut batch))?;
            }
        }
        for (id, lease) in state.leases().table() {
            batch.insert(lease_key(generation, *id), codec::encode(lease));
        }
        self.db.apply_batch(batch)?;
        self.db.flush()?;
        let head = Head { generation, counters: state.counters().clone(), position };
        self.db.insert(HEAD, codec::encode(&head))?;
        self.db.flush()?;
        self.generation = generation;
        self.sweep()
    }

    fn put_entry(&self, batch: &mut sled::Batch, generation: u32, entry: &Entry) -> u16 {
        let record = codec::encode(entry);
        let count = record.len().div_ceil(CHUNK).max(1) as u16;
        for (number, chunk) in record.chunks(CHUNK).enumerate() {
            let mut value = Vec::with_capacity(chunk.len() + 2);
            if number == 0 {
                value.extend_from_slice(&count.to_be_bytes());
            }
            value.extend_from_slice(chunk);
            batch.insert(entry_key(generation, &entry.key, number as u16), value);
        }
        count
    }

    fn chunks_of(&self, key: &[u8]) -> Result<u16, DiskError> {
        match self.db.get(entry_key(self.generation, key, 0))? {
            Some(first) => chunk_count(&first),
            None => Ok(0),
        }
    }

    fn load(&self, counters: Counters) -> Result<Machine, DiskError> {
        let mut leases = OrdMap::new();
        let mut parts: HashMap<Bytes, BTreeMap<u16, sled::IVec>> = HashMap::new();
        for item in self.db.scan_prefix(self.generation.to_be_bytes()) {
            let (key, value) = item?;
            match key.get(4) {
                Some(b'l') => {
                    let id = key.get(5..).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
                    let id = id.ok_or_else(|| DiskError::Corrupt("a lease has no number".to_string()))?;
                    leases.insert(id, codec::decode::<Lease>(&value)?);
                }
                Some(b'e') if key.len() >= 7 => {
                    let (name, chunk) = key[5..].split_at(key.len() - 7);
                    let chunk = u16::from_be_bytes([chunk[0], chunk[1]]);
                    parts.entry(Bytes::copy_from_slice(name)).or_default().insert(chunk, value);
                }
                _ => {
                    return Err(DiskError::Corrupt(
                        "a record of the checkpoint is of no known kind".to_string(),
                    ));
                }
            }
        }
        let mut entries = OrdMap::new();
        for (key, chunks) in parts {
            let entry: Entry = codec::decode(&join(&key, &chunks)?)?;
            if entry.key != key {
                return Err(DiskError::Corrupt(
                    "an entry of the checkpoint stands under another key".to_string(),
                ));
            }
            entries.insert(entry.key.clone(), Arc::new(entry));
        }
        Ok(Machine::restore(counters, entries, leases))
    }

    /// Removes every generation but the current one.
    fn sweep(&self) -> Result<(), DiskError> {
        for item in self.db.iter().keys() {
            let key = item?;
            if key.as_ref() != HEAD && !key.starts_with(&self.generation.to_be_bytes()) {
                self.db.remove(key)?;
            }
        }
        Ok(())
    }

    fn remove_generation(&self, generation: u32) -> Result<(), DiskError> {
        for item in self.db.scan_prefix(generation.to_be_bytes()).keys() {
            self.db.remove(item?)?;
        }
        Ok(())
    }
}

fn entry_key(generation: u32, key: &[u8], chunk: u16) -> Vec<u8> {
    let mut place = Vec::with_capacity(key.len() + 7);
    place.extend_from_slice(&generation.to_be_bytes());
    place.push(b'e');
    place.extend_from_slice(key);
    place.extend_from_slice(&chunk.to_be_bytes());
    place
}

fn lease_key(generation: u32, lease: LeaseId) -> Vec<u8> {
    let mut place = generation.to_be_bytes().to_vec();
    place.push(b'l');
    place.extend_from_slice(&lease.to_be_bytes());
    place
}

fn chunk_count(first: &[u8]) -> Result<u16, DiskError> {
    let count = first.get(..2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_be_bytes);
    count.ok_or_else(|| DiskError::Corrupt("an entry of the checkpoint has no chunk count".to_string()))
}

fn join(key: &[u8], chunks: &BTreeMap<u16, sled::IVec>) -> Result<Vec<u8>, DiskError> {
    let missing = || {
        DiskError::Corrupt(format!(
            "the entry {} of the checkpoint lacks chunks",
            String::from_utf8_lossy(key)
        ))
    };
    let first = chunks.get(&0).ok_or_else(missing)?;
    let count = chunk_count(first)?;
    if chunks.len() != count as usize {
        return Err(missing());
    }
    let mut record = first[2..].to_vec();
    for chunk in 1..count {
        record.extend_from_slice(chunks.get(&chunk).ok_or_else(missing)?);
    }
    Ok(record)
}
