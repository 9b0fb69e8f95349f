//! A new cluster out of what is left: a backup, or one survivor's directory. For servers that are stopped.
//!
//! ```text
//!   restore:  backup file ─▶ DIR.unfinished ─── renamed ──▶ DIR          (which was empty, or not there)
//!   recover:  DIR, locked ─▶ DIR.unfinished ─ exchanged ──▶ DIR, and the old one ─▶ DIR.before-recovery
//! ```
//!
//! Either way the result is a cluster of one server, under a new cluster id and a new member id, so that no server of the
//! old cluster can speak to it. The revision, and the numbers of leases and members, go forward by a large step: whatever
//! the old cluster gave out and is forgotten here is not given out again, nobody's old revision is one that can be watched
//! or listed from (etcd #16028, kubernetes#118501), and every client lists again. Leases begin their time anew.
//!
//! **Invariants.** The directory changes in one rename, when everything in it is durable. An old directory is never
//! written over, and no other process gets hold of it between the look at it and the exchange.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::backup::{BackupError, BackupSummary, State, read_state};
use crate::config::OpenError;
use crate::disk::{DiskError, Identity};
use crate::lease::Lease;
use crate::mvcc::Machine;
use crate::raft::offline::{self, Left};
use crate::types::{MemberId, Revision};

/// How far the revision goes forward: more than the old cluster can have written since the backup was taken.
pub const REVISION_STEP: Revision = 1_000_000_000;
/// The same for the ids of members, which people read.
const MEMBER_STEP: MemberId = 100;

/// The new cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anew {
    pub cluster_id: String,
    pub member: MemberId,
    pub revision: Revision,
}

/// What a survivor's directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub cluster_id: String,
    pub member: MemberId,
    /// Ids and peer addresses, as this server last knew them.
    pub members: Vec<(MemberId, String)>,
    /// Of the last entry in the log.
    pub last_index: u64,
    pub last_term: u64,
    /// The newest term this server has voted in.
    pub term: u64,
    /// With the whole log applied, whether it was known to be committed or not.
    pub revision: Revision,
    pub entries: u64,
}

/// Why no new cluster was made; nothing was changed. The message says the way out.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(
        "{dir} is not empty; restore to an empty directory: choose another --data-dir, or move this one aside"
    )]
    NotEmpty { dir: PathBuf },
    #[error("there is no server's data in {dir}; give the --data-dir of a server of the lost cluster")]
    NothingThere { dir: PathBuf },
    #[error("{dir} is in use: stop the server that runs on it first")]
    InUse { dir: PathBuf },
    #[error(
        "{dir} is damaged ({problem}) and is not repaired; recover from another server's directory, or restore a backup"
    )]
    Damaged { dir: PathBuf, problem: String },
    #[error("{path}: {problem}")]
    Io { path: PathBuf, problem: String },
    #[error(transparent)]
    Authority(OpenError),
}

fn failed(path: &Path) -> impl Fn(io::Error) -> RecoveryError {
    move |error| RecoveryError::Io { path: path.to_path_buf(), problem: error.to_string() }
}

fn unusable(dir: &Path) -> impl Fn(DiskError) -> RecoveryError {
    move |error| {
        let dir = dir.to_path_buf();
        match error {
            DiskError::InUse => RecoveryError::InUse { dir },
            DiskError::Corrupt(problem) => RecoveryError::Damaged { dir, problem },
            error @ DiskError::OldFormat => RecoveryError::Damaged { dir, problem: error.to_string() },
            DiskError::Io(problem) => RecoveryError::Io { path: dir, problem },
        }
    }
}

/// The state as a new cluster begins with it, and the id of its one member.
pub(crate) fn anew(state: State) -> (Machine, MemberId) {
    let State { mut counters, entries, leases } = state;
    counters.revision = counters.revision.saturating_add(REVISION_STEP);
    counters.next_lease = counters.next_lease.saturating_add(REVISION_STEP);
    let member = counters.next_member.saturating_add(MEMBER_STEP);
    counters.next_member = member + 1;
    let now = counters.time;
    let leases = leases.into_iter().map(|(id, Lease { ttl, .. })| {
        let deadline = now.saturating_add(ttl);
        (id, Lease { ttl, deadline })
    });
    (Machine::restore(counters, entries, leases.collect()), member)
}

/// Writes the new cluster into a directory beside, and returns when it is durable.
fn write(dir: &Path, state: State, authority: Vec<u8>) -> Result<(PathBuf, Anew), RecoveryError> {
    let unfinished = beside(dir, ".unfinished");
    match std::fs::remove_dir_all(&unfinished) {
        // What an earlier attempt left.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&unfinished)(error)),
    }
    let (machine, member) = anew(state);
    let cluster_id = uuid::Uuid::new_v4().to_string();
    let identity = Identity { cluster_id: cluster_id.clone(), member, authority };
    offline::begin(&unfinished, &identity, &machine).map_err(unusable(&unfinished))?;
    sync_names(&unfinished)?;
    Ok((unfinished, Anew { cluster_id, member, revision: machine.counters().revision }))
}

/// Makes the empty directory a new cluster of one server that holds what the backup holds. Blocks. The other servers
/// join it with empty directories.
///
/// # Errors
/// The backup is not whole, the directory is not empty, or the disk fails. Nothing was changed then.
pub fn restore_backup(
    from: impl io::Read,
    dir: &Path,
    ca_pem: &str,
) -> Result<(BackupSummary, Anew), RecoveryError> {
    let authority = crate::raft::authority(ca_pem).map_err(RecoveryError::Authority)?;
    match std::fs::read_dir(dir) {
        Ok(mut names) => {
            if names.next().is_some() {
                return Err(RecoveryError::NotEmpty { dir: dir.to_path_buf() });
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(dir)(error)),
    }
    let (summary, state) = read_state(from)?;
    let parent = parent(dir);
    std::fs::create_dir_all(&parent).map_err(failed(&parent))?;
    let (unfinished, anew) = write(dir, state, authority)?;
    // Replaces an empty directory, and nothing else.
    match std::fs::rename(&unfinished, dir) {
        Ok(()) => {}
        Err(error)
            if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) =>
        {
            return Err(RecoveryError::NotEmpty { dir: dir.to_path_buf() });
        }
        Err(error) => return Err(failed(dir)(error)),
    }
    sync_names(&parent)?;
    Ok((summary, anew))
}

/// One server's directory after the others are lost for good. Held against every other process until it is dropped.
pub struct Survivor {
    dir: PathBuf,
    left: Left,
}

impl Survivor {
    /// Blocks.
    ///
    /// # Errors
    /// There is no such directory, it is in use, or damaged.
    pub fn open(dir: &Path) -> Result<Survivor, RecoveryError> {
        if !dir.is_dir() {
            return Err(RecoveryError::NothingThere { dir: dir.to_path_buf() });
        }
        let left = offline::read(dir).map_err(unusable(dir))?;
        let left = left.ok_or_else(|| RecoveryError::NothingThere { dir: dir.to_path_buf() })?;
        Ok(Survivor { dir: dir.to_path_buf(), left })
    }

    pub fn found(&self) -> &Found {
        &self.left.found
    }

    /// Makes the directory a new cluster of one server, with everything in this server's log; what others had and this
    /// one had not is lost. The old directory is kept, under the name that is returned. Blocks.
    ///
    /// # Errors
    /// The disk fails. The directory is then what it was.
    pub fn recover(self) -> Result<(Anew, PathBuf), RecoveryError> {
        let Survivor { dir, left } = self;
        let (unfinished, anew) = write(&dir, left.state, left.identity.authority.clone())?;
        exchange(&unfinished, &dir).map_err(failed(&dir))?;
        let mut aside = beside(&dir, ".before-recovery");
        for number in 2.. {
            if !aside.exists() {
                break;
            }
            aside = beside(&dir, &format!(".before-recovery-{number}"));
        }
        std::fs::rename(&unfinished, &aside).map_err(failed(&unfinished))?;
        sync_names(&parent(&dir))?;
        drop(left.lock);
        Ok((anew, aside))
    }
}

fn parent(dir: &Path) -> PathBuf {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_path_buf()
}

fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    parent(dir).join(name)
}

fn sync_names(dir: &Path) -> Result<(), RecoveryError> {
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed(dir))
}

/// Swaps two directories in one step, so that there is no moment in which neither is there: a server that started then
/// would found a cluster of its own.
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let (one, other) =
        (CString::new(one.as_os_str().as_bytes())?, CString::new(other.as_os_str().as_bytes())?);
    // SAFETY: both are terminated strings that outlive the call.
    let result = unsafe {
        libc::renameat2(libc::AT_FDCWD, one.as_ptr(), libc::AT_FDCWD, other.as_ptr(), libc::RENAME_EXCHANGE)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
