//! What a simulation exchanges, looks at and plants. Never part of the product: all of it is behind the feature
//! `simulation`.

use std::collections::{BTreeMap, BTreeSet};

pub use crate::disk::DiskError;
pub use crate::disk::memory::{Faults, MemoryDisk};
pub use crate::environment::{Changes, Database, Environment, File, Labour, Pace, Storage, Visitor};
pub use crate::life::{Life, spawn};
pub use crate::mutant::{Mutant, plant, set_clock};
pub use crate::raft::transport;
use crate::types::{LeaseId, MemberId, Revision};

/// One entry of a server's log. The hash is of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    pub term: u64,
    pub index: u64,
    pub hash: u64,
}

/// What one server knows at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    pub member: MemberId,
    /// Consensus has not stopped.
    pub runs: bool,
    pub term: u64,
    pub leads: bool,
    pub vote_term: u64,
    /// 0: nobody.
    pub voted_for: MemberId,
    /// It is no vote any more, but the leader of the term that is followed: whoever was voted for.
    pub vote_committed: bool,
    pub voters: BTreeSet<MemberId>,
    pub learners: BTreeSet<MemberId>,
    /// No change of members is under way, as far as this server knows.
    pub settled: bool,
    /// Term and index.
    pub applied: (u64, u64),
    pub last: u64,
    pub purged: u64,
    pub revision: Revision,
    pub state_hash: u64,
    /// Time to live in milliseconds, by lease.
    pub leases: BTreeMap<LeaseId, u64>,
    /// What was asked for of the log, as far as it is there.
    pub log: Vec<Logged>,
}
