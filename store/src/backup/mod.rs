//! Backups: the state at one revision, as a stream of bytes that proves itself whole.
//!
//! ```text
//!   mark "KONTIKI-BACKUP\n\0" │ layout u32 │ frame │ frame │ … │ frame of the trailer │ end
//!
//!   frame = length u32 │ crc32 of number, length and body u32 │ body        (little endian)
//!   body  = a codec record: Head, then Entries … in key order, then Leases …, then Trailer
//! ```
//!
//! A frame's number is not in the file: it is the frame's place, so that no frame can be missing, doubled or moved. The
//! trailer counts what came before it and holds the SHA-256 of every byte before it.
//!
//! | file | holds |
//! |---|---|
//! | here | what a backup says of itself, and why one is not taken |
//! | `write` | a state as frames, one at a time |
//! | `read` | frames as they come, in pieces of any size, checked |
//!
//! **Invariants.** Writing and checking hold one frame in memory, whatever the state's size. A backup is used whole or not
//! at all: a changed bit, a missing end, a byte too many are each an error that names the place.

mod read;
#[cfg(test)]
mod tests;
mod write;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use crate::lease::Lease;
use crate::mvcc::{Counters, Entries, Machine};
use crate::types::{Entry, LeaseId, Revision};
pub use read::BackupCheck;
pub(crate) use read::read_state;
pub use read::verify_backup;
pub use write::Backup;

const MARK: &[u8; 16] = b"KONTIKI-BACKUP\n\0";
/// The layout this program writes, and the only one it reads.
const LAYOUT: u32 = 1;
const PREAMBLE: usize = MARK.len() + 4;
const FRAME_HEADER: usize = 8;
/// Bytes of one frame, about; a single entry larger than this has a frame of its own.
const FRAME: usize = 512 << 10;
/// No frame is larger: a length above this is damage, and is not allocated.
const FRAME_LIMIT: usize = 64 << 20;

/// A state and nothing else: no history, no member.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub counters: Counters,
    pub entries: Entries,
    pub leases: OrdMap<LeaseId, Lease>,
}

impl State {
    pub fn of(machine: &Machine) -> State {
        State {
            counters: machine.counters().clone(),
            entries: machine.view().current.clone(),
            leases: machine.leases().table().clone(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Part {
    Head { cluster_id: String, counters: Counters },
    Entries(Vec<Arc<Entry>>),
    Leases(Vec<(LeaseId, Lease)>),
    Trailer { revision: Revision, entries: u64, leases: u64, digest: [u8; 32] },
}

/// What a whole backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupSummary {
    /// The cluster it was taken from.
    pub cluster_id: String,
    pub revision: Revision,
    pub entries: u64,
    pub leases: u64,
    pub bytes: u64,
}

/// Why a backup is not used; the message says the way out.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(
        "it is not a backup: it does not begin with a backup's mark; give a file that `kontiki cluster backup` wrote"
    )]
    Foreign,
    #[error(
        "its layout is version {0}, this program knows {LAYOUT}; \
         use the kontiki that wrote it, or, if that is this one, take another copy: this one is damaged"
    )]
    Layout(u32),
    #[error(
        "it ends after {0} bytes, before its trailer: it is not whole; take another copy, or another backup"
    )]
    Cut(u64),
    #[error("it is damaged at byte {at} ({problem}) and is not used; take another copy, or another backup")]
    Damaged { at: u64, problem: String },
    #[error("it cannot be read")]
    Io(#[from] std::io::Error),
}
