//! What survives: two sled databases in the data directory, each synced for real.
//!
//! ```text
//!   DIR/member       whose directory this is
//!   DIR/log/         journal: vote, purge mark, entries in chunks; identity of this member
//!   DIR/checkpoint/  state: keys, leases, counters, applied index
//! ```
//!
//! **Invariant:** this module knows bytes and indexes; neither consensus nor keys' meaning.

pub(crate) mod checkpoint;
pub(crate) mod journal;
#[cfg(any(test, feature = "simulation"))]
#[allow(dead_code, reason = "the simulation is about to use all of it")]
pub(crate) mod memory;
pub(crate) mod sync;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::config::OpenError;
use crate::types::MemberId;

/// A leaf of sled's past a quarter segment leaves for a file that sled never syncs. A leaf has about 16 entries, so that
/// chunks of this size stay at half of that. Segments are held in memory, which speaks against larger ones.
pub(crate) const CHUNK: usize = 16 << 10;
const SEGMENT: usize = 2 << 20;
const CACHE: u64 = 32 << 20;
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
}

impl From<sled::Error> for DiskError {
    fn from(error: sled::Error) -> DiskError {
        match &error {
            sled::Error::Io(io) if io.kind() == std::io::ErrorKind::WouldBlock => DiskError::InUse,
            // How sled words a lock that is held.
            sled::Error::Io(io) if io.to_string().contains("could not acquire lock") => DiskError::InUse,
            sled::Error::Io(io) if io.kind() != std::io::ErrorKind::InvalidData => {
                DiskError::Io(io.to_string())
            }
            other => DiskError::Corrupt(other.to_string()),
        }
    }
}

impl From<CodecError> for DiskError {
    fn from(error: CodecError) -> DiskError {
        DiskError::Corrupt(error.to_string())
    }
}

impl DiskError {
    pub(crate) fn at(self, dir: &Path) -> OpenError {
        let dir = dir.to_path_buf();
        match self {
            DiskError::Corrupt(problem) => OpenError::Corrupt { dir, problem },
            DiskError::Io(problem) => OpenError::Disk { dir, problem },
            DiskError::InUse => OpenError::InUse { dir },
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

const IDENTITY: &[u8] = b"identity";
const MEMBER: &str = "member";

/// Creates the file whole or not at all.
fn write_durably(dir: &Path, name: &str, contents: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let unfinished = dir.join(format!("{name}.unfinished"));
    let mut file = std::fs::File::create(&unfinished)?;
    file.write_all(contents)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, dir.join(name))?;
    std::fs::File::open(dir)?.sync_all()
}

/// An open data directory.
pub(crate) struct Disk {
    pub dir: PathBuf,
    pub log: sled::Db,
    pub state: sled::Db,
}

fn open_database(path: &Path) -> Result<sled::Db, DiskError> {
    let config = sled::Config::new()
        .path(path)
        .flush_every_ms(None)
        .cache_capacity(CACHE)
        .segment_size(SEGMENT)
        .mode(sled::Mode::HighThroughput);
    // sled answers some damage with a panic of its own.
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open()));
    match opened {
        Ok(result) => Ok(result?),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            Err(DiskError::Corrupt(said.unwrap_or_else(|| "the database cannot be read".to_string())))
        }
    }
}

impl Disk {
    /// Blocks. Creates the directory where it is missing.
    pub fn open(dir: &Path) -> Result<Disk, DiskError> {
        if !sync::installed() {
            return Err(DiskError::Io(
                "this program was linked without its own sync_file_range, so that sled would not sync: refusing to run"
                    .to_string(),
            ));
        }
        std::fs::create_dir_all(dir).map_err(|error| DiskError::Io(error.to_string()))?;
        let had_log = dir.join("log").exists();
        let had_state = dir.join("checkpoint").exists();
        let log = open_database(&dir.join("log"))?;
        let state = open_database(&dir.join("checkpoint"))?;
        let disk = Disk { dir: dir.to_path_buf(), log, state };
        if disk.identity()?.is_some() && had_log && !had_state {
            return Err(DiskError::Corrupt("the checkpoint database is missing".to_string()));
        }
        Ok(disk)
    }

    /// `None` in a directory that belongs to nobody yet. The identity stands in the database and in a file beside it:
    /// sled opens as if it were new where the beginning of its file is damaged.
    pub fn identity(&self) -> Result<Option<Identity>, DiskError> {
        let file = self.dir.join(MEMBER);
        let beside: Option<Identity> = match std::fs::read(&file) {
            Ok(record) => Some(codec::decode(&record)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(DiskError::Io(format!("{}: {error}", file.display()))),
        };
        let inside: Option<Identity> = match self.log.get(IDENTITY)? {
            Some(record) => Some(codec::decode(&record)?),
            None => None,
        };
        let used = !self.state.is_empty()
            || self.log.tree_names().iter().any(|name| name.as_ref() == journal::ENTRIES);
        match (inside, beside) {
            (Some(inside), Some(beside)) if inside == beside => Ok(Some(inside)),
            (Some(_), Some(_)) => {
                Err(DiskError::Corrupt("two records disagree on whose directory this is".to_string()))
            }
            (None, Some(_)) => Err(DiskError::Corrupt("the log database has lost what it held".to_string())),
            (_, None) if used => {
                Err(DiskError::Corrupt("the record that names the cluster is missing".to_string()))
            }
            // The power went while the directory was being claimed; nothing else was written.
            (_, None) => Ok(None),
        }
    }

    /// Blocks until it is durable.
    pub fn claim(&self, identity: &Identity) -> Result<(), DiskError> {
        let record = codec::encode(identity);
        self.log.insert(IDENTITY, record.as_slice())?;
        self.log.flush()?;
        write_durably(&self.dir, MEMBER, &record).map_err(|error| DiskError::Io(error.to_string()))
    }

    pub fn bytes(&self) -> u64 {
        [&self.log, &self.state].into_iter().map(|db| db.size_on_disk().unwrap_or(0)).sum()
    }
}

/// Free space that a process without privileges may use, and whether it is below the reserve.
pub(crate) fn short_of_space(dir: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(dir.as_os_str().as_bytes()).ok()?;
    // SAFETY: `path` is a terminated string, `stats` a struct for the kernel to fill; both outlive the call.
    let free = unsafe {
        let mut stats: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(path.as_ptr(), &mut stats) != 0 {
            return None;
        }
        stats.f_bavail as u64 * stats.f_frsize as u64
    };
    (free < RESERVE).then_some(free)
}

/// The store cannot keep its promises any more: better no answer than a false one.
pub(crate) fn die(what: &str, error: &dyn std::fmt::Display) -> ! {
    tracing::error!(
        "{what}: {error}; the process ends, since what it would acknowledge might not be durable"
    );
    eprintln!("kontiki store: {what}: {error}; ending the process");
    std::process::abort()
}
