//! What survives: the data directory.
//!
//! ```text
//!   DIR/lock         held by the process that has it open
//!   DIR/member       whose directory this is, and which log belongs to it
//!   DIR/log/         entries, vote, marks: files of checksummed frames, only ever appended to
//!   DIR/checkpoint/  state: keys, leases, counters, applied index; a sled database
//! ```
//!
//! | file | holds |
//! |---|---|
//! | here | [`Disk`]: an open directory, and who it belongs to |
//! | `journal` | the log: its face, and reading |
//! | `queue`, `writer` | what waits to be written; group commit |
//! | `segment`, `frame` | one file; one frame; torn or damaged |
//! | `replay`, `index` | opening; where entries are |
//! | `checkpoint` | the state, written incrementally |
//! | `real`, `database`, `sync` | the product's files, sled, and sled's syncs made true |
//! | `memory` | the simulation's disk |
//!
//! **Invariants.** This module knows bytes and indexes; neither consensus nor keys' meaning. Damage is refused with the way
//! out, never repaired or skipped.

pub(crate) mod checkpoint;
#[cfg(test)]
mod checkpoint_tests;
mod database;
mod frame;
mod index;
pub(crate) mod journal;
#[cfg(test)]
mod journal_crash_tests;
#[cfg(test)]
mod journal_tests;
#[cfg(any(test, feature = "simulation"))]
#[allow(dead_code, reason = "the simulation is about to use all of it")]
pub(crate) mod memory;
mod queue;
pub(crate) mod real;
mod replay;
mod segment;
pub(crate) mod sync;
#[cfg(test)]
pub(crate) mod testing;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::journal::{Contents, Journal};
use self::segment::LogId;
use crate::codec::{self, CodecError};
use crate::config::OpenError;
use crate::environment::{Database, Labour, Storage};
use crate::types::MemberId;

/// Disk space that has to be free before a proposal is let in.
const RESERVE: u64 = 64 << 20;

/// Why the disk layer cannot go on with what it found.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("{0}")]
    Corrupt(String),
    #[error("{0}")]
    Io(String),
    #[error("in use")]
    InUse,
    /// The log is a database, as this program once kept it.
    #[error("the log has an earlier layout")]
    OldFormat,
}

impl From<CodecError> for DiskError {
    fn from(error: CodecError) -> DiskError {
        DiskError::Corrupt(error.to_string())
    }
}

impl From<io::Error> for DiskError {
    fn from(error: io::Error) -> DiskError {
        DiskError::Io(error.to_string())
    }
}

impl DiskError {
    pub(crate) fn at(self, dir: &Path) -> OpenError {
        let dir = dir.to_path_buf();
        match self {
            DiskError::Corrupt(problem) => OpenError::Corrupt { dir, problem },
            DiskError::Io(problem) => OpenError::Disk { dir, problem },
            DiskError::InUse => OpenError::InUse { dir },
            DiskError::OldFormat => OpenError::OldFormat { dir },
        }
    }
}

/// Who this directory belongs to; written before anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub cluster_id: String,
    pub member: MemberId,
    /// SHA-256 of the cluster's CA certificate.
    pub authority: Vec<u8>,
}

/// The record in the file `member`. The log's id stands in every file of the log and in the checkpoint too, so that parts
/// of two directories are not taken for one.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Member {
    identity: Identity,
    log: LogId,
}

const MEMBER: &str = "member";
const UNFINISHED: &str = "member.unfinished";
/// The checkpoint's key for the log's id.
const OWNER: &[u8] = b"o";

/// An open data directory.
pub(crate) struct Disk {
    pub dir: PathBuf,
    pub storage: Arc<dyn Storage>,
    pub database: Arc<dyn Database>,
    pub labour: Labour,
    member: Mutex<Option<Member>>,
}

fn missing(what: &str) -> DiskError {
    DiskError::Corrupt(format!("{what} is missing"))
}

impl Disk {
    /// Blocks. Creates the directory where it is missing. `dir` is for messages.
    pub fn open(dir: &Path, storage: Arc<dyn Storage>, labour: Labour) -> Result<Disk, DiskError> {
        storage.lock()?;
        let numbers = segment::numbers(storage.as_ref())?;
        let member = read_member(storage.as_ref())?;
        let database: Arc<dyn Database> = Arc::from(storage.database()?);
        match &member {
            Some(member) => {
                if database.get(OWNER)?.as_deref() != Some(member.log.as_slice()) {
                    return Err(DiskError::Corrupt(
                        "the checkpoint database is missing, or belongs to another directory".to_string(),
                    ));
                }
            }
            // The power went while the directory was being claimed, or nobody ever came so far: nothing was promised.
            None => {
                if numbers.len() > 1 || !is_blank(storage.as_ref(), &numbers)? || holds(database.as_ref())? {
                    return Err(missing("the record that names the cluster"));
                }
            }
        }
        Ok(Disk { dir: dir.to_path_buf(), storage, database, labour, member: Mutex::new(member) })
    }

    /// `None` in a directory that belongs to nobody yet.
    pub fn identity(&self) -> Option<Identity> {
        self.member.lock().as_ref().map(|member| member.identity.clone())
    }

    /// Makes the directory somebody's, with an empty log. Blocks until it is durable.
    pub fn claim(&self, identity: &Identity) -> Result<(), DiskError> {
        let log: LogId = rand::random();
        for number in segment::numbers(self.storage.as_ref())? {
            self.storage.remove(&segment::name_of(number))?;
        }
        let mut owner = crate::environment::Changes::default();
        owner.put(OWNER, log);
        self.database.apply(owner)?;
        self.database.sync()?;
        journal::create(self.storage.as_ref(), &log, &self.labour)?;
        self.write_member(Member { identity: identity.clone(), log })
    }

    /// Whole or not at all.
    fn write_member(&self, member: Member) -> Result<(), DiskError> {
        let record = codec::encode(&member);
        let storage = self.storage.as_ref();
        match storage.remove(UNFINISHED) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let file = storage.create(UNFINISHED, record.len() as u64)?;
        file.write_at(0, &record)?;
        file.sync()?;
        storage.rename(UNFINISHED, MEMBER)?;
        storage.sync_names("")?;
        *self.member.lock() = Some(member);
        Ok(())
    }

    fn log(&self) -> Result<LogId, DiskError> {
        self.member
            .lock()
            .as_ref()
            .map(|member| member.log)
            .ok_or_else(|| missing("the record of the member"))
    }

    /// Opens the log of a directory that belongs to somebody, and starts its writer. Blocks.
    pub fn journal(&self) -> Result<(Journal, Contents), DiskError> {
        Journal::open(self.storage.clone(), &self.log()?, &self.labour)
    }

    pub fn bytes(&self) -> u64 {
        self.storage.used_bytes()
    }
}

fn read_member(storage: &dyn Storage) -> Result<Option<Member>, DiskError> {
    let file = match storage.open(MEMBER) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut record = vec![0; file.len()? as usize];
    file.read_at(0, &mut record)?;
    let member = codec::decode(&record);
    member.map(Some).map_err(|error| DiskError::Corrupt(format!("{MEMBER}: {error}")))
}

/// Whether no frame was ever written to the log.
fn is_blank(storage: &dyn Storage, numbers: &[u32]) -> Result<bool, DiskError> {
    let Some(number) = numbers.first() else { return Ok(true) };
    let file = storage.open(&segment::name_of(*number))?;
    let mut bytes = vec![0; file.len()? as usize];
    file.read_at(0, &mut bytes)?;
    Ok(segment::written_end(&bytes) <= segment::FRAMES)
}

/// Whether there is anything in the database but its owner's name.
fn holds(database: &dyn Database) -> Result<bool, DiskError> {
    let mut found = false;
    database.scan(&[], &mut |key, _| {
        found = key != OWNER;
        Ok(!found)
    })?;
    Ok(found)
}

/// Free space, where it is below the reserve.
pub(crate) fn short_of_space(storage: &dyn Storage) -> Option<u64> {
    storage.free_bytes().filter(|free| *free < RESERVE)
}
