//! A server's disk in the simulation: memory that forgets what was not synced, and everything a disk does wrong.
//!
//! Each operation passes a [`Drive`], which can stop the server at any of them: the power goes between two writes, not
//! only between two tasks.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use kontiki_store::simulation::{
    Changes, Database, DiskError, Faults, File, MemoryDisk, Pace, Storage, Visitor,
};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::entropy::mix;
use super::net::{HostId, Net};
use super::record::Pulse;

/// How a process came to its end while it was running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fall {
    /// The power went in the middle of an operation on the disk.
    Power,
    /// The store gave up, with these words.
    Died(String),
}

/// The disk and the switches that faults turn. Outlives the server's processes.
pub struct Drive {
    host: HostId,
    disk: Mutex<MemoryDisk>,
    net: Net,
    random: Mutex<SmallRng>,
    /// Operations until the power goes; negative: it stays.
    fuse: AtomicI64,
    /// Virtual time of a sync, least and most, in microseconds.
    sync_least: AtomicU64,
    sync_most: AtomicU64,
    fallen: Mutex<Option<Fall>>,
    pulse: Mutex<Arc<Pulse>>,
}

/// A disk of today: 0.1 to 1 ms.
const SYNC: (u64, u64) = (100, 1000);

impl Drive {
    pub fn new(host: HostId, net: Net, seed: u64) -> Arc<Drive> {
        Arc::new(Drive {
            host,
            disk: Mutex::new(MemoryDisk::new()),
            net,
            random: Mutex::new(SmallRng::seed_from_u64(mix(seed ^ 0x6469_736b ^ (host as u64) << 48))),
            fuse: AtomicI64::new(-1),
            sync_least: AtomicU64::new(SYNC.0),
            sync_most: AtomicU64::new(SYNC.1),
            fallen: Mutex::default(),
            pulse: Mutex::default(),
        })
    }

    /// The storage of the server's next process.
    pub fn mount(self: &Arc<Drive>, pulse: Arc<Pulse>) -> Arc<dyn Storage> {
        *self.pulse.lock() = pulse;
        *self.fallen.lock() = None;
        let storage = self.disk.lock().mount();
        Arc::new(Mounted { storage, drive: Arc::clone(self) })
    }

    /// How the process has ended, where it has.
    pub fn fallen(&self) -> Option<Fall> {
        self.fallen.lock().clone()
    }

    pub fn power_cut(&self) {
        let mut random = self.random.lock();
        self.disk.lock().crash(&mut |below| random.random_range(0..below.max(1)));
        self.fuse.store(-1, Ordering::Relaxed);
    }

    pub fn kill(&self) {
        self.disk.lock().kill();
        self.fuse.store(-1, Ordering::Relaxed);
    }

    /// A new, empty disk.
    pub fn wipe(&self) {
        *self.disk.lock() = MemoryDisk::new();
    }

    /// The power goes at this many operations from now.
    pub fn light_fuse(&self, operations: i64) {
        self.fuse.store(operations, Ordering::Relaxed);
    }

    pub fn set_faults(&self, faults: Faults) {
        self.disk.lock().set_faults(faults);
    }

    pub fn set_sync(&self, least: Duration, most: Duration) {
        self.sync_least.store(least.as_micros() as u64, Ordering::Relaxed);
        self.sync_most.store(most.as_micros() as u64, Ordering::Relaxed);
    }

    /// A sound disk.
    pub fn mend(&self) {
        self.set_faults(Faults::default());
        self.set_sync(Duration::from_micros(SYNC.0), Duration::from_micros(SYNC.1));
        self.fuse.store(-1, Ordering::Relaxed);
    }

    /// From here on nothing of the process is seen or heard.
    fn fall(&self, how: Fall) {
        let mut fallen = self.fallen.lock();
        if fallen.is_none() {
            *fallen = Some(how);
            self.pulse.lock().stop();
            self.net.mute(self.host);
        }
    }

    fn operation(&self) {
        if self.fuse.load(Ordering::Relaxed) < 0 {
            return;
        }
        if self.fuse.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.power_cut();
            self.fall(Fall::Power);
        }
    }
}

impl Pace for Drive {
    fn sync(&self) -> Duration {
        let least = self.sync_least.load(Ordering::Relaxed);
        let most = self.sync_most.load(Ordering::Relaxed).max(least);
        Duration::from_micros(self.random.lock().random_range(least..=most))
    }
}

struct Mounted {
    storage: Arc<dyn Storage>,
    drive: Arc<Drive>,
}

impl Storage for Mounted {
    fn lock(&self) -> Result<(), DiskError> {
        self.storage.lock()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.storage.list(folder)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn File>> {
        self.drive.operation();
        let file = self.storage.create(name, bytes)?;
        Ok(Box::new(MountedFile { file, drive: Arc::clone(&self.drive) }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let file = self.storage.open(name)?;
        Ok(Box::new(MountedFile { file, drive: Arc::clone(&self.drive) }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.drive.operation();
        self.storage.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.drive.operation();
        self.storage.rename(from, to)
    }

    fn sync_names(&self, folder: &str) -> io::Result<()> {
        self.drive.operation();
        self.storage.sync_names(folder)
    }

    fn database(&self) -> Result<Box<dyn Database>, DiskError> {
        let database = self.storage.database()?;
        Ok(Box::new(MountedDatabase { database, drive: Arc::clone(&self.drive) }))
    }

    fn free_bytes(&self) -> Option<u64> {
        self.storage.free_bytes()
    }

    fn used_bytes(&self) -> u64 {
        self.storage.used_bytes()
    }

    fn die(&self, what: &str, error: &dyn Display) {
        self.storage.die(what, error);
        self.drive.fall(Fall::Died(format!("{what}: {error}")));
    }
}

struct MountedFile {
    file: Box<dyn File>,
    drive: Arc<Drive>,
}

impl File for MountedFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.drive.operation();
        self.file.write_at(offset, bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buffer)
    }

    fn sync(&self) -> io::Result<()> {
        self.drive.operation();
        self.file.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

struct MountedDatabase {
    database: Box<dyn Database>,
    drive: Arc<Drive>,
}

impl Database for MountedDatabase {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.database.get(key)
    }

    fn scan(&self, prefix: &[u8], visit: &mut Visitor<'_>) -> Result<(), DiskError> {
        self.database.scan(prefix, visit)
    }

    fn apply(&self, changes: Changes) -> Result<(), DiskError> {
        self.drive.operation();
        self.database.apply(changes)
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.drive.operation();
        self.database.sync()
    }
}
