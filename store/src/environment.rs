//! What a server stands on: its disk, and how it waits for it. Two worlds implement these traits: the product's and the
//! simulation's; nothing above them knows which one it is in.
//!
//! ```text
//!            raft, mvcc, disk::journal, disk::checkpoint
//!   ─────────────────────────────────────────────────────────── the seam
//!   disk::real   files, fdatasync, sled        disk::memory   forgets what was not synced, in virtual time
//! ```
//!
//! **Invariants.** A write is durable when a `sync` that began after it has returned `Ok`, and not before; until then a
//! crash may keep it, lose it, or keep any part of it, in any order. A failed `sync` says nothing about what is durable,
//! so nobody tries it a second time. What was read back after a start may have been written and never synced: who builds
//! on it syncs first.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::disk::DiskError;
use crate::raft::transport::Transport;

/// What a server stands on. The product's is real; the simulation exchanges it, and nothing else.
#[derive(Clone)]
pub struct Environment {
    pub storage: Arc<dyn Storage>,
    pub transport: Arc<dyn Transport>,
    pub labour: Labour,
}

/// The niceness of work that is done aside: a third of what others get, so that it comes to its end under any load.
const ASIDE: libc::c_int = 5;

/// Where work is done that waits for the disk.
#[derive(Clone)]
pub enum Labour {
    /// On threads of its own.
    Threads,
    /// Where the caller is, on one thread, in virtual time.
    #[allow(dead_code, reason = "the simulation's")]
    Inline(Arc<dyn Pace>),
}

impl Labour {
    /// Does work that waits for the disk. An error is a panic of it, in words.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        match self {
            Labour::Threads => tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string()),
            Labour::Inline(_) => Ok(work()),
        }
    }

    /// As [`Labour::run`], for long work that nobody is kept waiting by: whatever else wants the processor goes first.
    pub async fn run_aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        if let Labour::Inline(_) = self {
            return Ok(work());
        }
        let (done, result) = tokio::sync::oneshot::channel();
        let aside = move || {
            // SAFETY: the call touches no memory. Where it is refused, the work goes on as anybody's.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, ASIDE) };
            drop(done.send(work()));
        };
        let thread = std::thread::Builder::new().name("kontiki-aside".to_string()).spawn(aside);
        thread.map_err(|error| format!("no thread for it: {error}"))?;
        result.await.map_err(|_| "the thread has died".to_string())
    }
}

/// How long the simulated disk takes.
pub trait Pace: Send + Sync {
    /// Virtual time of one sync. Asked once for each, so that a disk can become slow, or stall for as long as it likes.
    fn sync(&self) -> Duration;
}

/// One data directory. Names are relative to it, with `/` between folder and file, at most one folder deep; folders come
/// into being with their first file.
pub trait Storage: Send + Sync {
    /// Makes the directory this process' own, for as long as the storage lives; creates it where it is missing.
    /// [`DiskError::InUse`] where another process has it.
    fn lock(&self) -> Result<(), DiskError>;

    /// Names of the files in a folder (`""`: the directory itself), without the folder, in no order. Empty where there
    /// is no such folder. Folders are not listed.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// A new file of `bytes` zeros. Length and contents are durable when it returns, its name only after
    /// [`Storage::sync_names`]; a crash before that may leave the file, or a shorter one of zeros, or none. `AlreadyExists` where
    /// the name is taken. On a full disk an error of kind `StorageFull`, and no file.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn File>>;

    /// A file for reading and writing. `NotFound` where there is none.
    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;

    /// Takes the name away; who has the file open can go on reading it. Durable after [`Storage::sync_names`].
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Atomic: a crash leaves the file under one name or the other, and whatever stood at `to` is replaced whole. Durable
    /// after [`Storage::sync_names`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes the names in the folder durable, and the folder's own.
    fn sync_names(&self, folder: &str) -> io::Result<()>;

    /// The key-value store that holds the checkpoint. Its name, and whatever opening it wrote, are durable when this
    /// returns. May be called once in the storage's life.
    fn database(&self) -> Result<Box<dyn Database>, DiskError>;

    /// Space that is left for this process, where it can be known.
    fn free_bytes(&self) -> Option<u64>;

    /// Space that the directory takes, about.
    fn used_bytes(&self) -> u64;

    /// The store cannot keep its promises any more. The product ends the process here and does not return. The
    /// simulation marks the server dead and returns: the caller then gives up without acknowledging anything.
    fn die(&self, what: &str, error: &dyn Display);
}

/// An open file. Its length never changes.
#[allow(clippy::len_without_is_empty, reason = "the length is fixed, and never zero")]
pub trait File: Send + Sync {
    /// Writes all of it, or says why not; what an error left is unknown. Past the end: an error, nothing written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Fills the buffer with what was last written, durable or not. `UnexpectedEof` past the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Everything written to the file before is durable when it returns.
    fn sync(&self) -> io::Result<()>;

    fn len(&self) -> io::Result<u64>;
}

/// Changes that happen together: a key and its new value, or `None` to remove it. In order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(pub Vec<(Vec<u8>, Option<Vec<u8>>)>);

impl Changes {
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.0.push((key.into(), Some(value.into())));
    }

    pub fn remove(&mut self, key: impl Into<Vec<u8>>) {
        self.0.push((key.into(), None));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An ordered key-value store. A crash leaves what some prefix of the calls to [`Database::apply`] made, at least up to
/// the last [`Database::sync`] that returned.
pub trait Database: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError>;

    /// Visits all keys from this one on and their values, in the order of keys, until the visitor fails or says `false`.
    /// The visitor does not touch the database.
    fn scan(&self, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), DiskError>;

    /// Makes all the changes or none, also over a crash.
    fn apply(&self, changes: Changes) -> Result<(), DiskError>;

    /// Everything applied before is durable when it returns.
    fn sync(&self) -> Result<(), DiskError>;
}

/// What [`Database::scan`] shows each key and value to.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> Result<bool, DiskError> + 'a;
