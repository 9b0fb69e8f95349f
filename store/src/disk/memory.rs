//! A disk in memory that forgets what was not synced: the same for tests of this module and for the simulation.
//!
//! ```text
//!   let disk = MemoryDisk::new();
//!   let storage = disk.mount();            // one life of a server: Environment { storage, .. }
//!   …
//!   disk.crash(&mut |below| random);       // the power goes: unsynced writes are lost, kept, torn, reordered
//!   disk.kill();                           // kill -9: everything written stays, synced or not
//!   let storage = disk.mount();            // the next life
//! ```
//!
//! | | what is pending | what a crash leaves of it |
//! |---|---|---|
//! | file | each write since the last `sync` | for each sector of 512 bytes: some prefix of the writes to it, sectors independent of each other |
//! | names of a folder | each create, remove, rename since `sync_names` | a prefix of them; a file never synced may be shorter |
//! | database | each `apply` since the last `sync` | a prefix of them |
//!
//! A failed `sync` keeps what was written readable, and forgets that it has to be written: as operating systems do.
//!
//! A mounted storage, and every file opened through it, fails after `crash`, `kill` and `die`: a server that is dead
//! changes nothing. `crash` first throws a die for the whole disk, so that nothing lost, everything lost and a clean
//! prefix come up often, as they do in life.
//!
//! **Invariant:** a sector is written whole or not at all, as disks promise; nothing else is promised.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;

use super::DiskError;
use crate::environment::{Changes, Database, File, Storage, Visitor};

const SECTOR: u64 = 512;
const GONE: &str = "the server that had this disk mounted is dead";

/// A number below the given one, which is at least 1: where a crash gets its luck from.
pub type Chance<'a> = dyn FnMut(u64) -> u64 + 'a;

/// The platter: outlives every server that mounts it.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Counts mounts; a storage of an older life is dead.
    life: u64,
    locked: bool,
    /// Why the server gave up, where it did.
    died: Option<String>,
    files: BTreeMap<u64, Content>,
    next_file: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending_names: Vec<Naming>,
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    durable_records: BTreeMap<Vec<u8>, Vec<u8>>,
    pending_records: Vec<Changes>,
    faults: Faults,
    syncs: u64,
}

/// What the disk does wrong, besides crashing.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Syncs and name syncs fail.
    pub sync_fails: bool,
    /// Writes fail.
    pub write_fails: bool,
    /// Nothing new can be created.
    pub full: bool,
}

/// Bytes behind the end of either vector are zeros.
#[derive(Clone, Default)]
struct Content {
    length: u64,
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<(u64, Vec<u8>)>,
    synced: bool,
}

#[derive(Clone)]
enum Naming {
    Create { name: String, file: u64 },
    Remove { name: String },
    Rename { from: String, to: String },
}

impl Naming {
    fn folder(&self) -> &str {
        match self {
            Naming::Create { name, .. } | Naming::Remove { name } | Naming::Rename { to: name, .. } => {
                folder_of(name)
            }
        }
    }

    fn perform(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Naming::Create { name, file } => {
                names.insert(name.clone(), *file);
            }
            Naming::Remove { name } => {
                names.remove(name);
            }
            Naming::Rename { from, to } => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn put_bytes(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + bytes.len());
    if content.len() < to {
        content.resize(to, 0);
    }
    content[from..to].copy_from_slice(bytes);
}

/// How a crash treats what is pending, disk-wide.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Luck {
    AllLost,
    AllKept,
    Prefix,
    Scattered,
}

impl Luck {
    /// Of `count` things in order, how many stay.
    fn keeps(self, count: usize, chance: &mut Chance<'_>) -> usize {
        match self {
            Luck::AllLost => 0,
            Luck::AllKept => count,
            Luck::Prefix | Luck::Scattered => chance(count as u64 + 1) as usize,
        }
    }
}

impl Content {
    fn crash(&mut self, luck: Luck, chance: &mut Chance<'_>) {
        let pending = std::mem::take(&mut self.pending);
        let whole = luck.keeps(pending.len(), chance);
        let mut sectors: BTreeMap<u64, Vec<(u64, &[u8])>> = BTreeMap::new();
        for (number, (offset, bytes)) in pending.iter().enumerate() {
            // A prefix ends within a write, at the edge of a sector.
            let cut = match luck {
                Luck::Prefix if number == whole => chance(bytes.len() as u64 / SECTOR + 1) * SECTOR,
                Luck::Prefix if number > whole => 0,
                _ => u64::MAX,
            };
            let mut at = 0;
            while at < bytes.len() as u64 {
                let place = offset + at;
                let length = (SECTOR - place % SECTOR).min(bytes.len() as u64 - at);
                if at >= cut {
                    break;
                }
                let part = &bytes[at as usize..(at + length) as usize];
                sectors.entry(place / SECTOR).or_default().push((place, part));
                at += length;
            }
        }
        for parts in sectors.values() {
            let kept = match luck {
                Luck::AllLost => 0,
                Luck::AllKept | Luck::Prefix => parts.len(),
                Luck::Scattered => chance(parts.len() as u64 + 1) as usize,
            };
            for (place, part) in &parts[..kept] {
                put_bytes(&mut self.durable, *place, part);
            }
        }
        self.now = self.durable.clone();
    }
}

impl State {
    fn alive(&self, life: u64) -> io::Result<()> {
        if self.life != life || self.died.is_some() {
            return Err(io::Error::other(GONE));
        }
        Ok(())
    }

    fn sync_fault(&self) -> io::Result<()> {
        if self.faults.sync_fails {
            return Err(io::Error::other("a simulated failure to sync"));
        }
        Ok(())
    }

    fn name(&mut self, naming: Naming) {
        naming.perform(&mut self.names);
        self.pending_names.push(naming);
    }

    fn end_life(&mut self) {
        self.life += 1;
        self.locked = false;
        self.died = None;
    }

    fn crash(&mut self, chance: &mut Chance<'_>) {
        let luck = match chance(8) {
            0 => Luck::AllLost,
            1 => Luck::AllKept,
            2 | 3 => Luck::Prefix,
            _ => Luck::Scattered,
        };
        let pending = std::mem::take(&mut self.pending_names);
        let folders: BTreeSet<String> = pending.iter().map(|naming| naming.folder().to_string()).collect();
        for folder in folders {
            let of_folder: Vec<&Naming> = pending.iter().filter(|naming| naming.folder() == folder).collect();
            let kept = luck.keeps(of_folder.len(), chance);
            for naming in &of_folder[..kept] {
                naming.perform(&mut self.durable_names);
                if let Naming::Create { file, .. } = naming
                    && let Some(content) = self.files.get_mut(file)
                    && !content.synced
                    && luck == Luck::Scattered
                    && chance(4) == 0
                {
                    content.length = chance(content.length + 1);
                    content.pending.clear();
                }
            }
        }
        self.names = self.durable_names.clone();
        let held: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|file, _| held.contains(file));
        for content in self.files.values_mut() {
            content.crash(luck, chance);
        }
        let pending = std::mem::take(&mut self.pending_records);
        let kept = luck.keeps(pending.len(), chance);
        for changes in &pending[..kept] {
            change(&mut self.durable_records, changes);
        }
        self.records = self.durable_records.clone();
        self.end_life();
    }
}

fn change(records: &mut BTreeMap<Vec<u8>, Vec<u8>>, changes: &Changes) {
    for (key, value) in &changes.0 {
        match value {
            Some(value) => records.insert(key.clone(), value.clone()),
            None => records.remove(key),
        };
    }
}

impl MemoryDisk {
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    /// The storage of a server's next life.
    pub fn mount(&self) -> Arc<dyn Storage> {
        let mut state = self.state.lock();
        state.end_life();
        Arc::new(MemoryStorage { disk: self.clone(), life: state.life })
    }

    /// The power goes. The mounted storage is dead afterwards.
    pub fn crash(&self, chance: &mut Chance<'_>) {
        self.state.lock().crash(chance);
    }

    /// The process is killed: what it had written stays in the operating system, synced or not.
    pub fn kill(&self) {
        self.state.lock().end_life();
    }

    /// Why the server of this life gave up, where it did.
    pub fn died(&self) -> Option<String> {
        self.state.lock().died.clone()
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Syncs of files and of the database so far.
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    pub fn names(&self) -> Vec<String> {
        self.state.lock().names.keys().cloned().collect()
    }

    /// The whole file as a reader sees it; for tests that damage it.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let content = state.files.get(state.names.get(name)?)?;
        let mut bytes = content.now.clone();
        bytes.resize(content.length as usize, 0);
        Some(bytes)
    }

    /// Replaces a file, or removes it, durably and behind every server's back.
    pub fn tamper(&self, name: &str, bytes: Option<Vec<u8>>) {
        let mut state = self.state.lock();
        let Some(bytes) = bytes else {
            state.names.remove(name);
            state.durable_names.remove(name);
            return;
        };
        let file = state.next_file;
        state.next_file += 1;
        let content = Content {
            length: bytes.len() as u64,
            now: bytes.clone(),
            durable: bytes,
            pending: Vec::new(),
            synced: true,
        };
        state.files.insert(file, content);
        state.names.insert(name.to_string(), file);
        state.durable_names.insert(name.to_string(), file);
    }

    /// A disk of its own with what this one would show after `kill`, all of it durable.
    pub fn copy(&self) -> MemoryDisk {
        let state = self.state.lock();
        let mut copy = State { next_file: state.next_file, ..State::default() };
        copy.names = state.names.clone();
        copy.durable_names = state.names.clone();
        copy.records = state.records.clone();
        copy.durable_records = state.records.clone();
        copy.files = state.files.clone();
        for content in copy.files.values_mut() {
            content.durable = content.now.clone();
            content.pending.clear();
        }
        MemoryDisk { state: Arc::new(Mutex::new(copy)) }
    }

    /// Everything in the database as a reader sees it, and a way to damage it.
    pub fn tamper_records(&self, tamper: impl FnOnce(&mut BTreeMap<Vec<u8>, Vec<u8>>)) {
        let mut state = self.state.lock();
        tamper(&mut state.records);
        state.durable_records = state.records.clone();
        state.pending_records.clear();
    }
}

/// One life's view of the disk.
struct MemoryStorage {
    disk: MemoryDisk,
    life: u64,
}

impl MemoryStorage {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state.lock();
        state.alive(self.life)?;
        act(&mut state)
    }

    fn file(&self, file: u64) -> Box<dyn File> {
        Box::new(MemoryFile { disk: self.disk.clone(), life: self.life, file })
    }
}

fn absent(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no {name}"))
}

impl Storage for MemoryStorage {
    fn lock(&self) -> Result<(), DiskError> {
        let mut state = self.disk.state.lock();
        state.alive(self.life).map_err(|error| DiskError::Io(error.to_string()))?;
        if std::mem::replace(&mut state.locked, true) {
            return Err(DiskError::InUse);
        }
        Ok(())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.with(|state| {
            let within = state.names.keys().filter(|name| folder_of(name) == folder);
            Ok(within.map(|name| name.rsplit('/').next().unwrap_or(name).to_string()).collect())
        })
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn File>> {
        let file = self.with(|state| {
            if state.names.contains_key(name) {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("there is a {name}")));
            }
            if state.faults.full {
                return Err(io::Error::new(io::ErrorKind::StorageFull, "the simulated disk is full"));
            }
            let file = state.next_file;
            state.next_file += 1;
            state.files.insert(file, Content { length: bytes, ..Content::default() });
            state.name(Naming::Create { name: name.to_string(), file });
            Ok(file)
        })?;
        Ok(self.file(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let file = self.with(|state| state.names.get(name).copied().ok_or_else(|| absent(name)))?;
        Ok(self.file(file))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.with(|state| {
            if !state.names.contains_key(name) {
                return Err(absent(name));
            }
            state.name(Naming::Remove { name: name.to_string() });
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.with(|state| {
            if !state.names.contains_key(from) {
                return Err(absent(from));
            }
            state.name(Naming::Rename { from: from.to_string(), to: to.to_string() });
            Ok(())
        })
    }

    fn sync_names(&self, folder: &str) -> io::Result<()> {
        self.with(|state| {
            state.sync_fault()?;
            let pending = std::mem::take(&mut state.pending_names);
            let (durable, rest): (Vec<Naming>, Vec<Naming>) =
                pending.into_iter().partition(|naming| naming.folder() == folder);
            for naming in durable {
                naming.perform(&mut state.durable_names);
            }
            state.pending_names = rest;
            // What no name leads to any more, now or after a crash, takes no memory.
            if state.pending_names.is_empty() {
                let held: BTreeSet<u64> =
                    state.names.values().chain(state.durable_names.values()).copied().collect();
                state.files.retain(|file, _| held.contains(file));
            }
            Ok(())
        })
    }

    fn database(&self) -> Result<Box<dyn Database>, DiskError> {
        Ok(Box::new(MemoryDatabase { disk: self.disk.clone(), life: self.life }))
    }

    fn free_bytes(&self) -> Option<u64> {
        if self.disk.state.lock().faults.full { Some(0) } else { Some(u64::MAX) }
    }

    fn used_bytes(&self) -> u64 {
        let state = self.disk.state.lock();
        let files = state.names.values().filter_map(|file| state.files.get(file));
        let records = state.records.iter().map(|(key, value)| (key.len() + value.len()) as u64);
        files.map(|content| content.length).sum::<u64>() + records.sum::<u64>()
    }

    fn die(&self, what: &str, error: &dyn Display) {
        let mut state = self.disk.state.lock();
        if state.life == self.life && state.died.is_none() {
            state.died = Some(format!("{what}: {error}"));
        }
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    life: u64,
    file: u64,
}

impl MemoryFile {
    fn with<T>(&self, act: impl FnOnce(&mut State, &mut Content) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state.lock();
        state.alive(self.life)?;
        // A removed file can be read on, as long as a crash could bring its name back; nobody needs it longer.
        let mut content = state.files.remove(&self.file).ok_or_else(|| absent("such file any more"))?;
        let done = act(&mut state, &mut content);
        state.files.insert(self.file, content);
        done
    }
}

impl File for MemoryFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|state, content| {
            if state.faults.write_fails {
                return Err(io::Error::other("a simulated failure to write"));
            }
            if offset + bytes.len() as u64 > content.length {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a write past the end of the file"));
            }
            put_bytes(&mut content.now, offset, bytes);
            content.pending.push((offset, bytes.to_vec()));
            Ok(())
        })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.with(|_, content| {
            if offset + buffer.len() as u64 > content.length {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a read past the end of the file"));
            }
            let from = (offset as usize).min(content.now.len());
            let there = buffer.len().min(content.now.len() - from);
            buffer[..there].copy_from_slice(&content.now[from..from + there]);
            buffer[there..].fill(0);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state, content| {
            if let Err(error) = state.sync_fault() {
                // The cache forgets that it holds what the disk does not: a later sync will not write it.
                content.pending.clear();
                return Err(error);
            }
            state.syncs += 1;
            for (offset, bytes) in content.pending.drain(..) {
                put_bytes(&mut content.durable, offset, &bytes);
            }
            content.synced = true;
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|_, content| Ok(content.length))
    }
}

struct MemoryDatabase {
    disk: MemoryDisk,
    life: u64,
}

impl MemoryDatabase {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> Result<T, DiskError>) -> Result<T, DiskError> {
        let mut state = self.disk.state.lock();
        state.alive(self.life).map_err(|error| DiskError::Io(error.to_string()))?;
        act(&mut state)
    }
}

impl Database for MemoryDatabase {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.with(|state| Ok(state.records.get(key).cloned()))
    }

    fn scan(&self, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), DiskError> {
        self.with(|state| {
            let from = (Bound::Included(from.to_vec()), Bound::Unbounded);
            for (key, value) in state.records.range(from) {
                if !visit(key, value)? {
                    break;
                }
            }
            Ok(())
        })
    }

    fn apply(&self, changes: Changes) -> Result<(), DiskError> {
        self.with(|state| {
            if state.faults.write_fails {
                return Err(DiskError::Io("a simulated failure to write".to_string()));
            }
            change(&mut state.records, &changes);
            state.pending_records.push(changes);
            Ok(())
        })
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.with(|state| {
            state.sync_fault().map_err(|error| DiskError::Io(error.to_string()))?;
            state.syncs += 1;
            for changes in std::mem::take(&mut state.pending_records) {
                change(&mut state.durable_records, &changes);
            }
            Ok(())
        })
    }
}
