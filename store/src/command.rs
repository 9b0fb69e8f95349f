//! What the log carries. Time and ids are in the command or come from the state it meets, never from the machine that
//! applies it.

use serde::{Deserialize, Serialize};

use crate::types::{LeaseId, MemberId, Outcome, Revision, Txn};

/// Milliseconds of cluster time: it stands in the log, follows the leaders' monotonic clocks, and knows no calendar. It
/// rests while the cluster has no leader, so that an outage shortens no lease.
pub(crate) type Millis = u64;

/// The only ways in which state changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Command {
    Txn(Txn),
    GrantLease {
        ttl: Millis,
    },
    RenewLease {
        lease: LeaseId,
    },
    /// Takes the lease's keys with it, in one revision.
    RevokeLease {
        lease: LeaseId,
    },
    /// Ends those of the leases that are due at the command's own time; all their keys go in one revision.
    ExpireLeases {
        leases: Vec<LeaseId>,
    },
    /// Forgets history: nothing below the revision can be read afterwards.
    Compact {
        revision: Revision,
    },
    /// Takes a member id out of the pool for ever.
    NewMember,
}

/// The answer to one command, in the order of commands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Reply {
    Txn(Outcome),
    Lease(LeaseId),
    Done,
    NoSuchLease(LeaseId),
    Member(MemberId),
}

/// One log entry's worth of commands, proposed together and stamped by the leader.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Batch {
    pub time: Millis,
    pub commands: Vec<Command>,
}

/// A copy, for those who need the batch again.
impl From<&Batch> for Batch {
    fn from(batch: &Batch) -> Batch {
        batch.clone()
    }
}
